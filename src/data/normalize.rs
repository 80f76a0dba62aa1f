//! How u8 pixels become the numbers a network was trained on: `(x / 255 - mean) / std` per channel.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Mean and standard deviation per channel, of pixels scaled to 0..=1; `--normalize imagenet|cifar|unit|MEAN/STD`.
///
/// ```
/// use leanvision::data::Normalize;
/// let mnist: Normalize = "0.1307/0.3081".parse()?;
/// assert_eq!(mnist.mean_std(1)?, (vec![0.1307], vec![0.3081]));
/// # Ok::<(), leanvision::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Normalize {
    /// The training images of `ImageNet`: mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225.
    ImageNet,
    /// The training images of CIFAR-10: mean 0.4914, 0.4822, 0.4465; std 0.2023, 0.1994, 0.2010.
    Cifar,
    /// `x / 255`: mean 0, std 1.
    Unit,
    /// Other values, one per channel or one for all; each std is above 0.
    Custom {
        /// `[channels]` or `[1]`.
        mean: Vec<f32>,
        /// As many as there are means.
        std: Vec<f32>,
    },
}

impl Normalize {
    /// Mean and standard deviation, `[channels]` each.
    ///
    /// # Errors
    /// [`Error::Input`] if the values are for another number of channels.
    pub fn mean_std(&self, channels: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let (mean, std): (&[f32], &[f32]) = match self {
            Self::ImageNet => (&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]),
            Self::Cifar => (&[0.4914, 0.4822, 0.4465], &[0.2023, 0.1994, 0.2010]),
            Self::Unit => (&[0.0], &[1.0]),
            Self::Custom { mean, std } => (mean, std),
        };
        match (mean, std) {
            (&[mean], &[std]) => Ok((vec![mean; channels], vec![std; channels])),
            _ if mean.len() == channels && std.len() == channels => Ok((mean.to_vec(), std.to_vec())),
            _ => Err(Error::Input(format!(
                "normalize {self}: {} means and {} stds, the images have {channels} channels",
                mean.len(),
                std.len()
            ))),
        }
    }
}

impl fmt::Display for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        match self {
            Self::ImageNet => f.write_str("imagenet"),
            Self::Cifar => f.write_str("cifar"),
            Self::Unit => f.write_str("unit"),
            Self::Custom { mean, std } => write!(f, "{}/{}", list(mean), list(std)),
        }
    }
}

impl FromStr for Normalize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::Input(format!(
                "normalize {text:?}: {why}; wanted imagenet, cifar, unit or MEAN/STD as 0.5,0.5,0.5/0.2,0.2,0.2"
            ))
        };
        match text {
            "imagenet" => return Ok(Self::ImageNet),
            "cifar" => return Ok(Self::Cifar),
            "unit" => return Ok(Self::Unit),
            _ => (),
        }
        let list = |part: &str| -> Result<Vec<f32>> {
            let number = |value: &str| value.trim().parse::<f32>().ok().filter(|value| value.is_finite());
            part.split(',')
                .map(|value| number(value).ok_or_else(|| wrong(&format!("{value:?} is no number"))))
                .collect()
        };
        let (mean, std) = text.split_once('/').ok_or_else(|| wrong("no such name"))?;
        let (mean, std) = (list(mean)?, list(std)?);
        if mean.len() != std.len() {
            return Err(wrong(&format!("{} means and {} stds", mean.len(), std.len())));
        }
        if let Some(value) = std.iter().find(|&&value| value <= 0.0 || !value.recip().is_finite()) {
            return Err(wrong(&format!("a std of {value}")));
        }
        Ok(Self::Custom { mean, std })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normalize_names_and_values_round_trip() {
        let custom = Normalize::Custom { mean: vec![0.1, -0.25, 1e-7], std: vec![0.5, 3.0, 0.3081] };
        for normalize in [Normalize::ImageNet, Normalize::Cifar, Normalize::Unit, custom] {
            assert_eq!(normalize.to_string().parse::<Normalize>().unwrap(), normalize, "{normalize}");
        }
        assert_eq!(Normalize::Cifar.mean_std(3).unwrap().1, [0.2023, 0.1994, 0.2010]);
        assert_eq!(Normalize::ImageNet.mean_std(3).unwrap().0, [0.485, 0.456, 0.406]);
        assert_eq!(Normalize::Unit.mean_std(1).unwrap(), (vec![0.0], vec![1.0]));
        assert_eq!("0.5/0.25".parse::<Normalize>().unwrap().mean_std(3).unwrap(), (vec![0.5; 3], vec![0.25; 3]));
    }

    #[test]
    fn normalize_refuses_what_it_cannot_use() {
        for text in
            ["", "cifr", "0.5", "0.5/", "/1", "1,2/1", "0/0", "0/-1", "nan/1", "0/inf", "0/1e-45", "a,b/1,1", "0/1/2"]
        {
            let message = text.parse::<Normalize>().unwrap_err().to_string();
            assert!(message.contains(&format!("{text:?}")) && message.contains("MEAN/STD"), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        let message = Normalize::ImageNet.mean_std(1).unwrap_err().to_string();
        assert!(message.contains("imagenet") && message.contains("1 channels"), "{message}");
    }

    proptest! {
        #[test]
        fn normalize_never_panics(text in "\\PC{0,24}") {
            let _ = text.parse::<Normalize>();
        }

        #[test]
        fn normalize_values_round_trip(values in prop::collection::vec((-1e6f32..1e6, 1e-6f32..1e6), 1..5)) {
            let (mean, std) = values.into_iter().unzip();
            let normalize = Normalize::Custom { mean, std };
            prop_assert_eq!(normalize.to_string().parse::<Normalize>().unwrap(), normalize);
        }
    }
}
