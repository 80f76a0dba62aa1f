//! Self-supervised training: what it takes and says.

use crate::support::{device_choice, options, runtime};
use leanvision::Runtime;
use leanvision::methods::ssl::{Method, PretrainConfig, SharedFlags, SslRun};
use leanvision::methods::training::TrainFlags;
use leanvision::report::{CommonFlags, Run};

fn config(method: Method, bank: Option<usize>) -> PretrainConfig {
    PretrainConfig {
        method: Some(method),
        head_hidden: Some(512),
        head_out: Some(128),
        shared: SharedFlags {
            arch: Some("resnet10".into()),
            width: Some(0.25),
            images: Some(512),
            test_images: Some(20),
            bank,
            train: TrainFlags { steps: Some(3), batch: Some(128), checkpoint_every: u64::MAX, ..TrainFlags::default() },
            ..SharedFlags::default()
        },
        ..PretrainConfig::default()
    }
}

#[test]
fn pretraining_takes_what_it_says() {
    if runtime().is_none() || crate::support::short() {
        return;
    }
    // A guarded runtime never uses a block twice, so a plan holds all of them.
    let mut options = options();
    options.guard = false;
    let runtime = Runtime::with_options(&device_choice(), options).unwrap();
    let common = CommonFlags::default();
    for (method, bank) in [(Method::Byol, None), (Method::Msf, Some(2048)), (Method::Cmsf2q, Some(2048))] {
        let run = SslRun::pretrain(&config(method, bank), &common).unwrap();
        let report = run.run(&runtime, &Run::check(&common).unwrap(), true).unwrap();
        let ratio = report.outcome.peak_device_bytes as f64 / run.memory_bytes().unwrap() as f64;
        // Size classes and small tensors are what is left.
        assert!((0.95..1.05).contains(&ratio), "{method:?}: {ratio} of what it says");
    }
}
