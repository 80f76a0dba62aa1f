//! The methods, and what fixes an adapter of each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::nn::{Plan, Role, Site};
use crate::ops::basis::Law;
use crate::{Error, Result};

/// How a frozen network is adapted; the head is trained with each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Every weight moves.
    Full,
    /// The head alone: a linear probe.
    Linear,
    /// The biases (Ben Zaken et al. 2021, arXiv 2106.10199).
    Bitfit,
    /// Low-rank factors A and B (Hu et al. 2021, arXiv 2106.09685).
    Lora,
    /// Vectors around one pair of random factors that all layers share (Kopiczko et al. 2023, arXiv 2310.11454).
    Vera,
    /// One mixture of random weights for the whole network (Nooralinejad et al. 2022, arXiv 2206.08464).
    Pranc,
    /// Low-rank factors that are mixtures of random ones (Koohpayegani et al. 2023, arXiv 2310.02556).
    Nola,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 7] =
        [Self::Full, Self::Linear, Self::Bitfit, Self::Lora, Self::Vera, Self::Pranc, Self::Nola];

    /// Whether it adds branches to the targets.
    #[must_use]
    pub fn has_branches(self) -> bool {
        matches!(self, Self::Lora | Self::Vera | Self::Pranc | Self::Nola)
    }

    /// Whether its trained numbers mix random bases.
    #[must_use]
    pub fn has_basis(self) -> bool {
        matches!(self, Self::Pranc | Self::Nola)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Linear => "linear",
            Self::Bitfit => "BitFit",
            Self::Lora => "LoRA",
            Self::Vera => "VeRA",
            Self::Pranc => "PRANC",
            Self::Nola => "NOLA",
        })
    }
}

/// Everything that fixes an adapter but its trained numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterSpec {
    /// The method.
    pub method: Method,
    /// The law of random bases.
    pub basis: Law,
    /// Seed of everything random in it: bases, first factors, the head's first weights.
    pub seed: u64,
    /// Rank of low-rank factors.
    pub rank: usize,
    /// Random bases of each factor; of the whole network in PRANC.
    pub k: usize,
    /// The branch counts `alpha / rank` times.
    pub alpha: f64,
    /// The layers: see [`targets`].
    pub targets: String,
    /// Whether norms and their running statistics are trained, too: for networks that begin at random weights.
    pub norms: bool,
}

/// Most of a rank and of the bases of a factor.
const MOST: usize = 1 << 20;

impl AdapterSpec {
    /// Finds out whether its numbers are in range.
    ///
    /// # Errors
    /// [`Error::Input`] that names the flag.
    pub fn check(&self) -> Result<()> {
        for (flag, value) in [("--rank", self.rank), ("--k", self.k)] {
            if !(1..=MOST).contains(&value) {
                return Err(Error::Input(format!("{flag} {value}: 1 to {MOST} wanted")));
            }
        }
        if !(self.alpha.is_finite() && self.alpha != 0.0) {
            return Err(Error::Input(format!("--alpha {}: a finite number that is not 0 wanted", self.alpha)));
        }
        Ok(())
    }

    /// The factor of a low-rank branch.
    #[must_use]
    pub fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    /// The layers of a network that it changes, none for a method without branches.
    ///
    /// # Errors
    /// As [`targets`].
    pub fn sites(&self, plan: &Plan) -> Result<Vec<Site>> {
        if self.method.has_branches() { targets(plan, &self.targets) } else { Ok(Vec::new()) }
    }
}

/// The layers that a list of words names, in the order of the network. A word is
/// - a role: `q`, `k`, `v`, `qv`, `qkv`, `proj`, `attention`, `mlp`, `conv`, `linear`, or `all`;
/// - a part of a layer's name with `*` for anything: `blocks.0.*`, `fc1`.
///
/// # Errors
/// [`Error::Input`] for a word that names no layer; it lists those that there are.
pub fn targets(plan: &Plan, words: &str) -> Result<Vec<Site>> {
    let sites = plan.sites();
    let mut chosen = vec![false; sites.len()];
    for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let mut found = false;
        for (site, chosen) in sites.iter().zip(&mut chosen) {
            if names(word, site) {
                (*chosen, found) = (true, true);
            }
        }
        if !found {
            return Err(Error::Input(format!("--targets {word}: no such layer; there are {}", listed(&sites))));
        }
    }
    if !chosen.contains(&true) {
        return Err(Error::Input(format!("--targets names no layer; there are {}", listed(&sites))));
    }
    Ok(sites.into_iter().zip(chosen).filter_map(|(site, chosen)| chosen.then_some(site)).collect())
}

fn names(word: &str, site: &Site) -> bool {
    use Role::{Conv, Key, Linear, Mlp, Projection, Query, Value};
    let roles: &[Role] = match word {
        "all" => return true,
        "q" => &[Query],
        "k" => &[Key],
        "v" => &[Value],
        "qv" => &[Query, Value],
        "qkv" => &[Query, Key, Value],
        "proj" => &[Projection],
        "attention" => &[Query, Key, Value, Projection],
        "mlp" => &[Mlp],
        "conv" => &[Conv],
        "linear" => &[Linear],
        pattern => return matches(pattern, &site.name),
    };
    roles.contains(&site.role)
}

/// Whether a pattern with `*` for anything occurs in a name: between its ends or dots.
fn matches(pattern: &str, name: &str) -> bool {
    let starts = std::iter::once(0).chain(name.match_indices('.').map(|(i, _)| i + 1));
    starts.map(|i| &name[i..]).any(|rest| glob(pattern, rest))
}

/// Whether a pattern covers a text from its start to its end or a dot.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => text.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
        Some((front, back)) => text.strip_prefix(front).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(i, _)| i).chain([rest.len()]);
            ends.into_iter().any(|i| glob(back, &rest[i..]))
        }),
    }
}

/// The names of layers, each that differs from others by numbers alone once.
fn listed(sites: &[Site]) -> String {
    let mut seen: Vec<String> = Vec::new();
    for site in sites {
        let parts = site.name.split('.').map(|part| if part.parse::<u32>().is_ok() { "*" } else { part });
        let name = parts.collect::<Vec<_>>().join(".");
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ModelSpec;

    fn chosen(words: &str) -> Result<Vec<String>> {
        let plan = ModelSpec::by_name("vit_small32").unwrap().plan();
        Ok(targets(&plan, words)?.into_iter().map(|site| site.name).collect())
    }

    #[test]
    fn targets_are_roles_and_names() {
        assert_eq!(chosen("mlp").unwrap().len(), 12);
        assert_eq!(chosen("all").unwrap().len(), 36);
        assert_eq!(chosen("v,q").unwrap(), chosen("qv").unwrap());
        assert_eq!(chosen("qv").unwrap()[..2], ["blocks.0.attn.q", "blocks.0.attn.v"]);
        assert_eq!(chosen("blocks.3").unwrap().len(), 6);
        assert_eq!(chosen("fc1").unwrap().len(), 6);
        assert_eq!(chosen("blocks.*.mlp").unwrap(), chosen("mlp").unwrap());
        assert_eq!(chosen("blocks.1.attn.*, fc2").unwrap().len(), 10);
        let error = chosen("fc3").unwrap_err().to_string();
        assert!(error.contains("blocks.*.attn.q, ") && error.contains("blocks.*.mlp.fc2"), "{error}");
        // A part of a word is no name.
        assert!(chosen("c1").is_err() && chosen("block").is_err() && chosen(" ,").is_err());
    }
}
