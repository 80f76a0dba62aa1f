//! The k largest or smallest elements of each row, in order, with their indices.

use super::elementwise::add;
use super::scatter::scatter_add;
use super::sort::{ORDER, SCAN, SortVariant, argsort, radix_sort};
use super::tune::{Question, Variants, choose, noise};
use crate::autograd::{record, refuse};
use crate::runtime::{
    Bind::{self, Read, Write},
    Common, INDEX, Kernel, LOOP_ROUNDS,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The sorted list of one invocation, for kernels that keep the best of what they compute.
pub(crate) const TOP: Common = Common { name: "top", source: include_str!("../../shaders/common/top.wgsl") };

const SOURCE: &str = include_str!("../../shaders/topk.wgsl");
const LISTS_SIZE: u64 = 64;
/// Places of the longest list.
const LIST_MAX: usize = 32;
/// Most that is selected.
pub(crate) const SELECT_MAX: usize = 4096;
/// Elements that one invocation walks at most: five rounds per vec4 where a list takes all of them, 25 where digits are
/// counted, which also walks its counts and places.
const LIST_WALK: usize = 1 << 15;
const SELECT_WALK: usize = 1 << 13;
const _: () = assert!(5 * LIST_WALK / 4 < LOOP_ROUNDS && 25 * SELECT_WALK / 4 + 8 * 256 + 2 * SELECT_MAX < LOOP_ROUNDS);

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct TopkParams {
    n: u32,
    n_rows: u32,
    lanes_log2: u32,
    lane_step: u32,
    round_step: u32,
    rounds: u32,
    flip: u32,
    decode: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SelectParams {
    n: u32,
    n_rows: u32,
    k: u32,
    chunks_log2: u32,
    chunk_vec4: u32,
    slots_log2: u32,
    flip: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct PickParams {
    n_out: u32,
    k: u32,
    row_log2: u32,
    flip: u32,
}

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("topk", entry, SOURCE, binds).commons(&[INDEX, ORDER, SCAN, TOP])
}

const FLOATS: &[DType] = &[DType::F32, DType::F16];
const NODES: &[(&str, &[u32])] = &[("TOP_NODES", &[1, 2, 3, 4, 5, 6, 7, 8])];
const TOPK_LISTS_FWD: Kernel =
    kernel("topk_lists_fwd", &[Read, Write, Write]).params::<TopkParams>().types(&["Elem"], &[FLOATS]).overrides(NODES);
const TOPK_MERGE_FWD: Kernel =
    kernel("topk_merge_fwd", &[Read, Write, Write, Read]).params::<TopkParams>().overrides(NODES);
const SELECT_LANES_FWD: Kernel =
    kernel("select_lanes_fwd", &[Read, Write, Write]).params::<SelectParams>().types(&["Elem"], &[FLOATS]);
const SELECT_GROUPS_FWD: Kernel =
    kernel("select_groups_fwd", &[Read, Write, Write]).params::<SelectParams>().types(&["Elem"], &[FLOATS]);
const TOPK_PICK_FWD: Kernel = kernel("topk_pick_fwd", &[Read, Read, Read, Write, Write]).params::<PickParams>();

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[TOPK_LISTS_FWD, TOPK_MERGE_FWD, SELECT_LANES_FWD, SELECT_GROUPS_FWD, TOPK_PICK_FWD];

/// How the best are found; [`topk`] chooses by `k` and adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopkVariant {
    /// A sorted list per invocation, lists merged until one is left: `k` up to 32. Lanes walk a run of their row each,
    /// groups side by side.
    Lists(SortVariant),
    /// The k-th best found digit by digit, then what reaches it is sorted: any `k`.
    Select(SortVariant),
}

impl TopkVariant {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::Lists(SortVariant::Lanes),
        Self::Lists(SortVariant::Groups),
        Self::Select(SortVariant::Lanes),
        Self::Select(SortVariant::Groups),
    ];
}

/// The `k` largest elements of each row, or the smallest, best first: f32 or f16 `[.., n]` to values `[.., k]` of the same
/// type and indices u32 `[.., k]`. Equal elements come in the order of their indices.
///
/// NaN is greater than every number, as in PyTorch. Zeros of both signs are equal and come back as +0. The gradient of
/// the values flows to the elements they were.
///
/// # Errors
/// [`Error::Shape`] if `x` has no axis, [`Error::Argument`] if `k > n` or `k > 4096`, [`Error::DType`] unless `x` is a float tensor.
pub fn topk(x: &Tensor, k: usize, largest: bool) -> Result<(Tensor, Tensor)> {
    let (values, ids) = topk_with(tuned(&x.detach(), k, largest), &x.detach(), k, largest)?;
    let (shape, places) = (x.shape().to_vec(), ids.clone());
    let values = record("topk", values, [x], move |d, _| {
        let n = shape.last().copied().unwrap_or(0);
        let (n_all, n_rows) = (shape.iter().product(), d.len() / k.max(1));
        // Places counted over all rows.
        let starts: Vec<u32> = (0..n_rows).map(|row| (row * n) as u32).collect();
        let starts = Tensor::constant(d.runtime(), &starts)?.reshape(&[n_rows, 1])?;
        let places = add(&places.reshape(&[n_rows, k])?, &starts)?.reshape(&[d.len()])?;
        Ok([Some(scatter_add(&d.reshape(&[d.len()])?, 0, &places, n_all)?.reshape(&shape)?)])
    });
    Ok((values, ids))
}

/// The fastest variant known.
fn tuned(x: &Tensor, k: usize, largest: bool) -> TopkVariant {
    let (runtime, dtype) = (x.runtime(), x.dtype());
    let units = SortVariant::of(runtime);
    let default = if k <= LIST_MAX { TopkVariant::Lists(units) } else { TopkVariant::Select(units) };
    let n = x.shape().last().copied().unwrap_or(0);
    if k == 0 || k > n.min(SELECT_MAX) || x.is_empty() || !dtype.is_float() {
        return default;
    }
    let both = |variant, x: &Tensor| topk_with(variant, x, k, largest).map(|(values, ids)| vec![values, ids]);
    let question = Question {
        op: "topk",
        dtype,
        sizes: &[("rows", x.len() / n), ("columns", n), ("k", k)],
        exact: &[("nodes", if k <= LIST_MAX { k.div_ceil(4) } else { 0 })],
        kernels: &[KERNELS, super::sort::KERNELS],
        // Lists are not for every k.
        plain: TopkVariant::Select(SortVariant::Lanes),
        fits: &|variant| k <= LIST_MAX || matches!(variant, TopkVariant::Select(_)),
        run: &|variant| both(variant, x),
        probe: &|variant| both(variant, &noise(runtime, &[3, 9 * k + 1000], dtype)?),
        tolerance: 0.0,
    };
    choose(runtime, default, &question)
}

impl Variants for TopkVariant {
    const ALL: &'static [Self] = &Self::ALL;
}

/// [`topk`] in one variant, for tests and benchmarks.
///
/// # Errors
/// As [`topk`]; [`Error::Argument`] also if the variant does not take `k`.
pub fn topk_with(variant: TopkVariant, x: &Tensor, k: usize, largest: bool) -> Result<(Tensor, Tensor)> {
    const OP: &str = "topk";
    refuse("topk_with", &[x])?;
    let Some(&n) = x.shape().last() else {
        return Err(Error::shape(OP, "x has no axis"));
    };
    if !x.dtype().is_float() {
        return Err(Error::dtype(OP, format!("{} given, a float type wanted", x.dtype())));
    }
    let most = match variant {
        TopkVariant::Lists(_) => LIST_MAX,
        TopkVariant::Select(_) => SELECT_MAX,
    };
    if k > n.min(most) {
        return Err(Error::argument(OP, format!("k = {k} of {n} elements given, at most {} wanted", n.min(most))));
    }
    let mut shape = x.shape().to_vec();
    shape.pop();
    shape.push(k);
    if shape.contains(&0) {
        let runtime = x.runtime();
        return Ok((Tensor::empty(runtime, &shape, x.dtype())?, Tensor::empty(runtime, &shape, DType::U32)?));
    }
    let rows = Rows { x: x.contiguous()?, n_rows: x.len() / n, n, k, flip: if largest { 0 } else { u32::MAX } };
    let (values, ids) = match variant {
        TopkVariant::Lists(variant) => rows.by_lists(variant)?,
        TopkVariant::Select(variant) => rows.by_selection(variant)?,
    };
    // Keys hold an f16 exactly.
    let values = super::elementwise::cast(&values, x.dtype())?;
    Ok((values.slice(1, 0..k)?.reshape(&shape)?, ids.slice(1, 0..k)?.reshape(&shape)?))
}

struct Rows {
    x: Tensor,
    n_rows: usize,
    n: usize,
    k: usize,
    flip: u32,
}

/// Exponent of the largest power of two up to `n`, 0 for 0.
fn log2(n: usize) -> u32 {
    n.max(1).ilog2()
}

impl Rows {
    /// Exponent of the parts of a row: about `wanted` parts of all rows, to keep the adapter busy, none below `least`
    /// elements and, above all, none past `most`.
    fn parts_log2(&self, wanted: usize, row: usize, least: usize, most: usize) -> u32 {
        log2((wanted / self.n_rows).min(row / least)).max(row.div_ceil(most).next_power_of_two().ilog2())
    }

    /// `[n_rows, width]` values and indices with `width >= k`.
    fn by_lists(&self, variant: SortVariant) -> Result<(Tensor, Tensor)> {
        let runtime = self.x.runtime();
        let nodes = self.k.div_ceil(4);
        let width = 4 * nodes;
        // Each lane sees at least eight times what it keeps, so that every merge leaves an eighth.
        let wanted = if variant == SortVariant::Lanes { 256 } else { 1 << 16 };
        let mut row = self.n;
        let mut found: Option<(Tensor, Tensor)> = None;
        loop {
            let lanes_log2 = self.parts_log2(wanted, row, 8 * width, LIST_WALK);
            // A row that starts within a vec4 touches one more.
            let rounds = (row.div_ceil(4) + 1).div_ceil(1 << lanes_log2) as u32;
            let (lane_step, round_step) = match variant {
                SortVariant::Lanes => (rounds, 1),
                SortVariant::Groups => (1, 1 << lanes_log2),
            };
            let done = lanes_log2 == 0;
            let n_lanes = self.n_rows << lanes_log2;
            let shape = [self.n_rows, width << lanes_log2];
            let keys = Tensor::empty(runtime, &shape, if done { DType::F32 } else { DType::U32 })?;
            let ids = Tensor::empty(runtime, &shape, DType::U32)?;
            let (kernel, dtype) = match &found {
                None => (&TOPK_LISTS_FWD, self.x.dtype()),
                Some(_) => (&TOPK_MERGE_FWD, DType::F32),
            };
            let (first, rest) = match &found {
                None => (self.x.binding(), None),
                Some((keys, ids)) => (keys.binding(), Some(ids.binding())),
            };
            let n_in = (self.n_rows * row) as u64;
            runtime
                .launch(kernel)
                .types(&[dtype])
                .overrides(&[("TOP_NODES", nodes as u32)])
                .bind([first, keys.binding(), ids.binding()].into_iter().chain(rest))
                .params(&TopkParams {
                    n: row as u32,
                    n_rows: self.n_rows as u32,
                    lanes_log2,
                    lane_step,
                    round_step,
                    rounds,
                    flip: self.flip,
                    decode: u32::from(done),
                })
                .groups((n_lanes as u64).div_ceil(LISTS_SIZE))
                .cost(n_in, n_in * if found.is_some() { 8 } else { self.x.dtype().bytes() as u64 })
                .run()?;
            if done {
                return Ok((keys, ids));
            }
            row = shape[1];
            found = Some((keys, ids));
        }
    }

    /// `[n_rows, k]` values and indices.
    fn by_selection(&self, variant: SortVariant) -> Result<(Tensor, Tensor)> {
        let runtime = self.x.runtime();
        let slots_log2 = self.k.next_power_of_two().ilog2();
        let (kernel, wanted, least, most) = match variant {
            SortVariant::Lanes => (&SELECT_LANES_FWD, 64, 0, SELECT_WALK),
            SortVariant::Groups => (&SELECT_GROUPS_FWD, 1024, 1 << 13, 256 * SELECT_WALK),
        };
        // Chunks of eight times what they keep where possible, so that little is left to sort.
        let chunks_log2 = self.parts_log2(wanted, self.n, least.max(8 << slots_log2), most);
        // A row that starts within a vec4 touches one more.
        let chunk_vec4 = (self.n.div_ceil(4) + 1).div_ceil(1 << chunks_log2);
        let row_log2 = slots_log2 + chunks_log2;
        let n_kept = self.n_rows << row_log2;
        let keys = Tensor::empty(runtime, &[n_kept], DType::U32)?;
        let ids = Tensor::empty(runtime, &[n_kept], DType::U32)?;
        let n_in = self.x.len() as u64;
        runtime
            .launch(kernel)
            .types(&[self.x.dtype()])
            .bind([self.x.binding(), keys.binding(), ids.binding()])
            .params(&SelectParams {
                n: self.n as u32,
                n_rows: self.n_rows as u32,
                k: self.k as u32,
                chunks_log2,
                chunk_vec4: chunk_vec4 as u32,
                slots_log2,
                flip: self.flip,
            })
            .groups(variant.groups(self.n_rows << chunks_log2))
            .cost(5 * n_in, 5 * n_in * self.x.dtype().bytes() as u64)
            .run()?;
        // By key, then by row: the place of an element tells its row.
        let mut order = argsort(&keys, true)?;
        if self.n_rows > 1 {
            let row_bits = usize::BITS - (self.n_rows - 1).leading_zeros();
            order = radix_sort(Some(variant), &order, Some(&order), row_log2..row_log2 + row_bits, false)?.1;
        }
        let values = Tensor::empty(runtime, &[self.n_rows, self.k], DType::F32)?;
        let picked = Tensor::empty(runtime, &[self.n_rows, self.k], DType::U32)?;
        let n_out = values.len();
        runtime
            .launch(&TOPK_PICK_FWD)
            .types(&[DType::F32])
            .bind([order.binding(), keys.binding(), ids.binding(), values.binding(), picked.binding()])
            .params(&PickParams { n_out: n_out as u32, k: self.k as u32, row_log2, flip: self.flip })
            .groups((n_out as u64).div_ceil(LISTS_SIZE))
            .cost(0, 20 * n_out as u64)
            .run()?;
        Ok((values, picked))
    }
}
