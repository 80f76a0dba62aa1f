use crate::support::compare::{Tolerance, compare};
use crate::support::row::{Shapes, download, row, rows};
use crate::support::{limit, runtime, short};
use leanvision::ops::sort::{self, SortVariant};
use leanvision::reference::{Array, sort as reference};
use leanvision::{DType, Tensor};

const SIZES: &[usize] = &[0, 1, 3, 16, 255, 256, 257, 1023, 2047, 2048, 2049, 4097, 65_536, 1_000_003];
const SCANS: &[Shapes] = &[
    &[&[0]],
    &[&[1]],
    &[&[5]],
    &[&[255]],
    &[&[256]],
    &[&[1024]],
    &[&[1025]],
    &[&[4095]],
    &[&[4097]],
    &[&[70_001]],
    &[&[1_048_577]],
];

fn sizes() -> impl Iterator<Item = usize> {
    SIZES.iter().copied().filter(|n| *n <= if short() { 100_000 } else { limit() })
}

/// Pseudo-random words; the same for one `seed`.
fn words(n: usize, seed: u64) -> Vec<u32> {
    leanvision::reference::random::bits(n, leanvision::ops::random::Key::new(seed, 100, 0))
}

#[test]
fn scans_match_the_reference() {
    let scan = |variant, inclusive, dtype, range| {
        row(
            if inclusive { "inclusive_scan" } else { "exclusive_scan" },
            SCANS,
            range,
            move |x| sort::scan_with(variant, &x[0], inclusive),
            move |x| Array::new(&x[0].shape, reference::scan(&x[0].data, inclusive)),
        )
        .dtype(dtype)
    };
    let mut all = Vec::new();
    for variant in SortVariant::ALL {
        for inclusive in [false, true] {
            // Whole numbers whose sums stay below 2^31; floats of one sign, whose sums lose a rounding per level.
            all.push(scan(variant, inclusive, DType::U32, 0.0..400.0));
            all.push(scan(variant, inclusive, DType::I32, -300.0..300.0));
            all.push(scan(variant, inclusive, DType::F32, 0.0..1.0));
        }
    }
    rows(all);
}

#[test]
fn scans_wrap_and_the_public_ones_choose_a_variant() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::from_slice(&runtime, &[u32::MAX, 2, 3], &[3]).unwrap();
    assert_eq!(sort::inclusive_scan(&x).unwrap().to_vec::<u32>().unwrap(), [u32::MAX, 1, 4]);
    assert_eq!(sort::exclusive_scan(&x).unwrap().to_vec::<u32>().unwrap(), [0, u32::MAX, 1]);
}

#[test]
fn compaction_keeps_the_order() {
    let Some(runtime) = runtime() else { return };
    for variant in SortVariant::ALL {
        for n in sizes() {
            for one_in in [1, 2, 300, u32::MAX] {
                let flags: Vec<u32> = words(n, 1).iter().map(|w| if w % one_in == 0 { w | 1 } else { 0 }).collect();
                let (set, unset): (Vec<u32>, Vec<u32>) = (0..n as u32).partition(|i| flags[*i as usize] != 0);
                let flags = Tensor::from_slice(&runtime, &flags, &[n]).unwrap();
                let (indices, count) = sort::compact_with(variant, &flags).unwrap();
                assert_eq!(count.to_vec::<u32>().unwrap(), [set.len() as u32], "{variant:?} {n}");
                assert!(indices.to_vec::<u32>().unwrap() == [set, unset].concat(), "{variant:?} {n}, one in {one_in}");
            }
        }
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn pairs_sort_stably() {
    let Some(runtime) = runtime() else { return };
    for variant in SortVariant::ALL {
        for n in sizes() {
            let random = words(n, 2);
            let cases: [(&str, Vec<u32>, std::ops::Range<u32>); 10] = [
                ("random", random.clone(), 0..32),
                ("17 keys", random.iter().map(|w| (w % 17).wrapping_mul(0x0F0F_0F0F)).collect(), 0..32),
                ("one key", vec![0xFFFF_FFFF; n], 0..32),
                ("sorted", (0..n as u32).collect(), 0..32),
                ("reversed", (0..n as u32).rev().collect(), 0..32),
                ("20 bits", random.clone(), 0..20),
                ("one bit", random.clone(), 0..1),
                ("9 bits", random.clone(), 0..9),
                ("8 bits", random.clone(), 0..8),
                ("the upper 13 bits", random, 19..32),
            ];
            for (i, (name, keys, bits)) in cases.into_iter().enumerate() {
                if i > 1 && n > 100_000 {
                    break;
                }
                let mask = ((1_u64 << bits.end) - (1 << bits.start)) as u32;
                let mut want: Vec<(u32, f32)> = keys.iter().copied().zip((0..n).map(|i| i as f32 - 3.0)).collect();
                let values: Vec<f32> = want.iter().map(|(_, v)| *v).collect();
                want.sort_by_key(|(key, _)| key & mask);
                let keys = Tensor::from_slice(&runtime, &keys, &[n]).unwrap();
                let values = Tensor::from_slice(&runtime, &values, &[n]).unwrap();
                let (keys, values) = sort::sort_pairs_with(variant, &keys, &values, bits).unwrap();
                let got = keys.to_vec::<u32>().unwrap().into_iter().zip(values.to_vec::<f32>().unwrap());
                assert!(got.eq(want), "{variant:?}, {n} {name}");
            }
        }
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn numbers_of_every_type_sort_both_ways() {
    let Some(runtime) = runtime() else { return };
    for variant in SortVariant::ALL {
        for n in sizes() {
            let random = words(n, 3);
            // Every bit pattern, NaN and infinities among them, and small whole numbers with both zeros.
            let mut floats: Vec<f32> = random.iter().map(|w| f32::from_bits(*w)).collect();
            for (i, special) in [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN].iter().enumerate() {
                floats.iter_mut().skip(7 * i + 1).step_by(101).for_each(|v| *v = *special);
            }
            let tensors = [
                Tensor::from_slice(&runtime, &floats, &[n]).unwrap(),
                Tensor::from_slice(&runtime, &random.iter().map(|w| w.cast_signed()).collect::<Vec<_>>(), &[n])
                    .unwrap(),
                Tensor::from_slice(&runtime, &random, &[n]).unwrap(),
            ];
            for x in tensors {
                let data = download(&x).unwrap();
                for descending in [false, true] {
                    if n > 100_000 && (descending || x.dtype() != DType::F32) {
                        continue;
                    }
                    let (sorted, indices) = sort::sort_with(variant, &x, descending).unwrap();
                    let want = reference::argsort(&data, descending);
                    let indices = indices.to_vec::<u32>().unwrap();
                    let name = format!("{variant:?}, {n} {} {descending}", x.dtype());
                    assert!(indices.iter().map(|i| *i as usize).eq(want.iter().copied()), "{name}");
                    assert_eq!(sorted.dtype(), x.dtype());
                    let want: Vec<f64> = want.iter().map(|i| data[*i]).collect();
                    let exact = Tolerance { atol: 0.0, rtol: 0.0, allowed: 0 };
                    compare(&download(&sorted).unwrap(), &want, exact).unwrap_or_else(|e| panic!("{name}: {e}"));
                }
            }
        }
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn views_are_sorted_in_their_own_order() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::from_slice(&runtime, &[9_u32, 5, 1, 8, 4, 0, 7, 3, 2], &[3, 3]).unwrap();
    let column = x.transpose().unwrap().slice(0, 1..2).unwrap().reshape(&[3]).unwrap();
    assert_eq!(sort::argsort(&column, false).unwrap().to_vec::<u32>().unwrap(), [2, 1, 0]);
    assert_eq!(sort::exclusive_scan(&column).unwrap().to_vec::<u32>().unwrap(), [0, 5, 9]);
    let (keys, values) = sort::sort_pairs(&column, &column, 0..32).unwrap();
    assert_eq!((keys.to_vec::<u32>().unwrap(), values.to_vec::<u32>().unwrap()), (vec![3, 4, 5], vec![3, 4, 5]));
}

#[test]
fn wrong_arguments_are_named() {
    let Some(runtime) = runtime() else { return };
    let floats = Tensor::zeros(&runtime, &[4], DType::F32).unwrap();
    let (four, five) = ([4, 5]).map(|n| Tensor::zeros(&runtime, &[n], DType::U32).unwrap()).into();
    assert!(sort::sort_pairs(&floats, &floats, 0..32).unwrap_err().to_string().contains("keys f32 given"));
    assert!(sort::sort_pairs(&four, &five, 0..32).is_err());
    assert!(sort::sort_pairs(&four, &four, 3..3).is_err() && sort::sort_pairs(&four, &four, 0..33).is_err());
    assert!(sort::compact(&floats).is_err() && sort::sort(&four.reshape(&[2, 2]).unwrap(), false).is_err());
    assert!(sort::exclusive_scan(&Tensor::zeros(&runtime, &[4], DType::U8).unwrap()).is_err());
}
