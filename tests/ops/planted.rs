//! Faults planted in every kernel of the registry, one at a time, and found by the check that is made for them.

#[path = "planted/mutate.rs"]
mod mutate;
#[path = "planted/workload.rs"]
mod workload;

use crate::support::simulated;
use leanvision::runtime::{CapturedLaunch, Need, SimulatedDevice};
use leanvision::sim::{Check, Finding, Options, Place, Program};
use leanvision::{Result, Runtime, Tensor};
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
            let whole = Options { loop_limit: 1 << 20, ..runs(launch)[0].clone() };
            let program = subject.program(&launch.overrides, None);
            let (outcome, _) = launch.run(&program, &whole).unwrap();
            simulated::keep_coverage(&program.coverage());
            outcome
                .findings
                .into_iter()
                .map(move |finding| format!("{finding}\n{:?} {:?}", launch.grid, launch.overrides))
        })
        .collect();
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
}

/// Subgroup sizes and schedules that a planted fault may show under.
fn runs(launch: &CapturedLaunch) -> Vec<Options> {
    let of_8 = launch.kernel.needs.contains(&Need::SubgroupOf(8));
    let runs: &[(u32, &str)] =
        if of_8 { &[(8, "straight"), (8, "reversed")] } else { &[(32, "straight"), (4, "reversed"), (16, "random:5")] };
    runs.iter()
        .map(|(subgroup_size, schedule)| Options {
            subgroup_size: *subgroup_size,
            schedule: schedule.parse().unwrap(),
            loop_limit: 1 << 10,
            parallel: false,
            ..Options::default()
        })
        .collect()
}

/// Launches of a mutant that are tried at most; all of them where `LEANVISION_PLANTED` is `full`.
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
                    // What a loop runs into may be more than the simulator takes.
                    let Ok((outcome, _)) = launch.run(&program, &options) else { continue };
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
    if n <= LAUNCHES || std::env::var("LEANVISION_PLANTED").is_ok_and(|value| value == "full") {
        launches.to_vec()
    } else {
        (0..LAUNCHES).map(|i| launches[i * (n - 1) / (LAUNCHES - 1)]).collect()
    }
}

fn list(verdicts: &[&Verdict]) -> String {
    let one = |v: &&Verdict| {
        let Place { file, line } = &v.site.place;
        format!("{}, {file}:{line}, `{}`: {:?} in {} launches {}\n", v.kernel, v.line, v.found, v.launches, v.text)
    };
    verdicts.iter().map(one).collect()
}

#[test]
fn each_barrier_is_missed() {
    let races = [Check::WorkgroupRace, Check::StorageRace];
    let verdicts = verdicts(Kind::Barrier, &races);
    let lost: Vec<_> = verdicts.iter().filter(|v| !races.iter().any(|check| v.found.contains(check))).collect();
    eprintln!("{} barriers", verdicts.len());
    assert!(verdicts.len() > 70 && lost.is_empty(), "{} barriers are not missed\n{}", lost.len(), list(&lost));
}

/// Guards whose absence shows otherwise than out of bounds: the kernel's entry point (or how it starts), a part of the
/// line, what shows (nothing, for those that only save work), and why.
const GUARDS: &[(&str, &str, Option<Check>, &str)] = &[
    ("attention_", "live.", Some(Check::StorageRace), "rows past the last are copies of it"),
    ("attention_tiled_fwd", "if x == 0u", Some(Check::StorageRace), "one of eight invocations stores the row's number"),
    ("attention_lanes_bwd", "< part.n_", Some(Check::StorageRace), "rows past the last are copies of it"),
    ("attention_tiled_bwd_kv", "held.first >= held.n", None, "tiles without rows store nothing"),
    ("norm_vec4_fwd", "row >= p.n_rows", Some(Check::StorageRace), "rows past the last are the last"),
    ("moments_", "here.sample >=", Some(Check::StorageRace), "samples past the last are split as the first are"),
    ("row_sums_", "here.sample >=", Some(Check::StorageRace), "samples past the last are split as the first are"),
    ("collect_fwd", "place.part == NOWHERE", Some(Check::StorageRace), "what has no part goes to the first"),
    ("quant_tiled_fwd", "first_quad >= p.n_quads", None, "columns past the last are not stored anyway"),
    ("quant_tiled_bwd_x", "first_col >= p.n_cols", None, "columns past the last are not stored anyway"),
    ("quant_registers_bwd_x", "if col < p.n_cols", None, "a second four is only stored where there is one"),
    ("quant_row_fwd", "if col < p.n_cols", None, "an invocation has one quad, of those there are"),
    ("quant_dot_fwd", "if col < p.n_cols", None, "an invocation has one quad, of those there are"),
    ("quant_registers_fwd", "if col < p.n_cols", None, "a second quad is only stored where there is one"),
    ("quant_", "if col + j < p.n_cols", Some(Check::StorageRace), "rows lie one behind the other"),
    ("conv_coop_16_fwd", "pixel >= p.n_pixels", None, "pixels past the last are zeros that nobody stores"),
    ("scatter_chunks", "!is_whole", None, "sums of mixed chunks are not read"),
    ("bank_", "max(max(keys.x, keys.y)", None, "elements that are worse than the list are not inserted anyway"),
    ("topk_", "max(max(keys.x, keys.y)", None, "elements that are worse than the list are not inserted anyway"),
    ("softmax_rows_fwd", "q * n % 4u != 0u", Some(Check::StorageRace), "whole vec4 belong to other invocations"),
    (
        "radix_move_groups_fwd",
        "at < n_tile",
        Some(Check::StorageRace),
        "what lies behind the end has the place of another",
    ),
    ("atomics_fwd", "i >= p.n", None, "counts on, in words that exist"),
    ("view_colour_fwd", "(JITTER | GREY)", None, "views whose colours stay are written as they were"),
    ("view_rows_fwd", "& BLUR)", None, "rows of views that are not blurred are not read"),
    ("basis_hadamard_fwd", "unit >= slot", Some(Check::StorageRace), "blocks past a slot's are the next one's"),
    ("basis_spread_fwd", "block >= slot", Some(Check::StorageRace), "blocks past a slot's are the next one's"),
    ("basis_onehot_form_fwd", "e >= slot.len", None, "elements past the last are not stored anyway"),
    ("basis_srht_form_fwd", "e >= slot.len", None, "elements past the last are not stored anyway"),
    ("basis_onehot_project_fwd", "first >= slot.k", None, "coefficients past the last are not stored anyway"),
    ("basis_onehot_project_fwd", "first + j < slot.k", Some(Check::StorageRace), "the next chunk's sums lie behind"),
    ("select_groups_fwd", "is_tie[j]", Some(Check::StorageRace), "ties past the last go where others are put"),
];

#[test]
fn each_guard_is_missed() {
    let mut used = BTreeSet::new();
    let mut report = String::new();
    for (kind, at_least) in [(Kind::Return, 130), (Kind::Condition, 70)] {
        let verdicts = verdicts(kind, &[Check::OutOfBounds]);
        let (outside, others): (Vec<_>, Vec<_>) = verdicts.iter().partition(|v| v.found.contains(&Check::OutOfBounds));
        let listed = |v: &Verdict| {
            let entry = v.kernel.split('/').nth(1).unwrap_or_default();
            GUARDS.iter().position(|(start, part, check, _)| {
                entry.starts_with(start) && v.line.contains(part) && check.is_none_or(|check| v.found.contains(&check))
            })
        };
        used.extend(others.iter().filter_map(|v| listed(v)));
        let lost: Vec<_> = others.iter().copied().filter(|v| listed(v).is_none()).collect();
        eprintln!("{kind:?}: {} out of bounds, {} listed", outside.len(), others.len() - lost.len());
        report += &list(&lost);
        assert!(verdicts.len() > at_least, "{} sites of {kind:?}", verdicts.len());
    }
    assert!(report.is_empty(), "guards that are not missed:\n{report}");
    let unused: Vec<_> = (0..GUARDS.len()).filter(|i| !used.contains(i)).map(|i| GUARDS[i]).collect();
    assert!(unused.is_empty(), "listed, but found out of bounds or gone: {unused:#?}");
}

/// What a program makes of a launch under subgroups of a size: its findings, and the bytes of all bindings.
fn outcome(launch: &CapturedLaunch, program: &Program, subgroup_size: u32) -> (Vec<Finding>, Vec<Vec<u8>>) {
    let (outcome, after) = launch.run(program, &Options { subgroup_size, ..Options::default() }).unwrap();
    (outcome.findings, after.iter().map(|buffer| buffer.read(0, buffer.len())).collect())
}

/// Kernels whose subgroups are told as those of 8 are numbered.
const SUBGROUPS: &[&str] = &["reduce_subgroup_fwd", "norm_subgroup_fwd", "softmax_subgroup_fwd", "loss_subgroup_fwd"];

#[test]
fn kernels_written_for_subgroups_of_8_fail_at_32() {
    for entry in SUBGROUPS {
        let edits = [
            ("lane: u32", "any_lane: u32"),
            ("subgroup: u32", "any_subgroup: u32"),
            ("n_subgroups: u32", "any_number: u32"),
            ("let p = ", "let lane = local % 8u; let subgroup = local / 8u; let n_subgroups = WG_SIZE / 8u; let p = "),
        ];
        let mut fails = false;
        for launch in launches().iter().filter(|launch| launch.kernel.entry == *entry).take(LAUNCHES) {
            let right = Subject::new(&launch.kernel, &launch.types, launch.uniform).program(&launch.overrides, None);
            let after = format!("fn {entry}(");
            let subject = Subject::edited(&launch.kernel, &launch.types, launch.uniform, &after, &edits);
            let program = subject.unwrap().program(&launch.overrides, None);
            let at_8 = outcome(launch, &program, 8);
            assert!(at_8.0.is_empty() && at_8 == outcome(launch, &right, 8), "{entry}: {:?}", at_8.0);
            fails |= outcome(launch, &program, 32) != at_8;
        }
        assert!(fails, "{entry}");
    }
}

#[test]
fn kernels_for_adapters_of_8_fail_at_4_alone() {
    // Their workgroups have 8 invocations, which a larger subgroup holds together: only a smaller one takes them apart.
    let mut fails: BTreeMap<String, bool> = BTreeMap::new();
    for launch in launches().iter().filter(|l| l.kernel.needs.contains(&Need::SubgroupOf(8))) {
        let failed = fails.entry(name(&launch.kernel)).or_default();
        if *failed {
            continue;
        }
        let program = Subject::new(&launch.kernel, &launch.types, launch.uniform).program(&launch.overrides, None);
        assert_eq!(program.workgroup_size(), [8, 1, 1]);
        let at_8 = outcome(launch, &program, 8);
        assert!(at_8.0.is_empty() && at_8 == outcome(launch, &program, 32), "{}", launch.kernel.label());
        *failed = outcome(launch, &program, 4).0.iter().any(|finding| finding.check == Check::SubgroupLane);
    }
    assert!(fails.len() >= 11 && fails.values().all(|failed| *failed), "{fails:#?}");
}

/// Stores whose place another store has filled before, so that it never goes unwritten: a part of the line, and why.
const FILLED: &[(&str, &str)] = &[
    ("sh_reduce[local] = join(", "in place"),
    ("+= 1u;", "counts, set to 0 before"),
    ("= place + 1u;", "counts, set to places before"),
    ("sh_kv[row * stride + col] = attention_v4", "over the keys"),
    ("sh_part[local] = sum;", "over the maxima"),
    ("sh_walked[row * TILE_STRIDE + x] = operand(which", "over what the dot products took"),
    ("= d_scores[r];", "over the weights"),
    ("sh_sums[slice * QUADS + quad] = sums;", "in place"),
    ("sh_means[local] += sh_means", "in place"),
];

#[test]
fn memory_of_a_workgroup_left_as_it_is_shows() {
    let verdicts = verdicts(Kind::SharedStore, &[Check::Unwritten]);
    let (found, others): (Vec<_>, Vec<_>) = verdicts.iter().partition(|v| v.found.contains(&Check::Unwritten));
    let place = |v: &Verdict| FILLED.iter().position(|(part, _)| v.line.contains(part));
    let lost: Vec<_> = others.iter().copied().filter(|v| place(v).is_none()).collect();
    eprintln!("{} stores to workgroup memory, {} where another has stored", verdicts.len(), others.len() - lost.len());
    assert!(found.len() > 50 && lost.is_empty(), "stores that are not missed:\n{}", list(&lost));
    let used: BTreeSet<usize> = others.iter().filter_map(|v| place(v)).collect();
    assert_eq!(used.len(), FILLED.len(), "places listed, but missed or gone: {used:?}");
    let families = |verdicts: &mut dyn Iterator<Item = &Verdict>| -> BTreeSet<String> {
        verdicts.map(|v| v.kernel.split('/').next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(families(&mut found.into_iter()), families(&mut verdicts.iter()));
}

#[test]
fn groups_without_their_number_race() {
    // Every workgroup does the first one's work.
    let edits = [
        ("fn group_id", ("return group.y * n_groups.x + group.x;", "return 0u * group.x;")),
        ("fn thread_id", ("return (group.y * n_groups.x + group.x) * wg_size + local;", "return local;")),
    ];
    let mut raced: BTreeMap<String, bool> = BTreeMap::new();
    // Atomics never race, and what binds nothing has nothing to race for.
    let atomics = ["atomics_fwd", "ring_tally_fwd"];
    let races = |l: &&CapturedLaunch| !l.kernel.binds.is_empty() && !atomics.contains(&l.kernel.entry);
    for launch in launches().iter().filter(|l| l.grid[0] * l.grid[1] > 1).filter(races) {
        let raced = raced.entry(launch.kernel.label()).or_default();
        for (after, edit) in edits {
            if *raced {
                break;
            }
            let subject = Subject::edited(&launch.kernel, &launch.types, launch.uniform, after, &[edit]);
            let program = subject.expect("the file is part of every kernel").program(&launch.overrides, None);
            let Ok((outcome, _)) = launch.run(&program, &runs(launch)[0]) else { continue };
            *raced = outcome.findings.iter().any(|finding| finding.check == Check::StorageRace);
        }
    }
    let calm: Vec<_> = raced.iter().filter(|(_, raced)| !**raced).map(|(kernel, _)| kernel).collect();
    assert!(raced.len() > 120 && calm.is_empty(), "{} of {} do not race: {calm:#?}", calm.len(), raced.len());
}

/// A guard that a whole workgroup passes or not, of a kernel of each family that has barriers.
const UNIFORM: &[(&str, &str, &str)] = &[
    ("attention_tiled_fwd", "if id >= p.n_groups", "if id + local >= p.n_groups"),
    ("attention_tiled_bwd_q", "if id >= p.n_groups", "if id + local >= p.n_groups"),
    ("matmul_tiled_fwd", "if batch >= p.n_batch", "if batch + local >= p.n_batch"),
    ("matmul_coop_16_fwd", "if tile.batch >= p.n_batch", "if tile.batch + local >= p.n_batch"),
    ("matmul_coop_8_fwd", "if tile.batch >= p.n_batch", "if tile.batch + local >= p.n_batch"),
    ("conv_coop_16_fwd", "if pixel >= p.n_pixels", "if pixel + local >= p.n_pixels"),
    ("norm_group_fwd", "if row >= p.n_rows", "if row + local >= p.n_rows"),
    ("join_group_fwd", "if id >= channel", "if id + local >= channel"),
    ("lars_slots_fwd", "if slot >= p.n", "if slot + local >= p.n"),
    ("reduce_group_fwd", "if o >= p.n_out", "if o + local >= p.n_out"),
    ("softmax_group_fwd", "if row >= p.n_rows", "if row + local >= p.n_rows"),
    ("radix_move_groups_fwd", "if unit >= p.n_units", "if unit + local >= p.n_units"),
    ("select_groups_fwd", "if (unit >> p", "if ((unit + local) >> p"),
];

#[test]
fn a_barrier_that_some_do_not_reach_is_divergent() {
    for (entry, from, to) in UNIFORM {
        let found = launches().iter().filter(|launch| launch.kernel.entry == *entry).any(|launch| {
            let after = format!("fn {entry}(");
            let subject = Subject::edited(&launch.kernel, &launch.types, launch.uniform, &after, &[(from, to)]);
            let program = subject.unwrap_or_else(|| panic!("{entry}: no {from}")).program(&launch.overrides, None);
            let findings = launch.run(&program, &runs(launch)[0]).map(|(outcome, _)| outcome.findings);
            findings.is_ok_and(|all| all.iter().any(|finding| finding.check == Check::DivergentBarrier))
        });
        assert!(found, "{entry}");
    }
}

#[test]
fn f32_results_past_f16_overflow() {
    use leanvision::ops::{Act, conv, elementwise, matmul, reduce};
    type Op = fn(&Tensor) -> Result<Tensor>;
    let ops: [(&str, Op); 4] = [
        ("elementwise", |x| elementwise::add(x, x)),
        ("matmul", |x| matmul::matmul(x, x)),
        ("reduce", |x| reduce::sum(x, &[1], false)),
        ("conv", |x| {
            let conv = conv::Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };
            conv::conv2d(
                &x.reshape(&[1, 4, 4, 4])?,
                &x.slice(0, 0..4)?.slice(1, 0..1)?.reshape(&[1, 1, 4, 1])?,
                None,
                &conv,
                Act::None,
            )
        }),
    ];
    for (family, op) in ops {
        for (value, overflows) in [(60_000.0, true), (7.0, false)] {
            let runtime = Runtime::simulated(SimulatedDevice::default()).unwrap();
            let x = Tensor::from_slice(&runtime, &[half::f16::from_f32(value); 64], &[8, 8]).unwrap();
            op(&x).unwrap();
            let findings = runtime.take_findings();
            assert_eq!(findings.iter().any(|f| f.check == Check::F16Overflow), overflows, "{family}: {findings:?}");
        }
    }
}
