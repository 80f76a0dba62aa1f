//! Optimizer steps in f64, over parameters without padding.

use crate::ops::optim::{Adam, Lars, Sgd};

/// One parameter: its values and moments, and whether it decays.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Values.
    pub w: Vec<f64>,
    /// First moments.
    pub m: Vec<f64>,
    /// Second moments.
    pub v: Vec<f64>,
    /// Whether it decays.
    pub decays: bool,
}

impl Param {
    /// A parameter before its first step.
    #[must_use]
    pub fn new(w: Vec<f64>, decays: bool) -> Self {
        Self { m: vec![0.0; w.len()], v: vec![0.0; w.len()], w, decays }
    }

    /// The gradient `d`, and what weight decay adds to it.
    fn decayed(&self, d: &[f64], decay: f64) -> Vec<f64> {
        let decay = if self.decays { decay } else { 0.0 };
        d.iter().zip(&self.w).map(|(d, w)| d + decay * w).collect()
    }

    /// Stochastic gradient descent from the gradient `d`.
    pub fn sgd(&mut self, d: &[f64], step: &Sgd) {
        let (lr, momentum) = (f64::from(step.lr), f64::from(step.momentum));
        for (i, g) in self.decayed(d, f64::from(step.decay)).into_iter().enumerate() {
            self.m[i] = momentum * self.m[i] + g;
            self.w[i] -= lr * if step.nesterov { g + momentum * self.m[i] } else { self.m[i] };
        }
    }

    /// LARS from the gradient `d`.
    pub fn lars(&mut self, d: &[f64], step: &Lars) {
        let g = self.decayed(d, f64::from(step.decay));
        let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (norm_w, norm_g) = (norm(&self.w), norm(&g));
        let adapts = self.decays && norm_w > 0.0 && norm_g > 0.0;
        let ratio = if adapts { f64::from(step.trust) * norm_w / norm_g } else { 1.0 };
        for (i, g) in g.into_iter().enumerate() {
            self.m[i] = f64::from(step.momentum) * self.m[i] + ratio * g;
            self.w[i] -= f64::from(step.lr) * self.m[i];
        }
    }

    /// Adam or AdamW from the gradient `d`.
    pub fn adam(&mut self, d: &[f64], step: &Adam) {
        let (lr, beta1, beta2) = (f64::from(step.lr), f64::from(step.beta1), f64::from(step.beta2));
        let decay = f64::from(step.decay);
        let (fixed_1, fixed_2) = (1.0 - beta1.powf(step.t.into()), 1.0 - beta2.powf(step.t.into()));
        for (i, g) in self.decayed(d, if step.decoupled { 0.0 } else { decay }).into_iter().enumerate() {
            if step.decoupled && self.decays {
                self.w[i] -= lr * decay * self.w[i];
            }
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g;
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g * g;
            let root = (self.v[i] / fixed_2).sqrt();
            self.w[i] -= lr * self.m[i] / fixed_1 / (root + f64::from(step.eps));
        }
    }
}

/// Norm of all gradients together, and the factor that clips it.
pub fn clip<'a>(gradients: impl IntoIterator<Item = &'a [f64]>, max_norm: f64) -> (f64, f64) {
    let norm = gradients.into_iter().flatten().map(|d| d * d).sum::<f64>().sqrt();
    (norm, (max_norm / (norm + 1e-6)).min(1.0))
}
