//! WGSL's functions that mix the components of vectors and matrices, over registers.
//!
//! A value is its components one after another, each a register of `width` lanes: component c of lane l stands at
//! `c * width + l`, and a matrix is its columns one after another. Sums run from left to right and, like products, are
//! rounded after each operation as the written-out formula would be, without fused steps; determinants and inverses,
//! whose accuracy WGSL leaves open, are computed in f64 and rounded once.

use super::lanes::{Float, Half, Scalar, Single, map1, map2};
use super::pack;
use naga::{MathFunction, RelationalFunction};

/// Components of the largest value, a 4x4 matrix.
const MOST: usize = 16;

/// The shape of a scalar, vector or matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) struct Shape {
    /// 1 for scalars and vectors.
    pub(super) columns: usize,
    /// Components of a vector, 1 for scalars.
    pub(super) rows: usize,
}

impl Shape {
    /// One number.
    pub(super) const SCALAR: Self = Self { columns: 1, rows: 1 };

    /// `rows` numbers.
    pub(super) const fn vector(rows: usize) -> Self {
        Self { columns: 1, rows }
    }

    /// `columns` vectors of `rows` numbers.
    pub(super) const fn matrix(columns: usize, rows: usize) -> Self {
        Self { columns, rows }
    }

    /// The count of numbers.
    pub(super) const fn components(self) -> usize {
        self.columns * self.rows
    }

    /// Whether this is a matrix.
    const fn is_matrix(self) -> bool {
        self.columns > 1
    }
}

/// What a [`Whole`] computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fun {
    /// A mathematical function of naga.
    Math(MathFunction),
    /// Whether no component is 0.
    All,
    /// Whether some component is not 0.
    Any,
    /// A matrix product with this shape on the right.
    Product(Shape),
}

/// A function over whole vectors or matrices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Whole {
    /// What to compute.
    fun: Fun,
    /// Of the first argument.
    scalar: Scalar,
    /// Of the first argument.
    shape: Shape,
}

impl Whole {
    /// A mathematical function by the scalar type and shape of its first argument, if WGSL has it for these.
    ///
    /// `modf` and `frexp` give their struct: all components of `fract`, then all of `whole` or `exp`. `outer`, which
    /// WGSL lacks, is there for two vectors of one length.
    pub(super) fn math(fun: MathFunction, scalar: Scalar, shape: Shape) -> Option<Self> {
        use MathFunction as Fun;
        let float = matches!(scalar, Scalar::F32 | Scalar::F16);
        let vector = !shape.is_matrix() && matches!(shape.rows, 2..=4);
        let matrix = matches!(shape.columns, 2..=4) && matches!(shape.rows, 2..=4);
        let known = match fun {
            Fun::Dot => vector && scalar != Scalar::Bool,
            Fun::Outer | Fun::Normalize | Fun::FaceForward | Fun::Reflect | Fun::Refract => vector && float,
            Fun::Cross => vector && shape.rows == 3 && float,
            Fun::Distance | Fun::Length | Fun::Modf | Fun::Frexp => (vector || shape == Shape::SCALAR) && float,
            Fun::Transpose => matrix && float,
            Fun::Determinant | Fun::Inverse => matrix && shape.columns == shape.rows && float,
            Fun::Dot4I8Packed | Fun::Dot4U8Packed => shape == Shape::SCALAR && scalar == Scalar::U32,
            _ => match pack::Format::of(fun) {
                Some(format) if format.packs => shape == Shape::vector(format.lanes) && scalar == format.scalar,
                Some(_) => shape == Shape::SCALAR && scalar == Scalar::U32,
                None => false,
            },
        };
        known.then_some(Self { fun: self::Fun::Math(fun), scalar, shape })
    }

    /// `all` and `any` of a bool or a vector of `rows` bools.
    pub(super) fn relational(fun: RelationalFunction, rows: usize) -> Option<Self> {
        let fun = match fun {
            RelationalFunction::All => Fun::All,
            RelationalFunction::Any => Fun::Any,
            RelationalFunction::IsNan | RelationalFunction::IsInf => return None,
        };
        matches!(rows, 1..=4).then_some(Self { fun, scalar: Scalar::Bool, shape: Shape::vector(rows) })
    }

    /// `matrix * matrix`, `matrix * vector` or `vector * matrix` of a float type, if the shapes fit.
    pub(super) fn product(scalar: Scalar, left: Shape, right: Shape) -> Option<Self> {
        // A vector on the left is a row, one on the right a column.
        let left = if left.is_matrix() { left } else { Shape::matrix(left.rows, 1) };
        let right_matrix = right.is_matrix() || left.rows > 1;
        let sizes = [left.columns, left.rows, right.columns, right.rows].iter().all(|size| matches!(size, 1..=4));
        let fits = left.columns == right.rows && left.columns > 1 && right_matrix && sizes;
        let float = matches!(scalar, Scalar::F32 | Scalar::F16);
        (fits && float).then_some(Self { fun: Fun::Product(right), scalar, shape: left })
    }

    /// Components of each argument, 0 where there is none.
    pub(super) fn arguments(&self) -> [usize; 3] {
        use MathFunction as Fun;
        let n = self.shape.components();
        match self.fun {
            self::Fun::Product(right) => [n, right.components(), 0],
            self::Fun::Math(Fun::FaceForward) => [n, n, n],
            self::Fun::Math(Fun::Refract) => [n, n, 1],
            self::Fun::Math(
                Fun::Dot
                | Fun::Dot4I8Packed
                | Fun::Dot4U8Packed
                | Fun::Outer
                | Fun::Cross
                | Fun::Distance
                | Fun::Reflect,
            ) => [n, n, 0],
            _ => [n, 0, 0],
        }
    }

    /// Components of the result.
    pub(super) fn result(&self) -> usize {
        use MathFunction as Fun;
        let n = self.shape.components();
        match self.fun {
            self::Fun::All | self::Fun::Any => 1,
            self::Fun::Product(right) => self.shape.rows * right.columns,
            self::Fun::Math(fun) => match fun {
                Fun::Outer => n * n,
                Fun::Modf | Fun::Frexp => 2 * n,
                Fun::Cross | Fun::Normalize | Fun::FaceForward | Fun::Reflect | Fun::Refract => n,
                Fun::Transpose | Fun::Inverse => n,
                _ => pack::Format::of(fun).filter(|format| !format.packs).map_or(1, |format| format.lanes),
            },
        }
    }

    /// Computes `width` lanes: each argument and `out` as many registers as [`Self::arguments`] and [`Self::result`] say.
    ///
    /// Arguments beyond those are not read. Shorter slices are a fault of the caller and panic.
    pub(super) fn apply(&self, width: usize, args: [&[u32]; 3], out: &mut [u32]) {
        match (self.fun, self.scalar) {
            (Fun::All, _) => fold(width, args[0], out, 1, |all, x| all & u32::from(x != 0)),
            (Fun::Any, _) => fold(width, args[0], out, 0, |any, x| any | u32::from(x != 0)),
            (Fun::Product(right), Scalar::F16) => product::<Half>(width, self.shape, right, args, out),
            (Fun::Product(right), _) => product::<Single>(width, self.shape, right, args, out),
            (Fun::Math(fun), Scalar::F16) => self.apply_float::<Half>(fun, width, args, out),
            (Fun::Math(fun), Scalar::F32) => self.apply_float::<Single>(fun, width, args, out),
            (Fun::Math(fun), _) => self.apply_int(fun, width, args, out),
        }
    }

    /// [`Self::apply`] for i32 and u32.
    fn apply_int(&self, fun: MathFunction, width: usize, [a, b, _]: [&[u32]; 3], out: &mut [u32]) {
        match fun {
            MathFunction::Dot => {
                let pairs = a.chunks_exact(width).zip(b.chunks_exact(width)).take(self.shape.rows);
                sum_products(out, pairs, u32::wrapping_mul, u32::wrapping_add);
            }
            MathFunction::Dot4I8Packed => map2(out, a, b, |x, y| {
                let pairs = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
                pairs.map(|(x, y)| i32::from(x.cast_signed()) * i32::from(y.cast_signed())).sum::<i32>().cast_unsigned()
            }),
            MathFunction::Dot4U8Packed => map2(out, a, b, |x, y| {
                x.to_le_bytes().into_iter().zip(y.to_le_bytes()).map(|(x, y)| u32::from(x) * u32::from(y)).sum()
            }),
            _ => pack::apply(fun, width, a, out),
        }
    }

    /// [`Self::apply`] for f32 and f16.
    fn apply_float<K: Float>(&self, fun: MathFunction, width: usize, args: [&[u32]; 3], out: &mut [u32]) {
        use MathFunction as Fun;
        let n = self.shape.rows;
        let [a, b, _] = args;
        match fun {
            Fun::Dot => {
                let pairs = a.chunks_exact(width).zip(b.chunks_exact(width)).take(n);
                sum_float_products::<K>(out, pairs);
            }
            Fun::Outer => {
                for (column, y) in out.chunks_exact_mut(n * width).zip(b.chunks_exact(width)) {
                    for (o, x) in column.chunks_exact_mut(width).zip(a.chunks_exact(width)) {
                        sum_float_products::<K>(o, [(x, y)].into_iter());
                    }
                }
            }
            Fun::Transpose => {
                for (at, o) in out.chunks_exact_mut(width).take(self.shape.components()).enumerate() {
                    let (column, row) = (at / self.shape.columns, at % self.shape.columns);
                    o.copy_from_slice(&a[(row * n + column) * width..][..width]);
                }
            }
            Fun::Modf => {
                let (fract, whole) = out.split_at_mut(n * width);
                map1(fract, a, |x| K::round(f32::from_bits(x) - f32::from_bits(x).trunc()).to_bits());
                map1(whole, a, |x| f32::from_bits(x).trunc().to_bits());
            }
            Fun::Frexp => {
                let (fract, exp) = out.split_at_mut(n * width);
                map1(fract, a, |x| frexp(f32::from_bits(x)).0.to_bits());
                map1(exp, a, |x| frexp(f32::from_bits(x)).1.cast_unsigned());
            }
            Fun::Cross => self.each(width, args, out, |a, b, _, out| {
                for (row, o) in out.iter_mut().take(3).enumerate() {
                    let (next, last) = ((row + 1) % 3, (row + 2) % 3);
                    *o = K::round(K::round(a[next] * b[last]) - K::round(a[last] * b[next]));
                }
            }),
            Fun::Distance => self.each(width, args, out, |a, b, _, out| {
                let difference = rows(n, |row| K::round(a[row] - b[row]));
                out[0] = length::<K>(&difference, n);
            }),
            Fun::Length if n == 1 => map1(out, a, |x| f32::from_bits(x).abs().to_bits()),
            Fun::Length => {
                sum_float_products::<K>(out, a.chunks_exact(width).zip(a.chunks_exact(width)).take(n));
                for o in &mut out[..width] {
                    *o = K::round(f32::from_bits(*o).sqrt()).to_bits();
                }
            }
            Fun::Normalize => self.each(width, args, out, |a, _, _, out| {
                let length = length::<K>(a, n);
                *out = rows(n, |row| K::round(a[row] / length));
            }),
            Fun::FaceForward => self.each(width, args, out, |a, b, c, out| {
                *out = if dot::<K>(b, c, n) < 0.0 { *a } else { rows(n, |row| -a[row]) };
            }),
            Fun::Reflect => self.each(width, args, out, |a, b, _, out| {
                let twice = K::round(2.0 * dot::<K>(b, a, n));
                *out = rows(n, |row| K::round(a[row] - K::round(twice * b[row])));
            }),
            Fun::Refract => self.each(width, args, out, |a, b, c, out| *out = refract::<K>(a, b, c[0], n)),
            Fun::Determinant => self.each(width, args, out, |a, _, _, out| {
                out[0] = K::narrow(determinant(&square(a, n), n));
            }),
            Fun::Inverse => self.each(width, args, out, |a, _, _, out| {
                let a = square(a, n);
                let whole = determinant(&a, n);
                for (at, o) in out.iter_mut().take(n * n).enumerate() {
                    // The adjugate is the transposed matrix of cofactors.
                    let (column, row) = (at % n, at / n);
                    *o = K::narrow(cofactor(&a, n, column, row) / whole);
                }
            }),
            _ => pack::apply(fun, width, a, out),
        }
    }

    /// Runs `f` on the components of one lane after another.
    #[inline(always)]
    fn each(&self, width: usize, args: [&[u32]; 3], out: &mut [u32], f: impl Fn(&Lane, &Lane, &Lane, &mut Lane)) {
        let sizes = self.arguments();
        let result = self.result();
        for lane in 0..width {
            let mut values = [[0.0; MOST]; 3];
            for ((value, arg), &size) in values.iter_mut().zip(args).zip(&sizes) {
                for (component, x) in value.iter_mut().take(size).enumerate() {
                    *x = f32::from_bits(arg[component * width + lane]);
                }
            }
            let mut lane_out = [0.0; MOST];
            f(&values[0], &values[1], &values[2], &mut lane_out);
            for (component, x) in lane_out.iter().take(result).enumerate() {
                out[component * width + lane] = x.to_bits();
            }
        }
    }
}

/// The components of one lane, zeros behind them.
type Lane = [f32; MOST];

/// Combines the components of each lane, starting from `start`.
#[inline(always)]
fn fold(width: usize, a: &[u32], out: &mut [u32], start: u32, f: impl Fn(u32, u32) -> u32) {
    let out = &mut out[..width];
    out.fill(start);
    for component in a.chunks_exact(width) {
        for (o, &x) in out.iter_mut().zip(component) {
            *o = f(*o, x);
        }
    }
}

/// The sum of the products of register pairs, from left to right.
#[inline(always)]
fn sum_products<'a>(
    out: &mut [u32],
    mut pairs: impl Iterator<Item = (&'a [u32], &'a [u32])>,
    multiply: impl Fn(u32, u32) -> u32,
    add: impl Fn(u32, u32) -> u32,
) {
    let Some((x, y)) = pairs.next() else { return out.fill(0) };
    map2(out, x, y, &multiply);
    for (x, y) in pairs {
        for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
            *o = add(*o, multiply(x, y));
        }
    }
}

/// [`sum_products`] of floats, each product and sum rounded.
#[inline(always)]
fn sum_float_products<'a, K: Float>(out: &mut [u32], pairs: impl Iterator<Item = (&'a [u32], &'a [u32])>) {
    let multiply = |x, y| K::round(f32::from_bits(x) * f32::from_bits(y)).to_bits();
    let add = |x, y| K::round(f32::from_bits(x) + f32::from_bits(y)).to_bits();
    sum_products(out, pairs, multiply, add);
}

/// The product of two matrices: out[column][row] = sum over k of left[k][row] * right[column][k].
fn product<K: Float>(width: usize, left: Shape, right: Shape, [a, b, _]: [&[u32]; 3], out: &mut [u32]) {
    for (at, o) in out.chunks_exact_mut(width).take(left.rows * right.columns).enumerate() {
        let (column, row) = (at / left.rows, at % left.rows);
        let from_left = a.chunks_exact(width).skip(row).step_by(left.rows);
        let from_right = b.chunks_exact(width).skip(column * right.rows).take(right.rows);
        sum_float_products::<K>(o, from_left.zip(from_right));
    }
}

/// A lane of `n` components, each by its place.
#[inline(always)]
fn rows(n: usize, f: impl Fn(usize) -> f32) -> Lane {
    let mut out = [0.0; MOST];
    for (row, o) in out.iter_mut().take(n).enumerate() {
        *o = f(row);
    }
    out
}

/// The dot product of the first `n` components.
#[inline(always)]
fn dot<K: Float>(a: &Lane, b: &Lane, n: usize) -> f32 {
    let mut products = a.iter().zip(b).take(n).map(|(x, y)| K::round(x * y));
    let first = products.next().unwrap_or(0.0);
    products.fold(first, |sum, product| K::round(sum + product))
}

/// The length of a vector, the size of a scalar.
#[inline(always)]
fn length<K: Float>(a: &Lane, n: usize) -> f32 {
    if n == 1 { a[0].abs() } else { K::round(dot::<K>(a, a, n).sqrt()) }
}

/// WGSL's formula for refraction, 0 where all is reflected.
#[inline(always)]
fn refract<K: Float>(incident: &Lane, normal: &Lane, ratio: f32, n: usize) -> Lane {
    let cosine = dot::<K>(normal, incident, n);
    let sine2 = K::round(1.0 - K::round(cosine * cosine));
    let k = K::round(1.0 - K::round(K::round(ratio * ratio) * sine2));
    if k < 0.0 {
        return [0.0; MOST];
    }
    let along = K::round(K::round(ratio * cosine) + K::round(k.sqrt()));
    rows(n, |row| K::round(K::round(ratio * incident[row]) - K::round(along * normal[row])))
}

/// A float as a fraction from 0.5 to below 1 times a power of 2; zeros, infinities and NaNs stay, with exponent 0.
#[inline(always)]
fn frexp(x: f32) -> (f32, i32) {
    if x == 0.0 || !x.is_finite() {
        return (x, 0);
    }
    let bits = f64::from(x).to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1022;
    let fraction = f64::from_bits((bits & !(0x7ff << 52)) | (1022 << 52));
    (fraction as f32, exponent)
}

/// A square matrix, column by column.
type Square = [[f64; 4]; 4];

/// The `n` columns of `n` components of a lane.
#[inline(always)]
fn square(a: &Lane, n: usize) -> Square {
    let mut out = [[0.0; 4]; 4];
    for (column, values) in out.iter_mut().zip(a.chunks_exact(n)) {
        for (o, &x) in column.iter_mut().zip(values) {
            *o = f64::from(x);
        }
    }
    out
}

/// The determinant, developed along the first row.
fn determinant(a: &Square, n: usize) -> f64 {
    if n == 1 { a[0][0] } else { (0..n).map(|column| a[column][0] * cofactor(a, n, column, 0)).sum() }
}

/// The signed determinant of `a` without one column and row.
fn cofactor(a: &Square, n: usize, column: usize, row: usize) -> f64 {
    let mut rest = [[0.0; 4]; 4];
    for (o, from) in rest.iter_mut().zip(a.iter().enumerate().filter(|&(at, _)| at != column)) {
        for (o, (_, &x)) in o.iter_mut().zip(from.1.iter().enumerate().filter(|&(at, _)| at != row)) {
            *o = x;
        }
    }
    let size = determinant(&rest, n - 1);
    if (column + row).is_multiple_of(2) { size } else { -size }
}

#[cfg(test)]
#[path = "tests/whole.rs"]
mod tests;
