//! Gradients into their places of an arena.

use super::{ALIASES, ALIGN, WG_SIZE, check_arenas, kernel, shares_memory};
use crate::ops::checks;
use crate::runtime::{
    Bind::{Read, Write},
    Kernel,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Sources of one [`collect`] dispatch: what 8 storage buffers leave.
const N_PARTS: usize = 7;
/// Sources from this many elements on get a dispatch of their own, which need not search for its part.
const ALONE: usize = 1 << 15;
const FLOATS: &[DType] = &[DType::F32, DType::F16];

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct CollectParams {
    n: [u32; N_PARTS],
    at: [u32; N_PARTS],
    adds: u32,
}

pub(super) const COLLECT_FWD: Kernel =
    kernel::<CollectParams>("collect_fwd", &[Read, Read, Read, Read, Read, Read, Read, Write])
        .types(ALIASES, &[FLOATS, &[DType::F32]])
        .overrides(&[("N_PARTS", &[1, N_PARTS as u32])]);

/// Gradients into their places of an f32 arena `[n]`, in place: f32 and f16 tensors of any shape, each with the offset of
/// its slot in elements. They are added to what is there, or stored, with zeros up to the next multiple of [`ALIGN`].
///
/// # Errors
/// [`Error::DType`] for an arena or a part of another type; [`Error::Argument`] if a part does not fit at its offset, two
/// overlap, or one lies in the arena's own memory.
pub fn collect(arena: &Tensor, parts: &[(&Tensor, usize)], add: bool) -> Result<()> {
    const OP: &str = "collect";
    let n = arena.len();
    check_arenas(OP, n.next_multiple_of(ALIGN), arena, &[("arena", arena)])?;
    checks::need_one_device(OP, arena, parts.iter().map(|(part, _)| *part))?;
    let mut places: Vec<(usize, usize)> = Vec::with_capacity(parts.len());
    for (part, offset) in parts {
        if !part.dtype().is_float() {
            return Err(Error::dtype(OP, format!("a part holds {}, a float type wanted", part.dtype())));
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
    // A dispatch reads parts of one type.
    for dtype in FLOATS {
        let of_type = parts.iter().filter(|(part, _)| part.dtype() == *dtype && !part.is_empty());
        let (alone, together): (Vec<_>, Vec<_>) = of_type.partition(|(part, _)| part.len() >= ALONE);
        for parts in alone.chunks(1).chain(together.chunks(N_PARTS)) {
            dispatch(arena, *dtype, parts, add)?;
        }
    }
    Ok(())
}

/// Contiguous parts of one type, from 1 to [`N_PARTS`] of them.
fn dispatch(arena: &Tensor, dtype: DType, parts: &[&(Tensor, usize)], add: bool) -> Result<()> {
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
        .types(&[dtype, DType::F32])
        .overrides(&[("N_PARTS", if parts.len() == 1 { 1 } else { N_PARTS as u32 })])
        .bind(bound.chain([arena.binding()]))
        .params(&params)
        .groups((n_vec4 as u64).div_ceil(WG_SIZE))
        .cost(0, ((dtype.bytes() + if add { 8 } else { 4 }) * n_elements) as u64)
        .run()
}
