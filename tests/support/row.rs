//! A row: an op, its f64 reference, the shapes to try and a tolerance; the harness does the rest.

use super::case::{Case, Fault};
use super::compare::{Tolerance, compare};
use super::{TestRuntime, limit, runtime, short, simulated};
use leanvision::reference::Array;
use leanvision::{DType, Error, Result, Runtime, Tensor};
use std::ops::Range;

/// Shapes of one case, one per input.
pub type Shapes = &'static [&'static [usize]];

type Op = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;
type Reference = Box<dyn Fn(&[Array]) -> Array>;

/// An op under test.
pub struct Row {
    name: &'static str,
    cases: &'static [Shapes],
    pub(super) range: Range<f64>,
    pub(super) op: Op,
    pub(super) reference: Reference,
    tolerance: Tolerance,
    dtype: DType,
    f16: Option<Tolerance>,
    views: bool,
    pub(super) special: &'static [f64],
    pub(super) grad: Option<(&'static [usize], Tolerance)>,
    pub(super) grad_f16: Option<Tolerance>,
}

/// A row over `cases` with inputs drawn from `range`.
pub fn row(
    name: &'static str,
    cases: &'static [Shapes],
    range: Range<f64>,
    op: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
    reference: impl Fn(&[Array]) -> Array + 'static,
) -> Row {
    Row {
        name,
        cases,
        range,
        op: Box::new(op),
        reference: Box::new(reference),
        tolerance: Tolerance::F32,
        dtype: DType::F32,
        f16: None,
        views: true,
        special: &[],
        grad: None,
        grad_f16: None,
    }
}

impl Row {
    /// With this relative tolerance, the absolute one scaled alike.
    pub fn rtol(mut self, rtol: f64) -> Self {
        self.tolerance = Tolerance { rtol, atol: rtol / 10.0, ..self.tolerance };
        self
    }

    /// With this tolerance.
    pub fn tolerance(mut self, tolerance: Tolerance) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// With inputs of this type; integers are drawn from the range too, and results must match exactly. Rows of f16 are
    /// left out where the adapter has none.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        if !dtype.is_float() {
            self.tolerance = Tolerance { atol: 0.0, rtol: 0.0, allowed: 0 };
        }
        self
    }

    /// Also with f16 inputs, where the adapter has them.
    pub fn f16(mut self, tolerance: Tolerance) -> Self {
        self.f16 = Some(tolerance);
        self
    }

    /// Without the second pass over transposed views of the inputs.
    pub fn no_views(mut self) -> Self {
        self.views = false;
        self
    }

    /// With these values sprinkled over the first input: NaN, infinities, denormals, edges.
    pub fn special(mut self, values: &'static [f64]) -> Self {
        self.special = values;
        self
    }

    /// Also the gradients of these inputs, against central differences of the reference: its step is 1e-5 and its
    /// arithmetic f64, so what differs is the kernel.
    pub fn grad(mut self, inputs: &'static [usize], tolerance: Tolerance) -> Self {
        self.grad = Some((inputs, tolerance));
        self
    }

    /// The same gradients also of f16 inputs, in f16.
    pub fn grad_f16(mut self, tolerance: Tolerance) -> Self {
        self.grad_f16 = Some(tolerance);
        self
    }

    /// Runs every case on the adapter, if there is one, and on simulated devices: the small cases, or `all` of them.
    fn run(&self, adapter: Option<&Runtime>, simulated: &[TestRuntime], all: bool, failures: &mut Vec<String>) {
        let mut dtypes = vec![(self.dtype, self.tolerance)];
        dtypes.extend(self.f16.map(|tolerance| (DType::F16, tolerance)));
        for (seed, shapes) in self.cases.iter().enumerate() {
            let n: usize = shapes.iter().map(|s| s.iter().product::<usize>()).sum();
            if (short() && n > 100_000) || n > limit() {
                continue;
            }
            let simulated: Vec<_> = simulated.iter().filter(|runtime| all || runtime.takes(n)).collect();
            for &(dtype, tolerance) in &dtypes {
                let adapter = adapter.filter(|r| dtype != DType::F16 || r.profile().features.f16);
                if adapter.is_none() && simulated.is_empty() {
                    continue;
                }
                let case = Case::new(self, seed as u64, shapes, dtype, tolerance);
                let mut failed = |runtime: &Runtime, how: &str, fault: Fault| {
                    let device = &runtime.profile().name;
                    failures.push(format!("{} {shapes:?} {dtype}{how}, {device}: {fault}", self.name));
                };
                let mut measured = None;
                for (view, how) in [(false, ""), (true, ", transposed views")] {
                    let Some(runtime) = adapter.filter(|_| !view || (self.views && n <= 1_000_000)) else { continue };
                    match case.forward(runtime, view) {
                        Ok(got) if !view => measured = Some(got),
                        Ok(_) => (),
                        Err(fault) => failed(runtime, how, fault),
                    }
                    case.backward(runtime, view).unwrap_or_else(|fault| failed(runtime, how, fault));
                }
                for runtime in &simulated {
                    match self.simulate(&case, runtime, measured.as_deref(), tolerance) {
                        // What this device does not have, such as another subgroup size than a kernel is made for.
                        Err(Fault::Refused(error @ (Error::Feature { .. } | Error::Limit { .. }))) if !all => {
                            eprintln!("{} {shapes:?} left out: {error}", self.name);
                        }
                        Err(fault) => failed(runtime, "", fault),
                        Ok(()) => (),
                    }
                }
            }
        }
    }

    fn simulate(
        &self,
        case: &Case<'_>,
        runtime: &Runtime,
        measured: Option<&[f64]>,
        tolerance: Tolerance,
    ) -> std::result::Result<(), Fault> {
        let got = case.forward(runtime, false)?;
        if let Some(measured) = measured {
            // They may lie on two sides of the reference.
            compare(&got, measured, tolerance.doubled()).map_err(|e| format!("against the adapter: {e}"))?;
        }
        case.backward(runtime, false)
    }

    /// Central differences of `inner(d, reference(inputs))` over each element of one input.
    pub(super) fn differences(&self, arrays: &mut [Array], input: usize, d: &Array) -> Array {
        const STEP: f64 = 1e-5;
        let inner = |arrays: &[Array]| -> f64 {
            let out = (self.reference)(arrays);
            out.data.iter().zip(&d.data).map(|(a, b)| a * b).sum()
        };
        let mut out = arrays[input].clone();
        for i in 0..out.data.len() {
            let x = arrays[input].data[i];
            arrays[input].data[i] = x + STEP;
            let up = inner(arrays);
            arrays[input].data[i] = x - STEP;
            let down = inner(arrays);
            arrays[input].data[i] = x;
            out.data[i] = (up - down) / (2.0 * STEP);
        }
        out
    }
}

/// Runs the rows and reports every failure at once.
pub fn rows(rows: impl IntoIterator<Item = Row>) {
    let adapter = runtime();
    let simulated = simulated::usual();
    let mut failures = Vec::new();
    for row in rows {
        row.run(adapter.as_deref(), &simulated, false, &mut failures);
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Runs every case of the rows on these simulated devices alone, which must have what they need.
pub fn rows_on(devices: &[&str], rows: impl IntoIterator<Item = Row>) {
    let devices: Vec<_> = devices.iter().map(|text| simulated::runtime(&simulated::device(text))).collect();
    let mut failures = Vec::new();
    for row in rows {
        row.run(None, &devices, true, &mut failures);
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Pseudo-random values of `shape` in `range`, exactly representable in `dtype`; the same for one `seed`.
pub fn values(shape: &[usize], range: &Range<f64>, dtype: DType, seed: u64) -> Array {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
    Array::from_fn(shape, |_| {
        // splitmix64
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        let value = range.start + unit * (range.end - range.start);
        match dtype {
            DType::F32 => f64::from(value as f32),
            DType::F16 => half::f16::from_f64(value).to_f64(),
            _ => value.floor(),
        }
    })
}

/// `array` on the device as `dtype`.
pub fn upload(runtime: &Runtime, array: &Array, dtype: DType) -> Result<Tensor> {
    let data = &array.data;
    match dtype {
        DType::F32 => Tensor::from_slice(runtime, &data.iter().map(|v| *v as f32).collect::<Vec<_>>(), &array.shape),
        DType::F16 => {
            let data: Vec<_> = data.iter().map(|v| half::f16::from_f64(*v)).collect();
            Tensor::from_slice(runtime, &data, &array.shape)
        }
        DType::U32 => Tensor::from_slice(runtime, &data.iter().map(|v| *v as u32).collect::<Vec<_>>(), &array.shape),
        DType::I32 => Tensor::from_slice(runtime, &data.iter().map(|v| *v as i32).collect::<Vec<_>>(), &array.shape),
        DType::U8 => Tensor::from_slice(runtime, &data.iter().map(|v| *v as u8).collect::<Vec<_>>(), &array.shape),
    }
}

/// `array` on the device as a view with reversed strides and an offset.
pub fn upload_view(runtime: &Runtime, array: &Array, dtype: DType) -> Result<Tensor> {
    let rank = array.shape.len();
    let axes: Vec<usize> = (0..rank).rev().collect();
    let mut stored: Vec<usize> = array.shape.iter().rev().copied().collect();
    // One more index in front of the slowest axis, which the view leaves out.
    if let Some(first) = stored.first_mut() {
        *first += 1;
    }
    let padded = Array::from_fn(&stored, |index| {
        if rank == 0 {
            return array.data[0];
        }
        if index[0] == 0 {
            return 77.0;
        }
        let mut own: Vec<usize> = index.iter().rev().copied().collect();
        own[rank - 1] -= 1;
        array.at(&own)
    });
    let tensor = upload(runtime, &padded, dtype)?;
    if rank == 0 {
        return Ok(tensor);
    }
    tensor.slice(0, 1..stored[0])?.permute(&axes)
}

/// A tensor's elements as f64.
pub fn download(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(match tensor.dtype() {
        DType::F32 => tensor.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
        DType::F16 => tensor.to_vec::<half::f16>()?.into_iter().map(half::f16::to_f64).collect(),
        DType::U32 => tensor.to_vec::<u32>()?.into_iter().map(f64::from).collect(),
        DType::I32 => tensor.to_vec::<i32>()?.into_iter().map(f64::from).collect(),
        DType::U8 => tensor.to_vec::<u8>()?.into_iter().map(f64::from).collect(),
    })
}
