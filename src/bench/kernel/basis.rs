use crate::Result;
use crate::bench::{Case, Level, noise, source, spot, worst};
use crate::ops::basis::{Law, Mixture, Slot, Tag};
use crate::reference::basis as reference;
use crate::runtime::Runtime;

/// Layers, width, rank and bases: the two products of each layer's MLP, which is four times as wide, are adapted.
struct Shape {
    layers: usize,
    width: usize,
    rank: usize,
    k: usize,
}

impl Shape {
    /// Factors `[width, rank]` and `[rank, 4 width]`, and the other way round.
    fn slots(&self) -> Vec<Slot> {
        let (small, large) = (self.width * self.rank, 4 * self.width * self.rank);
        let mut slots: Vec<Slot> = Vec::new();
        for layer in 0..2 * self.layers {
            let lens = if layer % 2 == 0 { [small, large] } else { [large, small] };
            for (len, tag) in lens.into_iter().zip([Tag::A, Tag::B]) {
                let out = slots.last().map_or(0, |slot| slot.out + slot.len);
                let first = slots.len() * self.k;
                slots.push(Slot { len, out, first, k: self.k, layer: layer as u32, tag, scale: 1.0, fixed: 0.0 });
            }
        }
        slots
    }
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    // One layer of ViT-B, all of them, and GPT-2 Large.
    let layer = Shape { layers: 1, width: 768, rank: 4, k: 1024 };
    let shapes = match level {
        Level::Tiny => vec![Shape { layers: 1, width: 12, rank: 2, k: 19 }],
        Level::Quick => vec![layer],
        Level::Full => vec![layer, Shape { layers: 12, width: 768, rank: 4, k: 1024 }],
        Level::Stress => vec![
            layer,
            Shape { layers: 12, width: 768, rank: 4, k: 1024 },
            Shape { layers: 36, width: 1280, rank: 8, k: 500 },
        ],
    };
    let mut cases = Vec::new();
    for shape in &shapes {
        for law in Law::ALL {
            cases.extend(passes(runtime, law, shape)?);
        }
    }
    cases.extend(source::cases(runtime, level)?);
    Ok(cases)
}

/// The two passes of a training step.
fn passes(runtime: &Runtime, law: Law, shape: &Shape) -> Result<[Case; 2]> {
    const SEED: u64 = 1 << 40 | 77;
    let slots = shape.slots();
    let last = slots[slots.len() - 1];
    let (n, n_c) = (last.out + last.len, last.first + last.k);
    let mixture = Mixture::new(runtime, law, SEED, &slots)?;
    let ((c, host_c), (d_out, host_d)) = (noise(runtime, &[n_c], 1)?, noise(runtime, &[n], 2)?);
    let (out, d_c) = (noise(runtime, &[n], 3)?.0, noise(runtime, &[n_c], 4)?.0);
    let text = format!("{} layers {}x{}, k {}", shape.layers, shape.width, shape.rank, shape.k);
    let (draws, bytes) = (mixture.draws(), 4 * (n + n_c) as u64);
    let with = |case: Case| case.variant(law.to_string()).cost(2 * draws, bytes).items(draws, "draws").tolerance(1e-5);
    let forming = mixture.clone();
    let form = Case::new(
        "basis/form",
        text.clone(),
        move || forming.form(&c, &out).map(|()| out.clone()),
        move |out| {
            let of = |at: usize| {
                let slot = slots.iter().rfind(|slot| slot.out <= at).unwrap_or(&slots[0]);
                let entry = |i| host_c.data[slot.first + i] * reference::entry(law, SEED, slot, i, at - slot.out);
                (0..slot.k).map(entry).sum()
            };
            // Sums of k numbers below 1.
            Ok(spot(&out.to_vec()?, 60, of) / (last.k as f64).sqrt())
        },
    );
    let project = Case::new(
        "basis/project",
        text,
        move || mixture.project(&d_out, &d_c).map(|()| d_c.clone()),
        move |d_c| {
            let got = d_c.to_vec::<f32>()?;
            let off = |i: usize| {
                let product = |e| host_d.data[last.out + e] * reference::entry(law, SEED, &last, i, e);
                let want: f64 = (0..last.len).map(product).sum();
                (f64::from(got[last.first + i]) - want) / (last.len as f64).sqrt()
            };
            Ok(worst([0, 1, last.k / 2, last.k - 1].map(off)))
        },
    );
    Ok([with(form), with(project)])
}
