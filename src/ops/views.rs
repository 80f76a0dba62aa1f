//! Random views of images, made on the device: what self-supervised methods compare.
//!
//! Everything that is drawn for a view comes from its [`Key`], the epoch and the number of its image, so a view is the same
//! whatever batch it is in, and on every adapter: the boxes that are cut out are worked out in whole numbers.

use super::checks::{need_counter, need_one_device, need_types};
use super::random::{Key, RNG};
use crate::autograd::refuse;
use crate::runtime::{
    Bind::{self, Read, Write},
    Common, INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/views.wgsl");
const COMMONS: &[Common] = &[INDEX, RNG];
const WG_SIZE: u64 = 64;
/// Words of a draw: image, top, left, height, width, flags, order, three factors, hue, sigma.
const N_WORDS: usize = 12;
/// Bits of the flags.
pub(crate) const FLAGS: [u32; 5] = [1, 2, 4, 8, 16];
/// Aspect ratios that are drawn from.
pub(crate) const N_ASPECTS: usize = 1024;
/// Boxes tried before the middle of the image is taken.
pub(crate) const N_TRIES: u64 = 10;
/// Images whose words are told apart by 32 bits.
const MAX_IMAGES: usize = 1 << 28;
/// Longest side of an image: two sides share a word.
const MAX_SIDE: usize = (1 << 16) - 1;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct DrawParams {
    n: u32,
    n_images: u32,
    height: u32,
    width: u32,
    key_0: u32,
    key_1: u32,
    step: u32,
    stream: u32,
    has_counter: u32,
    least_area: u32,
    area_span: u32,
    n_pixels: u32,
    half_bits: u32,
    middle_place: u32,
    middle_size: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CropParams {
    n: u32,
    height: u32,
    width: u32,
    n_channels: u32,
    out_height: u32,
    out_width: u32,
    cubic: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ColourParams {
    n: u32,
    n_pixels: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BlurParams {
    n: u32,
    height: u32,
    width: u32,
    n_channels: u32,
    has_blur: u32,
}

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("views", entry, SOURCE, binds).commons(COMMONS)
}

const DRAW_FWD: Kernel = kernel("view_draw_fwd", &[Read, Read, Read, Write]).params::<DrawParams>();
const CROP_FWD: Kernel = kernel("view_crop_fwd", &[Read, Read, Write]).params::<CropParams>();
const MEAN_FWD: Kernel = kernel("view_mean_fwd", &[Read, Read, Write]).params::<ColourParams>();
const COLOUR_FWD: Kernel = kernel("view_colour_fwd", &[Read, Read, Write]).params::<ColourParams>();
const ROWS_FWD: Kernel = kernel("view_rows_fwd", &[Read, Read, Write]).params::<BlurParams>();
const ENDS_FWD: Kernel = kernel("view_ends_fwd", &[Read, Read, Read, Read, Read, Write])
    .types(&["Elem"], &[&[DType::F32, DType::F16]])
    .params::<BlurParams>();

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[DRAW_FWD, CROP_FWD, MEAN_FWD, COLOUR_FWD, ROWS_FWD, ENDS_FWD];

/// How pixels between pixels are made; both look at all pixels that a smaller picture stands for, as Pillow does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// A triangle.
    #[default]
    Bilinear,
    /// The cubic of Keys (1981) with a = -1/2.
    Bicubic,
}

/// Random changes of colour: each factor is uniform in `1 - s .. 1 + s`, the hue turns by up to `hue` of a whole turn either way,
/// and the four follow one another in random order.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Jitter {
    /// How likely a view is changed.
    pub p: f32,
    /// 0 to 1.
    pub brightness: f32,
    /// Towards the view's mean grey, 0 to 1.
    pub contrast: f32,
    /// Towards each pixel's grey, 0 to 1.
    pub saturation: f32,
    /// 0 to 0.5.
    pub hue: f32,
}

/// What is done to an image to make a view of it, in this order. The pixels are not rounded to bytes in between.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Recipe {
    /// Least and largest share of the image's area that is cut out.
    pub area: [f32; 2],
    /// Least and largest ratio of width to height of the box, drawn by its logarithm.
    pub aspect: [f32; 2],
    /// How the box is brought to size.
    pub filter: Filter,
    /// Changes of colour.
    pub jitter: Jitter,
    /// How likely colours go.
    pub grey: f32,
    /// How likely it is blurred.
    pub blur: f32,
    /// Least and largest standard deviation of the blur, in pixels of the view.
    pub sigma: [f32; 2],
    /// How likely pixels of 128 and more are inverted.
    pub solarize: f32,
    /// How likely it is flipped left to right.
    pub flip: f32,
}

impl Recipe {
    /// MoCo v2's (Chen et al. 2020, arXiv 2003.04297), which MSF and CMSF take for queries: crop, jitter of 0.4, 0.4, 0.4 and 0.1
    /// with p 0.8, grey with p 0.2, blur of 0.1 to 2 pixels with p 0.5, flip.
    pub const STRONG: Self = Self {
        jitter: Jitter { p: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 },
        grey: 0.2,
        blur: 0.5,
        ..Self::WEAK
    };
    /// Crop and flip alone: MSF's weak views (Koohpayegani et al. 2021, arXiv 2105.07269).
    pub const WEAK: Self = Self {
        area: [0.2, 1.0],
        aspect: [3.0 / 4.0, 4.0 / 3.0],
        filter: Filter::Bilinear,
        jitter: Jitter { p: 0.0, brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0 },
        grey: 0.0,
        blur: 0.0,
        sigma: [0.1, 2.0],
        solarize: 0.0,
        flip: 0.5,
    };

    /// Finds out whether every number is in its range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the one that is not.
    pub fn check(&self) -> Result<()> {
        let Self { jitter: j, .. } = self;
        let [area, aspect, sigma] = [self.area, self.aspect, self.sigma];
        let shares = [
            ("area", area[0]),
            ("area", area[1]),
            ("jitter", j.p),
            ("brightness", j.brightness),
            ("contrast", j.contrast),
            ("saturation", j.saturation),
            ("hue", 2.0 * j.hue),
            ("grey", self.grey),
            ("blur", self.blur),
            ("solarize", self.solarize),
            ("flip", self.flip),
        ];
        if let Some((name, _)) = shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return Err(Error::argument("views", format!("{name} is outside its range in {self:?}")));
        }
        let ranges =
            [("area", area, 1.0 / 4096.0, 1.0), ("aspect", aspect, 1.0 / 16.0, 16.0), ("sigma", sigma, 0.0, 64.0)];
        match ranges.iter().find(|(_, [low, high], least, most)| !(least <= low && low <= high && high <= most)) {
            None => Ok(()),
            Some((name, [low, high], least, most)) => Err(Error::argument(
                "views",
                format!("{name} {low} to {high} given, {least} to {most} in order wanted"),
            )),
        }
    }

    /// Whether a view may be blurred.
    fn blurs(&self) -> bool {
        self.blur > 0.0
    }

    /// Whether colours may change.
    fn colours(&self) -> bool {
        self.jitter.p > 0.0 || self.grey > 0.0
    }

    /// The chances of flip, jitter, grey, blur and solarisation, in 2^-24, rounded up.
    pub(crate) fn chances(&self) -> [u32; 5] {
        [self.flip, self.jitter.p, self.grey, self.blur, self.solarize]
            .map(|p| (f64::from(p) * f64::from(1 << 24)).ceil() as u32)
    }

    /// Least share of the area and how many there are from it on, in 2^-24.
    pub(crate) fn shares(&self) -> [u32; 2] {
        let [low, high] = self.area.map(|share| (f64::from(share) * f64::from(1 << 24)).round() as u32);
        [low, high - low + 1]
    }

    /// Width over height and height over width, in 2^-16, for each of [`N_ASPECTS`] equal parts of the range of logarithms.
    pub(crate) fn aspects(&self) -> Vec<[u32; 2]> {
        let [low, high] = self.aspect.map(|aspect| f64::from(aspect).ln());
        let at = |i: usize| low + (high - low) * (i as f64 + 0.5) / N_ASPECTS as f64;
        let fixed = |ratio: f64| (ratio * 65_536.0).round() as u32;
        (0..N_ASPECTS).map(|i| [fixed(at(i).exp()), fixed((-at(i)).exp())]).collect()
    }
}

/// The 24 orders of four changes, two bits each, the first lowest.
pub(crate) fn orders() -> Vec<u32> {
    let mut orders = Vec::new();
    for i in 0..256_u32 {
        let places = [0, 1, 2, 3].map(|turn| i >> (2 * turn) & 3);
        if (0..4).all(|change| places.contains(&change)) {
            orders.push(i);
        }
    }
    orders
}

/// How the sides of a box are worked out for images of this size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boxes {
    /// Pixels of the image times `4^(half_bits + 1)`.
    pub(crate) n_pixels: u32,
    /// Half the bits behind the point of an area.
    pub(crate) half_bits: u32,
    /// Top, left, height and width of what is cut out where no try fits.
    pub(crate) middle: [u32; 4],
}

impl Boxes {
    pub(crate) fn new(recipe: &Recipe, [height, width]: [usize; 2]) -> Option<Self> {
        let [low, high] = recipe.aspect.map(f64::from);
        let most = (height * width) as f64 * high.max(1.0 / low).max(1.0);
        let half_bits = (0..=4).rev().find(|bits| most * f64::from(4 << (2 * bits)) < f64::from(u32::MAX))?;
        let ratio = width as f64 / height as f64;
        // What torchvision falls back to: as much as the aspect allows.
        let (h, w) = if ratio < low {
            (((width as f64 / low).round() as usize).clamp(1, height), width)
        } else if ratio > high {
            (height, ((height as f64 * high).round() as usize).clamp(1, width))
        } else {
            (height, width)
        };
        let middle = [(height - h) / 2, (width - w) / 2, h, w].map(|side| side as u32);
        Some(Self { n_pixels: ((height * width) << (2 * half_bits + 2)) as u32, half_bits, middle })
    }
}

/// Makes views of one size from images of one size by one recipe.
#[derive(Debug, Clone)]
pub struct Views {
    recipe: Recipe,
    image: [usize; 2],
    side: [usize; 2],
    boxes: Boxes,
    tables: Tensor,
}

impl Views {
    /// Views of `side` (height, width) from images of `image` (height, width), in pixels.
    ///
    /// # Errors
    /// [`Error::Argument`] for a number out of its range or a side that is 0 or past 65,535, else as [`Tensor::from_slice`].
    pub fn new(runtime: &Runtime, recipe: &Recipe, image: [usize; 2], side: [usize; 2]) -> Result<Self> {
        recipe.check()?;
        let sizes = || Error::argument("views", format!("{side:?} pixels of {image:?}: too small or too large"));
        if [image, side].concat().iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
            return Err(sizes());
        }
        let boxes = Boxes::new(recipe, image).ok_or_else(sizes)?;
        let Jitter { brightness, contrast, saturation, hue, .. } = recipe.jitter;
        let [least, most] = recipe.sigma;
        let numbers = [brightness, contrast, saturation, hue, least, most - least].map(f32::to_bits);
        let mut words: Vec<u32> = recipe.chances().into_iter().chain(numbers).collect();
        words.resize(16, 0);
        words.extend(orders());
        words.extend(recipe.aspects().iter().flatten());
        let tables = Tensor::constant(runtime, &words)?;
        Ok(Self { recipe: *recipe, image, side, boxes, tables })
    }

    /// The recipe.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// What is drawn for the images `ids` u32 `[b]` of `n_images`: u32 `[b, 12]`, see the shader; `epoch` u32 `[1]` is added to the
    /// key's step.
    fn draws(&self, ids: &Tensor, epoch: Option<&Tensor>, n_images: usize, key: Key) -> Result<Tensor> {
        let (runtime, b) = (ids.runtime(), ids.len());
        let out = Tensor::empty(runtime, &[b, N_WORDS], DType::U32)?;
        let [top, left, height, width] = self.boxes.middle;
        let [least_area, area_span] = self.recipe.shares();
        let params = DrawParams {
            n: b as u32,
            n_images: n_images as u32,
            height: self.image[0] as u32,
            width: self.image[1] as u32,
            key_0: key.seed as u32,
            key_1: (key.seed >> 32) as u32,
            step: key.step,
            stream: key.stream,
            has_counter: u32::from(epoch.is_some()),
            least_area,
            area_span,
            n_pixels: self.boxes.n_pixels,
            half_bits: self.boxes.half_bits,
            middle_place: top << 16 | left,
            middle_size: height << 16 | width,
        };
        let counter = epoch.map_or_else(|| ids.binding(), Tensor::binding);
        runtime
            .launch(&DRAW_FWD)
            .bind([ids.binding(), counter, self.tables.binding(), out.binding()])
            .params(&params)
            .groups((b as u64).div_ceil(WG_SIZE))
            .run()?;
        Ok(out)
    }

    /// One view of each of the images u8 `[n, h, w, c]` at `ids` u32 `[b]` (an id past them counts as the last), normalised to
    /// `byte * scale + shift`, f32 `[c]`: `[b, side, side, c]`, for 1 or 3 channels.
    ///
    /// The draws depend on the key, its step plus the `epoch` u32 `[1]` on the device, and on the image's number: two views of an
    /// image take keys of two streams.
    ///
    /// # Errors
    /// [`Error::DType`] unless the types are these and `dtype` is a float type, [`Error::Shape`] if the shapes do not fit,
    /// [`Error::Limit`] on software adapters for views of some 800 x 800 pixels with jitter, whose mean takes too long a loop.
    #[expect(clippy::too_many_arguments, reason = "images, what is picked, how it is normalised, who draws")]
    pub fn make(
        &self,
        images: &Tensor,
        ids: &Tensor,
        epoch: Option<&Tensor>,
        scale: &Tensor,
        shift: &Tensor,
        key: Key,
        dtype: DType,
    ) -> Result<Tensor> {
        const OP: &str = "views";
        refuse(OP, &[scale, shift])?;
        let dims = check(
            OP,
            &[("images", images, "n h w c"), ("ids", ids, "b"), ("scale", scale, "c"), ("shift", shift, "c")],
        )?;
        need_one_device(OP, images, [ids, scale, shift, &self.tables].into_iter().chain(epoch))?;
        need_types(
            OP,
            &[
                ("images", images, DType::U8),
                ("ids", ids, DType::U32),
                ("scale", scale, DType::F32),
                ("shift", shift, DType::F32),
            ],
        )?;
        need_counter(OP, epoch)?;
        if !dtype.is_float() {
            return Err(Error::dtype(OP, format!("{dtype} asked for, a float type wanted")));
        }
        let (n, b, c) = (dims.get("n"), dims.get("b"), dims.get("c"));
        if [dims.get("h"), dims.get("w")] != self.image || !(c == 1 || c == 3) || n > MAX_IMAGES || (n == 0 && b > 0) {
            let [h, w] = self.image;
            return Err(Error::shape(OP, format!("images {:?} given, [n, {h}, {w}, 1 or 3] wanted", images.shape())));
        }
        let [height, width] = self.side;
        let runtime = images.runtime();
        let out = Tensor::empty(runtime, &[b, height, width, c], dtype)?;
        if out.is_empty() {
            return Ok(out);
        }
        let (images, ids) = (images.contiguous()?, ids.contiguous()?);
        let (scale, shift) = (scale.contiguous()?, shift.contiguous()?);
        let epoch = epoch.map(Tensor::contiguous).transpose()?;
        let draws = self.draws(&ids, epoch.as_ref(), n, key)?;
        let n_pixels = (height * width) as u64;
        let n_all = b as u64 * n_pixels;
        let pixels = || Tensor::empty(runtime, &[n_all as usize, 4], DType::F32);
        let x = pixels()?;
        // Pixels that one looks at, along each axis.
        let taps = |n_in: usize, n_out: usize| {
            let support = if self.recipe.filter == Filter::Bicubic { 2 } else { 1 };
            2 * support * n_in.div_ceil(n_out).max(1) + 2
        };
        let taps = [taps(self.image[0], height), taps(self.image[1], width)];
        runtime
            .launch(&CROP_FWD)
            .bind([images.binding(), draws.binding(), x.binding()])
            .params(&CropParams {
                n: n_all as u32,
                height: self.image[0] as u32,
                width: self.image[1] as u32,
                n_channels: c as u32,
                out_height: height as u32,
                out_width: width as u32,
                cubic: u32::from(self.recipe.filter == Filter::Bicubic),
            })
            .groups(n_all.div_ceil(WG_SIZE))
            .rounds(taps[0] * (taps[1] + 2))
            .cost(n_all * 30, n_all * (16 + c as u64))
            .run()?;
        if self.recipe.colours() {
            let means = Tensor::empty(runtime, &[b], DType::F32)?;
            let params = |n: u64| ColourParams { n: n as u32, n_pixels: n_pixels as u32 };
            runtime
                .launch(&MEAN_FWD)
                .bind([x.binding(), draws.binding(), means.binding()])
                .params(&params(b as u64))
                .groups(b as u64)
                .rounds(6 * n_pixels.div_ceil(WG_SIZE) as usize + 16)
                .cost(n_all * 40, n_all * 16)
                .run()?;
            runtime
                .launch(&COLOUR_FWD)
                .bind([means.binding(), draws.binding(), x.binding()])
                .params(&params(n_all))
                .groups(n_all.div_ceil(WG_SIZE))
                .cost(n_all * 60, n_all * 32)
                .run()?;
        }
        let params = BlurParams {
            n: n_all as u32,
            height: height as u32,
            width: width as u32,
            n_channels: c as u32,
            has_blur: u32::from(self.recipe.blurs()),
        };
        let mut rows = x.clone();
        if self.recipe.blurs() {
            rows = pixels()?;
            runtime
                .launch(&ROWS_FWD)
                .bind([x.binding(), draws.binding(), rows.binding()])
                .params(&params)
                .groups(n_all.div_ceil(WG_SIZE))
                .cost(n_all * 60, n_all * 32)
                .run()?;
        }
        runtime
            .launch(&ENDS_FWD)
            .types(&[dtype])
            .bind([x.binding(), draws.binding(), rows.binding(), scale.binding(), shift.binding(), out.binding()])
            .params(&params)
            .groups(n_all.div_ceil(WG_SIZE))
            .cost(n_all * 60, n_all * 16 + (out.len() * dtype.bytes()) as u64)
            .run()?;
        Ok(out)
    }
}
