//! `events.jsonl`: one JSON object a line, in the order in which things were seen. It only grows, but for what a run that goes on
//! sees again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::intervene::Pulse;
use crate::stats::{Censored, Onset};

/// Something that happened. A line of the file has these fields, those of [`What`], and last a `text` for people, made
/// of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Updates made when it happened: the first measurement that shows it.
    pub step: u64,
    /// Steps back to the measurement before: it happened after `step - resolution`, and by `step`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resolution: u64,
    /// `before` where the first measurement shows it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub censored: Option<Censored>,
    /// Step of the measurement at which it became certain. It never falls from line to line.
    pub seen_at: u64,
    /// The replica, where it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<u32>,
    /// What it is, under `kind`.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// The run began on an adapter.
    Start {
        /// Its name and backend.
        adapter: String,
    },
    /// It went on.
    Resume {
        /// On this adapter.
        adapter: String,
        /// To this number of steps, where it was another before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// It goes on from a step of another run.
    Fork {
        /// The other run's folder.
        run: PathBuf,
        /// Which of its replicas.
        of: u32,
    },
    /// An intervention in a replica's training begins: the step is the first that it changes.
    PulseBegin {
        /// What it is.
        pulse: Pulse,
    },
    /// It is over: the step is the first that it does not change.
    PulseEnd {
        /// What it was.
        pulse: Pulse,
    },
    /// The state was saved.
    Checkpoint,
    /// A signal asked it to stop.
    Stop,
    /// All steps are done.
    Finish,
    /// The train loss of a replica is no finite number any more.
    Diverged,
    /// It goes on on another adapter than it was on, where bits may differ.
    Moved {
        /// Name of the adapter before.
        before: String,
    },
    /// Metrics that are no finite numbers.
    NotFinite {
        /// Their names.
        metrics: Vec<String>,
    },
    /// Something else to be warned of.
    Warning {
        /// What it is.
        about: String,
    },
    /// A member of a set came to stay.
    Birth(Turned),
    /// A member is gone for good.
    Death(Turned),
    /// A head came to stay on the other side than it was on before.
    Flip(Turned),
}

/// Who turned, and what that rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turned {
    /// Who.
    pub subject: Subject,
    /// What the number of it is: `p`, `effect`, `threshold`, `hold` (measurements in a row).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, f64>,
}

/// A place in the metric table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    /// Metric whose set it belongs to, or on which its role rests.
    pub metric: String,
    /// Tensor or hook name.
    pub site: String,
    /// Layer, or -1.
    pub layer: i32,
    /// Head, or -1.
    pub head: i32,
    /// Index, or -1.
    pub index: i32,
    /// What a head does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<HeadRole>,
}

/// What a head does to the logit difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadRole {
    /// Removing it raises the logit difference.
    Suppressor,
    /// Removing it lowers it.
    Contributor,
}

impl HeadRole {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Suppressor => "suppressor",
            Self::Contributor => "contributor",
        }
    }
}

fn is_zero(steps: &u64) -> bool {
    *steps == 0
}

impl Event {
    /// What happens at a step and is seen there.
    pub fn at(step: u64, what: What) -> Self {
        Self { step, resolution: 0, censored: None, seen_at: step, replica: None, what }
    }

    /// What began some time ago and was certain at `seen_at`.
    pub fn dated(onset: Onset, seen_at: u64, replica: u32, what: What) -> Self {
        let Onset { step, resolution, censored } = onset;
        Self { step, resolution, censored, seen_at, replica: Some(replica), what }
    }

    /// When it happened, and how exactly that is known.
    pub fn onset(&self) -> Onset {
        Onset { step: self.step, resolution: self.resolution, censored: self.censored }
    }

    /// Whether people should be told at once.
    pub fn is_warning(&self) -> bool {
        matches!(self.what, What::Diverged | What::Moved { .. } | What::NotFinite { .. } | What::Warning { .. })
    }

    /// The word under `kind`, those of births, deaths and flips among them.
    pub fn kind(&self) -> &'static str {
        match self.what {
            What::Start { .. } => "start",
            What::Resume { .. } => "resume",
            What::Fork { .. } => "fork",
            What::PulseBegin { .. } => "pulse_begin",
            What::PulseEnd { .. } => "pulse_end",
            What::Checkpoint => "checkpoint",
            What::Stop => "stop",
            What::Finish => "finish",
            What::Diverged => "diverged",
            What::Moved { .. } => "moved",
            What::NotFinite { .. } => "not_finite",
            What::Warning { .. } => "warning",
            What::Birth(_) => "birth",
            What::Death(_) => "death",
            What::Flip(_) => "flip",
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        let of_replica = || self.replica.map_or_else(String::new, |replica| format!(", replica {replica}"));
        let turned = |verb: &str, turned: &Turned| format!("{} {verb}{}", turned.subject.words(), of_replica());
        match &self.what {
            What::Start { adapter } | What::Resume { adapter, steps: None } => format!("on {adapter}"),
            What::Resume { adapter, steps: Some(steps) } => format!("on {adapter}, now to step {steps}"),
            What::Fork { run, of } => format!("goes on from step {} of {}, replica {of}", self.step, run.display()),
            What::PulseBegin { pulse } => format!("{} begins{}", pulse.words(), of_replica()),
            What::PulseEnd { pulse } => format!("{} ends{}", pulse.words(), of_replica()),
            What::Checkpoint => format!("state saved at step {}", self.step),
            What::Stop => "asked to stop by a signal".to_owned(),
            What::Finish => "all steps done".to_owned(),
            What::Diverged => format!(
                "replica {} diverged: its train loss is no finite number any more. Lower optimizer.learning_rate or set optimizer.clip",
                self.replica.unwrap_or(0)
            ),
            What::Moved { before } => format!(
                "the run began on {before}: from step {} on its bits may differ from what they were there",
                self.step
            ),
            What::NotFinite { metrics } => format!("not all numbers are finite: {}", metrics.join(", ")),
            What::Warning { about } => about.clone(),
            What::Birth(who) => turned("is born", who),
            What::Death(who) => turned("is gone", who),
            What::Flip(who) => turned("has changed sides", who),
        }
    }
}

impl Subject {
    /// In words: `suppressor layer 0 head 3`, `key_frequencies embed.W_E index 7`.
    pub fn words(&self) -> String {
        let name = match self.role {
            Some(role) => role.word().to_owned(),
            None => format!("{} {}", self.metric, self.site),
        };
        let place = [("layer", self.layer), ("head", self.head), ("index", self.index)];
        let place = place.iter().filter(|(_, value)| *value >= 0).map(|(word, value)| format!(" {word} {value}"));
        name + &place.collect::<String>()
    }
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
        let there = file.metadata().map_err(Error::io("cannot read", path))?.len();
        if there < bytes {
            return Err(Error::format(
                path,
                format!(
                    "is missing or torn: it has {there} bytes, and had {bytes} at the checkpoint. Put it back, or begin anew in another folder"
                ),
            ));
        }
        file.set_len(bytes).map_err(Error::io("cannot write", path))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io("cannot write", path))?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// Opens it for a run that goes on from its beginning. What is seen again is dropped; the sittings before stay.
    pub(super) fn sittings(path: &Path) -> Result<Self> {
        let kept = read(path)?.into_iter().filter(|event| {
            matches!(
                event.what,
                What::Start { .. } | What::Resume { .. } | What::Moved { .. } | What::Fork { .. } | What::Stop
            )
        });
        let lines: String = kept.map(|event| line(&event)).collect();
        crate::files::write_whole(path, lines.as_bytes())?;
        Self::open(path, lines.len() as u64)
    }

    /// Appends one event.
    pub(super) fn push(&mut self, event: &Event) -> Result<()> {
        let line = line(event);
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

/// A line of the file.
fn line(event: &Event) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(flatten)]
        event: &'a Event,
        text: String,
    }
    serde_json::to_string(&Line { event, text: event.text() }).unwrap_or_default() + "\n"
}

/// Reads all events; a torn last line is left out.
pub(super) fn read(path: &Path) -> Result<Vec<Event>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("cannot read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_as_they_were_and_the_text_stands_last() {
        let subject = Subject {
            metric: "ablation.logit_difference".to_owned(),
            site: "blocks.0.attn.hook_result".to_owned(),
            layer: 0,
            head: 3,
            index: -1,
            role: Some(HeadRole::Suppressor),
        };
        let numbers = BTreeMap::from([("p".to_owned(), 0.0125), ("hold".to_owned(), 3.0)]);
        let onset = Onset { step: 300, resolution: 100, censored: None };
        let first = Onset { step: 0, resolution: 0, censored: Some(Censored::Before) };
        let events = [
            Event::at(0, What::Start { adapter: "a \"card\"".to_owned() }),
            Event::dated(onset, 500, 2, What::Birth(Turned { subject: subject.clone(), numbers })),
            Event::dated(first, 20, 0, What::Death(Turned { subject, numbers: BTreeMap::new() })),
            Event { replica: Some(1), ..Event::at(7, What::Diverged) },
            Event::at(9, What::Checkpoint),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut file = Events::open(&path, 0).unwrap();
        events.iter().for_each(|event| file.push(event).unwrap());
        assert_eq!(read(&path).unwrap(), events);
        let line = |event: &Event| serde_json::to_value(event).unwrap();
        assert!(events.iter().all(|event| line(event)["kind"] == event.kind()));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "{\"step\":300,\"resolution\":100,\"seen_at\":500,\"replica\":2,\"kind\":\"birth\",\
             \"subject\":{\"metric\":\"ablation.logit_difference\",\"site\":\"blocks.0.attn.hook_result\",\"layer\":0,\
             \"head\":3,\"index\":-1,\"role\":\"suppressor\"},\"numbers\":{\"hold\":3.0,\"p\":0.0125},\
             \"text\":\"suppressor layer 0 head 3 is born, replica 2\"}"
        );
    }

    #[test]
    fn of_a_run_that_goes_on_from_its_beginning_the_sittings_stay() {
        let start = Event::at(0, What::Start { adapter: "a".to_owned() });
        let moved = Event::at(0, What::Moved { before: "b".to_owned() });
        let seen = Event::at(3, What::Warning { about: "seen again".to_owned() });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut file = Events::open(&path, 0).unwrap();
        [&start, &moved, &seen, &Event::at(9, What::Finish)].into_iter().for_each(|event| file.push(event).unwrap());
        let mut file = Events::sittings(&path).unwrap();
        file.push(&seen).unwrap();
        assert_eq!(read(&path).unwrap(), [start, moved, seen]);
        assert_eq!(file.sync().unwrap(), std::fs::metadata(&path).unwrap().len());
    }
}
