//! What `--input` binds: numbers from a file or made up, laid out as the binding's type asks for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use half::f16;

use super::flags::split;
use crate::data::npy;
use crate::philox::{Philox, stream};
use crate::sim::{Buffer, Layout};
use crate::{Error, Result};

/// Bytes of a binding, at most.
const MAX_BYTES: u64 = 1 << 28;

/// What one binding holds before a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The binding.
    pub name: String,
    /// Where its numbers come from.
    pub from: Numbers,
}

/// Where numbers come from; a shape may be left out where the binding's type has a size.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// A `.npy` file.
    File(PathBuf),
    /// Floats in -1..1, integers in 0..100.
    Random(Option<Vec<usize>>),
    /// Zeros.
    Zeros(Option<Vec<usize>>),
    /// Memory that nothing wrote.
    Unwritten(Option<Vec<usize>>),
    /// These, in order.
    Values(Vec<String>),
}

impl FromStr for Input {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, what) = split(text).map_err(|_| {
            Error::Input("expected NAME=FILE.npy or NAME=random|zeros|unwritten[:SHAPE] or NAME=values:1,2,3".into())
        })?;
        let (kind, rest) = what.split_once(':').map_or((what, None), |(kind, rest)| (kind, Some(rest)));
        let from = match (kind, rest) {
            ("random", shape) => Numbers::Random(shape.map(self::shape).transpose()?),
            ("zeros", shape) => Numbers::Zeros(shape.map(self::shape).transpose()?),
            ("unwritten", shape) => Numbers::Unwritten(shape.map(self::shape).transpose()?),
            ("values", Some(list)) => Numbers::Values(list.split(',').map(|v| v.trim().to_owned()).collect()),
            ("values", None) => return Err(Error::Input("expected values:1,2,3".into())),
            _ => Numbers::File(what.into()),
        };
        Ok(Self { name: name.into(), from })
    }
}

/// `64x32` as 64 and 32.
fn shape(text: &str) -> Result<Vec<usize>> {
    let sizes: Option<Vec<usize>> = text.split('x').map(|n| n.parse().ok().filter(|n| *n > 0)).collect();
    sizes.ok_or_else(|| Error::Input(format!("'{text}' is not a shape such as 64x32")))
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sized = |shape: &Option<Vec<usize>>| match shape {
            None => String::new(),
            Some(shape) => format!(":{}", shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")),
        };
        write!(f, "{}=", self.name)?;
        match &self.from {
            Numbers::File(path) => write!(f, "{}", path.display()),
            Numbers::Random(shape) => write!(f, "random{}", sized(shape)),
            Numbers::Zeros(shape) => write!(f, "zeros{}", sized(shape)),
            Numbers::Unwritten(shape) => write!(f, "unwritten{}", sized(shape)),
            Numbers::Values(values) => write!(f, "values:{}", values.join(",")),
        }
    }
}

/// A binding as the kernel declares it, or its immediates.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) layout: Layout,
    pub(super) min_bytes: u64,
    /// Whether it is padded to 16 bytes behind its last element, as the crate's own tensors are.
    pub(super) padded: bool,
    /// Its number in the order of declaration.
    pub(super) number: u32,
}

/// What a binding is filled with.
#[derive(Debug, Clone)]
pub(super) struct Filled {
    pub(super) shape: Vec<usize>,
    bytes: Vec<u8>,
    /// Bytes up to the last number, where nothing wrote them.
    unwritten: Option<u64>,
}

impl Filled {
    /// Memory for one run.
    pub(super) fn buffer(&self) -> Buffer {
        let Some(empty) = self.unwritten else { return Buffer::new(&self.bytes) };
        let buffer = Buffer::unwritten(self.bytes.len() as u64);
        buffer.mark_written(empty, self.bytes.len() as u64 - empty);
        buffer
    }

    /// The bytes; `None` where nothing wrote them.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.unwritten.is_none().then_some(&self.bytes)
    }
}

impl Slot {
    /// How many numbers of which types it takes, in words.
    pub(super) fn told(&self) -> String {
        let types = |layout: &Layout| layout.only_type().unwrap_or("mixed");
        match (self.layout.numbers(), &self.layout.array) {
            (Some(n), _) => format!("{} ({n} {})", self.name, types(&self.layout)),
            (None, Some(array)) if array.fields.len() > 1 => {
                format!("{} ({} by {})", self.name, types(&self.layout), array.fields.len())
            }
            (None, _) => format!("{} ({})", self.name, types(&self.layout)),
        }
    }

    fn wrong(&self, message: impl fmt::Display) -> Error {
        Error::Input(format!("--input {}: {message}", self.name))
    }

    /// Its bytes, and the bytes up to its last number, for `n` numbers.
    fn sizes(&self, n: u64) -> Result<(u64, u64)> {
        let each = self.layout.array.as_ref().map_or(0, |array| array.fields.len() as u64);
        let first = self.layout.fields.len() as u64;
        let whole = if self.padded && each > 0 { first + n.saturating_sub(first).next_multiple_of(each) } else { n };
        let Some(bytes) = self.layout.bytes(whole) else {
            return Err(match self.layout.numbers() {
                Some(wanted) => self.wrong(format!("{n} numbers given, {wanted} wanted")),
                None if first == 0 => self.wrong(format!("{n} numbers given, which come by {each}")),
                None => self.wrong(format!("{n} numbers given, wanted {first} and then {each} for each element")),
            });
        };
        let end = n.checked_sub(1).and_then(|last| self.layout.place(last)).map_or(0, |(at, name)| at + width(name));
        let bytes = if self.padded { bytes.next_multiple_of(16) } else { bytes }.max(self.min_bytes);
        if bytes > MAX_BYTES {
            return Err(self.wrong(format!("{bytes} bytes, {MAX_BYTES} at most")));
        }
        Ok((bytes, end))
    }

    /// What `input` puts into it.
    pub(super) fn fill(&self, input: &Input, seed: u64) -> Result<Filled> {
        if self.layout == Layout::default() {
            return Err(self.wrong("its type holds too much to be filled number by number"));
        }
        let sized = |shape: &Option<Vec<usize>>| match (shape, self.layout.numbers()) {
            (Some(shape), _) => Ok(shape.clone()),
            (None, Some(n)) => Ok(vec![n as usize]),
            (None, None) => Err(self.wrong("its length is open: give a SHAPE, as in zeros:64x32")),
        };
        match &input.from {
            Numbers::File(path) => {
                let npy = npy::read(path)?;
                let told = format!("{} of type {}", path.display(), npy.dtype);
                self.encode(npy.shape, |k, name| {
                    let value = npy.values.get(k).copied().unwrap_or(0.0);
                    convert(value, npy.float, name).map_err(|e| format!("{told}, element {k}: {e}"))
                })
            }
            Numbers::Random(shape) => {
                let mut random = Philox::new(seed, stream::INPUTS, self.number);
                self.encode(sized(shape)?, |_, name| {
                    Ok(match name {
                        "f32" | "f16" => f64::from(2.0 * random.uniform_f32() - 1.0),
                        _ => f64::from(random.below(100)),
                    })
                })
            }
            Numbers::Zeros(shape) => self.encode(sized(shape)?, |_, _| Ok(0.0)),
            Numbers::Unwritten(shape) => {
                let zeros = self.encode(sized(shape)?, |_, _| Ok(0.0))?;
                let (_, end) = self.sizes(zeros.shape.iter().product::<usize>() as u64)?;
                Ok(Filled { unwritten: Some(end), ..zeros })
            }
            Numbers::Values(texts) => self.encode(vec![texts.len()], |k, name| parse(&texts[k], name)),
        }
    }

    fn encode(
        &self,
        shape: Vec<usize>,
        mut value: impl FnMut(usize, &str) -> std::result::Result<f64, String>,
    ) -> Result<Filled> {
        let n = shape.iter().try_fold(1_usize, |n, size| n.checked_mul(*size)).filter(|n| *n as u64 <= MAX_BYTES);
        let n = n.ok_or_else(|| self.wrong(format!("past {MAX_BYTES} numbers")))?;
        let (n_bytes, _) = self.sizes(n as u64)?;
        let mut bytes = vec![0; n_bytes as usize];
        for k in 0..n {
            let (at, name) = self.layout.place(k as u64).ok_or_else(|| self.wrong("too many numbers"))?;
            let value = value(k, name).map_err(|e| self.wrong(e))?;
            let at = at as usize;
            match name {
                "f16" => bytes[at..at + 2].copy_from_slice(&f16::from_f64(value).to_le_bytes()),
                "u32" => bytes[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()),
                "i32" => bytes[at..at + 4].copy_from_slice(&(value as i32).to_le_bytes()),
                _ => bytes[at..at + 4].copy_from_slice(&(value as f32).to_le_bytes()),
            }
        }
        Ok(Filled { shape, bytes, unwritten: None })
    }

    /// The first `n` numbers of what it holds behind a run.
    pub(super) fn decode(&self, bytes: &[u8], n: usize) -> Vec<f64> {
        let number = |k: usize| -> Option<f64> {
            let (at, name) = self.layout.place(k as u64)?;
            let word = bytes.get(at as usize..)?;
            Some(match name {
                "f16" => f64::from(f16::from_le_bytes(*word.first_chunk()?)),
                "u32" => f64::from(u32::from_le_bytes(*word.first_chunk()?)),
                "i32" => f64::from(i32::from_le_bytes(*word.first_chunk()?)),
                _ => f64::from(f32::from_le_bytes(*word.first_chunk()?)),
            })
        };
        (0..n).map_while(number).collect()
    }
}

fn width(name: &str) -> u64 {
    if name == "f16" { 2 } else { 4 }
}

/// A number for a binding of type `name`; floats are rounded, everything else must fit.
fn convert(value: f64, float: bool, name: &str) -> std::result::Result<f64, String> {
    let fits = match name {
        "u32" => !float && (0.0..=f64::from(u32::MAX)).contains(&value),
        "i32" => !float && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value),
        "f16" => {
            let rounded = f16::from_f64(value).to_f64();
            if float { rounded.is_finite() || !value.is_finite() } else { rounded == value }
        }
        _ => {
            let rounded = f64::from(value as f32);
            if float { rounded.is_finite() || !value.is_finite() } else { rounded == value }
        }
    };
    if fits { Ok(value) } else { Err(format!("{value} does not fit {name}")) }
}

/// A number that is written out, as type `name`.
fn parse(text: &str, name: &str) -> std::result::Result<f64, String> {
    let bad = || format!("'{text}' is not a number of type {name}");
    if matches!(name, "f32" | "f16") {
        return convert(text.parse().map_err(|_| bad())?, true, name);
    }
    let whole = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).map(i64::from).map_err(|_| bad())?,
        None => text.trim_end_matches(['u', 'i']).parse::<i64>().map_err(|_| bad())?,
    };
    convert(whole as f64, false, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Program, Source};

    /// The slots of a kernel that binds `declared` as `x`.
    fn slot(declared: &str, padded: bool) -> Slot {
        let text = format!("enable f16;\n{declared}\n@compute @workgroup_size(1) fn main() {{ let p = &x; }}");
        let program = Program::new(Source::new("x", text), "main", &[]).unwrap();
        let info = program.bindings()[0].clone();
        Slot { name: info.name, layout: info.layout, min_bytes: info.min_bytes, padded, number: 0 }
    }

    fn fill(slot: &Slot, what: &str) -> Result<Filled> {
        slot.fill(&format!("x={what}").parse()?, 0)
    }

    #[test]
    fn numbers_lie_where_the_type_wants_them() {
        let mixed = slot(
            "struct P { n: u32, scale: f32, by: vec3<f32>, last: i32 } @group(0) @binding(0) var<uniform> x: P;",
            false,
        );
        let filled = fill(&mixed, "values:7,0.5,1,2,3,-1").unwrap();
        let words: Vec<u32> = filled.bytes.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
        let float = f32::to_bits;
        assert_eq!(words, [7, float(0.5), 0, 0, float(1.0), float(2.0), float(3.0), u32::MAX]);
        assert_eq!(mixed.decode(&filled.bytes, 6), [7.0, 0.5, 1.0, 2.0, 3.0, -1.0]);
        assert_eq!(mixed.told(), "x (6 mixed)");

        // Each vec3 is followed by four bytes of padding.
        let vectors = slot("@group(0) @binding(0) var<storage> x: array<vec3<f32>>;", false);
        let filled = fill(&vectors, "values:1,2,3,4,5,6").unwrap();
        assert_eq!((filled.bytes.len(), &filled.bytes[16..20]), (32, &4.0_f32.to_le_bytes()[..]));
        let halves = slot("@group(0) @binding(0) var<storage> x: array<f16>;", true);
        let filled = fill(&halves, "values:1,-2,0.1").unwrap();
        assert_eq!((filled.bytes.len(), halves.decode(&filled.bytes, 2)), (16, vec![1.0, -2.0]));
        let tail = slot("struct L { n: u32, list: array<u32> } @group(0) @binding(0) var<storage> x: L;", false);
        assert_eq!(fill(&tail, "values:3,0x10").unwrap().bytes[4], 16);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let floats = slot("@group(0) @binding(0) var<storage> x: array<vec4<f16>>;", false);
        let whole = slot("@group(0) @binding(0) var<storage> x: array<u32, 3>;", false);
        for (slot, what, part) in [
            (&floats, "zeros:6", "6 numbers given, which come by 4"),
            (&floats, "zeros", "its length is open"),
            (&floats, "zeros:0x4", "'0x4' is not a shape"),
            (&floats, "values:1,2,3,1e9", "1000000000 does not fit f16"),
            (&floats, "zeros:99999x99999", "268435456"),
            (&whole, "zeros:4", "4 numbers given, 3 wanted"),
            (&whole, "values:1,2,-3", "-3 does not fit u32"),
            (&whole, "values:1,2,3.5", "'3.5' is not a number of type u32"),
            (&whole, "no.npy", "no.npy: no such file"),
        ] {
            let line = fill(slot, what).unwrap_err().to_string();
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(fill(&whole, "zeros").unwrap().shape, [3]);
        assert!(convert(1.5, true, "u32").is_err() && convert(16_777_217.0, false, "f32").is_err());
        assert!(convert(0.1, true, "f16").is_ok() && convert(f64::NAN, true, "f16").is_ok());
    }

    #[test]
    fn inputs_are_written_as_they_are_read() {
        for text in ["a=b.npy", "a=random:2x3", "a=zeros", "a=unwritten:5", "a=values:1,2"] {
            assert_eq!(text.parse::<Input>().unwrap().to_string(), text);
        }
        for text in ["a", "=zeros", "a=", "a=values", "a=random:x", "a=zeros:-1"] {
            assert!(text.parse::<Input>().is_err(), "{text}");
        }
    }
}
