//! Functions over vectors and matrices against results worked out by hand.

use super::super::lanes::round_f16;
use super::super::lanes::tests::{NASTY, SCALARS};
use super::*;
use MathFunction as Fun;

/// Every function that mixes components.
const FUNCTIONS: [Fun; 34] = [
    Fun::Dot,
    Fun::Dot4I8Packed,
    Fun::Dot4U8Packed,
    Fun::Outer,
    Fun::Cross,
    Fun::Distance,
    Fun::Length,
    Fun::Normalize,
    Fun::FaceForward,
    Fun::Reflect,
    Fun::Refract,
    Fun::Transpose,
    Fun::Determinant,
    Fun::Inverse,
    Fun::Modf,
    Fun::Frexp,
    Fun::Pack4x8snorm,
    Fun::Pack4x8unorm,
    Fun::Pack2x16snorm,
    Fun::Pack2x16unorm,
    Fun::Pack2x16float,
    Fun::Pack4xI8,
    Fun::Pack4xU8,
    Fun::Pack4xI8Clamp,
    Fun::Pack4xU8Clamp,
    Fun::Unpack4x8snorm,
    Fun::Unpack4x8unorm,
    Fun::Unpack2x16snorm,
    Fun::Unpack2x16unorm,
    Fun::Unpack2x16float,
    Fun::Unpack4xI8,
    Fun::Unpack4xU8,
    // Component-wise, none of this file's.
    Fun::Abs,
    Fun::Mix,
];

/// Every shape of a value.
fn shapes() -> Vec<Shape> {
    let matrices = (2..=4).flat_map(|columns| (2..=4).map(move |rows| Shape::matrix(columns, rows)));
    (1..=4).map(Shape::vector).chain(matrices).collect()
}

/// One lane of `whole`.
fn run_bits(whole: Option<Whole>, args: &[&[u32]]) -> Vec<u32> {
    let whole = whole.unwrap_or_else(|| panic!("this function is missing"));
    let sizes: Vec<usize> = whole.arguments().into_iter().filter(|&size| size > 0).collect();
    assert_eq!(sizes, args.iter().map(|arg| arg.len()).collect::<Vec<_>>(), "components of the arguments");
    let mut out = vec![0xdead_beef; whole.result()];
    let arg = |at: usize| args.get(at).copied().unwrap_or(&[]);
    whole.apply(1, [arg(0), arg(1), arg(2)], &mut out);
    out
}

fn run(whole: Option<Whole>, args: &[&[f32]]) -> Vec<f32> {
    let bits: Vec<Vec<u32>> = args.iter().map(|arg| arg.iter().map(|x| x.to_bits()).collect()).collect();
    let args: Vec<&[u32]> = bits.iter().map(Vec::as_slice).collect();
    run_bits(whole, &args).into_iter().map(f32::from_bits).collect()
}

/// A function of vectors as long as the first argument.
fn vectors(fun: Fun, args: &[&[f32]]) -> Vec<f32> {
    run(Whole::math(fun, Scalar::F32, Shape::vector(args[0].len())), args)
}

/// The same in f16.
fn halves(fun: Fun, args: &[&[f32]]) -> Vec<f32> {
    run(Whole::math(fun, Scalar::F16, Shape::vector(args[0].len())), args)
}

/// A function of a square matrix.
fn matrices(fun: Fun, n: usize, a: &[f32]) -> Vec<f32> {
    run(Whole::math(fun, Scalar::F32, Shape::matrix(n, n)), &[a])
}

#[test]
fn dot_products_sum_from_the_left() {
    assert_eq!(vectors(Fun::Dot, &[&[1.0, 2.0, 3.0], &[4.0, -5.0, 6.0]]), [12.0]);
    // From the right, or fused, the 1 would survive.
    assert_eq!(vectors(Fun::Dot, &[&[1.0, 1e8, -1e8], &[1.0, 1.0, 1.0]]), [0.0]);
    let x = 1.0 + f32::EPSILON;
    assert_eq!(vectors(Fun::Dot, &[&[-1.0 - 2.0 * f32::EPSILON, x], &[1.0, x]]), [0.0]);
    assert_eq!(halves(Fun::Dot, &[&[2048.0, 1.0, 1.0, 1.0], &[1.0; 4]]), [2048.0]);
    // 65,536 is past f16, though the whole sum is 0.
    assert!(halves(Fun::Dot, &[&[256.0, 256.0], &[256.0, -256.0]])[0].is_nan());
    let ints = |scalar, a: &[u32], b: &[u32]| run_bits(Whole::math(Fun::Dot, scalar, Shape::vector(a.len())), &[a, b]);
    assert_eq!(ints(Scalar::I32, &[u32::MAX, 3], &[7, 2]), [u32::MAX]);
    assert_eq!(ints(Scalar::U32, &[0x8000_0000, 5, 1], &[2, 3, 4]), [19]);
    let packed = |fun, a, b| run_bits(Whole::math(fun, Scalar::U32, Shape::SCALAR), &[&[a], &[b]])[0];
    assert_eq!(packed(Fun::Dot4U8Packed, 0xff02_0301, 0xff01_0a05), 255 * 255 + 2 + 30 + 5);
    assert_eq!(packed(Fun::Dot4I8Packed, 0xff80_0301, 0x0180_0a05).cast_signed(), -1 + 128 * 128 + 30 + 5);
}

#[test]
fn vector_geometry() {
    assert_eq!(vectors(Fun::Cross, &[&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]]), [-3.0, 6.0, -3.0]);
    assert_eq!(vectors(Fun::Length, &[&[2.0, 3.0, 6.0]]), [7.0]);
    assert_eq!(vectors(Fun::Length, &[&[-1e30]]), [1e30]);
    assert_eq!(vectors(Fun::Distance, &[&[1.0, 2.0], &[4.0, -2.0]]), [5.0]);
    assert_eq!(vectors(Fun::Normalize, &[&[0.0, 3.0, 0.0, -4.0]]), [0.0, 0.6, 0.0, -0.8]);
    assert!(vectors(Fun::Normalize, &[&[0.0, 0.0]]).iter().all(|x| x.is_nan()));
    assert_eq!(halves(Fun::Length, &[&[256.0, 0.0]]), [f32::INFINITY]);
    assert_eq!(halves(Fun::Normalize, &[&[1.0, 1.0]]), [round_f16(1.0 / round_f16(2.0_f32.sqrt())); 2]);
    assert_eq!(vectors(Fun::FaceForward, &[&[1.0, 2.0], &[0.0, -1.0], &[0.0, 1.0]]), [1.0, 2.0]);
    assert_eq!(vectors(Fun::FaceForward, &[&[1.0, 2.0], &[0.0, 1.0], &[0.0, 1.0]]), [-1.0, -2.0]);
    assert_eq!(vectors(Fun::FaceForward, &[&[1.0, 2.0], &[1.0, 0.0], &[0.0, 1.0]]), [-1.0, -2.0]);
    assert_eq!(vectors(Fun::Reflect, &[&[1.0, -1.0, 0.5], &[0.0, 1.0, 0.0]]), [1.0, 1.0, 0.5]);
}

#[test]
fn refraction_bends_and_reflects_totally() {
    // From glass of 1.5 to air past the critical angle of 41.8 degrees nothing is let through.
    assert_eq!(vectors(Fun::Refract, &[&[0.8, -0.6], &[0.0, 1.0], &[1.5]]), [0.0, 0.0]);
    // Straight down stays straight; sine 0.8 over a ratio of 0.75 becomes sine 0.6.
    assert_eq!(vectors(Fun::Refract, &[&[0.0, -1.0], &[0.0, 1.0], &[1.5]]), [0.0, -1.0]);
    let bent = vectors(Fun::Refract, &[&[0.8, -0.6, 0.0], &[0.0, 1.0, 0.0], &[0.75]]);
    let wanted = [0.6, -0.8, 0.0];
    assert!(bent.iter().zip(wanted).all(|(x, y): (&f32, f32)| (x - y).abs() < 2e-7), "{bent:?}");
}

#[test]
fn fractions_and_exponents_stand_one_behind_the_other() {
    assert_eq!(vectors(Fun::Modf, &[&[1.5, -2.25, 3.0]]), [0.5, -0.25, 0.0, 1.0, -2.0, 3.0]);
    let frexp = |x: &[f32]| {
        let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
        let out = run_bits(Whole::math(Fun::Frexp, Scalar::F32, Shape::vector(x.len())), &[&bits]);
        let (fract, exp) = out.split_at(x.len());
        let fract: Vec<f32> = fract.iter().map(|&x| f32::from_bits(x)).collect();
        (fract, exp.iter().map(|x| x.cast_signed()).collect::<Vec<_>>())
    };
    assert_eq!(frexp(&[8.0, -0.75, 0.0]), (vec![0.5, -0.75, 0.0], vec![4, 0, 0]));
    assert_eq!(frexp(&[f32::from_bits(1), f32::MAX]), (vec![0.5, 1.0 - f32::EPSILON / 2.0], vec![-148, 128]));
    assert_eq!(frexp(&[f32::INFINITY]), (vec![f32::INFINITY], vec![0]));
}

#[test]
fn matrices_are_transposed_and_multiplied_column_by_column() {
    let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    // Two columns of three rows.
    let transposed = run(Whole::math(Fun::Transpose, Scalar::F32, Shape::matrix(2, 3)), &[&a]);
    assert_eq!(transposed, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let product = |left, right, a: &[f32], b: &[f32]| run(Whole::product(Scalar::F32, left, right), &[a, b]);
    let wide = product(Shape::matrix(2, 3), Shape::matrix(3, 2), &a, &[1.0, 0.0, 0.0, 1.0, 2.0, -1.0]);
    assert_eq!(wide, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -2.0, -1.0, 0.0]);
    let right = product(Shape::matrix(2, 3), Shape::vector(2), &a, &[10.0, 1.0]);
    assert_eq!(right, [14.0, 25.0, 36.0]);
    let left = product(Shape::vector(3), Shape::matrix(2, 3), &[100.0, 10.0, 1.0], &a);
    assert_eq!(left, [123.0, 456.0]);
    assert_eq!(
        product(Shape::matrix(2, 2), Shape::matrix(2, 2), &[1.0, 3.0, 2.0, 4.0], &[5.0, 7.0, 6.0, 8.0]),
        [19.0, 43.0, 22.0, 50.0]
    );
    let half = Whole::product(Scalar::F16, Shape::matrix(2, 2), Shape::vector(2));
    assert_eq!(run(half, &[&[2048.0, 60_000.0, 1.0, 10_000.0], &[1.0, 1.0]]), [2048.0, f32::INFINITY]);
    for (left, right) in [
        (Shape::matrix(2, 3), Shape::vector(3)),
        (Shape::vector(2), Shape::matrix(2, 3)),
        (Shape::vector(3), Shape::vector(3)),
        (Shape::SCALAR, Shape::matrix(2, 2)),
    ] {
        assert_eq!(Whole::product(Scalar::F32, left, right), None, "{left:?} {right:?}");
    }
    assert_eq!(Whole::product(Scalar::I32, Shape::matrix(2, 2), Shape::vector(2)), None);
    let outer = run(Whole::math(Fun::Outer, Scalar::F32, Shape::vector(2)), &[&[1.0, 2.0], &[3.0, 4.0]]);
    assert_eq!(outer, [3.0, 6.0, 4.0, 8.0]);
}

#[test]
fn determinants_and_inverses_of_known_matrices() {
    assert_eq!(matrices(Fun::Determinant, 2, &[1.0, 2.0, 3.0, 4.0]), [-2.0]);
    assert_eq!(matrices(Fun::Determinant, 3, &[2.0, 0.0, 1.0, 1.0, 3.0, 2.0, 1.0, 1.0, 4.0]), [18.0]);
    let four = [1.0, 0.0, 2.0, -1.0, 3.0, 0.0, 0.0, 5.0, 2.0, 1.0, 4.0, -3.0, 1.0, 0.0, 5.0, 0.0];
    assert_eq!(matrices(Fun::Determinant, 4, &four), [30.0]);
    assert_eq!(matrices(Fun::Inverse, 2, &[1.0, 3.0, 2.0, 4.0]), [-2.0, 1.5, 1.0, -0.5]);
    let three = matrices(Fun::Inverse, 3, &[1.0, 0.0, 5.0, 2.0, 1.0, 6.0, 3.0, 4.0, 0.0]);
    assert_eq!(three, [-24.0, 20.0, -5.0, 18.0, -15.0, 4.0, 5.0, -4.0, 1.0]);
    let inverse = matrices(Fun::Inverse, 4, &four);
    let one = run(Whole::product(Scalar::F32, Shape::matrix(4, 4), Shape::matrix(4, 4)), &[&four, &inverse]);
    for (at, x) in one.into_iter().enumerate() {
        let wanted = if at % 5 == 0 { 1.0 } else { 0.0 };
        assert!((x - wanted).abs() < 1e-6, "element {at} is {x}");
    }
    assert!(matrices(Fun::Inverse, 2, &[1.0, 2.0, 2.0, 4.0]).iter().all(|x| x.is_infinite()));
    let half = Whole::math(Fun::Determinant, Scalar::F16, Shape::matrix(2, 2));
    assert_eq!(run(half, &[&[300.0, 0.0, 0.0, 300.0]]), [f32::INFINITY]);
}

#[test]
fn all_and_any_look_at_every_component() {
    let of = |fun, a: &[u32]| run_bits(Whole::relational(fun, a.len()), &[a])[0];
    for n in 1..=4 {
        for bits in 0..1_u32 << n {
            let a: Vec<u32> = (0..n).map(|at| bits >> at & 1).collect();
            assert_eq!(of(RelationalFunction::All, &a), u32::from(bits == (1 << n) - 1), "{a:?}");
            assert_eq!(of(RelationalFunction::Any, &a), u32::from(bits != 0), "{a:?}");
        }
    }
    assert_eq!(Whole::relational(RelationalFunction::IsNan, 2), None);
    assert_eq!(Whole::relational(RelationalFunction::All, 5), None);
}

#[test]
fn types_and_shapes_that_a_function_lacks_are_refused() {
    let refused = [
        (Fun::Dot, Scalar::Bool, Shape::vector(2)),
        (Fun::Dot, Scalar::F32, Shape::SCALAR),
        (Fun::Cross, Scalar::F32, Shape::vector(4)),
        (Fun::Length, Scalar::I32, Shape::vector(2)),
        (Fun::Determinant, Scalar::F32, Shape::matrix(2, 3)),
        (Fun::Inverse, Scalar::F32, Shape::vector(4)),
        (Fun::Transpose, Scalar::F32, Shape::vector(3)),
        (Fun::Pack4xI8, Scalar::U32, Shape::vector(4)),
        (Fun::Pack2x16float, Scalar::F16, Shape::vector(2)),
        (Fun::Unpack4xU8, Scalar::I32, Shape::SCALAR),
        (Fun::Dot4U8Packed, Scalar::I32, Shape::SCALAR),
        (Fun::Mix, Scalar::F32, Shape::vector(2)),
    ];
    for (fun, scalar, shape) in refused {
        assert_eq!(Whole::math(fun, scalar, shape), None, "{fun:?} {scalar:?} {shape:?}");
    }
}

/// Every function for every type and shape that has it.
fn everything() -> Vec<Whole> {
    let mut out = Vec::new();
    for scalar in SCALARS {
        for shape in shapes() {
            out.extend(FUNCTIONS.into_iter().filter_map(|fun| Whole::math(fun, scalar, shape)));
            out.extend(shapes().into_iter().filter_map(|right| Whole::product(scalar, shape, right)));
        }
    }
    let both = [RelationalFunction::All, RelationalFunction::Any];
    out.extend(both.into_iter().flat_map(|fun| (1..=4).filter_map(move |rows| Whole::relational(fun, rows))));
    out
}

#[test]
fn no_bit_pattern_panics_and_lanes_stay_apart() {
    let width = NASTY.len();
    let everything = everything();
    // Per float type: 3 dots, 3 outers, 1 cross, 4 distances, lengths, fractions and exponents each, 3 normals, faces,
    // reflections and refractions each, 9 transposed, 3 determinants and inverses each, and 9 * 3 + 9 + 9 products.
    let floats = 2 * (3 + 3 + 1 + 4 * 4 + 4 * 3 + 9 + 2 * 3 + 45);
    assert_eq!(everything.len(), floats + 2 * 3 + 2 + 16 + 8, "functions by type and shape");
    for whole in everything {
        let sizes = whole.arguments();
        // Patterns in another order for each component; f16 as rounded as it always is.
        let args = [0, 1, 2].map(|arg| {
            let steps =
                (0..sizes[arg]).flat_map(|component| (0..width).map(move |lane| lane * 7 + component * 11 + arg * 13));
            let bits = steps.map(|at| NASTY[at % width]);
            if whole.scalar == Scalar::F16 {
                bits.map(|x| round_f16(f32::from_bits(x)).to_bits()).collect()
            } else {
                bits.collect::<Vec<u32>>()
            }
        });
        let mut out = vec![0; whole.result() * width];
        whole.apply(width, [&args[0], &args[1], &args[2]], &mut out);
        for lane in 0..width {
            let single = args.each_ref().map(|arg| arg.iter().copied().skip(lane).step_by(width).collect::<Vec<u32>>());
            let mut alone = vec![0; whole.result()];
            whole.apply(1, [&single[0], &single[1], &single[2]], &mut alone);
            let among: Vec<u32> = out.iter().copied().skip(lane).step_by(width).collect();
            let float = matches!(whole.scalar, Scalar::F32 | Scalar::F16);
            for (&x, &y) in alone.iter().zip(&among) {
                let nans = float && f32::from_bits(x).is_nan() && f32::from_bits(y).is_nan();
                assert!(x == y || nans, "{whole:?} in lane {lane}: {x:#x} alone, {y:#x} among others");
            }
            if whole.scalar == Scalar::F16 && !matches!(whole.fun, super::Fun::Math(Fun::Frexp)) {
                assert!(alone.iter().all(|&x| round_f16(f32::from_bits(x)).to_bits() == x), "{whole:?} gives no f16");
            }
        }
    }
}
