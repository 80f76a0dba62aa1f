//! Prefix sums, compaction, and a stable radix sort: by digits from the lowest, reducing first and scanning after.
//!
//! No workgroup waits for another, and nothing depends on the order in which workgroups run, so the results are the same in
//! every run.

use super::tune::defaults::Defaults;
use super::tune::{Question, Variants, choose, noise, rounding};
use crate::autograd::refuse;
use crate::runtime::{
    Bind::{self, Read, Write},
    Common, INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};
use std::ops::Range;

/// Sums over a workgroup of 256.
pub(crate) const SCAN: Common = Common { name: "scan", source: include_str!("../../shaders/common/scan.wgsl") };
/// Order-preserving encodings of numbers as u32.
pub(crate) const ORDER: Common = Common { name: "order", source: include_str!("../../shaders/common/order.wgsl") };

const SOURCE: &str = include_str!("../../shaders/sort.wgsl");
const LANES_SIZE: u64 = 16;
const COMPACT_SIZE: u64 = 64;
/// Elements of a workgroup's tile: of a scan, of a sort.
const SCAN_TILE: usize = 4096;
const SORT_TILE: usize = 2048;

const NUMBERS: &[DType] = &[DType::F32, DType::U32, DType::I32];
const COUNTED: &[DType] = &[DType::U32];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScanParams {
    n_vec4: u32,
    n_units: u32,
    unit_vec4: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CompactParams {
    n: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct RadixParams {
    n: u32,
    n_units: u32,
    unit_vec4: u32,
    shift: u32,
    mask: u32,
    encode: u32,
    decode: u32,
    flip_in: u32,
    flip_out: u32,
    iota: u32,
}

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("sort", entry, SOURCE, binds).commons(&[INDEX, ORDER, SCAN]).types(&["Elem"], &[COUNTED])
}

const fn sums(entry: &'static str) -> Kernel {
    kernel(entry, &[Read, Write]).params::<ScanParams>().types(&["Elem"], &[NUMBERS]).overrides(&[("FLAGS", &[0, 1])])
}

const fn scan(entry: &'static str) -> Kernel {
    kernel(entry, &[Read, Read, Write])
        .params::<ScanParams>()
        .types(&["Elem"], &[NUMBERS])
        .overrides(&[("INCLUSIVE", &[0, 1]), ("FLAGS", &[0, 1])])
}

const fn radix(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    kernel(entry, binds).params::<RadixParams>()
}

const SCAN_SUMS_LANES_FWD: Kernel = sums("scan_sums_lanes_fwd");
const SCAN_SUMS_GROUPS_FWD: Kernel = sums("scan_sums_groups_fwd");
const SCAN_LANES_FWD: Kernel = scan("scan_lanes_fwd");
const SCAN_GROUPS_FWD: Kernel = scan("scan_groups_fwd");
const COMPACT_FWD: Kernel = kernel("compact_fwd", &[Read, Read, Write, Write]).params::<CompactParams>();
const RADIX_COUNT_LANES_FWD: Kernel = radix("radix_count_lanes_fwd", &[Read, Write]);
const RADIX_COUNT_GROUPS_FWD: Kernel = radix("radix_count_groups_fwd", &[Read, Write]);
const RADIX_MOVE_LANES_FWD: Kernel = radix("radix_move_lanes_fwd", &[Read, Read, Read, Write, Write]);
const RADIX_MOVE_GROUPS_FWD: Kernel = radix("radix_move_groups_fwd", &[Read, Read, Read, Write, Write]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    SCAN_SUMS_LANES_FWD,
    SCAN_SUMS_GROUPS_FWD,
    SCAN_LANES_FWD,
    SCAN_GROUPS_FWD,
    COMPACT_FWD,
    RADIX_COUNT_LANES_FWD,
    RADIX_COUNT_GROUPS_FWD,
    RADIX_MOVE_LANES_FWD,
    RADIX_MOVE_GROUPS_FWD,
];

/// Who owns a stretch of the input; the ops choose by adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortVariant {
    /// One invocation, without barriers: for adapters that run on the CPU.
    Lanes,
    /// A workgroup with its tile: for GPUs.
    Groups,
}

impl Variants for SortVariant {
    const ALL: &'static [Self] = &Self::ALL;
}

impl SortVariant {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Lanes, Self::Groups];

    pub(crate) fn of(runtime: &Runtime) -> Self {
        Defaults::of(runtime.profile()).sort
    }

    /// The fastest known for a scan of `x`.
    fn of_scan(x: &Tensor, inclusive: bool, flags: bool) -> Self {
        let (runtime, dtype) = (x.runtime(), x.dtype());
        let scan = |variant, x: &Tensor| Ok(vec![scan_any(variant, x, inclusive, flags)?]);
        let question = Question {
            op: "scan",
            dtype,
            sizes: &[("n", x.len())],
            exact: &[("inclusive", usize::from(inclusive)), ("flags", usize::from(flags))],
            kernels: &[KERNELS],
            plain: Self::Lanes,
            fits: &|_| true,
            run: &|variant| scan(variant, x),
            probe: &|variant| scan(variant, &noise(runtime, &[9001], dtype)?),
            tolerance: rounding(dtype),
        };
        choose(runtime, Self::of(runtime), &question)
    }

    /// The fastest known for a sort.
    fn of_sort(keys: &Tensor, values: Option<&Tensor>, bits: &Range<u32>, descending: bool) -> Self {
        let runtime = keys.runtime();
        let sort = |variant, keys: &Tensor, values: Option<&Tensor>, bits: Range<u32>| {
            radix_sort(Some(variant), keys, values, bits, descending).map(|(keys, values)| vec![keys, values])
        };
        let question = Question {
            op: "sort",
            dtype: keys.dtype(),
            sizes: &[("n", keys.len())],
            exact: &[("bits", bits.len()), ("values", usize::from(values.is_some()))],
            kernels: &[KERNELS],
            plain: Self::Lanes,
            fits: &|_| true,
            run: &|variant| sort(variant, keys, values, bits.clone()),
            probe: &|variant| {
                let keys = noise(runtime, &[9001], keys.dtype())?;
                let values = values.map(|_| noise(runtime, &[9001], DType::U32)).transpose()?;
                sort(variant, &keys, values.as_ref(), bits.clone())
            },
            tolerance: 0.0,
        };
        choose(runtime, Self::of(runtime), &question)
    }

    /// Workgroups that make up `n_units`.
    pub(crate) fn groups(self, n_units: usize) -> u64 {
        match self {
            Self::Lanes => (n_units as u64).div_ceil(LANES_SIZE),
            Self::Groups => n_units as u64,
        }
    }
}

fn vector(op: &'static str, name: &str, x: &Tensor, dtypes: &[DType]) -> Result<Tensor> {
    check(op, &[(name, x, "n")])?;
    if !dtypes.contains(&x.dtype()) {
        return Err(Error::dtype(op, format!("{name} {} given, one of {dtypes:?} wanted", x.dtype())));
    }
    x.contiguous()
}

/// Sums of the elements in front: `[n]` f32, u32 or i32 to the same, `out[i] = x[0] + .. + x[i - 1]`.
///
/// Whole numbers wrap; floats are added in a fixed order.
///
/// # Errors
/// [`Error::Shape`] unless `x` has one axis, [`Error::DType`] for other types.
pub fn exclusive_scan(x: &Tensor) -> Result<Tensor> {
    scanned(x, false)
}

/// Sums up to each element: `[n]` f32, u32 or i32 to the same, `out[i] = x[0] + .. + x[i]`.
///
/// # Errors
/// As [`exclusive_scan`].
pub fn inclusive_scan(x: &Tensor) -> Result<Tensor> {
    scanned(x, true)
}

fn scanned(x: &Tensor, inclusive: bool) -> Result<Tensor> {
    refuse("scan", &[x])?;
    let x = vector("scan", "x", x, NUMBERS)?;
    scan_any(SortVariant::of_scan(&x, inclusive, false), &x, inclusive, false)
}

/// [`exclusive_scan`] or [`inclusive_scan`] in one variant, for tests and benchmarks.
///
/// # Errors
/// As [`exclusive_scan`].
pub fn scan_with(variant: SortVariant, x: &Tensor, inclusive: bool) -> Result<Tensor> {
    refuse("scan", &[x])?;
    scan_any(variant, &vector("scan", "x", x, NUMBERS)?, inclusive, false)
}

/// Scan of a contiguous vector; with `flags`, of 1 for every element that is not 0.
fn scan_any(variant: SortVariant, x: &Tensor, inclusive: bool, flags: bool) -> Result<Tensor> {
    let n = x.len();
    let unit = match variant {
        // About as many lanes as each has elements, so that the sums are one lane's work.
        SortVariant::Lanes => n.isqrt().next_power_of_two().clamp(1024, 4096),
        SortVariant::Groups => SCAN_TILE,
    };
    let n_units = n.div_ceil(unit);
    let params = ScanParams { n_vec4: n.div_ceil(4) as u32, n_units: n_units as u32, unit_vec4: (unit / 4) as u32 };
    let (sums_kernel, scan_kernel) = match variant {
        SortVariant::Lanes => (&SCAN_SUMS_LANES_FWD, &SCAN_LANES_FWD),
        SortVariant::Groups => (&SCAN_SUMS_GROUPS_FWD, &SCAN_GROUPS_FWD),
    };
    let runtime = x.runtime();
    let bytes = 4 * n as u64;
    let flags = ("FLAGS", u32::from(flags));
    let offsets = if n_units > 1 {
        let sums = Tensor::empty(runtime, &[n_units], x.dtype())?;
        runtime
            .launch(sums_kernel)
            .types(&[x.dtype()])
            .overrides(&[flags])
            .bind([x.binding(), sums.binding()])
            .params(&params)
            .groups(variant.groups(n_units))
            .cost(n as u64, bytes)
            .run()?;
        scan_any(variant, &sums, false, false)?
    } else {
        x.clone()
    };
    let out = Tensor::empty(runtime, &[n], x.dtype())?;
    runtime
        .launch(scan_kernel)
        .types(&[x.dtype()])
        .overrides(&[("INCLUSIVE", u32::from(inclusive)), flags])
        .bind([x.binding(), offsets.binding(), out.binding()])
        .params(&params)
        .groups(variant.groups(n_units))
        .cost(n as u64, 2 * bytes)
        .run()?;
    Ok(out)
}

/// Where the flags are: u32 `[n]` to indices u32 `[n]` and their count u32 `[1]`. The first `count` indices are those of
/// the elements that are not 0, in order; behind them come those of the zeros, in order.
///
/// # Errors
/// [`Error::Shape`] unless `flags` has one axis, [`Error::DType`] unless it is u32.
pub fn compact(flags: &Tensor) -> Result<(Tensor, Tensor)> {
    let flags = vector("compact", "flags", flags, COUNTED)?;
    compact_with(SortVariant::of_scan(&flags, false, true), &flags)
}

/// [`compact`] in one variant, for tests and benchmarks.
///
/// # Errors
/// As [`compact`].
pub fn compact_with(variant: SortVariant, flags: &Tensor) -> Result<(Tensor, Tensor)> {
    let flags = vector("compact", "flags", flags, COUNTED)?;
    let runtime = flags.runtime();
    let n = flags.len();
    if n == 0 {
        return Ok((flags.clone(), Tensor::zeros(runtime, &[1], DType::U32)?));
    }
    let places = scan_any(variant, &flags, false, true)?;
    let indices = Tensor::empty(runtime, &[n], DType::U32)?;
    let count = Tensor::empty(runtime, &[1], DType::U32)?;
    runtime
        .launch(&COMPACT_FWD)
        .types(COUNTED)
        .bind([flags.binding(), places.binding(), indices.binding(), count.binding()])
        .params(&CompactParams { n: n as u32 })
        .groups((n as u64).div_ceil(COMPACT_SIZE))
        .cost(0, 12 * n as u64)
        .run()?;
    Ok((indices, count))
}

/// Pairs sorted by key, equal keys in the order in which they came: keys u32 `[n]`, values of any 4-byte type `[n]`, to
/// the same. Only these `bits` of the keys count, from the lowest, 0, on; fewer bits are fewer passes.
///
/// # Errors
/// [`Error::Shape`] unless both have one axis of the same size, [`Error::DType`] unless the keys are u32 and the values
/// have 4 bytes, [`Error::Argument`] unless `bits` lies in 0..32 and is not empty.
pub fn sort_pairs(keys: &Tensor, values: &Tensor, bits: Range<u32>) -> Result<(Tensor, Tensor)> {
    pairs(None, keys, values, bits)
}

/// [`sort_pairs`] in one variant, for tests and benchmarks.
///
/// # Errors
/// As [`sort_pairs`].
pub fn sort_pairs_with(
    variant: SortVariant,
    keys: &Tensor,
    values: &Tensor,
    bits: Range<u32>,
) -> Result<(Tensor, Tensor)> {
    pairs(Some(variant), keys, values, bits)
}

fn pairs(variant: Option<SortVariant>, keys: &Tensor, values: &Tensor, bits: Range<u32>) -> Result<(Tensor, Tensor)> {
    const OP: &str = "sort_pairs";
    refuse(OP, &[values])?;
    check(OP, &[("keys", keys, "n"), ("values", values, "n")])?;
    if bits.is_empty() || bits.end > 32 {
        return Err(Error::argument(OP, format!("key bits {bits:?} given, some of 0..32 wanted")));
    }
    let (keys, values) = (vector(OP, "keys", keys, COUNTED)?, vector(OP, "values", values, NUMBERS)?);
    if !keys.runtime().same(values.runtime()) {
        return Err(Error::argument(OP, "the tensors live on different devices"));
    }
    radix_sort(variant, &keys, Some(&values), bits, false)
}

/// Numbers in order, with the index where each stood: f32, u32 or i32 `[n]` to the same and u32 `[n]`. Equal numbers keep
/// their order, also descending.
///
/// Zeros of both signs are equal and come back as +0; NaN is greater than every number and comes back as a quiet NaN.
///
/// # Errors
/// [`Error::Shape`] unless `x` has one axis, [`Error::DType`] for other types.
pub fn sort(x: &Tensor, descending: bool) -> Result<(Tensor, Tensor)> {
    refuse("sort", &[x])?;
    radix_sort(None, &vector("sort", "x", x, NUMBERS)?, None, 0..32, descending)
}

/// [`sort()`] in one variant, for tests and benchmarks.
///
/// # Errors
/// As [`sort()`].
pub fn sort_with(variant: SortVariant, x: &Tensor, descending: bool) -> Result<(Tensor, Tensor)> {
    refuse("sort", &[x])?;
    radix_sort(Some(variant), &vector("sort", "x", x, NUMBERS)?, None, 0..32, descending)
}

/// The indices that put numbers in order: f32, u32 or i32 `[n]` to u32 `[n]`; see [`sort()`].
///
/// # Errors
/// As [`sort()`].
pub fn argsort(x: &Tensor, descending: bool) -> Result<Tensor> {
    Ok(sort(&x.detach(), descending)?.1)
}

/// Sorts contiguous keys of any type; without values, the values are the indices. Without a variant, by the fastest known.
pub(crate) fn radix_sort(
    variant: Option<SortVariant>,
    keys: &Tensor,
    values: Option<&Tensor>,
    bits: Range<u32>,
    descending: bool,
) -> Result<(Tensor, Tensor)> {
    let runtime = keys.runtime();
    let n = keys.len();
    let variant = variant.unwrap_or_else(|| SortVariant::of_sort(keys, values, &bits, descending));
    let (unit, digit_bits, count_kernel, move_kernel) = match variant {
        SortVariant::Lanes => {
            ((n / 512).next_multiple_of(4).clamp(1024, 4096), 8, &RADIX_COUNT_LANES_FWD, &RADIX_MOVE_LANES_FWD)
        }
        SortVariant::Groups => (SORT_TILE, 4, &RADIX_COUNT_GROUPS_FWD, &RADIX_MOVE_GROUPS_FWD),
    };
    let n_units = n.div_ceil(unit);
    let n_bits = bits.end - bits.start;
    let n_passes = n_bits.div_ceil(digit_bits);
    let digit_bits = n_bits.div_ceil(n_passes);
    let code = match keys.dtype() {
        DType::F32 => 1,
        DType::I32 => 2,
        _ => 0,
    };
    let flip = if descending { u32::MAX } else { 0 };
    let mut pair = (keys.clone(), values.unwrap_or(keys).clone());
    let value_type = values.map_or(DType::U32, Tensor::dtype);
    for pass in 0..n_passes {
        let (first, last) = (pass == 0, pass + 1 == n_passes);
        let shift = bits.start + pass * digit_bits;
        let mask = (1 << digit_bits.min(bits.end - shift)) - 1;
        let n_digits = if variant == SortVariant::Groups { 16 } else { mask + 1 };
        let params = RadixParams {
            n: n as u32,
            n_units: n_units as u32,
            unit_vec4: (unit / 4) as u32,
            shift,
            mask,
            encode: if first { code } else { 0 },
            decode: if last { code } else { 0 },
            flip_in: if first { flip } else { 0 },
            flip_out: if last { flip } else { 0 },
            iota: u32::from(first && values.is_none()),
        };
        let counts = Tensor::empty(runtime, &[n_digits as usize * n_units], DType::U32)?;
        runtime
            .launch(count_kernel)
            .types(COUNTED)
            .bind([pair.0.binding(), counts.binding()])
            .params(&params)
            .groups(variant.groups(n_units))
            .cost(0, 4 * n as u64)
            .run()?;
        let places = scan_any(variant, &counts, false, false)?;
        let out = (
            Tensor::empty(runtime, &[n], if last { keys.dtype() } else { DType::U32 })?,
            Tensor::empty(runtime, &[n], value_type)?,
        );
        runtime
            .launch(move_kernel)
            .types(COUNTED)
            .bind([pair.0.binding(), pair.1.binding(), places.binding(), out.0.binding(), out.1.binding()])
            .params(&params)
            .groups(variant.groups(n_units))
            .cost(0, 16 * n as u64)
            .run()?;
        pair = out;
    }
    Ok(pair)
}
