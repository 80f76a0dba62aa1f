//! The ring that a memory bank is, against a replay on the CPU; searches among the rows that others name.

use super::bank::{best, rows, same};
use crate::support::row::{download, upload, values};
use crate::support::{adapter_runtime, device_choice, limit, options, runtime, short};
use leanvision::ops::bank::{
    NONE, SCRATCH_BYTES, Tags, Tally, enqueue, mark, nearest_among, random_unit, store_rows, tally,
};
use leanvision::ops::random::Key;
use leanvision::reference::{self, Array};
use leanvision::{DType, Error, Runtime, Tensor};

fn words(runtime: &Runtime, data: &[u32]) -> Tensor {
    Tensor::from_slice(runtime, data, &[data.len()]).unwrap()
}

/// The float types that the device has.
fn floats(runtime: &Runtime) -> impl Iterator<Item = DType> {
    let n = if runtime.profile().features.f16 { 2 } else { 1 };
    [DType::F32, DType::F16].into_iter().take(n)
}

/// As `dtype` has it.
fn rounded(value: f64, dtype: DType) -> f64 {
    if dtype == DType::F16 { half::f16::from_f64(value).to_f64() } else { value }
}

#[test]
fn batches_go_round() {
    let Some(runtime) = runtime() else { return };
    let all: &[(usize, usize, usize)] = &[(21, 7, 12), (5, 5, 4), (12, 1, 8), (1920, 128, 64)];
    let (b_limit, first) = if short() { (100, 3) } else { (limit() / 100, 4) };
    for &(m, b, d) in all.iter().take(first).filter(|(_, b, _)| *b < b_limit) {
        for dtype in floats(&runtime) {
            let start = values(&[m, d], &(-1.0..1.0), dtype, 1);
            let bank = upload(&runtime, &start, dtype).unwrap();
            let mut want = start.data;
            let tags = words(&runtime, &vec![NONE; m]);
            let mut want_tags = vec![NONE; m];
            // The last ones pass 2^32 as products with the batch, whose remainder is another one than that of the whole.
            for (seed, counter) in
                [0, 1, 2, 3, m as u32 / b as u32, 613_566_757, u32::MAX - 1, u32::MAX].into_iter().enumerate()
            {
                let rows = values(&[b, d], &(-1.0..1.0), DType::F32, 7 + seed as u64);
                let ids: Vec<u32> = (0..b).map(|i| (100 * seed + i) as u32).collect();
                let step = words(&runtime, &[counter]);
                enqueue(&bank, &upload(&runtime, &rows, DType::F32).unwrap(), &step).unwrap();
                mark(&tags, &words(&runtime, &ids), &step).unwrap();
                for (i, id) in ids.iter().enumerate() {
                    let slot = reference::bank::slot(counter, i, b, m);
                    assert_eq!(slot as u64, (u64::from(counter) * b as u64 + i as u64) % m as u64);
                    for j in 0..d {
                        want[slot * d + j] = rounded(rows.data[i * d + j], dtype);
                    }
                    want_tags[slot] = *id;
                }
                assert_eq!(download(&bank).unwrap(), want, "{m} x {d} {dtype}, batch {b}, step {counter}");
                assert_eq!(tags.to_vec::<u32>().unwrap(), want_tags, "{m}, batch {b}, step {counter}");
            }
        }
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn rows_go_where_their_ids_say() {
    let Some(runtime) = runtime() else { return };
    let (n, b, d) = (11, 6, 20);
    let rows = values(&[b, d], &(-1.0..1.0), DType::F32, 1);
    let ids = [10_u32, 0, 11, NONE, 7, 3];
    for dtype in floats(&runtime) {
        let start = values(&[n, d], &(-1.0..1.0), dtype, 2);
        let pool = upload(&runtime, &start, dtype).unwrap();
        store_rows(&pool, &upload(&runtime, &rows, DType::F32).unwrap(), &words(&runtime, &ids)).unwrap();
        let mut want = start.data.clone();
        for (i, id) in ids.iter().map(|id| *id as usize).enumerate().filter(|(_, id)| *id < n) {
            for j in 0..d {
                want[id * d + j] = rounded(rows.data[i * d + j], dtype);
            }
        }
        assert_eq!(download(&pool).unwrap(), want, "{dtype}");
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn a_plan_goes_on_by_its_counter() {
    if adapter_runtime().is_none() {
        return;
    }
    let mut options = options();
    options.guard = false;
    let runtime = Runtime::with_options(&device_choice(), options).unwrap();
    let (m, b, d) = (12, 3, 4);
    let bank = Tensor::zeros(&runtime, &[m, d], DType::F32).unwrap();
    let tags = words(&runtime, &[NONE; 12]);
    let pool = Tensor::zeros(&runtime, &[20, d], DType::F32).unwrap();
    let rows = Tensor::zeros(&runtime, &[b, d], DType::F32).unwrap();
    let (ids, step) = (words(&runtime, &[0; 3]), words(&runtime, &[0]));
    let (plan, ()) = runtime
        .record_plan(|| {
            enqueue(&bank, &rows, &step)?;
            mark(&tags, &ids, &step)?;
            store_rows(&pool, &rows, &ids)
        })
        .unwrap();
    for t in 1..6_u32 {
        rows.write(&[t as f32; 12]).unwrap();
        ids.write(&[3 * t, 3 * t + 1, 3 * t + 2]).unwrap();
        step.write(&[t]).unwrap();
        plan.replay().unwrap();
    }
    // Steps 4, 5, 2, 3 by then.
    let of_slots: Vec<u32> = [4, 5, 2, 3].iter().flat_map(|t| [3 * t, 3 * t + 1, 3 * t + 2]).collect();
    assert_eq!(tags.to_vec::<u32>().unwrap(), of_slots);
    let per_row = |tensor: &Tensor| tensor.to_vec::<f32>().unwrap().chunks(d).map(|row| row[0]).collect::<Vec<_>>();
    assert_eq!(per_row(&bank), [4.0, 4.0, 4.0, 5.0, 5.0, 5.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
    assert_eq!(
        per_row(&pool)[3..],
        [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 5.0, 5.0, 5.0, 0.0, 0.0]
    );
}

#[test]
fn a_fresh_bank_has_rows_of_unit_length() {
    let Some(runtime) = runtime() else { return };
    let (m, d) = (60, 20);
    let key = Key::new(5, 99, 3);
    let want = {
        let mut normal = reference::random::normal(&[m, d], 0.0, 1.0, key);
        for row in normal.data.chunks_exact_mut(d) {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            row.iter_mut().for_each(|v| *v /= norm);
        }
        normal
    };
    for dtype in floats(&runtime) {
        let got = download(&random_unit(&runtime, [m, d], dtype, key).unwrap()).unwrap();
        let bound = if dtype == DType::F16 { 6e-4 } else { 2e-6 };
        for (got, want) in got.iter().zip(&want.data) {
            assert!((got - want).abs() <= bound, "{got} for {want}, {dtype}");
        }
    }
}

#[test]
fn rows_of_a_pool_are_found_by_the_number_in_the_bank() {
    let Some(runtime) = runtime() else { return };
    let mut shapes = vec![(5, 23, 64, 8, 4), (3, 7, 12, 5, 9)];
    if !short() && limit() > 64 * 4096 {
        shapes.extend([(64, 3000, 4096, 64, 10), (256, 900, 16_384, 32, 5)]);
    }
    for (b, n, m, d, k) in shapes {
        let (q, q_host) = rows(&runtime, b, d, 1, DType::F32);
        // Every ninth row of the bank has none in the pool, one of them just past its end.
        let of = |j: usize| match j % 9 {
            4 if j.is_multiple_of(2) => n as u32,
            4 => NONE,
            _ => ((j * 7919 + 13) % n) as u32,
        };
        let named: Vec<u32> = (0..m).map(of).collect();
        let bank_tags: Vec<u32> = (0..m as u32).map(|j| j / 3 % 4).collect();
        let tags: Vec<u32> = (0..b as u32).map(|i| if i % 5 == 0 { NONE } else { i % 5 - 1 }).collect();
        let both = (words(&runtime, &tags), words(&runtime, &bank_tags));
        for dtype in floats(&runtime) {
            let (pool, host) = rows(&runtime, n, d, 2, dtype);
            let bank = Array::from_fn(&[m, d], |i| host.at(&[(named[i[0]] as usize).min(n - 1), i[1]]));
            for tagged in [false, true] {
                let tags_of = tagged.then_some(Tags { queries: &both.0, bank: &both.1 });
                let got = nearest_among(&q, &pool, &words(&runtime, &named), k, tags_of).unwrap();
                let counts = |i: usize, j: usize| {
                    (named[j] as usize) < n && (!tagged || tags[i] == NONE || tags[i] == bank_tags[j])
                };
                same_values(
                    &got,
                    &best(&q_host, &bank, k, counts),
                    &format!("{b} x {m} of {n} x {d} {dtype}, {tagged}"),
                );
                let ids = got.1.to_vec::<u32>().unwrap();
                for (i, row) in ids.chunks_exact(k).enumerate() {
                    assert!(row.iter().all(|id| *id == NONE || counts(i, *id as usize)), "query {i}: {row:?}");
                }
            }
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

/// As [`same`], where rows of the pool that the bank has several times come in the order of their numbers.
fn same_values(got: &(Tensor, Tensor), want: &[Vec<(u32, f64)>], what: &str) {
    let (values, ids) = (got.0.to_vec::<f32>().unwrap(), got.1.to_vec::<u32>().unwrap());
    if want.iter().all(|of| of.windows(2).all(|w| (w[0].1 - w[1].1).abs() > 1e-5)) {
        return same(got, want, what);
    }
    for (i, want) in want.iter().enumerate() {
        let (values, ids) = (&values[i * want.len()..], &ids[i * want.len()..]);
        for (j, (id, x)) in want.iter().enumerate() {
            assert!(
                (f64::from(values[j]) - x).abs() <= 2e-6,
                "{what}: query {i}, place {j}: {}, {x} wanted",
                values[j]
            );
            let alone = |other: usize| (want[other].1 - x).abs() > 1e-5;
            if (j == 0 || alone(j - 1)) && j + 1 < want.len() && alone(j + 1) {
                assert_eq!(ids[j], *id, "{what}: query {i}, place {j}");
            }
        }
    }
}

#[test]
fn a_search_of_a_pool_takes_little_memory_beside_it() {
    if adapter_runtime().is_none() || short() {
        return;
    }
    let mut options = options();
    options.guard = false;
    let runtime = Runtime::with_options(&device_choice(), options).unwrap();
    let (q, _) = rows(&runtime, 256, 64, 1, DType::F32);
    let named = words(&runtime, &(0..32_768).map(|j| j / 2).collect::<Vec<u32>>());
    for dtype in floats(&runtime) {
        let (pool, _) = rows(&runtime, 16_384, 64, 2, dtype);
        runtime.sync().unwrap();
        runtime.reset_peak_memory();
        let before = runtime.memory().peak_bytes;
        let found = nearest_among(&q, &pool, &named, 32, None).unwrap();
        let took = (runtime.memory().peak_bytes - before) as usize;
        assert!(took <= SCRATCH_BYTES, "{took} bytes for {dtype}");
        drop(found);
    }
}

#[test]
fn a_tally_is_that_of_a_replay() {
    let Some(runtime) = runtime() else { return };
    let (b, m, k, n_images) = (6, 30, 7, 19_u32);
    let pick = |n: usize, below: u64, seed: u64| -> Vec<u32> {
        values(&[n], &(0.0..below as f64), DType::U32, seed).data.iter().map(|v| *v as u32).collect()
    };
    let mut labels = pick(n_images as usize, 3, 1);
    (labels[4], labels[11]) = (NONE, NONE);
    let of_images = words(&runtime, &labels);
    let bank_ids = words(&runtime, &vec![n_images; m]);
    let totals = words(&runtime, &[0; 8]);
    // When each slot was filled, and with which image.
    let mut filled: Vec<Option<(u64, u32)>> = vec![None; m];
    // The count may start anywhere.
    let (mut want, mut at) = (Tally::default(), 4_294_967_280_u64);
    for t in 0..9_u64 {
        let ids = pick(b, u64::from(n_images) + 2, 10 + t);
        let step = words(&runtime, &[at as u32]);
        mark(&bank_ids, &words(&runtime, &ids), &step).unwrap();
        for i in 0..b {
            filled[reference::bank::slot(at as u32, i, b, m)] = Some((at, ids[i]));
        }
        let mut found = pick(b * k, m as u64 + 5, 30 + t);
        (0..b).for_each(|i| found[i * k] = reference::bank::slot(at as u32, i, b, m) as u32);
        for (i, row) in found.chunks_exact(k).enumerate() {
            for slot in row.iter().map(|slot| *slot as usize).filter(|slot| *slot < m) {
                let known = |id: u32| labels.get(id as usize).copied().filter(|label| *label != NONE);
                match filled[slot] {
                    _ if slot == reference::bank::slot(at as u32, i, b, m) => want.own += 1,
                    Some((then, id)) if id < n_images => {
                        want.neighbours += 1;
                        want.same_label += u32::from(known(id).is_some() && known(id) == known(ids[i]));
                        want.same_image += u32::from(id == ids[i]);
                        want.age += at - then;
                    }
                    _ => want.empty += 1,
                }
            }
        }
        let found = Tensor::from_slice(&runtime, &found, &[b, k]).unwrap();
        tally(&found, &bank_ids, &words(&runtime, &ids), &of_images, &step, &totals).unwrap();
        assert_eq!(read(&totals), want, "step {t}");
        at += 1;
    }
    assert!(want.own > 0 && want.empty > 0 && want.same_label > want.same_image && want.same_image > 0 && want.age > 0);
    // The age's low word wraps.
    totals.write(&[0, 0, 0, u32::MAX - 1, 0, 0, 7, 0]).unwrap();
    let found = Tensor::from_slice(&runtime, &vec![6_u32; b], &[b, 1]).unwrap();
    bank_ids.write(&vec![3_u32; m]).unwrap();
    tally(&found, &bank_ids, &words(&runtime, &vec![3; b]), &of_images, &words(&runtime, &[4]), &totals).unwrap();
    let want = Tally {
        neighbours: 6,
        same_label: 6,
        same_image: 6,
        age: (7 << 32) + u64::from(u32::MAX) - 1 + 18,
        own: 0,
        empty: 0,
    };
    assert_eq!(read(&totals), want);
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

fn read(totals: &Tensor) -> Tally {
    Tally::from_words(totals.to_vec::<u32>().unwrap().try_into().unwrap())
}

#[test]
fn what_does_not_fit_a_ring_is_named() {
    let Some(runtime) = runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let (bank, rows, step) = (zeros(&[6, 4], DType::F32), zeros(&[3, 4], DType::F32), zeros(&[1], DType::U32));
    let said = |result: Result<(), Error>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    said(enqueue(&zeros(&[7, 4], DType::F32), &rows, &step), "not a multiple of the batch");
    said(enqueue(&bank, &zeros(&[0, 4], DType::F32), &step), "not a multiple of the batch");
    said(enqueue(&zeros(&[0, 4], DType::F32), &rows, &step), "not a multiple of the batch");
    said(enqueue(&bank, &zeros(&[3, 5], DType::F32), &step), "d");
    said(enqueue(&zeros(&[6, 6], DType::F32), &zeros(&[3, 6], DType::F32), &step), "multiple of 4");
    said(enqueue(&zeros(&[6, 4], DType::U32), &rows, &step), "a float type and f32 wanted");
    said(enqueue(&bank, &rows, &zeros(&[2], DType::U32)), "u32 [1] wanted");
    said(enqueue(&bank, &bank.slice(0, 0..3).unwrap(), &step), "shares memory");
    said(enqueue(&zeros(&[4, 6], DType::F32).transpose().unwrap(), &rows, &step), "in place");
    said(enqueue(&bank.require_grad().unwrap(), &rows, &step), "gradient");
    let (tags, ids) = (zeros(&[6], DType::U32), zeros(&[3], DType::U32));
    said(mark(&zeros(&[7], DType::U32), &ids, &step), "not a multiple of the batch");
    said(mark(&zeros(&[6], DType::F32), &ids, &step), "u32 wanted");
    said(store_rows(&bank, &rows, &zeros(&[4], DType::U32)), "b");
    said(store_rows(&bank, &rows, &zeros(&[3], DType::F32)), "u32 wanted");
    let (found, totals) = (zeros(&[3, 2], DType::U32), zeros(&[8], DType::U32));
    said(tally(&found, &tags, &ids, &tags, &step, &zeros(&[7], DType::U32)), "8");
    said(tally(&found, &zeros(&[4], DType::U32), &ids, &tags, &step, &totals), "not a multiple of the batch");
    said(tally(&found, &tags, &ids, &totals, &step, &totals), "shares memory");
    said(random_unit(&runtime, [2, 4], DType::U32, Key::new(0, 0, 0)).map(drop), "float type");
    let q = zeros(&[2, 4], DType::F32);
    let among = |pool: &Tensor, rows: &Tensor| nearest_among(&q, pool, rows, 2, None).map(drop);
    said(among(&bank, &zeros(&[6], DType::U32)), "multiple of 4");
    said(among(&bank, &zeros(&[4], DType::F32)), "u32 [m] wanted");
    said(among(&zeros(&[0, 4], DType::F32), &zeros(&[4], DType::U32)), "without any");
    let (_, none) = nearest_among(&q, &bank, &zeros(&[0], DType::U32), 2, None).unwrap();
    assert_eq!(none.to_vec::<u32>().unwrap(), [NONE; 4]);
}
