//! Coefficients rounded to a few bits.

use crate::autograd::refuse;
use crate::ops::checks::{in_place, need_one_device, need_types};
use crate::ops::reduce::REDUCE;
use crate::runtime::{
    Bind::{Read, Write},
    INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../../shaders/basis_rounding.wgsl");
const WG_SIZE: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RoundingParams {
    n_groups: u32,
    per_step: f32,
}

pub(super) const ROUNDING_FWD: Kernel =
    Kernel::new("basis_rounding", "basis_rounding_fwd", SOURCE, &[Read, Read, Write])
        .commons(&[INDEX, REDUCE])
        .types(&["Acc"], &[&[DType::F32]])
        .params::<RoundingParams>();

/// Groups whose sizes are all below become zeros: their step would be no normal number.
const SMALLEST: f32 = 1e-30;

/// The step over the largest size.
fn per_step(bits: u32) -> f32 {
    1.0 / ((1_u32 << (bits - 1)) - 1) as f32
}

/// The step of a group on the host, as the kernel has it; 0 for a group of zeros.
pub(crate) fn group_step(group: &[f32], bits: u32) -> f32 {
    let largest = group.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    if largest >= SMALLEST { largest * per_step(bits) } else { 0.0 }
}

/// Which multiple of `step` is nearest to `x`, as the kernel decides it.
pub(crate) fn nearest_multiple(x: f32, step: f32) -> f32 {
    if step == 0.0 {
        return 0.0;
    }
    let size = x.abs();
    let guess = (size / step).round_ties_even();
    let odd = guess % 2.0 == 1.0;
    let (upper, lower) = ((guess + 0.5) * step, (guess - 0.5) * step);
    let up = f32::from(u8::from(size > upper || size == upper && odd));
    let down = f32::from(u8::from(size < lower || size == lower && odd));
    (guess + up - down).copysign(x)
}

/// Numbers rounded to a few bits, as an adapter's file keeps them: each group has a step of its own, its largest size over
/// `2^(bits - 1) - 1`, and every number becomes the nearest multiple of it, ties to even. Step, middles between multiples and
/// multiples are single products in f32, so the numbers are the same on every adapter, for sizes up to 2^125.
///
/// Where training reads the rounded numbers in place of the exact ones and takes their gradients for those of the exact ones
/// (straight-through), it learns numbers that bear the rounding.
#[derive(Debug, Clone)]
pub struct Rounding {
    /// First number and how many, of each group: `[n, 2]`.
    groups: Tensor,
    longest: usize,
    end: usize,
    per_step: f32,
}

impl Rounding {
    /// To `bits` of 2, 3, 4 or 8; groups are the first number and how many there are.
    ///
    /// # Errors
    /// [`Error::Argument`] for other bits, groups that overlap, and numbers past what 32 bits count.
    pub fn new(runtime: &Runtime, groups: &[(usize, usize)], bits: u32) -> Result<Self> {
        const OP: &str = "rounding";
        if !matches!(bits, 2 | 3 | 4 | 8) {
            return Err(Error::argument(OP, format!("{bits} bits given, 2, 3, 4 or 8 wanted")));
        }
        let mut sorted = groups.to_vec();
        sorted.sort_unstable();
        let mut end = 0;
        for (first, len) in sorted {
            let Some(next) = first.checked_add(len).filter(|next| first >= end && u32::try_from(*next).is_ok()) else {
                return Err(Error::argument(OP, format!("the group of {len} from {first} on overlaps or is too far")));
            };
            end = next;
        }
        let words: Vec<u32> = groups.iter().flat_map(|(first, len)| [*first as u32, *len as u32]).collect();
        Ok(Self {
            groups: Tensor::constant(runtime, &words)?,
            longest: groups.iter().map(|(_, len)| *len).max().unwrap_or(0),
            end,
            per_step: per_step(bits),
        })
    }

    /// `values` f32 `[c]` rounded to `out` f32 `[c]`, **in place**; what is in no group stays.
    ///
    /// NaN stays NaN and does not count for the step. A group whose sizes are all below 1e-30 becomes zeros; one with an infinity
    /// becomes NaN.
    ///
    /// # Errors
    /// [`Error::Argument`] if a group does not fit, the two share memory or a gradient is wanted; [`Error::Shape`] or
    /// [`Error::DType`] if the tensors do not fit.
    pub fn run(&self, values: &Tensor, out: &Tensor) -> Result<()> {
        const OP: &str = "rounding";
        refuse(OP, &[values, out])?;
        need_one_device(OP, &self.groups, [values, out])?;
        let c = check(OP, &[("values", values, "c"), ("out", out, "c")])?.get("c");
        need_types(OP, &[("values", values, DType::F32), ("out", out, DType::F32)])?;
        if c < self.end {
            return Err(Error::argument(OP, format!("{c} numbers given, {} wanted", self.end)));
        }
        let binding = in_place(OP, "out", out, &[values])?;
        let n = self.groups.len() / 2;
        out.runtime()
            .launch(&ROUNDING_FWD)
            .bind([self.groups.binding(), values.contiguous()?.binding(), binding])
            .params(&RoundingParams { n_groups: n as u32, per_step: self.per_step })
            .groups(n as u64)
            .rounds(2 * self.longest.div_ceil(WG_SIZE) + 16)
            .cost(4 * self.end as u64, 12 * self.end as u64)
            .run()
    }
}
