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
//! Zeros behind a slot stay zeros, unless a factor is NaN. Sums are taken in a fixed order: equal inputs give equal bits.

use super::reduce;
use crate::runtime::{
    Bind::{self, Read, Write},
    Binding, Common, INDEX, Kernel, LOOP_ROUNDS, Runtime,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use std::sync::Arc;

const SOURCE: &str = include_str!("../../shaders/optim.wgsl");
const COMMONS: &[Common] = &[INDEX, reduce::REDUCE];
const WG_SIZE: u64 = 64;
/// Workgroups that sum: small ones, or these where a slot has more than [`LONG_SLOT`] blocks.
const LONG_WG_SIZE: u32 = 256;
const LONG_SLOT: usize = 1 << 12;
/// Sources of one [`collect`] dispatch: what 8 storage buffers leave.
const N_PARTS: usize = 7;
/// Sources from this many elements on get a dispatch of their own, which need not search for its part.
const ALONE: usize = 1 << 15;

/// Slots start at multiples of this many elements: 256 bytes, so that each can be bound by itself.
pub const ALIGN: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SgdParams {
    n_vec4: u32,
    has_factor: u32,
    nesterov: u32,
    lr: f32,
    momentum: f32,
    decay: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LarsParams {
    n: u32,
    has_factor: u32,
    lr: f32,
    momentum: f32,
    decay: f32,
    trust: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AdamParams {
    n_vec4: u32,
    has_factor: u32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    lr_m: f32,
    root: f32,
    decay: f32,
    shrink: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct EmaParams {
    n_vec4: u32,
    momentum: f32,
    rest: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ClipParams {
    n: u32,
    start: u32,
    max_norm: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct CollectParams {
    n: [u32; N_PARTS],
    at: [u32; N_PARTS],
    adds: u32,
}

const fn kernel<P: bytemuck::Pod>(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("optim", entry, SOURCE, binds).commons(COMMONS).types(&["Acc"], &[&[DType::F32]]).params::<P>()
}

const SUM_SIZES: &[(&str, &[u32])] = &[("WG_SIZE", &[WG_SIZE as u32, LONG_WG_SIZE])];

const SGD_FWD: Kernel = kernel::<SgdParams>("sgd_fwd", &[Read, Read, Read, Write, Read, Write]);
const LARS_FWD: Kernel = kernel::<LarsParams>("lars_fwd", &[Read, Read, Read, Write, Read, Write, Read]);
const LARS_BLOCKS_FWD: Kernel = kernel::<LarsParams>("lars_blocks_fwd", &[Read, Read, Read, Read, Read, Write]);
const LARS_SLOTS_FWD: Kernel = kernel::<LarsParams>("lars_slots_fwd", &[Read, Read, Read, Write]).overrides(SUM_SIZES);
const ADAM_FWD: Kernel = kernel::<AdamParams>("adam_fwd", &[Read, Read, Read, Write, Read, Write, Write]);
const EMA_FWD: Kernel = kernel::<EmaParams>("ema_fwd", &[Write, Read]);
const CLIP_BLOCKS_FWD: Kernel = kernel::<ClipParams>("clip_blocks_fwd", &[Read, Write]);
const CLIP_SLOTS_FWD: Kernel = kernel::<ClipParams>("clip_slots_fwd", &[Read, Read, Write]).overrides(SUM_SIZES);
const CLIP_FWD: Kernel = kernel::<ClipParams>("clip_fwd", &[Read, Write, Write]);
const COLLECT_FWD: Kernel = kernel::<CollectParams>("collect_fwd", &[Read, Read, Read, Read, Read, Read, Read, Write])
    .overrides(&[("N_PARTS", &[1, N_PARTS as u32])]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    SGD_FWD,
    LARS_FWD,
    LARS_BLOCKS_FWD,
    LARS_SLOTS_FWD,
    ADAM_FWD,
    EMA_FWD,
    CLIP_BLOCKS_FWD,
    CLIP_SLOTS_FWD,
    CLIP_FWD,
    COLLECT_FWD,
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

/// The factor to bind; something must be bound where there is none.
fn check_factor(op: &'static str, slots: &Slots, factor: Option<&Tensor>, others: &[&Tensor]) -> Result<Binding> {
    let Some(factor) = factor else { return Ok(slots.decay.binding()) };
    if factor.dtype() != DType::F32 || factor.len() != 1 {
        return Err(Error::shape(op, format!("factor {:?} {} given, f32 [1] wanted", factor.shape(), factor.dtype())));
    }
    super::checks::need_one_device(op, &slots.blocks, [factor])?;
    let factor = factor.contiguous()?;
    if others.iter().any(|other| shares_memory(other, &factor)) {
        return Err(Error::argument(op, "factor lies in the memory of an arena"));
    }
    Ok(factor.binding())
}

/// Gradients into their places of an arena `[n]`, in place: f32 tensors of any shape, each with the offset of its slot in
/// elements. They are added to what is there, or stored, with zeros up to the next multiple of [`ALIGN`].
///
/// # Errors
/// [`Error::DType`] unless all are f32; [`Error::Argument`] if a part does not fit at its offset, two overlap, or one lies
/// in the arena's own memory.
pub fn collect(arena: &Tensor, parts: &[(&Tensor, usize)], add: bool) -> Result<()> {
    const OP: &str = "collect";
    let n = arena.len();
    check_arenas(OP, n.next_multiple_of(ALIGN), arena, &[("arena", arena)])?;
    super::checks::need_one_device(OP, arena, parts.iter().map(|(part, _)| *part))?;
    let mut places: Vec<(usize, usize)> = Vec::with_capacity(parts.len());
    for (part, offset) in parts {
        if part.dtype() != DType::F32 {
            return Err(Error::dtype(OP, format!("a part holds {}, f32 wanted", part.dtype())));
        }
        let end = offset.saturating_add(part.len().next_multiple_of(ALIGN));
        if !offset.is_multiple_of(ALIGN) || end > n {
            return Err(Error::argument(OP, format!("{:?} at {offset} does not fit an arena [{n}]", part.shape())));
        }
        places.push((*offset, end));
    }
    places.sort_unstable();
    if let Some(pair) = places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        return Err(Error::argument(OP, format!("the parts at {} and {} overlap", pair[0].0, pair[1].0)));
    }
    let parts: Vec<(Tensor, usize)> =
        parts.iter().map(|(part, offset)| Ok((part.contiguous()?, *offset))).collect::<Result<_>>()?;
    if parts.iter().any(|(part, _)| shares_memory(part, arena)) {
        return Err(Error::argument(OP, "a part lies in the arena's own memory"));
    }
    let (alone, together): (Vec<_>, Vec<_>) =
        parts.into_iter().filter(|(part, _)| !part.is_empty()).partition(|(part, _)| part.len() >= ALONE);
    for parts in alone.chunks(1).chain(together.chunks(N_PARTS)) {
        let mut params = CollectParams { adds: u32::from(add), ..CollectParams::default() };
        let mut n_vec4 = 0;
        for (i, (part, offset)) in parts.iter().enumerate() {
            params.n[i] = part.len() as u32;
            params.at[i] = (offset / 4) as u32;
            n_vec4 += part.len().next_multiple_of(ALIGN) / 4;
        }
        let n_elements: usize = parts.iter().map(|(part, _)| part.len()).sum();
        let bound = (0..N_PARTS).map(|i| parts.get(i).unwrap_or(&parts[0]).0.binding());
        arena
            .runtime()
            .launch(&COLLECT_FWD)
            .overrides(&[("N_PARTS", if parts.len() == 1 { 1 } else { N_PARTS as u32 })])
            .bind(bound.chain([arena.binding()]))
            .params(&params)
            .groups((n_vec4 as u64).div_ceil(WG_SIZE))
            .cost(0, (if add { 12 } else { 8 }) * n_elements as u64)
            .run()?;
    }
    Ok(())
}

/// A step of stochastic gradient descent, by PyTorch's rule: `g = d + decay w`, `m = momentum m + g`, `w -= lr m`, or
/// `w -= lr (g + momentum m)` with Nesterov's momentum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// What is kept of the last step's moment, 0 to below 1.
    pub momentum: f32,
    /// Whether the step looks ahead along the new moment.
    pub nesterov: bool,
    /// Factor of the values that is added to the gradients of slots that decay.
    pub decay: f32,
}

/// One step, in place: `w -= ..`, from the gradients `d`, with the moments `m`, which start as zeros; all arenas `[n]`.
/// `factor` `[1]` multiplies `d` first.
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] if an arena does not fit `slots`, [`Error::Argument`] for a number out of its range,
/// or arenas that share memory.
pub fn sgd(w: &Tensor, d: &Tensor, m: &Tensor, slots: &Slots, factor: Option<&Tensor>, step: &Sgd) -> Result<()> {
    const OP: &str = "sgd";
    check_arenas(OP, slots.n, &slots.blocks, &[("w", w), ("d", d), ("m", m)])?;
    check_value(OP, "lr", step.lr, true, "a number")?;
    check_value(OP, "momentum", step.momentum, (0.0..1.0).contains(&step.momentum), "0 to below 1")?;
    check_value(OP, "decay", step.decay, step.decay >= 0.0, "0 or more")?;
    let n_vec4 = slots.n / 4;
    let params = SgdParams {
        n_vec4: n_vec4 as u32,
        has_factor: u32::from(factor.is_some()),
        nesterov: u32::from(step.nesterov),
        lr: step.lr,
        momentum: step.momentum,
        decay: step.decay,
    };
    let factor = check_factor(OP, slots, factor, &[w, m])?;
    w.runtime()
        .launch(&SGD_FWD)
        .bind([slots.blocks.binding(), slots.decay.binding(), factor, w.binding(), d.binding(), m.binding()])
        .params(&params)
        .groups((n_vec4 as u64).div_ceil(WG_SIZE))
        .cost(8 * slots.n as u64, 20 * slots.n as u64)
        .run()
}

/// A step of LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888), in the form of Barlow Twins and MoCo v3: `g = d +
/// decay w`, `m = momentum m + q g`, `w -= lr m`, with `q = trust |w| / |g|` per slot, 1 where a norm is 0 or NaN and in
/// slots that do not decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lars {
    /// Learning rate.
    pub lr: f32,
    /// What is kept of the last step's moment, 0 to below 1.
    pub momentum: f32,
    /// Factor of the values that is added to the gradients of slots that decay.
    pub decay: f32,
    /// Length of a slot's step at rate 1 as a share of the slot's own, 0.001 in the paper.
    pub trust: f32,
}

/// One step, in place; arenas and `factor` as for [`sgd`]. Two more dispatches take the norms.
///
/// # Errors
/// As [`sgd`].
pub fn lars(w: &Tensor, d: &Tensor, m: &Tensor, slots: &Slots, factor: Option<&Tensor>, step: &Lars) -> Result<()> {
    const OP: &str = "lars";
    check_arenas(OP, slots.n, &slots.blocks, &[("w", w), ("d", d), ("m", m)])?;
    check_value(OP, "lr", step.lr, true, "a number")?;
    check_value(OP, "momentum", step.momentum, (0.0..1.0).contains(&step.momentum), "0 to below 1")?;
    check_value(OP, "decay", step.decay, step.decay >= 0.0, "0 or more")?;
    check_value(OP, "trust", step.trust, step.trust >= 0.0, "0 or more")?;
    let has_factor = u32::from(factor.is_some());
    let factor = check_factor(OP, slots, factor, &[w, m])?;
    let &Lars { lr, momentum, decay, trust } = step;
    let params = |n: usize| LarsParams { n: n as u32, has_factor, lr, momentum, decay, trust };
    let runtime = w.runtime();
    let sums = Tensor::empty(runtime, &[slots.n_blocks(), 2], DType::F32)?;
    let ratio = Tensor::empty(runtime, &[slots.n_slots], DType::F32)?;
    let (blocks, decays) = (slots.blocks.binding(), slots.decay.binding());
    runtime
        .launch(&LARS_BLOCKS_FWD)
        .bind([blocks.clone(), decays.clone(), factor.clone(), w.binding(), d.binding(), sums.binding()])
        .params(&params(slots.n_blocks()))
        .groups((slots.n_blocks() as u64).div_ceil(WG_SIZE))
        .cost(7 * slots.n as u64, 8 * slots.n as u64)
        .run()?;
    runtime
        .launch(&LARS_SLOTS_FWD)
        .overrides(&[("WG_SIZE", slots.wg_size)])
        .bind([slots.starts.binding(), decays.clone(), sums.binding(), ratio.binding()])
        .params(&params(slots.n_slots))
        .groups(slots.n_slots as u64)
        .cost(2 * slots.n_blocks() as u64, 8 * slots.n_blocks() as u64)
        .run()?;
    runtime
        .launch(&LARS_FWD)
        .bind([blocks, decays, factor, w.binding(), d.binding(), m.binding(), ratio.binding()])
        .params(&params(slots.n / 4))
        .groups((slots.n as u64 / 4).div_ceil(WG_SIZE))
        .cost(8 * slots.n as u64, 20 * slots.n as u64)
        .run()
}

/// A step of Adam (Kingma and Ba 2015, arXiv 1412.6980) or AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), by
/// PyTorch's rule: `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`, `w -= lr m' / (sqrt(v') + eps)` with
/// `m' = m / (1 - beta1^t)` and `v' = v / (1 - beta2^t)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f32,
    /// What the first moment keeps, 0 to below 1.
    pub beta1: f32,
    /// What the second moment keeps, 0 to below 1.
    pub beta2: f32,
    /// Added to the root of the second moment; above 0.
    pub eps: f32,
    /// Weight decay of the slots that decay.
    pub decay: f32,
    /// AdamW: `w` shrinks by `lr decay w` before the step; else `g = d + decay w`.
    pub decoupled: bool,
    /// Number of the step, from 1 on.
    pub t: u32,
}

/// One step, in place, with the moments `m` and `v`, which start as zeros; arenas and `factor` as for [`sgd`].
///
/// # Errors
/// As [`sgd`].
pub fn adam(
    w: &Tensor,
    d: &Tensor,
    m: &Tensor,
    v: &Tensor,
    slots: &Slots,
    factor: Option<&Tensor>,
    step: &Adam,
) -> Result<()> {
    const OP: &str = "adam";
    check_arenas(OP, slots.n, &slots.blocks, &[("w", w), ("d", d), ("m", m), ("v", v)])?;
    check_value(OP, "lr", step.lr, true, "a number")?;
    check_value(OP, "beta1", step.beta1, (0.0..1.0).contains(&step.beta1), "0 to below 1")?;
    check_value(OP, "beta2", step.beta2, (0.0..1.0).contains(&step.beta2), "0 to below 1")?;
    // Without it the zeros behind a slot would become 0 / 0.
    check_value(OP, "eps", step.eps, step.eps > 0.0, "more than 0")?;
    check_value(OP, "decay", step.decay, step.decay >= 0.0, "0 or more")?;
    if step.t == 0 {
        return Err(Error::argument(OP, "step 0 given, the first is 1"));
    }
    let (lr, beta1, beta2) = (f64::from(step.lr), f64::from(step.beta1), f64::from(step.beta2));
    let left = |beta: f64| 1.0 - beta.powf(f64::from(step.t));
    let n_vec4 = slots.n / 4;
    let params = AdamParams {
        n_vec4: n_vec4 as u32,
        has_factor: u32::from(factor.is_some()),
        beta1: step.beta1,
        rest1: (1.0 - beta1) as f32,
        beta2: step.beta2,
        rest2: (1.0 - beta2) as f32,
        eps: step.eps,
        lr_m: (lr / left(beta1)) as f32,
        root: (1.0 / left(beta2).sqrt()) as f32,
        decay: if step.decoupled { 0.0 } else { step.decay },
        shrink: if step.decoupled { (1.0 - lr * f64::from(step.decay)) as f32 } else { 1.0 },
    };
    let factor = check_factor(OP, slots, factor, &[w, m, v])?;
    w.runtime()
        .launch(&ADAM_FWD)
        .bind([
            slots.blocks.binding(),
            slots.decay.binding(),
            factor,
            w.binding(),
            d.binding(),
            m.binding(),
            v.binding(),
        ])
        .params(&params)
        .groups((n_vec4 as u64).div_ceil(WG_SIZE))
        .cost(16 * slots.n as u64, 28 * slots.n as u64)
        .run()
}

/// Exponential moving average of the values `w`, in place: `e = momentum e + (1 - momentum) w`, both `[n]` with `n` a
/// multiple of 4.
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] if they do not fit, [`Error::Argument`] unless `0 <= momentum <= 1` and they lie
/// in memory of their own.
pub fn ema(e: &Tensor, w: &Tensor, momentum: f32) -> Result<()> {
    const OP: &str = "ema";
    let n = e.len().next_multiple_of(4);
    check_arenas(OP, n, e, &[("e", e), ("w", w)])?;
    check_value(OP, "momentum", momentum, (0.0..=1.0).contains(&momentum), "0 to 1")?;
    let rest = (1.0 - f64::from(momentum)) as f32;
    e.runtime()
        .launch(&EMA_FWD)
        .bind([e.binding(), w.binding()])
        .params(&EmaParams { n_vec4: (n / 4) as u32, momentum, rest })
        .groups((n as u64 / 4).div_ceil(WG_SIZE))
        .cost(3 * n as u64, 12 * n as u64)
        .run()
}

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
    let Some((first, _)) = arenas.first() else { return Err(Error::argument(OP, "no arena given")) };
    let runtime = first.runtime();
    let n_slots = arenas.iter().map(|(_, slots)| slots.n_slots).sum();
    let sums = Tensor::empty(runtime, &[n_slots], DType::F32)?;
    let mut start = 0;
    for (arena, slots) in arenas {
        check_arenas(OP, slots.n, first, &[("an arena", arena)])?;
        super::checks::need_one_device(OP, first, [&slots.starts])?;
        let params = |n: usize| ClipParams { n: n as u32, start, max_norm };
        let of_blocks = Tensor::empty(runtime, &[slots.n_blocks()], DType::F32)?;
        runtime
            .launch(&CLIP_BLOCKS_FWD)
            .bind([arena.binding(), of_blocks.binding()])
            .params(&params(slots.n_blocks()))
            .groups((slots.n_blocks() as u64).div_ceil(WG_SIZE))
            .cost(2 * slots.n as u64, 4 * slots.n as u64)
            .run()?;
        runtime
            .launch(&CLIP_SLOTS_FWD)
            .overrides(&[("WG_SIZE", slots.wg_size)])
            .bind([slots.starts.binding(), of_blocks.binding(), sums.binding()])
            .params(&params(slots.n_slots))
            .groups(slots.n_slots as u64)
            .cost(slots.n_blocks() as u64, 4 * slots.n_blocks() as u64)
            .run()?;
        start += slots.n_slots as u32;
    }
    let (norm, factor) = (Tensor::empty(runtime, &[1], DType::F32)?, Tensor::empty(runtime, &[1], DType::F32)?);
    runtime
        .launch(&CLIP_FWD)
        .bind([sums.binding(), norm.binding(), factor.binding()])
        .params(&ClipParams { n: start, start: 0, max_norm })
        .groups(1)
        .run()?;
    Ok((norm, factor))
}
