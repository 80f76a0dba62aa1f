//! Weights in safetensors files: read with every problem named at once, written under their published names.
//!
//! The `safetensors` crate stops at a file's first problem and writes its metadata in the order of a hash map. Its types
//! are used here, its whole-file functions are not: a report lists everything, and equal weights give equal files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::{Index, Range};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorInfo};

use super::param::{ParamId, ParamList};
use super::report::{LoadReport, Misfit};
use crate::files::write_whole;
use crate::{DType, Error, Result};

/// Longest header that is read, in bytes. A network of 10,000 tensors needs about 1 MB.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Largest size of an axis that a network is read off; a dimension past it would only overflow products.
const MAX_DIM: usize = 1 << 20;
/// Most problems of a header that are spelled out.
const MAX_PROBLEMS: usize = 20;
/// What wrappers put in front of every name.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// A tensor of any type as a file holds it, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTensor {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Elements in row-major order, little endian.
    pub bytes: Vec<u8>,
}

/// One tensor of a file.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// Shape as published.
    pub shape: Vec<usize>,
    dtype: Dtype,
    /// Bytes behind the header.
    range: Range<usize>,
}

impl TensorEntry {
    /// Element type as the format spells it: `F32`, `BF16`.
    #[must_use]
    pub fn dtype(&self) -> String {
        self.dtype.to_string()
    }

    /// Whether the elements can be widened to f32 without loss.
    #[must_use]
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }
}

/// Names, types and shapes of a safetensors file, in the order of their data. `num_batches_tracked` counters are left
/// out, a wrapper's `module.` is taken off.
#[derive(Debug, Clone)]
pub struct Header {
    path: PathBuf,
    names: Vec<String>,
    entries: HashMap<String, TensorEntry>,
    metadata: BTreeMap<String, String>,
}

impl Header {
    /// Reads and checks the header of the file at `path`; the tensors' data is only measured.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, is no safetensors file, is truncated, or if its tensors overlap, leave
    /// gaps, or do not have the size their shape and type need: all such tensors are named.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Ok(open(path.as_ref())?.0)
    }

    /// A header with f32 tensors of these names and shapes and no file behind it, as if it stood at `path`.
    #[must_use]
    pub fn from_shapes(path: impl AsRef<Path>, shapes: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut header = Self::empty(path.as_ref());
        for (name, shape) in shapes {
            header.names.push(name.clone());
            header.entries.insert(name, TensorEntry { shape, dtype: Dtype::F32, range: 0..0 });
        }
        header
    }

    fn empty(path: &Path) -> Self {
        Self { path: path.to_path_buf(), names: vec![], entries: HashMap::new(), metadata: BTreeMap::new() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tensor names in the order of their data.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// A tensor by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.entries.get(name)
    }

    /// A tensor's published shape.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Leaves out the tensors of these names.
    pub(crate) fn forget(&mut self, unwanted: impl Fn(&str) -> bool) {
        self.names.retain(|name| !unwanted(name));
        self.entries.retain(|name, _| !unwanted(name));
    }

    /// The file's own remarks.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Whether a layer has a weight or a bias here.
    pub(crate) fn has_layer(&self, layer: &str) -> bool {
        self.entries.contains_key(&format!("{layer}.weight")) || self.entries.contains_key(&format!("{layer}.bias"))
    }

    /// Number of items numbered from 0 behind `prefix`: one more than the largest number, unless most numbers below it
    /// are unused, then how many there are.
    pub(crate) fn depth(&self, prefix: &str) -> usize {
        let numbers = self.names().filter_map(|n| n.strip_prefix(prefix)?.split_once('.')?.0.parse().ok());
        let numbers: BTreeSet<usize> = numbers.collect();
        let past_last = numbers.last().map_or(0, |n| n.saturating_add(1));
        if past_last <= 2 * numbers.len() { past_last } else { numbers.len() }
    }

    /// The size that most of the named tensors have on the axis beside their name; ties go to the first. One tensor of
    /// the wrong shape then does not change what the network is taken for.
    pub(crate) fn vote(&self, axes: &[(&str, usize)]) -> Option<usize> {
        let dims: Vec<usize> = axes
            .iter()
            .filter_map(|&(name, axis)| self.shape(name)?.get(axis).copied())
            .filter(|dim| (1..=MAX_DIM).contains(dim))
            .collect();
        // max_by_key keeps the last of equals.
        dims.iter().rev().max_by_key(|&dim| dims.iter().filter(|d| *d == dim).count()).copied()
    }

    /// Outputs of the layer `head`.
    pub(crate) fn classes(&self, head: &str) -> Option<usize> {
        self.vote(&[(&format!("{head}.weight"), 0), (&format!("{head}.bias"), 0)])
    }

    /// Compares with the tensors a network needs; `network` names it in the report.
    #[must_use]
    pub fn compare(&self, params: &ParamList, network: &str) -> LoadReport {
        let mut misfits = Vec::new();
        for want in params {
            match self.get(&want.name) {
                None => misfits.push(Misfit::Missing { name: want.name.clone(), shape: want.shape.clone() }),
                Some(got) if got.shape != want.shape => misfits.push(Misfit::Shape {
                    name: want.name.clone(),
                    want: want.shape.clone(),
                    got: got.shape.clone(),
                }),
                Some(got) if !got.is_float() => {
                    misfits.push(Misfit::Dtype { name: want.name.clone(), dtype: got.dtype() });
                }
                Some(_) => {}
            }
        }
        let wanted: BTreeSet<&str> = params.iter().map(|p| p.name.as_str()).collect();
        for name in self.names().filter(|n| !wanted.contains(n)) {
            misfits.push(Misfit::Extra { name: name.to_string(), shape: self.entries[name].shape.clone() });
        }
        LoadReport { network: network.to_string(), misfits }
    }
}

/// A safetensors file in memory, read once.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    header: Header,
    data: Vec<u8>,
}

impl Checkpoint {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (header, file, n_bytes) = open(path)?;
        let mut data = Vec::new();
        data.try_reserve_exact(n_bytes).map_err(|_| Error::file(path, format!("no memory for {n_bytes} bytes")))?;
        file.take(n_bytes as u64 + 1).read_to_end(&mut data).map_err(|e| Error::io(path, &e))?;
        if data.len() != n_bytes {
            return Err(Error::file(path, "changed while it was read"));
        }
        Ok(Self { header, data })
    }

    /// Names, types and shapes.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The values of every tensor in `params`, f16 and bf16 widened to f32. `network` names the network in the report.
    ///
    /// # Errors
    /// [`Error::File`] with the whole [`LoadReport`] unless every tensor is there, has its shape and a float type, and
    /// nothing else is.
    pub fn load(&self, params: &ParamList, network: &str) -> Result<Weights> {
        let report = self.header.compare(params, network);
        if !report.is_fit() {
            return Err(Error::file(&self.header.path, report));
        }
        Ok(Weights(params.iter().map(|p| self.values(&self.header.entries[&p.name])).collect()))
    }

    /// Leaves out the tensors of these names.
    pub(crate) fn forget(&mut self, unwanted: impl Fn(&str) -> bool) {
        self.header.forget(unwanted);
    }

    /// Takes out the tensors whose names begin with `prefix`, which their names lose; those of a type that a [`crate::Tensor`] cannot
    /// have stay.
    pub(crate) fn take_raw(&mut self, prefix: &str) -> Vec<RawTensor> {
        let mut taken = Vec::new();
        let Header { names, entries, .. } = &mut self.header;
        names.retain(|name| {
            let known = |entry: &TensorEntry| {
                [DType::F32, DType::F16, DType::U32, DType::I32, DType::U8]
                    .into_iter()
                    .find(|dtype| stored_as(*dtype) == entry.dtype)
            };
            let found =
                name.strip_prefix(prefix).zip(entries.get(name)).and_then(|(short, e)| Some((short, e, known(e)?)));
            let Some((short, entry, dtype)) = found else { return true };
            let bytes = self.data[entry.range.clone()].to_vec();
            taken.push(RawTensor { name: short.to_string(), dtype, shape: entry.shape.clone(), bytes });
            entries.remove(name);
            false
        });
        taken
    }

    /// The values of the float tensor `name`, f16 and bf16 widened to f32; `None` if there is no such tensor, or no floats.
    #[must_use]
    pub fn floats(&self, name: &str) -> Option<Vec<f32>> {
        self.header.get(name).filter(|entry| entry.is_float()).map(|entry| self.values(entry))
    }

    /// A float tensor's values.
    fn values(&self, entry: &TensorEntry) -> Vec<f32> {
        let bytes = &self.data[entry.range.clone()];
        let halves = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match entry.dtype {
            Dtype::F16 => halves().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => halves().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }
}

/// The values of a network's tensors, in the order of its [`ParamList`] and in published layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights(Vec<Vec<f32>>);

impl Weights {
    /// Takes one vector per tensor of `params`, in its order.
    ///
    /// # Errors
    /// [`Error::Argument`] if their number or a length does not fit.
    pub fn new(params: &ParamList, values: Vec<Vec<f32>>) -> Result<Self> {
        let weights = Self(values);
        weights.check(params)?;
        Ok(weights)
    }

    /// Whether these are the tensors of `params`, by their number and lengths.
    pub(crate) fn check(&self, params: &ParamList) -> Result<()> {
        let fail = |message: String| Err(Error::argument("weights", message));
        if self.0.len() != params.len() {
            return fail(format!("{} tensors for a network of {}", self.0.len(), params.len()));
        }
        match params.iter().zip(&self.0).find(|(param, values)| param.len() != values.len()) {
            Some((param, values)) => fail(format!("{} values for {} {:?}", values.len(), param.name, param.shape)),
            None => Ok(()),
        }
    }

    /// Those of the first tensors, which `params` lists: a network without its head.
    ///
    /// # Errors
    /// [`Error::Argument`] if they do not fit.
    pub fn first(&self, params: &ParamList) -> Result<Self> {
        Self::new(params, self.0.iter().take(params.len()).cloned().collect())
    }

    /// The vectors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Vec<f32>> {
        self.0.iter()
    }

    /// The vectors themselves.
    #[must_use]
    pub fn into_inner(self) -> Vec<Vec<f32>> {
        self.0
    }

    /// Writes a safetensors file of f32 tensors under their published names, in the order of `params`; equal input gives
    /// equal bytes. The file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, params: &ParamList, metadata: &BTreeMap<String, String>) -> Result<()> {
        self.save_with(path, params, &[], metadata)
    }

    /// As [`Weights::save`], with tensors of any type behind the weights.
    ///
    /// # Errors
    /// As [`Weights::save`].
    pub fn save_with(
        &self,
        path: impl AsRef<Path>,
        params: &ParamList,
        raw: &[RawTensor],
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        let path = path.as_ref();
        let mut header = serde_json::Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".into(), serde_json::json!(metadata));
        }
        let mut start = 0;
        for (param, values) in params.iter().zip(&self.0) {
            let end = start + 4 * values.len();
            let info = TensorInfo { dtype: Dtype::F32, shape: param.shape.clone(), data_offsets: (start, end) };
            header.insert(param.name.clone(), serde_json::json!(info));
            start = end;
        }
        for RawTensor { name, dtype, shape, bytes } in raw {
            let end = start + bytes.len();
            let info = TensorInfo { dtype: stored_as(*dtype), shape: shape.clone(), data_offsets: (start, end) };
            header.insert(name.clone(), serde_json::json!(info));
            start = end;
        }
        let mut text = serde_json::Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        write_whole(path, |file| {
            file.write_all(&(text.len() as u64).to_le_bytes())?;
            file.write_all(&text)?;
            self.0.iter().flatten().try_for_each(|v| file.write_all(&v.to_le_bytes()))?;
            raw.iter().try_for_each(|tensor| file.write_all(&tensor.bytes))
        })
    }
}

/// How the format calls an element type.
fn stored_as(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::U32 => Dtype::U32,
        DType::I32 => Dtype::I32,
        DType::U8 => Dtype::U8,
    }
}

impl Index<ParamId> for Weights {
    type Output = Vec<f32>;

    fn index(&self, id: ParamId) -> &Vec<f32> {
        &self.0[id.index()]
    }
}

/// Opens a file and reads its header: the header, the file at its first data byte, the number of data bytes.
fn open(path: &Path) -> Result<(Header, File, usize)> {
    let fail = |message: String| Error::file(path, message);
    let mut file = File::open(path).map_err(|e| Error::io(path, &e))?;
    let meta = file.metadata().map_err(|e| Error::io(path, &e))?;
    if meta.is_dir() {
        return Err(fail("a folder, where a safetensors file is needed".into()));
    }
    let n_file = meta.len();
    let mut start = [0; 8];
    if n_file < 8 {
        return Err(fail(format!("{n_file} bytes are too few for a safetensors file")));
    }
    file.read_exact(&mut start).map_err(|e| Error::io(path, &e))?;
    let n_header = u64::from_le_bytes(start);
    if n_header > n_file - 8 {
        let rest = n_file - 8;
        return Err(fail(match other_format(&start) {
            Some(other) => format!("{other}: no safetensors file"),
            None => format!("truncated or no safetensors file: header of {n_header} bytes, {rest} are there"),
        }));
    }
    if n_header > MAX_HEADER_BYTES {
        return Err(fail(format!("header of {n_header} bytes; up to {MAX_HEADER_BYTES} are read")));
    }
    let mut text = vec![0; n_header as usize];
    file.read_exact(&mut text).map_err(|e| Error::io(path, &e))?;
    let n_data = usize::try_from(n_file - 8 - n_header).map_err(|_| fail(format!("{n_file} bytes are too many")))?;
    let header = parse(path, &text, n_data)?;
    Ok((header, file, n_data))
}

/// What a file that is no safetensors file often is.
fn other_format(start: &[u8; 8]) -> Option<&'static str> {
    match start {
        [b'P', b'K', 3, 4, ..] => Some("a zip archive, as torch.save writes"),
        [0x80, 2..=5, ..] => Some("a Python pickle"),
        [b'G', b'G', b'U', b'F', ..] => Some("a GGUF file"),
        [0x89, b'H', b'D', b'F', ..] => Some("an HDF5 file"),
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' '] => Some("a Git LFS pointer whose file was not fetched"),
        _ => None,
    }
}

/// Parses and checks a header in front of `n_data` bytes.
fn parse(path: &Path, text: &[u8], n_data: usize) -> Result<Header> {
    let fail = |message: String| Error::file(path, message);
    let parsed: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(|e| fail(format!("no safetensors header: {e}")))?;
    let mut header = Header::empty(path);
    let (mut problems, mut tensors) = (Vec::new(), Vec::new());
    for (name, value) in parsed {
        if name == "__metadata__" {
            match serde_json::from_value(value) {
                Ok(metadata) => header.metadata = metadata,
                Err(e) => problems.push(format!("__metadata__: {e}")),
            }
            continue;
        }
        match serde_json::from_value::<TensorInfo>(value) {
            Ok(info) => match n_bytes(&info) {
                Some(n) if info.data_offsets.0.checked_add(n) == Some(info.data_offsets.1) => {
                    tensors.push((name, info));
                }
                n => problems.push(wrong_size(&name, &info, n)),
            },
            Err(e) => problems.push(format!("{name}: {e}")),
        }
    }
    tensors.sort_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
    let n_needed = tensors.iter().map(|(_, info)| info.data_offsets.1).max().unwrap_or(0);
    if n_needed > n_data {
        problems.push(format!("truncated: its tensors take {n_needed} bytes, {n_data} are there"));
    } else if n_needed < n_data && problems.is_empty() {
        problems.push(format!("{} bytes behind the last tensor", n_data - n_needed));
    }
    // Tensors that could not be placed leave gaps that are no news.
    let all_placed = problems.is_empty();
    let mut last: (&str, usize) = ("the header", 0);
    for (name, info) in &tensors {
        let (start, end) = info.data_offsets;
        if start < last.1 {
            problems.push(format!("{name} starts at byte {start}, inside {}, which ends at {}", last.0, last.1));
        } else if start > last.1 && all_placed {
            problems.push(format!("bytes {} to {start} belong to no tensor", last.1));
        }
        if end >= last.1 {
            last = (name, end);
        }
    }
    for (name, info) in tensors {
        let mut short = name.as_str();
        while let Some(rest) = WRAPPERS.iter().find_map(|w| short.strip_prefix(w)) {
            short = rest;
        }
        if short.ends_with("num_batches_tracked") {
            continue;
        }
        let entry =
            TensorEntry { shape: info.shape, dtype: info.dtype, range: info.data_offsets.0..info.data_offsets.1 };
        if header.entries.insert(short.to_string(), entry).is_some() {
            problems.push(format!("{short} is there twice, with and without a wrapper's prefix"));
        } else {
            header.names.push(short.to_string());
        }
    }
    if problems.is_empty() {
        return Ok(header);
    }
    let n_more = problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    if n_more > 0 {
        problems.push(format!("and {n_more} more"));
    }
    Err(fail(format!("damaged safetensors file: {}", problems.join("; "))))
}

/// Bytes that a tensor's shape and type need, `None` past the range of usize or between bytes.
fn n_bytes(info: &TensorInfo) -> Option<usize> {
    let n = info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = n.checked_mul(info.dtype.bitsize())?;
    (bits % 8 == 0).then_some(bits / 8)
}

fn wrong_size(name: &str, info: &TensorInfo, n: Option<usize>) -> String {
    let TensorInfo { dtype, shape, data_offsets: (start, end) } = info;
    let needs = n.map_or("more bytes than can be counted".to_string(), |n| format!("{n} bytes"));
    format!("{name}: {dtype} {shape:?} takes {needs}, its data goes from {start} to {end}")
}
