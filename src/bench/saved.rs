//! Reports that `gpubench run` wrote, read again.

use std::path::Path;

use serde_json::Value;

use super::{BenchReport, SCHEMA};
use crate::{Error, Result};

impl BenchReport {
    /// Reads what `gpubench run --json` wrote.
    ///
    /// Keys that it does not know are passed over. Peaks that an older file lacks count as not measured.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, is not such a report, has another [`SCHEMA`], or a row without a time.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::io(path, &e))?;
        let foreign = |what: &str| Error::file(path, format!("no report of gpubench run: {what}"));
        let value: Value = serde_json::from_slice(&text).map_err(|e| foreign(&format!("no JSON: {e}")))?;
        if !(value["peaks"].is_object() && value["rows"].is_array() && value["adapter"].is_object()) {
            return Err(foreign("peaks, rows or adapter are missing"));
        }
        match value["schema"].as_u64() {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => {
                let message =
                    format!("schema {schema}, but this gpubench reads schema {SCHEMA}: measure again with it");
                return Err(Error::file(path, message));
            }
            None => return Err(foreign("schema is no number")),
        }
        let mut report: Self = serde_json::from_value(value).map_err(|e| foreign(&e.to_string()))?;
        for row in &mut report.rows {
            let least = row.ms_median.min(row.ms_p10).min(row.ms_p90);
            if !(least > 0.0 && row.cpu_ms >= 0.0) {
                return Err(foreign(&format!("{} {} has no time", row.name, row.shape)));
            }
            // The file has the rates at the median.
            let amount = |rate: f64| (rate * row.ms_median * 1e6).round() as u64;
            (row.flops, row.bytes) = (amount(row.gflops), amount(row.gbps));
        }
        Ok(report)
    }

    /// Reads several reports.
    ///
    /// # Errors
    /// As [`BenchReport::read`].
    pub(super) fn read_all(paths: &[impl AsRef<Path>]) -> Result<Vec<Self>> {
        paths.iter().map(|path| Self::read(path.as_ref())).collect()
    }
}
