//! The frozen network that is adapted.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::data::Normalize;
use crate::methods::NetworkFlags;
use crate::methods::network::Network;
use crate::nn::{Header, Hints, ModelSpec, ParamKind, Plan, Weights, initial, text};
use crate::ops::random::Key;
use crate::philox::stream;
use crate::reference::random;
use crate::{Error, Result};

/// A network to adapt: weights of a file, or the random ones of a named network.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) spec: ModelSpec,
    pub(super) plan: Plan,
    pub(super) weights: Weights,
    pub(super) normalize: Normalize,
    /// Whether the weights are random.
    pub(super) is_random: bool,
}

impl Base {
    /// Reads weights, or makes those of the network called `base` from `seed` where there is no such file.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with them.
    pub(super) fn load(base: &str, flags: &NetworkFlags, seed: u64) -> Result<Self> {
        let path = Path::new(base);
        if !path.exists() && !base.contains(['/', '.']) {
            let spec = ModelSpec::by_name(base)
                .map_err(|_| Error::Input(format!("--base {base}: neither a file nor the name of a network")))?;
            let usual = spec.known_normalization().unwrap_or("cifar");
            let normalize = flags.normalize.as_deref().unwrap_or(usual).parse()?;
            let (plan, weights) = (spec.plan(), initial(&spec, seed)?);
            return Ok(Self { spec, plan, weights, normalize, is_random: true });
        }
        if is_text(path, flags) {
            let hints = Hints { arch: flags.arch.clone(), heads: flags.heads, ..Hints::default() };
            let (spec, weights) = text::load(path, &hints)?;
            let spec = ModelSpec::from(spec);
            let normalize = Normalize::Unit;
            return Ok(Self { plan: spec.plan(), spec, weights, normalize, is_random: false });
        }
        let path: PathBuf = path.into();
        let Network { spec, plan, weights, normalize, .. } = Network::load(&path, flags)?;
        Ok(Self { spec, plan, weights, normalize, is_random: false })
    }

    /// The same network with a head for `n` classes: its own with `keep`, else one of random weights. For 0 classes as it is.
    ///
    /// # Errors
    /// [`Error::Input`] if it has no such head to keep.
    pub(super) fn with_head(&self, n: usize, keep: bool, seed: u64) -> Result<Self> {
        if n == 0 {
            return Ok(self.clone());
        }
        if keep {
            if !self.plan.has_head || self.spec.classes() != n {
                let has = if self.plan.has_head { self.spec.classes() } else { 0 };
                return Err(Error::Input(format!(
                    "--keep-head: the base tells {has} classes apart, the images have {n}"
                )));
            }
            return Ok(self.clone());
        }
        let mut spec = self.spec.clone();
        spec.set_classes(n);
        let plan = spec.plan();
        let n_body = self.plan.headless().params.len();
        let mut values: Vec<Vec<f32>> = self.weights.iter().take(n_body).cloned().collect();
        for param in plan.params.iter().skip(n_body) {
            // Weights as PyTorch's linear layers have them at first, biases of zero, norms as the identity.
            values.push(match (param.kind, param.shape.as_slice()) {
                (ParamKind::Gain | ParamKind::UnitGain | ParamKind::RunningVar, _) => vec![1.0; param.len()],
                (_, &[_, n_in]) => {
                    let reach = 1.0 / (n_in.max(1) as f64).sqrt();
                    let key = Key::new(seed, stream::ADAPTER, HEAD);
                    random::uniform(&[param.len()], -reach, reach, key).data.into_iter().map(|v| v as f32).collect()
                }
                _ => vec![0.0; param.len()],
            });
        }
        let weights = Weights::new(&plan.params, values)?;
        Ok(Self { spec, plan, weights, ..self.clone() })
    }

    /// What tells the network from others: the SHA-256 of the names, shapes and values of all tensors but the head's, in hexadecimal.
    #[must_use]
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (param, values) in self.plan.headless().params.iter().zip(self.weights.iter()) {
            hash.update(format!("{} {:?}\n", param.name, param.shape));
            for chunk in values.chunks(4096) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
                hash.update(&bytes);
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The step of the head's draws, past those of all layers.
const HEAD: u32 = u32::MAX;

/// Whether a file, or a folder, holds a language model.
fn is_text(path: &Path, flags: &NetworkFlags) -> bool {
    let found = || Header::read(path).and_then(|header| flags.identify(&header));
    path.is_dir() || found().is_ok_and(|found| matches!(found.spec, ModelSpec::Text(_)))
}
