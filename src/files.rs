//! Files that are either whole or not there.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file beside its place, syncs it, and renames it: after a crash the old file or the new one
/// is there, never a torn one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_through(&path.with_extension("partial"), path, bytes)
}

/// Like [`write_whole`], with the unfinished file at a place of the caller's choice in the same file system.
pub(crate) fn write_through(beside: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(beside).map_err(Error::io("cannot write", path))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    if let Err(error) = written {
        // Best effort: the error that matters is the one that was met first.
        let _ = std::fs::remove_file(beside);
        return Err(Error::io("cannot write", path)(error));
    }
    std::fs::rename(beside, path).map_err(Error::io("cannot write", path))?;
    sync_dir(path.parent())
}

/// Makes renames in a folder durable, where the system can.
pub(crate) fn sync_dir(dir: Option<&Path>) -> Result<()> {
    match dir {
        #[cfg(unix)]
        Some(dir) if !dir.as_os_str().is_empty() => {
            File::open(dir).and_then(|handle| handle.sync_all()).map_err(Error::io("cannot sync", dir))
        }
        _ => Ok(()),
    }
}
