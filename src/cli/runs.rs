//! `thermoscope runs`

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{complain, print};
use crate::error::{Error, Result};
use crate::record::{Catalog, Manifest, RunDir, RunKind, Status, last_values};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope runs
  thermoscope runs sweeps --json | jq 'select(.state == \"killed\").path'

States: running, finished, interrupted (asked to stop), and killed, which is a
run that nobody writes to any more; --resume goes on with the last two. Numbers
are the last ones of replica 0 that are written.")]
pub(super) struct Args {
    /// Folder whose runs are listed, however deep they lie
    #[arg(value_name = "DIR", default_value = "runs")]
    dir: PathBuf,
    /// One JSON object for each run
    #[arg(long)]
    json: bool,
}

/// What is shown of a run's numbers.
const SHOWN: [&str; 3] = ["loss.train", "loss.test", "accuracy.test"];

/// One line.
#[derive(Serialize)]
struct Line {
    path: PathBuf,
    kind: RunKind,
    name: String,
    task: Value,
    state: &'static str,
    started: String,
    resumed: Option<String>,
    stopped: Option<String>,
    /// Seconds it ran.
    seconds: f64,
    /// Updates whose state is saved, and all there shall be.
    steps_done: u64,
    steps: Option<u64>,
    replicas: u64,
    adapter: Value,
    /// Step and value by metric.
    last: Map<String, Value>,
}

impl Line {
    fn of(path: PathBuf) -> Result<Self> {
        let Manifest { kind, status, started, resumed, stopped, seconds, steps_done, adapter, config, .. } =
            RunDir::read_manifest(&path)?;
        let state = match status {
            Status::Finished => "finished",
            Status::Interrupted => "interrupted",
            Status::Running if RunDir::is_written(&path) => "running",
            Status::Running => "killed",
        };
        let known = Catalog::read(&path)?.metrics;
        let wanted: Vec<&str> = SHOWN.into_iter().filter(|name| known.contains_key(*name)).collect();
        let last = last_values(&path, &wanted, 0)?;
        let last = last.into_iter().map(|(name, (step, value))| (name, json!({ "step": step, "value": value })));
        let training = kind == RunKind::Run;
        Ok(Self {
            name: config["name"].as_str().unwrap_or_default().to_owned(),
            task: config["task"].clone(),
            state,
            started,
            resumed,
            stopped,
            seconds,
            steps_done,
            steps: config["steps"].as_u64().filter(|_| training),
            replicas: config["replicas"].as_u64().unwrap_or(1),
            adapter: adapter["name"].clone(),
            last: last.collect(),
            kind,
            path,
        })
    }

    /// Cells of the table.
    fn cells(&self) -> Vec<String> {
        let what = match (self.kind, self.name.as_str()) {
            (RunKind::Run, "") => self.task["kind"].as_str().unwrap_or("run").to_owned(),
            (RunKind::Run, name) => name.to_owned(),
            (RunKind::Measurement, _) => "measurement".to_owned(),
            (RunKind::Scan, _) => "scan".to_owned(),
            (RunKind::Study, _) => "study".to_owned(),
            (RunKind::Series, _) => "series".to_owned(),
        };
        let step = self.last.values().filter_map(|value| value["step"].as_u64()).max();
        let steps = self.steps.map(|steps| format!("{}/{steps}", step.unwrap_or(self.steps_done).max(self.steps_done)));
        let when = self.stopped.as_ref().or(self.resumed.as_ref()).unwrap_or(&self.started);
        let number = |name: &str| {
            let value = self.last.get(name).and_then(|value| value["value"].as_f64());
            value.map_or_else(String::new, |value| match name.starts_with("accuracy") {
                true => format!("{value:.3}"),
                false => format!("{value:.3e}"),
            })
        };
        let mut cells = vec![self.path.display().to_string(), what, self.state.to_owned(), steps.unwrap_or_default()];
        // To the minute.
        cells.push(when.get(..16).unwrap_or(when).replace('T', " "));
        cells.extend(SHOWN.map(number));
        cells
    }
}

pub(super) fn main(args: &Args) -> Result<()> {
    let mut found = Vec::new();
    find(&args.dir, &mut found)?;
    if found.is_empty() {
        return Err(Error::Refused(format!("there is no run in {}", args.dir.display())));
    }
    let mut lines = Vec::new();
    for path in found {
        match Line::of(path.clone()) {
            Ok(line) => lines.push(line),
            // One that is damaged hides none of the others.
            Err(error) => complain(&format!("warning: {}: {error}", path.display())),
        }
    }
    // The latest last, above the prompt.
    lines.sort_by(|a, b| (&a.started, &a.path).cmp(&(&b.started, &b.path)));
    if args.json {
        for line in &lines {
            print(&serde_json::to_string(line).map_err(|error| Error::Unsupported(error.to_string()))?);
        }
        return Ok(());
    }
    let head = ["run", "what", "state", "step", "when (UTC)"].into_iter().chain(SHOWN).map(str::to_owned).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(lines.iter().map(Line::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        print(cells.join("  ").trim_end());
    }
    Ok(())
}

/// Adds the run directories in a folder, in order of name; nothing within a run is looked at.
fn find(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if dir.join("run.json").is_file() {
        found.push(dir.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).map_err(Error::io("cannot read", dir))?;
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("cannot read", dir))?;
        // Links are not followed: they may lead back.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(entry.path());
        }
    }
    folders.sort();
    for folder in &folders {
        // One that cannot be read hides no other.
        if let Err(error) = find(folder, found) {
            complain(&format!("warning: {error}"));
        }
    }
    Ok(())
}
