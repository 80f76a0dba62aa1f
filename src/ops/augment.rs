//! Random changes to training images, drawn on the device: a crop of the padded image, a flip.

use super::checks::{need_counter, need_one_device, need_types};
use super::random::{Key, RNG};
use crate::autograd::refuse;
use crate::runtime::{
    Bind::{Read, Write},
    Common, INDEX, Kernel,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/augment.wgsl");
const COMMONS: &[Common] = &[INDEX, RNG];
const WG_SIZE: u64 = 64;
/// Sides with their padding stay below this, so that places outside the image wrap past its end.
const MAX_SIDE: usize = 1 << 30;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ChoiceParams {
    n: u32,
    n_images: u32,
    n_shifts: u32,
    flips: u32,
    key_0: u32,
    key_1: u32,
    step: u32,
    stream: u32,
    has_counter: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CropParams {
    n: u32,
    height: u32,
    width: u32,
    n_channels: u32,
    pad: u32,
}

const CHOICE_FWD: Kernel = Kernel::new("augment", "choice_fwd", SOURCE, &[Read, Read, Write])
    .commons(COMMONS)
    .types(&["Elem"], &[&[DType::F32]])
    .params::<ChoiceParams>();
const CROP_FLIP_FWD: Kernel = Kernel::new("augment", "crop_flip_fwd", SOURCE, &[Read, Read, Read, Read, Write])
    .commons(COMMONS)
    .types(&["Elem"], &[&[DType::F32, DType::F16]])
    .params::<CropParams>();

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[CHOICE_FWD, CROP_FLIP_FWD];

/// How [`crop_flip`] changes images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropFlip {
    /// Black pixels put on every side before an image of the old size is cut out; 0 leaves it where it is.
    pub pad: usize,
    /// Whether half of the pictures are flipped left to right.
    pub flip: bool,
    /// Who draws: the picture at place `i` of the batch takes words `4 i`, `4 i + 1` and `4 i + 2` of the key, for the
    /// rows and columns by which it is shifted and for the flip. The step is the training step;
    /// [`crate::philox::stream::CROP_FLIP`] is the stream for training.
    pub key: Key,
}

/// A batch of training images: the images u8 `[n, h, w, c]` at `ids` u32 `[b]` (an id past them counts as the last), each
/// padded by black pixels (byte 0), cut back to `[h, w]` at a random place, flipped left to right with probability 1/2, and
/// normalised to `byte * scale + shift`, f32 `[c]`: `[b, h, w, c]`. As torchvision's `RandomCrop(size, padding)` and
/// `RandomHorizontalFlip` before its normalisation.
///
/// A `counter` u32 `[1]` on the device is added to the key's step: so a replayed plan draws anew.
///
/// # Errors
/// [`Error::DType`] unless the types are these and `dtype` is a float type, [`Error::Shape`] if the shapes do not fit or
/// there is no image, [`Error::Argument`] for padding past 2^30 pixels.
pub fn crop_flip(
    images: &Tensor,
    ids: &Tensor,
    counter: Option<&Tensor>,
    scale: &Tensor,
    shift: &Tensor,
    options: &CropFlip,
    dtype: DType,
) -> Result<Tensor> {
    const OP: &str = "crop_flip";
    refuse(OP, &[scale, shift])?;
    let dims =
        check(OP, &[("images", images, "n h w c"), ("ids", ids, "b"), ("scale", scale, "c"), ("shift", shift, "c")])?;
    need_one_device(OP, images, [ids, scale, shift].into_iter().chain(counter))?;
    need_types(
        OP,
        &[
            ("images", images, DType::U8),
            ("ids", ids, DType::U32),
            ("scale", scale, DType::F32),
            ("shift", shift, DType::F32),
        ],
    )?;
    need_counter(OP, counter)?;
    if !dtype.is_float() {
        return Err(Error::dtype(OP, format!("{dtype} asked for, a float type wanted")));
    }
    let (n, height, width, n_channels, b) = (dims.get("n"), dims.get("h"), dims.get("w"), dims.get("c"), dims.get("b"));
    if n == 0 && b > 0 {
        return Err(Error::shape(OP, format!("images {:?} hold nothing to take", images.shape())));
    }
    let pad = options.pad;
    if pad > MAX_SIDE || height.max(width) > MAX_SIDE {
        return Err(Error::argument(OP, format!("{pad} pixels around {height} x {width}: 2^30 at most")));
    }
    let (images, ids) = (images.contiguous()?, ids.contiguous()?);
    let (scale, shift) = (scale.contiguous()?, shift.contiguous()?);
    let runtime = images.runtime();
    let out = Tensor::empty(runtime, &[b, height, width, n_channels], dtype)?;
    if out.is_empty() {
        return Ok(out);
    }
    let choice = Tensor::empty(runtime, &[b, 4], DType::U32)?;
    let counter = counter.map(Tensor::contiguous).transpose()?;
    let Key { seed, stream, step } = options.key;
    runtime
        .launch(&CHOICE_FWD)
        .bind([ids.binding(), counter.as_ref().map_or_else(|| ids.binding(), Tensor::binding), choice.binding()])
        .params(&ChoiceParams {
            n: b as u32,
            n_images: n as u32,
            n_shifts: (2 * pad + 1) as u32,
            flips: u32::from(options.flip),
            key_0: seed as u32,
            key_1: (seed >> 32) as u32,
            step,
            stream,
            has_counter: u32::from(counter.is_some()),
        })
        .groups((b as u64).div_ceil(WG_SIZE))
        .run()?;
    let params = CropParams {
        n: out.len() as u32,
        height: height as u32,
        width: width as u32,
        n_channels: n_channels as u32,
        pad: pad as u32,
    };
    runtime
        .launch(&CROP_FLIP_FWD)
        .types(&[dtype])
        .bind([images.binding(), choice.binding(), scale.binding(), shift.binding(), out.binding()])
        .params(&params)
        .groups((out.len() as u64).div_ceil(4).div_ceil(WG_SIZE))
        .cost(2 * out.len() as u64, (out.len() * (1 + dtype.bytes())) as u64)
        .run()?;
    Ok(out)
}
