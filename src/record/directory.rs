//! The folder of one run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::events::{self, Event, Events};
use super::segments::{Segments, TableRow};
use crate::error::{Error, Result};
use crate::gpu::Caps;
use crate::model::{ModelFolder, WeightTable, open, read_weights, write_tensors};
use crate::train::Snapshot;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Under way, or killed.
    Running,
    /// Stopped by a signal; `--resume` goes on.
    Interrupted,
    /// All steps done.
    Finished,
}

/// `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// Version of the program that wrote it.
    pub version: String,
    /// How far the run has come.
    pub status: Status,
    /// When it began, UTC.
    pub started: String,
    /// When it was last resumed, if ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<String>,
    /// When it stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Seconds it ran, over all sittings.
    pub seconds: f64,
    /// Updates made when it stopped.
    pub steps_done: u64,
    /// Hash of configuration and format: equal runs on one adapter have equal bits.
    pub hash: String,
    /// Where the weights came from, if not from the seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// The adapter and what it can do.
    pub adapter: Value,
    /// The configuration, every default filled in.
    pub config: Value,
}

/// The time now, in words.
fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

impl Manifest {
    /// The manifest of a run that begins now.
    pub fn new(config: Value, caps: &Caps, from: Option<PathBuf>) -> Self {
        let format = 1;
        let hash = blake3::hash(format!("{format} {config}").as_bytes()).to_hex().to_string();
        Self {
            format,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            status: Status::Running,
            started: now(),
            resumed: None,
            stopped: None,
            seconds: 0.0,
            steps_done: 0,
            hash,
            from,
            adapter: serde_json::to_value(caps).unwrap_or_default(),
            config,
        }
    }
}

/// How far metrics and events belong to a checkpoint.
#[derive(Serialize, Deserialize)]
struct CheckpointState {
    step: u64,
    segments: u32,
    events_bytes: u64,
}

/// A run directory open for writing.
pub struct RunDir {
    path: PathBuf,
    manifest: Manifest,
    segments: Segments,
    events: Events,
}

impl RunDir {
    /// Begins a run in a folder that is new or empty.
    ///
    /// # Errors
    /// [`Error::Refused`] where the folder holds something; [`Error::Io`] where it cannot be written.
    pub fn create(path: &Path, manifest: Manifest) -> Result<Self> {
        if path.join("run.json").exists() {
            return Err(Error::Refused(format!(
                "{} already holds a run. Go on with it by --resume, or name another folder by --out",
                path.display()
            )));
        }
        let occupied = match std::fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io("cannot read", path)(error)),
        };
        if occupied {
            return Err(Error::Refused(format!("{} is not empty. Name a new folder by --out", path.display())));
        }
        std::fs::create_dir_all(path.join("checkpoints")).map_err(Error::io("cannot create", path))?;
        let segments = Segments::open(&path.join("metrics"), 0)?;
        let events = Events::open(&path.join("events.jsonl"), 0)?;
        let dir = Self { path: path.to_owned(), manifest, segments, events };
        dir.write_manifest()?;
        Ok(dir)
    }

    /// Opens a run to go on with it: behind its latest checkpoint, or from its beginning where it has
    /// none. What came after the checkpoint is dropped.
    ///
    /// # Errors
    /// [`Error::Refused`] where the folder holds no run; [`Error::Format`] where it is damaged.
    pub fn resume(path: &Path) -> Result<(Self, Option<u64>)> {
        let mut manifest = Self::read_manifest(path)?;
        let checkpoints = path.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).map_err(Error::io("cannot create", &checkpoints))?;
        let latest = checkpoint_steps(path)?.into_iter().next_back();
        let state = match latest {
            Some(step) => read_json(&checkpoint_path(path, step).join("state.json"))?,
            None => CheckpointState { step: 0, segments: 0, events_bytes: 0 },
        };
        let segments = Segments::open(&path.join("metrics"), state.segments)?;
        let events = Events::open(&path.join("events.jsonl"), state.events_bytes)?;
        manifest.status = Status::Running;
        manifest.resumed = Some(now());
        manifest.stopped = None;
        manifest.steps_done = state.step;
        let dir = Self { path: path.to_owned(), manifest, segments, events };
        dir.write_manifest()?;
        Ok((dir, latest))
    }

    /// Reads `run.json`.
    ///
    /// # Errors
    /// [`Error::Refused`] where the folder holds no run; [`Error::Format`] where it is damaged.
    pub fn read_manifest(path: &Path) -> Result<Manifest> {
        let file = path.join("run.json");
        if !file.exists() {
            return Err(Error::Refused(format!("{} holds no run: there is no run.json in it", path.display())));
        }
        read_json(&file)
    }

    /// Reads what happened.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read.
    pub fn read_events(path: &Path) -> Result<Vec<Event>> {
        events::read(&path.join("events.jsonl"))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `run.json` as it stands.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn write_manifest(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.manifest).unwrap_or_default();
        crate::files::write_whole(&self.path.join("run.json"), text.as_bytes())
    }

    /// Adds a row to the metric table.
    pub fn row(&mut self, row: &TableRow<'_>) {
        self.segments.push(row);
    }

    /// Rows waiting to be written.
    pub fn waiting(&self) -> usize {
        self.segments.waiting()
    }

    /// Writes waiting rows as a segment.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.segments.flush()
    }

    /// Appends an event.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn event(&mut self, step: u64, kind: &str, text: &str) -> Result<()> {
        self.events.push(&Event { step, kind: kind.to_owned(), text: text.to_owned() })
    }

    /// Saves a checkpoint; all rows of earlier steps must have been added. Keeps the latest `keep`, or
    /// all for 0.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written; the checkpoint before stays valid.
    pub fn checkpoint(&mut self, model: &crate::model::ModelConfig, snapshot: &Snapshot, keep: u32) -> Result<()> {
        self.flush()?;
        self.event(snapshot.step, "checkpoint", &format!("state saved at step {}", snapshot.step))?;
        let state =
            CheckpointState { step: snapshot.step, segments: self.segments.count(), events_bytes: self.events.sync()? };
        let place = checkpoint_path(&self.path, snapshot.step);
        let beside = place.with_extension("partial");
        remove_dir(&beside)?;
        remove_dir(&place)?;
        ModelFolder { config: model.clone(), replicas: snapshot.weights.clone() }.write(&beside)?;
        write_moments(&beside.join("optimizer.safetensors"), model, snapshot)?;
        let text = serde_json::to_string_pretty(&state).unwrap_or_default();
        crate::files::write_whole(&beside.join("state.json"), text.as_bytes())?;
        std::fs::rename(&beside, &place).map_err(Error::io("cannot write", &place))?;
        crate::files::sync_dir(place.parent())?;
        if keep > 0 {
            let steps = checkpoint_steps(&self.path)?;
            for step in &steps[..steps.len().saturating_sub(keep as usize)] {
                remove_dir(&checkpoint_path(&self.path, *step))?;
            }
        }
        Ok(())
    }

    /// Reads the checkpoint of a step.
    ///
    /// # Errors
    /// [`Error::Format`] where it is damaged or belongs to another model.
    pub fn read_checkpoint(path: &Path, step: u64, model: &crate::model::ModelConfig) -> Result<Snapshot> {
        let dir = checkpoint_path(path, step);
        let folder = ModelFolder::read(&dir)?;
        if folder.config != *model {
            return Err(Error::format(&dir, "is the checkpoint of another model than run.json describes"));
        }
        let file = dir.join("optimizer.safetensors");
        let bytes = std::fs::read(&file).map_err(Error::io("cannot read", &file))?;
        let tensors = open(&file, &bytes)?;
        let table = WeightTable::new(model);
        let first = read_weights(&file, &tensors, &table, "first.")?;
        let second = read_weights(&file, &tensors, &table, "second.")?;
        let state: CheckpointState = read_json(&dir.join("state.json"))?;
        Ok(Snapshot { step: state.step, weights: folder.replicas, first, second })
    }

    /// Writes how the run stands and what is still waiting.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn close(&mut self, status: Status, step: u64, seconds: f64) -> Result<()> {
        self.flush()?;
        self.events.sync()?;
        self.manifest.status = status;
        self.manifest.stopped = Some(now());
        self.manifest.steps_done = step;
        self.manifest.seconds += seconds;
        self.write_manifest()
    }
}

/// Steps of the checkpoints of a run, in order.
fn checkpoint_steps(run: &Path) -> Result<Vec<u64>> {
    let dir = run.join("checkpoints");
    let mut steps: Vec<u64> = std::fs::read_dir(&dir)
        .map_err(Error::io("cannot read", &dir))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
        .collect();
    steps.sort_unstable();
    Ok(steps)
}

fn checkpoint_path(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step:06}"))
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io("cannot read", path))?;
    serde_json::from_str(&text).map_err(|error| Error::format(path, format!("is damaged: {error}")))
}

fn write_moments(path: &Path, model: &crate::model::ModelConfig, snapshot: &Snapshot) -> Result<()> {
    let table = WeightTable::new(model);
    write_tensors(path, &table, &[("first.", &snapshot.first), ("second.", &snapshot.second)])
}
