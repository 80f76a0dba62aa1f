//! The norm of all gradients: the factor that clips it, and the loss scale of mixed precision.

use super::{PLAIN, SUM_SIZES, Slots, VERDICT, WG_SIZE, check_arenas, check_value, kernel};
use crate::ops::checks::need_one_device;
use crate::runtime::{
    Bind::{Read, Write},
    Kernel, Runtime,
};
use crate::tensor::{self, DType, Tensor};
use crate::{Error, Result};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ClipParams {
    n: u32,
    start: u32,
    max_norm: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct UnscaleParams {
    n: u32,
    max_norm: f32,
    interval: f32,
    growth: f32,
    backoff: f32,
    least: f32,
    most: f32,
}

pub(super) const CLIP_BLOCKS_FWD: Kernel = kernel::<ClipParams>("clip_blocks_fwd", &[Read, Write]);
pub(super) const CLIP_SLOTS_FWD: Kernel =
    kernel::<ClipParams>("clip_slots_fwd", &[Read, Read, Write]).overrides(SUM_SIZES);
pub(super) const CLIP_FWD: Kernel = kernel::<ClipParams>("clip_fwd", &[Read, Write, Write]);
pub(super) const UNSCALE_FWD: Kernel = kernel::<UnscaleParams>("unscale_fwd", &[Read, Write, Write]);

/// Euclidean norm over several arenas of gradients, and the factor that clips it, as PyTorch has them: `(norm [1],
/// factor [1])` with `factor = min(1, max_norm / (norm + 1e-6))`, NaN if there is a NaN. Nothing is scaled here: the steps
/// take the factor.
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] if an arena does not fit its slots, [`Error::Argument`] without arenas or for a
/// `max_norm` that is not above 0.
pub fn clip(arenas: &[(&Tensor, &Slots)], max_norm: f32) -> Result<(Tensor, Tensor)> {
    const OP: &str = "clip";
    check_value(OP, "max_norm", max_norm, max_norm > 0.0, "more than 0")?;
    let sums = squares(OP, arenas)?;
    let runtime = sums.runtime();
    let (norm, factor) = (Tensor::empty(runtime, &[1], DType::F32)?, Tensor::empty(runtime, &[1], DType::F32)?);
    runtime
        .launch(&CLIP_FWD)
        .types(&PLAIN)
        .bind([sums.binding(), norm.binding(), factor.binding()])
        .params(&ClipParams { n: sums.len() as u32, start: 0, max_norm })
        .groups(1)
        .run()?;
    Ok((norm, factor))
}

/// Sums of squares by slot over all arenas: f32 `[n_slots]`.
fn squares(op: &'static str, arenas: &[(&Tensor, &Slots)]) -> Result<Tensor> {
    let Some((first, _)) = arenas.first() else { return Err(Error::argument(op, "no arena given")) };
    let runtime = first.runtime();
    let n_slots = arenas.iter().map(|(_, slots)| slots.n_slots).sum();
    let sums = Tensor::empty(runtime, &[n_slots], DType::F32)?;
    let mut start = 0;
    for (arena, slots) in arenas {
        check_arenas(op, slots.n, first, &[("an arena", arena)])?;
        need_one_device(op, first, [&slots.starts])?;
        let params = |n: usize| ClipParams { n: n as u32, start, max_norm: 0.0 };
        let of_blocks = Tensor::empty(runtime, &[slots.n_blocks()], DType::F32)?;
        runtime
            .launch(&CLIP_BLOCKS_FWD)
            .types(&PLAIN)
            .bind([arena.binding(), of_blocks.binding()])
            .params(&params(slots.n_blocks()))
            .groups((slots.n_blocks() as u64).div_ceil(WG_SIZE))
            .cost(2 * slots.n as u64, 4 * slots.n as u64)
            .run()?;
        runtime
            .launch(&CLIP_SLOTS_FWD)
            .types(&PLAIN)
            .overrides(&[("WG_SIZE", slots.wg_size)])
            .bind([slots.starts.binding(), of_blocks.binding(), sums.binding()])
            .params(&params(slots.n_slots))
            .groups(slots.n_slots as u64)
            .cost(slots.n_blocks() as u64, 4 * slots.n_blocks() as u64)
            .run()?;
        start += slots.n_slots as u32;
    }
    Ok(sums)
}

/// What a [`LossScale`] is at between two steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleState {
    /// What the loss is multiplied by.
    pub scale: f32,
    /// Steps taken since the scale last changed.
    pub good: u32,
    /// Steps that were skipped.
    pub skipped: u32,
    /// Steps that were taken.
    pub taken: u32,
}

impl ScaleState {
    /// The numbers as a device and a checkpoint hold them; counts are exact up to 2^24 and stay there.
    #[must_use]
    pub fn to_array(self) -> [f32; 4] {
        [self.scale, self.good as f32, self.skipped as f32, self.taken as f32]
    }

    /// The inverse of [`ScaleState::to_array`]; `None` for another number of values or a scale that is none.
    #[must_use]
    pub fn from_slice(values: &[f32]) -> Option<Self> {
        let &[scale, good, skipped, taken] = values else { return None };
        let state = Self { scale, good: good as u32, skipped: skipped as u32, taken: taken as u32 };
        (scale > 0.0 && scale.is_finite()).then_some(state)
    }
}

/// What became of the gradients of a step.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Global norm of the gradients without the scale, before clipping: f32 `[1]`; no number in a step that is skipped.
    pub norm: Tensor,
    /// What steps and averages take as their factor: f32 `[3]`, the factor that undoes the scale and clips, 1 where the
    /// step is taken and 0 where it is skipped, and the number of steps taken, this one included.
    pub factor: Tensor,
}

/// A dynamic loss scale (Micikevicius et al. 2018, arXiv 1710.03740), kept on the device: gradients in f16 are those of the
/// loss times a factor, so that small ones do not vanish. The rule and its numbers are those of PyTorch's `GradScaler`:
/// the scale starts at 2^16, halves when a gradient is infinite or no number, in which case nothing is changed by the step,
/// and doubles behind 2000 steps in a row that were taken. Here it stays within 2^-64 and 2^64.
///
/// The host reads nothing back: a step is the same commands whatever becomes of it.
#[derive(Debug, Clone)]
pub struct LossScale {
    /// [`ScaleState::to_array`]: f32 `[4]`.
    state: Tensor,
}

impl LossScale {
    /// The first scale.
    pub const START: f32 = 65_536.0;
    /// Steps in a row behind which it grows.
    pub const INTERVAL: u32 = 2000;
    const GROWTH: f32 = 2.0;
    const BACKOFF: f32 = 0.5;
    /// Reciprocals of scales stay normal numbers.
    const MOST: f32 = (1_u128 << 64) as f32;

    /// A scale before its first step.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn new(runtime: &Runtime) -> Result<Self> {
        Self::resume(runtime, ScaleState { scale: Self::START, good: 0, skipped: 0, taken: 0 })
    }

    /// A scale as it was.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn resume(runtime: &Runtime, state: ScaleState) -> Result<Self> {
        Ok(Self { state: Tensor::from_slice(runtime, &state.to_array(), &[4])? })
    }

    /// The scale as it stands when a backward pass runs that starts from it: f32 `[]`, for [`Tensor::backward_with`].
    ///
    /// # Errors
    /// None in fact.
    pub fn seed(&self) -> Result<Tensor> {
        self.state.slice(0, 0..1)?.reshape(&[])
    }

    /// Starts to read the state, for [`ScaleState::from_slice`].
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn read(&self) -> Result<tensor::Read<f32>> {
        self.state.read()
    }

    /// Judges the gradients of a step over all arenas: what undoes the scale, with `max_norm` also what clips, and whether
    /// the step is taken. Moves the scale, in place, for the next step.
    ///
    /// # Errors
    /// As [`clip`].
    pub fn unscale(&self, arenas: &[(&Tensor, &Slots)], max_norm: Option<f32>) -> Result<Verdict> {
        const OP: &str = "unscale";
        if let Some(max_norm) = max_norm {
            check_value(OP, "max_norm", max_norm, max_norm > 0.0, "more than 0")?;
        }
        let sums = squares(OP, arenas)?;
        need_one_device(OP, &sums, [&self.state])?;
        let out = Tensor::empty(sums.runtime(), &[VERDICT + 1], DType::F32)?;
        sums.runtime()
            .launch(&UNSCALE_FWD)
            .types(&PLAIN)
            .bind([&sums, &self.state, &out].map(Tensor::binding))
            .params(&UnscaleParams {
                n: sums.len() as u32,
                max_norm: max_norm.unwrap_or(0.0),
                interval: Self::INTERVAL as f32,
                growth: Self::GROWTH,
                backoff: Self::BACKOFF,
                least: 1.0 / Self::MOST,
                most: Self::MOST,
            })
            .groups(1)
            .run()?;
        Ok(Verdict { norm: out.slice(0, VERDICT..VERDICT + 1)?, factor: out.slice(0, 0..VERDICT)? })
    }
}
