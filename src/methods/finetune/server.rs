//! Many adapters on one frozen network, each item of a batch with its own.
//!
//! The coefficients of all adapters are resident, 2 k numbers for each layer. The factors A and B of those in use lie in a cache of
//! few places, formed on demand ([`Mixture::form_rows`]); the one used longest ago makes room. A batch takes the rows of its items
//! out of the cache and adds their products beside each layer ([`Branch::PerItem`]). Adapters come and go by writing numbers:
//! nothing is compiled for them.

use std::collections::{BTreeMap, HashMap};

use super::adapted::Adapted;
use super::adapter::{COEFFICIENTS, Layout};
use super::config::BaseBits;
use super::file::AdapterFile;
use super::lru::{Lru, Placed};
use super::method::{AdapterSpec, Method};
use crate::nn::{Branch, Model, ParamSpec, Role};
use crate::ops::basis::Mixture;
use crate::ops::elementwise::{add, from_bytes, mul};
use crate::ops::gather::gather_rows;
use crate::ops::matmul::matmul;
use crate::{DType, Error, Result, Runtime, Tensor};

/// Where a tensor may begin in a row of several, in elements: a multiple of what adapters bind at.
const ALIGNED: usize = 64;

/// How coefficients are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Floats of 32 bits.
    #[default]
    F32,
    /// Whole numbers of 8 bits with a scale for each factor.
    Int8,
}

/// What a server did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServeCounts {
    /// Adapters wanted by batches, each counted once in a batch.
    pub wanted: u64,
    /// Those among them whose factors were formed first.
    pub formed: u64,
}

/// A frozen network with many NOLA adapters.
#[derive(Debug)]
pub struct Server {
    model: Model,
    layout: Layout,
    base: String,
    classes: usize,
    head: Head,
    table: Table,
    /// The seed of each adapter, where there is one.
    seeds: Vec<Option<u64>>,
    mixtures: HashMap<u64, Mixture>,
    /// First element of each formed tensor in a row, and the elements of a row.
    starts: Vec<usize>,
    n_row: usize,
    /// `[places, n_row]`
    cache: Tensor,
    places: Lru,
    counts: ServeCounts,
}

/// The heads of all adapters.
#[derive(Debug)]
struct Head {
    weight: ParamSpec,
    bias: Option<ParamSpec>,
    /// `[n_adapters, n_in n_out + n_out, rounded up]`
    table: Tensor,
}

/// The coefficients of all adapters.
#[derive(Debug)]
enum Table {
    /// `[n_adapters, c]`
    Floats(Tensor),
    /// Bytes, 127 more than the number, `[n_adapters, c rounded up to 4]`; scales `[n_adapters, c / k]`.
    Bytes { bytes: Tensor, scales: Tensor, k: usize },
}

impl Table {
    fn new(runtime: &Runtime, storage: Storage, [n, c, k]: [usize; 3]) -> Result<Self> {
        Ok(match storage {
            Storage::F32 => Self::Floats(Tensor::zeros(runtime, &[n, c], DType::F32)?),
            Storage::Int8 => Self::Bytes {
                bytes: Tensor::zeros(runtime, &[n, c.next_multiple_of(4)], DType::U8)?,
                scales: Tensor::zeros(runtime, &[n, c / k], DType::F32)?,
                k,
            },
        })
    }

    fn write(&self, row: usize, values: &[f32]) -> Result<()> {
        match self {
            Self::Floats(table) => table.slice(0, row..row + 1)?.write(values),
            Self::Bytes { bytes, scales, k } => {
                let mut codes = Vec::with_capacity(bytes.shape()[1]);
                let mut steps = Vec::new();
                for group in values.chunks(*k) {
                    let scale = group.iter().fold(0.0_f32, |most, v| most.max(v.abs())) / 127.0;
                    steps.push(scale);
                    let code =
                        |v: &f32| if scale > 0.0 { (v / scale).round_ties_even().clamp(-127.0, 127.0) } else { 0.0 };
                    codes.extend(group.iter().map(|v| (code(v) + 127.0) as u8));
                }
                codes.resize(bytes.shape()[1], 127);
                bytes.slice(0, row..row + 1)?.write(&codes)?;
                scales.slice(0, row..row + 1)?.write(&steps)
            }
        }
    }

    /// The coefficients of some adapters, f32 `[m, c]`.
    fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Floats(table) => gather_rows(table, ids),
            Self::Bytes { bytes, scales, k } => {
                let (runtime, m, groups) = (bytes.runtime(), ids.len(), scales.shape()[1]);
                let taken = gather_rows(bytes, ids)?;
                let [one, shift] = [1.0_f32, -127.0].map(|v| Tensor::from_slice(runtime, &[v], &[1]));
                let numbers = from_bytes(&taken.reshape(&[taken.len(), 1])?, &one?, &shift?, DType::F32)?;
                let numbers = numbers.reshape(taken.shape())?.slice(1, 0..groups * k)?.contiguous()?;
                let numbers = numbers.reshape(&[m, groups, *k])?;
                let scales = gather_rows(scales, ids)?.unsqueeze(2)?.broadcast_to(numbers.shape())?;
                mul(&numbers, &scales)?.reshape(&[m, groups * k])
            }
        }
    }

    /// Bytes of one adapter.
    fn bytes_each(&self) -> usize {
        match self {
            Self::Floats(table) => 4 * table.shape()[1],
            Self::Bytes { bytes, scales, .. } => bytes.shape()[1] + 4 * scales.shape()[1],
        }
    }
}

impl Server {
    /// Room for `n_adapters` adapters of the kind of `adapted`, whose network it takes, and a cache of `n_places`; all rooms are
    /// empty.
    ///
    /// # Errors
    /// [`Error::Input`] for another method than NOLA, or none to keep; what the device has no room for.
    pub fn new(
        runtime: &Runtime,
        adapted: &Adapted,
        bits: BaseBits,
        storage: Storage,
        [n_adapters, n_places]: [usize; 2],
    ) -> Result<Self> {
        let layout = adapted.layout().clone();
        let AdapterSpec { method, norms, k, .. } = *layout.spec();
        if method != Method::Nola || norms {
            let norms = if norms { " with trained norms" } else { "" };
            return Err(Error::Input(format!("an adapter of method {method}{norms}: many are served with nola")));
        }
        if let Some(site) = layout.sites().iter().find(|site| site.role == Role::Conv) {
            let name = &site.name;
            return Err(Error::Input(format!("{name} is a convolution: many adapters are served on linear layers")));
        }
        if n_adapters == 0 || n_places == 0 {
            return Err(Error::Input(format!("{n_adapters} adapters, {n_places} places: 1 and more wanted")));
        }
        let plan = &adapted.base().plan;
        let params: Vec<&ParamSpec> = plan.params.iter().collect();
        let Some(head) = plan.head() else { return Err(Error::Input("the network has no head to adapt".into())) };
        let (weight, bias) = (params[head.weight.index()].clone(), head.bias.map(|id| params[id.index()].clone()));
        let n_head = (weight.len() + head.n_out).next_multiple_of(ALIGNED);
        let mut n_row = 0;
        let mut starts = Vec::new();
        for param in layout.formed() {
            starts.push(n_row);
            n_row += param.values.len().next_multiple_of(ALIGNED);
        }
        let c: usize = layout.own().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        Ok(Self {
            model: adapted.frozen_network(runtime, bits)?,
            base: adapted.file().base.clone(),
            classes: adapted.file().classes.len(),
            head: Head { weight, bias, table: Tensor::zeros(runtime, &[n_adapters, n_head], DType::F32)? },
            table: Table::new(runtime, storage, [n_adapters, c, k])?,
            seeds: vec![None; n_adapters],
            mixtures: HashMap::new(),
            cache: Tensor::zeros(runtime, &[n_places, n_row], DType::F32)?,
            places: Lru::new(n_places),
            counts: ServeCounts::default(),
            layout,
            starts,
            n_row,
        })
    }

    /// Puts an adapter into room `id`, in the place of the one that was there: its numbers are written, nothing else happens. It may
    /// have a seed of its own.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such room, or the adapter is not of the others' kind or network.
    pub fn put(&mut self, id: usize, file: &AdapterFile) -> Result<()> {
        let fail = |message: String| Err(Error::Input(format!("adapter {id}: {message}")));
        if id >= self.seeds.len() {
            return fail(format!("there is room for {}", self.seeds.len()));
        }
        if file.base != self.base {
            return fail(format!("it belongs to another network, {}", file.network));
        }
        let own = AdapterSpec { seed: file.spec.seed, ..self.layout.spec().clone() };
        if file.spec != own || file.classes.len() != self.classes {
            return fail("it differs from the others in more than seed and numbers".into());
        }
        let [weight, bias] = [Some(&self.head.weight), self.head.bias.as_ref()];
        let named = |param: Option<&ParamSpec>| param.map(|p| file.get(&p.name).filter(|v| v.len() == p.len()));
        let (Some(values), Some(head), bias) = (file.get(COEFFICIENTS), named(weight).flatten(), named(bias)) else {
            return fail("it has no coefficients or no head".into());
        };
        let wanted: usize = self.layout.own().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        if values.len() != wanted || bias == Some(None) {
            return fail(format!("{} coefficients, {wanted} wanted, and a head's bias", values.len()));
        }
        if let std::collections::hash_map::Entry::Vacant(entry) = self.mixtures.entry(file.spec.seed) {
            let slots = self.layout.slots(&self.starts, 0);
            let runtime = self.cache.runtime();
            entry.insert(Mixture::new(runtime, file.spec.basis, file.spec.seed, &slots)?);
        }
        self.table.write(id, values)?;
        let mut row = self.head.weight.to_device(head);
        row.extend_from_slice(bias.flatten().unwrap_or_default());
        row.resize(self.head.table.shape()[1], 0.0);
        self.head.table.slice(0, id..id + 1)?.write(&row)?;
        // Bases that no adapter is made of any more are forgotten.
        if let Some(old) = self.seeds[id].replace(file.spec.seed).filter(|old| !self.seeds.contains(&Some(*old))) {
            self.mixtures.remove(&old);
        }
        self.places.forget(id);
        Ok(())
    }

    /// Logits `[n, classes]` of normalised images `[n, h, w, c]`, each by the adapter in the room that `adapters` names for it.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty room, another number of adapters than images, or more different ones than places; what the
    /// network returns.
    pub fn logits(&mut self, images: &Tensor, adapters: &[usize]) -> Result<Tensor> {
        let n = images.shape().first().copied().unwrap_or(0);
        if adapters.len() != n || n == 0 {
            return Err(Error::Input(format!("{} adapters for {n} images", adapters.len())));
        }
        let places = self.prepare(adapters)?;
        let runtime = self.cache.runtime().clone();
        let scale = self.layout.spec().scale();
        let shapes = self.layout.formed();
        // One adapter for all is read where it lies, several are put side by side.
        let alone = places.iter().all(|place| *place == places[0]);
        let rows = if alone {
            self.cache.slice(0, places[0]..places[0] + 1)?
        } else {
            gather_rows(&self.cache, &words(&runtime, &places)?)?
        };
        let tensor = |i: usize| -> Result<Tensor> {
            let shape = &shapes[i].shape;
            let range = self.starts[i]..self.starts[i] + shape.iter().product::<usize>();
            let whole: Vec<usize> = if alone { shape.clone() } else { [&[n], shape.as_slice()].concat() };
            rows.slice(1, range)?.reshape(&whole)
        };
        let mut branches = Vec::with_capacity(self.layout.sites().len());
        for (i, site) in self.layout.sites().iter().enumerate() {
            let (a, b) = (tensor(2 * i)?, tensor(2 * i + 1)?);
            let branch = if alone { Branch::LowRank { a, b, scale } } else { Branch::PerItem { a, b, scale } };
            branches.push((site.clone(), branch));
        }
        let features = self.model.with_branches(branches)?.features(images)?;
        let ids = if alone { &adapters[..1] } else { adapters };
        let heads = gather_rows(&self.head.table, &words(&runtime, ids)?)?;
        let [n_in, classes] = [self.head.weight.len() / self.classes, self.classes];
        let weight = heads.slice(1, 0..n_in * classes)?.reshape(&[ids.len(), n_in, classes])?;
        let bias = heads.slice(1, n_in * classes..n_in * classes + classes)?;
        if alone {
            return add(&matmul(&features, &weight.reshape(&[n_in, classes])?)?, &bias);
        }
        let logits = matmul(&features.reshape(&[n, 1, n_in])?, &weight)?;
        add(&logits.reshape(&[n, classes])?, &bias)
    }

    /// Forms the factors of these adapters that are not in the cache; answers where all of them lie.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty room, and for more different adapters than places.
    pub fn prepare(&mut self, adapters: &[usize]) -> Result<Vec<usize>> {
        if let Some(id) = adapters.iter().find(|id| self.seeds.get(**id).copied().flatten().is_none()) {
            return Err(Error::Input(format!("no adapter {id}")));
        }
        let n_places = self.places.len();
        let Some(Placed { places, missing }) = self.places.place(adapters) else {
            return Err(Error::Input(format!("more different adapters in a batch than the cache's {n_places} places")));
        };
        let different = adapters.iter().collect::<std::collections::BTreeSet<_>>().len();
        self.counts.wanted += different as u64;
        self.counts.formed += missing.len() as u64;
        let mut by_seed: BTreeMap<u64, [Vec<usize>; 2]> = BTreeMap::new();
        for &(id, place) in &missing {
            let [ids, places] = by_seed.entry(self.seeds[id].unwrap_or_default()).or_default();
            ids.push(id);
            places.push(place);
        }
        for (seed, [ids, places]) in &by_seed {
            if let Err(error) = self.form(*seed, ids, places) {
                missing.iter().for_each(|(id, _)| self.places.forget(*id));
                return Err(error);
            }
        }
        Ok(places)
    }

    fn form(&self, seed: u64, ids: &[usize], places: &[usize]) -> Result<()> {
        let runtime = self.cache.runtime();
        let Some(mixture) = self.mixtures.get(&seed) else {
            return Err(Error::Failed(format!("no bases of seed {seed}")));
        };
        let coefficients = self.table.rows(&words(runtime, ids)?)?;
        mixture.form_rows(&coefficients, &words(runtime, places)?, &self.cache)
    }

    /// Empties the cache: what is wanted next is formed anew.
    pub fn clear(&mut self) {
        self.places = Lru::new(self.places.len());
    }

    /// What it did so far.
    #[must_use]
    pub fn counts(&self) -> ServeCounts {
        self.counts
    }

    /// Bytes on the device of one adapter's coefficients, of one head, and of one place in the cache.
    #[must_use]
    pub fn bytes_each(&self) -> [usize; 3] {
        [self.table.bytes_each(), 4 * self.head.table.shape()[1], 4 * self.n_row]
    }

    /// Entries of random bases that the factors of one adapter are made of.
    #[must_use]
    pub fn draws(&self) -> u64 {
        self.mixtures.values().next().map_or(0, Mixture::draws)
    }
}

fn words(runtime: &Runtime, ids: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(runtime, &ids.iter().map(|id| *id as u32).collect::<Vec<_>>(), &[ids.len()])
}

#[cfg(test)]
mod tests {
    use super::super::base::Base;
    use super::*;
    use crate::DeviceChoice;
    use crate::methods::NetworkFlags;
    use crate::ops::basis::Law;
    use crate::ops::random::{Key, normal};

    const CLASSES: usize = 3;

    /// A small transformer, and adapters of two seeds on it.
    fn adapters(base: &Base, n: usize) -> Vec<AdapterFile> {
        let spec = |seed| AdapterSpec {
            method: Method::Nola,
            basis: Law::Uniform8,
            seed,
            rank: 2,
            k: 5,
            alpha: 8.0,
            targets: "qv,mlp".into(),
            norms: false,
        };
        let adapter = |i: usize| {
            let spec = spec(7 + i as u64 % 2);
            let plan = base.with_head(CLASSES, false, 1).unwrap().plan;
            let mut tensors: Vec<_> = Layout::new(&spec, &plan).unwrap().own();
            let params: Vec<&ParamSpec> = plan.params.iter().collect();
            let head = plan.head().unwrap();
            let ids = [Some(head.weight), head.bias].into_iter().flatten();
            tensors.extend(ids.map(|id| (params[id.index()].name.clone(), params[id.index()].shape.clone())));
            let value = |at: usize| ((at * 31 + i * 17 + at * at) % 29) as f32 / 14.0 - 1.0;
            let tensors = tensors.into_iter().map(|(name, shape)| {
                let values = (0..shape.iter().product()).map(value).collect();
                (name, shape, values)
            });
            AdapterFile {
                spec,
                base: base.digest(),
                network: base.spec.to_string(),
                classes: (0..CLASSES).map(|c| c.to_string()).collect(),
                normalize: base.normalize.to_string(),
                bits: 32,
                split: (0, 0.5),
                tensors: tensors.collect(),
            }
        };
        (0..n).map(adapter).collect()
    }

    /// The adapter with its coefficients in so many bits.
    fn stored(file: &AdapterFile, bits: u32) -> AdapterFile {
        let mut file = file.clone();
        for (name, _, values) in &mut file.tensors {
            if name == COEFFICIENTS {
                *values = super::super::file::rounded(values, file.spec.k, bits).unwrap();
            }
        }
        file
    }

    fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        let largest = |most: f32, d: f32| if d.is_nan() { f32::INFINITY } else { most.max(d) };
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, largest)
    }

    #[test]
    fn each_image_has_its_own_adapter() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let base = Base::load("vit_small32", &NetworkFlags::default(), 3).unwrap();
        let files = adapters(&base, 5);
        let images = normal(&runtime, &[4, 32, 32, 3], 0.0, 1.0, Key::new(5, 0, 0)).unwrap();
        let image = |i: usize| images.slice(0, i..i + 1).unwrap();
        let alone = |file: &AdapterFile, i: usize| {
            let network = Adapted::new(&base, file.clone()).unwrap().network(&runtime, BaseBits::F32).unwrap();
            network.forward(&image(i)).unwrap().to_vec::<f32>().unwrap()
        };
        let first = Adapted::new(&base, files[0].clone()).unwrap();
        let most = 1e-4;
        for (storage, bits) in [(Storage::F32, 32), (Storage::Int8, 8)] {
            // What is served of 8 bits are the rounded coefficients.
            let served: Vec<AdapterFile> = files.iter().map(|file| stored(file, bits)).collect();
            let mut server = Server::new(&runtime, &first, BaseBits::F32, storage, [6, 3]).unwrap();
            files.iter().enumerate().for_each(|(id, file)| server.put(id, file).unwrap());
            let mut logits = |ids: &[usize]| server.logits(&images, ids).unwrap().to_vec::<f32>().unwrap();
            // Both seeds, one adapter twice; then one that takes another's place; then one for all.
            for ids in [[0, 3, 2, 3], [4, 4, 1, 0], [2, 2, 2, 2], [3, 0, 3, 1]] {
                let got = logits(&ids);
                let want: Vec<f32> = ids.iter().enumerate().flat_map(|(i, id)| alone(&served[*id], i)).collect();
                let difference = largest_difference(&got, &want);
                assert!(difference <= most, "{storage:?} {ids:?}: {difference}");
                let others: Vec<f32> = (0..4).flat_map(|i| alone(&served[(ids[i] + 1) % 5], i)).collect();
                assert!(largest_difference(&got, &others) > 0.2, "{ids:?}");
            }
            let kept = server.counts();
            // The last batch finds adapter 1.
            assert_eq!((kept.wanted, kept.formed), (10, 8));
            // Another adapter in the room of one that lies in the cache: nothing is compiled.
            let n_pipelines = runtime.counts().pipelines;
            server.put(3, &files[2]).unwrap();
            let got = server.logits(&images, &[3, 0, 3, 1]).unwrap().to_vec::<f32>().unwrap();
            assert!(largest_difference(&got[..CLASSES], &alone(&served[2], 0)) <= most);
            let made = runtime.counts().pipelines - n_pipelines;
            // `alone` does not compile anything either, by now.
            assert_eq!(made, 0);
            let numbers = files[0].get(COEFFICIENTS).unwrap().len();
            let bytes =
                if storage == Storage::F32 { 4 * numbers } else { numbers.next_multiple_of(4) + 4 * numbers / 5 };
            assert_eq!(server.bytes_each()[0], bytes);
        }
    }

    #[test]
    fn wrong_adapters_are_named() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let base = Base::load("vit_small32", &NetworkFlags::default(), 3).unwrap();
        let file = adapters(&base, 1).remove(0);
        let adapted = Adapted::new(&base, file.clone()).unwrap();
        let of = |counts| Server::new(&runtime, &adapted, BaseBits::F32, Storage::F32, counts);
        assert!(of([0, 1]).is_err() && of([1, 0]).is_err());
        let mut server = of([2, 1]).unwrap();
        server.put(1, &file).unwrap();
        let mut message = |id, file: &AdapterFile| server.put(id, file).unwrap_err().to_string();
        assert!(message(2, &file).contains("there is room for 2"));
        assert!(message(0, &AdapterFile { base: "00".into(), ..file.clone() }).contains("another network"));
        let spec = AdapterSpec { rank: 3, ..file.spec.clone() };
        assert!(message(0, &AdapterFile { spec, ..file.clone() }).contains("more than seed and numbers"));
        assert!(message(0, &AdapterFile { tensors: vec![], ..file.clone() }).contains("no coefficients"));
        let images = Tensor::zeros(&runtime, &[2, 32, 32, 3], DType::F32).unwrap();
        let mut message = |ids: &[usize]| server.logits(&images, ids).unwrap_err().to_string();
        assert!(message(&[1, 0]).contains("no adapter 0") && message(&[1, 9]).contains("no adapter 9"));
        assert!(message(&[1]).contains("1 adapters for 2 images"));
        server.put(0, &file).unwrap();
        assert!(server.logits(&images, &[0, 1]).unwrap_err().to_string().contains("the cache's 1 places"));
    }
}
