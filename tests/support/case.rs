//! A case of a row: one set of inputs with what must come of them, to be tried on any number of devices.

use super::compare::{Tolerance, compare};
use super::row::{Row, download, upload, upload_view, values};
use super::simulated;
use leanvision::reference::Array;
use leanvision::{DType, Error, Runtime, Tensor};
use std::fmt;

/// Cases with more elements are left out of the gradient check: each costs two runs of the reference.
const GRAD_ELEMENTS: usize = 4_000;

/// Why a case failed.
pub enum Fault {
    /// The op answered with an error.
    Refused(Error),
    /// The result, or what the op did on the way, is wrong.
    Wrong(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Wrong(message) => f.write_str(message),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::Wrong(message)
    }
}

pub struct Case<'a> {
    row: &'a Row,
    dtype: DType,
    tolerance: Tolerance,
    inputs: Vec<Array>,
    want: Array,
    gradients: Option<Gradients>,
}

struct Gradients {
    /// Inputs that want one.
    of: &'static [usize],
    tolerance: Tolerance,
    /// The gradient of the output, random.
    d_out: Array,
    want: Vec<Array>,
}

impl<'a> Case<'a> {
    /// Draws the inputs and computes the references.
    pub fn new(row: &'a Row, seed: u64, shapes: &[&[usize]], dtype: DType, tolerance: Tolerance) -> Self {
        let draw = |(i, shape): (usize, &&[usize])| values(shape, &row.range, dtype, seed * 31 + i as u64);
        let mut inputs: Vec<Array> = shapes.iter().enumerate().map(draw).collect();
        if let Some(first) = inputs.first_mut() {
            let n = first.data.len();
            for (j, value) in row.special.iter().enumerate().filter(|_| n > row.special.len()) {
                first.data[(j * 7 + 1) % n] = *value;
            }
        }
        let want = (row.reference)(&inputs);
        let n: usize = inputs.iter().map(|x| x.data.len()).sum();
        let tolerance_of = |tolerance: Tolerance| match dtype {
            DType::F32 => Some(tolerance),
            DType::F16 => row.grad_f16,
            _ => None,
        };
        let grad = row.grad.filter(|_| n <= GRAD_ELEMENTS);
        let grad = grad.and_then(|(of, tolerance)| Some((of, tolerance_of(tolerance)?)));
        let gradients = grad.map(|(of, tolerance)| {
            let d_out = values(&want.shape, &(-1.0..1.0), dtype, seed + 977);
            let want = of.iter().map(|&i| row.differences(&mut inputs, i, &d_out)).collect();
            Gradients { of, tolerance, d_out, want }
        });
        Self { row, dtype, tolerance, inputs, want, gradients }
    }

    fn upload(&self, runtime: &Runtime, view: bool) -> Result<Vec<Tensor>, Fault> {
        let upload = if view { upload_view } else { upload };
        Ok(self.inputs.iter().map(|array| upload(runtime, array, self.dtype)).collect::<leanvision::Result<_>>()?)
    }

    /// The op's result, compared with the reference.
    pub fn forward(&self, runtime: &Runtime, view: bool) -> Result<Vec<f64>, Fault> {
        settle(runtime, || {
            let out = (self.row.op)(&self.upload(runtime, view)?)?;
            if out.shape() != self.want.shape {
                return Err(format!("shape {:?}, {:?} wanted", out.shape(), self.want.shape).into());
            }
            let got = download(&out)?;
            compare(&got, &self.want.data, self.tolerance)?;
            Ok(got)
        })
    }

    /// Compares the gradients of `inner(d, op(inputs))` for a random `d`: all at once, then of each input alone.
    pub fn backward(&self, runtime: &Runtime, view: bool) -> Result<(), Fault> {
        let Some(Gradients { of, tolerance, d_out, want }) = &self.gradients else { return Ok(()) };
        settle(runtime, || {
            let tensors = self.upload(runtime, view)?;
            let each: Vec<Vec<usize>> = of.iter().map(|&i| vec![i]).collect();
            let sets = [of.to_vec()].into_iter().chain(each).take(if of.len() == 1 { 1 } else { usize::MAX });
            for set in sets {
                let mut leaves = tensors.clone();
                for &i in &set {
                    leaves[i] = tensors[i].require_grad()?;
                }
                let out = (self.row.op)(&leaves)?;
                if out.is_empty() {
                    continue;
                }
                let mut gradients = out.backward_with(&upload(runtime, d_out, out.dtype())?)?;
                drop(out);
                for &i in &set {
                    let d = gradients.take(&leaves[i]).ok_or_else(|| format!("no gradient of input {i}"))?;
                    if d.shape() != self.inputs[i].shape || d.dtype() != self.dtype {
                        return Err(format!("gradient of input {i}: {:?} {}", d.shape(), d.dtype()).into());
                    }
                    let want = of.iter().position(|j| *j == i).map(|j| &want[j]).expect("in the list");
                    compare(&download(&d)?, &want.data, *tolerance)
                        .map_err(|e| format!("gradient of input {i} of {set:?}: {e}"))?;
                }
            }
            Ok(())
        })
    }
}

/// The outcome of `work`, and whether anything was written past its end or otherwise done wrong on the way.
fn settle<T>(runtime: &Runtime, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let result = work();
    if let Some(found) = simulated::findings(runtime) {
        return Err(Fault::Wrong(match result {
            Ok(_) => found,
            Err(fault) => format!("{fault}\n{found}"),
        }));
    }
    let result = result?;
    match runtime.damaged_guards()? {
        0 => Ok(result),
        n => Err(format!("{n} buffers were written past their end").into()),
    }
}
