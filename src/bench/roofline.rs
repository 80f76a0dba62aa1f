//! A suite's rows under the roof that its adapter's peaks make.

use super::{BenchReport, By, Row};
use crate::report::{Roofline, number};

/// Kinds of work that a roofline tells apart, and the families of each; all other families are the third.
const GROUPS: [(&str, &[&str]); Roofline::MOST] = [
    ("matmul and conv", &["matmul", "conv", "quant"]),
    ("attention", &["attention"]),
    ("other kernels", &[]),
    ("whole methods", &["pipeline"]),
];
const OTHER: usize = 2;

impl Row {
    /// Floating-point operations per byte that must move; `None` where the row does not count both.
    #[must_use]
    pub fn intensity(&self) -> Option<f64> {
        (self.flops > 0 && self.bytes > 0).then(|| self.flops as f64 / self.bytes as f64)
    }

    /// The row in one line: name, shape, type, variant.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {} {} {}", self.name, self.shape, self.dtype, self.variant)
    }
}

impl BenchReport {
    /// The rows that count operations and bytes, under the roof of the peaks; on a software adapter by CPU time.
    #[must_use]
    pub fn roofline(&self) -> Roofline {
        let by = By::of(&self.adapter);
        let (y, stream_unit) = match by {
            By::Wall => ("GFLOP/s", "GB/s"),
            By::Cpu => ("GFLOP per CPU s", "GB per CPU s"),
        };
        let mut chart = Roofline::new("FLOP per byte", y, stream_unit, &GROUPS.map(|(name, _)| name));
        let peaks = &self.peaks;
        let (fma, memory) = match by {
            By::Wall => (peaks.fma_gflops, peaks.memory_gbps),
            By::Cpu => (peaks.fma_gflop_per_cpu_s, peaks.memory_gb_per_cpu_s),
        };
        chart.peak("f32", fma);
        chart.stream("memory", memory);
        for row in self.rows.iter().filter(|row| row.is_micro()) {
            match row.name.as_str() {
                "micro/fma" if row.dtype.is_float() && row.dtype != crate::DType::F32 => {
                    chart.peak(&row.dtype.to_string(), row.gflops_by(by));
                }
                "micro/gather" => chart.stream("random words", row.gbps_by(by)),
                _ => {}
            }
        }
        for row in self.rows.iter().filter(|row| !row.is_micro()) {
            let Some(intensity) = row.intensity() else { continue };
            let group = GROUPS.iter().position(|(_, families)| families.contains(&row.family())).unwrap_or(OTHER);
            let share = row.share_of_peak.map(|share| format!(", {:.0} % of the peak", 100.0 * share));
            let title = format!(
                "{}: {} {y}, {} {stream_unit}, {} FLOP per byte, {} ms{}",
                row.title(),
                number(row.gflops_by(by)),
                number(row.gbps_by(by)),
                number(intensity),
                number(row.ms(by)),
                share.unwrap_or_default()
            );
            chart.point(group, intensity, row.gflops_by(by), &title);
        }
        chart
    }
}
