//! Files that are either whole or not there, and JSON as people's programs write it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use serde::de::DeserializeOwned;

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

/// Reads JSON that must hold `what`, as in "a list of pairs [a, b]". A byte order mark before it is passed over.
pub(crate) fn json<T: DeserializeOwned>(path: &Path, bytes: &[u8], what: &str) -> Result<T> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::format(path, "is UTF-16, and JSON is UTF-8: save it as UTF-8"));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(text).map_err(|error| {
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<serde::de::IgnoredAny>();
        let lines = values.by_ref().take_while(std::result::Result::is_ok).take(2).count();
        let detail = if lines > 1 {
            let line = text[..values.byte_offset()].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!(
                "must hold {what} as one JSON value, and a second one ends in line {line}. If these are JSON lines, put [ before them, ] behind them and a comma between any two"
            )
        } else {
            format!("must hold {what}: {error}")
        };
        Error::format(path, detail)
    })
}
