//! Self-supervised learning and distillation.
//!
//! [`SslRun`] is one training: every method is a rule for targets (a mean of neighbours in a memory bank, a softmax over it, a
//! teacher's features) behind one loop, from [`Method`]. [`extract`] runs a network over labelled images; its [`Features`] stay
//! on the device, where [`Knn`] and [`LinearReport`] judge them, and [`Spread`] and [`FeatureMap`] look at how they lie.
//! [`save_backbone`] writes a network without its head, [`load_backbone`] reads any network so, [`Embedding`] writes features of
//! pictures.

mod backbone;
mod bench;
mod config;
mod embed;
mod encoder;
mod eval;
mod features;
mod guide;
mod judge;
mod knn;
mod linear;
mod loss;
mod map;
mod memory;
mod method;
mod probe;
mod pseudo;
mod report;
mod ridge;
mod run;
mod settle;
mod sheet;
mod spread;
mod step;
mod teacher;
#[cfg(test)]
mod tests;

pub use backbone::{Backbone, PixelBackbone, load_backbone, save_backbone};
pub use bench::{SslStep, SslStepSpec};
pub use config::{
    BankPrecision, Command, Config, DistillConfig, EvalConfig, PretrainConfig, Protocol as EvalProtocol, SharedFlags,
    StemChoice, Strength,
};
pub use embed::{EmbedConfig, EmbedReport, Embedding};
pub use eval::{EvalReport, Evaluation};
pub use features::{Features, extract};
pub use knn::{Knn, PROTOCOLS, Protocol};
pub use linear::LinearReport;
pub use map::FeatureMap;
pub use method::{HeadWidths, Heads, Method};
pub use probe::{FewLabels, Probe, ProbeProtocol};
pub use report::SslReport;
pub use ridge::ridge;
pub use run::SslRun;
pub use settle::Settled;
pub use sheet::{SHEET_IMAGES, SHEET_VIEWS, views_sheet};
pub use spread::Spread;
pub use teacher::{Teacher, TeacherViews, teacher_features};
