//! The one error type. Every message says what was wrong and what to do next.

use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in words a user can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter was found, or the one that was does not open.
    #[error("{0}")]
    NoAdapter(String),
    /// There are adapters, and none is the one that was asked for.
    #[error("{asked}; there are:{}", list.iter().enumerate().map(|(i, name)| format!("\n  {i}  {name}")).collect::<String>())]
    UnknownAdapter {
        /// What is not there.
        asked: String,
        /// Names of those there are, by index.
        list: Vec<String>,
    },
    /// A configuration value is unknown, of the wrong type, or out of its range.
    #[error("{0}")]
    Config(String),
    /// An op was recorded with operands whose shapes do not fit together.
    #[error("{op}: {detail}")]
    Shape {
        /// The op that refused.
        op: &'static str,
        /// What was expected and what came.
        detail: String,
    },
    /// Something is not defined for this op or model.
    #[error("{0}")]
    Unsupported(String),
    /// A buffer or grid exceeds what the device allows.
    #[error("{0}")]
    Limit(String),
    /// A WGSL kernel does not compile.
    #[error("kernel {kernel}: {detail}")]
    Shader {
        /// The kernel's name.
        kernel: String,
        /// naga's or the driver's message, with the original file and line where known.
        detail: String,
    },
    /// The device reported an error or was lost.
    #[error("the device failed: {0}")]
    Device(String),
    /// A file could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried, as in "cannot read".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file was read but does not hold what it should.
    #[error("{}: {detail}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        detail: String,
    },
    /// A folder for a run that holds something already, or that another process is writing to.
    #[error("{} {detail}", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What is there.
        detail: &'static str,
    },
    /// The request would destroy or mix up something that exists.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// Attaches an action and a path to an I/O error, for `map_err`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// [`Error::Limit`] with the advice that helps against every size that is too large.
    pub(crate) fn too_large(what: impl std::fmt::Display) -> Self {
        Self::Limit(format!("{what}. Use fewer replicas, a smaller batch or a smaller model"))
    }

    /// A file that does not hold what it should.
    pub fn format(path: impl Into<PathBuf>, detail: impl Into<String>) -> Self {
        Self::Format { path: path.into(), detail: detail.into() }
    }
}

/// Fails with [`Error::Config`] unless the setting of that name lies in its range.
pub(crate) fn check_between<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<()> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(Error::Config(format!("{name} = {value} must lie between {} and {}", range.start(), range.end())))
    }
}
