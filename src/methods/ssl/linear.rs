//! The linear probes of one backbone, side by side.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::features::Features;
use super::probe::{FewLabels, Probe, ProbeProtocol};
use super::ridge::ridge;
use crate::Result;
use crate::report::Table;

/// What linear classifiers on frozen features come to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LinearReport {
    /// [`ProbeProtocol::Standardized`].
    pub standardized: Probe,
    /// [`ProbeProtocol::Raw`].
    pub raw: Probe,
    /// [`ridge`], in percent.
    pub ridge: f64,
    /// With 1 % of the labels.
    pub few_1: FewLabels,
    /// With 10 % of the labels.
    pub few_10: FewLabels,
}

impl LinearReport {
    /// Trains and judges all of them.
    ///
    /// # Errors
    /// As [`Probe::of`].
    pub fn of(train: &Features, test: &Features, seed: u64, quiet: bool) -> Result<Self> {
        Ok(Self {
            standardized: Probe::of(ProbeProtocol::Standardized, train, test, seed, quiet)?,
            raw: Probe::of(ProbeProtocol::Raw, train, test, seed, quiet)?,
            ridge: ridge(train, test)?,
            few_1: FewLabels::of(train, test, 0.01, seed, quiet)?,
            few_10: FewLabels::of(train, test, 0.1, seed, quiet)?,
        })
    }

    /// Name, last and best figure of each.
    fn rows(&self) -> [(String, f64, Option<f64>); 5] {
        let probe = |name: String, probe: &Probe| (name, probe.last, Some(probe.best_on_test));
        [
            probe(ProbeProtocol::Standardized.to_string(), &self.standardized),
            probe(ProbeProtocol::Raw.to_string(), &self.raw),
            ("ridge regression, closed form".into(), self.ridge, None),
            probe(format!("1 % of the labels, {} images", self.few_1.n), &self.few_1.probe),
            probe(format!("10 % of the labels, {} images", self.few_10.n), &self.few_10.probe),
        ]
    }

    /// The same as a table.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(&["probe", "last epoch", "best on the test images"]);
        for (name, last, best) in self.rows() {
            table.row([name, format!("{last:.2} %"), best.map_or("-".into(), |best| format!("{best:.2} %"))]);
        }
        table
    }
}

impl fmt::Display for LinearReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, last, best)) in self.rows().into_iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            let best = best.map_or(String::new(), |best| format!(", {best:.2} % at best"));
            write!(f, "{end}{name}: {last:.2} %{best}")?;
        }
        Ok(())
    }
}
