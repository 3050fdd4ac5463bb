//! What a study's directory holds: what was asked and planned, and the table of every run.
//!
//! ```text
//! run.json                what was asked and planned, version, adapter, start and stop
//! trunk/                  the run that is disturbed, where the study trained it
//! batches/000/ …          a run for each batch, forked off the trunk
//! metrics/, metrics.json  what became of every run, and every effect, as numbers; step: that of the pulse
//! findings.json           curves, bands, windows, survival
//! report.html             the page
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::StudyConfig;
use super::findings::Findings;
use super::plan::Plan;
use crate::error::{Error, Result};
use crate::record::{Catalog, Described, Manifest, RunDir, RunKind, Status, TableRow};

/// What a study goes on with: `config` in its `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What was asked.
    pub study: StudyConfig,
    /// What is trained.
    pub plan: Plan,
    /// The folder of the trunk; none where it lies in the study's own.
    pub trunk: Option<PathBuf>,
    /// What is trained there then.
    pub train: Option<serde_json::Value>,
}

impl Kept {
    /// Of the study in a folder.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is none; [`Error::Format`] where it was edited.
    pub fn read(dir: &Path) -> Result<(Self, Manifest)> {
        let manifest = RunDir::read_manifest(dir)?;
        manifest.must_be(dir, RunKind::Study, "not a study")?;
        manifest.check_hash(dir)?;
        let kept = serde_json::from_value(manifest.config.clone())
            .map_err(|error| Error::format(dir.join("run.json"), format!("is damaged: {error}")))?;
        Ok((kept, manifest))
    }

    /// The folder of the trunk.
    pub fn trunk(&self, dir: &Path) -> PathBuf {
        self.trunk.clone().unwrap_or_else(|| dir.join("trunk"))
    }

    /// The folder of a batch.
    pub fn batch(dir: &Path, number: usize) -> PathBuf {
        dir.join("batches").join(format!("{number:03}"))
    }

    /// Folders of the batches that are done.
    pub fn done(&self, dir: &Path) -> Vec<Option<PathBuf>> {
        let folders = (0..self.plan.batches.len()).map(|number| Self::batch(dir, number));
        let is_done = |path: &PathBuf| RunDir::read_manifest(path).is_ok_and(|run| run.status == Status::Finished);
        folders.map(|path| Some(path).filter(is_done)).collect()
    }

    /// What the batches that are done say.
    ///
    /// # Errors
    /// Where a run cannot be read.
    pub fn findings(&self, dir: &Path) -> Result<Findings> {
        Findings::of(&self.study, &self.plan, &self.trunk(dir), &self.done(dir))
    }
}

/// Metrics of the table: name, what it is, unit.
const METRICS: [(&str, &str, &str); 11] = [
    (
        "study.onset",
        "step of the first measurement that shows the event, or the last by which it had not come",
        "steps",
    ),
    ("study.censored", "1 where the event had not come by that step", "1"),
    ("study.last", "last value of the metric", "of the metric"),
    ("study.distance", "|w - w_trunk|/|w_trunk| over all weights at the end", "1"),
    ("study.keys", "key frequencies of the logits that run and trunk have at the end, by those that either has", "1"),
    ("study.damage", "run minus trunk where it is greatest, of the metric of the damage", "of the metric"),
    ("study.half_life", "steps from there until at most half of it is left, for good", "steps"),
    ("study.half_life.censored", "1 where that had not come by so many steps", "1"),
    ("study.permanent", "share of the greatest damage that is left over the last five measurements", "1"),
    (
        "study.effect",
        "difference to the trunk, less that of what the pulse is compared with, by dose",
        "of the outcome",
    ),
    ("study.effect.mean", "mean of study.effect over seeds", "of the outcome"),
];
const CHANCE: [(&str, &str); 2] = [
    (
        "study.effect.p",
        "probability that anywhere in the curve a mean is so far from 0, where the pulse does nothing: signs turned seed by seed",
    ),
    (
        "study.effect.time_p",
        "probability that anywhere in the curve a mean is so far from that of all times, where time does not matter: times exchanged within seeds",
    ),
];

/// What the numbers of a study are.
pub fn catalog(kinds: &[String]) -> Catalog {
    let described = |formula: &str, unit: &str| {
        Described {
        instrument: "study".to_owned(),
        formula: formula.to_owned(),
        unit: unit.to_owned(),
        axes: "step: that of the pulse; replica: the seed's place in the plan; site: event or metric; index: the kind of pulse, -1 without one".to_owned(),
        index: kinds.to_vec(),
        control: "runs without a pulse, and what the pulse is compared with".to_owned(),
        ..Described::default()
    }
    };
    let mut catalog = Catalog::default();
    for (name, formula, unit) in METRICS.into_iter().chain(CHANCE.map(|(name, formula)| (name, formula, "1"))) {
        catalog.metrics.insert(name.to_owned(), described(formula, unit));
    }
    catalog
}

/// Writes the table and `findings.json`.
///
/// # Errors
/// Where they cannot be written.
pub fn file(dir: &mut RunDir, findings: &Findings) -> Result<()> {
    let plan = &findings.plan;
    let events = findings.study.event_names();
    let mut row = |metric: &str, site: &str, step: u64, seed: usize, kind: i32, value: Option<f64>| {
        if let Some(value) = value {
            let place = [-1, -1, kind];
            dir.table_row(&TableRow { step, replica: seed as u32, metric, site, place, value: value as f32 });
        }
    };
    for (pulse, seed, outcome) in &findings.runs {
        let (step, kind) = pulse.map_or((0, -1), |[time, kind]| (plan.times[time], kind as i32));
        for (name, onset) in events.iter().zip(&outcome.events) {
            row("study.onset", name, step, *seed, kind, onset.map(|onset| onset.step as f64));
            row("study.censored", name, step, *seed, kind, onset.map(|onset| f64::from(onset.began().is_none())));
        }
        for (name, value) in findings.study.last.iter().zip(&outcome.last) {
            row("study.last", name, step, *seed, kind, *value);
        }
        let Some(apart) = &outcome.apart else { continue };
        row("study.distance", "", step, *seed, kind, Some(apart.distance));
        row("study.keys", "", step, *seed, kind, apart.keys);
        let damage = &findings.study.damage;
        row("study.damage", damage, step, *seed, kind, apart.damage);
        let life = apart.half_life;
        row("study.half_life", damage, step, *seed, kind, life.map(|life| life.step as f64));
        row("study.half_life.censored", damage, step, *seed, kind, life.map(|l| f64::from(l.began().is_none())));
        row("study.permanent", damage, step, *seed, kind, apart.permanent);
    }
    for curve in &findings.curves {
        let seeds = plan.of_trunk(curve.trunk);
        let (name, kind) = (curve.asked.name(), curve.kind as i32);
        for point in &curve.points {
            for (seed, value) in seeds.iter().zip(&point.values) {
                row("study.effect", name, point.time, *seed, kind, *value);
            }
            // Over all seeds of a trunk: under the first of them.
            let first = seeds.first().copied().unwrap_or(0);
            row("study.effect.mean", name, point.time, first, kind, point.mean);
            row("study.effect.p", name, point.time, first, kind, point.p_effect);
            row("study.effect.time_p", name, point.time, first, kind, point.p_time);
        }
    }
    dir.flush()?;
    let text = serde_json::to_string_pretty(findings).unwrap_or_default();
    crate::files::write_whole(&dir.path().join("findings.json"), text.as_bytes())
}
