//! Training steps: one batch forward, backward and through the optimizer, on random images.

mod resnet;
mod vit;

use crate::contest::{Contest, Row};
use crate::sides::{Side, ours};
use anyhow::{Context, Result};
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use leanvision::Runtime;
use leanvision::bench::TrainingStep;
use leanvision::nn::{ModelSpec, Rule, TokenPool, VitNames, VitSpec};

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

/// Both engines' steps in turns; networks whose name contains `only`. Each starts from weights of its own kind, so that
/// losses are only compared roughly: both must fall.
pub(crate) fn run(runtime: &Runtime, device: &Device, only: &str) -> Result<Vec<Row>> {
    let device = device.clone().autodiff();
    let sgd = Rule::Sgd { momentum: 0.9, nesterov: false };
    let adam = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decoupled: false };
    let block = VitSpec {
        pool: TokenPool::Mean,
        names: VitNames { class_token: None, ..VitNames::timm() },
        ..VitSpec::timm(32, 4, 192, 1, 3, CLASSES)
    };
    type Make<'a> = Box<dyn Fn() -> Box<dyn Side> + 'a>;
    let resnet: Make = Box::new(|| Box::new(resnet::step(&device)));
    let vit: Make = Box::new(|| Box::new(vit::step(&device)));
    let contests = [
        ("ResNet-20, SGD", ModelSpec::by_name("resnet20")?, sgd, 0.1, 2.0, resnet),
        ("ViT of one block, Adam", ModelSpec::Vit(Box::new(block)), adam, 1e-3, 1.5, vit),
    ];
    println!("{}", Row::HEAD);
    let mut rows = Vec::new();
    for (name, spec, rule, lr, target, burn) in contests.into_iter().filter(|(name, ..)| name.contains(only)) {
        let step = TrainingStep::new(runtime, &spec, BATCH, rule, lr)?;
        let contest = Contest {
            op: "train step",
            shape: name,
            work: BATCH as f64,
            unit: "images",
            // Losses of untrained networks over ten classes, some 2.3 to 3.
            tolerance: 1.5,
            target: Some(target),
            learns: true,
            ours: ours(runtime, move || step.run()),
            burn: burn(),
            candle: None,
        };
        let row = contest.run_rounds(ROUNDS)?;
        println!("{row}");
        rows.push(row);
    }
    Ok(rows)
}
