//! Training steps: one batch forward, backward and through the optimizer, on random images.

mod resnet;
mod vit;

use crate::contest::{alone, first};
use crate::sides::Side;
use anyhow::{Context, Result};
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};

/// Images of a step.
const BATCH: usize = 64;
/// Classes, as in CIFAR-10.
const CLASSES: usize = 10;
/// Turns: a step takes seconds on a software adapter.
const ROUNDS: usize = 3;

/// A network that burn trains: images `[n, 3, 32, 32]` to logits `[n, 10]`.
trait Network: Module {
    fn logits(&self, images: Tensor<4>) -> Tensor<2>;
}

/// One network in training by burn; a run is a step on the same random batch.
struct BurnStep<N> {
    device: Device,
    /// Taken out for the step, so that the optimizer owns the only copy and may work in place.
    network: Option<N>,
    optimizer: ModuleOptimizer,
    rate: f64,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
    loss: Option<Tensor<1>>,
}

impl<N: Network> BurnStep<N> {
    /// `device` records gradients.
    fn new(device: &Device, network: N, optimizer: ModuleOptimizer, rate: f64) -> Self {
        let labels: Vec<i32> = (0..BATCH).map(|i| (i % CLASSES) as i32).collect();
        Self {
            device: device.clone(),
            network: Some(network),
            optimizer,
            rate,
            images: Tensor::random([BATCH, 3, 32, 32], Distribution::Normal(0.0, 1.0), device),
            labels: Tensor::from_data(TensorData::new(labels, [BATCH]), device),
            loss: None,
        }
    }
}

impl<N: Network> Side for BurnStep<N> {
    fn run(&mut self) -> Result<()> {
        let network = self.network.take().context("an earlier step failed")?;
        let logits = network.logits(self.images.clone());
        let loss = CrossEntropyLossConfig::new().init(&self.device).forward(logits, self.labels.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        self.network = Some(self.optimizer.step(self.rate, network, gradients));
        self.loss = Some(loss.detach());
        self.device.sync()?;
        Ok(())
    }

    /// The loss before the last step.
    fn read(&self) -> Result<Vec<f32>> {
        let loss = self.loss.clone().context("run before read")?;
        Ok(loss.try_into_data()?.try_into_vec::<f32>()?)
    }
}

/// burn's steps alone, as ours do not exist yet; networks whose name contains `only`.
pub(crate) fn run_burn(device: &Device, only: &str) -> Result<()> {
    let device = device.clone().autodiff();
    type Make<'a> = Box<dyn Fn() -> Box<dyn Side> + 'a>;
    let steps: [(&str, Make); 2] = [
        ("resnet20, batch 64, SGD", Box::new(|| Box::new(resnet::step(&device)))),
        ("vit of one block, batch 64, Adam", Box::new(|| Box::new(vit::step(&device)))),
    ];
    for (name, make) in steps.iter().filter(|(name, _)| name.contains(only)) {
        let mut step = make();
        let first_ms = first(&mut *step)?;
        let loss = step.read()?[0];
        let cost = alone(&mut *step, BATCH as f64, ROUNDS, first_ms)?;
        println!("{name}: {:.2} images/CPU s; loss {loss:.3} to {:.3}", cost.rate, step.read()?[0]);
        println!("{}", serde_json::to_string(&cost)?);
    }
    Ok(())
}
