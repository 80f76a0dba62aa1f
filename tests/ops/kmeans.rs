//! K-means against Lloyd's rounds in f64, and what is true of any clustering.

use crate::support::compare::{Tolerance, compare};
use crate::support::row::{download, upload, values};
use crate::support::{limit, runtime, runtimes, short};
use leanvision::ops::kmeans::{Clusters, assign, kmeans};
use leanvision::ops::random::Key;
use leanvision::philox::Philox;
use leanvision::reference::{Array, kmeans as reference, random};
use leanvision::{DType, Error, Runtime, Tensor};

fn key(step: u32) -> Key {
    Key::new(0x0123_4567_89ab_cdef, 77, step)
}

/// Rows in -1..1, and the host's copy as the device has them.
fn rows(runtime: &Runtime, n: usize, d: usize, dtype: DType, seed: u64) -> (Tensor, Array) {
    let host = values(&[n, d], &(-1.0..1.0), dtype, seed);
    (upload(runtime, &host, dtype).unwrap(), host)
}

fn centres(found: &Clusters) -> Array {
    Array::new(found.centres.shape(), download(&found.centres).unwrap())
}

fn labels(found: &Clusters) -> Vec<u32> {
    found.labels.to_vec::<u32>().unwrap()
}

/// The sum of squared distances of the rows to their centres.
fn objective(data: &Array, centres: &Array, labels: &[u32]) -> f64 {
    let d = data.shape[1];
    let distance = |row: &[f64], label: u32| {
        let centre = &centres.data[label as usize * d..][..d];
        row.iter().zip(centre).map(|(x, c)| (x - c) * (x - c)).sum::<f64>()
    };
    data.data.chunks_exact(d).zip(labels).map(|(row, label)| distance(row, *label)).sum()
}

#[test]
fn rounds_are_those_of_lloyd() {
    for runtime in runtimes() {
        // One chunk of rows and more, any width, as many clusters as fours make and others.
        let mut shapes = vec![(50, 3, 4, 3), (131, 5, 7, 2), (9, 1, 9, 1), (20, 8, 1, 2)];
        if !short() && limit() > 100_000 {
            shapes.extend([(2048, 8, 10, 4), (2049, 8, 30, 2), (5000, 20, 12, 3)]);
        }
        for (n, d, k, rounds) in shapes {
            for dtype in [DType::F32, DType::F16] {
                if dtype == DType::F16 && (n > 2048 || !runtime.profile().features.f16) {
                    continue;
                }
                let (data, host) = rows(&runtime, n, d, dtype, n as u64);
                let what = format!("{n} x {d} {dtype} to {k} in {rounds} rounds");
                let found = kmeans(&data, k, rounds, key(3)).unwrap();
                let want = reference::kmeans(&host, k, rounds, key(3));
                assert_eq!(labels(&found), want.1, "{what}");
                let close = Tolerance { atol: 1e-6, rtol: 1e-5, allowed: 0 };
                compare(&centres(&found).data, &want.0.data, close).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(assign(&data, &found.centres).unwrap().to_vec::<u32>().unwrap(), want.1, "{what}");
            }
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

/// Rows about as many points, `per_blob` each, one blob after another.
fn blobs(n_blobs: usize, per_blob: usize, d: usize) -> Array {
    let points = values(&[n_blobs, d], &(-10.0..10.0), DType::F32, 1);
    let noise = values(&[n_blobs * per_blob, d], &(-0.2..0.2), DType::F32, 2);
    Array::from_fn(&noise.shape, |i| f64::from((points.at(&[i[0] / per_blob, i[1]]) + noise.at(i)) as f32))
}

#[test]
fn blobs_apart_are_found() {
    let Some(runtime) = runtime() else { return };
    let (n_blobs, per_blob) = (4, 30);
    let host = blobs(n_blobs, per_blob, 6);
    let data = upload(&runtime, &host, DType::F32).unwrap();
    // A start with one row of each blob ends with the blobs.
    let n = n_blobs * per_blob;
    let of_all = |step: &u32| {
        let mut first: Vec<usize> =
            random::permutation(n, key(*step))[..n_blobs].iter().map(|i| *i as usize / per_blob).collect();
        first.sort_unstable();
        first == [0, 1, 2, 3]
    };
    let step = (0..1000).find(of_all).unwrap();
    let found = labels(&kmeans(&data, n_blobs, 3, key(step)).unwrap());
    let firsts: Vec<u32> = found.iter().step_by(per_blob).copied().collect();
    assert!(found.iter().enumerate().all(|(i, label)| *label == firsts[i / per_blob]), "{found:?}");
    assert!((0..4).all(|label| firsts.contains(&label)), "{firsts:?}");
    // With more clusters than blobs, each is of one blob alone.
    let found = labels(&kmeans(&data, 24, 5, key(0)).unwrap());
    let mut blob_of = [None; 24];
    for (i, label) in found.iter().enumerate() {
        assert_eq!(*blob_of[*label as usize].get_or_insert(i / per_blob), i / per_blob, "row {i} of cluster {label}");
    }
}

#[test]
fn the_objective_never_rises() {
    let Some(runtime) = runtime() else { return };
    let (n, d, k) = if limit() > 20_000 { (1000, 8, 20) } else { (200, 4, 6) };
    let (data, host) = rows(&runtime, n, d, DType::F32, 9);
    let mut last = f64::INFINITY;
    for rounds in 0..9 {
        let found = kmeans(&data, k, rounds, key(1)).unwrap();
        let labels = labels(&found);
        let now = objective(&host, &centres(&found), &labels);
        assert!(now < last * (1.0 + 1e-7), "{now} after {rounds} rounds, {last} before");
        assert!((0..k as u32).all(|label| labels.contains(&label)), "a cluster is empty after {rounds} rounds");
        last = now;
    }
    let start = kmeans(&data, k, 0, key(1)).unwrap();
    assert!(last < 0.9 * objective(&host, &centres(&start), &labels(&start)));
}

#[test]
fn as_many_clusters_as_rows_and_one_for_all() {
    let Some(runtime) = runtime() else { return };
    let (data, host) = rows(&runtime, 60, 5, DType::F32, 4);
    let found = kmeans(&data, 60, 2, key(0)).unwrap();
    let mut all = labels(&found);
    assert_eq!(objective(&host, &centres(&found), &all), 0.0);
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..60));
    let found = kmeans(&data, 1, 1, key(0)).unwrap();
    assert_eq!(labels(&found), [0; 60]);
    let mean: Vec<f64> = (0..5).map(|j| (0..60).map(|i| host.at(&[i, j])).sum::<f64>() / 60.0).collect();
    compare(&centres(&found).data, &mean, Tolerance { atol: 1e-6, rtol: 1e-6, allowed: 0 }).unwrap();
}

#[test]
fn an_empty_cluster_starts_anew() {
    let Some(runtime) = runtime() else { return };
    // Two points, many times each, and one row alone: five clusters cannot all have rows. All numbers are exact.
    let host = Array::from_fn(&[16, 4], |i| match i[0] {
        15 => 8.0,
        row if row % 2 == 0 => 1.0 + i[1] as f64,
        _ => -2.0,
    });
    let data = upload(&runtime, &host, DType::F32).unwrap();
    let mut drawn_differ = false;
    for rounds in 1..6 {
        let before = kmeans(&data, 5, rounds - 1, key(2)).unwrap();
        let found = kmeans(&data, 5, rounds, key(2)).unwrap();
        let want = reference::kmeans(&host, 5, rounds, key(2));
        assert_eq!(labels(&found), want.1, "{rounds} rounds");
        compare(&centres(&found).data, &want.0.data, Tolerance { atol: 0.0, rtol: 1e-6, allowed: 0 }).unwrap();
        let (had, got) = (labels(&before), centres(&found));
        let empty: Vec<u32> = (0..5).filter(|label| !had.contains(label)).collect();
        assert!(empty.len() >= 2, "{had:?}");
        for label in empty {
            let at = (rounds as u64) * (1 << 34) + u64::from(label);
            let row = Philox::new(key(2).seed, 77, 2).at(at).below(16) as usize;
            assert_eq!(
                got.data[4 * label as usize..][..4],
                host.data[4 * row..][..4],
                "cluster {label}, round {rounds}"
            );
            drawn_differ |= got.data[4 * label as usize..][..4] != centres(&before).data[4 * label as usize..][..4];
        }
    }
    assert!(drawn_differ);
}

#[test]
fn many_clusters_and_equal_bits() {
    let Some(runtime) = runtime() else { return };
    let (n, d, k) = if short() || limit() < 1 << 20 { (150, 8, 75) } else { (4000, 16, 2000) };
    let (data, host) = rows(&runtime, n, d, DType::F32, 6);
    let bits =
        |found: &Clusters| found.centres.to_vec::<f32>().unwrap().iter().map(|c| c.to_bits()).collect::<Vec<_>>();
    let found = kmeans(&data, k, 3, key(5)).unwrap();
    let again = kmeans(&data, k, 3, key(5)).unwrap();
    assert_eq!((bits(&found), labels(&found)), (bits(&again), labels(&again)));
    assert_ne!(bits(&found), bits(&kmeans(&data, k, 3, key(6)).unwrap()));
    let at = centres(&found);
    let mine = objective(&host, &at, &labels(&found));
    let best = objective(&host, &at, &reference::assign(&host, &at));
    assert!(mine <= best * (1.0 + 1e-6), "{mine}, {best} is possible");
    let start = kmeans(&data, k, 0, key(5)).unwrap();
    assert!(mine < objective(&host, &centres(&start), &labels(&start)));
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn what_cannot_be_clustered_is_named() {
    let Some(runtime) = runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let data = zeros(&[6, 4], DType::F32);
    let said = |result: Result<(), Error>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    said(kmeans(&data, 0, 1, key(0)).map(drop), "1 to all");
    said(kmeans(&data, 7, 1, key(0)).map(drop), "1 to all");
    said(kmeans(&zeros(&[6, 0], DType::F32), 2, 1, key(0)).map(drop), "1 to all");
    said(kmeans(&zeros(&[6, 4], DType::U32), 2, 1, key(0)).map(drop), "a float type");
    said(kmeans(&data.require_grad().unwrap(), 2, 1, key(0)).map(drop), "gradient");
    said(assign(&data, &zeros(&[2, 5], DType::F32)).map(drop), "d");
    said(assign(&data, &zeros(&[2, 4], DType::U32)).map(drop), "f32 wanted");
    said(assign(&data, &zeros(&[0, 4], DType::F32)).map(drop), "no centre");
    assert_eq!(assign(&zeros(&[0, 4], DType::F32), &data).unwrap().shape(), [0]);
}
