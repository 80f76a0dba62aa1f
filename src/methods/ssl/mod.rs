//! Self-supervised learning and distillation: what the features are worth.
//!
//! [`extract`] runs a network over labelled images; its [`Features`] stay on the device. [`Knn`] judges them by their
//! neighbours, [`Probe`], [`FewLabels`] and [`ridge`] by a linear classifier; [`Spread`] says whether they have collapsed, a
//! [`FeatureMap`] shows them. A [`Backbone`] goes into a file without its head and comes back as it was.

mod backbone;
mod embed;
mod features;
mod knn;
mod map;
mod probe;
mod ridge;
mod sheet;
mod spread;
mod teacher;
#[cfg(test)]
mod tests;

pub use backbone::{Backbone, PixelBackbone, load_backbone, save_backbone};
pub use embed::{EmbedConfig, EmbedReport, Embedding};
pub use features::{Features, extract};
pub use knn::{Knn, PROTOCOLS, Protocol};
pub use map::FeatureMap;
pub use probe::{FewLabels, Probe, ProbeProtocol};
pub use ridge::ridge;
pub use sheet::{SHEET_IMAGES, SHEET_VIEWS, views_sheet};
pub use spread::Spread;
pub use teacher::{Teacher, TeacherViews, teacher_features};
