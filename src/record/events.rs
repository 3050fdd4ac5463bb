//! `events.jsonl`: one JSON object a line, append-only.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Something that happened at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Updates made when it happened.
    pub step: u64,
    /// What it is: `start`, `resume`, `birth`, `death`, `checkpoint`, `warning`, `stop`, `finish`.
    pub kind: String,
    /// For people.
    pub text: String,
}

/// The file, open for appending.
pub(super) struct Events {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Events {
    /// Opens the file and drops what lies beyond `bytes`.
    pub(super) fn open(path: &Path, bytes: u64) -> Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(Error::io("cannot write", path))?;
        let bytes = file.metadata().map_err(Error::io("cannot read", path))?.len().min(bytes);
        file.set_len(bytes).map_err(Error::io("cannot write", path))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io("cannot write", path))?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// Appends one event.
    pub(super) fn push(&mut self, event: &Event) -> Result<()> {
        let line = serde_json::to_string(event).unwrap_or_default() + "\n";
        self.file.write_all(line.as_bytes()).map_err(Error::io("cannot write", &self.path))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Makes everything so far durable; returns its length.
    pub(super) fn sync(&self) -> Result<u64> {
        self.file.sync_all().map_err(Error::io("cannot sync", &self.path))?;
        Ok(self.bytes)
    }
}

/// Reads all events; a torn last line is left out.
pub(super) fn read(path: &Path) -> Result<Vec<Event>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("cannot read", path)(error)),
    }
}
