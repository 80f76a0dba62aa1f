//! What a backward pass needs kept of the forward pass, read off a plan.

use super::half::Precision;
use super::plan::{Body, Conv, Plan, Qkv, Residual, Shortcut, Step, VitPlan};
use crate::ops::Act;
use crate::{Error, Result};

impl Plan {
    /// Bytes of activations that training keeps from the forward to the backward pass, for one image of `image` pixels
    /// `[h, w]`. With `recompute` a block keeps its input, and one block at a time the rest. In f16 the operands of the
    /// largest product stand beside them in f32: gradients of weights are sums over all images, taken in parts.
    ///
    /// # Errors
    /// As [`Plan::summary`].
    pub fn kept_bytes(&self, image: [usize; 2], recompute: bool, precision: Precision) -> Result<u64> {
        self.summary(image)?;
        let mut kept = Kept { recompute, values: 0, largest_block: 0, largest_product: 0 };
        match &self.body {
            Body::Conv(steps) => {
                let channels = steps.iter().find_map(|s| if let Step::Conv(c) = s { Some(c.n_in) } else { None });
                let input = [image[0], image[1], channels.unwrap_or(3)];
                kept.values += size(input);
                kept.steps(steps, input)?;
            }
            Body::Vit(vit) => kept.vit(vit, image),
            Body::Text(text) => {
                let cost = text.cost(&self.params, image[0]);
                let n_blocks = text.blocks.len() as u64;
                kept.largest_product = cost.product;
                kept.values = cost.kept;
                if recompute {
                    kept.values += n_blocks * (image[0] * text.width) as u64;
                    kept.largest_block = cost.kept_block;
                } else {
                    kept.values += n_blocks * cost.kept_block;
                }
            }
        }
        let products = if precision == Precision::F16 { 4 * kept.largest_product } else { 0 };
        Ok(precision.dtype().bytes() as u64 * (kept.values + kept.largest_block) + products)
    }
}

struct Kept {
    recompute: bool,
    values: u64,
    /// Values that only one block at a time keeps.
    largest_block: u64,
    /// Values of both operands of a weight's gradient that [`crate::ops::matmul`] computes.
    largest_product: u64,
}

fn size(shape: [usize; 3]) -> u64 {
    shape.iter().map(|&n| n as u64).product()
}

/// Copies of a result that an activation needs: its argument too, where the result does not fix the derivative.
fn copies(act: Act) -> u64 {
    if act.is_by_result() { 1 } else { 2 }
}

impl Kept {
    fn steps(&mut self, steps: &[Step], mut shape: [usize; 3]) -> Result<[usize; 3]> {
        for step in steps {
            shape = match step {
                Step::Conv(conv) => {
                    let out = output(conv, shape)?;
                    self.point(conv, out);
                    // A norm keeps the convolution's result; what follows keeps the norm's.
                    self.values += size(out) * (copies(conv.act) + u64::from(conv.norm.is_some()));
                    out
                }
                Step::Norm(_) => {
                    self.values += size(shape);
                    shape
                }
                Step::MaxPool(p) => {
                    let side = |n: usize| (n + 2 * p.padding).saturating_sub(p.kernel) / p.stride + 1;
                    let out = [side(shape[0]), side(shape[1]), shape[2]];
                    self.values += size(out);
                    out
                }
                Step::GlobalAvgPool => {
                    self.values += shape[2] as u64;
                    [1, 1, shape[2]]
                }
                Step::Flatten => [1, 1, shape.iter().product()],
                Step::Linear(linear) => {
                    self.product(1, linear.n_in, linear.n_out);
                    self.values += linear.n_out as u64 * (copies(linear.act) + u64::from(linear.norm.is_some()));
                    [1, 1, linear.n_out]
                }
                Step::Residual(residual) => self.residual(residual, shape)?,
            };
        }
        Ok(shape)
    }

    /// `n` rows of a linear layer.
    fn product(&mut self, n: u64, n_in: usize, n_out: usize) {
        self.largest_product = self.largest_product.max(n * (n_in + n_out) as u64);
    }

    /// A convolution that is a product over the pixels of its result.
    fn point(&mut self, conv: &Conv, [h, w, _]: [usize; 3]) {
        if (conv.kernel, conv.padding, conv.groups) == (1, 0, 1) {
            self.product((h * w) as u64, conv.n_in, conv.n_out);
        }
    }

    fn residual(&mut self, residual: &Residual, shape: [usize; 3]) -> Result<[usize; 3]> {
        let before = self.values;
        let out = self.steps(&residual.body, shape)?;
        // The last norm's result goes into the sum, which keeps nothing of it.
        self.values -= size(out);
        if let Shortcut::Project(conv) = &residual.shortcut {
            let out = output(conv, shape)?;
            self.point(conv, out);
            self.values += size(out);
        }
        if self.recompute {
            self.largest_block = self.largest_block.max(self.values - before);
            self.values = before;
        }
        self.values += size(out) * copies(residual.act);
        Ok(out)
    }

    fn vit(&mut self, vit: &VitPlan, image: [usize; 2]) {
        let grid = (image[0] / vit.patch.kernel) * (image[1] / vit.patch.kernel);
        let tokens = (grid + usize::from(vit.class_token.is_some())) as u64;
        let width = vit.patch.n_out as u64;
        self.values += size([image[0], image[1], vit.patch.n_in]) + tokens * width;
        for block in &vit.blocks {
            let hidden = block.fc1.n_out as u64;
            self.product(tokens, block.fc1.n_in, block.fc1.n_out);
            if let Qkv::Packed(qkv) = &block.qkv {
                self.product(tokens, qkv.n_in, qkv.n_out);
            }
            // Behind the input: norm, q, k, v, heads, sum, norm; then the hidden values.
            let inside = tokens * (7 * width + hidden * copies(block.fc1.act));
            if self.recompute {
                self.largest_block = self.largest_block.max(inside);
            } else {
                self.values += inside;
            }
            self.values += tokens * width;
        }
    }
}

fn output(conv: &Conv, [h, w, _]: [usize; 3]) -> Result<[usize; 3]> {
    let side = |n: usize| {
        let rest = (n + 2 * conv.padding).checked_sub(conv.kernel);
        let small = || Error::Input(format!("{}: an image side of {n} pixels is below the window", conv.name));
        Ok(rest.ok_or_else(small)? / conv.stride + 1)
    };
    Ok([side(h)?, side(w)?, conv.n_out])
}

#[cfg(test)]
mod tests {
    use crate::nn::{ModelSpec, Precision};

    #[test]
    fn a_small_residual_network_by_hand() {
        // One block per stage: stem 2 maps; each block 2 for its first layer, 1 for the second, 1 for the sum.
        let plan = ModelSpec::by_name("resnet8").unwrap().plan();
        let maps = [16 * 1024, 32 * 256, 64 * 64];
        let want = 3 * 1024 + 2 * maps[0] + 4 * maps.iter().sum::<u64>() + 64 + 10;
        assert_eq!(plan.kept_bytes([32, 32], false, Precision::F32).unwrap(), 4 * want);
        // The shortcuts are no products, the last layer is.
        assert_eq!(plan.kept_bytes([32, 32], false, Precision::F16).unwrap(), 2 * want + 4 * 74);
        let want = 3 * 1024 + 2 * maps[0] + maps.iter().sum::<u64>() + 64 + 10 + 3 * maps[0];
        assert_eq!(plan.kept_bytes([32, 32], true, Precision::F32).unwrap(), 4 * want);
    }
}
