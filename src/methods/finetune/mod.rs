//! Adaptation of frozen networks with few numbers: methods, files, training, evaluation.
//!
//! An adapter is a [`Method`] with its [`AdapterSpec`], and the numbers that training moved; everything else follows from the seed. Full
//! training, linear probes, BitFit, LoRA, VeRA, PRANC and NOLA share one interface. PRANC's and NOLA's random bases are made in
//! the kernels that read them ([`crate::ops::basis`]), so that neither memory nor file ever holds them.
//!
//! ```no_run
//! use leanvision::methods::finetune::{Adapted, AdapterFile, BaseBits};
//! use leanvision::methods::NetworkFlags;
//! use leanvision::{DeviceChoice, Runtime};
//! # fn main() -> leanvision::Result<()> {
//! let runtime = Runtime::new(&DeviceChoice::default())?;
//! let file = AdapterFile::read("birds/adapter.safetensors")?;
//! let adapted = Adapted::load("vit.safetensors", &NetworkFlags::default(), file)?;
//! let network = adapted.network(&runtime, BaseBits::F32)?;
//! println!("{} tells apart {:?}", network.spec(), adapted.file().classes);
//! # Ok(())
//! # }
//! ```

mod adapted;
mod adapter;
mod base;
mod compress;
mod config;
mod eval;
mod export;
mod file;
mod fit;
mod images;
mod lru;
mod method;
mod peft;
mod report;
mod serve_bench;
mod server;
mod settle;
mod shots;
mod step;
mod task;
#[cfg(test)]
mod tests;
mod texts;
mod train;

pub use adapted::Adapted;
pub use adapter::Layout;
pub use compress::{CompressReport, CompressRow, compress};
pub use config::{
    BaseBits, Command, CompressConfig, Config, EvalConfig, ExportConfig, ExportKind, ServeBenchConfig, TrainConfig,
};
pub use eval::{EvalReport, Evaluation};
pub use export::{ExportReport, export};
pub use file::AdapterFile;
pub use method::{AdapterSpec, Method, targets};
pub use peft::{LoraFile, LoraLayer};
pub use report::{FinetuneReport, SeedReport};
pub use serve_bench::{ServeReport, serve_bench};
pub use server::{ServeCounts, Server, Storage};
pub use settle::Settled;
pub use shots::{Classes, Shots};
pub use step::FinetuneStep;
pub use task::Verdict;
pub use texts::Prediction;
pub use train::FinetuneRun;
