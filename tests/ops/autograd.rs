use crate::support::compare::Tolerance;
use crate::support::row::{Shapes, row, rows};
use crate::support::{runtime, runtime_for};
use leanvision::autograd::{Pass, checkpoint};
use leanvision::ops::{Act, elementwise as e, matmul, reduce};
use leanvision::reference::Array;
use leanvision::{DType, Result, Runtime, Tensor};

fn tensor(runtime: &Runtime, data: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(runtime, data, shape).unwrap()
}

fn leaf(runtime: &Runtime, data: &[f32], shape: &[usize]) -> Tensor {
    tensor(runtime, data, shape).require_grad().unwrap()
}

#[test]
fn views_pass_their_gradients_back() {
    const EXACT: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-5, allowed: 0 };
    const X: &[Shapes] = &[&[&[4, 6, 5]]];
    // Squared, so that an element in the wrong place has the wrong gradient.
    let squared = |f: fn(&Tensor) -> Result<Tensor>| move |x: &[Tensor]| e::square(&f(&x[0])?);
    let picked = |shape: &'static [usize], f: fn(&[usize]) -> [usize; 3]| {
        move |x: &[Array]| Array::from_fn(shape, |i| x[0].at(&f(i)).powi(2))
    };
    rows([
        row("permute", X, -2.0..2.0, squared(|x| x.permute(&[2, 0, 1])), picked(&[5, 4, 6], |i| [i[1], i[2], i[0]]))
            .grad(&[0], EXACT),
        row("slice", X, -2.0..2.0, squared(|x| x.slice(1, 2..5)), picked(&[4, 3, 5], |i| [i[0], i[1] + 2, i[2]]))
            .grad(&[0], EXACT),
        row(
            "step",
            X,
            -2.0..2.0,
            squared(|x| x.step(2, 2)?.step(1, 4)),
            picked(&[4, 2, 3], |i| [i[0], 4 * i[1], 2 * i[2]]),
        )
        .grad(&[0], EXACT),
        row(
            "reshape",
            X,
            -2.0..2.0,
            squared(|x| x.reshape(&[8, 15])),
            picked(&[8, 15], |i| {
                let n = i[0] * 15 + i[1];
                [n / 30, n / 5 % 6, n % 5]
            }),
        )
        .grad(&[0], EXACT),
        row("unsqueeze", X, -2.0..2.0, squared(|x| x.unsqueeze(1)), picked(&[4, 1, 6, 5], |i| [i[0], i[2], i[3]]))
            .grad(&[0], EXACT),
        row(
            "broadcast",
            &[&[&[1, 6, 1]]],
            -2.0..2.0,
            squared(|x| x.broadcast_to(&[3, 4, 6, 5])),
            picked(&[3, 4, 6, 5], |i| [0, i[2], 0]),
        )
        .grad(&[0], EXACT),
        row(
            "overlapping slices",
            X,
            -2.0..2.0,
            |x| e::mul(&x[0].slice(1, 0..4)?, &x[0].slice(1, 2..6)?),
            |x| Array::from_fn(&[4, 4, 5], |i| x[0].at(i) * x[0].at(&[i[0], i[1] + 2, i[2]])),
        )
        .grad(&[0], EXACT),
        row(
            "tiling slices",
            X,
            -2.0..2.0,
            |x| e::mul(&x[0].slice(1, 3..6)?, &x[0].slice(1, 0..3)?),
            |x| Array::from_fn(&[4, 3, 5], |i| x[0].at(i) * x[0].at(&[i[0], i[1] + 3, i[2]])),
        )
        .grad(&[0], EXACT),
    ]);
}

#[test]
fn frozen_parts_record_nothing_and_freezing_saves_memory() {
    let Some(runtime) = runtime() else { return };
    let x = tensor(&runtime, &[1.0; 6], &[2, 3]);
    let w = tensor(&runtime, &[1.0; 12], &[3, 4]);
    let frozen = matmul::linear(&x, &w, None, Act::Relu).unwrap();
    assert!(!frozen.needs_grad() && !e::exp(&frozen.slice(0, 0..1).unwrap()).unwrap().needs_grad());
    assert!(frozen.backward_with(&frozen).unwrap_err().to_string().contains("no leaf"));
    // Steps, comparisons and detached tensors end the graph.
    let leaf = x.require_grad().unwrap();
    assert!(e::exp(&leaf).unwrap().needs_grad());
    assert!(!e::floor(&leaf).unwrap().needs_grad() && !e::exp(&leaf).unwrap().detach().needs_grad());
    assert!(e::cast(&leaf, DType::U32).unwrap().require_grad().is_err());
    // A product with frozen weights does not keep its input, however large.
    let big = Tensor::zeros(&runtime, &[256, 1024], DType::F32).unwrap().require_grad().unwrap();
    let w = Tensor::zeros(&runtime, &[1024, 4], DType::F32).unwrap();
    let hidden = e::affine(&big, 2.0, 0.0).unwrap();
    let y = matmul::linear(&hidden, &w, None, Act::None).unwrap();
    let with_hidden = runtime.memory().used_bytes;
    drop(hidden);
    assert!(runtime.memory().used_bytes <= with_hidden - 1_000_000, "the input is kept though no weight wants it");
    assert!(y.needs_grad());
}

#[test]
fn gradients_add_up_where_a_tensor_is_used_twice() {
    let Some(runtime) = runtime() else { return };
    let x = leaf(&runtime, &[1.0, 2.0, 3.0], &[3]);
    let y = e::add(&e::square(&x).unwrap(), &e::mul(&x, &e::affine(&x, 3.0, 0.0).unwrap()).unwrap()).unwrap();
    let gradients = reduce::sum_all(&y).unwrap().backward().unwrap();
    assert_eq!(gradients.len(), 1);
    assert_eq!(gradients.of(&x).unwrap().to_vec::<f32>().unwrap(), [8.0, 16.0, 24.0]);
}

#[test]
fn a_graph_is_used_once() {
    let Some(runtime) = runtime() else { return };
    let x = leaf(&runtime, &[1.0, 2.0], &[2]);
    let y = reduce::sum_all(&e::square(&x).unwrap()).unwrap();
    assert!(e::square(&x).unwrap().backward().unwrap_err().to_string().contains("one number wanted"));
    y.backward().unwrap();
    assert!(y.backward().unwrap_err().to_string().contains("before"));
}

#[test]
fn micro_batches_give_the_gradient_of_the_batch() {
    let Some(runtime) = runtime() else { return };
    let data: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = tensor(&runtime, &data, &[6, 4]);
    let w = leaf(&runtime, &[0.5, -0.25, 1.0, 2.0], &[4, 1]);
    let loss = |x: &Tensor| reduce::sum_all(&e::square(&matmul::matmul(x, &w).unwrap()).unwrap()).unwrap();
    let whole = loss(&x).backward().unwrap().take(&w).unwrap().to_vec::<f32>().unwrap();
    let parts: Vec<Vec<f32>> = (0..3)
        .map(|i| loss(&x.slice(0, 2 * i..2 * i + 2).unwrap()).backward().unwrap().take(&w).unwrap())
        .map(|d| d.to_vec().unwrap())
        .collect();
    for (i, want) in whole.iter().enumerate() {
        let sum: f32 = parts.iter().map(|p| p[i]).sum();
        assert!((sum - want).abs() < 1e-5 * want.abs().max(1.0), "{sum} {want}");
    }
}

#[test]
fn checkpoints_give_the_same_gradients_for_less_memory() {
    let n = 1 << 18;
    let Some(runtime) = runtime_for(n) else { return };
    let x = Tensor::full(&runtime, &[n], 0.3, DType::F32).unwrap().require_grad().unwrap();
    let w = leaf(&runtime, &[1.5], &[1]);
    let block = |w: &Tensor, x: &Tensor| -> Result<Tensor> {
        let mut x = x.clone();
        for _ in 0..8 {
            x = e::tanh(&e::mul(&x, w)?)?;
        }
        Ok(x)
    };
    let run = |checkpointed: bool| {
        runtime.reset_peak_memory();
        let mut y = x.clone();
        for _ in 0..4 {
            let w = w.clone();
            y = if checkpointed {
                checkpoint(&y, move |x, pass| {
                    assert!(pass == Pass::First || x.needs_grad());
                    block(&w, x)
                })
                .unwrap()
            } else {
                block(&w, &y).unwrap()
            };
        }
        let gradients = reduce::sum_all(&y).unwrap().backward().unwrap();
        let d: Vec<Vec<f32>> = [&x, &w].map(|leaf| gradients.of(leaf).unwrap().to_vec().unwrap()).into();
        (d, runtime.memory().peak_bytes)
    };
    let (plain, plain_peak) = run(false);
    let (again, again_peak) = run(true);
    assert_eq!(plain, again);
    assert!(again_peak * 2 < plain_peak, "{again_peak} bytes checkpointed, {plain_peak} not");
}

#[test]
fn long_chains_neither_overflow_the_stack_nor_keep_memory() {
    let Some(runtime) = runtime() else { return };
    let x = leaf(&runtime, &[1.0], &[1]);
    let mut y = x.clone();
    for _ in 0..20_000 {
        y = y.unsqueeze(0).unwrap().reshape(&[1]).unwrap();
    }
    let gradients = y.backward().unwrap();
    assert_eq!(gradients.of(&x).unwrap().to_vec::<f32>().unwrap(), [1.0]);
    drop(y);
    let used = runtime.memory().used_bytes;
    let mut y = x.clone();
    for _ in 0..20_000 {
        y = y.unsqueeze(0).unwrap().reshape(&[1]).unwrap();
    }
    drop(y);
    assert_eq!(runtime.memory().used_bytes, used);
}

#[test]
fn backward_repeats_bit_for_bit() {
    let Some(runtime) = runtime() else { return };
    let data: Vec<f32> = (0..64 * 96).map(|i| (i as f32 * 0.37).sin()).collect();
    let run = || {
        let x = leaf(&runtime, &data, &[64, 96]);
        let w = leaf(&runtime, &data, &[96, 64]);
        let y = e::gelu(&matmul::matmul(&x, &w).unwrap()).unwrap();
        let gradients = reduce::sum_all(&y).unwrap().backward().unwrap();
        [&x, &w].map(|leaf| gradients.of(leaf).unwrap().to_vec::<f32>().unwrap())
    };
    assert_eq!(run(), run());
}
