//! Where the random bases of a mixture can come from: generators beside the one in use, and memory.

use crate::Result;
use crate::bench::{Case, Level, Parts, noise, spot};
use crate::ops::basis::SHARED;
use crate::ops::elementwise::cast;
use crate::ops::random::{Key, RNG, uniform};
use crate::philox::{Philox, philox4x32};
use crate::reference::random::{pcg4d, threefry2x32};
use crate::runtime::{
    Bind::{Read, Write},
    Common, INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor};

const SOURCE: &str = include_str!("../../shaders/basis_source.wgsl");
const HASH: Common = Common { name: "hash", source: include_str!("../../shaders/common/hash.wgsl") };
const WG_SIZE: usize = 64;
const KEY: [u32; 2] = [0x1234_5678, 0x9abc_def0];
/// The bases that lie in memory.
const STORED: Key = Key::new(5, 6, 7);

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SourceParams {
    n: u32,
    k: u32,
    key_0: u32,
    key_1: u32,
}

const DRAWN_FWD: Kernel = Kernel::new("basis_source", "source_drawn_fwd", SOURCE, &[Read, Write])
    .commons(&[INDEX, RNG, HASH, SHARED])
    .params::<SourceParams>()
    .overrides(&[("GENERATOR", &[0, 1, 2])]);
const STORED_FWD: Kernel = Kernel::new("basis_source", "source_stored_fwd", SOURCE, &[Read, Read, Write])
    .commons(&[INDEX, RNG, HASH, SHARED])
    .types(&["Elem"], &[&[DType::F32, DType::F16]])
    .params::<SourceParams>();

pub(super) const KERNELS: &[Kernel] = &[DRAWN_FWD, STORED_FWD];

/// A generator of 16 bytes for a block of elements and a basis.
#[derive(Clone, Copy)]
enum Generator {
    Philox,
    Threefry,
    Pcg,
}

impl Generator {
    fn name(self) -> &'static str {
        match self {
            Self::Philox => "philox4x32-10",
            Self::Threefry => "threefry2x32-20",
            Self::Pcg => "pcg4d",
        }
    }

    fn words(self, block: u32, basis: u32) -> [u32; 4] {
        match self {
            Self::Philox => philox4x32([block, basis, 0, 0], KEY),
            Self::Threefry => {
                let [a, b] = threefry2x32([2 * block, basis], KEY);
                let [c, d] = threefry2x32([2 * block + 1, basis], KEY);
                [a, b, c, d]
            }
            Self::Pcg => pcg4d([block, basis, KEY[0], KEY[1]]),
        }
    }

    fn entry(self, basis: usize, e: usize) -> f64 {
        let word = self.words((e / 16) as u32, basis as u32)[e / 4 % 4];
        (2.0 * f64::from(word >> (8 * (e % 4)) & 255) - 255.0) / 256.0
    }
}

/// One mixture of `k` bases of `n` elements, a multiple of 16, from each source.
pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let (n, k) = if level == Level::Tiny { (1104, 19) } else { (30_720, 1024) };
    let (c, host_c) = noise(runtime, &[k], 1)?;
    let draws = (n * k) as u64;
    let params = SourceParams { n: n as u32, k: k as u32, key_0: KEY[0], key_1: KEY[1] };
    // Sums of k numbers below 1.
    let off = move |out: &Tensor, entry: &dyn Fn(usize, usize) -> f64| -> Result<f64> {
        let want = |e| (0..k).map(|i| host_c.data[i] * entry(i, e)).sum();
        Ok(spot(&out.to_vec()?, 60, want) / (k as f64).sqrt())
    };
    let with = |case: Case, bytes: usize| case.cost(2 * draws, bytes as u64).items(draws, "draws").tolerance(1e-5);
    let mut cases = Vec::new();
    for (number, generator) in [Generator::Philox, Generator::Threefry, Generator::Pcg].into_iter().enumerate() {
        let (c, off) = (c.clone(), off.clone());
        let run = move || {
            let out = Tensor::empty(c.runtime(), &[n], DType::F32)?;
            c.runtime()
                .launch(&DRAWN_FWD)
                .overrides(&[("GENERATOR", number as u32)])
                .bind([c.binding(), out.binding()])
                .params(&params)
                .groups((n / 16).div_ceil(WG_SIZE) as u64)
                .rounds(20 * k)
                .run()?;
            Ok(out)
        };
        let check = move |out: &Tensor| off(out, &|i, e| generator.entry(i, e));
        let case = Case::new("basis/source", format!("{n}, k {k}"), run, check).variant(generator.name());
        cases.push(with(case, 4 * n));
    }
    let floats: &[DType] = if runtime.profile().features.f16 { &[DType::F32, DType::F16] } else { &[DType::F32] };
    for &dtype in floats {
        let (c, off) = (c.clone(), off.clone());
        let make = move || {
            let (c, off) = (c.clone(), off.clone());
            let bases =
                cast(&uniform(c.runtime(), &[n.div_ceil(4 * WG_SIZE), k, 4 * WG_SIZE], -1.0, 1.0, STORED)?, dtype)?;
            let run = move || {
                let out = Tensor::empty(c.runtime(), &[n], DType::F32)?;
                c.runtime()
                    .launch(&STORED_FWD)
                    .types(&[dtype])
                    .bind([c.binding(), bases.binding(), out.binding()])
                    .params(&params)
                    .groups((n / 4).div_ceil(WG_SIZE) as u64)
                    .rounds(k + 1)
                    .run()?;
                Ok(out)
            };
            let entry = move |i: usize, e: usize| {
                let element = (e / (4 * WG_SIZE) * k + i) * 4 * WG_SIZE + e % (4 * WG_SIZE);
                let value = 2.0
                    * f64::from(Philox::new(STORED.seed, STORED.stream, STORED.step).at(element as u64).uniform_f32())
                    - 1.0;
                if dtype == DType::F16 { half::f16::from_f64(value).to_f64() } else { value }
            };
            Ok(Parts::new(run, move |out| off(out, &entry)))
        };
        let bytes = dtype.bytes() * n * k;
        let case = Case::deferred("basis/source", format!("{n}, k {k}"), make)
            .variant("memory")
            .dtype(dtype)
            .memory(4 * draws, 6 * draws);
        cases.push(with(case, bytes));
    }
    Ok(cases)
}
