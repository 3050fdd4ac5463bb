//! The folder of one run.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::catalog::Catalog;
use super::events::{self, Event, Events, What};
use super::fork::Origin;
use super::segments::{Segments, TableRow};
use crate::error::{Error, Result};
use crate::gpu::Caps;
use crate::model::{ModelConfig, ModelFolder, Tensors, WeightTable, read_weights, write_tensors};
use crate::train::{Row, Snapshot};

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// Under way, or killed.
    Running,
    /// Stopped by a signal; `--resume` goes on.
    Interrupted,
    /// All steps done.
    Finished,
}

/// What a directory holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunKind {
    /// A model in training.
    #[default]
    Run,
    /// A model that was measured once.
    Measurement,
    /// A battery of interventions on a pretrained model.
    Scan,
    /// The same on one model at several steps of its training.
    Series,
    /// A run that was disturbed at several times, with the runs that did.
    Study,
}

impl RunKind {
    /// With its article.
    pub fn words(self) -> &'static str {
        match self {
            Self::Run => "a run",
            Self::Measurement => "the measurement of a model",
            Self::Scan => "the scan of a model",
            Self::Study => "a study of windows",
            Self::Series => "a series of scans",
        }
    }
}

/// `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// What the directory holds.
    #[serde(default)]
    pub kind: RunKind,
    /// What no other run has, and every checkpoint of this one. Empty where a version before wrote it.
    #[serde(default)]
    pub id: String,
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
    /// Hash of configuration and format.
    pub hash: String,
    /// Which run it goes on from, and where it left that, if it is a fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<Origin>,
    /// Where the weights came from, if not from the seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// The files of that folder that were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<PathBuf>,
    /// Content of every file the run depends on, as BLAKE3 hashes, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contents: BTreeMap<PathBuf, String>,
    /// The adapter and what it can do.
    pub adapter: Value,
    /// Cadences that were lengthened to keep within `measure.budget`, by metric.
    #[serde(default)]
    pub cadences: BTreeMap<String, u64>,
    /// What measuring cost, where that was found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measuring: Option<Value>,
    /// The configuration, every default filled in.
    pub config: Value,
}

/// The time now, in words.
fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

/// Version of the layout.
const FORMAT: u32 = 2;

/// A word that no other run has.
fn unique() -> String {
    let (now, process) = (std::time::SystemTime::now(), std::process::id());
    blake3::hash(format!("{now:?} {process}").as_bytes()).to_hex()[..16].to_owned()
}

fn hash(config: &Value) -> String {
    blake3::hash(format!("{FORMAT} {config}").as_bytes()).to_hex().to_string()
}

impl Manifest {
    /// Fails where a directory holds something else than it must; `wanted` ends the sentence.
    ///
    /// # Errors
    /// [`Error::Refused`] saying what it holds.
    pub fn must_be(&self, run: &Path, kind: RunKind, wanted: &str) -> Result<()> {
        if self.kind == kind {
            return Ok(());
        }
        Err(Error::Refused(format!("{} holds {}, {wanted}", run.display(), self.kind.words())))
    }

    /// The manifest of a run that begins now.
    pub fn new(config: Value, cadences: BTreeMap<String, u64>, caps: &Caps, from: Option<PathBuf>) -> Self {
        let hash = hash(&config);
        Self {
            format: FORMAT,
            kind: RunKind::Run,
            id: unique(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            status: Status::Running,
            started: now(),
            resumed: None,
            stopped: None,
            seconds: 0.0,
            steps_done: 0,
            hash,
            fork: None,
            from,
            weights: Vec::new(),
            contents: BTreeMap::new(),
            adapter: serde_json::to_value(caps).unwrap_or_default(),
            cadences,
            measuring: None,
            config,
        }
    }

    /// The same of a fork, which begins where it left another run.
    #[must_use]
    pub fn forked(self, origin: Origin) -> Self {
        Self { steps_done: origin.step, fork: Some(origin), ..self }
    }

    /// The same of a directory that holds something else than a run.
    #[must_use]
    pub fn of_kind(self, kind: RunKind) -> Self {
        Self { kind, ..self }
    }

    /// Fails where a checkpoint was saved by another run than this.
    ///
    /// # Errors
    /// [`Error::Refused`], with what to do; [`Error::Io`] and [`Error::Format`] where the checkpoint cannot be read.
    pub fn check_owns(&self, checkpoint: &Path) -> Result<()> {
        let file = checkpoint.join("state.json");
        if !file.exists() {
            // The weights alone, which go on with nothing.
            return Ok(());
        }
        let state: CheckpointState = read_json(&file)?;
        self.check_saved(checkpoint, &state)
    }

    fn check_saved(&self, checkpoint: &Path, state: &CheckpointState) -> Result<()> {
        if self.id.is_empty() || state.run.is_empty() || self.id == state.run {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "{} is a checkpoint of another run than the one it lies in, whose table and split do not belong to it. Move it out of this folder; from there it is measured by `thermoscope measure`, and trained on by `thermoscope run PRESET|FILE.toml --from`",
            checkpoint.display()
        )))
    }

    /// The same, knowing the content of the files that the task reads and of the folder that weights are from.
    ///
    /// # Errors
    /// [`Error::Io`] where one cannot be read.
    pub fn knowing(mut self, files: &[PathBuf]) -> Result<Self> {
        if let Some(from) = &self.from {
            self.weights = ModelFolder::files(from)?;
        }
        for path in files.iter().chain(&self.weights) {
            self.contents.insert(path.clone(), content(path)?);
        }
        Ok(self)
    }

    /// The adapter that the run was on, where this is another, on which its bits may differ.
    pub fn moved(&self, caps: &Caps) -> Option<String> {
        let now = serde_json::to_value(caps).unwrap_or_default();
        let moved = ["name", "backend", "driver"].iter().any(|key| self.adapter[*key] != now[*key]);
        moved.then(|| self.adapter["name"].as_str().unwrap_or("another adapter").to_owned())
    }

    /// Fails where the configuration does not have its hash any more.
    ///
    /// # Errors
    /// [`Error::Format`] saying so, of the run in this folder.
    pub fn check_hash(&self, run: &Path) -> Result<()> {
        if self.hash == hash(&self.config) {
            return Ok(());
        }
        Err(Error::format(
            run.join("run.json"),
            "was edited: its configuration does not have its hash any more. Undo that, or begin anew in another folder",
        ))
    }

    /// Fails where a file that the task reads has changed since the run began.
    ///
    /// # Errors
    /// [`Error::Format`] naming it; [`Error::Io`] where it cannot be read.
    pub fn check_files(&self) -> Result<()> {
        self.check_those(|path| !self.is_of_weights(path))
    }

    /// Fails where the folder that weights are from has changed since the run began.
    ///
    /// # Errors
    /// As [`Manifest::check_files`].
    pub fn check_weights(&self) -> Result<()> {
        self.check_those(|path| self.is_of_weights(path))
    }

    /// Whether a file is of the folder that weights are from.
    pub fn is_of_weights(&self, path: &Path) -> bool {
        self.weights.iter().any(|file| file == path)
    }

    /// The same for some of the files that the run depends on.
    ///
    /// # Errors
    /// As [`Manifest::check_files`].
    pub fn check_those(&self, which: impl Fn(&Path) -> bool) -> Result<()> {
        for (path, known) in self.contents.iter().filter(|(path, _)| which(path)) {
            if content(path)? != *known {
                return Err(Error::format(
                    path,
                    "has changed since the run began, and the run depends on what it held then. Put that back, or begin anew in another folder",
                ));
            }
        }
        Ok(())
    }
}

/// The BLAKE3 hash of a file's content.
fn content(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(Error::io("cannot read", path))?;
    hasher.update_reader(file).map_err(Error::io("cannot read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// How far metrics and events belong to a checkpoint.
#[derive(Default, Serialize, Deserialize)]
struct CheckpointState {
    /// [`Manifest::id`] of the run that saved it.
    #[serde(default)]
    run: String,
    step: u64,
    segments: u32,
    events_bytes: u64,
    /// See [`Snapshot::loss_scale`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    loss_scale: Vec<f32>,
}

/// A run directory open for writing.
pub struct RunDir {
    /// Held while the run is written, so that no second process writes too.
    _lock: File,
    /// When the time was last added to the manifest's.
    since: Instant,
    path: PathBuf,
    manifest: Manifest,
    segments: Segments,
    events: Events,
}

/// A run that goes on: see [`RunDir::go_on`].
pub struct GoesOn {
    /// The directory.
    pub dir: RunDir,
    /// The state at the checkpoint that it goes on from; none where it goes on from its beginning.
    pub snapshot: Option<Snapshot>,
    /// What is wrong with later checkpoints: they are set aside as `checkpoints/unreadable-step-NNNNNN`.
    pub unreadable: Vec<Error>,
    /// That it goes on on another adapter than before, where it does; an event that is filed already.
    pub moved: Option<Event>,
}

impl RunDir {
    /// Fails where a run cannot begin in a folder.
    ///
    /// # Errors
    /// [`Error::Occupied`] where the folder holds something; [`Error::Io`] where it cannot be read.
    pub fn check_free(path: &Path) -> Result<()> {
        if path.join("run.json").exists() {
            return Err(Error::Occupied { path: path.to_owned(), detail: "already holds a run" });
        }
        let ours = |name: &std::ffi::OsStr| LEFTOVERS.iter().any(|left| name == *left);
        let occupied = match std::fs::read_dir(path) {
            Ok(mut entries) => entries.any(|entry| entry.map_or(true, |entry| !ours(&entry.file_name()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io("cannot read", path)(error)),
        };
        match occupied {
            true => Err(Error::Occupied { path: path.to_owned(), detail: "is not empty" }),
            false => Ok(()),
        }
    }

    /// Begins a run in a folder that is new or empty.
    ///
    /// # Errors
    /// [`Error::Occupied`] where the folder holds something; [`Error::Io`] where it cannot be written.
    pub fn create(path: &Path, manifest: Manifest, catalog: &Catalog) -> Result<Self> {
        Self::check_free(path)?;
        std::fs::create_dir_all(path).map_err(Error::io("cannot create", path))?;
        let lock = lock(path)?;
        catalog.write(path)?;
        // From here on the folder holds a run, which can be resumed whatever else is there.
        write_manifest(path, &manifest)?;
        let checkpoints = path.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).map_err(Error::io("cannot create", &checkpoints))?;
        let segments = Segments::open(&path.join("metrics"), 0)?;
        let events = Events::open(&path.join("events.jsonl"), 0)?;
        let mut dir = Self { _lock: lock, since: Instant::now(), path: path.to_owned(), manifest, segments, events };
        let step = dir.manifest.steps_done;
        dir.event(&Event::at(step, What::Start { adapter: called(&dir.manifest.adapter) }))?;
        if let Some(Origin { run, replica, .. }) = dir.manifest.fork.clone() {
            dir.event(&Event::at(step, What::Fork { run, of: replica }))?;
        }
        Ok(dir)
    }

    /// Opens a run to go on with it on an adapter: behind its latest readable checkpoint, or from its beginning where it
    /// has none yet. What came after the checkpoint is dropped, once the checkpoint has been read. Whether the task's files are
    /// still those of the run is for [`Manifest::check_files`] to say, before they are read. `config` is what it goes on with where
    /// that differs from before, as it may in its steps.
    ///
    /// # Errors
    /// [`Error::Refused`] where the folder holds no run, its latest checkpoint is another run's, or none can be read;
    /// [`Error::Occupied`] where another process writes to it; [`Error::Format`] where it is damaged.
    pub fn go_on(path: &Path, model: &ModelConfig, caps: &Caps, config: Option<Value>) -> Result<GoesOn> {
        Self::read_manifest(path)?;
        let lock = lock(path)?;
        let mut manifest = Self::read_manifest(path)?;
        manifest.check_hash(path)?;
        let checkpoints = path.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).map_err(Error::io("cannot create", &checkpoints))?;
        let (latest, unreadable) = latest(path, u64::MAX, &manifest, model)?;
        let (events, segments) = (path.join("events.jsonl"), path.join("metrics"));
        let (step, snapshot, events, segments) = match latest {
            Some((state, snapshot)) => (
                state.step,
                Some(snapshot),
                Events::open(&events, state.events_bytes)?,
                Segments::open(&segments, state.segments)?,
            ),
            // Nothing is dropped as long as nothing can be read.
            None if !unreadable.is_empty() => {
                let why: Vec<String> = unreadable.iter().map(Error::to_string).collect();
                return Err(Error::Refused(format!(
                    "{} has no checkpoint that can be read, and cannot go on: {}. Put one back from a copy, or begin anew in another folder; what was measured stays where it is",
                    path.display(),
                    why.join("; ")
                )));
            }
            None if manifest.steps_done > 0 => {
                return Err(Error::Refused(format!(
                    "{} has no checkpoint left to go on from, and its table reaches step {}. Put a checkpoint back, or begin anew in another folder",
                    path.display(),
                    manifest.steps_done
                )));
            }
            None => (0, None, Events::sittings(&events)?, Segments::open(&segments, 0)?),
        };
        for later in checkpoint_steps(path)?.into_iter().filter(|later| *later > step) {
            let (from, to) = (checkpoint_path(path, later), checkpoints.join(format!("unreadable-step-{later:06}")));
            remove_dir(&to)?;
            std::fs::rename(&from, &to).map_err(Error::io("cannot rename", &from))?;
        }
        let moved = manifest.moved(caps).map(|before| Event::at(step, What::Moved { before }));
        let config = config.unwrap_or_else(|| manifest.config.clone());
        let steps = config["steps"].as_u64().filter(|steps| manifest.config["steps"].as_u64() != Some(*steps));
        manifest = Manifest {
            status: Status::Running,
            resumed: Some(now()),
            stopped: None,
            steps_done: step,
            adapter: serde_json::to_value(caps).unwrap_or_default(),
            hash: hash(&config),
            config,
            ..manifest
        };
        write_manifest(path, &manifest)?;
        let mut dir = Self { _lock: lock, since: Instant::now(), path: path.to_owned(), manifest, segments, events };
        dir.event(&Event::at(step, What::Resume { adapter: called(&dir.manifest.adapter), steps }))?;
        moved.iter().try_for_each(|event| dir.event(event))?;
        Ok(GoesOn { dir, snapshot, unreadable, moved })
    }

    /// Reads `run.json`.
    ///
    /// # Errors
    /// [`Error::Refused`] where the folder holds no run; [`Error::Format`] where it is damaged.
    pub fn read_manifest(path: &Path) -> Result<Manifest> {
        let file = path.join("run.json");
        if path.is_file() {
            return Err(Error::Refused(format!("{} is a file: name the folder of a run", path.display())));
        }
        if !file.exists() {
            return Err(Error::Refused(format!("{} holds no run: there is no run.json in it", path.display())));
        }
        let manifest: Manifest = read_json(&file)?;
        if manifest.format != FORMAT {
            return Err(Error::format(
                file,
                format!("has layout {}, this program reads {FORMAT}; use the version that wrote it", manifest.format),
            ));
        }
        Ok(manifest)
    }

    /// Whether a process is writing to the run in a folder.
    pub fn is_written(path: &Path) -> bool {
        // Shared, and for this moment: who takes the lock for writing looks twice.
        let held = |file: File| matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock));
        File::open(path.join("lock")).is_ok_and(held)
    }

    /// Reads the state at the latest readable checkpoint at or before a step, if there is one. Second, the steps of all
    /// checkpoints.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be read; what is wrong with the last one before the step where none can be read.
    pub fn read_state(path: &Path, step: u64, model: &ModelConfig) -> Result<(Option<Snapshot>, Vec<u64>)> {
        let manifest = Self::read_manifest(path)?;
        let steps = checkpoint_steps(path)?;
        match latest(path, step, &manifest, model)? {
            (Some((_, snapshot)), _) => Ok((Some(snapshot), steps)),
            (None, unreadable) => unreadable.into_iter().next().map_or(Ok((None, steps)), Err),
        }
    }

    /// The checkpoints of a run, as steps and model folders, in order.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be read.
    pub fn checkpoints(path: &Path) -> Result<Vec<(u64, PathBuf)>> {
        Ok(checkpoint_steps(path)?.into_iter().map(|step| (step, checkpoint_path(path, step))).collect())
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

    /// Notes what measuring cost; [`RunDir::close`] writes it.
    pub fn set_measuring(&mut self, costs: Value) {
        self.manifest.measuring = Some(costs);
    }

    /// Adds a row to the metric table.
    pub fn row(&mut self, row: &Row<'_>) {
        self.segments.push(&TableRow::from(row));
    }

    /// Adds a row that no session measured.
    pub fn table_row(&mut self, row: &TableRow<'_>) {
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
    pub fn event(&mut self, event: &Event) -> Result<()> {
        self.events.push(event)
    }

    /// Saves a checkpoint; all rows of earlier steps must have been added. Keeps the latest `keep`, or
    /// all for 0.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written; the checkpoint before stays valid.
    pub fn checkpoint(&mut self, model: &ModelConfig, snapshot: &Snapshot, keep: u32) -> Result<()> {
        self.flush()?;
        let place = checkpoint_path(&self.path, snapshot.step);
        let known = place.exists();
        if !known {
            // The event of a checkpoint belongs to it: a run that goes on from here keeps it, and one that fails
            // here goes on from the checkpoint before and drops it.
            self.event(&Event::at(snapshot.step, What::Checkpoint))?;
        }
        let state = CheckpointState {
            run: self.manifest.id.clone(),
            step: snapshot.step,
            segments: self.segments.count(),
            events_bytes: self.events.sync()?,
            loss_scale: snapshot.loss_scale.clone(),
        };
        let state = serde_json::to_string_pretty(&state).unwrap_or_default();
        if known {
            // The same step of the same run has the same bits: only more rows and events belong to it now.
            crate::files::write_whole(&place.join("state.json"), state.as_bytes())?;
        } else {
            let beside = place.with_extension("partial");
            remove_dir(&beside)?;
            ModelFolder { config: model.clone(), replicas: snapshot.weights.clone() }.write(&beside)?;
            write_moments(&beside.join("optimizer.safetensors"), model, snapshot)?;
            crate::files::write_whole(&beside.join("state.json"), state.as_bytes())?;
            std::fs::rename(&beside, &place).map_err(Error::io("cannot write", &place))?;
            crate::files::sync_dir(place.parent())?;
        }
        // Only now: a run that has come further than step 0 has a checkpoint.
        self.note_progress(snapshot.step)?;
        if keep > 0 {
            let steps = checkpoint_steps(&self.path)?;
            for step in &steps[..steps.len().saturating_sub(keep as usize)] {
                remove_dir(&checkpoint_path(&self.path, *step))?;
            }
        }
        Ok(())
    }

    /// Ends a sitting at a step: finished, or stopped by a signal.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn end(&mut self, stopped: bool, step: u64) -> Result<()> {
        self.event(&Event::at(step, if stopped { What::Stop } else { What::Finish }))?;
        self.close(if stopped { Status::Interrupted } else { Status::Finished }, self.manifest.steps_done)
    }

    /// Writes how the run stands and what is still waiting.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn close(&mut self, status: Status, step: u64) -> Result<()> {
        self.flush()?;
        self.events.sync()?;
        self.manifest.status = status;
        self.manifest.stopped = Some(now());
        self.note_progress(step)
    }

    /// Writes `run.json` with the updates made and the time taken so far.
    fn note_progress(&mut self, step: u64) -> Result<()> {
        self.manifest.steps_done = step;
        self.manifest.seconds += std::mem::replace(&mut self.since, Instant::now()).elapsed().as_secs_f64();
        write_manifest(&self.path, &self.manifest)
    }
}

/// What a start that was cut off before `run.json` may leave in a folder.
const LEFTOVERS: [&str; 4] = ["lock", "metrics.json", "metrics.partial", "run.partial"];

/// Takes the folder's lock, which the system releases with the process however it ends.
fn lock(path: &Path) -> Result<File> {
    let place = path.join("lock");
    let file = File::create(&place).map_err(Error::io("cannot write", &place))?;
    let taken = file.try_lock().or_else(|_| {
        // Somebody may only be looking whether it is held.
        std::thread::sleep(std::time::Duration::from_millis(50));
        file.try_lock()
    });
    match taken {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Occupied {
            path: path.to_owned(),
            detail: "is being written to by another process. Wait until it ends, or stop it",
        }),
        Err(std::fs::TryLockError::Error(error)) => Err(Error::io("cannot lock", &place)(error)),
    }
}

fn write_manifest(path: &Path, manifest: &Manifest) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest).unwrap_or_default();
    crate::files::write_whole(&path.join("run.json"), text.as_bytes())
}

/// The name and backend of an adapter, as [`Caps::called`].
fn called(adapter: &Value) -> String {
    let word = |key: &str| adapter[key].as_str().unwrap_or_default();
    format!("{} ({})", word("name"), word("backend"))
}

/// Whether a checkpoint that cannot be read is damaged, and neither another run's nor kept from us by the system.
fn is_torn(error: &Error) -> bool {
    match error {
        Error::Refused(_) => false,
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => true,
    }
}

/// A checkpoint: how far the table belongs to it, and the state.
type Saved = (CheckpointState, Snapshot);

/// The latest checkpoint at or before a step that can be read, if there is one; and what is wrong with those behind it.
///
/// # Errors
/// What is wrong with one that is not torn: another run's, or one that the system does not let us read.
fn latest(path: &Path, step: u64, manifest: &Manifest, model: &ModelConfig) -> Result<(Option<Saved>, Vec<Error>)> {
    let mut unreadable = Vec::new();
    for at in checkpoint_steps(path)?.into_iter().rev().filter(|at| *at <= step) {
        match read_checkpoint(path, at, manifest, model) {
            Ok(found) => return Ok((Some(found), unreadable)),
            Err(error) if is_torn(&error) => unreadable.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((None, unreadable))
}

/// Reads the checkpoint of a step.
fn read_checkpoint(
    path: &Path,
    step: u64,
    manifest: &Manifest,
    model: &ModelConfig,
) -> Result<(CheckpointState, Snapshot)> {
    let dir = checkpoint_path(path, step);
    let state: CheckpointState = read_json(&dir.join("state.json"))?;
    manifest.check_saved(&dir, &state)?;
    if state.step != step {
        return Err(Error::format(
            &dir,
            format!("holds step {}: a folder by another name than it was saved under", state.step),
        ));
    }
    Segments::check(&path.join("metrics"), state.segments)?;
    let folder = ModelFolder::read(&dir)?;
    if folder.config != *model {
        let differs = "is the checkpoint of another model than run.json describes: its config.json was changed, or is another run's";
        return Err(Error::format(&dir, differs));
    }
    let file = dir.join("optimizer.safetensors");
    let tensors = Tensors::open(&file)?;
    let table = WeightTable::new(model);
    let first = read_weights(&tensors, &table, "first.", |_| String::new())?;
    let second = read_weights(&tensors, &table, "second.", |_| String::new())?;
    let loss_scale = state.loss_scale.clone();
    let snapshot = Snapshot { step: state.step, weights: folder.replicas, first, second, loss_scale };
    Ok((state, snapshot))
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

pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io("cannot read", path))?;
    serde_json::from_str(&text).map_err(|error| Error::format(path, format!("is damaged: {error}")))
}

fn write_moments(path: &Path, model: &ModelConfig, snapshot: &Snapshot) -> Result<()> {
    let table = WeightTable::new(model);
    write_tensors(path, &table, &[("first.", &snapshot.first), ("second.", &snapshot.second)])
}
