//! What an adapter can do at most: arithmetic, memory, launches and transfers, measured by kernels that do nothing else.
//!
//! Every figure of a suite stands beside these, taken in the same run; see [`Peaks`](super::Peaks).

use crate::Result;
use crate::bench::{Case, Level, compile, noise};
use crate::runtime::{
    Bind::{Read, Write},
    Kernel, Runtime,
};
use crate::tensor::{DType, Tensor};

/// The family that sets the peaks.
pub(super) const MICRO: &str = "micro";
const SOURCE: &str = include_str!("../../shaders/micro.wgsl");
const WG_SIZE: u64 = 64;
const FLOATS: &[DType] = &[DType::F32, DType::F16];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct FmaParams {
    n: u32,
    n_pairs: u32,
    factor: f32,
    first: f32,
    second: f32,
    apart: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct MemoryParams {
    n: u32,
    seed: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GatherParams {
    n: u32,
    mask: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ChainParams {
    n: u32,
    n_rounds: u32,
    factor: u32,
    addend: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AtomicsParams {
    n: u32,
    mask: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct StepParams {
    n: u32,
}

const fn kernel(entry: &'static str, binds: &'static [crate::runtime::Bind]) -> Kernel {
    Kernel::new(MICRO, entry, SOURCE, binds)
}

const FMA_FWD: Kernel = kernel("fma_fwd", &[Read, Write]).params::<FmaParams>().types(&["Elem"], &[FLOATS]);
const INTEGER_FWD: Kernel = kernel("integer_fwd", &[Read, Write]).params::<ChainParams>();
const DOT4_FWD: Kernel = kernel("dot4_fwd", &[Read, Write]).params::<ChainParams>();
const ATOMICS_FWD: Kernel = kernel("atomics_fwd", &[Write]).params::<AtomicsParams>();
const COPY_FWD: Kernel = kernel("copy_fwd", &[Read, Write]).params::<MemoryParams>();
const READ_FWD: Kernel = kernel("read_fwd", &[Read, Write]).params::<MemoryParams>();
const WRITE_FWD: Kernel = kernel("write_fwd", &[Write]).params::<MemoryParams>();
const GATHER_FWD: Kernel = kernel("gather_fwd", &[Read, Write]).params::<GatherParams>();
const STEP_FWD: Kernel = kernel("step_fwd", &[Read, Write]).params::<StepParams>();
const EMPTY_FWD: Kernel = kernel("empty_fwd", &[]);

/// The kernels of this suite.
pub(super) const KERNELS: &[Kernel] =
    &[FMA_FWD, INTEGER_FWD, DOT4_FWD, ATOMICS_FWD, COPY_FWD, READ_FWD, WRITE_FWD, GATHER_FWD, STEP_FWD, EMPTY_FWD];

/// Launches in one run of the rows that time a launch.
pub(super) const N_LAUNCHES: u32 = 256;
/// Steps of x <- c1 - (c0 - x); each adds 1/512, and up to 4 that is exact in f16 too.
const N_PAIRS: u32 = 1024;
const STEP: f64 = 1.0 / 512.0;
const N_CHAINS: u32 = 8;
const N_ROUNDS: u32 = 2048;
const FACTOR: u32 = 0x0305_0709;
const N_ATOMICS: usize = 8;
/// Words that the atomics count in.
const N_COUNTERS: usize = 1 << 12;
const N_READS: usize = 16;
const N_GATHERS: usize = 8;

/// Sizes of a run: long enough to fill the adapter, short enough for a weak one of its kind.
struct Sizes {
    fma_threads: usize,
    memory_bytes: usize,
    transfer_bytes: usize,
}

impl Sizes {
    fn of(runtime: &Runtime) -> Self {
        let profile = runtime.profile();
        let (fma_threads, memory_bytes, transfer_bytes) = match profile.kind {
            _ if profile.is_software() => (1 << 13, 64 << 20, 16 << 20),
            "discrete" => (1 << 19, 512 << 20, 64 << 20),
            _ => (1 << 16, 128 << 20, 64 << 20),
        };
        let limit = profile.limits.binding_bytes.min(profile.limits.buffer_bytes);
        // A power of two, as the random gather wants it, with room for a guard behind it.
        let fits = 1 << (limit.max(64).ilog2() - 1);
        Self { fma_threads, memory_bytes: memory_bytes.min(fits), transfer_bytes: transfer_bytes.min(fits) }
    }
}

/// The cases, in the order of a reader's interest; the first three set the peaks.
///
/// # Errors
/// What building the inputs returns.
pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let sizes = Sizes::of(runtime);
    let mut cases = vec![fma(runtime, &sizes, DType::F32)?];
    if runtime.profile().features.f16 {
        cases.push(fma(runtime, &sizes, DType::F16)?);
    }
    cases.extend([integer(runtime, &sizes)?, dot4(runtime, &sizes)?, atomics(runtime, &sizes)]);
    let n_words = sizes.memory_bytes / 4;
    let source = write(runtime, n_words, SEED)?;
    cases.extend([copy(&source), copy_buffer(&source), read(&source), write_case(runtime, n_words), gather(&source)]);
    cases.extend([launches(runtime, true)?, launches(runtime, false)?, submit(runtime)?]);
    cases.extend([upload(runtime, sizes.transfer_bytes / 4), read_back(&source, sizes.transfer_bytes / 4)]);
    cases.extend(compile::cases(runtime));
    if level >= Level::Stress {
        cases.extend(streams(runtime, 1 << 30));
    }
    Ok(cases)
}

/// f32 multiply-adds, as among the cases.
///
/// # Errors
/// What building the inputs returns.
pub(super) fn f32_rate(runtime: &Runtime) -> Result<Case> {
    fma(runtime, &Sizes::of(runtime), DType::F32)
}

fn mib(n_words: usize) -> String {
    format!("{} MiB", n_words >> 18)
}

fn groups(n_threads: usize) -> u64 {
    (n_threads as u64).div_ceil(WG_SIZE)
}

fn fma(runtime: &Runtime, sizes: &Sizes, dtype: DType) -> Result<Case> {
    // Software adapters do f16 in f32, with conversions around every step.
    let slow = dtype == DType::F16 && runtime.profile().is_software();
    let n = sizes.fma_threads / if slow { 8 } else { 1 };
    // Multiples of the step in 0..1, not 0.
    let (_, noise) = noise(runtime, &[n, 4], 3)?;
    let host: Vec<f32> = noise.data.iter().map(|v| ((256.0 + 255.0 * v).round() * STEP) as f32).collect();
    let x = if dtype == DType::F16 {
        let halves: Vec<half::f16> = host.iter().map(|v| half::f16::from_f32(*v)).collect();
        Tensor::from_slice(runtime, &halves, &[n, 4])?
    } else {
        Tensor::from_slice(runtime, &host, &[n, 4])?
    };
    let params = FmaParams {
        n: n as u32,
        n_pairs: N_PAIRS,
        factor: -1.0,
        first: 1.0,
        second: (1.0 + STEP) as f32,
        apart: STEP as f32,
    };
    let flops = n as u64 * u64::from(4 * N_CHAINS * 2 * N_PAIRS * 2);
    let run = move || {
        let out = Tensor::empty(x.runtime(), &[n, 4], DType::F32)?;
        let launch = x.runtime().launch(&FMA_FWD).types(std::slice::from_ref(&dtype));
        launch.bind([x.binding(), out.binding()]).params(&params).groups(groups(n)).cost(flops, 0).run()?;
        Ok(out)
    };
    let check = move |out: &Tensor| {
        let chain = |x: f32, k: u32| f64::from(k + 1) * (f64::from(x) + STEP * f64::from(k + N_PAIRS));
        let want = host.iter().map(|x| (0..N_CHAINS).map(|k| chain(*x, k)).sum::<f64>());
        Ok(super::worst(out.to_vec::<f32>()?.into_iter().zip(want).map(|(got, want)| f64::from(got) - want)))
    };
    Ok(Case::new("micro/fma", format!("{n} threads"), run, check).cost(flops, 0).dtype(dtype).tolerance(0.0))
}

/// A case of `n` invocations with eight chains of integers each, `ops` in all; `next` is one step of a chain. A few outputs
/// are checked, bit for bit.
fn chains(
    runtime: &Runtime,
    kernel: &'static Kernel,
    (name, shape): (&str, String),
    n_words: usize,
    (n, ops): (usize, u64),
    next: impl Fn(u32) -> u32 + 'static,
) -> Result<Case> {
    let host: Vec<u32> = (0..n_words).map(|i| word(i, SEED)).collect();
    let x = Tensor::from_slice(runtime, &host, &[n_words])?;
    let run = move || {
        let out = Tensor::empty(x.runtime(), &[n_words], DType::U32)?;
        let params = ChainParams { n: n as u32, n_rounds: N_ROUNDS, factor: FACTOR, addend: SEED };
        let launch = x.runtime().launch(kernel).bind([x.binding(), out.binding()]).params(&params);
        launch.groups(groups(n)).cost(ops, 0).run()?;
        Ok(out)
    };
    let check = move |out: &Tensor| {
        let got = out.to_vec::<u32>()?;
        let chain = |x: u32, k: u32| (0..N_ROUNDS).fold(x.wrapping_add(SEED.wrapping_mul(k)), |x, _| next(x));
        let want = |i: usize| (0..N_CHAINS).fold(0, |all, k| all ^ chain(host[i], k));
        let sampled = (0..got.len()).step_by((got.len() / 61).max(1)).chain(got.len().checked_sub(1));
        Ok(sampled.filter(|i| got[*i] != want(*i)).count() as f64)
    };
    Ok(Case::new(name, shape, run, check).cost(ops, 0).dtype(DType::U32).tolerance(0.0))
}

/// Multiplications and additions of u32, two operations each step.
fn integer(runtime: &Runtime, sizes: &Sizes) -> Result<Case> {
    let n = sizes.fma_threads / 2;
    let ops = n as u64 * u64::from(4 * N_CHAINS * 2 * N_ROUNDS);
    let next = |x: u32| x.wrapping_mul(FACTOR).wrapping_add(SEED);
    chains(runtime, &INTEGER_FWD, ("micro/integer", format!("{n} threads")), 4 * n, (n, ops), next)
}

/// Dot products of four bytes, eight operations each.
fn dot4(runtime: &Runtime, sizes: &Sizes) -> Result<Case> {
    let n = sizes.fma_threads / 2;
    let ops = n as u64 * u64::from(N_CHAINS * 8 * N_ROUNDS);
    let next = |x: u32| {
        let dot: i32 = x
            .to_le_bytes()
            .iter()
            .zip(FACTOR.to_le_bytes())
            .map(|(a, b)| i32::from(*a as i8) * i32::from(b as i8))
            .sum();
        (dot as u32).wrapping_add(SEED)
    };
    let case = chains(runtime, &DOT4_FWD, ("micro/dot4", format!("{n} threads")), n, (n, ops), next)?;
    Ok(case.variant("4 x i8"))
}

/// Atomic additions, each counted as an operation.
fn atomics(runtime: &Runtime, sizes: &Sizes) -> Case {
    let (runtime, n) = (runtime.clone(), 8 * sizes.fma_threads);
    let ops = (n * N_ATOMICS) as u64;
    let run = move || {
        let out = Tensor::zeros(&runtime, &[N_COUNTERS], DType::U32)?;
        let params = AtomicsParams { n: n as u32, mask: N_COUNTERS as u32 - 1 };
        let launch = runtime.launch(&ATOMICS_FWD).bind([out.binding()]).params(&params);
        launch.groups(groups(n)).cost(ops, 0).run()?;
        Ok(out)
    };
    let check = move |out: &Tensor| wrong_words(out, |_| (n * N_ATOMICS / N_COUNTERS) as u32);
    Case::new("micro/atomics", format!("{n} threads, {N_COUNTERS} words"), run, check)
        .cost(ops, 0)
        .dtype(DType::U32)
        .tolerance(0.0)
        .variant("add")
}

/// Seed of the words that the memory cases read.
const SEED: u32 = 0x51ED_270B;

/// Word `i` of what [`write`] writes.
fn word(i: usize, seed: u32) -> u32 {
    (i as u32).wrapping_add(seed).wrapping_mul(0x9E37_79B1)
}

/// A tensor of `n` words, a multiple of 4, none like its neighbour.
fn write(runtime: &Runtime, n: usize, seed: u32) -> Result<Tensor> {
    let out = Tensor::empty(runtime, &[n], DType::U32)?;
    let params = MemoryParams { n: (n / 4) as u32, seed };
    let launch = runtime.launch(&WRITE_FWD).bind([out.binding()]).params(&params);
    launch.groups(groups(n / 4)).cost(0, 4 * n as u64).run()?;
    Ok(out)
}

/// Number of wrong words in 64 stretches of `out`, the first and the last among them.
fn wrong_words(out: &Tensor, want: impl Fn(usize) -> u32) -> Result<f64> {
    let n = out.len();
    let stretch = n.min(4096);
    let last = if n > stretch { 63 } else { 0 };
    let mut wrong = 0;
    for part in 0..=last {
        let start = (n - stretch) * part / last.max(1);
        let got = out.slice(0, start..start + stretch)?.to_vec::<u32>()?;
        wrong += got.iter().zip(start..).filter(|(got, i)| **got != want(*i)).count();
    }
    Ok(wrong as f64)
}

/// A case on words, where nothing but equality will do.
fn exact(
    name: &str,
    n_words: usize,
    run: impl Fn() -> Result<Tensor> + 'static,
    want: impl Fn(usize) -> u32 + 'static,
) -> Case {
    let check = move |out: &Tensor| wrong_words(out, &want);
    Case::new(name, mib(n_words), run, check).dtype(DType::U32).tolerance(0.0)
}

fn copy(source: &Tensor) -> Case {
    let (x, n) = (source.clone(), source.len());
    let run = move || {
        let out = Tensor::empty(x.runtime(), &[n], DType::U32)?;
        let params = MemoryParams { n: (n / 4) as u32, seed: 0 };
        let launch = x.runtime().launch(&COPY_FWD).bind([x.binding(), out.binding()]).params(&params);
        launch.groups(groups(n / 4)).cost(0, 8 * n as u64).run()?;
        Ok(out)
    };
    exact("micro/copy", n, run, |i| word(i, SEED)).variant("kernel").cost(0, 8 * n as u64)
}

fn copy_buffer(source: &Tensor) -> Case {
    let (x, n) = (source.clone(), source.len());
    let run = move || {
        let out = Tensor::empty(x.runtime(), &[n], DType::U32)?;
        x.runtime().copy(&x.binding(), &out.binding(), 4 * n as u64)?;
        Ok(out)
    };
    exact("micro/copy", n, run, |i| word(i, SEED)).variant("command").cost(0, 8 * n as u64)
}

fn read(source: &Tensor) -> Case {
    let (x, n) = (source.clone(), source.len() / N_READS);
    let bytes = 4 * (source.len() + n) as u64;
    let run = move || {
        let out = Tensor::empty(x.runtime(), &[n], DType::U32)?;
        let params = MemoryParams { n: (n / 4) as u32, seed: 0 };
        let launch = x.runtime().launch(&READ_FWD).bind([x.binding(), out.binding()]).params(&params);
        launch.groups(groups(n / 4)).cost(0, bytes).run()?;
        Ok(out)
    };
    let want = move |i| (0..N_READS).fold(0, |all, k| all ^ word(i + k * n, SEED));
    let check = move |out: &Tensor| wrong_words(out, want);
    Case::new("micro/read", mib(source.len()), run, check).dtype(DType::U32).tolerance(0.0).cost(0, bytes)
}

fn write_case(runtime: &Runtime, n: usize) -> Case {
    let runtime = runtime.clone();
    let run = move || write(&runtime, n, !SEED);
    exact("micro/write", n, run, |i| word(i, !SEED)).cost(0, 4 * n as u64)
}

/// Copies, reads and writes of this many bytes, each with a source of its own that is there as long as it is needed.
fn streams(runtime: &Runtime, bytes: usize) -> Vec<Case> {
    type Build = fn(&Tensor) -> Case;
    let again: Build = |source| write_case(source.runtime(), source.len());
    let all: [(Build, &str, &str, usize); 4] = [
        (copy, "copy", "kernel", 8),
        (copy_buffer, "copy", "command", 8),
        (read, "read", "auto", 4),
        (again, "write", "auto", 4),
    ];
    let n = bytes / 4;
    let case = |(build, name, variant, per_word): (Build, &str, &str, usize)| {
        let runtime = runtime.clone();
        let make = move || build(&write(&runtime, n, SEED)?).into_parts();
        Case::deferred(format!("{MICRO}/{name}"), mib(n), make)
            .variant(variant)
            .dtype(DType::U32)
            .tolerance(0.0)
            .cost(0, (per_word * n) as u64)
            .memory(bytes as u64, 2 * bytes as u64)
    };
    all.into_iter().map(case).collect()
}

/// PCG's output permutation of one step, as in the kernel.
fn scatter(word: u32) -> u32 {
    let state = word.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let mixed = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (mixed >> 22) ^ mixed
}

fn gather(source: &Tensor) -> Case {
    let (x, n) = (source.clone(), source.len() / 64);
    let mask = source.len() as u32 - 1;
    let bytes = (4 * (N_GATHERS + 1) * n) as u64;
    let run = move || {
        let out = Tensor::empty(x.runtime(), &[n], DType::U32)?;
        let launch = x.runtime().launch(&GATHER_FWD).bind([x.binding(), out.binding()]);
        launch.params(&GatherParams { n: n as u32, mask }).groups(groups(n)).cost(0, bytes).run()?;
        Ok(out)
    };
    let want =
        move |i| (0..N_GATHERS).fold(0, |all, k| all ^ word((scatter((i + k * n) as u32) & mask) as usize, SEED));
    let check = move |out: &Tensor| wrong_words(out, want);
    Case::new("micro/gather", format!("words of {}", mib(source.len())), run, check)
        .dtype(DType::U32)
        .tolerance(0.0)
        .cost(0, bytes)
}

/// 64 words to step on from.
fn words(runtime: &Runtime) -> Result<(Tensor, Vec<u32>)> {
    let host: Vec<u32> = (0..64).map(|i| word(i, SEED)).collect();
    Ok((Tensor::from_slice(runtime, &host, &[64])?, host))
}

fn step(x: &Tensor, out: &Tensor) -> Result<()> {
    let launch = x.runtime().launch(&STEP_FWD).bind([x.binding(), out.binding()]);
    launch.params(&StepParams { n: 64 }).groups(1).run()
}

/// A case whose result is 64 words, each `by` more than they were.
fn stepped(name: &str, shape: String, host: Vec<u32>, by: u32, run: impl Fn() -> Result<Tensor> + 'static) -> Case {
    let check = move |out: &Tensor| wrong_words(out, |i| host[i].wrapping_add(by));
    Case::new(name, shape, run, check).dtype(DType::U32).tolerance(0.0)
}

/// Launches in one batch: each waiting for the last, or empty ones with one step at the end that shows they passed.
fn launches(runtime: &Runtime, empty: bool) -> Result<Case> {
    let (x, host) = words(runtime)?;
    let run = move || {
        let runtime = x.runtime();
        let fresh = || Tensor::empty(runtime, &[64], DType::U32);
        let (mut out, mut other) = (fresh()?, fresh()?);
        if empty {
            for _ in 1..N_LAUNCHES {
                runtime.launch(&EMPTY_FWD).groups(1).run()?;
            }
            step(&x, &out)?;
        } else {
            step(&x, &out)?;
            for _ in 1..N_LAUNCHES {
                step(&out, &other)?;
                std::mem::swap(&mut out, &mut other);
            }
        }
        Ok(out)
    };
    let (variant, by) = if empty { ("independent", 1) } else { ("chain", N_LAUNCHES) };
    Ok(stepped("micro/dispatch", format!("{N_LAUNCHES} dispatches"), host, by, run).variant(variant))
}

/// One launch, handed over and waited for.
fn submit(runtime: &Runtime) -> Result<Case> {
    let (x, host) = words(runtime)?;
    let run = move || {
        let out = Tensor::empty(x.runtime(), &[64], DType::U32)?;
        step(&x, &out)?;
        x.runtime().sync()?;
        Ok(out)
    };
    Ok(stepped("micro/submit", "1 dispatch".into(), host, 1, run).variant("wait"))
}

fn upload(runtime: &Runtime, n: usize) -> Case {
    let runtime = runtime.clone();
    let host: Vec<u32> = (0..n).map(|i| word(i, SEED ^ 1)).collect();
    let run = move || {
        let out = Tensor::from_slice(&runtime, &host, &[n])?;
        // What is written goes out with the next batch, so there must be one.
        step(&out, &Tensor::empty(&runtime, &[64], DType::U32)?)?;
        runtime.flush()?;
        Ok(out)
    };
    exact("micro/upload", n, run, |i| word(i, SEED ^ 1)).cost(0, 4 * n as u64)
}

fn read_back(source: &Tensor, n: usize) -> Case {
    let x = source.clone();
    let run = move || {
        let part = x.slice(0, 0..n)?;
        std::hint::black_box(part.to_vec::<u32>()?);
        Ok(part)
    };
    exact("micro/read_back", n, run, |i| word(i, SEED)).cost(0, 4 * n as u64)
}
