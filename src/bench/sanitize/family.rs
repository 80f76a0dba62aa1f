//! Whole families: their ops on small shapes, on simulated devices.

use std::time::Instant;

use super::report::SanitizeReport;
use super::{SanitizeFlags, options, pairs};
use crate::bench::{Case, Left, Level, kernel};
use crate::runtime::{Runtime, SimulatedDevice};
use crate::{Error, Result};

/// Every family.
const ALL: &str = "all";
/// Subgroups that software adapters have; larger ones are a GPU's, which gets other variants of the kernels.
const SOFTWARE: u32 = 8;

pub(super) fn run(flags: &SanitizeFlags, quiet: bool, report: &mut SanitizeReport) -> Result<()> {
    let all = kernel::families();
    let families: Vec<&str> = all.iter().copied().filter(|f| [*f, ALL].contains(&flags.target.as_str())).collect();
    if families.is_empty() {
        let message = format!(
            "no family is called '{}'; there are {} and {ALL}; a file ends in .wgsl",
            flags.target,
            all.join(", ")
        );
        return Err(Error::Input(message));
    }
    for pair in pairs(flags) {
        let kind = if pair.0 <= SOFTWARE { "cpu" } else { "discrete" };
        let device = SimulatedDevice { options: options(flags, pair), kind, ..SimulatedDevice::default() };
        let under = device.to_string();
        let runtime = Runtime::simulated(device)?;
        let start = Instant::now();
        for family in &families {
            match kernel::cases(&runtime, family, Level::Tiny) {
                Ok(cases) => cases.iter().for_each(|case| one(case, &under, report)),
                Err(error) => {
                    let reason = error.to_string();
                    let (name, shape, variant) = ((*family).into(), String::new(), String::new());
                    report.left(&error, Left { name, shape, dtype: None, variant, reason }, &under);
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        report.ran(pair, runtime.simulated_operations(), seconds, runtime.take_findings(), quiet);
    }
    Ok(())
}

/// Runs a case under `under` and files what became of it.
fn one(case: &Case, under: &str, report: &mut SanitizeReport) {
    report.cases += 1;
    let error = match case.first() {
        Ok((error, _)) if case.allows(error) => return,
        Ok((error, _)) => Error::Device(format!("error {error:.1e}, {:.1e} allowed", case.tolerance)),
        Err(error) => error,
    };
    let (name, shape, variant) = (case.name.clone(), case.shape.clone(), case.variant.clone());
    report.left(&error, Left { name, shape, dtype: Some(case.dtype), variant, reason: error.to_string() }, under);
}
