use crate::support::compare::{Tolerance, compare};
use crate::support::row::download;
use crate::support::{limit, runtime, short};
use leanvision::ops::augment::{CropFlip, crop_flip};
use leanvision::ops::random::Key;
use leanvision::ops::{elementwise, gather};
use leanvision::philox::stream;
use leanvision::reference::{Array, augment as reference};
use leanvision::{DType, Runtime, Tensor};

const KEY: Key = Key::new(0x0123_4567_89ab_cdef, stream::CROP_FLIP, 9);

/// Images whose bytes tell where they come from, never black.
fn images(runtime: &Runtime, shape: &[usize]) -> (Tensor, Array) {
    let n: usize = shape.iter().product();
    let bytes: Vec<u8> = (0..n as u32).map(|i| (1 + (i.wrapping_mul(0x9E37_79B9) >> 9) % 255) as u8).collect();
    let host = Array::new(shape, bytes.iter().map(|v| f64::from(*v)).collect());
    (Tensor::from_slice(runtime, &bytes, shape).unwrap(), host)
}

fn ids(runtime: &Runtime, b: usize, n: usize) -> (Tensor, Vec<u32>) {
    // Now and then past the last.
    let host: Vec<u32> = (0..b as u32).map(|i| i.wrapping_mul(7) % (n as u32 + 1)).collect();
    (Tensor::from_slice(runtime, &host, &[b]).unwrap(), host)
}

fn floats(runtime: &Runtime, values: &[f64]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    Tensor::from_slice(runtime, &values, &[values.len()]).unwrap()
}

#[test]
fn pictures_equal_those_of_the_cpu() {
    let Some(runtime) = runtime() else { return };
    // Images [n, h, w, c] and pictures in the batch: whole vec4, odd sizes that straddle them, one pixel, none.
    let mut shapes: Vec<([usize; 4], usize)> = vec![
        ([5, 8, 8, 3], 16),
        ([5, 8, 8, 1], 16),
        ([3, 7, 5, 3], 13),
        ([3, 5, 3, 1], 13),
        ([1, 1, 1, 1], 7),
        ([2, 3, 5, 6], 3),
        ([2, 4, 4, 3], 0),
        ([0, 4, 4, 3], 0),
    ];
    if !short() && limit() > 4099 * 33 * 33 * 4 {
        shapes.push(([4, 33, 33, 4], 4099)); // past 65,535 workgroups
    }
    for (shape, b) in shapes {
        let (tensor, host) = images(&runtime, &shape);
        let (ids, host_ids) = ids(&runtime, b, shape[0]);
        let c = shape[3];
        // Powers of two and their multiples: exact in f32 whether or not an adapter fuses, and in f16 as well.
        let (scale, shift): (Vec<f64>, Vec<f64>) = (0..c).map(|c| (0.5 + 0.25 * c as f64, c as f64 - 2.0)).unzip();
        let (scales, shifts) = (floats(&runtime, &scale), floats(&runtime, &shift));
        let changes = [(4, true), (0, false), (0, true), (1, false), (9, true)];
        for &(pad, flip) in &changes[..if b > 4096 { 1 } else { changes.len() }] {
            let options = CropFlip { pad, flip, key: KEY };
            let want = reference::crop_flip(&host, &host_ids, &scale, &shift, &options);
            for dtype in [DType::F32, DType::F16] {
                if dtype == DType::F16 && !runtime.profile().features.f16 {
                    continue;
                }
                let out = crop_flip(&tensor, &ids, None, &scales, &shifts, &options, dtype).unwrap();
                assert_eq!((out.shape(), out.dtype()), (want.shape.as_slice(), dtype));
                assert!(download(&out).unwrap() == want.data, "{shape:?} x {b}, pad {pad}, flip {flip}, {dtype}");
            }
            assert_eq!(runtime.damaged_guards().unwrap(), 0, "{shape:?}: written past the end");
        }
    }
}

#[test]
fn views_are_taken_as_they_look() {
    let Some(runtime) = runtime() else { return };
    let (tensor, host) = images(&runtime, &[4, 3, 6, 5]);
    let view = tensor.permute(&[0, 2, 3, 1]).unwrap().slice(0, 1..4).unwrap();
    let want = Array::from_fn(&[3, 6, 5, 3], |i| host.at(&[i[0] + 1, i[3], i[1], i[2]]));
    let (all, host_ids) = ids(&runtime, 12, 3);
    let every_second = all.step(0, 2).unwrap();
    let taken: Vec<u32> = host_ids.into_iter().step_by(2).collect();
    let (one, zero) = (floats(&runtime, &[1.0; 3]), floats(&runtime, &[0.0; 3]));
    let options = CropFlip { pad: 2, flip: true, key: KEY };
    let out = crop_flip(&view, &every_second, None, &one, &zero, &options, DType::F32).unwrap();
    assert!(download(&out).unwrap() == reference::crop_flip(&want, &taken, &[1.0; 3], &[0.0; 3], &options).data);
}

#[test]
fn a_counter_on_the_device_counts_like_the_step() {
    let Some(runtime) = runtime() else { return };
    let (tensor, _) = images(&runtime, &[9, 5, 6, 1]);
    let (ids, _) = ids(&runtime, 12, 9);
    let (one, zero) = (floats(&runtime, &[1.0]), floats(&runtime, &[0.0]));
    let run = |step: u32, counter: Option<&Tensor>| {
        let options = CropFlip { pad: 3, flip: true, key: Key { step, ..KEY } };
        download(&crop_flip(&tensor, &ids, counter, &one, &zero, &options, DType::F32).unwrap()).unwrap()
    };
    let counter = Tensor::from_slice(&runtime, &[4_u32], &[1]).unwrap();
    let (want, other) = (run(7, None), run(3, None));
    assert!(want != other);
    assert!(run(3, Some(&counter)) == want);
    let ids = Tensor::from_slice(&runtime, &[4_u32, 5], &[2]).unwrap();
    let options = CropFlip { pad: 0, flip: false, key: KEY };
    let error = crop_flip(&tensor, &ids, Some(&ids), &one, &zero, &options, DType::F32).unwrap_err();
    assert!(error.to_string().contains("u32 [1] wanted"), "{error}");
}

#[test]
fn without_changes_it_is_a_normalised_pick() {
    let Some(runtime) = runtime() else { return };
    let (tensor, _) = images(&runtime, &[9, 11, 7, 3]);
    let (ids, _) = ids(&runtime, 20, 9);
    let (scale, shift) = (floats(&runtime, &[0.0173, 0.0175, 0.0177]), floats(&runtime, &[-2.12, -2.04, -1.8]));
    let options = CropFlip { pad: 0, flip: false, key: KEY };
    let out = crop_flip(&tensor, &ids, None, &scale, &shift, &options, DType::F32).unwrap();
    let picked = gather::index_select(&tensor, 0, &ids).unwrap();
    let want = elementwise::from_bytes(&picked, &scale, &shift, DType::F32).unwrap();
    // One of the two may be fused: half a unit in the last place of the product, which is below 5.
    let tolerance = Tolerance { atol: 5e-7, rtol: 0.0, allowed: 0 };
    compare(&download(&out).unwrap(), &download(&want).unwrap(), tolerance).unwrap();
}

#[test]
fn offsets_and_flips_are_uniform() {
    let Some(runtime) = runtime() else { return };
    // A single bright pixel says where it went: padded by 4, it lies in sight of every crop.
    let (side, b) = (9, 8100);
    let mut bytes = vec![0_u8; side * side];
    bytes[4 * side + 4] = 255;
    // What tells left from right.
    bytes[4 * side + 5] = 128;
    let image = Tensor::from_slice(&runtime, &bytes, &[1, side, side, 1]).unwrap();
    let ids = Tensor::zeros(&runtime, &[b], DType::U32).unwrap();
    let (one, zero) = (floats(&runtime, &[1.0]), floats(&runtime, &[0.0]));
    let run = |key| {
        let options = CropFlip { pad: 4, flip: true, key };
        crop_flip(&image, &ids, None, &one, &zero, &options, DType::F32).unwrap().to_vec::<f32>().unwrap()
    };
    let out = run(KEY);
    let mut counts = vec![0.0_f64; side * side];
    let mut flipped = 0.0;
    for picture in out.chunks_exact(side * side) {
        let at = picture.iter().position(|v| *v == 255.0).unwrap();
        counts[at] += 1.0;
        let column = at % side;
        let left = column > 0 && picture[at - 1] == 128.0;
        let right = column + 1 < side && picture[at + 1] == 128.0;
        // At the edge the second pixel may be out of sight, which says as much.
        let is_flipped = left || (column == 0 && !right);
        assert!(left != right || column == 0 || column + 1 == side);
        flipped += f64::from(u8::from(is_flipped));
    }
    // 81 places, 100 pictures each: chi-square with 80 degrees of freedom, standard deviation 12.6.
    let chi = counts.iter().map(|c| (c - 100.0_f64).powi(2) / 100.0).sum::<f64>();
    assert!((chi - 80.0).abs() < 50.0, "{chi}");
    // Standard deviation 45.
    assert!((flipped - 4050.0_f64).abs() < 180.0, "{flipped} of {b} flipped");
    // Other steps, streams and seeds draw otherwise; the same draw again gives the same.
    assert!(run(KEY) == out);
    for key in [Key { step: 10, ..KEY }, Key { stream: 77, ..KEY }, Key { seed: KEY.seed ^ (1 << 40), ..KEY }] {
        assert!(run(key) != out, "{key:?}");
    }
}

#[test]
fn wrong_arguments_are_named() {
    let Some(runtime) = runtime() else { return };
    let (tensor, _) = images(&runtime, &[2, 4, 4, 3]);
    let (ids, _) = ids(&runtime, 5, 2);
    let (one, zero) = (floats(&runtime, &[1.0; 3]), floats(&runtime, &[0.0; 3]));
    let options = CropFlip { pad: 4, flip: true, key: KEY };
    let said = |result: leanvision::Result<Tensor>, part: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    said(crop_flip(&ids, &ids, None, &one, &zero, &options, DType::F32), "[n, h, w, c]");
    said(crop_flip(&tensor, &ids, None, &floats(&runtime, &[1.0]), &zero, &options, DType::F32), "c");
    said(crop_flip(&tensor, &one, None, &one, &zero, &options, DType::F32), "u32 wanted");
    said(crop_flip(&tensor, &ids, None, &one, &zero, &options, DType::U8), "a float type wanted");
    let far = CropFlip { pad: 1 << 31, ..options };
    said(crop_flip(&tensor, &ids, None, &one, &zero, &far, DType::F32), "2^30");
    let none = tensor.slice(0, 0..0).unwrap();
    said(crop_flip(&none, &ids, None, &one, &zero, &options, DType::F32), "nothing to take");
    let wanted = one.require_grad().unwrap();
    said(crop_flip(&tensor, &ids, None, &wanted, &zero, &options, DType::F32), "no gradient");
}
