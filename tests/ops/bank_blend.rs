//! Means of a memory bank by the softmax of products with it, against all products on the CPU.

use super::bank::rows;
use crate::support::compare::{Tolerance, compare};
use crate::support::row::download;
use crate::support::{adapter_runtime, device_choice, limit, options, runtime, runtimes, short};
use leanvision::ops::bank::{SCRATCH_BYTES, softmax_mean};
use leanvision::reference::{Array, bank as reference};
use leanvision::{DType, Error, Runtime, Tensor};

/// Products of unit vectors are off by some 1e-7, which the temperature divides, and exponents by as much of themselves.
fn tolerance(temperature: f32) -> Tolerance {
    Tolerance { atol: 1e-6 + 1e-6 / f64::from(temperature), rtol: 1e-6, allowed: 0 }
}

fn same(got: &(Tensor, Tensor), want: &(Array, Array), temperature: f32, what: &str) {
    for (got, want, name) in [(&got.0, &want.0, "mean"), (&got.1, &want.1, "lse")] {
        assert_eq!(got.shape(), want.shape, "{what}: {name}");
        let got = download(got).unwrap();
        compare(&got, &want.data, tolerance(temperature))
            .unwrap_or_else(|e| panic!("{what}, T {temperature}: {name}: {e}"));
    }
}

const TEMPERATURES: [f32; 6] = [0.01, 0.02, 0.04, 0.1, 0.2, 1.0];

#[test]
fn means_and_sums_are_those_of_all_weights() {
    for runtime in runtimes() {
        for (b, m, d, width) in [(5, 64, 8, 12), (1, 1, 4, 4), (9, 131, 20, 5), (3, 62, 5, 1), (2, 3, 8, 8)] {
            let (q, q_host) = rows(&runtime, b, d, 1, DType::F32);
            for [of_keys, of_values] in [[DType::F32; 2], [DType::F16; 2], [DType::F32, DType::F16]] {
                if of_values == DType::F16 && !runtime.profile().features.f16 {
                    continue;
                }
                let (keys, keys_host) = rows(&runtime, m, d, 2, of_keys);
                let (values, values_host) = rows(&runtime, m, width, 3, of_values);
                for t in TEMPERATURES {
                    let got = softmax_mean(&q, &keys, &values, t).unwrap();
                    let want = reference::softmax_mean(&q_host, &keys_host, &values_host, f64::from(t));
                    same(&got, &want, t, &format!("{b} x {m} x {d}, {width}, {of_keys} {of_values}"));
                }
            }
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn chunks_join() {
    let Some(runtime) = runtime() else { return };
    if short() || limit() < 1 << 20 {
        return;
    }
    // Chunks have 4,096 rows of f32 for 256 queries, fewer of f16, and 65,536 at most.
    for (b, m, d, t) in [(256, 9001, 16, 0.04), (256, 4096, 8, 0.01), (256, 4099, 8, 1.0), (1, 70_003, 8, 0.02)] {
        let (q, q_host) = rows(&runtime, b, d, 1, DType::F32);
        for dtype in [DType::F32, DType::F16] {
            if dtype == DType::F16 && !runtime.profile().features.f16 {
                continue;
            }
            let (bank, host) = rows(&runtime, m, d, 2, dtype);
            let got = softmax_mean(&q, &bank, &bank, t).unwrap();
            let want = reference::softmax_mean(&q_host, &host, &host, f64::from(t));
            same(&got, &want, t, &format!("{b} x {m} x {d} {dtype}"));
            // Other memory with the same elements takes another way, but for where the chunks end.
            let (other, _) = rows(&runtime, m, d, 2, dtype);
            let apart = softmax_mean(&q, &bank, &other, t).unwrap();
            same(&apart, &want, t, &format!("{b} x {m} x {d} {dtype}, values apart"));
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn far_queries_do_not_overflow() {
    let Some(runtime) = runtime() else { return };
    // Exponents of up to 2,000 and down to -2,000; one key wins by 400 or more.
    let q = Tensor::from_slice(&runtime, &[20.0_f32, 0.0, 0.0, 0.0, -20.0, 0.0, 0.0, 0.0], &[2, 4]).unwrap();
    let keys: Vec<f32> = (0..6).flat_map(|j| [j as f32 / 5.0, 1.0, j as f32, 0.0]).collect();
    let keys = Tensor::from_slice(&runtime, &keys, &[6, 4]).unwrap();
    let (mean, lse) = softmax_mean(&q, &keys, &keys, 0.01).unwrap();
    assert_eq!(mean.to_vec::<f32>().unwrap(), [1.0, 1.0, 5.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    let lse = lse.to_vec::<f32>().unwrap();
    assert!((lse[0] - 2000.0).abs() < 1e-3 && lse[1].abs() < 1e-3, "{lse:?}");
}

#[test]
fn the_gradient_of_the_sum_is_the_mean_over_the_temperature() {
    let Some(runtime) = runtime() else { return };
    let (b, m, d, t) = (3, 40, 8, 0.2_f32);
    let (q, mut q_host) = rows(&runtime, b, d, 1, DType::F32);
    let (bank, host) = rows(&runtime, m, d, 2, DType::F32);
    let mean = download(&softmax_mean(&q, &bank, &bank, t).unwrap().0).unwrap();
    let mut lse = |at: usize, value: f64| {
        let kept = std::mem::replace(&mut q_host.data[at], value);
        let sum: f64 = reference::softmax_mean(&q_host, &host, &host, f64::from(t)).1.data.iter().sum();
        q_host.data[at] = kept;
        (sum, kept)
    };
    for (i, mean) in mean.iter().enumerate() {
        let value = lse(i, 0.0).1;
        let slope = (lse(i, value + 1e-5).0 - lse(i, value - 1e-5).0) / 2e-5;
        assert!((slope - mean / f64::from(t)).abs() < 1e-5, "element {i}: {slope} and {}", mean / f64::from(t));
    }
}

#[test]
fn means_take_little_memory_beside_the_bank() {
    if adapter_runtime().is_none() || short() {
        return;
    }
    let mut options = options();
    options.guard = false;
    let runtime = Runtime::with_options(&device_choice(), options).unwrap();
    let (q, _) = rows(&runtime, 256, 128, 1, DType::F32);
    for dtype in [DType::F32, DType::F16] {
        if dtype == DType::F16 && !runtime.profile().features.f16 {
            continue;
        }
        // All products would take 32 MiB.
        let (bank, _) = rows(&runtime, 32_768, 128, 2, dtype);
        runtime.sync().unwrap();
        runtime.reset_peak_memory();
        let before = runtime.memory().peak_bytes;
        let found = softmax_mean(&q, &bank, &bank, 0.1).unwrap();
        let took = (runtime.memory().peak_bytes - before) as usize;
        assert!(took <= SCRATCH_BYTES, "{took} bytes for {dtype}");
        drop(found);
    }
}

#[test]
fn what_has_no_mean_is_named() {
    let Some(runtime) = runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let (q, bank) = (zeros(&[2, 4], DType::F32), zeros(&[7, 4], DType::F32));
    let said = |result: Result<(Tensor, Tensor), Error>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    for t in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        said(softmax_mean(&q, &bank, &bank, t), "above 0");
    }
    said(softmax_mean(&q, &zeros(&[0, 4], DType::F32), &zeros(&[0, 4], DType::F32), 1.0), "at least one key");
    said(softmax_mean(&q, &bank, &zeros(&[6, 4], DType::F32), 1.0), "m");
    said(softmax_mean(&q, &zeros(&[7, 5], DType::F32), &bank, 1.0), "d");
    said(softmax_mean(&zeros(&[2, 4], DType::U32), &bank, &bank, 1.0), "two float types");
    said(softmax_mean(&q.require_grad().unwrap(), &bank, &bank, 1.0), "gradient");
    assert_eq!(softmax_mean(&zeros(&[0, 4], DType::F32), &bank, &bank, 1.0).unwrap().0.shape(), [0, 4]);
}
