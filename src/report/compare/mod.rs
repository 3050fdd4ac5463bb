//! Several runs beside each other: when what happened in their arms, and what their curves did.
//!
//! Replicas that differ in nothing but their seeds are one arm, whichever run they are of. Arms are tested against each other
//! where they began together, at the same step of a fork or at the beginning. What happened before a fork is its trunk's and counts
//! for no arm; replicas with the same settings and seeds have the same bits and count once.

mod curves;
mod events;
mod members;
mod page;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::arms;
use super::derived::KEY_COUNT;
use crate::error::{Error, Result};
use crate::stats::Missing;
use curves::{Curve, Lags, Wanted};
use events::{Event, Matrix};
use members::Party;

/// Curves that are drawn where none is asked for, and of those that all runs have one that rises and jumps are looked for in.
const DRAWN: [&str; 8] = [
    "accuracy.test",
    "loss.test",
    "loss.restricted",
    "fsd",
    "prefix_matching_score.probe",
    "in_context_learning_score",
    "logit_scale",
    "loss.train",
];
const LOOKED_AT: [&str; 3] = ["accuracy.test", "loss.test", "in_context_learning_score"];

/// What to compare, besides when what happened.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Curves: `METRIC`, or `METRIC@PLACE` of a metric that has several (`attention_entropy@L0 H2`). Of none, a few that all
    /// runs have.
    pub metrics: Vec<String>,
    /// Pairs of curves of which to say which moves first.
    pub lags: Vec<[String; 2]>,
}

/// A number, or why there is none.
#[derive(Serialize)]
#[serde(untagged)]
enum Said<T> {
    Number(T),
    Missing { missing: String },
}

impl<T> Said<T> {
    fn number(&self) -> Option<&T> {
        match self {
            Self::Number(number) => Some(number),
            Self::Missing { .. } => None,
        }
    }
}

impl<T> From<std::result::Result<T, Missing>> for Said<T> {
    fn from(found: std::result::Result<T, Missing>) -> Self {
        match found {
            Ok(number) => Self::Number(number),
            Err(missing) => Self::Missing { missing: missing.to_string() },
        }
    }
}

/// A run, as the page and the numbers name it.
#[derive(Serialize)]
struct OfRun {
    run: String,
    folder: PathBuf,
    task: String,
    replicas: usize,
    measured_to: i64,
    steps: u64,
    /// The run and step that it goes on from, if it is a fork.
    forked_from: Option<(PathBuf, u32, u64)>,
}

/// An arm, and what sets it apart from the others.
#[derive(Serialize)]
struct OfArm {
    arm: String,
    replicas: Vec<String>,
    /// Replicas that have the bits of another, and of which, so that both count once.
    copies: Vec<[String; 2]>,
    from: Option<u64>,
    settings: BTreeMap<String, String>,
}

/// What a comparison says.
#[derive(Serialize)]
struct Numbers {
    /// What the data support, and what they do not.
    supported: String,
    not_supported: String,
    runs: Vec<OfRun>,
    arms: Vec<OfArm>,
    /// What not all runs share: tasks, metrics, cadences; and what was not looked at.
    notes: Vec<String>,
    events: Vec<Event>,
    orders: Vec<Matrix>,
    curves: Vec<Curve>,
    lags: Vec<Lags>,
}

/// Several runs, compared.
pub struct Comparison {
    numbers: Numbers,
    party: Party,
}

/// Compares runs.
///
/// # Errors
/// Where a folder holds no run or cannot be read, a run is named twice, and where no run has a curve that is asked for.
pub fn compare(dirs: &[PathBuf], asked: &Asked) -> Result<Comparison> {
    let curves: Vec<Wanted> = asked.metrics.iter().map(|text| Wanted::of(text)).collect();
    let pairs: Vec<[Wanted; 2]> = asked.lags.iter().map(|pair| pair.each_ref().map(|text| Wanted::of(text))).collect();
    let all: BTreeSet<&str> =
        curves.iter().chain(pairs.iter().flatten()).map(|wanted| wanted.metric.as_str()).collect();
    let drawn = |metric: &str| match curves.is_empty() {
        true => all.contains(metric) || DRAWN.contains(&metric) || metric == KEY_COUNT,
        false => all.contains(metric),
    };
    let party = Party::read(dirs, &drawn)?;
    if party.members.len() < 2 {
        return Err(Error::Refused(format!(
            "{} is one run of one replica: name another to compare it with",
            dirs[0].display()
        )));
    }
    let looked_at: Vec<Wanted> = match curves.is_empty() {
        false => curves.clone(),
        true => {
            let shared = |name: &str| party.runs.iter().all(|run| run.catalog.metrics.contains_key(name));
            LOOKED_AT.into_iter().filter(|name| shared(name)).map(Wanted::of).collect()
        }
    };
    let of_all: Vec<Wanted> = looked_at.iter().chain(pairs.iter().flatten()).cloned().collect();
    let whole = curves::whole(&party, &of_all)?;
    let events = events::events(&party);
    let orders = events::matrices(&party);
    let mut notes = not_shared(&party, &drawn);
    let curves = curves::curves(&party, &looked_at, &whole, &mut notes);
    let lags = curves::lags(&party, &pairs, &whole)?;
    let [supported, not_supported] = words::sentences(&party, &events, &orders);
    let numbers = Numbers {
        supported,
        not_supported,
        runs: party.runs.iter().map(of_run).collect(),
        arms: arms_of(&party),
        notes,
        events,
        orders,
        curves,
        lags,
    };
    Ok(Comparison { numbers, party })
}

fn of_run(run: &members::Run) -> OfRun {
    OfRun {
        run: run.label.clone(),
        folder: run.dir.clone(),
        task: run.manifest.config["task"]["kind"].as_str().unwrap_or_default().to_owned(),
        replicas: run.replicas.len(),
        measured_to: run.last_step,
        steps: run.manifest.config["steps"].as_u64().unwrap_or(0),
        forked_from: run.manifest.fork.as_ref().map(|origin| (origin.run.clone(), origin.replica, origin.step)),
    }
}

fn arms_of(party: &Party) -> Vec<OfArm> {
    let apart = arms::apart(&party.arms.iter().map(|arm| &arm.settings).collect::<Vec<_>>());
    let name = |member: usize| party.members[member].name.clone();
    let of = |((at, arm), settings): ((usize, &members::Arm), BTreeMap<String, String>)| {
        let copies = party.members.iter().filter(|member| member.arm == at);
        OfArm {
            arm: arm.name.clone(),
            replicas: arm.members.iter().map(|member| name(*member)).collect(),
            copies: copies.filter_map(|member| Some([member.name.clone(), name(member.copy_of?)])).collect(),
            from: arm.from,
            settings,
        }
    };
    party.arms.iter().enumerate().zip(apart).map(of).collect()
}

/// What not all runs have in common.
fn not_shared(party: &Party, drawn: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut all = Vec::new();
    let labels = |of: &dyn Fn(&members::Run) -> bool| {
        let runs = party.runs.iter().filter(|run| of(run));
        runs.map(|run| run.label.as_str()).collect::<Vec<_>>().join(", ")
    };
    let task = |run: &members::Run| run.manifest.config["task"]["kind"].as_str().unwrap_or_default().to_owned();
    let tasks: BTreeSet<String> = party.runs.iter().map(task).collect();
    if tasks.len() > 1 {
        let each: Vec<String> =
            tasks.iter().map(|kind| format!("{kind} in {}", labels(&|run| task(run) == *kind))).collect();
        all.push(format!("The tasks differ ({}): a loss or a date of one is none of the other.", each.join("; ")));
    }
    let metrics: BTreeSet<&String> = party.runs.iter().flat_map(|run| run.catalog.metrics.keys()).collect();
    let mut by_runs: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for metric in
        metrics.iter().filter(|metric| !party.runs.iter().all(|run| run.catalog.metrics.contains_key(**metric)))
    {
        by_runs.entry(labels(&|run| run.catalog.metrics.contains_key(*metric))).or_default().push(metric);
    }
    all.extend(by_runs.into_iter().map(|(runs, metrics)| format!("Only {runs} measured {}.", metrics.join(", "))));
    for metric in metrics.into_iter().filter(|metric| drawn(metric)) {
        let every = |run: &members::Run| run.catalog.metrics.get(metric).map(|metric| metric.every);
        let cadences: BTreeSet<u64> = party.runs.iter().filter_map(every).collect();
        if cadences.len() > 1 {
            let of =
                |cadence: &u64| format!("every {cadence} steps in {}", labels(&|run| every(run) == Some(*cadence)));
            let each: Vec<String> = cadences.iter().map(of).collect();
            all.push(format!("{metric} is measured {}: dates are known to that.", each.join(", ")));
        }
    }
    all
}

impl Comparison {
    /// What the data support, and what they do not: a sentence each.
    pub fn sentences(&self) -> [&str; 2] {
        [&self.numbers.supported, &self.numbers.not_supported]
    }

    /// Every number on the page, and more.
    ///
    /// # Errors
    /// None that is known: what cannot be a number is null.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(&self.numbers).map_err(|error| Error::Unsupported(error.to_string()))
    }

    /// Writes the page.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written, and [`Error::Occupied`] where something else lies there.
    pub fn write(&self, path: &Path) -> Result<()> {
        const OURS: &str = "- thermoscope</title>";
        if let Ok(there) = std::fs::read(path)
            && !there[..there.len().min(1000)].windows(OURS.len()).any(|part| part == OURS.as_bytes())
        {
            return Err(Error::Occupied { path: path.to_owned(), detail: "is no page of a comparison" });
        }
        crate::files::write_whole(path, page::page(&self.party, &self.numbers)?.as_bytes())
    }
}
