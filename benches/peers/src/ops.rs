//! Single operations, forward.

use crate::contest::{Contest, Row};
use crate::sides::{burn, candle, ours, to_burn, to_candle};
use anyhow::Result;
use burn::tensor::activation::softmax;
use burn::tensor::module::{attention, conv2d, layer_norm};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor as BurnTensor};
use candle_nn::attention::{AttnMask, flash_attn};
use candle_nn::ops::softmax_last_dim;
use leanvision::bench::noise;
use leanvision::ops::{self, Act};
use leanvision::tensor::Offsets;
use leanvision::{Runtime, Tensor};

/// What the contests of single operations need.
struct Ops<'a> {
    runtime: &'a Runtime,
    device: &'a Device,
}

/// Runs every contest whose operation and shape contain `only`, printing a line each.
pub(crate) fn run(runtime: &Runtime, device: &Device, only: &str) -> Result<Vec<Row>> {
    let ops = Ops { runtime, device };
    // Made one after the other, as all inputs at once would fill the device.
    type Make<'a> = Box<dyn Fn() -> Result<Contest> + 'a>;
    let contests: [(&str, Make); 15] = [
        ("matmul 512", Box::new(|| ops.matmul("512", [1, 512, 512, 512], Some(1.3)))),
        ("matmul 1024", Box::new(|| ops.matmul("1024", [1, 1024, 1024, 1024], Some(1.3)))),
        ("matmul 4 x 197x192x768", Box::new(|| ops.matmul("4 x 197x192x768", [4, 197, 192, 768], Some(1.3)))),
        // The same as one matrix of all rows, as a linear layer may see it.
        ("matmul 788x192x768", Box::new(|| ops.matmul("788x192x768", [1, 788, 192, 768], None))),
        ("matmul 4 x 197x768x192", Box::new(|| ops.matmul("4 x 197x768x192", [4, 197, 768, 192], None))),
        ("conv channels first", Box::new(|| ops.conv(false))),
        ("conv channels last", Box::new(|| ops.conv(true))),
        ("attention", Box::new(|| ops.attention(true))),
        ("attention, candle unfused", Box::new(|| ops.attention(false))),
        ("softmax 4096x1024", Box::new(|| ops.softmax("4096x1024", [4096, 1024], Some(3.0)))),
        ("softmax 2364x197", Box::new(|| ops.softmax("2364x197", [2364, 197], None))),
        ("layer norm 4096x768", Box::new(|| ops.layer_norm("4096x768", [4096, 768], Some(3.0)))),
        ("layer norm 788x192", Box::new(|| ops.layer_norm("788x192", [788, 192], None))),
        ("add 4 Mi", Box::new(|| ops.add("4 Mi", 1 << 22))),
        ("add 16 Mi", Box::new(|| ops.add("16 Mi", 1 << 24))),
    ];
    println!("{}", Row::HEAD);
    let mut rows = Vec::new();
    for (_, make) in contests.iter().filter(|(name, _)| name.contains(only)) {
        let row = make()?.run()?;
        println!("{row}");
        rows.push(row);
    }
    Ok(rows)
}

impl Ops<'_> {
    /// Random numbers of a shape, for us and, with its axes in another order, for burn.
    fn pair<const D: usize>(&self, shape: [usize; D], seed: u64, axes: [usize; D]) -> Result<(Tensor, BurnTensor<D>)> {
        let (x, _) = noise(self.runtime, &shape, seed)?;
        let theirs = to_burn(self.device, &x, axes)?;
        Ok((x, theirs))
    }

    fn matmul(&self, shape: &'static str, [batch, m, k, n]: [usize; 4], target: Option<f64>) -> Result<Contest> {
        let (a, their_a) = self.pair([batch, m, k], 1, [0, 1, 2])?;
        let (b, their_b) = self.pair([1, k, n], 2, [0, 1, 2])?;
        let b = b.reshape(&[k, n])?;
        let (candle_a, candle_b) = (to_candle(&a, &[0, 1, 2])?, to_candle(&b, &[0, 1])?);
        Ok(Contest {
            op: "matmul",
            shape,
            work: (2 * batch * m * k * n) as f64,
            unit: "GFLOP",
            // Sums of up to 1024 products below 1: a few hundred roundings of numbers of about 20.
            tolerance: 1e-4,
            target,
            learns: false,
            ours: ours(self.runtime, move || ops::matmul::matmul(&a, &b)),
            burn: burn(self.device, [0, 1, 2], move || their_a.clone().matmul(their_b.clone())),
            candle: candle(&[0, 1, 2], move || candle_a.broadcast_matmul(&candle_b)),
        })
    }

    /// A 3 x 3 convolution of 64 images 16x32x32 to 32 channels.
    ///
    /// `channels_last` gives burn the memory order that its own convolutions leave behind, which spares it a copy.
    fn conv(&self, channels_last: bool) -> Result<Contest> {
        let (n, side, ci, co) = (64, 32, 16, 32);
        let (x, their_x) = if channels_last {
            let (x, theirs) = self.pair([n, side, side, ci], 3, [0, 1, 2, 3])?;
            (x, theirs.permute([0, 3, 1, 2]))
        } else {
            self.pair([n, side, side, ci], 3, [0, 3, 1, 2])?
        };
        let (w, their_w) = self.pair([3, 3, ci, co], 4, [3, 2, 0, 1])?;
        // candle takes channels first only.
        let (candle_x, candle_w) = (to_candle(&x, &[0, 3, 1, 2])?, to_candle(&w, &[3, 2, 0, 1])?);
        let candle = candle(&[0, 2, 3, 1], move || candle_x.conv2d(&candle_w, 1, 1, 1, 1)).filter(|_| !channels_last);
        let same = ops::conv::Conv2d { padding: [1, 1], ..Default::default() };
        Ok(Contest {
            op: "conv 3x3",
            shape: if channels_last { "64 x 16x32x32 to 32, NHWC" } else { "64 x 16x32x32 to 32, NCHW" },
            work: (2 * n * side * side * ci * co * 9) as f64,
            unit: "GFLOP",
            // Sums of 144 products below 1.
            tolerance: 2e-5,
            target: Some(2.0),
            learns: false,
            ours: ours(self.runtime, move || ops::conv::conv2d(&x, &w, None, &same, Act::None)),
            burn: burn(self.device, [0, 2, 3, 1], move || {
                conv2d(their_x.clone(), their_w.clone(), None, ConvOptions::new([1, 1], [1, 1], [1, 1], 1))
            }),
            candle,
        })
    }

    /// `fused` is candle's fused kernel, else two products with a softmax between them.
    fn attention(&self, fused: bool) -> Result<Contest> {
        let (n, tokens, heads, d) = (4, 197, 3, 64);
        let (mut qkv, mut their_qkv, mut candle_qkv) = (Vec::new(), Vec::new(), Vec::new());
        for seed in 5..8 {
            let (x, theirs) = self.pair([n, tokens, heads, d], seed, [0, 2, 1, 3])?;
            let axes = if fused { [0, 1, 2, 3] } else { [0, 2, 1, 3] };
            candle_qkv.push(to_candle(&x, &axes)?);
            qkv.push(x.reshape(&[n * tokens, heads, d])?);
            their_qkv.push(theirs);
        }
        let offsets = Offsets::equal(self.runtime, n, tokens)?;
        let options = ops::attention::Attention::default();
        Ok(Contest {
            op: "attention",
            shape: if fused { "4x3x197x64" } else { "4x3x197x64, candle unfused" },
            work: (4 * n * heads * tokens * tokens * d) as f64,
            unit: "GFLOP",
            // Means of numbers below 1.
            tolerance: 1e-5,
            target: None,
            learns: false,
            ours: ours(self.runtime, move || ops::attention::attention(&qkv[0], &qkv[1], &qkv[2], &offsets, &options)),
            burn: burn(self.device, [0, 2, 1, 3], move || {
                let [q, k, v] = [0, 1, 2].map(|i: usize| their_qkv[i].clone());
                attention(q, k, v, None, None, Default::default())
            }),
            candle: candle(&[0, 2, 1, 3], move || {
                let [q, k, v] = [0, 1, 2].map(|i: usize| &candle_qkv[i]);
                let scale = 1.0 / (d as f64).sqrt();
                if fused {
                    return flash_attn::<f32>(q, k, v, scale as f32, AttnMask::None, None, None);
                }
                let scores = (q.matmul(&k.t()?)? * scale)?;
                softmax_last_dim(&scores)?.matmul(v)
            }),
        })
    }

    fn softmax(&self, shape: &'static str, [rows, n]: [usize; 2], target: Option<f64>) -> Result<Contest> {
        let (x, their_x) = self.pair([rows, n], 8, [0, 1])?;
        let candle_x = to_candle(&x, &[0, 1])?;
        Ok(Contest {
            op: "softmax",
            shape,
            work: (8 * rows * n) as f64,
            unit: "GB",
            // Each number is below 0.02.
            tolerance: 1e-7,
            target,
            learns: false,
            ours: ours(self.runtime, move || ops::softmax::softmax(&x)),
            burn: burn(self.device, [0, 1], move || softmax(their_x.clone(), 1)),
            candle: candle(&[0, 1], move || softmax_last_dim(&candle_x)),
        })
    }

    fn layer_norm(&self, shape: &'static str, [rows, n]: [usize; 2], target: Option<f64>) -> Result<Contest> {
        let (x, their_x) = self.pair([rows, n], 9, [0, 1])?;
        let (gain, their_gain) = self.pair([n], 10, [0])?;
        let (bias, their_bias) = self.pair([n], 11, [0])?;
        let candles = [to_candle(&x, &[0, 1])?, to_candle(&gain, &[0])?, to_candle(&bias, &[0])?];
        Ok(Contest {
            op: "layer norm",
            shape,
            work: (8 * rows * n) as f64,
            unit: "GB",
            tolerance: 1e-5,
            target,
            learns: false,
            ours: ours(self.runtime, move || ops::norm::layer_norm(&x, Some(&gain), Some(&bias), 1e-5)),
            burn: burn(self.device, [0, 1], move || {
                layer_norm(their_x.clone(), their_gain.clone(), Some(their_bias.clone()), 1e-5)
            }),
            candle: candle(&[0, 1], move || {
                let [x, gain, bias] = &candles;
                candle_nn::ops::layer_norm(x, gain, bias, 1e-5)
            }),
        })
    }

    fn add(&self, shape: &'static str, n: usize) -> Result<Contest> {
        let (a, their_a) = self.pair([n], 12, [0])?;
        let (b, their_b) = self.pair([n], 13, [0])?;
        let (candle_a, candle_b) = (to_candle(&a, &[0])?, to_candle(&b, &[0])?);
        Ok(Contest {
            op: "add",
            shape,
            work: (12 * n) as f64,
            unit: "GB",
            tolerance: 0.0,
            target: None,
            learns: false,
            ours: ours(self.runtime, move || ops::elementwise::add(&a, &b)),
            burn: burn(self.device, [0], move || their_a.clone() + their_b.clone()),
            candle: candle(&[0], move || &candle_a + &candle_b),
        })
    }
}
