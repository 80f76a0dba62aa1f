//! The flags of `gpubench sanitize`; a field is a flag.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::input::Input;
use crate::sim::{Checks, Schedule};
use crate::tensor::DType;
use crate::{Error, Result};

/// What to run in the simulator, on what, and how.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_long_help = "Examples:
  gpubench sanitize softmax --subgroup 8,32
  gpubench sanitize kernel.wgsl --groups 4 --input x=random:1000 --input y=unwritten:1000 --output y=y.npy")]
pub struct SanitizeFlags {
    /// A WGSL file, a family of this crate's kernels, or `all`
    #[arg(value_name = "FAMILY|FILE.wgsl")]
    pub target: String,
    /// The entry point; may be left out where a file has only one
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Value of an override constant; those left out keep their default, in a FAMILY the first value in use
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',')]
    pub set: Vec<Setting>,
    /// Element types of a FAMILY's kernel, one for each of its aliases or one for all: f32, f16, u32, i32, u8
    #[arg(long, value_name = "TYPE", value_delimiter = ',', value_parser = dtype)]
    pub types: Vec<DType>,
    /// Subgroup sizes: 4, 8, 16, 32, 64, 128
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "8,32,128", value_parser = subgroup)]
    pub subgroup: Vec<u32>,
    /// Schedules: straight, reversed, random or random:SEED, interleaved likewise (workgroups take turns), alone
    #[arg(long, value_name = "ORDER", value_delimiter = ',', default_value = "straight,reversed,random:1")]
    #[serde(serialize_with = "texts")]
    pub schedule: Vec<Schedule>,
    /// What a binding holds: NAME=FILE.npy, or NAME= and random:SHAPE, zeros:SHAPE, unwritten:SHAPE, values:1,2,3
    ///
    /// SHAPE counts numbers, such as 64x64; 100 elements of vec4 are 100x4, and padding does not count. It may be left out
    /// where the type says the size. Random floats lie in -1..1, random integers in 0..100; --seed changes them. Values go
    /// to the fields of a struct in order. What a kernel only writes is `unwritten`: the numbers it leaves out are found.
    #[arg(long, value_name = "NAME=WHAT")]
    #[serde(serialize_with = "texts")]
    pub input: Vec<Input>,
    /// Workgroups along x, y and z
    #[arg(long, value_name = "X[,Y,Z]", default_value = "1,1,1")]
    #[serde(serialize_with = "text")]
    pub groups: Groups,
    /// Checks to leave out
    #[arg(long, value_enum, value_name = "CHECK", value_delimiter = ',')]
    pub no_check: Vec<CheckName>,
    /// Checks to add: non-finite is off unless asked for
    #[arg(long, value_enum, value_name = "CHECK", value_delimiter = ',')]
    pub check: Vec<CheckName>,
    /// Rounds that a loop may go
    #[arg(long, value_name = "N", default_value_t = 1 << 24)]
    pub loop_limit: u32,
    /// Saves what a binding holds behind the first run
    #[arg(long, value_name = "NAME=FILE.npy")]
    pub output: Vec<Output>,
    /// Outputs of which the kernel writes only a part are right
    #[arg(long)]
    pub partial_outputs: bool,
}

fn text<T: Display, S: Serializer>(value: &T, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn texts<T: Display, S: Serializer>(values: &[T], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(ToString::to_string))
}

fn subgroup(text: &str) -> Result<u32> {
    let size = text.parse().ok().filter(|n: &u32| n.is_power_of_two() && (4..=128).contains(n));
    size.ok_or_else(|| Error::Input("expected 4, 8, 16, 32, 64 or 128".into()))
}

fn dtype(text: &str) -> Result<DType> {
    let all = [DType::F32, DType::F16, DType::U32, DType::I32, DType::U8];
    let found = all.into_iter().find(|dtype| dtype.to_string() == text);
    found.ok_or_else(|| Error::Input("expected f32, f16, u32, i32 or u8".into()))
}

/// A name and what is said of it.
pub(super) fn split(text: &str) -> Result<(&str, &str)> {
    let parts = text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
    parts.ok_or_else(|| Error::Input("expected NAME=VALUE".into()))
}

/// A value of an override constant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The constant.
    pub name: String,
    /// Its value.
    pub value: f64,
}

impl FromStr for Setting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, value) = split(text)?;
        let number = match value {
            "true" => Some(1.0),
            "false" => Some(0.0),
            _ => value.parse().ok(),
        };
        let value = number.ok_or_else(|| Error::Input(format!("'{value}' is not a number")))?;
        Ok(Self { name: name.into(), value })
    }
}

/// A binding to save.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// The binding.
    pub name: String,
    /// The `.npy` file.
    pub path: PathBuf,
}

impl FromStr for Output {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        split(text).map(|(name, path)| Self { name: name.into(), path: path.into() })
    }
}

/// Workgroups along x, y and z.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups(pub [u32; 3]);

impl FromStr for Groups {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Input("expected X, X,Y or X,Y,Z with 1 to 65535 along each axis".into());
        let mut groups = [1; 3];
        let parts: Vec<&str> = text.split(',').collect();
        if parts.len() > 3 {
            return Err(bad());
        }
        for (slot, part) in groups.iter_mut().zip(parts) {
            *slot = part.parse().ok().filter(|n| (1..=65_535).contains(n)).ok_or_else(bad)?;
        }
        Ok(Self(groups))
    }
}

impl Display for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [x, y, z] = self.0;
        write!(f, "{x},{y},{z}")
    }
}

/// A group of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    /// Races in workgroup memory and storage
    Races,
    /// Accesses past the end
    Bounds,
    /// Reads of memory nothing wrote
    Unwritten,
    /// Barriers and subgroup operations in divergent flow
    Divergence,
    /// Divisions by zero, wide shifts, overflow of i32 and f16
    Arithmetic,
    /// NaN or infinity out of finite numbers
    NonFinite,
}

impl SanitizeFlags {
    /// The checks to run.
    #[must_use]
    pub fn checks(&self) -> Checks {
        let mut checks = Checks::default();
        let named = |names: &[CheckName], on: bool| names.iter().map(|name| (*name, on)).collect::<Vec<_>>();
        for (name, on) in [named(&self.check, true), named(&self.no_check, false)].concat() {
            *match name {
                CheckName::Races => &mut checks.races,
                CheckName::Bounds => &mut checks.bounds,
                CheckName::Unwritten => &mut checks.unwritten,
                CheckName::Divergence => &mut checks.divergence,
                CheckName::Arithmetic => &mut checks.arithmetic,
                CheckName::NonFinite => &mut checks.non_finite,
            } = on;
        }
        checks
    }

    /// Whether the target is a file rather than a family.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.target.ends_with(".wgsl") || self.target.contains(['/', '\\', '.'])
    }

    /// Finds out whether the flags go together.
    ///
    /// # Errors
    /// [`Error::Input`] naming the flag that does not.
    pub fn check(&self) -> Result<()> {
        if self.is_file() && !self.types.is_empty() {
            return Err(Error::Input("--types is for kernels of a FAMILY; a file names its own types".into()));
        }
        let one_kernel = self.is_file() || self.entry.is_some();
        let given = [
            ("--set", !self.set.is_empty()),
            ("--types", !self.types.is_empty()),
            ("--input", !self.input.is_empty()),
            ("--output", !self.output.is_empty()),
            ("--groups", self.groups.0 != [1; 3]),
            ("--partial-outputs", self.partial_outputs),
        ];
        match given.iter().find(|(_, given)| *given && !one_kernel) {
            None => Ok(()),
            Some((flag, _)) => Err(Error::Input(format!("{flag} is for one kernel: name its --entry, or a FILE.wgsl"))),
        }
    }
}
