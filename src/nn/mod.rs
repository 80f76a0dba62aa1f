//! Layers, models and their weights.
//!
//! A [`ModelSpec`] is a network as data; its [`Plan`] lists the tensors under their published names and the steps that
//! use them. [`identify`] reads a spec off a file's names and shapes, [`Checkpoint`] reads the values.

mod arena;
mod branch;
mod checkpoint;
mod fold;
mod half;
mod identify;
mod init;
mod kept;
mod mlp;
mod mnist_cnn;
mod mobilenet;
mod model;
mod optimizer;
mod param;
mod plan;
mod reference;
mod report;
mod resnet;
mod schedule;
mod site;
mod spec;
mod summary;
#[cfg(test)]
mod tests;
pub mod text;
mod vit;
mod vit_forward;

pub use arena::{Arena, ArenaParam, NamedParam};
pub use branch::Branch;
pub use checkpoint::{Checkpoint, Header, RawTensor, TensorEntry, Weights};
pub use half::{HalfCopy, Precision};
pub use identify::{Hints, Identified, identify};
pub use init::{initial, initial_behind, untrained};
pub use mlp::{MlpLayer, MlpNorm, MlpSpec};
pub use mnist_cnn::MnistCnnSpec;
pub use mobilenet::MobileNetV2Spec;
pub use model::{Model, Training};
pub use optimizer::{Average, Optimizer, Rule, Stepped};
pub use param::{ParamId, ParamKind, ParamList, ParamSpec};
pub use plan::{
    Body, Conv, LayerNorm, Linear, Norm, NormPlace, Plan, Pool, Qkv, Residual, Shortcut, Step, TokenPool, VitBlock,
    VitPlan,
};
pub use reference::reference_forward;
pub use report::{LoadReport, Misfit};
pub use resnet::{Block, ResNetSpec, ShortcutKind, Stem};
pub use schedule::{Curve, Every, SCHEDULE_FORMS, Schedule};
pub use site::{Role, Site};
pub use spec::{ARCH_NAMES, ModelSpec};
pub use summary::{LayerRow, Summary};
pub use text::{TextPlan, TextSpec, TokenBatch};
pub use vit::{QkvNames, VitNames, VitSpec};
