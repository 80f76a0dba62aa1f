//! An adapter from a file on the network it belongs to.

use super::adapter::{COEFFICIENTS, Layout};
use super::base::Base;
use super::config::BaseBits;
use super::file::AdapterFile;
use crate::data::Normalize;
use crate::methods::NetworkFlags;
use crate::nn::{Arena, ArenaParam, Model, ParamSpec, Weights};
use crate::ops::quant::Block;
use crate::{Error, Result, Runtime, Tensor};

/// A network with an adapter from a file, still on the host.
#[derive(Debug, Clone)]
pub struct Adapted {
    base: Base,
    layout: Layout,
    file: AdapterFile,
}

impl Adapted {
    /// Reads the network `base`, a file or a name as `finetune train` takes it, and puts an adapter to it.
    ///
    /// # Errors
    /// [`Error::Input`] if the adapter belongs to another network, or does not have the tensors that its method needs; else as the
    /// files are wrong.
    pub fn load(base: &str, flags: &NetworkFlags, file: AdapterFile) -> Result<Self> {
        let own = Base::load(base, flags, file.spec.seed)?;
        let digest = own.digest();
        if digest != file.base {
            let short = |digest: &str| digest.chars().take(12).collect::<String>();
            let (wants, is) = (short(&file.base), short(&digest));
            let message = format!(
                "the adapter belongs to another network: to {} with SHA-256 {wants}..., {base} is {} with {is}...",
                file.network, own.spec
            );
            return Err(Error::Input(message));
        }
        Self::new(&own, file)
    }

    /// An adapter on a network that is known to be its own.
    pub(super) fn new(base: &Base, file: AdapterFile) -> Result<Self> {
        let base = base.with_head(file.classes.len(), false, file.spec.seed)?;
        // What it learned from was normalised so.
        let base = Base { normalize: file.normalize.parse()?, ..base };
        let layout = Layout::new(&file.spec, &base.plan)?;
        let adapted = Self { base, layout, file };
        adapted.check()?;
        Ok(adapted)
    }

    /// Every tensor that its method needs: name and values as published.
    fn wanted(&self) -> Vec<(String, usize)> {
        let own = self.layout.own().into_iter().map(|(name, shape)| (name, shape.iter().product()));
        let params: Vec<&ParamSpec> = self.base.plan.params.iter().collect();
        let places = self.layout.whole().into_iter().chain(self.layout.statistics());
        own.chain(places.map(|i| (params[i].name.clone(), params[i].len()))).collect()
    }

    fn check(&self) -> Result<()> {
        let wanted = self.wanted();
        let mut problems = Vec::new();
        for (name, n) in &wanted {
            match self.file.get(name) {
                None => problems.push(format!("{name} is missing")),
                Some(values) if values.len() != *n => {
                    problems.push(format!("{name} has {} values, {n} wanted", values.len()));
                }
                Some(_) => {}
            }
        }
        let known = |name: &str| wanted.iter().any(|(n, _)| n == name);
        let extra = self.file.tensors.iter().filter(|(name, ..)| !known(name));
        problems.extend(extra.map(|(name, ..)| format!("{name} belongs to no layer")));
        if problems.is_empty() {
            return Ok(());
        }
        let n_more = problems.len().saturating_sub(5);
        problems.truncate(5);
        if n_more > 0 {
            problems.push(format!("and {n_more} more"));
        }
        let message = format!("the adapter does not fit {}: {}", self.base.spec, problems.join("; "));
        Err(Error::Input(message))
    }

    /// The adapter.
    #[must_use]
    pub fn file(&self) -> &AdapterFile {
        &self.file
    }

    /// What its numbers are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Input normalisation.
    #[must_use]
    pub fn normalize(&self) -> &Normalize {
        &self.base.normalize
    }

    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// The same adapter with its coefficients rounded to so many bits.
    ///
    /// # Errors
    /// [`Error::Input`] for bits that there are not, and for methods without coefficients.
    pub fn rounded(&self, bits: u32) -> Result<Self> {
        if self.file.get(COEFFICIENTS).is_none() {
            let method = self.file.spec.method;
            return Err(Error::Input(format!("--bits {bits}: {method} has no coefficients; nola and pranc have")));
        }
        let file = AdapterFile { bits, ..self.file.clone() }.rounded()?;
        Ok(Self { file, ..self.clone() })
    }

    /// The adapted network on a device, its own weights in so many bits.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn network(&self, runtime: &Runtime, bits: BaseBits) -> Result<Model> {
        let model = self.frozen_network(runtime, bits)?;
        let named = |name: &str| self.file.get(name).unwrap_or_default().to_vec();
        let params: Vec<&ParamSpec> = self.base.plan.params.iter().collect();
        let of_place = |i: usize| {
            let param = params[i];
            Tensor::from_slice(runtime, &param.to_device(&named(&param.name)), &param.device_shape())
        };
        let own = self.layout.own().into_iter().map(|(name, shape)| Tensor::from_slice(runtime, &named(&name), &shape));
        let trained = own.chain(self.layout.whole().into_iter().map(of_place)).collect::<Result<Vec<_>>>()?;
        let statistics = self.layout.statistics().into_iter().map(of_place).collect::<Result<Vec<_>>>()?;
        let formed = self.formed(runtime)?;
        let frozen = self.layout.frozen(runtime)?;
        self.layout.attach(&model, &trained, &statistics, &formed, frozen.as_ref())
    }

    /// The network without its adapter, with a head of the adapter's classes.
    pub(super) fn frozen_network(&self, runtime: &Runtime, bits: BaseBits) -> Result<Model> {
        let model = Model::new(runtime, &self.base.spec, &self.base.weights)?;
        match bits.packed() {
            Some(bits) => model.quantized(bits, Block::Of64),
            None => Ok(model),
        }
    }

    /// What the coefficients give, factors or changes of weights.
    fn formed(&self, runtime: &Runtime) -> Result<Vec<Tensor>> {
        let Some(values) = self.file.get(COEFFICIENTS) else { return Ok(Vec::new()) };
        let param = ArenaParam { values: values.to_vec(), shape: vec![values.len()], decays: false, half: false };
        let trained = Arena::new(runtime, &[param], false)?;
        let formed = Arena::new(runtime, &self.layout.formed(), false)?;
        self.layout.forming(runtime, None, &trained, &formed)?.form(&trained, &formed)?;
        formed.tensors()
    }

    /// The network's weights with the adapter in them, and a head of its classes: in published layout.
    ///
    /// # Errors
    /// As [`Model::merged`].
    pub fn merged(&self, runtime: &Runtime) -> Result<Weights> {
        self.network(runtime, BaseBits::F32)?.merged()?.weights()
    }
}
