//! Speed of the kernel simulator on one core: kernels as GPUs get them, without and with checks, by schedule.

use leanvision::runtime::{CapturedLaunch, SimulatedDevice};
use leanvision::sim::{Checks, Options};
use leanvision::{Result, Runtime, Tensor, ops};
use std::io::Write;
use std::time::Instant;

/// The launches of a product, a softmax, a sort and a convolution.
fn launches() -> Result<Vec<CapturedLaunch>> {
    let device = SimulatedDevice { kind: "discrete", capture: true, ..SimulatedDevice::default() };
    let runtime = Runtime::simulated(device)?;
    let noise = |shape: &[usize]| ops::random::uniform(&runtime, shape, -1.0, 1.0, ops::random::Key::new(7, 0, 0));
    let (a, b) = (noise(&[128, 128])?, noise(&[128, 128])?);
    let (x, w) = (noise(&[2, 16, 16, 16])?, noise(&[3, 3, 16, 16])?);
    drop(runtime.take_launches());
    let mut out: Vec<Tensor> = vec![ops::matmul::matmul(&a, &b)?, ops::softmax::softmax(&noise(&[64, 1000])?)?];
    out.push(ops::sort::sort(&noise(&[4096])?, false)?.0);
    out.push(ops::conv::conv2d(&x, &w, None, &ops::conv::Conv2d::default(), ops::Act::None)?);
    drop(out);
    let mut launches = runtime.take_launches();
    // A sort launches the same kernels over and over.
    let mut seen = std::collections::HashSet::new();
    launches.retain(|launch| seen.insert(launch.kernel.label()));
    Ok(launches)
}

fn main() -> Result<()> {
    let line = |text: String| writeln!(std::io::stdout().lock(), "{text}").expect("standard output");
    line(format!("{:<34} {:>10} {:<14} {:>14} {:>14}", "kernel", "M ops", "schedule", "M ops/s", "with checks"));
    for launch in launches()? {
        let program = launch.kernel.program(&launch.types, &launch.overrides, launch.uniform)?;
        for schedule in ["straight", "reversed", "interleaved", "alone"] {
            let rate = |checks: Checks| -> Result<(f64, f64)> {
                let options = Options { checks, schedule: schedule.parse()?, parallel: false, ..Options::default() };
                let mut best = f64::INFINITY;
                let mut operations = 0;
                let start = Instant::now();
                while start.elapsed().as_secs_f64() < 0.3 {
                    let run = Instant::now();
                    operations = launch.run(&program, &options)?.0.operations;
                    best = best.min(run.elapsed().as_secs_f64());
                }
                Ok((operations as f64 / 1e6, operations as f64 / 1e6 / best))
            };
            let ((n, plain), (_, checked)) = (rate(Checks::none())?, rate(Checks::default())?);
            line(format!("{:<34} {n:>10.2} {schedule:<14} {plain:>14.0} {checked:>14.0}", launch.kernel.label()));
        }
    }
    Ok(())
}
