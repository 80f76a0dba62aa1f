//! What it takes to compile kernels: from an op's call to its first result, with nothing kept and with everything kept.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Case, Parts, noise, worst};
use crate::ops::attention::{Attention, attention};
use crate::ops::conv::{Conv2d, conv2d};
use crate::ops::matmul::matmul;
use crate::ops::norm::layer_norm;
use crate::ops::softmax::softmax;
use crate::ops::{Act, elementwise};
use crate::runtime::{Runtime, RuntimeOptions, Tune};
use crate::tensor::{DType, Offsets, Tensor};
use crate::{DeviceChoice, Error, Result};

/// Ops of a run, each with a kernel of its own.
pub(super) const N_COMPILED: u32 = 6;

/// A folder for a pipeline cache, gone with its last user.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind lies where the system clears up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Six ops on small inputs, each working on the result of the one before.
struct Ops {
    a: Tensor,
    b: Tensor,
    w: Tensor,
    offsets: Offsets,
}

impl Ops {
    fn new(runtime: &Runtime) -> Result<Self> {
        let of = |shape: &[usize], seed| Ok::<_, Error>(noise(runtime, shape, seed)?.0);
        Ok(Self {
            a: of(&[64, 64], 1)?,
            b: of(&[64, 64], 2)?,
            w: of(&[3, 3, 16, 16], 3)?,
            offsets: Offsets::equal(runtime, 1, 64)?,
        })
    }

    /// To `[64, 4, 16]`.
    fn run(&self) -> Result<Tensor> {
        let x = elementwise::add(&self.a, &self.b)?;
        let x = layer_norm(&softmax(&matmul(&x, &self.b)?)?, None, None, 1e-5)?.reshape(&[1, 16, 16, 16])?;
        let same = Conv2d { padding: [1, 1], ..Conv2d::default() };
        let x = conv2d(&x, &self.w, None, &same, Act::None)?.reshape(&[64, 4, 16])?;
        attention(&x, &x, &x, &self.offsets, &Attention::default())
    }
}

/// A number that no earlier compilation was salted with, neither here nor in what a driver has kept.
fn fresh() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let words = crate::philox::philox4x32([nanos as u32, (nanos >> 32) as u32, std::process::id(), count], [0; 2]);
    words[0]
}

/// The same ops, compiled for each run: from text that no driver has seen (`cold`), and from text that driver and
/// pipeline cache have seen before (`warm`).
///
/// A device of its own, with its pipeline cache in a temporary folder, keeps the user's cache as it is.
pub(super) fn cases(runtime: &Runtime) -> [Case; 2] {
    [false, true].map(|warm| {
        let runtime = runtime.clone();
        let make = move || {
            let profile = runtime.profile();
            let choice: DeviceChoice = format!("{}:{}", profile.backend, profile.name).parse().unwrap_or_default();
            let folder = Folder(std::env::temp_dir().join(format!("leanvision-{}-{}", std::process::id(), fresh())));
            let options = RuntimeOptions {
                cache_folder: Some(folder.0.clone()),
                tune: Tune::Off,
                pipeline_cache: true,
                profile: false,
                ..runtime.options().clone()
            };
            // A second device that cannot be had says nothing about the kernels.
            let own = Runtime::with_options(&choice, options).map_err(|error| Error::Feature {
                what: "compile times".into(),
                feature: format!("a second device ({error})"),
                adapter: profile.name.clone(),
            })?;
            let (want, ops) = (Ops::new(&runtime)?.run()?.to_vec::<f32>()?, Ops::new(&own)?);
            let kept = fresh();
            if warm {
                own.forget_pipelines(kept);
                ops.run()?.runtime().sync()?;
            }
            let run = move || {
                // Held here, so that it lives as long as the device.
                let _ = &folder;
                own.forget_pipelines(if warm { kept } else { fresh() });
                let out = ops.run()?;
                own.sync()?;
                Ok(out)
            };
            let check = move |out: &Tensor| {
                let got = out.to_vec::<f32>()?;
                Ok(worst(got.iter().zip(&want).map(|(g, w)| f64::from(g - w))))
            };
            Ok(Parts::new(run, check))
        };
        Case::deferred("micro/compile", format!("{N_COMPILED} ops"), make)
            .dtype(DType::U32)
            .variant(if warm { "warm" } else { "cold" })
            .tolerance(1e-5)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilation_leaves_nothing_behind_and_cold_is_not_warm() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let ours = format!("leanvision-{}-", std::process::id());
        let folders = || {
            let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&ours)).count()
        };
        let times = cases(&runtime).map(|case| {
            assert!(case.is_deferred());
            case.verify().unwrap();
            assert!(folders() <= 1);
            // The least of some runs, as others use the machine.
            (0..3).map(|_| case.first().unwrap().1).fold(f64::INFINITY, f64::min)
        });
        assert_eq!(folders(), 0);
        eprintln!("cold {:.1} ms, warm {:.1} ms", times[0], times[1]);
        assert_ne!(fresh(), fresh());
    }
}
