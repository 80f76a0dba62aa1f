//! Adapters in files: a header, the trained numbers, and nothing that follows from them.
//!
//! A safetensors file. Its metadata are the format's version, what fixes the adapter ([`AdapterSpec`]) and the SHA-256 of the network
//! it belongs to ([`AdapterFile::base`]); its tensors are the trained ones under their names. Coefficients in fewer bits are
//! whole numbers, each plus `2^(bits-1) - 1`, the first in the lowest bits, with one scale for each factor.

use std::collections::BTreeMap;
use std::path::Path;

use super::adapter::COEFFICIENTS;
use super::method::AdapterSpec;
use crate::nn::{Checkpoint, ParamList, RawTensor, Weights};
use crate::ops::basis::{group_step, nearest_multiple};
use crate::{DType, Error, Result};

/// The format that is written, and the newest that is read.
const VERSION: u32 = 1;
const FORMAT: &str = "leanvision adapter";
/// The scales of coefficients in fewer bits.
const SCALES: &str = "coefficients.scale";

/// An adapter as a file holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// What fixes it.
    pub spec: AdapterSpec,
    /// SHA-256 of the network it belongs to, in hexadecimal: of the names, shapes and values of all tensors but the head's.
    pub base: String,
    /// The network in words.
    pub network: String,
    /// Names of the classes that its head tells apart.
    pub classes: Vec<String>,
    /// Input normalisation.
    pub normalize: String,
    /// Bits of a coefficient, 32 for floats.
    pub bits: u32,
    /// Seed and share by which data that come in one piece were divided.
    pub split: (u64, f64),
    /// Trained tensors: name, shape and values as published.
    pub tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl AdapterFile {
    /// Writes the file, whole or not at all. Coefficients in fewer bits are rounded by groups of `k`.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written; [`Error::Input`] for other bits than 32, 8, 4, 3 and 2.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut raw = Vec::new();
        for (name, shape, values) in &self.tensors {
            if name == COEFFICIENTS && self.bits < 32 {
                let packed = Packed::new(values, self.spec.k, self.bits)?;
                raw.push(of_floats(SCALES, &[packed.scales.len()], &packed.scales));
                let (shape, bytes) = (vec![packed.bytes.len()], packed.bytes);
                raw.push(RawTensor { name: name.clone(), dtype: DType::U8, shape, bytes });
            } else {
                raw.push(of_floats(name, shape, values));
            }
        }
        // Bytes last, so that floats stay at whole words.
        raw.sort_by_key(|tensor| tensor.dtype == DType::U8);
        let spec = serde_json::to_string(&self.spec).map_err(|e| Error::Input(format!("adapter: {e}")))?;
        let classes = serde_json::to_string(&self.classes).map_err(|e| Error::Input(format!("adapter: {e}")))?;
        let metadata = [
            ("format", FORMAT.to_string()),
            ("version", VERSION.to_string()),
            ("spec", spec),
            ("base", self.base.clone()),
            ("network", self.network.clone()),
            ("normalize", self.normalize.clone()),
            ("classes", classes),
            ("bits", self.bits.to_string()),
            ("split", format!("{} {}", self.split.0, self.split.1)),
        ];
        let metadata: BTreeMap<String, String> = metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        let none = ParamList::default();
        Weights::new(&none, Vec::new())?.save_with(path, &none, &raw, &metadata)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is no adapter, damaged, of a newer version or an unknown method, or that holds what is no number.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fail = |message: String| Error::file(path, message);
        let mut checkpoint = Checkpoint::read(path)?;
        let metadata = checkpoint.header().metadata().clone();
        let get = |key: &str| metadata.get(key).map(String::as_str);
        if get("format") != Some(FORMAT) {
            return Err(fail("no adapter of this program: its metadata do not say so".into()));
        }
        let number = |key: &str| get(key).and_then(|text| text.parse::<u32>().ok());
        match number("version") {
            Some(1..=VERSION) => {}
            Some(version) => return Err(fail(format!("an adapter of format {version}; up to {VERSION} is read"))),
            None => return Err(fail("an adapter without a version".into())),
        }
        let missing = |key: &str| fail(format!("an adapter without {key} in its metadata"));
        let text = |key: &str| get(key).map(String::from).ok_or_else(|| missing(key));
        let spec: AdapterSpec = serde_json::from_str(&text("spec")?).map_err(|e| fail(format!("its spec: {e}")))?;
        spec.check().map_err(|e| fail(format!("its spec: {e}")))?;
        let classes = serde_json::from_str(&text("classes")?).map_err(|e| fail(format!("its classes: {e}")))?;
        let bits = number("bits").ok_or_else(|| missing("bits"))?;
        let split = get("split").and_then(|text| text.split_once(' '));
        let split = split.and_then(|(seed, share)| Some((seed.parse().ok()?, share.parse().ok()?)));
        let split = split.ok_or_else(|| missing("split"))?;
        let raw = checkpoint.take_raw("");
        if let Some(name) = checkpoint.header().names().next() {
            return Err(fail(format!("{name} has a type that adapters do not have")));
        }
        let scales = raw.iter().find(|tensor| tensor.name == SCALES).map(floats).unwrap_or_default();
        let mut tensors = Vec::new();
        for tensor in raw.iter().filter(|tensor| tensor.name != SCALES) {
            let (shape, values) = match tensor.dtype {
                DType::F32 => (tensor.shape.clone(), floats(tensor)),
                DType::U8 if tensor.name == COEFFICIENTS && bits < 32 => {
                    let packed = Packed { scales: scales.clone(), bytes: tensor.bytes.clone() };
                    let values = packed.unpack(spec.k, bits).map_err(|e| fail(e.to_string()))?;
                    (vec![values.len()], values)
                }
                other => return Err(fail(format!("{} of type {other}, floats wanted", tensor.name))),
            };
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                return Err(fail(format!("{} holds a value that is no number, at {i}", tensor.name)));
            }
            tensors.push((tensor.name.clone(), shape, values));
        }
        Ok(Self {
            spec,
            base: text("base")?,
            network: text("network")?,
            classes,
            normalize: text("normalize")?,
            bits,
            split,
            tensors,
        })
    }

    /// The values of a trained tensor.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.tensors.iter().find(|(n, ..)| n == name).map(|(.., values)| values.as_slice())
    }
}

fn of_floats(name: &str, shape: &[usize], values: &[f32]) -> RawTensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    RawTensor { name: name.into(), dtype: DType::F32, shape: shape.to_vec(), bytes }
}

fn floats(tensor: &RawTensor) -> Vec<f32> {
    tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Numbers in few bits with a scale for each group.
#[derive(Debug, Clone, PartialEq)]
struct Packed {
    scales: Vec<f32>,
    bytes: Vec<u8>,
}

/// An error unless coefficients come in this many bits.
///
/// # Errors
/// [`Error::Input`] then.
pub(super) fn check_bits(bits: u32) -> Result<()> {
    if [2, 3, 4, 8, 32].contains(&bits) {
        return Ok(());
    }
    Err(Error::Input(format!("coefficients of {bits} bits: 2, 3, 4, 8 or 32 wanted")))
}

/// `values` as so many bits hold them, by groups of `k`: the same numbers as [`crate::ops::basis::Rounding`] gives to
/// finite ones.
///
/// # Errors
/// [`Error::Input`] for other bits than 32, 8, 4, 3 and 2.
pub(super) fn rounded(values: &[f32], k: usize, bits: u32) -> Result<Vec<f32>> {
    if bits == 32 { Ok(values.to_vec()) } else { Packed::new(values, k, bits)?.unpack(k, bits) }
}

impl Packed {
    fn new(values: &[f32], k: usize, bits: u32) -> Result<Self> {
        check_bits(bits)?;
        let largest = ((1_u32 << (bits - 1)) - 1) as f32;
        let mut packed = Self { scales: Vec::new(), bytes: vec![0; (values.len() * bits as usize).div_ceil(8)] };
        for (g, group) in values.chunks(k).enumerate() {
            let scale = group_step(group, bits);
            packed.scales.push(scale);
            for (i, &value) in group.iter().enumerate() {
                let step = nearest_multiple(value, scale).clamp(-largest, largest);
                put(&mut packed.bytes, (g * k + i) * bits as usize, bits, (step + largest) as u32);
            }
        }
        Ok(packed)
    }

    fn unpack(&self, k: usize, bits: u32) -> Result<Vec<f32>> {
        check_bits(bits)?;
        let n = self.scales.len() * k;
        let wanted = (n * bits as usize).div_ceil(8);
        if self.bytes.len() != wanted {
            let message = format!(
                "coefficients of {} bytes, {} scales of {k} need {wanted}",
                self.bytes.len(),
                self.scales.len()
            );
            return Err(Error::Input(message));
        }
        let largest = ((1_u32 << (bits - 1)) - 1) as f32;
        let value = |i: usize| (take(&self.bytes, i * bits as usize, bits) as f32 - largest) * self.scales[i / k];
        Ok((0..n).map(value).collect())
    }
}

fn put(bytes: &mut [u8], at: usize, bits: u32, value: u32) {
    (0..bits as usize).for_each(|b| bytes[(at + b) / 8] |= ((value >> b & 1) as u8) << ((at + b) % 8));
}

fn take(bytes: &[u8], at: usize, bits: u32) -> u32 {
    (0..bits as usize).map(|b| u32::from(bytes[(at + b) / 8] >> ((at + b) % 8) & 1) << b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bits_hold_the_nearest_steps() {
        let values: Vec<f32> = (0..37).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0).chain([0.0; 3]).collect();
        for bits in [2, 3, 4, 8] {
            let packed = Packed::new(&values, 10, bits).unwrap();
            assert_eq!(packed.bytes.len(), (40 * bits as usize).div_ceil(8));
            let back = packed.unpack(10, bits).unwrap();
            for (group, (old, new)) in values.chunks(10).zip(back.chunks(10)).enumerate() {
                let largest = old.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                let step = largest / ((1 << (bits - 1)) - 1) as f32;
                for (a, b) in old.iter().zip(new) {
                    assert!((a - b).abs() <= 0.5001 * step, "{bits} bits, group {group}: {a} became {b}");
                }
                assert!(new.iter().any(|v| (v.abs() - largest).abs() <= 1e-6), "the largest is kept");
            }
        }
        assert!(Packed::new(&values, 10, 5).is_err());
        assert_eq!(Packed::new(&[0.0; 4], 4, 3).unwrap().unpack(4, 3).unwrap(), [0.0; 4]);
    }
}
