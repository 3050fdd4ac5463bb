//! One model at several steps of its training: a scan of each, and what they say together.
//!
//! Scans lie in folders of their own, as anybody's do; a table, events and a page are made of what they found. Heads are born, gone
//! or on the other side by the rule of training ([`Roles`]): both questions, whether an effect differs from 0 and whether it is
//! beyond the null, asked at a rate of false discoveries over the heads of a scan, and held at several scans in a row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::findings::{Effect, Findings};
use super::tables::{At, Tables};
use super::words::plus_minus;
use crate::error::{Error, Result};
use crate::intervene::column::LOGIT_DIFFERENCE;
use crate::record::{Event, Finding, Manifest, Roles, RunDir, RunKind, What, too_few};
use crate::stats::Paired;

/// A model at a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Updates made.
    pub step: u64,
    /// Replica of the run, 0 of a model that is alone.
    pub replica: u32,
    /// Its folder, wherever one stands, and as it was given.
    pub model: [PathBuf; 2],
    /// BLAKE3 hash of its weights, as the numbers that they are.
    pub weights: String,
    /// Why it is not scanned, where it is not.
    pub left_out: Option<String>,
}

impl Member {
    /// Of the weights of a folder of one replica. It is left out where a member before has the same, so that one of the two steps is
    /// not what it is said to be, or nothing was learned between them: neither is a measurement more.
    pub fn new([step, replica]: [u64; 2], model: [PathBuf; 2], weights: &[f32], before: &[Self]) -> Self {
        let weights = hash(weights);
        let same = before.iter().find(|other| other.weights == weights && u64::from(other.replica) == replica);
        let left_out = same.map(|other| format!("its weights are those of step {}", other.step));
        Self { step, replica: replica as u32, model, weights, left_out }
    }

    /// Its folder in the series.
    pub fn folder(&self) -> String {
        let replica = if self.replica > 0 { format!("-replica-{}", self.replica) } else { String::new() };
        format!("scans/step-{:06}{replica}", self.step)
    }

    /// `step 1000`, or `step 1000, replica 2`; of replica 0 the step alone.
    pub fn name(&self) -> String {
        let replica = if self.replica > 0 { format!(", replica {}", self.replica) } else { String::new() };
        format!("step {}{replica}", self.step)
    }
}

/// The BLAKE3 hash of weights.
pub fn hash(weights: &[f32]) -> String {
    blake3::hash(bytemuck::cast_slice(weights)).to_hex().to_string()
}

/// A series, as far as it has come.
#[derive(Debug)]
pub struct Series {
    /// What was scanned, in order of step.
    pub members: Vec<Member>,
    /// What was found of each, of those whose scan is whole.
    pub scans: Vec<Option<Findings>>,
}

impl Series {
    /// Reads a run directory; `None` where it holds no series.
    ///
    /// # Errors
    /// Where what it holds cannot be read.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        if !run.join("run.json").exists() {
            return Ok(None);
        }
        let manifest = RunDir::read_manifest(run)?;
        if manifest.kind != RunKind::Series {
            return Ok(None);
        }
        let members = Self::members(run, &manifest)?;
        let read = |member: &Member| {
            let found = Findings::read(&run.join(member.folder()))?;
            Ok(found.filter(|findings| findings.layers == findings.setting.layers))
        };
        let scans = members.iter().map(read).collect::<Result<_>>()?;
        Ok(Some(Self { members, scans }))
    }

    /// The members that a series' `run.json` names.
    ///
    /// # Errors
    /// [`Error::Format`] where it names none.
    pub fn members(run: &Path, manifest: &Manifest) -> Result<Vec<Member>> {
        let members = serde_json::from_value(manifest.config["members"].clone());
        members.map_err(|error| Error::format(run.join("run.json"), format!("is damaged: {error}")))
    }

    /// Scans that are whole, with what they are of.
    pub fn whole(&self) -> impl Iterator<Item = (&Member, &Findings)> {
        self.members.iter().zip(&self.scans).filter_map(|(member, found)| Some((member, found.as_ref()?)))
    }

    /// How many are to be scanned.
    pub fn wanted(&self) -> usize {
        self.members.iter().filter(|member| member.left_out.is_none()).count()
    }

    /// Replicas, in order.
    pub fn replicas(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.members.iter().map(|member| member.replica).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Births, flips and deaths of heads, in the order in which they are certain.
    pub fn turns(&self) -> Vec<Event> {
        let mut steps: BTreeMap<u64, Vec<Finding>> = BTreeMap::new();
        for (member, findings) in self.whole() {
            let of_head = |effect: &Effect| {
                let (change, null) = (effect.changes[LOGIT_DIFFERENCE], effect.null?);
                let count = findings.setting.count[1] as u64;
                let paired = Paired { mean: change.mean, standard_error: change.error?, count };
                Some(Finding::of_head(member.replica, [effect.layer, effect.head?], paired, null.p))
            };
            steps.entry(member.step).or_default().extend(findings.effects.iter().filter_map(of_head).flatten());
        }
        let mut roles = Roles::by("scan.logit_difference", self.replicas().last().map_or(1, |last| last + 1));
        steps.into_iter().flat_map(|(step, found)| roles.measure(step, &found)).collect()
    }

    /// Everything that is to be told, in order of step: what was left out, and who turned.
    pub fn events(&self) -> Vec<Event> {
        let left_out = self.members.iter().filter_map(|member| {
            let about = format!("{} is left out: {}", member.name(), member.left_out.as_ref()?);
            Some(Event { replica: Some(member.replica), ..Event::at(member.step, What::Warning { about }) })
        });
        let mut all: Vec<Event> = left_out.chain(self.turns()).collect();
        all.sort_by_key(|event| event.seen_at);
        all
    }

    /// Writes the table of all whole scans, with the step and the replica of each, and the events.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn write(&self, dir: &mut RunDir) -> Result<()> {
        for (member, findings) in self.whole() {
            Tables::rows(dir, At { step: member.step, replica: member.replica }, findings);
        }
        dir.flush()?;
        self.events().iter().try_for_each(|event| dir.event(event))
    }

    /// What the data support, a sentence each.
    pub fn sentences(&self) -> Vec<String> {
        let whole: Vec<(&Member, &Findings)> = self.whole().collect();
        let (Some(first), Some(last)) = (whole.first(), whole.last()) else {
            return vec!["The series was stopped before its first scan was done: nothing was found out.".to_owned()];
        };
        let mut all = Vec::new();
        let setting = &first.1.setting;
        let of_last = |replica: u32| whole.iter().rev().find(|(member, _)| member.replica == replica);
        let ends: Vec<String> = self
            .replicas()
            .into_iter()
            .filter_map(|replica| {
                let first = whole.iter().find(|(member, _)| member.replica == replica)?;
                let last = of_last(replica)?;
                let level = |(member, found): &(&Member, &Findings)| {
                    format!("{} at step {}", plus_minus(found.clean[LOGIT_DIFFERENCE], true), member.step)
                };
                let who = if replica > 0 { format!(" (replica {replica})") } else { String::new() };
                Some(format!("{} and {}{who}", level(first), level(last)))
            })
            .collect();
        all.push(format!(
            "{} scans at steps {} to {}, on {} prompts in {} groups, {} ablation: the logit difference is {}.",
            whole.len(),
            first.0.step,
            last.0.step,
            setting.count[0],
            setting.count[1],
            setting.baseline,
            ends.join("; "),
        ));
        if !first.1.effects.iter().any(|effect| effect.head.is_some()) {
            return all;
        }
        let turns = self.turns();
        let heads = setting.size[1] * setting.layers;
        let beside = if setting.draws == 0 || setting.size[1] < 2 {
            Some("nothing was compared with random subspaces".to_owned())
        } else {
            too_few(setting.draws, heads)
        };
        let power = beside.map_or_else(String::new, |what| format!(" ({what}; --null takes more)"));
        if turns.is_empty() {
            all.push(format!(
                "No head came to stay as a suppressor or a contributor, with false discoveries among the heads of a scan kept at 5 %{power}."
            ));
        } else {
            let told: Vec<String> =
                turns.iter().map(|event| format!("{} ({})", event.text(), event.onset().words())).collect();
            all.push(format!("{}{power}.", told.join("; ")));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_are_left_out_where_they_are_the_same_replicas() {
        let place = || ["/a", "a"].map(PathBuf::from);
        let mut members: Vec<Member> = Vec::new();
        for (step, replica, weight) in [(0, 0, 1.0), (0, 1, 1.0), (10, 0, 2.0), (10, 1, 1.0), (20, 0, 1.0)] {
            members.push(Member::new([step, replica], place(), &[weight, -0.0], &members));
        }
        let left: Vec<Option<&str>> = members.iter().map(|member| member.left_out.as_deref()).collect();
        assert_eq!(
            left,
            [None, None, None, Some("its weights are those of step 0"), Some("its weights are those of step 0")]
        );
        assert_ne!(hash(&[0.0]), hash(&[-0.0]), "every bit counts");
        assert_eq!(members[3].folder(), "scans/step-000010-replica-1");
        assert_eq!(members[4].folder(), "scans/step-000020");
    }
}
