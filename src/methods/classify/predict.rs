//! The likeliest classes of pictures.

use std::fmt;

use serde::Serialize;

use super::config::PredictConfig;
use crate::data::{Picture, read_image};
use crate::methods::network::{Network, PixelNetwork};
use crate::{Error, Result, Runtime, Tensor};

/// Classes that are named for each picture.
const N_BEST: usize = 5;

/// A prediction whose weights and pictures are read; needs no device yet.
#[derive(Debug)]
pub struct Prediction {
    network: Network,
    pictures: Vec<(String, Picture)>,
}

/// The likeliest classes of the pictures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PredictReport {
    /// The network.
    pub network: String,
    /// The pictures in the order they were given.
    pub pictures: Vec<PictureClasses>,
}

/// The likeliest classes of one picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PictureClasses {
    /// The file.
    pub file: String,
    /// Up to five classes, the likeliest first.
    pub best: Vec<Guess>,
}

/// A class and how likely it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guess {
    /// Index of the class.
    pub class: usize,
    /// Its name, if the weights came with names.
    pub name: Option<String>,
    /// Softmax of its logit, in percent.
    pub percent: f64,
}

impl Prediction {
    /// Reads and checks weights and pictures; these are cut to a centred square and resized to the network's side.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with the files or flags.
    pub fn prepare(config: &PredictConfig) -> Result<Self> {
        let network = Network::load(&config.weights, &config.network)?;
        network.need_head()?;
        let spec = &network.spec;
        if !matches!(spec.channels(), 1 | 3) {
            return Err(Error::Input(format!("{spec}: takes {} channels, pictures have 1 or 3", spec.channels())));
        }
        let side = config.side.map_or(spec.image(), |side| side as usize);
        spec.plan().summary([side; 2])?;
        let read = |path: &std::path::PathBuf| Ok((path.display().to_string(), read_image(path)?.fit(side)?));
        let pictures = config.images.iter().map(read).collect::<Result<_>>()?;
        Ok(Self { network, pictures })
    }

    /// Runs the network over the pictures, one at a time.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::OutOfMemory`] if a picture does not fit, [`Error::DeviceLost`].
    pub fn run(&self, runtime: &Runtime) -> Result<PredictReport> {
        let classifier = PixelNetwork::new(runtime, &self.network)?;
        let channels = self.network.spec.channels();
        let mut reads = Vec::new();
        for (_, picture) in &self.pictures {
            let shape = [1, picture.height, picture.width, channels];
            let pixels = if channels == 1 { &picture.gray() } else { &picture.rgb };
            reads.push(classifier.forward(&Tensor::from_slice(runtime, pixels, &shape)?)?.read::<f32>()?);
        }
        let pictures = self.pictures.iter().zip(reads);
        let name = |class: usize| self.network.classes.as_ref().and_then(|names| names.get(class).cloned());
        let pictures = pictures
            .map(|((file, _), logits)| {
                let best = best(&logits.wait()?);
                let best = best.into_iter().map(|(class, percent)| Guess { class, name: name(class), percent });
                Ok(PictureClasses { file: file.clone(), best: best.collect() })
            })
            .collect::<Result<_>>()?;
        Ok(PredictReport { network: self.network.spec.to_string(), pictures })
    }
}

/// The likeliest classes with their softmax in percent, in f64.
fn best(logits: &[f32]) -> Vec<(usize, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|l| f64::from(l - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut best: Vec<(usize, f64)> = weights.iter().map(|w| 100.0 * w / sum).enumerate().collect();
    best.sort_by(|a, b| b.1.total_cmp(&a.1));
    best.truncate(N_BEST);
    best
}

impl fmt::Display for PredictReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.network)?;
        for picture in &self.pictures {
            let guess = |g: &Guess| {
                let name = g.name.clone().unwrap_or_else(|| format!("class {}", g.class));
                format!("{name} {:.1} %", g.percent)
            };
            let best: Vec<String> = picture.best.iter().map(guess).collect();
            write!(f, "\n{}: {}", picture.file, best.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_likeliest_come_first_and_equals_in_order() {
        let best = super::best(&[0.0, 1.0, 0.0, f32::ln(3.0), -80.0, -90.0]);
        assert_eq!(best.iter().map(|b| b.0).collect::<Vec<_>>(), [3, 1, 0, 2, 4]);
        let sum = 2.0 + f64::exp(1.0) + 3.0;
        assert!((best[0].1 - 300.0 / sum).abs() < 1e-4, "{best:?}");
        assert_eq!(super::best(&[1e38, -1e38]), [(0, 100.0), (1, 0.0)]);
    }
}
