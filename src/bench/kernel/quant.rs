use crate::Result;
use crate::bench::{Case, Level, noise, spot};
use crate::ops::matmul::matmul;
use crate::ops::quant::{self, Bits, Block, Variant};
use crate::ops::{Act, quant::Quantized};
use crate::reference::{self, Array};
use crate::runtime::Runtime;
use crate::tensor::Tensor;

/// Rows, inner elements, outputs: the layers of a small vision transformer, whole and for one token.
const SHAPES: &[(usize, usize, usize)] = &[(788, 192, 768), (1, 768, 3072), (16, 192, 768), (788, 768, 192)];

/// Blocks of 64; rows that are not of the tiles.
const TINY: &[(usize, usize, usize)] = &[(11, 80, 36), (3, 33, 17)];

/// The variants that gradients have.
const BACKS: [Variant; 4] = [Variant::Plain, Variant::Registers, Variant::Tiled, Variant::Unpacked];

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = match level {
        Level::Tiny => TINY,
        Level::Quick => &SHAPES[..2],
        Level::Full | Level::Stress => SHAPES,
    };
    let mut cases = Vec::new();
    for (i, &(m, k, n)) in shapes.iter().enumerate() {
        let ((x, rx), (w, rw)) = (noise(runtime, &[m, k], 2 * i as u64)?, noise(runtime, &[n, k], 2 * i as u64 + 1)?);
        let shape = format!("{m}x{k}x{n}");
        let cost = 2 * (m * k * n) as u64;
        // Against the product with `w`, the numbers that the integers stand for; sums of up to 768 products below 1.
        let case = |name: &str, variant: &str, x: &Array, w: &Array, bytes, run: Box<dyn Fn() -> Result<Tensor>>| {
            let (x, w) = (x.clone(), w.clone());
            let want = move |i: usize| (0..k).map(|l| x.data[i / n * k + l] * w.data[i % n * k + l]).sum();
            Case::new(name, shape.as_str(), run, move |out| Ok(spot(&out.to_vec()?, 200, &want)))
                .variant(variant)
                .cost(cost, (4 * (m * k + m * n) + bytes) as u64)
                .tolerance(2e-4)
        };
        let turned = w.transpose()?;
        let f32_x = x.clone();
        cases.push(case("quant/matmul f32", "auto", &rx, &rw, 4 * w.len(), {
            Box::new(move || matmul(&f32_x, &turned))
        }));
        let packed = |bits| quant::quantize(&w, bits, Block::Of64);
        for (kind, bits) in [("int8", Bits::Int8), ("int4", Bits::Int4), ("nf4", Bits::Nf4)] {
            let rw = reference::quant::dequantize(&reference::quant::quantize(&rw, bits, 64));
            let packed = packed(bits)?;
            let mut add = |variant: Option<Variant>| {
                let (x, w) = (x.clone(), packed.clone());
                let run = move || match variant {
                    None => quant::linear(&x, &w, None, Act::None),
                    Some(variant) => quant::linear_with(variant, &x, &w, None, Act::None),
                };
                let label = variant.map_or_else(|| "auto".to_owned(), |v| format!("{v:?}").to_lowercase());
                cases.push(case(&format!("quant/linear {kind}"), &label, &rx, &rw, packed.bytes(), Box::new(run)));
            };
            add(None);
            if level != Level::Quick {
                Variant::ALL.into_iter().for_each(|v| add(Some(v)));
            }
            let (d, rd) = noise(runtime, &[m, n], 2 * i as u64 + 77)?;
            for variant in BACKS.into_iter().filter(|v| level != Level::Quick || *v == Variant::Registers) {
                let (d, w, rw) = (d.clone(), packed.clone(), rw.clone());
                let rd = rd.clone();
                let want = move |i: usize| (0..n).map(|o| rd.data[i / k * n + o] * rw.data[o * k + i % k]).sum();
                let run = move || quant::input_gradient_with(variant, &d, &w);
                cases.push(
                    Case::new(format!("quant/input_gradient {kind}"), shape.as_str(), run, move |out| {
                        Ok(spot(&out.to_vec()?, 200, &want))
                    })
                    .variant(format!("{variant:?}").to_lowercase())
                    .cost(cost, (4 * (m * k + m * n) + packed.bytes()) as u64)
                    // Sums of up to 3072 products below 1.
                    .tolerance(8e-4),
                );
            }
            if bits == Bits::Int8 {
                let rows = reference::quant::dequantize(&reference::quant::quantize(&rx, bits, k));
                let dot = |x: &Tensor, w: &Quantized| {
                    let (x, w) = (x.clone(), w.clone());
                    Box::new(move || quant::linear_i8(&x, &w, None, Act::None))
                };
                cases.push(case("quant/linear_i8", "auto", &rows, &rw, packed.bytes(), dot(&x, &packed)));
            }
        }
        for (kind, bits) in [("int8", Bits::Int8), ("nf4", Bits::Nf4)] {
            let w = w.clone();
            let want = reference::quant::quantize(&rw, bits, 64).scales;
            let check = move |out: &Tensor| {
                let (n_blocks, n_outputs) = (k.div_ceil(64), n.next_multiple_of(4));
                let scale = |i: usize| {
                    if i % n_outputs < n { want.data[i % n_outputs * n_blocks + i / n_outputs] } else { 0.0 }
                };
                Ok(spot(&out.to_vec()?, 200, scale))
            };
            let run = move || Ok(quant::quantize(&w, bits, Block::Of64)?.scales().clone());
            cases.push(
                Case::new(format!("quant/quantize {kind}"), format!("{n}x{k}"), run, check)
                    .cost(2 * (n * k) as u64, (4 * n * k + n * k * bits.count() as usize / 8) as u64)
                    .tolerance(0.0),
            );
        }
    }
    Ok(cases)
}
