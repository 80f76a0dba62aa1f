//! The activations that kernels apply to their results.

use crate::runtime::Common;

/// An activation, applied elementwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// The identity.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x/2 (1 + erf(x / sqrt 2))`.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// `x sigmoid(x)`.
    Silu,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `x relu6(x + 3) / 6`.
    Hardswish,
}

impl Act {
    /// Its number in the shaders.
    #[must_use]
    pub(crate) fn code(self) -> u32 {
        self as u32
    }
}

/// The functions in the shaders: `activate4(kind, x)`, `activate(kind, x)`.
pub(crate) const ACT: Common = Common { name: "act", source: include_str!("../../shaders/common/act.wgsl") };

/// Every kind but the identity, for override lists.
pub(crate) const CODES: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8];
