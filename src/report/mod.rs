//! One self-contained HTML file from a run directory.

use std::path::{Path, PathBuf};

use crate::error::Result;

/// Writes `report.html`.
///
/// # Errors
/// Where the run cannot be read or the file not be written.
pub fn write(run: &Path) -> Result<PathBuf> {
    let page = run.join("report.html");
    crate::files::write_whole(&page, b"")?;
    Ok(page)
}
