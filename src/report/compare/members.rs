//! Who is compared: replicas of runs, in arms of those that differ in nothing but their seeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::arms::{Settings, without_seed};
use super::super::gather::Gathered;
use super::super::phases::{Phase, Watched};
use crate::error::{Error, Result};
use crate::record::{Catalog, Event, HOLD, HeadRole, Key, Manifest, RunDir, RunKind, Series, Turned, What};
use crate::stats::{Censored, Onset};
use crate::train::{ArmRole, ReplicaConfig};

/// A run that is compared.
pub(super) struct Run {
    /// What it is called here: by its folder.
    pub(super) label: String,
    pub(super) dir: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) catalog: Catalog,
    pub(super) replicas: Vec<ReplicaConfig>,
    /// Thinned, of the metrics that are drawn.
    pub(super) series: BTreeMap<Key, Series>,
    pub(super) watched: Vec<Watched>,
    pub(super) last_step: i64,
    events: Vec<Event>,
}

/// A replica of a run.
pub(super) struct Member {
    pub(super) run: usize,
    pub(super) replica: usize,
    /// What it is called among all.
    pub(super) name: String,
    pub(super) arm: usize,
    /// Seeds of weights, split and batches, and the state that a fork began with: members of two arms that share them differ
    /// in nothing but what the arms are.
    pub(super) start: Value,
    /// Seeds of its interventions.
    drawn: Value,
    /// The member whose bits it has, which counts for both.
    pub(super) copy_of: Option<usize>,
    pub(super) dates: Vec<(&'static str, Date)>,
}

/// When an event came in a member.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Date {
    /// It was not looked for.
    Unknown,
    /// It came before the step at which a fork began: the arms have it from their trunk.
    BeforeFork(Onset),
    /// When it came, or by when it had not.
    Known(Onset),
}

impl Date {
    pub(super) fn known(self) -> Option<Onset> {
        match self {
            Self::Known(onset) => Some(onset),
            _ => None,
        }
    }

    pub(super) fn words(self) -> String {
        match self {
            Self::Unknown => "not looked for".to_owned(),
            Self::BeforeFork(_) => "before the fork".to_owned(),
            Self::Known(onset) => onset.words(),
        }
    }
}

/// Members that differ in nothing but their seeds.
pub(super) struct Arm {
    pub(super) name: String,
    /// Those that count, in order.
    pub(super) members: Vec<usize>,
    /// The step of the fork at which it began, or none of a run from the beginning.
    pub(super) from: Option<u64>,
    /// Everything that decides what it does but seeds.
    pub(super) settings: Value,
    /// From the most likely to be compared with others to the least.
    rank: usize,
}

/// All that is compared.
pub(super) struct Party {
    pub(super) runs: Vec<Run>,
    pub(super) members: Vec<Member>,
    pub(super) arms: Vec<Arm>,
}

impl Run {
    fn read(dir: &Path, label: String, wanted: &dyn Fn(&str) -> bool) -> Result<Self> {
        let manifest = RunDir::read_manifest(dir)?;
        manifest.must_be(dir, RunKind::Run, "which has no steps to compare; name folders of runs")?;
        let catalog = Catalog::read(dir)?;
        let gathered = Gathered::read(dir, &manifest, &catalog, wanted)?;
        if gathered.series.is_empty() && gathered.last_step == 0 {
            return Err(Error::Refused(format!(
                "{} has no measurements yet; compare it once it has come to a checkpoint",
                dir.display()
            )));
        }
        let replicas: Vec<ReplicaConfig> = serde_json::from_value(manifest.config["replica"].clone())
            .map_err(|error| Error::format(dir.join("run.json"), format!("replica: {error}")))?;
        let events = RunDir::read_events(dir)?;
        let Gathered { mut series, watched, last_step } = gathered;
        series.retain(|key, _| wanted(&key.metric));
        Ok(Self { label, dir: dir.to_owned(), manifest, catalog, replicas, series, watched, last_step, events })
    }

    /// When a head first came to stay on one side.
    fn head(&self, replica: usize, role: HeadRole) -> Option<Onset> {
        let every = self.catalog.metrics.get("ablation.logit_difference")?.every;
        let born = self.events.iter().filter(|event| event.replica == Some(replica as u32)).filter(|event| {
            matches!(&event.what, What::Birth(Turned { subject, .. }) | What::Flip(Turned { subject, .. })
                if subject.role == Some(role))
        });
        // One that shows at the last measurements may have come to stay.
        let looked = (self.last_step as u64).saturating_sub(u64::from(HOLD) * every);
        Some(born.map(Event::onset).min_by_key(|onset| onset.step).unwrap_or(Onset::not_by(looked)))
    }

    fn dates(&self, replica: usize) -> Vec<(&'static str, Date)> {
        let mut all = self.watched[replica].dates().to_vec();
        all.push(("first contributing head", self.head(replica, HeadRole::Contributor)));
        all.push(("first suppressing head", self.head(replica, HeadRole::Suppressor)));
        let from = self.manifest.fork.as_ref().map(|origin| origin.step);
        let date = |onset: Option<Onset>| match (onset, from) {
            (None, _) => Date::Unknown,
            // What the fork's first look shows has no date in the fork.
            (Some(onset), Some(from))
                if onset.censored == Some(Censored::Before) || onset.began().is_some_and(|step| step <= from) =>
            {
                Date::BeforeFork(onset)
            }
            // All that is known of it is known of the trunk.
            (Some(onset), Some(from)) if onset.step < from => Date::Unknown,
            (Some(onset), _) => Date::Known(onset),
        };
        all.into_iter().map(|(name, onset)| (name, date(onset))).collect()
    }

    pub(super) fn phases(&self) -> impl Iterator<Item = Vec<Phase>> + '_ {
        self.watched.iter().map(Watched::phases)
    }

    fn rank(&self, replica: usize) -> usize {
        let own = &self.replicas[replica];
        match own.role {
            Some(ArmRole::Sham) => 0,
            Some(ArmRole::Main) => 1,
            _ if own.is_control() => 3,
            _ => 2,
        }
    }
}

/// What folders are called: by their last part, or in full where two have the same.
fn labels(dirs: &[PathBuf]) -> Vec<String> {
    let short = |dir: &PathBuf| {
        let whole = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
        whole.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned())
    };
    let all: Vec<String> = dirs.iter().map(short).collect();
    let twice = |name: &String| all.iter().filter(|other| *other == name).count() > 1;
    dirs.iter()
        .zip(&all)
        .map(|(dir, name)| if twice(name) { dir.display().to_string() } else { name.clone() })
        .collect()
}

impl Party {
    /// Reads runs, and puts their replicas into arms.
    ///
    /// # Errors
    /// Where a folder holds no run, or is named twice.
    pub(super) fn read(dirs: &[PathBuf], wanted: &dyn Fn(&str) -> bool) -> Result<Self> {
        let labels = labels(dirs);
        let whole = |dir: &PathBuf| std::fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
        let mut runs = Vec::new();
        for (at, dir) in dirs.iter().enumerate() {
            if dirs[..at].iter().any(|other| whole(other) == whole(dir)) {
                return Err(Error::Refused(format!("{} is named twice", dir.display())));
            }
            runs.push(Run::read(dir, labels[at].clone(), wanted)?);
        }
        let (mut members, mut arms): (Vec<Member>, Vec<Arm>) = (Vec::new(), Vec::new());
        let several = runs.iter().map(|run| run.replicas.len()).sum::<usize>() > runs.len();
        for (at, run) in runs.iter().enumerate() {
            for (replica, own) in run.replicas.iter().enumerate() {
                let Settings { all: settings, start, drawn } = Settings::of(&run.manifest, own);
                let own_name = own.name.clone();
                let name = match (&own_name, runs.len(), run.replicas.len()) {
                    (Some(name), 1, _) => name.clone(),
                    (Some(name), ..) => format!("{}: {name}", run.label),
                    (None, 1, _) if several => format!("replica {replica}"),
                    (None, _, 1) => run.label.clone(),
                    (None, ..) => format!("{}: replica {replica}", run.label),
                };
                let arm = arms.iter().position(|arm| arm.settings == settings).unwrap_or_else(|| {
                    arms.push(Arm {
                        name: own_name.as_deref().map_or(&*run.label, without_seed).to_owned(),
                        members: Vec::new(),
                        from: run.manifest.fork.as_ref().map(|origin| origin.step),
                        settings,
                        rank: run.rank(replica),
                    });
                    arms.len() - 1
                });
                let same = |other: &Member| other.arm == arm && other.start == start && other.drawn == drawn;
                let copy_of = members.iter().position(same);
                if copy_of.is_none() {
                    arms[arm].members.push(members.len());
                }
                let dates = run.dates(replica);
                members.push(Member { run: at, replica, name, arm, start, drawn, copy_of, dates });
            }
        }
        let mut party = Self { runs, members, arms };
        party.name_arms();
        Ok(party)
    }

    /// Arms of one name are told apart by their runs.
    fn name_arms(&mut self) {
        let names: Vec<String> = self.arms.iter().map(|arm| arm.name.clone()).collect();
        for (at, arm) in self.arms.iter_mut().enumerate() {
            if names.iter().filter(|name| **name == names[at]).count() > 1 {
                let run = &self.runs[self.members[arm.members[0]].run];
                arm.name = if arm.name == run.label {
                    format!("{} {}", arm.name, names[..at].iter().filter(|name| **name == names[at]).count() + 1)
                } else {
                    format!("{}: {}", run.label, arm.name)
                };
            }
        }
    }

    /// Arms that began at the same step, so that their dates can be compared, and in each the arm that others are compared with,
    /// first. Arms from the beginning come last.
    pub(super) fn families(&self) -> Vec<(Option<u64>, Vec<usize>)> {
        let mut families: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
        self.arms.iter().enumerate().for_each(|(at, arm)| families.entry(arm.from).or_default().push(at));
        for arms in families.values_mut() {
            arms.sort_by_key(|arm| self.arms[*arm].rank);
        }
        families.into_iter().rev().collect()
    }

    /// Series of several runs together, those of a run's replicas under the numbers of their members.
    pub(super) fn series(&self) -> BTreeMap<Key, Series> {
        let mut all = BTreeMap::new();
        let mut first = 0;
        for run in &self.runs {
            let moved = |key: &Key| Key { replica: key.replica + first, ..key.clone() };
            all.extend(run.series.iter().map(|(key, series)| (moved(key), series.clone())));
            first += run.replicas.len() as i32;
        }
        all
    }

    /// What the metrics are that any run has. What runs say otherwise of one is left open.
    pub(super) fn catalog(&self) -> Catalog {
        let mut all = self.runs[0].catalog.clone();
        for (name, metric) in self.runs[1..].iter().flat_map(|run| &run.catalog.metrics) {
            let known = all.metrics.entry(name.clone()).or_insert_with(|| metric.clone());
            known.chance = known.chance.filter(|chance| metric.chance == Some(*chance));
        }
        all
    }
}
