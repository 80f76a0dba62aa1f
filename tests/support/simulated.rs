//! Simulated devices: the one that `LEANVISION_SIM` names, and those that every row also runs on.

use super::TestRuntime;
use leanvision::Runtime;
use leanvision::runtime::SimulatedDevice;
use leanvision::sim::{Coverage, Options};
use std::sync::{LazyLock, Mutex, PoisonError};

/// The device `SUBGROUP[,SCHEDULE[,KIND[,GROUPS]]]`, such as `32,reversed,discrete,300`: GROUPS is the number of workgroups
/// from which on a grid is folded.
pub fn device(text: &str) -> SimulatedDevice {
    let mut parts = text.split(',');
    let subgroup_size = parts.next().and_then(|size| size.parse().ok());
    let subgroup_size =
        subgroup_size.unwrap_or_else(|| panic!("'{text}': expected SUBGROUP[,SCHEDULE[,KIND[,GROUPS]]]"));
    let schedule = parts.next().map(|name| name.parse().unwrap_or_else(|error| panic!("'{text}': {error}")));
    let kind = parts.next().unwrap_or("cpu");
    let groups = parts.next().map(|n| n.parse().unwrap_or_else(|error| panic!("'{text}': {error}")));
    let kinds = ["cpu", "discrete", "integrated"].into_iter();
    let kind = kinds.clone().find(|k| *k == kind).unwrap_or_else(|| panic!("'{text}': kinds are {kinds:?}"));
    let options = Options { subgroup_size, schedule: schedule.unwrap_or_default(), ..Options::default() };
    let groups_per_dimension = groups.unwrap_or(SimulatedDevice::default().groups_per_dimension);
    SimulatedDevice { options, kind, groups_per_dimension, ..SimulatedDevice::default() }
}

/// The device that every test runs on in the adapter's place, if `LEANVISION_SIM` names one.
pub fn chosen() -> Option<&'static SimulatedDevice> {
    static CHOSEN: LazyLock<Option<SimulatedDevice>> = LazyLock::new(|| {
        std::env::var("LEANVISION_SIM").ok().filter(|text| !text.is_empty()).map(|text| device(&text))
    });
    CHOSEN.as_ref()
}

/// The devices that the small cases of every row run on, too: subgroups as small, as usual and as large as they come, and
/// the variants of each kind of adapter.
pub fn usual() -> Vec<TestRuntime> {
    // Once is enough: a short run asks another adapter the same.
    let devices = if chosen().is_some() || super::short() {
        &[][..]
    } else {
        &["8,straight,cpu", "32,reversed,discrete", "128,interleaved,integrated"]
    };
    devices.iter().map(|text| runtime(&device(text))).collect()
}

/// A runtime on `device`.
pub fn runtime(device: &SimulatedDevice) -> TestRuntime {
    TestRuntime::idle(Some(device)).unwrap_or_else(|| {
        let runtime = Runtime::simulated(device.clone()).unwrap_or_else(|error| panic!("{error}"));
        TestRuntime { simulated: Some(device.clone()), runtime: Some(runtime) }
    })
}

/// What the simulator found since the last call, if it found anything.
pub fn findings(runtime: &Runtime) -> Option<String> {
    let findings = runtime.take_findings();
    let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| format!("{} findings on {}\n{}", texts.len(), runtime.profile(), texts.join("\n")))
}

/// Adds the shader lines that ran to the folder that `LEANVISION_COVERAGE` names, a file for this
/// process: `gpubench sanitize --coverage` reads it.
pub fn keep_coverage(of: &Coverage) {
    static ALL: Mutex<Option<Coverage>> = Mutex::new(None);
    let Some(folder) = std::env::var_os("LEANVISION_COVERAGE").filter(|folder| !folder.is_empty()) else { return };
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = all.get_or_insert_default();
    let before = (sum.lines(), sum.branches());
    sum.merge(of);
    if before != (sum.lines(), sum.branches()) {
        let file = std::path::Path::new(&folder).join(format!("{}.json", std::process::id()));
        let text = serde_json::to_string(sum).expect("plain data");
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
