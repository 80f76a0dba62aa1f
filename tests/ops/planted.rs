//! Faults planted in every kernel of the registry, one at a time, and found by the check that is made for them.

#[path = "planted/mutate.rs"]
mod mutate;
#[path = "planted/workload.rs"]
mod workload;

use leanvision::runtime::CapturedLaunch;
use leanvision::sim::{Check, Options};
use mutate::{Kind, Site, Subject};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use workload::{launches, name};

#[test]
fn every_kernel_is_launched() {
    let launched: BTreeSet<String> = launches().iter().map(|launch| name(&launch.kernel)).collect();
    let all: BTreeSet<String> = leanvision::kernels().into_iter().map(name).collect();
    let missing: Vec<_> = all.difference(&launched).collect();
    assert!(missing.is_empty(), "{} kernels are never launched\n{missing:#?}", missing.len());
    eprintln!("{} launches of {} kernels", launches().len(), launched.len());
}

#[test]
fn whole_kernels_are_clean() {
    let findings: Vec<String> = launches()
        .par_iter()
        .flat_map_iter(|launch| {
            let subject = Subject::new(&launch.kernel, &launch.types, launch.uniform);
            let (outcome, _) = launch.run(&subject.program(&launch.overrides, None), &runs(launch)[0]).unwrap();
            outcome.findings.into_iter().map(move |finding| format!("{finding}\n{:?} {:?}", launch.grid, launch.overrides))
        })
        .collect();
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
}

/// Subgroup sizes and schedules that a planted fault may show under.
fn runs(launch: &CapturedLaunch) -> Vec<Options> {
    let of_8 = launch.kernel.needs.contains(&leanvision::runtime::Need::SubgroupOf(8));
    let runs: &[(u32, &str)] =
        if of_8 { &[(8, "straight"), (8, "reversed")] } else { &[(32, "straight"), (4, "reversed"), (16, "random:5")] };
    runs.iter()
        .map(|(subgroup_size, schedule)| Options {
            subgroup_size: *subgroup_size,
            schedule: schedule.parse().unwrap(),
            loop_limit: 1 << 14,
            parallel: false,
            ..Options::default()
        })
        .collect()
}

/// Launches of a mutant that are tried at most.
const LAUNCHES: usize = 16;

/// What became of a site.
struct Verdict {
    kernel: String,
    site: Site,
    text: String,
    line: String,
    /// The checks that reported it, in the launch that first did.
    found: BTreeSet<Check>,
    launches: usize,
}

/// Takes every site of a kind out of every kernel in turn and runs its launches until one of `wanted` is reported, or else
/// all of them.
fn verdicts(kind: Kind, wanted: &[Check]) -> Vec<Verdict> {
    let mut kernels: BTreeMap<String, Vec<&CapturedLaunch>> = BTreeMap::new();
    for launch in launches() {
        kernels.entry(launch.kernel.label()).or_default().push(launch);
    }
    let tasks: Vec<(&String, &Vec<&CapturedLaunch>, Site)> = kernels
        .iter()
        .flat_map(|(label, launches)| {
            let first = launches[0];
            let sites = Subject::new(&first.kernel, &first.types, first.uniform).sites(kind);
            sites.into_iter().map(move |site| (label, launches, site))
        })
        .collect();
    tasks
        .into_par_iter()
        .map(|(label, launches, site)| {
            let mut found = BTreeSet::new();
            let mut text = String::new();
            let mut n = 0;
            'search: for launch in spread(launches) {
                n += 1;
                let program =
                    Subject::new(&launch.kernel, &launch.types, launch.uniform).program(&launch.overrides, Some(&site));
                for options in runs(launch) {
                    let (outcome, _) = launch.run(&program, &options).unwrap();
                    for finding in outcome.findings {
                        found.insert(finding.check);
                        text = finding.to_string();
                    }
                    if wanted.iter().any(|check| found.contains(check)) {
                        break 'search;
                    }
                }
            }
            Verdict { kernel: label.clone(), line: line(launches[0], &site), site, text, found, launches: n }
        })
        .collect()
}

fn line(launch: &CapturedLaunch, site: &Site) -> String {
    Subject::new(&launch.kernel, &launch.types, launch.uniform).line(site).to_owned()
}

/// Some of the launches, the shortest first, the longest among them.
fn spread<'a>(launches: &[&'a CapturedLaunch]) -> Vec<&'a CapturedLaunch> {
    let n = launches.len();
    if n <= LAUNCHES { launches.to_vec() } else { (0..LAUNCHES).map(|i| launches[i * (n - 1) / (LAUNCHES - 1)]).collect() }
}

#[test]
fn each_barrier_is_missed() {
    let wanted = [Check::WorkgroupRace, Check::StorageRace];
    let verdicts = verdicts(Kind::Barrier, &wanted);
    let lost: Vec<_> = verdicts.iter().filter(|v| !wanted.iter().any(|check| v.found.contains(check))).collect();
    eprintln!("{} barriers, {} lost", verdicts.len(), lost.len());
    for v in &lost {
        eprintln!("{} {}:{} {:?} {} {}", v.kernel, v.site.place.file, v.site.place.line, v.found, v.launches, v.text);
    }
}

#[test]
fn each_guard_is_missed() {
    for kind in [Kind::Return, Kind::Condition] {
        let verdicts = verdicts(kind, &[Check::OutOfBounds]);
        let lost: Vec<_> = verdicts.iter().filter(|v| !v.found.contains(&Check::OutOfBounds)).collect();
        eprintln!("{} {kind:?}, {} lost", verdicts.len(), lost.len());
        for v in &lost {
            eprintln!("{} {}:{} {:?} {} | {}", v.kernel, v.site.place.file, v.site.place.line, v.found, v.launches, v.line);
        }
    }
}
