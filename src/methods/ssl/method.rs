//! What each method is, as data.

use serde::{Deserialize, Serialize};

use crate::nn::{MlpLayer, MlpNorm, MlpSpec};
use crate::ops::Act;

/// A way to learn without labels, or from a teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// BYOL with one view through each network (Grill et al. 2020, arXiv 2006.07733, as MSF's authors run it).
    Byol,
    /// BYOL with both views through both networks.
    ByolSym,
    /// `SimSiam` (Chen and He 2020, arXiv 2011.10566). The predictor's learning rate goes with the others', and residual branches
    /// start at their usual size, both unlike its authors' code.
    Simsiam,
    /// Mean shift (Koohpayegani et al. 2021, arXiv 2105.07269).
    Msf,
    /// Constrained mean shift, by neighbours of an earlier view (Navaneet et al. 2021, arXiv 2112.04607).
    #[serde(rename = "cmsf-2q")]
    #[value(name = "cmsf-2q")]
    Cmsf2q,
    /// Constrained mean shift, by clusters of k-means.
    CmsfKm,
    /// Constrained mean shift, by labels.
    CmsfSup,
    /// Constrained mean shift, by a few labels and pseudo-labels.
    CmsfSemi,
    /// BYOL with the target replaced by its nearest neighbour, as NNCLR (Dwibedi et al. 2021, arXiv 2104.14548) does. What its
    /// neighbours are is not counted.
    Nnbyol,
    /// Iterative similarity distillation (Tejankar et al. 2020, arXiv 2012.09259).
    Isd,
    /// Momentum contrast (Chen et al. 2020, arXiv 2003.04297).
    #[serde(rename = "moco-v2")]
    #[value(name = "moco-v2")]
    MocoV2,
    /// Regression of a teacher's features (Navaneet et al. 2022, arXiv 2201.05131).
    #[value(skip)]
    Simreg,
    /// Similarities to a teacher's bank, one bank for both (Koohpayegani et al. 2020, arXiv 2010.14713). The course of the rate is
    /// a cosine unless asked for; theirs falls to a fifth in epochs 90 and 120 (`--schedule step:at=90/120,gamma=0.2`).
    #[serde(rename = "compress-1q")]
    #[value(skip)]
    Compress1q,
    /// The same with a bank for each.
    #[serde(rename = "compress-2q")]
    #[value(skip)]
    Compress2q,
}

impl Method {
    /// Whether an average of the weights gives the targets.
    #[must_use]
    pub fn has_target(self) -> bool {
        !matches!(self, Self::Simsiam | Self::Simreg | Self::Compress1q)
    }

    /// Whether both views go through the trained network.
    #[must_use]
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::ByolSym | Self::Simsiam)
    }

    /// Whether a teacher gives the targets.
    #[must_use]
    pub fn is_distilled(self) -> bool {
        matches!(self, Self::Simreg | Self::Compress1q | Self::Compress2q)
    }

    /// Whether it compares with a memory bank. The others keep one of recent targets to look at.
    #[must_use]
    pub fn has_bank(self) -> bool {
        !matches!(self, Self::Byol | Self::ByolSym | Self::Simsiam | Self::Simreg)
    }

    /// Whether it looks for neighbours in the bank.
    #[must_use]
    pub fn has_neighbours(self) -> bool {
        matches!(self, Self::Msf | Self::Nnbyol) || self.is_constrained()
    }

    /// Whether some neighbours are looked for among a part of the bank.
    #[must_use]
    pub fn is_constrained(self) -> bool {
        matches!(self, Self::Cmsf2q | Self::CmsfKm | Self::CmsfSup | Self::CmsfSemi)
    }

    /// Whether neighbours are looked for in the whole bank, too.
    #[must_use]
    pub fn is_unconstrained(self) -> bool {
        self.has_neighbours() && !matches!(self, Self::CmsfSup | Self::CmsfSemi)
    }

    /// Whether it learns from labels.
    #[must_use]
    pub fn needs_labels(self) -> bool {
        matches!(self, Self::CmsfSup | Self::CmsfSemi)
    }
}

/// Widths of the heads behind the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadWidths {
    /// Hidden width.
    pub hidden: usize,
    /// Output width: what is compared.
    pub out: usize,
}

/// The heads of a method: a projector in both networks, a predictor in the one that is trained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heads {
    /// Behind the backbone.
    pub projector: Option<MlpSpec>,
    /// Behind the projector.
    pub predictor: Option<MlpSpec>,
}

impl Method {
    /// The usual widths behind `n` features, as ssl methods have them: MSF and its relatives 2 n and n / 4, of at least 512 and
    /// 128, for small networks.
    #[must_use]
    pub fn head_widths(self, n: usize) -> HeadWidths {
        match self {
            Self::Simsiam => HeadWidths { hidden: 4 * n, out: 4 * n },
            Self::MocoV2 => HeadWidths { hidden: n, out: 128 },
            _ => HeadWidths { hidden: (2 * n).max(512), out: (n / 4).next_multiple_of(4).max(128) },
        }
    }

    /// The heads behind `n` features, with the teacher's features `n_teacher` and the head's layers for distillation.
    #[must_use]
    pub fn heads(self, n: usize, widths: HeadWidths, n_teacher: usize, layers: usize) -> Heads {
        let HeadWidths { hidden, out } = widths;
        let mlp = |n_in, layers: Vec<MlpLayer>| Some(MlpSpec { n_in, layers });
        let bare = |n_out| MlpLayer { bias: false, ..MlpLayer::hidden(n_out) };
        match self {
            Self::Simsiam => {
                let last = MlpLayer { n_out: out, bias: false, norm: Some(MlpNorm::Plain), act: Act::None };
                Heads {
                    projector: mlp(n, vec![bare(hidden), bare(hidden), last]),
                    predictor: mlp(out, vec![bare((out / 4).max(1)), MlpLayer::linear(out)]),
                }
            }
            // No batch norm (MoCo v2).
            Self::MocoV2 => {
                let first = MlpLayer { norm: None, ..MlpLayer::hidden(hidden) };
                Heads { projector: mlp(n, vec![first, MlpLayer::linear(out)]), predictor: None }
            }
            Self::Simreg => {
                let layers = match layers {
                    1 => vec![MlpLayer::linear(n_teacher)],
                    2 => vec![MlpLayer::hidden(2 * n), MlpLayer::linear(n_teacher)],
                    _ => vec![
                        MlpLayer::hidden(2 * n),
                        MlpLayer::linear(n),
                        MlpLayer::hidden(2 * n),
                        MlpLayer::linear(n_teacher),
                    ],
                };
                Heads { projector: None, predictor: mlp(n, layers) }
            }
            Self::Compress1q => Heads { projector: None, predictor: mlp(n, vec![MlpLayer::linear(n_teacher)]) },
            Self::Compress2q => Heads::default(),
            _ => Heads {
                projector: mlp(n, vec![MlpLayer::hidden(hidden), MlpLayer::linear(out)]),
                predictor: mlp(out, vec![MlpLayer::hidden(hidden), MlpLayer::linear(out)]),
            },
        }
    }
}
