use crate::support::compare::{Tolerance, compare};
use crate::support::row::{download, upload, upload_view, values};
use crate::support::{runtime, runtimes, short};
use leanvision::ops::topk::{TopkVariant, topk, topk_with};
use leanvision::reference::{Array, topk as reference};
use leanvision::{DType, Result, Runtime, Tensor};

const LISTS: &[TopkVariant] = TopkVariant::ALL.split_at(2).0;
const SELECTIONS: &[TopkVariant] = TopkVariant::ALL.split_at(2).1;
const EXACT: Tolerance = Tolerance { atol: 0.0, rtol: 0.0, allowed: 0 };

fn matches(
    runtime: &Runtime,
    variant: TopkVariant,
    x: &Array,
    k: usize,
    dtype: DType,
) -> std::result::Result<(), String> {
    let tensor = upload(runtime, x, dtype).map_err(|e| e.to_string())?;
    for largest in [true, false] {
        same(&topk_with(variant, &tensor, k, largest), &reference::topk(x, k, largest), dtype)
            .map_err(|e| format!("{variant:?} {:?} {dtype}, k {k}, largest {largest}: {e}", x.shape))?;
    }
    match runtime.damaged_guards().map_err(|e| e.to_string())? {
        0 => Ok(()),
        n => Err(format!("{variant:?} {:?}, k {k}: {n} buffers were written past their end", x.shape)),
    }
}

fn same(got: &Result<(Tensor, Tensor)>, want: &(Array, Vec<u32>), dtype: DType) -> std::result::Result<(), String> {
    let (got_values, got_ids) = got.as_ref().map_err(ToString::to_string)?;
    if got_values.shape() != want.0.shape || got_ids.shape() != want.0.shape || got_values.dtype() != dtype {
        return Err(format!("{got_values:?} and {got_ids:?}"));
    }
    compare(&download(got_values).map_err(|e| e.to_string())?, &want.0.data, EXACT)?;
    let ids = got_ids.to_vec::<u32>().map_err(|e| e.to_string())?;
    match ids.iter().zip(&want.1).position(|(g, w)| g != w) {
        None => Ok(()),
        Some(i) => Err(format!("index {i} is {}, {} wanted", ids[i], want.1[i])),
    }
}

fn check(
    variants: &[TopkVariant],
    shapes: &[&[usize]],
    ks: &[usize],
    dtypes: &[DType],
    make: impl Fn(&[usize], DType) -> Array,
) {
    for runtime in runtimes() {
        let mut failures = Vec::new();
        let most = if short() { 100_000 } else { usize::MAX };
        let takes = |shape: &&&[usize]| {
            let n = shape.iter().product();
            n <= most && runtime.takes(n)
        };
        for shape in shapes.iter().filter(takes) {
            for &dtype in dtypes.iter().filter(|d| **d != DType::F16 || runtime.profile().features.f16) {
                let x = make(shape, dtype);
                for &variant in variants {
                    let fits = |k: &&usize| {
                        **k <= shape[shape.len() - 1] && (**k <= 32 || matches!(variant, TopkVariant::Select(_)))
                    };
                    let ks = ks.iter().filter(fits);
                    failures.extend(ks.filter_map(|&k| matches(&runtime, variant, &x, k, dtype).err()));
                }
            }
        }
        assert!(failures.is_empty(), "{} failures on {}\n{}", failures.len(), runtime.profile(), failures.join("\n"));
    }
}

const SHAPES: &[&[usize]] =
    &[&[0, 5], &[1], &[7], &[3, 5], &[2, 3, 17], &[9, 63], &[5, 257], &[300, 40], &[1, 4099], &[2, 70_001]];

#[test]
fn lists_match_the_reference() {
    let random = |shape: &[usize], dtype| values(shape, &(-9.0..9.0), dtype, shape.len() as u64);
    check(LISTS, SHAPES, &[0, 1, 4, 5, 8, 11, 16, 20, 21, 27, 32], &[DType::F32, DType::F16], random);
    check(LISTS, &[&[70_003, 20], &[1, 600_011]], &[5, 30], &[DType::F32], random);
}

#[test]
fn selection_matches_the_reference() {
    let random = |shape: &[usize], dtype| values(shape, &(-9.0..9.0), dtype, shape.len() as u64);
    check(SELECTIONS, SHAPES, &[0, 1, 5, 33, 63, 257, 1000], &[DType::F32, DType::F16], random);
    // The second chunk holds fewer elements than are wanted.
    check(SELECTIONS, &[&[8193]], &[4096], &[DType::F32], random);
    check(SELECTIONS, &[&[2003, 501], &[1, 600_011]], &[200], &[DType::F32], random);
}

#[test]
fn ties_go_to_the_lowest_index() {
    let shapes: &[&[usize]] = &[&[3, 100], &[1, 9001], &[40, 129]];
    // Three values, then one.
    check(&TopkVariant::ALL, shapes, &[1, 7, 32, 90], &[DType::F32], |shape, _| Array {
        data: values(shape, &(0.0..3.0), DType::U32, 5).data,
        shape: shape.to_vec(),
    });
    check(&TopkVariant::ALL, shapes, &[1, 7, 32, 90], &[DType::F32], |shape, _| Array::from_fn(shape, |_| -2.5));
}

#[test]
fn nans_infinities_and_zeros_have_their_places() {
    const SPECIAL: [f64; 7] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, -1e-40];
    let shapes: &[&[usize]] = &[&[4, 9], &[3, 1001]];
    check(&TopkVariant::ALL, shapes, &[1, 6, 9, 32, 1001], &[DType::F32], |shape, dtype| {
        let mut x = values(shape, &(-1.0..1.0), dtype, 8);
        x.data
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| i % 3 != 1)
            .for_each(|(i, v)| *v = f64::from(SPECIAL[i % 7] as f32));
        x
    });
    // Rows without a number.
    check(&TopkVariant::ALL, shapes, &[1, 9, 32], &[DType::F32, DType::F16], |shape, _| {
        Array::from_fn(shape, |_| f64::NAN)
    });
}

#[test]
fn views_and_the_default_variant() {
    let Some(runtime) = runtime() else { return };
    let x = values(&[6, 50], &(-9.0..9.0), DType::F32, 3);
    let view = upload_view(&runtime, &x, DType::F32).unwrap();
    for k in [3, 40] {
        same(&topk(&view, k, true), &reference::topk(&x, k, true), DType::F32).unwrap();
    }
    let shares = topk(&view, 3, true).unwrap().0;
    assert!(shares.contiguous().unwrap().is_contiguous());
}

#[test]
fn wrong_arguments_are_named() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::zeros(&runtime, &[2, 50], DType::F32).unwrap();
    assert!(topk(&x, 51, true).unwrap_err().to_string().contains("k = 51 of 50 elements given, at most 50"));
    assert!(topk_with(LISTS[0], &x, 33, true).is_err());
    assert!(topk_with(SELECTIONS[0], &x, 33, true).is_ok());
    assert!(topk(&Tensor::zeros(&runtime, &[], DType::F32).unwrap(), 0, true).is_err());
    assert!(topk(&Tensor::zeros(&runtime, &[4], DType::I32).unwrap(), 1, true).is_err());
}

#[test]
fn gradients_flow_to_the_elements_chosen() {
    let Some(runtime) = runtime() else { return };
    for (shape, k) in [(&[3, 2, 9][..], 4), (&[7], 7), (&[2, 300], 40), (&[5, 1], 1), (&[3, 4], 0)] {
        let x = values(shape, &(-1.0..1.0), DType::F32, k as u64);
        let leaf = upload(&runtime, &x, DType::F32).unwrap().require_grad().unwrap();
        let (out, ids) = topk(&leaf, k, true).unwrap();
        let d_out = values(out.shape(), &(-1.0..1.0), DType::F32, 99);
        let gradients = out.backward_with(&upload(&runtime, &d_out, DType::F32).unwrap()).unwrap();
        let mut want = vec![0.0; x.data.len()];
        let n = shape.last().unwrap();
        for (i, (id, d)) in ids.to_vec::<u32>().unwrap().iter().zip(&d_out.data).enumerate() {
            want[i / k * n + *id as usize] = *d;
        }
        let got = gradients.of(&leaf).unwrap();
        assert_eq!(got.shape(), shape);
        compare(&download(got).unwrap(), &want, EXACT).unwrap_or_else(|e| panic!("{shape:?} {k}: {e}"));
    }
}
