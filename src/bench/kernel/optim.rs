use crate::Result;
use crate::bench::{Case, Level, noise, worst};
use crate::ops::optim::{self, Adam, Lars, Sgd, Slots};
use crate::reference::optim::{Param, clip};
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};
use std::cell::Cell;
use std::rc::Rc;

/// Parameters and the elements of each: about ResNet-20, ViT-Tiny and ViT-Small.
const SHAPES: &[(usize, usize)] = &[(64, 4160), (152, 36_800), (152, 147_392)];
const SGD: Sgd = Sgd { lr: 0.1, momentum: 0.9, nesterov: false, decay: 1e-4 };
const LARS: Lars = Lars { lr: 0.1, momentum: 0.9, decay: 1e-4, trust: 1e-3 };
const ADAM: Adam = Adam { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.05, decoupled: true, t: 1 };

/// A step on arenas of its own, checked on one parameter. Each run is one more step, so both sides count.
fn step(
    runtime: &Runtime,
    name: &str,
    (n_slots, each): (usize, usize),
    bytes: usize,
    run: impl Fn(&[Tensor; 4], &Slots, u32) -> Result<()> + 'static,
    reference: impl Fn(&mut Param, &[f64], u32) + 'static,
) -> Result<Case> {
    let slots = Slots::new(runtime, &vec![(each, true); n_slots])?;
    let n = slots.len();
    let ((w, host_w), (d, host_d)) = (noise(runtime, &[n], 1)?, noise(runtime, &[n], 2)?);
    let zeros = || Tensor::zeros(runtime, &[n], DType::F32);
    let arenas = [w, d, zeros()?, zeros()?];
    let at = slots.offsets()[n_slots / 2];
    let (w, d) = (host_w.data[at..at + each].to_vec(), host_d.data[at..at + each].to_vec());
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    let case = Case::new(
        format!("optim/{name}"),
        format!("{n_slots}x{each}"),
        move || {
            count.set(count.get() + 1);
            run(&arenas, &slots, count.get())?;
            Ok(arenas[0].clone())
        },
        move |out| {
            let mut want = Param::new(w.clone(), true);
            (1..=counted.get()).for_each(|t| reference(&mut want, &d, t));
            let got = out.to_vec::<f32>()?;
            Ok(worst(got[at..at + each].iter().zip(&want.w).map(|(g, w)| f64::from(*g) - w)))
        },
    );
    Ok(case.cost(8 * n as u64, (bytes * n) as u64).tolerance(1e-5))
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = match level {
        Level::Tiny => &[(5, 301)],
        Level::Quick => &SHAPES[..1],
        Level::Full | Level::Stress => SHAPES,
    };
    let mut cases = Vec::new();
    for &shape in shapes {
        cases.push(step(
            runtime,
            "sgd",
            shape,
            20,
            |[w, d, m, _], slots, _| optim::sgd(w, d, m, slots, None, &SGD),
            |param, d, _| param.sgd(d, &SGD),
        )?);
        cases.push(step(
            runtime,
            "lars",
            shape,
            28,
            |[w, d, m, _], slots, _| optim::lars(w, d, m, slots, None, &LARS),
            |param, d, _| param.lars(d, &LARS),
        )?);
        cases.push(step(
            runtime,
            "adamw",
            shape,
            28,
            |[w, d, m, v], slots, t| optim::adam(w, d, m, v, slots, None, &Adam { t, ..ADAM }),
            |param, d, t| param.adam(d, &Adam { t, ..ADAM }),
        )?);
        let (n_slots, each) = shape;
        let slots = Slots::new(runtime, &vec![(each, true); n_slots])?;
        let n = slots.len();
        let (d, host) = noise(runtime, &[n], 3)?;
        let want = clip([host.data.as_slice()], 1.0).0;
        cases.push(
            Case::new(
                "optim/clip",
                format!("{n_slots}x{each}"),
                move || Ok(optim::clip(&[(&d, &slots)], 1.0)?.0),
                move |out| Ok(worst([f64::from(out.item::<f32>()?) / want - 1.0])),
            )
            .cost(2 * n as u64, 4 * n as u64)
            .tolerance(1e-5),
        );
        let arena = Tensor::zeros(runtime, &[n], DType::F32)?;
        let (part, host) = noise(runtime, &[each], 4)?;
        let starts: Vec<usize> = (0..n_slots).map(|slot| slot * (n / n_slots)).collect();
        cases.push(
            Case::new(
                "optim/collect",
                format!("{n_slots}x{each}"),
                move || {
                    let parts: Vec<_> = starts.iter().map(|at| (&part, *at)).collect();
                    optim::collect(&arena, &parts, false)?;
                    Ok(arena.clone())
                },
                move |out| {
                    let got = out.to_vec::<f32>()?;
                    Ok(worst(
                        got.chunks(n / n_slots)
                            .flat_map(|slot| slot.iter().zip(&host.data))
                            .map(|(g, w)| f64::from(*g) - w),
                    ))
                },
            )
            .cost(0, 8 * n as u64)
            .tolerance(0.0),
        );
    }
    Ok(cases)
}
