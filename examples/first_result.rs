//! Time from the start of a process to its first results, on a cold cache and on a warm one.
//!
//! ```text
//! LEANVISION_CACHE=/tmp/empty LEANVISION_TUNE=auto cargo run --release --example first_result
//! ```

use leanvision::ops::attention::{Attention, attention};
use leanvision::ops::conv::{Conv2d, conv2d};
use leanvision::ops::{Act, matmul, norm, softmax};
use leanvision::tensor::Offsets;
use leanvision::{DeviceChoice, Result, Runtime, Tensor};
use std::io::Write;
use std::time::Instant;

fn tensor(runtime: &Runtime, shape: &[usize]) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    Tensor::from_slice(runtime, &(0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>(), shape)
}

fn main() -> Result<()> {
    let start = Instant::now();
    let mut out = std::io::stdout().lock();
    let mut say = |what: &str| {
        // Nobody reads on: nothing left to say.
        let _ = writeln!(out, "{:>8.0} ms  {what}", start.elapsed().as_secs_f64() * 1e3);
    };
    let runtime = Runtime::new(&DeviceChoice::default())?;
    say(&format!("{}", runtime.profile()));
    let (a, b) = (tensor(&runtime, &[512, 512])?, tensor(&runtime, &[512, 512])?);
    matmul::matmul(&a, &b)?.to_vec::<f32>()?;
    say("a product of 512 x 512");
    let tokens = tensor(&runtime, &[4 * 197, 192])?;
    let normed = norm::layer_norm(&tokens, None, None, 1e-6)?;
    let heads = normed.reshape(&[4 * 197, 3, 64])?;
    attention(&heads, &heads, &heads, &Offsets::equal(&runtime, 4, 197)?, &Attention::default())?.to_vec::<f32>()?;
    softmax::softmax(&normed)?.to_vec::<f32>()?;
    say("layer norm, attention of 4 x 3 x 197 x 64, softmax");
    let (x, w) = (tensor(&runtime, &[4, 32, 32, 64])?, tensor(&runtime, &[3, 3, 64, 64])?);
    conv2d(&x, &w, None, &Conv2d { padding: [1, 1], ..Conv2d::default() }, Act::Relu)?.to_vec::<f32>()?;
    say("a convolution 3 x 3 of 4 x 32 x 32 x 64");
    let tuned = runtime.tuning();
    let faster = tuned.iter().filter(|tuned| tuned.variant != tuned.default).count();
    say(&format!("{} kinds of problems tuned or found, the default beaten in {faster}", tuned.len()));
    Ok(())
}
