//! Steps of optimizers, and the moving average behind them.

use super::{PLAIN, SUM_SIZES, Slots, VERDICT, WG_SIZE, check_arenas, check_factor, check_value, kernel};
use crate::runtime::{
    Bind::{Read, Write},
    Kernel,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SgdParams {
    n_vec4: u32,
    n_factor: u32,
    nesterov: u32,
    lr: f32,
    momentum: f32,
    decay: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LarsParams {
    n: u32,
    n_factor: u32,
    lr: f32,
    momentum: f32,
    decay: f32,
    trust: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AdamParams {
    n_vec4: u32,
    n_factor: u32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    lr_m: f32,
    root: f32,
    decay: f32,
    shrink: f32,
    log_beta1: f32,
    log_beta2: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct EmaParams {
    n_vec4: u32,
    n_factor: u32,
    momentum: f32,
    rest: f32,
}

pub(super) const SGD_FWD: Kernel = kernel::<SgdParams>("sgd_fwd", &[Read, Read, Read, Write, Read, Write]);
pub(super) const LARS_FWD: Kernel = kernel::<LarsParams>("lars_fwd", &[Read, Read, Read, Write, Read, Write, Read]);
pub(super) const LARS_BLOCKS_FWD: Kernel =
    kernel::<LarsParams>("lars_blocks_fwd", &[Read, Read, Read, Read, Read, Write]);
pub(super) const LARS_SLOTS_FWD: Kernel =
    kernel::<LarsParams>("lars_slots_fwd", &[Read, Read, Read, Write]).overrides(SUM_SIZES);
pub(super) const ADAM_FWD: Kernel = kernel::<AdamParams>("adam_fwd", &[Read, Read, Read, Write, Read, Write, Write]);
pub(super) const EMA_FWD: Kernel = kernel::<EmaParams>("ema_fwd", &[Write, Read, Read]);

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
/// `factor` multiplies `d` first: `[1]`, as [`super::clip`] gives it, or `[3]`, as [`super::LossScale::unscale`] does, which
/// also says whether anything changes at all.
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
    let (factor, n_factor) = check_factor(OP, factor, &slots.decay, &[w, m])?;
    let params = SgdParams {
        n_vec4: n_vec4 as u32,
        n_factor,
        nesterov: u32::from(step.nesterov),
        lr: step.lr,
        momentum: step.momentum,
        decay: step.decay,
    };
    w.runtime()
        .launch(&SGD_FWD)
        .types(&PLAIN)
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
    let (factor, n_factor) = check_factor(OP, factor, &slots.decay, &[w, m])?;
    let &Lars { lr, momentum, decay, trust } = step;
    let params = |n: usize| LarsParams { n: n as u32, n_factor, lr, momentum, decay, trust };
    let runtime = w.runtime();
    let sums = Tensor::empty(runtime, &[slots.n_blocks(), 2], DType::F32)?;
    let ratio = Tensor::empty(runtime, &[slots.n_slots], DType::F32)?;
    let (blocks, decays) = (slots.blocks.binding(), slots.decay.binding());
    runtime
        .launch(&LARS_BLOCKS_FWD)
        .types(&PLAIN)
        .bind([blocks.clone(), decays.clone(), factor.clone(), w.binding(), d.binding(), sums.binding()])
        .params(&params(slots.n_blocks()))
        .groups((slots.n_blocks() as u64).div_ceil(WG_SIZE))
        .cost(7 * slots.n as u64, 8 * slots.n as u64)
        .run()?;
    runtime
        .launch(&LARS_SLOTS_FWD)
        .types(&PLAIN)
        .overrides(&[("WG_SIZE", slots.wg_size)])
        .bind([slots.starts.binding(), decays.clone(), sums.binding(), ratio.binding()])
        .params(&params(slots.n_slots))
        .groups(slots.n_slots as u64)
        .cost(2 * slots.n_blocks() as u64, 8 * slots.n_blocks() as u64)
        .run()?;
    runtime
        .launch(&LARS_FWD)
        .types(&PLAIN)
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
    /// Number of the step, from 1 on. A factor that counts the steps taken, a [`super::Verdict`]'s, has its own.
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
    let (factor, n_factor) = check_factor(OP, factor, &slots.decay, &[w, m, v])?;
    // The logarithm of 0 as a number whose multiples stay numbers.
    let log = |beta: f64| beta.ln().max(-1e6) as f32;
    let counts = n_factor as usize == VERDICT;
    let params = AdamParams {
        n_vec4: n_vec4 as u32,
        n_factor,
        beta1: step.beta1,
        rest1: (1.0 - beta1) as f32,
        beta2: step.beta2,
        rest2: (1.0 - beta2) as f32,
        eps: step.eps,
        lr_m: if counts { step.lr } else { (lr / left(beta1)) as f32 },
        root: (1.0 / left(beta2).sqrt()) as f32,
        decay: if step.decoupled { 0.0 } else { step.decay },
        shrink: if step.decoupled { (1.0 - lr * f64::from(step.decay)) as f32 } else { 1.0 },
        log_beta1: log(beta1),
        log_beta2: log(beta2),
    };
    w.runtime()
        .launch(&ADAM_FWD)
        .types(&PLAIN)
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
/// multiple of 4. A `factor` that says that no step was taken leaves it as it is; see [`sgd`].
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] if they do not fit, [`Error::Argument`] unless `0 <= momentum <= 1` and they lie
/// in memory of their own.
pub fn ema(e: &Tensor, w: &Tensor, momentum: f32, factor: Option<&Tensor>) -> Result<()> {
    const OP: &str = "ema";
    let n = e.len().next_multiple_of(4);
    check_arenas(OP, n, e, &[("e", e), ("w", w)])?;
    check_value(OP, "momentum", momentum, (0.0..=1.0).contains(&momentum), "0 to 1")?;
    let (factor, n_factor) = check_factor(OP, factor, w, &[e])?;
    let rest = (1.0 - f64::from(momentum)) as f32;
    e.runtime()
        .launch(&EMA_FWD)
        .types(&PLAIN)
        .bind([e.binding(), w.binding(), factor])
        .params(&EmaParams { n_vec4: (n / 4) as u32, n_factor, momentum, rest })
        .groups((n as u64 / 4).div_ceil(WG_SIZE))
        .cost(3 * n as u64, 12 * n as u64)
        .run()
}
