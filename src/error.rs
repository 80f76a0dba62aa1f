//! The one error type of the library.

use std::path::{Path, PathBuf};

/// What the library returns instead of panicking.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong, each variant saying what was asked and what was there.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter fits the request.
    #[error("no adapter: {0}")]
    NoAdapter(String),
    /// The adapter or device could not do what was asked of it.
    #[error("device: {0}")]
    Device(String),
    /// The device is gone; nothing more can run on it.
    #[error("device lost: {0}")]
    DeviceLost(String),
    /// The device has no room, even after the pool was trimmed.
    #[error("out of device memory: {asked} bytes asked for, {report}")]
    OutOfMemory {
        /// Bytes of the allocation that failed.
        asked: u64,
        /// What the pool holds.
        report: String,
    },
    /// A size is past a limit of this adapter.
    #[error("{what}: {asked} asked, {adapter} allows {limit}")]
    Limit {
        /// The quantity, with its unit.
        what: String,
        /// The amount that was asked for.
        asked: u64,
        /// The adapter's limit.
        limit: u64,
        /// The adapter's name.
        adapter: String,
    },
    /// The adapter lacks a feature.
    #[error("{what} needs {feature}, which {adapter} does not have")]
    Feature {
        /// Who needs it.
        what: String,
        /// The missing feature.
        feature: String,
        /// The adapter's name.
        adapter: String,
    },
    /// Shapes that do not go together.
    #[error("{op}: {message}")]
    Shape {
        /// The op.
        op: &'static str,
        /// What was wanted and what came.
        message: String,
    },
    /// An element type an op does not take.
    #[error("{op}: {message}")]
    DType {
        /// The op.
        op: &'static str,
        /// What was wanted and what came.
        message: String,
    },
    /// An argument outside its range.
    #[error("{op}: {message}")]
    Argument {
        /// The op.
        op: &'static str,
        /// What was wanted and what came.
        message: String,
    },
    /// A kernel that a back end refused.
    #[error("kernel {kernel}: {message}")]
    Kernel {
        /// `family/entry`.
        kernel: String,
        /// The back end's message.
        message: String,
    },
    /// A file or folder that cannot be read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file that could not be written in the middle of a run; what was there before still is.
    #[error("{}: {message}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// A run that failed, such as a loss that is no number any more.
    #[error("{0}")]
    Failed(String),
    /// A run that a signal ended in good order.
    #[error("{message}")]
    Interrupted {
        /// The exit code that a shell expects: 128 + the signal's number.
        code: u8,
        /// What was saved, and how to go on.
        message: String,
    },
    /// Bad input that is not tied to a file: a flag, a name, a combination.
    #[error("{0}")]
    Input(String),
}

impl Error {
    /// A file's problem in one line.
    pub fn file(path: impl AsRef<Path>, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), message: message.to_string() }
    }

    /// What the system said about a file or folder, in one line.
    pub fn io(path: impl AsRef<Path>, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let message = match error.kind() {
            ErrorKind::NotFound => "no such file or folder".to_string(),
            ErrorKind::PermissionDenied => "permission denied".to_string(),
            ErrorKind::IsADirectory => "is a folder, wanted a file".to_string(),
            ErrorKind::NotADirectory => "a part of this path is a file, wanted a folder".to_string(),
            _ => error.to_string(),
        };
        Self::file(path, message)
    }

    pub(crate) fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Self::Shape { op, message: message.into() }
    }

    pub(crate) fn dtype(op: &'static str, message: impl Into<String>) -> Self {
        Self::DType { op, message: message.into() }
    }

    pub(crate) fn argument(op: &'static str, message: impl Into<String>) -> Self {
        Self::Argument { op, message: message.into() }
    }

    /// Whether the fault lies with what the user gave, so that a binary exits with 2 rather than 1.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        !matches!(
            self,
            Self::Device(_)
                | Self::DeviceLost(_)
                | Self::OutOfMemory { .. }
                | Self::Kernel { .. }
                | Self::Write { .. }
                | Self::Failed(_)
                | Self::Interrupted { .. }
        )
    }
}
