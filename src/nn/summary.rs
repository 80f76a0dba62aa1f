//! What a network costs, read off its plan: output shapes, parameters, multiply-adds, memory. Needs no GPU.

use super::param::{ParamId, ParamList};
use super::plan::{Body, Conv, LayerNorm, Linear, Norm, Plan, Pool, Qkv, Residual, Shortcut, Step, VitPlan};
use crate::ops::Act;
use crate::{Error, Result};

/// One layer. Multiply-adds count convolutions, linear layers and the two products of attention; norms, activations,
/// sums and pooling are left out, as is the custom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    /// Published name.
    pub name: String,
    /// What it computes.
    pub op: String,
    /// Output for one image: `[h, w, c]`, `[tokens, width]` or `[n]`.
    pub output: Vec<usize>,
    /// Trained values.
    pub params: u64,
    /// Multiply-adds for one image.
    pub multiply_adds: u64,
}

/// A network's layers and what they add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The layers in order.
    pub rows: Vec<LayerRow>,
    /// Trained values.
    pub params: u64,
    /// Running statistics, stored beside them.
    pub statistics: u64,
    /// Multiply-adds for one image.
    pub multiply_adds: u64,
    /// Bytes of all stored values in f32.
    pub weight_bytes: u64,
    /// Bytes of the activations that live at the same time, at most, in f32 for one image: each layer's input and
    /// output, and the input of a residual block while its branch runs.
    pub activation_bytes: u64,
    /// Bytes of the largest activation, in f32 for one image.
    pub largest_bytes: u64,
}

impl Plan {
    /// Walks the network for one image of `image` pixels `[h, w]`; a language model for one text of `h` tokens.
    ///
    /// # Errors
    /// [`Error::Input`] if the image is too small for a layer, or of another size than a transformer's or a flattened
    /// layer's weights are made for.
    pub fn summary(&self, image: [usize; 2]) -> Result<Summary> {
        let mut walk = Walk { params: &self.params, rows: Vec::new(), peak: 0, largest: size(&image) };
        match &self.body {
            Body::Conv(steps) => {
                let channels = steps.iter().find_map(|s| if let Step::Conv(c) = s { Some(c.n_in) } else { None });
                walk.steps(steps, vec![image[0], image[1], channels.unwrap_or(3)], 0)?;
            }
            Body::Vit(vit) => walk.vit(vit, image)?,
            Body::Text(text) => {
                let cost = text.cost(&self.params, image[0]);
                walk = Walk { rows: cost.rows, peak: cost.peak, largest: cost.largest, ..walk };
            }
        }
        let Walk { rows, peak, largest, .. } = walk;
        Ok(Summary {
            params: self.params.n_trained(),
            statistics: self.params.n_stored() - self.params.n_trained(),
            multiply_adds: rows.iter().map(|r| r.multiply_adds).sum(),
            weight_bytes: 4 * self.params.n_stored(),
            activation_bytes: 4 * peak,
            largest_bytes: 4 * largest,
            rows,
        })
    }
}

struct Walk<'a> {
    params: &'a ParamList,
    rows: Vec<LayerRow>,
    /// Most values alive at once.
    peak: u64,
    /// Most values of one activation.
    largest: u64,
}

/// Number of values of a shape.
fn size(shape: &[usize]) -> u64 {
    shape.iter().map(|&d| d as u64).product()
}

/// Output side of a window over `n` pixels.
fn windows(layer: &str, n: usize, kernel: usize, stride: usize, padding: usize) -> Result<usize> {
    match (n + 2 * padding).checked_sub(kernel) {
        Some(rest) => Ok(rest / stride + 1),
        None => Err(Error::Input(format!("{layer}: an image side of {n} pixels is below the window of {kernel}"))),
    }
}

/// The two image axes of a feature map.
fn image_of(layer: &str, shape: &[usize]) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(shape)
        .map_err(|_| Error::Input(format!("{layer}: needs a feature map [h, w, c], got {shape:?}")))
}

impl Walk<'_> {
    fn trained(&self, ids: impl IntoIterator<Item = ParamId>) -> u64 {
        ids.into_iter().map(|id| &self.params[id]).filter(|p| p.kind.is_trained()).map(|p| p.len() as u64).sum()
    }

    fn norm_params(&self, norm: Option<&Norm>) -> u64 {
        norm.map_or(0, |n| self.trained([n.gain, n.bias]))
    }

    /// Notes a layer that reads `live` values besides those it writes.
    fn row(&mut self, name: &str, op: String, output: &[usize], params: u64, multiply_adds: u64, live: u64) {
        self.peak = self.peak.max(live + size(output));
        self.largest = self.largest.max(size(output));
        self.rows.push(LayerRow { name: name.into(), op, output: output.to_vec(), params, multiply_adds });
    }

    /// Walks `steps` from `shape`; `held` values stay alive besides the steps' own.
    fn steps(&mut self, steps: &[Step], mut shape: Vec<usize>, held: u64) -> Result<Vec<usize>> {
        for step in steps {
            let live = held + size(&shape);
            shape = match step {
                Step::Conv(conv) => self.conv(conv, &shape, live)?,
                Step::Norm(norm) => {
                    let params = self.norm_params(Some(norm));
                    self.row(&norm.name, "batch norm".into(), &shape, params, 0, live);
                    shape
                }
                Step::MaxPool(Pool { kernel, stride, padding }) => {
                    let [h, w, c] = image_of("max pool", &shape)?;
                    let side = |n| windows("max pool", n, *kernel, *stride, *padding);
                    let output = vec![side(h)?, side(w)?, c];
                    self.row("", format!("max pool {kernel}x{kernel} /{stride}"), &output, 0, 0, live);
                    output
                }
                Step::GlobalAvgPool => {
                    let output = vec![shape[shape.len() - 1]];
                    self.row("", "global mean".into(), &output, 0, 0, live);
                    output
                }
                Step::Flatten => vec![shape.iter().product()],
                Step::Linear(linear) => self.linear(linear, &shape, live)?,
                Step::Residual(residual) => self.residual(residual, &shape, held)?,
            };
        }
        Ok(shape)
    }

    fn conv(&mut self, conv: &Conv, shape: &[usize], live: u64) -> Result<Vec<usize>> {
        let [h, w, _] = image_of(&conv.name, shape)?;
        let Conv { kernel, stride, padding, groups, .. } = *conv;
        let side = |n| windows(&conv.name, n, kernel, stride, padding);
        let output = vec![side(h)?, side(w)?, conv.n_out];
        let params = self.trained([conv.weight].into_iter().chain(conv.bias)) + self.norm_params(conv.norm.as_ref());
        let multiply_adds = size(&output) * (conv.n_in / groups * kernel * kernel) as u64;
        let mut op = format!("conv {kernel}x{kernel}");
        if stride > 1 {
            op += &format!(" /{stride}");
        }
        if groups > 1 {
            op += if groups == conv.n_in { ", depthwise" } else { ", grouped" };
        }
        op += if conv.norm.is_some() { ", batch norm" } else { "" };
        self.row(&conv.name, op + &act_name(conv.act), &output, params, multiply_adds, live);
        Ok(output)
    }

    fn linear(&mut self, linear: &Linear, shape: &[usize], live: u64) -> Result<Vec<usize>> {
        if shape != [linear.n_in] {
            return Err(Error::Input(format!(
                "{}: made for {} inputs, an image of this size gives {shape:?}",
                linear.name, linear.n_in
            )));
        }
        let output = vec![linear.n_out];
        let params = self.linear_params(linear) + self.norm_params(linear.norm.as_ref());
        let op = format!("linear{}{}", if linear.norm.is_some() { ", batch norm" } else { "" }, act_name(linear.act));
        self.row(&linear.name, op, &output, params, (linear.n_in * linear.n_out) as u64, live);
        Ok(output)
    }

    fn linear_params(&self, linear: &Linear) -> u64 {
        self.trained([linear.weight].into_iter().chain(linear.bias))
    }

    fn residual(&mut self, residual: &Residual, shape: &[usize], held: u64) -> Result<Vec<usize>> {
        let Some((first, rest)) = residual.body.split_first() else { return Ok(shape.to_vec()) };
        let input = size(shape);
        // The first step reads the block's own input, which is there once.
        let middle = self.steps(std::slice::from_ref(first), shape.to_vec(), held)?;
        let output = self.steps(rest, middle, held + input)?;
        let branch = held + input + size(&output);
        let carried = match &residual.shortcut {
            Shortcut::Identity => 0,
            Shortcut::Pad { .. } => size(&output),
            Shortcut::Project(conv) => size(&self.conv(conv, shape, branch)?),
        };
        self.peak = self.peak.max(branch + carried + size(&output));
        Ok(output)
    }

    fn vit(&mut self, vit: &VitPlan, image: [usize; 2]) -> Result<()> {
        let patches =
            self.conv(&vit.patch, &[image[0], image[1], vit.patch.n_in], size(&image) * vit.patch.n_in as u64)?;
        let (tokens, width) = (self.params[vit.position].shape[1], self.params[vit.position].shape[2]);
        let here = patches[0] * patches[1] + usize::from(vit.class_token.is_some());
        if here != tokens {
            let [h, w] = image;
            return Err(Error::Input(format!(
                "an image of {h}x{w} pixels gives {here} tokens, the weights have {tokens}"
            )));
        }
        let (shape, n) = ([tokens, width], (tokens * width) as u64);
        let params = self.trained([vit.position].into_iter().chain(vit.class_token));
        self.row("", "class token and positions".into(), &shape, params, 0, n);
        for block in &vit.blocks {
            let layers = match &block.qkv {
                Qkv::Packed(layer) => std::slice::from_ref(layer),
                Qkv::Separate(layers) => layers.as_slice(),
            };
            let attention: u64 = layers.iter().chain([&block.proj]).map(|l| self.linear_params(l)).sum();
            let params = attention + self.layer_norm_params(&block.norm1);
            // q, k, v and proj: 4 width^2 a token; scores and their product with v: 2 tokens width a token.
            let products = (tokens * (4 * width * width + 2 * tokens * width)) as u64;
            let op = format!("attention, {} heads, layer norm", vit.heads);
            // The block's input and q, k, v while the heads' output is written.
            self.row(&format!("{}.attention", block.name), op, &shape, params, products, 4 * n);
            let (fc1, fc2) = (&block.fc1, &block.fc2);
            let params = self.linear_params(fc1) + self.linear_params(fc2) + self.layer_norm_params(&block.norm2);
            let hidden = (tokens * fc1.n_out) as u64;
            let packed = if let Qkv::Packed(_) = &block.qkv { 3 * n } else { n };
            self.largest = self.largest.max(hidden).max(packed);
            let op = format!("mlp {}{}, layer norm", fc1.n_out, act_name(fc1.act));
            // The sum's other side, the hidden values and the result.
            self.row(&format!("{}.mlp", block.name), op, &shape, params, 2 * hidden * width as u64, n + hidden);
        }
        if let Some(norm) = &vit.norm {
            let params = self.layer_norm_params(norm);
            self.row(&norm.name, "layer norm".into(), &shape, params, 0, n);
        }
        vit.head.as_ref().map_or(Ok(()), |head| self.linear(head, &[width], n).map(|_| ()))
    }

    fn layer_norm_params(&self, norm: &LayerNorm) -> u64 {
        self.trained([norm.gain, norm.bias])
    }
}

fn act_name(act: Act) -> String {
    if act == Act::None { String::new() } else { format!(", {act:?}").to_lowercase() }
}
