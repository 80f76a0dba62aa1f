//! A suite's report as tables and a page.

use super::{BenchReport, By, Left, Peaks, Row};
use crate::report::{Bars, Page, Table, number};

impl Peaks {
    /// Names, values and units, 0 for what was not measured; by CPU time the two that are known by it.
    pub(super) fn figures(&self, by: By) -> Vec<(&'static str, f64, &'static str)> {
        if by == By::Cpu {
            return vec![
                ("f32 multiply-add", self.fma_gflop_per_cpu_s, "GFLOP per CPU s"),
                ("fastest stream of memory", self.memory_gb_per_cpu_s, "GB per CPU s"),
            ];
        }
        vec![
            ("f32 multiply-add", self.fma_gflops, "GFLOP/s"),
            ("f16 multiply-add", self.fma_f16_gflops.unwrap_or(0.0), "GFLOP/s"),
            ("u32 multiply and add", self.integer_gops, "Gop/s"),
            ("dot product of 4 bytes", self.dot4_gops, "Gop/s"),
            ("atomic addition", self.atomics_gops, "Gop/s"),
            ("copy kernel", self.copy_gbps, "GB/s"),
            ("copy command", self.copy_command_gbps, "GB/s"),
            ("read", self.read_gbps, "GB/s"),
            ("write", self.write_gbps, "GB/s"),
            ("random words", self.gather_gbps, "GB/s"),
            ("upload", self.upload_gbps, "GB/s"),
            ("read-back", self.read_back_gbps, "GB/s"),
            ("dispatch", self.dispatch_us, "µs"),
            ("dependent dispatch", self.dispatch_chain_us, "µs"),
            ("submit and wait", self.submit_us, "µs"),
            ("new kernel to first result", self.compile_cold_ms, "ms"),
            ("known kernel to first result", self.compile_warm_ms, "ms"),
        ]
    }

    /// What they are called and come to, in a reader's words; without those that were not measured.
    pub(super) fn list(&self) -> Vec<(&'static str, String)> {
        let measured = self.figures(By::Wall).into_iter().filter(|(_, value, _)| *value > 0.0);
        measured.map(|(name, value, unit)| (name, format!("{} {unit}", number(value)))).collect()
    }
}

impl BenchReport {
    /// The rows as a table; `wide` adds the columns that only a page has room for.
    #[must_use]
    pub fn table(&self, wide: bool) -> Table {
        let mut heads = vec!["name", "shape", "type", "variant", ">ms", ">GFLOP/s", ">GB/s", ">peak", ">error"];
        if wide {
            heads.extend([">p10 ms", ">p90 ms", ">first ms", ">CPU ms", ">runs", ">drift"]);
        }
        let counts = self.rows.iter().any(|row| row.item.is_some());
        if counts {
            heads.push(">per second");
        }
        let mut table = Table::new(&heads);
        let rate = |v: f64| if v > 0.0 { number(v) } else { String::new() };
        for row in &self.rows {
            let mut cells = vec![
                row.name.clone(),
                row.shape.clone(),
                row.dtype.to_string(),
                row.variant.clone(),
                number(row.ms_median),
                rate(row.gflops),
                rate(row.gbps),
                row.share_of_peak.map(percent).unwrap_or_default(),
                if row.max_error > 0.0 { format!("{:.0e}", row.max_error) } else { "0".into() },
            ];
            if wide {
                cells.extend([row.ms_p10, row.ms_p90, row.ms_first, row.cpu_ms].map(number));
                cells.push(row.runs.to_string());
                cells.push(row.drift.map(|drift| format!("{drift:.2}")).unwrap_or_default());
            }
            if let (Some(per_s), Some(item)) = (row.items_per_s, &row.item) {
                cells.push(format!("{} {item}", number(per_s)));
            }
            table.row(cells);
        }
        table
    }

    /// Whole methods: their speed beside the quality that they must reach. `None` without such rows.
    #[must_use]
    pub fn methods_table(&self) -> Option<Table> {
        let mut table = Table::new(&["method", "network", ">per second", "quality", ">reached", ">at most"]);
        let with_quality = || self.rows.iter().filter_map(|row| Some((row, row.quality.as_ref()?)));
        for (row, quality) in with_quality() {
            let rate = row.items_per_s.map(|rate| format!("{} {}", number(rate), row.item.as_deref().unwrap_or("")));
            let variant = if row.variant == "auto" { String::new() } else { format!(", {}", row.variant) };
            table.row([
                format!("{}{variant}", row.name),
                row.shape.clone(),
                rate.unwrap_or_default(),
                quality.what.clone(),
                figure(quality.value),
                figure(quality.bound),
            ]);
        }
        with_quality().next().map(|_| table)
    }

    /// The peaks as a table.
    #[must_use]
    pub fn peaks_table(&self) -> Table {
        let mut table = Table::new(&["measured", ">at most"]);
        self.peaks.list().into_iter().for_each(|(name, value)| table.row([name.to_string(), value]));
        table
    }

    /// The report as a page that stands alone.
    #[must_use]
    pub fn page(&self) -> Page {
        let mut page = Page::new("gpubench", &self.adapter.to_string());
        self.add_to(&mut page, None);
        page
    }

    /// Adds what is known of the adapter and the run, from `file` if that is given, the roofline, bars by family, and every row.
    pub(super) fn add_to(&self, page: &mut Page, file: Option<String>) {
        let limits = &self.adapter.limits;
        let subgroups = match (self.adapter.subgroup_min, self.adapter.subgroup_max) {
            (0, _) => "none".to_string(),
            (min, max) if min == max => min.to_string(),
            (min, max) => format!("{min} to {max}"),
        };
        let features = &self.adapter.features;
        let named = [(features.f16, "f16"), (features.immediates, "immediates"), (features.timestamps, "timestamps")];
        let named: Vec<&str> = named.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
        page.facts(
            file.map(|file| ("file", file))
                .into_iter()
                .chain([
                    (
                        "adapter",
                        format!("{} ({}, vendor {:#06x})", self.adapter.name, self.adapter.kind, self.adapter.vendor),
                    ),
                    ("driver", format!("{} {}", self.adapter.driver, self.adapter.driver_info)),
                    ("back end", self.adapter.backend.to_string()),
                    ("subgroups", subgroups),
                    ("features", if named.is_empty() { "none".into() } else { named.join(", ") }),
                    (
                        "limits",
                        format!(
                            "{} a tensor, {} workgroup memory, {} threads a workgroup, {} storage buffers",
                            crate::report::bytes(limits.binding_bytes),
                            crate::report::bytes(limits.workgroup_bytes.into()),
                            limits.workgroup_threads,
                            limits.storage_buffers
                        ),
                    ),
                    ("shaders", format!("{} modules", self.conditions.modules)),
                    ("host", format!("{}, {} threads", self.conditions.system, self.conditions.threads)),
                    (
                        "run",
                        format!(
                            "{}, suite {}, leanvision {}, {} s",
                            self.date,
                            self.suite,
                            self.version,
                            number(self.seconds)
                        ),
                    ),
                ])
                .chain(self.clocks.map(|clocks| ("clocks", clocks.to_string()))),
        );
        if let Some(message) = &self.lost {
            page.text(&format!("The device was lost, and the rows after that were not run: {message}"));
        }
        page.subheading("What the adapter can do at most");
        page.table(&self.peaks_table());
        page.subheading("Roofline");
        page.text(&format!(
            "Each dot is a row, over the operations it does for each byte that must move, by {}. The line is what memory and \
             multiply-adds allow at most; the closer a dot comes to it, the less is left to gain. Dots above it find their \
             data in a cache.",
            By::of(&self.adapter)
        ));
        page.roofline(&self.roofline());
        self.add_bars(page);
        if let Some(table) = self.methods_table() {
            page.subheading("Whole methods");
            page.table(&table);
        }
        page.fold(&format!("All {} rows as a table", self.rows.len()), |page| page.table(&self.table(true)));
        let list = |page: &mut Page, lefts: &[Left]| page.list(lefts.iter().map(ToString::to_string));
        if !self.wrong.is_empty() {
            page.subheading("Wrong results");
            list(page, &self.wrong);
        }
        if !self.skipped.is_empty() {
            page.fold(&format!("{} rows skipped", self.skipped.len()), |page| list(page, &self.skipped));
        }
    }

    /// Adds a bar for each family, and behind a fold a bar for each row.
    fn add_bars(&self, page: &mut Page) {
        let mut families: Vec<(&str, Vec<(&Row, f64)>)> = Vec::new();
        for row in &self.rows {
            let Some(share) = row.share_of_peak.filter(|share| *share > 0.0) else { continue };
            match families.iter_mut().find(|(family, _)| *family == row.family()) {
                Some((_, rows)) => rows.push((row, share)),
                None => families.push((row.family(), vec![(row, share)])),
            }
        }
        if families.is_empty() {
            return;
        }
        page.subheading("Share of the peak that binds");
        page.text(&format!(
            "The larger of arithmetic by the multiply-add rate and traffic by the fastest stream of memory, by {}: the \
             geometric mean over a family's rows. Rows whose data fits a cache can pass 100 %.",
            self.conditions.share_by
        ));
        let mut means = Bars::new(1.0, percent);
        for (family, rows) in &families {
            let mean = (rows.iter().map(|(_, share)| share.ln()).sum::<f64>() / rows.len() as f64).exp();
            let best = rows.iter().map(|(_, share)| *share).fold(0.0, f64::max);
            let note =
                if rows.len() == 1 { "1 row".into() } else { format!("{} rows, best {}", rows.len(), percent(best)) };
            means.bar(family, mean, &note);
        }
        page.bars(&means);
        page.fold("Every kernel", |page| {
            for (family, rows) in &families {
                page.subheading(family);
                let mut bars = Bars::new(1.0, percent);
                for (row, share) in rows {
                    bars.bar(&row.title(), *share, &format!("{} ms", number(row.ms_median)));
                }
                page.bars(&bars);
            }
        });
    }
}

/// A figure of quality: a share, or the power of ten of an error.
fn figure(value: f64) -> String {
    if value == 0.0 || value >= 1e-3 { number(value) } else { format!("{value:.0e}") }
}

fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    format!("{percent:.*} %", usize::from(percent < 9.95))
}
