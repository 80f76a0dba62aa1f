//! How fast many adapters are served: random ones at a time, against one for the whole batch.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::adapted::Adapted;
use super::adapter::{COEFFICIENTS, Layout};
use super::base::Base;
use super::config::ServeBenchConfig;
use super::file::AdapterFile;
use super::method::{AdapterSpec, Method};
use super::server::{Server, Storage};
use crate::nn::ParamSpec;
use crate::ops::random::{self, Key};
use crate::philox::{Philox, stream};
use crate::report::{Table, bytes};
use crate::{Error, Result, Runtime, Tensor};

/// Pairs of batches, with one adapter and with one each, whose medians are figures.
const PAIRS: usize = 15;
/// Adapters that are put in the place of others; their median time is a figure.
const SWAPS: usize = 7;
/// Size of random coefficients: about what training leaves.
const COEFFICIENT: f32 = 0.5;
/// Classes of random heads.
const CLASSES: usize = 10;
/// Most adapters and images at a time.
const MOST: usize = 1 << 24;

/// What `finetune serve-bench` measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServeReport {
    /// The network.
    pub network: String,
    /// Adapters that are resident.
    pub adapters: usize,
    /// Places in the cache.
    pub places: usize,
    /// Images in a batch, each with its own adapter.
    pub batch: usize,
    /// How coefficients are kept.
    pub storage: Storage,
    /// Numbers of an adapter, its head left out.
    pub numbers: usize,
    /// Device memory of one adapter's coefficients, in bytes.
    pub adapter_bytes: usize,
    /// Device memory of all adapters' coefficients, in bytes.
    pub resident_bytes: u64,
    /// Device memory of the cache, in bytes.
    pub cache_bytes: u64,
    /// Adapters whose coefficients fit into a GiB.
    pub adapters_per_gib: u64,
    /// The same as LoRA factors of the same rank in floats.
    pub lora_per_gib: u64,
    /// Entries of random bases that one adapter is formed of.
    pub draws: u64,
    /// Adapters formed in a second, a batch of them at a time.
    pub formed_per_s: f64,
    /// Share of the adapters wanted by random batches that lay in the cache.
    pub hit_rate: f64,
    /// Median time of a batch of random adapters, in ms.
    pub p50_ms: f64,
    /// Time that 99 of 100 such batches keep, in ms.
    pub p99_ms: f64,
    /// Median time of a batch with one adapter, in ms.
    pub single_ms: f64,
    /// Median time of a batch with as many adapters as images, all in the cache, in ms.
    pub distinct_ms: f64,
    /// The one over the other, the median of pairs of batches.
    pub distinct_over_single: f64,
    /// Time to put another adapter in a room, in ms, its forming left to the next batch.
    pub swap_ms: f64,
    /// Largest difference of a batch's logits from those of its images one by one.
    pub max_difference: f64,
    /// Kernels that were compiled after the first batches, swaps among them.
    pub pipelines_made: u64,
}

/// Serves random adapters on a network and measures it.
///
/// # Errors
/// [`Error::Input`] for counts out of range and a network that cannot be adapted; what the device has no room for.
pub fn serve_bench(runtime: &Runtime, config: &ServeBenchConfig, seed: u64) -> Result<ServeReport> {
    let ServeBenchConfig { adapters, batch, places, batches, storage, .. } = *config;
    for (flag, n) in [("--adapters", adapters), ("--batch", batch), ("--places", places), ("--batches", batches)] {
        if !(1..=MOST).contains(&n) {
            return Err(Error::Input(format!("{flag} {n}: 1 to {MOST} wanted")));
        }
    }
    if batch > adapters.min(places) {
        return Err(Error::Input(format!(
            "--batch {batch}: at most --adapters {adapters} and --places {places} wanted"
        )));
    }
    let base = Base::load(&config.base, &config.network, seed)?;
    let maker = Maker::new(&base, config, seed)?;
    let template = Adapted::new(&base, maker.adapter(0))?;
    let mut server = Server::new(runtime, &template, config.base_bits, storage, [adapters, places])?;
    (0..adapters).try_for_each(|id| server.put(id, &maker.adapter(id)))?;
    let side = base.spec.image();
    let key = Key::new(seed, stream::ADAPTER, u32::MAX - 1);
    let images = random::normal(runtime, &[batch, side, side, base.spec.channels()], 0.0, 1.0, key)?;
    let time = |server: &mut Server, ids: &[usize]| -> Result<f64> {
        let start = Instant::now();
        server.logits(&images, ids)?.to_vec::<f32>()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let distinct: Vec<usize> = (0..batch).collect();
    let max_difference = difference(&mut server, &images, &distinct)?;
    // Every kernel once: one adapter for all, each its own, one formed alone.
    for ids in [&vec![0; batch], &distinct] {
        server.clear();
        time(&mut server, ids)?;
    }
    let n_pipelines = runtime.counts().pipelines;
    // By turns, so that both see the same load of the machine.
    let (mut single, mut each, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (one, other) = (time(&mut server, &vec![0; batch])?, time(&mut server, &distinct)?);
        single.push(one);
        each.push(other);
        ratios.push(other / one);
    }
    let mut forming = Vec::new();
    for _ in 0..3 {
        server.clear();
        runtime.sync()?;
        let start = Instant::now();
        server.prepare(&distinct)?;
        runtime.sync()?;
        forming.push(start.elapsed().as_secs_f64());
    }
    let formed_per_s = batch as f64 / quantile(&mut forming, 0.5);
    // Random switching, the cache as it is after as many batches as fill it.
    let mut draws = Philox::new(seed, stream::ADAPTER, u32::MAX - 2);
    let mut pick = || -> Vec<usize> {
        let one = |_| ((u64::from(draws.next_u32()) * adapters as u64) >> 32) as usize;
        (0..batch).map(one).collect()
    };
    for _ in 0..places.div_ceil(batch) {
        server.prepare(&pick())?;
    }
    let before = server.counts();
    let mut times = (0..batches).map(|_| time(&mut server, &pick())).collect::<Result<Vec<_>>>()?;
    let after = server.counts();
    let (wanted, formed) = (after.wanted - before.wanted, after.formed - before.formed);
    let swapped = maker.adapter(adapters);
    let mut swaps = Vec::new();
    for id in 0..batch.min(SWAPS) {
        runtime.sync()?;
        let start = Instant::now();
        server.put(id, &swapped)?;
        runtime.sync()?;
        swaps.push(start.elapsed().as_secs_f64() * 1e3);
        time(&mut server, &distinct)?;
    }
    let [adapter_bytes, _, place_bytes] = server.bytes_each();
    let lora: usize = template.layout().formed().iter().map(|param| 4 * param.values.len()).sum();
    Ok(ServeReport {
        network: base.spec.to_string(),
        adapters,
        places,
        batch,
        storage,
        numbers: maker.n_numbers,
        adapter_bytes,
        resident_bytes: (adapters * adapter_bytes) as u64,
        cache_bytes: (places * place_bytes) as u64,
        adapters_per_gib: (1 << 30) / adapter_bytes as u64,
        lora_per_gib: (1 << 30) / lora as u64,
        draws: server.draws(),
        formed_per_s,
        hit_rate: 1.0 - formed as f64 / wanted as f64,
        p50_ms: quantile(&mut times, 0.5),
        p99_ms: quantile(&mut times, 0.99),
        single_ms: quantile(&mut single, 0.5),
        distinct_ms: quantile(&mut each, 0.5),
        distinct_over_single: quantile(&mut ratios, 0.5),
        swap_ms: quantile(&mut swaps, 0.5),
        max_difference,
        pipelines_made: runtime.counts().pipelines - n_pipelines,
    })
}

/// The value that a share `q` of all keeps.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((q * last as f64).ceil() as usize).copied().unwrap_or(f64::NAN)
}

/// The largest difference of a batch's logits from those of each image alone.
fn difference(server: &mut Server, images: &Tensor, ids: &[usize]) -> Result<f64> {
    let together = server.logits(images, ids)?.to_vec::<f32>()?;
    let n = together.len() / ids.len();
    let mut most = 0.0_f64;
    for (i, id) in ids.iter().enumerate() {
        let alone = server.logits(&images.slice(0, i..i + 1)?, &[*id])?.to_vec::<f32>()?;
        let pairs = together[i * n..(i + 1) * n].iter().zip(&alone);
        // A NaN stays, as it is larger than any bound.
        most = pairs.fold(most, |most, (a, b)| {
            let d = f64::from((a - b).abs());
            if d.is_nan() { f64::INFINITY } else { most.max(d) }
        });
    }
    Ok(most)
}

/// Makes random adapters of one kind.
struct Maker<'a> {
    spec: AdapterSpec,
    base: &'a Base,
    digest: String,
    head: Vec<ParamSpec>,
    n_numbers: usize,
}

impl<'a> Maker<'a> {
    fn new(base: &'a Base, config: &ServeBenchConfig, seed: u64) -> Result<Self> {
        let spec = AdapterSpec {
            method: Method::Nola,
            basis: config.basis,
            seed,
            rank: config.rank,
            k: config.k,
            alpha: config.alpha,
            targets: config.targets.clone(),
            norms: false,
        };
        let plan = base.with_head(CLASSES, false, seed)?.plan;
        let Some(head) = plan.head() else { return Err(Error::Input("the network has no head to adapt".into())) };
        let params: Vec<&ParamSpec> = plan.params.iter().collect();
        let head = [Some(head.weight), head.bias].into_iter().flatten().map(|id| params[id.index()].clone());
        let own = Layout::new(&spec, &plan)?.own();
        let n_numbers = own.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        Ok(Self { spec, base, digest: base.digest(), head: head.collect(), n_numbers })
    }

    fn adapter(&self, id: usize) -> AdapterFile {
        let mut draws = Philox::new(self.spec.seed, stream::ADAPTER, id as u32);
        let mut values = |n: usize, size: f32| (0..n).map(|_| size * (2.0 * draws.uniform_f32() - 1.0)).collect();
        let mut tensors = vec![(COEFFICIENTS.to_string(), vec![self.n_numbers], values(self.n_numbers, COEFFICIENT))];
        for param in &self.head {
            tensors.push((param.name.clone(), param.shape.clone(), values(param.len(), 0.1)));
        }
        AdapterFile {
            spec: self.spec.clone(),
            base: self.digest.clone(),
            network: self.base.spec.to_string(),
            classes: (0..CLASSES).map(|i| i.to_string()).collect(),
            normalize: self.base.normalize.to_string(),
            bits: 32,
            split: (0, 0.5),
            tensors,
        }
    }
}

impl fmt::Display for ServeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} adapters on {}, {} numbers each, batches of {}\n",
            self.adapters, self.network, self.numbers, self.batch
        )?;
        let mut table = Table::new(&["what", ">figure"]);
        let mut row = |what: &str, figure: String| table.row([what.to_string(), figure]);
        row("resident", format!("{} ({} each)", bytes(self.resident_bytes), bytes(self.adapter_bytes as u64)));
        row("adapters per GiB, and as LoRA", format!("{}, {}", self.adapters_per_gib, self.lora_per_gib));
        row("cache", format!("{} places, {}", self.places, bytes(self.cache_bytes)));
        row("draws to form one", self.draws.to_string());
        row("formed in a second", format!("{:.1}", self.formed_per_s));
        row("hit rate of random batches", format!("{:.3}", self.hit_rate));
        row("their time, median and 99 of 100", format!("{:.1} ms, {:.1} ms", self.p50_ms, self.p99_ms));
        row("one adapter for the batch", format!("{:.1} ms", self.single_ms));
        row(
            "one each, all in the cache",
            format!("{:.1} ms, {:.2} times", self.distinct_ms, self.distinct_over_single),
        );
        row("to put another one in", format!("{:.2} ms", self.swap_ms));
        row("largest difference from one by one", format!("{:.1e}", self.max_difference));
        row("kernels compiled meanwhile", self.pipelines_made.to_string());
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceChoice;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: ServeBenchConfig,
    }

    fn config(flags: &str) -> ServeBenchConfig {
        Flags::parse_from(["x"].into_iter().chain(flags.split_whitespace())).config
    }

    #[test]
    fn figures_fit_together() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let flags = "--base vit_small32 --adapters 9 --batch 4 --places 6 --batches 5 --k 8 --rank 2";
        for (storage, bytes_each) in [("f32", 4.0), ("int8", 1.5)] {
            let report = serve_bench(&runtime, &config(&format!("{flags} --storage {storage}")), 3).unwrap();
            assert!(report.max_difference <= 1e-5, "{report:?}");
            assert_eq!(report.pipelines_made, 0);
            assert_eq!(report.adapter_bytes as f64, report.numbers as f64 * bytes_each);
            assert_eq!(report.resident_bytes, 9 * report.adapter_bytes as u64);
            assert!(report.hit_rate > 0.0 && report.hit_rate < 1.0, "{report:?}");
            assert!(report.p50_ms <= report.p99_ms && report.formed_per_s > 0.0 && report.swap_ms > 0.0);
            assert!(report.adapters_per_gib > report.lora_per_gib);
            assert!(report.to_string().contains("9 adapters on"));
        }
        let right = config(flags);
        for wrong in [
            ServeBenchConfig { adapters: 3, ..right.clone() },
            ServeBenchConfig { places: 3, ..right.clone() },
            ServeBenchConfig { batch: 0, ..right.clone() },
            ServeBenchConfig { targets: "fc9".into(), ..right.clone() },
            ServeBenchConfig { rank: 0, ..right.clone() },
        ] {
            assert!(serve_bench(&runtime, &wrong, 3).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn quantiles_are_values() {
        let mut values = vec![5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| quantile(&mut values, q)), [1.0, 3.0, 5.0, 5.0]);
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
