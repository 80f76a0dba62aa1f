//! The cases of each op family, one file per family, and those for GPUs in a file of their own.

mod attention;
mod augment;
mod bank;
mod basis;
mod conv;
mod elementwise;
mod gather;
mod kmeans;
mod large;
mod matmul;
mod norm;
mod optim;
mod pool;
mod quant;
mod random;
mod reduce;
mod rotary;
mod scatter;
mod softmax;
mod sort;
mod topk;
mod views;

use super::{Case, Level};
use crate::runtime::Runtime;
use crate::{Error, Result};

type Build = fn(&Runtime, Level) -> Result<Vec<Case>>;

/// Every family with its cases.
const FAMILIES: &[(&str, Build)] = &[
    ("attention", attention::cases),
    ("augment", augment::cases),
    ("bank", bank::cases),
    ("basis", basis::cases),
    ("conv", conv::cases),
    ("elementwise", elementwise::cases),
    ("gather", gather::cases),
    ("kmeans", kmeans::cases),
    ("matmul", matmul::cases),
    ("norm", norm::cases),
    ("optim", optim::cases),
    ("pool", pool::cases),
    ("quant", quant::cases),
    ("random", random::cases),
    ("reduce", reduce::cases),
    ("rotary", rotary::cases),
    ("scatter", scatter::cases),
    ("softmax", softmax::cases),
    ("sort", sort::cases),
    ("topk", topk::cases),
    ("views", views::cases),
];

/// Names of the families that have cases.
#[must_use]
pub fn families() -> Vec<&'static str> {
    FAMILIES.iter().map(|(name, _)| *name).collect()
}

/// The cases of one family.
///
/// # Errors
/// [`Error::Input`] for an unknown family, else what building the inputs returns.
pub fn cases(runtime: &Runtime, family: &str, level: Level) -> Result<Vec<Case>> {
    match FAMILIES.iter().find(|(name, _)| *name == family) {
        Some((_, build)) => {
            let mut cases = build(runtime, level)?;
            cases.extend(large::cases(runtime, family, level));
            Ok(cases)
        }
        None => Err(Error::Input(format!("no family is called '{family}'; there are {}", families().join(", ")))),
    }
}
