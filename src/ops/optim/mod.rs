//! Optimizer steps over arenas: SGD, LARS, Adam and AdamW, moving averages, gradient clipping.
//!
//! An arena is a flat f32 tensor of `n` elements, a multiple of [`ALIGN`], that holds many parameters (slots): each starts
//! at a multiple of [`ALIGN`] elements, and the elements from its last one to the next slot are zeros. Values, gradients
//! and moments are arenas of one layout, which [`Slots`] describes, in buffers of their own.
//!
//! **These ops write in place**, unlike all others: a step changes `w` and its moments, and every tensor that shares their
//! memory sees it. Ops recorded before a step still read the old values, ops recorded after it the new ones. A backward
//! pass reads what its forward pass kept, so it must be recorded before the step.
//!
//! Under mixed precision gradients arrive multiplied by a [`LossScale`], which judges them on the device: steps take its
//! factor, and leave everything as it is where a gradient was no number.
//!
//! Zeros behind a slot stay zeros, unless a factor is NaN. Sums are taken in a fixed order: equal inputs give equal bits.

mod collect;
mod scale;
mod steps;

pub use collect::collect;
pub use scale::{LossScale, ScaleState, Verdict, clip};
pub use steps::{Adam, Lars, Sgd, adam, ema, lars, sgd};

use super::reduce;
use crate::runtime::{Bind, Binding, Common, INDEX, Kernel, LOOP_ROUNDS, Runtime};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use std::sync::Arc;

const SOURCE: &str = include_str!("../../../shaders/optim.wgsl");
const COMMONS: &[Common] = &[INDEX, reduce::REDUCE];
const ALIASES: &[&str] = &["Elem", "Acc"];
const WG_SIZE: u64 = 64;
/// Workgroups that sum: small ones, or these where a slot has more than [`LONG_SLOT`] blocks.
const LONG_WG_SIZE: u32 = 256;
const LONG_SLOT: usize = 1 << 12;
/// Elements of a [`LossScale`]'s factor: the factor itself, whether the step is taken, and the steps taken with it.
const VERDICT: usize = 3;

/// Slots start at multiples of this many elements: 256 bytes, so that each can be bound by itself.
pub const ALIGN: usize = 64;

/// The types of a step: all f32.
const PLAIN: [DType; 2] = [DType::F32; 2];

const fn kernel<P: bytemuck::Pod>(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("optim", entry, SOURCE, binds)
        .commons(COMMONS)
        .types(ALIASES, &[&[DType::F32], &[DType::F32]])
        .params::<P>()
}

const SUM_SIZES: &[(&str, &[u32])] = &[("WG_SIZE", &[WG_SIZE as u32, LONG_WG_SIZE])];

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    steps::SGD_FWD,
    steps::LARS_FWD,
    steps::LARS_BLOCKS_FWD,
    steps::LARS_SLOTS_FWD,
    steps::ADAM_FWD,
    steps::EMA_FWD,
    scale::CLIP_BLOCKS_FWD,
    scale::CLIP_SLOTS_FWD,
    scale::CLIP_FWD,
    scale::UNSCALE_FWD,
    collect::COLLECT_FWD,
];

/// Which parameter each block of [`ALIGN`] elements of an arena belongs to, and which parameters decay.
#[derive(Debug, Clone)]
pub struct Slots {
    /// The slot of each block: u32 `[n / 64]`.
    blocks: Tensor,
    /// First block of each slot, then the number of blocks: u32 `[n_slots + 1]`.
    starts: Tensor,
    /// 1 for slots that decay, else 0: f32 `[n_slots]`.
    decay: Tensor,
    offsets: Vec<usize>,
    n: usize,
    n_slots: usize,
    wg_size: u32,
}

impl Slots {
    /// The layout of slots in this order, each given by its number of elements and whether it decays (and, in [`lars`],
    /// adapts).
    ///
    /// # Errors
    /// [`Error::Limit`] if a slot or the arena is too long, else as [`Tensor::from_slice`].
    pub fn new(runtime: &Runtime, slots: &[(usize, bool)]) -> Result<Self> {
        // What one workgroup can sum, each invocation a block at a time.
        let limit = LONG_WG_SIZE as usize * LOOP_ROUNDS * ALIGN;
        let total: u64 = slots.iter().map(|(n, _)| n.next_multiple_of(ALIGN) as u64).sum();
        let longest = slots.iter().map(|(n, _)| *n).max().unwrap_or(0);
        for (what, asked, limit) in [
            ("elements of a parameter", longest as u64, limit as u64),
            ("elements of an arena", total, u64::from(u32::MAX)),
        ] {
            if asked > limit {
                return Err(Error::Limit { what: what.into(), asked, limit, adapter: "an arena".into() });
            }
        }
        let (mut blocks, mut starts, mut decay) = (Vec::new(), vec![0], Vec::new());
        for (slot, (n, decays)) in slots.iter().enumerate() {
            blocks.extend(std::iter::repeat_n(slot as u32, n.div_ceil(ALIGN)));
            starts.push(blocks.len() as u32);
            decay.push(f32::from(u8::from(*decays)));
        }
        Ok(Self {
            n: blocks.len() * ALIGN,
            n_slots: slots.len(),
            offsets: starts[..slots.len()].iter().map(|block| *block as usize * ALIGN).collect(),
            wg_size: if longest > LONG_SLOT * ALIGN { LONG_WG_SIZE } else { WG_SIZE as u32 },
            blocks: Tensor::from_slice(runtime, &blocks, &[blocks.len()])?,
            starts: Tensor::from_slice(runtime, &starts, &[starts.len()])?,
            decay: Tensor::from_slice(runtime, &decay, &[decay.len()])?,
        })
    }

    /// Elements of an arena of this layout, a multiple of [`ALIGN`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether an arena of this layout has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// First element of each slot.
    #[must_use]
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    fn n_blocks(&self) -> usize {
        self.n / ALIGN
    }
}

/// An error unless every tensor is an f32 arena of `n` elements on one device, in a buffer of its own.
fn check_arenas(op: &'static str, n: usize, on: &Tensor, arenas: &[(&str, &Tensor)]) -> Result<()> {
    for (name, arena) in arenas {
        if arena.dtype() != DType::F32 {
            return Err(Error::dtype(op, format!("{name} holds {}, f32 wanted", arena.dtype())));
        }
        if arena.shape() != [n] {
            return Err(Error::shape(op, format!("{name} {:?} given, an arena [{n}] wanted", arena.shape())));
        }
        if !arena.is_bindable() {
            return Err(Error::argument(op, format!("{name} is a view that cannot be bound as an arena")));
        }
    }
    super::checks::need_one_device(op, on, arenas.iter().map(|(_, arena)| *arena))?;
    for (i, (name, arena)) in arenas.iter().enumerate() {
        if let Some((other, _)) = arenas[..i].iter().find(|(_, other)| shares_memory(other, arena)) {
            return Err(Error::argument(op, format!("{other} and {name} lie in the same memory")));
        }
    }
    Ok(())
}

fn shares_memory(a: &Tensor, b: &Tensor) -> bool {
    Arc::ptr_eq(&a.binding_from().0.buffer, &b.binding_from().0.buffer)
}

/// An error unless the value lies in its range.
fn check_value(op: &'static str, name: &str, value: f32, good: bool, wanted: &str) -> Result<()> {
    if good && value.is_finite() {
        Ok(())
    } else {
        Err(Error::argument(op, format!("{name} {value} given, {wanted} wanted")))
    }
}

/// The factor to bind and the number of its elements; something must be bound where there is none.
fn check_factor(
    op: &'static str,
    factor: Option<&Tensor>,
    instead: &Tensor,
    others: &[&Tensor],
) -> Result<(Binding, u32)> {
    let Some(factor) = factor else { return Ok((instead.binding(), 0)) };
    let n = factor.len();
    if factor.dtype() != DType::F32 || ![1, VERDICT].contains(&n) {
        let given = format!("factor {:?} {} given", factor.shape(), factor.dtype());
        return Err(Error::shape(op, format!("{given}, f32 [1] or [{VERDICT}] wanted")));
    }
    super::checks::need_one_device(op, instead, [factor])?;
    let factor = factor.contiguous()?;
    if others.iter().any(|other| shares_memory(other, &factor)) {
        return Err(Error::argument(op, "factor lies in the memory of an arena"));
    }
    Ok((factor.binding(), n as u32))
}
