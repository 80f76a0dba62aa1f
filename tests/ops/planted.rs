//! Faults planted in every kernel of the registry, one at a time, and found by the check that is made for them.

#[path = "planted/workload.rs"]
mod workload;

use std::collections::BTreeSet;
use workload::{launches, name};

#[test]
fn every_kernel_is_launched() {
    let launched: BTreeSet<String> = launches().iter().map(|launch| name(&launch.kernel)).collect();
    let all: BTreeSet<String> = leanvision::kernels().into_iter().map(name).collect();
    let missing: Vec<_> = all.difference(&launched).collect();
    assert!(missing.is_empty(), "{} kernels are never launched\n{missing:#?}", missing.len());
    eprintln!("{} launches of {} kernels", launches().len(), launched.len());
}
