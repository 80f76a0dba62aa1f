//! Parameters in a few large buffers, their gradients beside them.

use super::checkpoint::Weights;
use super::param::{ParamKind, ParamList};
use crate::autograd::Gradients;
use crate::ops::optim::{self, Slots};
use crate::tensor::Read;
use crate::{DType, Error, Result, Runtime, Tensor};

/// Parameters start at multiples of this many elements: a copy in f16 has them at the same elements, where each can be
/// bound by itself, too.
const ALIGN: usize = 2 * optim::ALIGN;

/// A parameter on its way into an [`Arena`].
#[derive(Debug, Clone)]
pub struct ArenaParam {
    /// Its elements in device order.
    pub values: Vec<f32>,
    /// Shape on the device.
    pub shape: Vec<usize>,
    /// Whether weight decay and LARS' adaptation apply to it.
    pub decays: bool,
    /// Whether mixed precision reads it as f16; see [`super::Precision`].
    pub half: bool,
}

/// A parameter with its name.
pub type NamedParam = (String, ArenaParam);

impl ParamList {
    /// A network's trained tensors and its running statistics, each in order and as they lie on the device. Weights decay;
    /// norms, biases and tokens do not.
    #[must_use]
    pub fn for_arenas(&self, weights: &Weights) -> (Vec<NamedParam>, Vec<NamedParam>) {
        let (mut trained, mut statistics) = (Vec::new(), Vec::new());
        for (param, values) in self.iter().zip(weights.iter()) {
            let decays = matches!(
                param.kind,
                ParamKind::ConvWeight
                    | ParamKind::LinearWeight
                    | ParamKind::FlattenedWeight { .. }
                    | ParamKind::TransposedWeight
            );
            let half = param.kind.is_half();
            let entry = ArenaParam { values: param.to_device(values), shape: param.device_shape(), decays, half };
            let list = if param.kind.is_trained() { &mut trained } else { &mut statistics };
            list.push((param.name.clone(), entry));
        }
        (trained, statistics)
    }
}

/// Parameters in a few large buffers, split where a binding would pass the adapter's limit, and a gradient for each.
///
/// [`Arena::tensors`] are views that see every optimizer step: the optimizer writes the values in place. That is sound
/// because a step is recorded behind everything that reads them, and no dispatch binds an arena both ways.
#[derive(Debug)]
pub struct Arena {
    parts: Vec<Part>,
    places: Vec<Place>,
}

#[derive(Debug)]
struct Part {
    values: Tensor,
    /// `None` for buffers that are not trained.
    gradients: Option<Tensor>,
    slots: Slots,
}

#[derive(Debug)]
struct Place {
    part: usize,
    offset: usize,
    shape: Vec<usize>,
    half: bool,
}

impl Place {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Arena {
    /// Uploads `params`; with `trained`, makes room for their gradients.
    ///
    /// # Errors
    /// [`Error::Limit`] for a parameter larger than a binding, else as [`Tensor::from_slice`].
    pub fn new(runtime: &Runtime, params: &[ArenaParam], trained: bool) -> Result<Self> {
        let most = runtime.profile().limits.binding_bytes.min(1 << 31) as usize / 4 / ALIGN * ALIGN;
        let mut groups: Vec<Vec<&ArenaParam>> = vec![Vec::new()];
        let mut used = 0;
        let padded = |param: &ArenaParam| param.values.len().next_multiple_of(ALIGN);
        for param in params {
            if used > 0 && used + padded(param) > most {
                groups.push(Vec::new());
                used = 0;
            }
            used += padded(param);
            groups.last_mut().into_iter().for_each(|group| group.push(param));
        }
        let (mut parts, mut places) = (Vec::new(), Vec::new());
        for group in groups {
            let sizes: Vec<(usize, bool)> = group.iter().map(|param| (padded(param), param.decays)).collect();
            let slots = Slots::new(runtime, &sizes)?;
            let mut data = vec![0.0; slots.len()];
            for (param, &offset) in group.iter().zip(slots.offsets()) {
                if param.shape.iter().product::<usize>() != param.values.len() {
                    let message = format!("{} values for a parameter {:?}", param.values.len(), param.shape);
                    return Err(Error::shape("arena", message));
                }
                data[offset..offset + param.values.len()].copy_from_slice(&param.values);
                places.push(Place { part: parts.len(), offset, shape: param.shape.clone(), half: param.half });
            }
            let values = Tensor::from_slice(runtime, &data, &[data.len()])?;
            let zeros = || Tensor::zeros(runtime, &[data.len()], DType::F32);
            parts.push(Part { gradients: trained.then(zeros).transpose()?, values, slots });
        }
        Ok(Self { parts, places })
    }

    /// Number of parameters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no parameter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Number of large buffers.
    #[must_use]
    pub fn n_parts(&self) -> usize {
        self.parts.len()
    }

    /// The parameters as views, in the order in which they were given.
    ///
    /// # Errors
    /// As [`Tensor::slice`]; none in fact.
    pub fn tensors(&self) -> Result<Vec<Tensor>> {
        self.views(&self.values())
    }

    /// Views of tensors that lie as the values do, such as averages of them.
    ///
    /// # Errors
    /// As [`Tensor::slice`] if they do not.
    pub fn views(&self, flats: &[Tensor]) -> Result<Vec<Tensor>> {
        self.mixed_views(flats, flats)
    }

    /// As [`Arena::views`], of `halves` for the parameters that mixed precision reads as f16, and of `flats` for the others.
    pub(super) fn mixed_views(&self, flats: &[Tensor], halves: &[Tensor]) -> Result<Vec<Tensor>> {
        let of = |p: &Place| if p.half { &halves[p.part] } else { &flats[p.part] };
        self.places.iter().map(|p| of(p).slice(0, p.offset..p.offset + p.len())?.reshape(&p.shape)).collect()
    }

    /// Where parameter `i` lies: its part, and its first element in it; `None` past the last.
    #[must_use]
    pub fn place(&self, i: usize) -> Option<(usize, usize)> {
        self.places.get(i).map(|place| (place.part, place.offset))
    }

    /// The values, one flat tensor `[n]` per part.
    #[must_use]
    pub fn values(&self) -> Vec<Tensor> {
        self.parts.iter().map(|part| part.values.clone()).collect()
    }

    /// The gradients, one flat tensor `[n]` per part. Between [`Arena::collect`] and the optimizer's step is the place to
    /// exchange them between devices, in place.
    #[must_use]
    pub fn gradients(&self) -> Vec<Tensor> {
        self.parts.iter().filter_map(|part| part.gradients.clone()).collect()
    }

    /// For each part: values, gradients and which parameter lies where.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Tensor, &Tensor, &Slots)> {
        self.parts.iter().filter_map(|part| Some((&part.values, part.gradients.as_ref()?, &part.slots)))
    }

    /// Flat tensors that lie as the values do, filled with `init` by parameter, or with zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] if a parameter's length differs.
    pub fn flats(&self, init: Option<&[Vec<f32>]>) -> Result<Vec<Tensor>> {
        let mut data: Vec<Vec<f32>> = self.parts.iter().map(|part| vec![0.0; part.slots.len()]).collect();
        for (place, values) in self.places.iter().zip(init.unwrap_or_default()) {
            if values.len() != place.len() {
                return Err(Error::shape("arena", format!("{} values for {:?}", values.len(), place.shape)));
            }
            data[place.part][place.offset..place.offset + values.len()].copy_from_slice(values);
        }
        let upload = |(part, data): (&Part, Vec<f32>)| Tensor::from_slice(part.values.runtime(), &data, &[data.len()]);
        self.parts.iter().zip(data).map(upload).collect()
    }

    /// Reads flat tensors back, one vector per parameter.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn read(&self, flats: &[Tensor]) -> Result<Vec<Vec<f32>>> {
        let reads: Vec<Read<f32>> = flats.iter().map(Tensor::read).collect::<Result<_>>()?;
        let data: Vec<Vec<f32>> = reads.into_iter().map(Read::wait).collect::<Result<_>>()?;
        Ok(self.places.iter().map(|p| data[p.part][p.offset..p.offset + p.len()].to_vec()).collect())
    }

    /// Moves the gradients of `leaves`, f32 or f16, in the order of the parameters, into the arena: stored, or added to what is there
    /// with `add`, as the second and further micro-batches of a step do. A leaf that was not reached counts as zero.
    ///
    /// # Errors
    /// [`Error::Argument`] if the arena is not trained, else as the copy's dispatch.
    pub fn collect(&self, found: &mut Gradients, leaves: &[Tensor], add: bool) -> Result<()> {
        for (i, part) in self.parts.iter().enumerate() {
            let Some(gradients) = &part.gradients else {
                return Err(Error::argument("collect", "the arena has no room for gradients"));
            };
            let mut sources = Vec::new();
            for (place, leaf) in self.places.iter().zip(leaves).filter(|(place, _)| place.part == i) {
                match found.take(leaf) {
                    Some(d) => sources.push((d.reshape(&[place.len()])?, place.offset)),
                    None if add => {}
                    None => {
                        sources.push((Tensor::zeros(leaf.runtime(), &[place.len()], leaf.dtype())?, place.offset));
                    }
                }
            }
            let sources: Vec<(&Tensor, usize)> = sources.iter().map(|(d, offset)| (d, *offset)).collect();
            optim::collect(gradients, &sources, add)?;
        }
        Ok(())
    }
}
