//! The choice of a product's variant by trying.

use super::product::{A_ROWS, ANY, B_INNER, Product};
use super::variant::{KERNELS, Variant};
use crate::Result;
use crate::ops::tune::{Question, Variants, choose, noise, rounding};
use crate::tensor::{DType, Tensor};

impl Variants for Variant {
    const ALL: &'static [Self] = Self::ALL;
}

impl Product {
    /// The fastest variant known.
    pub(super) fn tuned(&self) -> Variant {
        let (p, dtype, runtime) = (&self.params, self.a.dtype(), self.a.runtime());
        let profile = runtime.profile();
        let default = self.choose();
        if p.n_batch == 0 || p.n_rows == 0 || p.n_cols == 0 || p.n_inner == 0 {
            return default;
        }
        if dtype != DType::F32 && !default.is_cooperative() && self.part(default, true) != p.n_inner as usize {
            // Summed in parts, as f32, which asks anew.
            return default;
        }
        let vector = p.n_rows == 1 || p.n_cols == 1;
        let layout = self.layout();
        let question = Question {
            op: "matmul",
            dtype,
            sizes: &[
                ("batch", p.n_batch as usize),
                ("m", p.n_rows as usize),
                ("n", p.n_cols as usize),
                ("k", p.n_inner as usize),
            ],
            exact: &[
                ("layout", layout as usize),
                ("vector", usize::from(vector)),
                ("act", self.act.code() as usize),
                // Another list of candidates, where they were asked for.
                (
                    "cooperative",
                    usize::from(Variant::ALL.iter().any(|v| v.is_cooperative() && v.runs_on(profile, dtype))),
                ),
            ],
            kernels: &[KERNELS],
            plain: Variant::Plain,
            fits: &|variant| {
                let expected = match variant {
                    // Only ever worth it where nothing else runs.
                    Variant::Plain => false,
                    Variant::Vector | Variant::VectorShared => vector,
                    Variant::Tiled64 | Variant::Tiled128 => !profile.is_software(),
                    Variant::Registers8 | Variant::Registers16 => profile.is_software(),
                    _ => true,
                };
                expected && variant.runs_on(profile, dtype)
            },
            run: &|variant| {
                let part = self.part(variant, true);
                if part == p.n_inner as usize || (dtype != DType::F32 && !variant.is_cooperative()) {
                    return Ok(vec![self.clone().run(variant)?]);
                }
                Ok(vec![self.clone().run_in_parts(variant, part)?])
            },
            probe: &|variant| probe(self, variant, layout),
            tolerance: rounding(dtype),
        };
        choose(runtime, default, &question)
    }
}

/// A small product that lies as `like` does, with tiles that are filled and tiles that are not.
fn probe(like: &Product, variant: Variant, layout: u32) -> Result<Vec<Tensor>> {
    let (runtime, dtype, p) = (like.a.runtime(), like.a.dtype(), &like.params);
    let [m, k, n] = if layout == ANY { [147, 145, 131] } else { [148, 144, 132] };
    let (m, n) = (if p.n_rows == 1 { 1 } else { m }, if p.n_cols == 1 { 1 } else { n });
    let lying = |turned: bool, rows: usize, cols: usize| match turned {
        true => noise(runtime, &[2, cols, rows], dtype)?.transpose(),
        false => noise(runtime, &[2, rows, cols], dtype),
    };
    let a = lying(layout != ANY && layout & A_ROWS != 0, m, k)?;
    let b = lying(layout != ANY && layout & B_INNER != 0, k, n)?;
    let bias = if p.bias == 0 { None } else { Some(noise(runtime, &[n], dtype)?) };
    let product = Product::new("matmul", &a, &b, bias.as_ref(), like.act)?;
    Ok(vec![product.run(variant)?])
}
