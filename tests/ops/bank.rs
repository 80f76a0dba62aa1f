//! Searches of a memory bank against all products on the CPU, and means of rows.

use crate::support::compare::{Tolerance, compare};
use crate::support::row::{download, upload, values};
use crate::support::{adapter_runtime, device_choice, limit, options, runtime, short};
use leanvision::ops::bank::{NONE, SCRATCH_BYTES, Tags, mean_rows, nearest};
use leanvision::reference::Array;
use leanvision::{DType, Error, Runtime, Tensor};

/// Rows of unit length, and the host's copy as the device has them.
pub(super) fn rows(runtime: &Runtime, n: usize, d: usize, seed: u64, dtype: DType) -> (Tensor, Array) {
    let mut host = values(&[n, d], &(-1.0..1.0), DType::F32, seed);
    for row in host.data.chunks_exact_mut(d.max(1)) {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    let tensor = upload(runtime, &host, dtype).unwrap();
    let kept = Array::new(&host.shape, download(&tensor).unwrap());
    (tensor, kept)
}

/// The best `k` of each query, by brute force: numbers and products, [`NONE`] where fewer count.
pub(super) fn best(q: &Array, bank: &Array, k: usize, counts: impl Fn(usize, usize) -> bool) -> Vec<Vec<(u32, f64)>> {
    let d = q.shape[1];
    let of_query = |(i, query): (usize, &[f64])| {
        let products = bank.data.chunks_exact(d).map(|row| row.iter().zip(query).map(|(a, b)| a * b).sum::<f64>());
        let mut all: Vec<(u32, f64)> =
            products.enumerate().filter(|(j, _)| counts(i, *j)).map(|(j, x)| (j as u32, x)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.resize(k, (NONE, f64::from(f32::MIN)));
        all
    };
    q.data.chunks_exact(d).enumerate().map(of_query).collect()
}

/// Products that are this close count as equal: sums of up to 512 products of f32.
const CLOSE: f64 = 2e-6;

pub(super) fn same(got: &(Tensor, Tensor), want: &[Vec<(u32, f64)>], what: &str) {
    let (values, ids) = (got.0.to_vec::<f32>().unwrap(), got.1.to_vec::<u32>().unwrap());
    for (i, want) in want.iter().enumerate() {
        let k = want.len();
        let (values, ids) = (&values[i * k..(i + 1) * k], &ids[i * k..(i + 1) * k]);
        for (j, (id, x)) in want.iter().enumerate() {
            assert!(
                (f64::from(values[j]) - x).abs() <= CLOSE * x.abs().max(1.0),
                "{what}: query {i}, place {j}: {}, {x} wanted",
                values[j]
            );
            // Rows whose products round alike may change places.
            let known = want.iter().any(|(other, y)| *other == ids[j] && (y - x).abs() <= CLOSE);
            assert!(
                ids[j] == *id || known || (j + 1 == k && (f64::from(values[j]) - x).abs() <= CLOSE),
                "{what}: query {i}, place {j}: row {}, {id} wanted",
                ids[j]
            );
        }
        let mut unique: Vec<u32> = ids.iter().copied().filter(|id| *id != NONE).collect();
        let n = unique.len();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), n, "{what}: query {i} names a row twice");
    }
}

#[test]
fn neighbours_are_those_of_all_products() {
    let Some(runtime) = runtime() else { return };
    let mut shapes = vec![(5, 64, 8), (1, 4, 4), (7, 132, 20), (3, 60, 5)];
    if !short() && limit() > 64 * 4096 {
        shapes.extend([(64, 1000, 64), (64, 4096, 128), (33, 16_384, 64), (16, 4096, 512)]);
    }
    for (b, m, d) in shapes {
        let (q, q_host) = rows(&runtime, b, d, 1, DType::F32);
        for dtype in [DType::F32, DType::F16] {
            if dtype == DType::F16 && !runtime.profile().features.f16 {
                continue;
            }
            let (bank, bank_host) = rows(&runtime, m, d, 2, dtype);
            for k in [1, 5, 10, 20, 32].into_iter().filter(|k| m < 4096 || [5, 20].contains(k)) {
                let got = nearest(&q, &bank, k, None).unwrap();
                same(&got, &best(&q_host, &bank_host, k, |_, _| true), &format!("{b} x {m} x {d} {dtype}, k {k}"));
            }
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn tags_keep_others_out() {
    let Some(runtime) = runtime() else { return };
    let (b, m, d, k) = (13, 200, 8, 6);
    let (q, q_host) = rows(&runtime, b, d, 3, DType::F32);
    let (bank, bank_host) = rows(&runtime, m, d, 4, DType::F32);
    // Tag 0 has no row, 1 one, 2 one less than k, 3 just k, 4 the rest; the last query looks at all.
    let bank_tags: Vec<u32> = (0..m)
        .map(|j| match j {
            17 => 1,
            20..25 => 2,
            100..106 => 3,
            _ => 4,
        })
        .collect();
    let tags: Vec<u32> = (0..b as u32).map(|i| if i == 12 { NONE } else { i % 5 }).collect();
    let upload = |words: &[u32]| Tensor::from_slice(&runtime, words, &[words.len()]).unwrap();
    let (of_queries, of_bank) = (upload(&tags), upload(&bank_tags));
    let got = nearest(&q, &bank, k, Some(Tags { queries: &of_queries, bank: &of_bank })).unwrap();
    let want = best(&q_host, &bank_host, k, |i, j| tags[i] == NONE || tags[i] == bank_tags[j]);
    same(&got, &want, "tags");
    let ids = got.1.to_vec::<u32>().unwrap();
    for (i, ids) in ids.chunks_exact(k).enumerate() {
        let n = ids.iter().filter(|id| **id != NONE).count();
        assert_eq!(n, [0, 1, 5, 6, 6][if i == 12 { 4 } else { i % 5 }], "query {i}: {ids:?}");
        assert!(ids.iter().all(|id| *id == NONE || tags[i] == NONE || bank_tags[*id as usize] == tags[i]));
    }
}

#[test]
fn equal_rows_come_in_order() {
    let Some(runtime) = runtime() else { return };
    let q = Tensor::from_slice(&runtime, &[1.0_f32, 0.0, 0.0, 0.0], &[1, 4]).unwrap();
    let bank = Tensor::from_slice(&runtime, &[0.5_f32; 1600], &[400, 4]).unwrap();
    let (values, ids) = nearest(&q, &bank, 9, None).unwrap();
    assert_eq!(values.to_vec::<f32>().unwrap(), [0.5; 9]);
    assert_eq!(ids.to_vec::<u32>().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_search_takes_little_memory_beside_the_bank() {
    if adapter_runtime().is_none() || short() {
        return;
    }
    let mut options = options();
    options.guard = false;
    let runtime = Runtime::with_options(&device_choice(), options).unwrap();
    let (q, _) = rows(&runtime, 256, 64, 1, DType::F32);
    for dtype in [DType::F32, DType::F16] {
        if dtype == DType::F16 && !runtime.profile().features.f16 {
            continue;
        }
        // All products would take 32 MiB.
        let (bank, _) = rows(&runtime, 32_768, 64, 2, dtype);
        runtime.sync().unwrap();
        runtime.reset_peak_memory();
        let before = runtime.memory().peak_bytes;
        let found = nearest(&q, &bank, 32, None).unwrap();
        let took = (runtime.memory().peak_bytes - before) as usize;
        assert!(took <= SCRATCH_BYTES, "{took} bytes for {dtype}");
        drop(found);
    }
}

#[test]
fn means_are_of_the_rows_there_are() {
    let Some(runtime) = runtime() else { return };
    for dtype in [DType::F32, DType::F16] {
        if dtype == DType::F16 && !runtime.profile().features.f16 {
            continue;
        }
        let (bank, host) = rows(&runtime, 50, 12, 5, dtype);
        let ids = [3_u32, 49, 3, NONE, 7, NONE, NONE, NONE, NONE, 50, 0, 1];
        let named = Tensor::from_slice(&runtime, &ids, &[4, 3]).unwrap();
        let want = Array::from_fn(&[4, 12], |i| {
            let of: Vec<usize> =
                ids[3 * i[0]..3 * i[0] + 3].iter().map(|id| *id as usize).filter(|id| *id < 50).collect();
            of.iter().map(|id| host.at(&[*id, i[1]])).sum::<f64>() / of.len().max(1) as f64
        });
        let got = download(&mean_rows(&bank, &named).unwrap()).unwrap();
        compare(&got, &want.data, Tolerance { atol: 1e-7, rtol: 1e-6, allowed: 0 }).unwrap();
        assert_eq!(got[24..36], [0.0; 12]);
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn wrong_arguments_are_named() {
    let Some(runtime) = runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let (q, bank) = (zeros(&[2, 4], DType::F32), zeros(&[8, 4], DType::F32));
    let said = |result: Result<(Tensor, Tensor), Error>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    said(nearest(&q, &bank, 0, None), "1 to 32");
    said(nearest(&q, &bank, 33, None), "1 to 32");
    said(nearest(&q, &zeros(&[6, 4], DType::F32), 2, None), "multiple of 4");
    said(nearest(&q, &zeros(&[8, 5], DType::F32), 2, None), "d");
    said(nearest(&zeros(&[2, 4], DType::U32), &bank, 2, None), "f32 and a float type");
    let tags = Tags { queries: &zeros(&[2], DType::U32), bank: &zeros(&[7], DType::U32) };
    said(nearest(&q, &bank, 2, Some(tags)), "u32 [8]");
    let rows = zeros(&[2, 3], DType::U32);
    assert!(mean_rows(&zeros(&[8, 6], DType::F32), &rows).unwrap_err().to_string().contains("multiple of 4"));
    assert!(mean_rows(&bank, &q).unwrap_err().to_string().contains("u32 wanted"));
    // No query, no row that counts.
    assert_eq!(nearest(&zeros(&[0, 4], DType::F32), &bank, 2, None).unwrap().1.shape(), [0, 2]);
    let (_, ids) = nearest(&q, &zeros(&[0, 4], DType::F32), 2, None).unwrap();
    assert_eq!(ids.to_vec::<u32>().unwrap(), [NONE; 4]);
}
