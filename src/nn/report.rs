//! What did not fit between a file's tensors and a network's.

use std::fmt;

/// One tensor that did not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The network needs it, the file lacks it.
    Missing {
        /// Published name.
        name: String,
        /// Shape the network needs.
        shape: Vec<usize>,
    },
    /// The file has it, the network has no use for it.
    Extra {
        /// Published name.
        name: String,
        /// Shape in the file.
        shape: Vec<usize>,
    },
    /// Another shape than the network needs.
    Shape {
        /// Published name.
        name: String,
        /// Shape the network needs.
        want: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A type that is not widened to f32.
    Dtype {
        /// Published name.
        name: String,
        /// Type in the file.
        dtype: String,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, shape } => write!(f, "missing {name} {shape:?}"),
            Self::Extra { name, shape } => write!(f, "extra {name} {shape:?}"),
            Self::Shape { name, want, got } => write!(f, "mis-shaped {name} {got:?}, needed {want:?}"),
            Self::Dtype { name, dtype } => write!(f, "{name} is {dtype}, F32, F16 or BF16 is read"),
        }
    }
}

/// Everything that did not fit. Prints a headline and the tensors: in one line where they are few, else one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// The network the file was compared with.
    pub network: String,
    /// The tensors that did not fit, in the order of the network, then the extra ones in that of the file.
    pub misfits: Vec<Misfit>,
}

/// Most tensors that stand in the headline's own line.
const MAX_INLINE: usize = 8;
/// Most tensors that are listed.
const MAX_LISTED: usize = 1000;

impl LoadReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.misfits.is_empty()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_fit() {
            return write!(f, "fits {}", self.network);
        }
        let count = |pick: fn(&Misfit) -> bool| self.misfits.iter().filter(|m| pick(m)).count();
        let counts = [
            (count(|m| matches!(m, Misfit::Missing { .. })), "missing"),
            (count(|m| matches!(m, Misfit::Extra { .. })), "extra"),
            (count(|m| matches!(m, Misfit::Shape { .. })), "mis-shaped"),
            (count(|m| matches!(m, Misfit::Dtype { .. })), "of another type"),
        ];
        let counts: Vec<String> = counts.iter().filter(|c| c.0 > 0).map(|(n, what)| format!("{n} {what}")).collect();
        write!(f, "does not fit {} ({} tensors)", self.network, counts.join(", "))?;
        let (first, between) = if self.misfits.len() <= MAX_INLINE { (": ", "; ") } else { (":\n  ", "\n  ") };
        for (i, misfit) in self.misfits.iter().take(MAX_LISTED).enumerate() {
            write!(f, "{}{misfit}", if i == 0 { first } else { between })?;
        }
        match self.misfits.len().saturating_sub(MAX_LISTED) {
            0 => Ok(()),
            n => write!(f, "{between}and {n} more"),
        }
    }
}
