use crate::support::compare::{Tolerance, compare};
use crate::support::golden::{Golden, permuted};
use crate::support::row::{Row, Shapes, download, row, rows, upload, upload_view, values};
use leanvision::ops::elementwise::cast;
use leanvision::ops::gather as g;
use leanvision::reference::{Array, gather as reference};
use leanvision::{DType, Result, Tensor};

/// Every element type: copies must be exact in each.
const TYPES: [DType; 5] = [DType::F32, DType::F16, DType::U32, DType::I32, DType::U8];
const EXACT: Tolerance = Tolerance { atol: 0.0, rtol: 0.0, allowed: 0 };

/// One row per element type; values and ids are whole numbers, so that all types hold them.
fn copies(
    name: &'static str,
    cases: &'static [Shapes],
    op: impl Fn(&[Tensor]) -> Result<Tensor> + Copy + 'static,
    want: impl Fn(&[Array]) -> Array + Copy + 'static,
) -> impl Iterator<Item = Row> {
    let one = move |dtype| row(name, cases, 0.0..90.0, op, want).dtype(dtype).tolerance(EXACT);
    let typed = TYPES.into_iter().filter(|dtype| *dtype != DType::F16).map(one);
    let floor =
        move |x: &[Tensor]| op(&x.iter().map(leanvision::ops::elementwise::floor).collect::<Result<Vec<_>>>()?);
    let floored = move |x: &[Array]| {
        want(&x.iter().map(|x| leanvision::reference::elementwise::map(x, f64::floor)).collect::<Vec<_>>())
    };
    typed.chain([row(name, cases, 0.0..90.0, floor, floored).tolerance(EXACT).f16(EXACT)])
}

fn ids(x: &Tensor) -> Result<Tensor> {
    cast(x, DType::U32)
}

#[test]
fn selection_along_any_axis_matches_the_reference() {
    // Rows of whole vec4, of whole words, of neither; ids past the axis; more rows than one dimension of a grid holds.
    const FIRST: &[Shapes] = &[
        &[&[100, 8], &[37]],
        &[&[100, 7], &[37]],
        &[&[64, 32], &[63]],
        &[&[5, 3, 2, 4], &[65]],
        &[&[91, 1], &[1]],
        &[&[1, 1], &[4]],
        &[&[7, 257], &[9]],
        &[&[90], &[131]],
        &[&[7, 3], &[0]],
        &[&[3, 0], &[5]],
        &[&[90], &[4_300_003]],
    ];
    const MIDDLE: &[Shapes] = &[&[&[3, 11, 8], &[5]], &[&[4, 90, 3], &[17]], &[&[2, 3, 90, 1, 5], &[70]]];
    let at = |axis| {
        move |x: &[Tensor]| {
            let axis = if x[0].rank() > 3 { axis + 1 } else { axis };
            g::index_select(&x[0], axis, &ids(&x[1])?)
        }
    };
    let by_reference =
        |axis| move |x: &[Array]| reference::index_select(&x[0], axis + usize::from(x[0].shape.len() > 3), &x[1]);
    rows(
        copies(
            "gather_rows",
            FIRST,
            |x| g::gather_rows(&x[0], &ids(&x[1])?),
            |x| reference::index_select(&x[0], 0, &x[1]),
        )
        .chain(copies("index_select", MIDDLE, at(1), by_reference(1)))
        .chain(copies("index_select", &MIDDLE[..2], at(2), by_reference(2)))
        .chain(copies(
            "embedding",
            &[&[&[90, 8], &[3, 5]], &[&[70, 3], &[2, 1, 7]], &[&[9, 5], &[]], &[&[9, 64], &[0]]],
            |x| g::embedding(&x[0], &ids(&x[1])?),
            |x| reference::embedding(&x[0], &x[1]),
        )),
    );
}

#[test]
fn selection_reads_views_without_a_copy() {
    let Some(runtime) = crate::support::runtime() else { return };
    for dtype in [DType::U8, DType::F32, DType::U32] {
        let images = values(&[9, 5, 4, 3], &(0.0..256.0), dtype, 3);
        let picked = values(&[3, 2], &(0.0..9.0), DType::U32, 5);
        let tensor = upload(&runtime, &images, dtype).unwrap();
        // Ids that lie apart, images that begin at an odd place, rows of a picture with a column cut off.
        let apart = upload_view(&runtime, &picked, DType::U32).unwrap().slice(1, 1..2).unwrap().reshape(&[3]).unwrap();
        let ids = apart.contiguous().unwrap();
        let want_ids = Array::from_fn(&[3], |i| picked.at(&[i[0], 1]));
        let later = tensor.slice(0, 1..9).unwrap();
        let narrow = tensor.slice(2, 1..4).unwrap();
        let before = runtime.counts().dispatches;
        let (got_later, got_narrow) =
            (g::index_select(&later, 0, &ids).unwrap(), g::index_select(&narrow, 1, &ids).unwrap());
        assert_eq!(runtime.counts().dispatches - before, 2, "{dtype}: one dispatch each");
        let cut = |axis: usize, from: usize| {
            let mut shape = images.shape.clone();
            shape[axis] = if axis == 0 { 8 } else { 3 };
            Array::from_fn(&shape, |index| {
                let mut own = index.to_vec();
                own[axis] += from;
                images.at(&own)
            })
        };
        let pairs = [
            (got_later, reference::index_select(&cut(0, 1), 0, &want_ids)),
            (got_narrow, reference::index_select(&cut(2, 1), 1, &want_ids)),
            (g::gather_rows(&tensor, &apart).unwrap(), reference::index_select(&images, 0, &want_ids)),
        ];
        for (got, want) in pairs {
            assert_eq!(got.shape(), want.shape);
            compare(&download(&got).unwrap(), &want.data, EXACT).unwrap_or_else(|e| panic!("{dtype}: {e}"));
        }
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn ids_past_the_axis_take_its_last_index() {
    let Some(runtime) = crate::support::runtime() else { return };
    let x = Tensor::from_slice(&runtime, &[1.0_f32, 2.0, 3.0], &[3, 1]).unwrap();
    let ids = Tensor::from_slice(&runtime, &[0_u32, 2, 3, u32::MAX], &[4]).unwrap();
    assert_eq!(g::embedding(&x, &ids).unwrap().to_vec::<f32>().unwrap(), [1.0, 3.0, 3.0, 3.0]);
    assert_eq!(g::one_hot(&ids, 3).unwrap().to_vec::<f32>().unwrap()[6..], [0.0; 6]);
}

#[test]
fn joining_along_any_axis_matches_the_reference() {
    const JOINED: &[Shapes] = &[
        &[&[2, 3, 8], &[2, 5, 8]],
        &[&[2, 3, 5], &[2, 1, 5], &[2, 7, 5]],
        &[&[1, 1, 1], &[1, 2, 1], &[1, 0, 1]],
        &[&[3, 63, 4], &[3, 65, 4]],
        &[&[70, 1, 1], &[70, 1, 1], &[70, 2, 1], &[70, 3, 1]],
        &[&[0, 3, 2], &[0, 1, 2]],
        &[&[70_003, 3, 8], &[70_003, 1, 8]],
    ];
    const EQUAL: &[Shapes] = &[&[&[4, 8], &[4, 8]], &[&[3, 5], &[3, 5], &[3, 5]], &[&[], &[]], &[&[0, 2], &[0, 2]]];
    fn join(axis: usize) -> impl Fn(&[Tensor]) -> Result<Tensor> + Copy {
        move |x| g::concat(&x.iter().collect::<Vec<_>>(), axis)
    }
    rows(
        copies("concat", JOINED, join(1), |x| reference::concat(x, 1))
            .chain(copies("concat", &[&[&[5, 4], &[1, 4]], &[&[3], &[6]]], join(0), |x| reference::concat(x, 0)))
            .chain(copies("concat", &[&[&[2, 2, 2, 2, 2, 3], &[2, 2, 2, 2, 2, 5]]], join(5), |x| {
                reference::concat(x, 5)
            }))
            .chain(copies(
                "stack first",
                EQUAL,
                |x| g::stack(&x.iter().collect::<Vec<_>>(), 0),
                |x| reference::stack(x, 0),
            ))
            .chain(copies(
                "stack last",
                EQUAL,
                |x| g::stack(&x.iter().collect::<Vec<_>>(), x[0].rank()),
                |x| reference::stack(x, x[0].shape.len()),
            )),
    );
}

#[test]
fn flip_and_pad_match_the_reference() {
    const IMAGES: &[Shapes] = &[
        &[&[2, 5, 4, 3]],
        &[&[2, 4, 4, 8]],
        &[&[1, 1, 1, 1]],
        &[&[3, 17, 15, 4]],
        &[&[0, 2, 2, 3]],
        &[&[7, 100, 99, 31]],
    ];
    const SIX: &[Shapes] = &[&[&[2, 3, 2, 3, 2, 4]], &[&[3, 2, 1, 2, 3, 5]]];
    const ROUND: [(usize, usize); 4] = [(0, 0), (4, 4), (4, 3), (0, 0)];
    const ODD: [(usize, usize); 4] = [(1, 0), (0, 2), (3, 1), (0, 5)];
    const EACH: [(usize, usize); 6] = [(1, 0), (0, 1), (2, 1), (0, 3), (1, 1), (4, 0)];
    rows(
        copies("flip x", IMAGES, |x| g::flip(&x[0], &[2]), |x| reference::flip(&x[0], &[2]))
            .chain(copies("flip y, x", IMAGES, |x| g::flip(&x[0], &[1, 2]), |x| reference::flip(&x[0], &[1, 2])))
            .chain(copies("flip n, c", IMAGES, |x| g::flip(&x[0], &[0, 3]), |x| reference::flip(&x[0], &[0, 3])))
            .chain(copies("flip none", &IMAGES[..2], |x| g::flip(&x[0], &[]), |x| x[0].clone()))
            .chain(copies("flip of six", SIX, |x| g::flip(&x[0], &[1, 3, 5]), |x| reference::flip(&x[0], &[1, 3, 5])))
            .chain(copies("pad", IMAGES, |x| g::pad(&x[0], &ROUND, 0.0), |x| reference::pad(&x[0], &ROUND, 0.0)))
            .chain(copies("pad all", IMAGES, |x| g::pad(&x[0], &ODD, 7.0), |x| reference::pad(&x[0], &ODD, 7.0)))
            .chain(copies("pad six", SIX, |x| g::pad(&x[0], &EACH, 1.0), |x| reference::pad(&x[0], &EACH, 1.0)))
            .chain(copies(
                "pad a list",
                &[&[&[5]], &[&[0]], &[&[64]]],
                |x| g::pad(&x[0], &[(4, 8)], 0.0),
                |x| reference::pad(&x[0], &[(4, 8)], 0.0),
            )),
    );
}

#[test]
fn slices_become_contiguous_like_any_view() {
    rows(copies(
        "slice",
        &[&[&[6, 9, 4]], &[&[5, 7, 3]]],
        |x| x[0].slice(1, 2..6)?.slice(0, 1..4)?.contiguous(),
        |x| Array::from_fn(&[3, 4, x[0].shape[2]], |i| x[0].at(&[i[0] + 1, i[1] + 2, i[2]])),
    ));
}

#[test]
fn resizing_matches_the_reference() {
    const IMAGES: &[Shapes] = &[
        &[&[2, 5, 4, 3]],
        &[&[1, 9, 11, 8]],
        &[&[2, 1, 1, 4]],
        &[&[1, 7, 5, 1]],
        &[&[0, 3, 3, 2]],
        &[&[1, 33, 31, 65]],
    ];
    // Source points are rounded to 2^-24 of their size, here below 33, so values up to 9 move by 9 * 33 * 2^-24 = 2e-5.
    let tolerance = Tolerance { atol: 4e-5, rtol: 1e-5, allowed: 0 };
    let bilinear = |out, aligned| {
        row(
            "resize_bilinear",
            IMAGES,
            -9.0..9.0,
            move |x| g::resize_bilinear(&x[0], out, aligned),
            move |x| reference::resize_bilinear(&x[0], out, aligned),
        )
        .tolerance(tolerance)
        .f16(Tolerance { atol: 1e-4, ..Tolerance::F16 })
    };
    let nearest = |out| {
        copies(
            "resize_nearest",
            IMAGES,
            move |x| g::resize_nearest(&x[0], out),
            move |x| reference::resize_nearest(&x[0], out),
        )
    };
    let sizes = [[9, 11], [5, 4], [3, 7], [1, 1], [64, 2]];
    rows(sizes.into_iter().flat_map(|out| nearest(out).chain([bilinear(out, false), bilinear(out, true)])));
}

#[test]
fn bilinear_resizing_is_that_of_pytorch() {
    let Some(runtime) = crate::support::runtime() else { return };
    let golden = Golden::open();
    let cases = golden.cases("resize_bilinear");
    assert_eq!(cases.len(), 14);
    for case in cases {
        let aligned = case.params["align_corners"].as_bool().unwrap();
        let nhwc = |role| permuted(&case.need(role), &[0, 2, 3, 1]);
        let x = upload(&runtime, &nhwc("x"), DType::F32).unwrap();
        let out = g::resize_bilinear(&x, case.pair("size", 0), aligned).unwrap();
        let want = nhwc("out");
        assert_eq!(out.shape(), want.shape);
        // Outputs are rounded to f32 once, and the kernel rounds a handful of times below 1.
        let tolerance = Tolerance { atol: 1e-6, rtol: 1e-6, allowed: 0 };
        compare(&download(&out).unwrap(), &want.data, tolerance).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    }
}

#[test]
fn one_hot_rows_match_the_reference() {
    fn of(n: usize) -> [Row; 1] {
        const IDS: &[Shapes] = &[&[&[17]], &[&[3, 5]], &[&[]], &[&[0]], &[&[4099]]];
        [row("one_hot", IDS, 0.0..12.0, move |x| g::one_hot(&x[0], n), move |x| reference::one_hot(&x[0], n))
            .dtype(DType::U32)]
    }
    rows([1, 3, 8, 10, 65].into_iter().flat_map(of));
}

#[test]
fn gradients_match_differences() {
    const SIX: &[Shapes] = &[&[&[2, 3, 2, 3, 2, 4]], &[&[3, 2, 1, 2, 3, 5]]];
    const EACH: [(usize, usize); 6] = [(1, 0), (0, 1), (2, 1), (0, 3), (1, 1), (4, 0)];
    const IMAGES: &[Shapes] =
        &[&[&[2, 5, 4, 3]], &[&[1, 9, 11, 8]], &[&[2, 1, 1, 4]], &[&[1, 7, 5, 1]], &[&[1, 1, 6, 4]]];
    // Copies and sums of a few copies.
    let grads = |row: Row, inputs: &'static [usize]| row.grad(inputs, Tolerance::F32);
    let select = |axis| {
        row(
            "index_select",
            // The last case has all ids past the axis, the ones before it ids in and past it.
            &[&[&[3, 11, 8], &[70]], &[&[4, 40, 3], &[17]], &[&[2, 3, 5], &[200]], &[&[1, 1, 4], &[9]]],
            0.0..20.0,
            move |x| g::index_select(&x[0], axis, &ids(&x[1])?),
            move |x| reference::index_select(&x[0], axis, &x[1]),
        )
    };
    let resized = [[9, 11], [5, 4], [3, 7], [1, 1], [64, 2], [17, 23]].into_iter().flat_map(|out| {
        let bilinear = move |aligned| {
            row(
                "resize_bilinear",
                IMAGES,
                -1.0..1.0,
                move |x| g::resize_bilinear(&x[0], out, aligned),
                move |x| reference::resize_bilinear(&x[0], out, aligned),
            )
        };
        let nearest = row(
            "resize_nearest",
            IMAGES,
            -1.0..1.0,
            move |x| g::resize_nearest(&x[0], out),
            move |x| reference::resize_nearest(&x[0], out),
        );
        // Up to 64 outputs read a pixel, each with a weight that is off by 64 x 2^-24; see the test of the values.
        let tolerance = Tolerance { atol: 2e-5, rtol: 2e-5, allowed: 0 };
        [bilinear(false), bilinear(true), nearest].map(|row| row.tolerance(tolerance).grad(&[0], tolerance))
    });
    let copied = [
        grads(select(0), &[0]),
        grads(select(1), &[0]),
        grads(select(2), &[0]),
        grads(
            row(
                "embedding",
                &[&[&[9, 8], &[3, 5]], &[&[7, 3], &[2, 1, 7]], &[&[9, 5], &[]], &[&[9, 64], &[0]]],
                0.0..12.0,
                |x| g::embedding(&x[0], &ids(&x[1])?),
                |x| reference::embedding(&x[0], &x[1]),
            ),
            &[0],
        ),
        grads(
            row(
                "concat",
                &[&[&[2, 3, 5], &[2, 1, 5], &[2, 7, 5]], &[&[1, 1, 1], &[1, 2, 1], &[1, 0, 1]]],
                -1.0..1.0,
                |x| g::concat(&[&x[0], &x[1], &x[2]], 1),
                |x| reference::concat(x, 1),
            ),
            &[0, 1, 2],
        ),
        grads(
            row("concat one", &[&[&[3, 2]]], -1.0..1.0, |x| g::concat(&[&x[0]], 1), |x| reference::concat(x, 1)),
            &[0],
        ),
        grads(
            row(
                "stack",
                &[&[&[3, 5], &[3, 5], &[3, 5]], &[&[], &[], &[]]],
                -1.0..1.0,
                |x| g::stack(&[&x[0], &x[1], &x[2]], x[0].rank()),
                |x| reference::stack(x, x[0].shape.len()),
            ),
            &[0, 1, 2],
        ),
        grads(
            row("flip", SIX, -1.0..1.0, |x| g::flip(&x[0], &[1, 3, 5]), |x| reference::flip(&x[0], &[1, 3, 5])),
            &[0],
        ),
        grads(row("pad", SIX, -1.0..1.0, |x| g::pad(&x[0], &EACH, 1.0), |x| reference::pad(&x[0], &EACH, 1.0)), &[0]),
    ];
    rows(copied.into_iter().chain(resized));
}

#[test]
fn a_pixel_enlarged_too_far_is_refused_on_software_adapters() {
    let Some(runtime) = crate::support::runtime() else { return };
    if !runtime.profile().is_software() {
        return;
    }
    let x = Tensor::zeros(&runtime, &[1, 1, 1, 1], DType::F32).unwrap().require_grad().unwrap();
    let out = g::resize_nearest(&x, [1, 30_000]).unwrap();
    let error = out.backward_with(&out.detach()).unwrap_err();
    assert!(matches!(error, leanvision::Error::Limit { .. }), "{error}");
}

#[test]
fn wrong_arguments_are_named() {
    let Some(runtime) = crate::support::runtime() else { return };
    let x = Tensor::zeros(&runtime, &[2, 3], DType::F32).unwrap();
    let y = Tensor::zeros(&runtime, &[2, 4], DType::F32).unwrap();
    let ids = Tensor::zeros(&runtime, &[5], DType::U32).unwrap();
    let none = Tensor::zeros(&runtime, &[0, 3], DType::F32).unwrap();
    let said = |result: Result<Tensor>, part: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    said(g::index_select(&x, 2, &ids), "axis 2");
    said(g::index_select(&x, 0, &x), "u32 wanted");
    said(g::gather_rows(&none, &ids), "nothing to take");
    said(g::gather_rows(&x, &ids.reshape(&[5, 1]).unwrap()), "[m]");
    said(g::embedding(&ids, &ids), "[v, d]");
    said(g::concat(&[], 0), "no tensors");
    said(g::concat(&[&x, &y], 0), "differ in more than axis 0");
    said(g::concat(&[&x, &ids.reshape(&[5, 1]).unwrap()], 1), "f32 and u32");
    said(g::stack(&[&x, &y], 0), "differ");
    said(g::stack(&[], 0), "no tensors");
    said(g::flip(&x, &[2]), "axis 2");
    said(g::pad(&x, &[(1, 1)], 0.0), "1 pairs");
    said(g::resize_bilinear(&x, [2, 2], false), "[n, h, w, c]");
    said(g::resize_nearest(&x, [2, 2]), "[n, h, w, c]");
    said(g::resize_bilinear(&ids, [2, 2], false), "a float type");
    said(g::one_hot(&x, 3), "u32 wanted");
}
