//! An adapter on a network: which numbers are trained, and what the network reads of them.

use std::collections::HashMap;

use super::method::{AdapterSpec, Method};
use crate::methods::training::Forming;
use crate::nn::{Arena, ArenaParam, Branch, Model, NamedParam, ParamKind, ParamSpec, Plan, Site, Weights};
use crate::ops::basis::{Law, Mixture, Rounding, Slot, Tag};
use crate::ops::random::Key;
use crate::philox::stream;
use crate::reference::random;
use crate::{Error, Result, Runtime, Tensor};

/// The name of the mixed numbers among the trained tensors.
pub(super) const COEFFICIENTS: &str = "coefficients";
/// First value of VeRA's inner vector, as its authors have it.
const VERA_FIRST: f32 = 0.1;

/// Where an adapter's numbers go in a network.
#[derive(Debug, Clone)]
pub struct Layout {
    spec: AdapterSpec,
    plan: Plan,
    sites: Vec<Site>,
}

/// A tensor of an adapter's own: its name and shape.
pub(super) type Own = (String, Vec<usize>);

impl Layout {
    /// An adapter of `spec` on a network of `plan`.
    ///
    /// # Errors
    /// [`Error::Input`] for numbers out of range, and for targets that name no layer.
    pub fn new(spec: &AdapterSpec, plan: &Plan) -> Result<Self> {
        spec.check()?;
        let layout = Self { spec: spec.clone(), sites: spec.sites(plan)?, plan: plan.clone() };
        let smallest = layout.formed_shapes().iter().map(|shape| shape.iter().product::<usize>()).min();
        if let Some(most) = smallest.map(usize::next_power_of_two).filter(|_| spec.basis == Law::Srht)
            && spec.k > most
        {
            let k = spec.k;
            return Err(Error::Input(format!("--k {k}: srht has {most} bases for the smallest tensor that is mixed")));
        }
        if layout.own().is_empty() && layout.whole().is_empty() {
            let method = spec.method;
            return Err(Error::Input(format!("--method {method}: the network has nothing that it trains")));
        }
        Ok(layout)
    }

    /// What fixes it.
    #[must_use]
    pub fn spec(&self) -> &AdapterSpec {
        &self.spec
    }

    /// The layers that it changes.
    #[must_use]
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The tensors that stand beside the network, in the order of their training.
    pub(super) fn own(&self) -> Vec<Own> {
        let AdapterSpec { method, rank, k, .. } = self.spec;
        let two = |site: &Site, names: [&str; 2], shapes: [Vec<usize>; 2]| {
            names.map(|name| format!("{}.{name}", site.name)).into_iter().zip(shapes).collect::<Vec<_>>()
        };
        match method {
            Method::Full | Method::Linear | Method::Bitfit => Vec::new(),
            Method::Lora => {
                let of = |s: &Site| two(s, ["lora_a", "lora_b"], [vec![s.n_in, rank], vec![rank, s.n_out()]]);
                self.sites.iter().flat_map(of).collect()
            }
            Method::Vera => {
                let of = |s: &Site| two(s, ["vera_d", "vera_b"], [vec![rank], vec![s.n_out()]]);
                self.sites.iter().flat_map(of).collect()
            }
            Method::Pranc => vec![(COEFFICIENTS.into(), vec![k])],
            Method::Nola => vec![(COEFFICIENTS.into(), vec![2 * self.sites.len() * k])],
        }
    }

    /// The network's own tensors that are trained: places in its list, the head last. Whatever the network, its head is among them.
    pub(super) fn whole(&self) -> Vec<usize> {
        let head: Vec<usize> = self.plan.head().map_or(Vec::new(), |head| {
            let norm = head.norm.iter().flat_map(|norm| [norm.gain, norm.bias]);
            [Some(head.weight), head.bias].into_iter().flatten().chain(norm).map(|id| id.index()).collect()
        });
        let is = |p: &ParamSpec| match self.spec.method {
            Method::Full => p.kind.is_trained(),
            Method::Bitfit => matches!(p.kind, ParamKind::Bias | ParamKind::NormBias),
            _ => self.spec.norms && matches!(p.kind, ParamKind::Gain | ParamKind::NormBias),
        };
        let body = self.plan.params.iter().enumerate().filter(|(i, p)| is(p) && !head.contains(i)).map(|(i, _)| i);
        body.chain(head.iter().copied()).collect()
    }

    /// Places of running statistics that move with the training.
    pub(super) fn statistics(&self) -> Vec<usize> {
        let moves = self.spec.norms || self.spec.method == Method::Full;
        let is = |p: &ParamSpec| matches!(p.kind, ParamKind::RunningMean | ParamKind::RunningVar);
        let head = self.plan.head().and_then(|head| head.norm.as_ref());
        let of_head = |i: usize| head.is_some_and(|norm| [norm.mean, norm.var].iter().any(|id| id.index() == i));
        let params = self.plan.params.iter().enumerate();
        params.filter(|(i, p)| is(p) && (moves || of_head(*i))).map(|(i, _)| i).collect()
    }

    /// Trained numbers, and those among them that are not of the head.
    #[must_use]
    pub fn n_trained(&self) -> [u64; 2] {
        let own: u64 = self.own().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum();
        let params: Vec<&ParamSpec> = self.plan.params.iter().collect();
        let whole: u64 = self.whole().iter().map(|&i| params[i].len() as u64).sum();
        let of = |head: &crate::nn::Linear| {
            let vectors = usize::from(head.bias.is_some()) + 2 * usize::from(head.norm.is_some());
            head.n_in * head.n_out + vectors * head.n_out
        };
        let n_head = self.plan.head().map_or(0, of);
        [own + whole, own + whole - n_head as u64]
    }

    /// Bits that a file takes for what is not of the head: coefficients in `bits` each with a scale of each factor where those are few,
    /// everything else, running statistics included, in 32.
    pub(super) fn stored_bits(&self, bits: u32) -> u64 {
        let params: Vec<&ParamSpec> = self.plan.params.iter().collect();
        let statistics: usize = self.statistics().iter().map(|&i| params[i].len()).sum();
        let all = self.n_trained()[1] + statistics as u64;
        let mixed = self.own().iter().find(|(name, _)| name == COEFFICIENTS).map_or(0, |(_, shape)| shape[0] as u64);
        let few = if bits < 32 { mixed * u64::from(bits) + 32 * (mixed / self.spec.k as u64) } else { 32 * mixed };
        few + 32 * (all - mixed)
    }

    /// What training starts from, of a network with these weights: the trained tensors, and the running statistics that move.
    ///
    /// # Errors
    /// [`Error::Argument`] if the weights are not the network's.
    pub(super) fn start(&self, weights: &Weights) -> Result<[Vec<NamedParam>; 2]> {
        weights.check(&self.plan.params)?;
        let values: Vec<&Vec<f32>> = weights.iter().collect();
        let params: Vec<&ParamSpec> = self.plan.params.iter().collect();
        let of = |i: &usize| {
            let param = params[*i];
            let decays = matches!(
                param.kind,
                ParamKind::ConvWeight
                    | ParamKind::LinearWeight
                    | ParamKind::FlattenedWeight { .. }
                    | ParamKind::TransposedWeight
            );
            let (values, shape, half) = (param.to_device(values[*i]), param.device_shape(), param.kind.is_half());
            (param.name.clone(), ArenaParam { values, shape, decays, half })
        };
        let own = self.own().into_iter().enumerate().map(|(i, (name, shape))| {
            let values = self.first(i, &name, &shape);
            // Mixed numbers are read by the bases' kernel alone.
            let half = name != COEFFICIENTS;
            (name, ArenaParam { values, shape, decays: true, half })
        });
        let trained = own.chain(self.whole().iter().map(of)).collect();
        Ok([trained, self.statistics().iter().map(of).collect()])
    }

    /// First values of tensor `i` of its own: the branch begins at zero.
    fn first(&self, i: usize, name: &str, shape: &[usize]) -> Vec<f32> {
        let n: usize = shape.iter().product();
        if name.ends_with(".lora_a") {
            // PyTorch's default for linear layers, as LoRA's authors have it.
            let reach = 1.0 / (shape[0] as f64).sqrt();
            let key = Key::new(self.spec.seed, stream::ADAPTER, i as u32);
            random::uniform(&[n], -reach, reach, key).data.into_iter().map(|v| v as f32).collect()
        } else if name.ends_with(".vera_d") {
            vec![VERA_FIRST; n]
        } else {
            vec![0.0; n]
        }
    }

    /// The tensors that are formed of the trained ones: factors in NOLA, changes of whole weights in PRANC.
    fn formed_shapes(&self) -> Vec<Vec<usize>> {
        let rank = self.spec.rank;
        match self.spec.method {
            Method::Pranc => self.sites.iter().map(|s| vec![s.n_in, s.n_out()]).collect(),
            Method::Nola => self.sites.iter().flat_map(|s| [vec![s.n_in, rank], vec![rank, s.n_out()]]).collect(),
            _ => Vec::new(),
        }
    }

    /// As [`Layout::formed_shapes`], on their way into an arena.
    pub(super) fn formed(&self) -> Vec<ArenaParam> {
        let zeros = |shape: Vec<usize>| {
            let values = vec![0.0; shape.iter().product()];
            ArenaParam { values, shape, decays: false, half: true }
        };
        self.formed_shapes().into_iter().map(zeros).collect()
    }

    /// How tensors are mixed from the coefficients: formed tensor `i` begins at element `starts[i]`, the coefficients at `first`.
    pub(super) fn slots(&self, starts: &[usize], first: usize) -> Vec<Slot> {
        let AdapterSpec { method, basis, k, rank, .. } = self.spec;
        // So that a mixture of k coefficients has entries of one size whatever the law and k: those of the uniform law.
        let unit = (1.0 / (3.0 * k as f64 * basis.variance(k))).sqrt();
        let slot = |i: usize, len, first, layer: usize, tag, scale: f64, fixed: f64| Slot {
            len,
            out: starts[i],
            first,
            k,
            layer: layer as u32,
            tag,
            scale: scale as f32,
            fixed: (fixed / scale) as f32,
        };
        let of = |(layer, site): (usize, &Site)| {
            let reach = 1.0 / (site.n_in as f64).sqrt();
            if method == Method::Pranc {
                // Each random weight is as a linear layer's first one.
                let len = site.n_in * site.n_out();
                return vec![slot(layer, len, first, layer, Tag::Dense, unit * reach * (k as f64).sqrt(), 0.0)];
            }
            let at = first + 2 * layer * k;
            vec![
                slot(2 * layer, site.n_in * rank, at, layer, Tag::A, unit, reach),
                slot(2 * layer + 1, rank * site.n_out(), at + k, layer, Tag::B, unit, 0.0),
            ]
        };
        self.sites.iter().enumerate().flat_map(of).collect()
    }

    /// The map from coefficients to formed tensors, `bits` wide where training knows of the rounding; `None` for methods that mix
    /// nothing.
    pub(super) fn forming(
        &self,
        runtime: &Runtime,
        bits: Option<u32>,
        trained: &Arena,
        formed: &Arena,
    ) -> Result<Box<dyn Forming>> {
        let limit = || Error::Input("the adapter's tensors pass what one binding of this adapter holds".into());
        let place = |arena: &Arena, i: usize| {
            arena.place(i).filter(|_| arena.n_parts() == 1).map(|(_, offset)| offset).ok_or_else(limit)
        };
        let first = trained.place(0).filter(|(part, _)| *part == 0).map(|(_, offset)| offset).ok_or_else(limit)?;
        let starts = (0..formed.len()).map(|i| place(formed, i)).collect::<Result<Vec<_>>>()?;
        let mixture = Mixture::new(runtime, self.spec.basis, self.spec.seed, &self.slots(&starts, first))?;
        let rounding = bits.map(|bits| Rounding::new(runtime, &self.groups(first), bits)).transpose()?;
        let rounded = rounding.as_ref().map(|_| Tensor::zeros(runtime, trained.values()[0].shape(), crate::DType::F32));
        Ok(Box::new(Mixed { mixture, rounding: rounding.zip(rounded.transpose()?) }))
    }

    /// The coefficients that share a scale when they are rounded: those of one factor.
    pub(super) fn groups(&self, first: usize) -> Vec<(usize, usize)> {
        let k = self.spec.k;
        let n = self.own().first().map_or(0, |(_, shape)| shape[0]);
        (0..n / k).map(|i| (first + i * k, k)).collect()
    }

    /// The adapted network: `trained` in the order of [`Layout::start`], its statistics, and the formed tensors.
    ///
    /// # Errors
    /// As [`Model::with_params`] and [`Model::with_branches`].
    pub(super) fn attach(
        &self,
        model: &Model,
        trained: &[Tensor],
        statistics: &[Tensor],
        formed: &[Tensor],
        frozen: Option<&Frozen>,
    ) -> Result<Model> {
        let n_own = self.own().len();
        let (own, whole) = trained.split_at(n_own.min(trained.len()));
        let moved: HashMap<usize, &Tensor> =
            self.whole().into_iter().zip(whole).chain(self.statistics().into_iter().zip(statistics)).collect();
        let params = model.named_params().enumerate();
        let params = params.map(|(i, (_, t))| moved.get(&i).map_or_else(|| t.clone(), |&t| t.clone())).collect();
        let model = model.with_params(params)?;
        let scale = self.spec.scale();
        let pairs = |list: &[Tensor]| {
            let pair = |ab: &[Tensor]| Branch::LowRank { a: ab[0].clone(), b: ab[1].clone(), scale };
            list.chunks_exact(2).map(pair).collect::<Vec<_>>()
        };
        let branches: Vec<Branch> = match self.spec.method {
            Method::Full | Method::Linear | Method::Bitfit => return Ok(model),
            Method::Lora => pairs(own),
            Method::Nola => pairs(formed),
            Method::Pranc => formed.iter().cloned().map(Branch::Dense).collect(),
            Method::Vera => {
                let Some(Frozen { a, b }) = frozen else {
                    return Err(Error::argument("adapter", "VeRA without its random factors"));
                };
                let branch = |(site, dg): (&Site, &[Tensor])| {
                    let (a, b) = (a.slice(0, 0..site.n_in)?, b.slice(1, 0..site.n_out())?.contiguous()?);
                    Ok(Branch::Scaled { a, b, d: dg[0].clone(), g: dg[1].clone() })
                };
                self.sites.iter().zip(own.chunks_exact(2)).map(branch).collect::<Result<_>>()?
            }
        };
        model.with_branches(self.sites.iter().cloned().zip(branches))
    }

    /// The random factors that VeRA's layers share, made from the seed; `None` for the other methods.
    ///
    /// # Errors
    /// As [`Mixture::form`].
    pub(super) fn frozen(&self, runtime: &Runtime) -> Result<Option<Frozen>> {
        if self.spec.method != Method::Vera {
            return Ok(None);
        }
        let most = |of: fn(&Site) -> usize| self.sites.iter().map(of).max().unwrap_or(0);
        let (n_in, n_out, rank) = (most(|s| s.n_in), most(Site::n_out), self.spec.rank);
        // Kaiming's law, as peft draws them.
        let reach = |fan: usize| (6.0 / fan.max(1) as f64).sqrt() as f32;
        let slot = |len, out, tag, scale| Slot { len, out, first: 0, k: 1, layer: 0, tag, scale, fixed: 0.0 };
        let start = (n_in * rank).next_multiple_of(64);
        let slots = [slot(n_in * rank, 0, Tag::A, reach(n_in)), slot(rank * n_out, start, Tag::B, reach(rank))];
        let mixture = Mixture::new(runtime, Law::Uniform8, self.spec.seed, &slots)?;
        let out = Tensor::zeros(runtime, &[start + rank * n_out], crate::DType::F32)?;
        mixture.form(&Tensor::from_slice(runtime, &[1.0_f32], &[1])?, &out)?;
        Ok(Some(Frozen {
            a: out.slice(0, 0..n_in * rank)?.reshape(&[n_in, rank])?,
            b: out.slice(0, start..start + rank * n_out)?.reshape(&[rank, n_out])?,
        }))
    }
}

/// VeRA's random factors: `[n_in, r]` and `[r, n_out]` of the widest layer.
#[derive(Debug)]
pub(super) struct Frozen {
    a: Tensor,
    b: Tensor,
}

/// Coefficients, rounded first where training knows of it, to mixtures of random bases.
#[derive(Debug)]
struct Mixed {
    mixture: Mixture,
    /// With what it writes.
    rounding: Option<(Rounding, Tensor)>,
}

impl Forming for Mixed {
    fn form(&self, trained: &Arena, formed: &Arena) -> Result<()> {
        let (values, out) = (&trained.values()[0], &formed.values()[0]);
        match &self.rounding {
            Some((rounding, rounded)) => {
                rounding.run(values, rounded)?;
                self.mixture.form(rounded, out)
            }
            None => self.mixture.form(values, out),
        }
    }

    // Rounding passes gradients through as they are.
    fn project(&self, trained: &Arena, formed: &Arena) -> Result<()> {
        self.mixture.project(&formed.gradients()[0], &trained.gradients()[0])
    }
}

/// Passes over the bases that are timed, behind one that is not.
const PASSES: usize = 3;

impl Layout {
    /// Draws of random bases in a second, forming and projecting once each: the median of some passes.
    pub(super) fn draws_per_s(&self, runtime: &Runtime) -> Result<f64> {
        let n = self.own().first().map_or(0, |(_, shape)| shape[0]);
        let param = ArenaParam { values: vec![0.01; n], shape: vec![n], decays: false, half: false };
        let (trained, formed) = (Arena::new(runtime, &[param], true)?, Arena::new(runtime, &self.formed(), true)?);
        let map = self.forming(runtime, None, &trained, &formed)?;
        let draws = 2 * self.draws(runtime)?;
        let mut seconds = Vec::new();
        for _ in 0..=PASSES {
            let start = std::time::Instant::now();
            map.form(&trained, &formed)?;
            map.project(&trained, &formed)?;
            runtime.sync()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        Ok(draws as f64 / seconds[PASSES / 2])
    }

    /// Entries of random bases that one pass makes.
    pub(super) fn draws(&self, runtime: &Runtime) -> Result<u64> {
        let mut end = 0;
        let mut starts = Vec::new();
        for shape in self.formed_shapes() {
            starts.push(end);
            end += shape.iter().product::<usize>().next_multiple_of(64);
        }
        Ok(Mixture::new(runtime, self.spec.basis, self.spec.seed, &self.slots(&starts, 0))?.draws())
    }
}
