//! What a study is made of: the typed form of a STUDY.toml.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::outcomes::Watched;
use crate::error::{Error, Result, check_between};
use crate::intervene::{Pulse, Sham};
use crate::train::ReplicaConfig;

/// A study of when a change in training matters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StudyConfig {
    /// A name for people. Default empty.
    #[serde(default)]
    pub name: String,
    /// What is asked, for people. Default empty.
    #[serde(default)]
    pub description: String,
    /// What is disturbed, the trunk: a preset or a configuration file, which is trained first; or the directory of a run, each of
    /// whose replicas is a seed then, but for controls and shams.
    pub run: String,
    /// Settings of a preset or file, as `--set` takes them. Default none.
    #[serde(default)]
    pub set: Vec<String>,
    /// Seeds of a preset or file: its own, counted up. Default 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<u32>,
    /// Steps at which it is disturbed.
    pub times: Times,
    /// The probability of any window where there is none, over all times of a curve. Default 0.05.
    #[serde(default = "usual_rate")]
    pub rate: f64,
    /// What an effect on the first outcome varies by between seeds, its standard deviation, where that is known from an earlier
    /// study: `--plan` says by it what can be seen. Default unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<f64>,
    /// Device memory that a batch of arms may take, GiB. Default 2.
    #[serde(default = "usual_memory")]
    pub memory: f64,
    /// What is looked at: names among those of [`EVENTS`]. The first is what the study is about. Default `["grokked"]`, or
    /// nothing where there are `[[event]]` tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// Metrics of which the last value is looked at. Default none.
    #[serde(default, rename = "final")]
    pub last: Vec<String>,
    /// The metric by which the damage, and how soon it is made good, is told: arm minus trunk. Default `loss.test`.
    #[serde(default = "usual_damage")]
    pub damage: String,
    /// Events of your own.
    #[serde(default)]
    pub event: Vec<EventConfig>,
    /// Trunks beside the plain one, each with all seeds and disturbed likewise: what should not show the event, such as random
    /// labels or a run without decay. Not where `run` is a directory. Default none.
    #[serde(default)]
    pub trunk: Vec<ReplicaConfig>,
    /// How it is disturbed.
    pub pulse: Vec<PulseConfig>,
}

fn usual_rate() -> f64 {
    0.05
}

fn usual_memory() -> f64 {
    2.0
}

fn usual_damage() -> String {
    "loss.test".to_owned()
}

/// Steps at which pulses begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "times must be a list of steps, or { from, until, points }")]
pub enum Times {
    /// These.
    List(Vec<u64>),
    /// So many, as far apart from each other as whole steps allow.
    Spread(Spread),
}

/// Times between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The first.
    pub from: u64,
    /// The last.
    pub until: u64,
    /// How many.
    pub points: u64,
}

impl Times {
    /// The steps, in order.
    ///
    /// # Errors
    /// [`Error::Config`] where there are fewer than two, or two are the same.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let steps: Vec<u64> = match self {
            Self::List(list) => list.clone(),
            Self::Spread(Spread { from, until, points }) => {
                if *points > MOST_TIMES {
                    return Err(Error::Config(format!("times: {points} points; a study takes {MOST_TIMES} at most")));
                }
                if until <= from || *points < 2 || until - from < points - 1 {
                    return Err(Error::Config(format!(
                        "times: there are no {points} different steps from {from} to {until}"
                    )));
                }
                let length = u128::from(until - from);
                let place = |at: u64| (u128::from(at) * length + u128::from(points - 1) / 2) / u128::from(points - 1);
                (0..*points).map(|at| from + place(at) as u64).collect()
            }
        };
        let sorted: BTreeSet<u64> = steps.iter().copied().collect();
        if sorted.len() < 2 || sorted.len() < steps.len() {
            return Err(Error::Config(
                "times: at least two steps are needed, each once: a curve over times has one point for each".to_owned(),
            ));
        }
        Ok(sorted.into_iter().collect())
    }
}

/// Events that have names: training accuracy of 99 %, test accuracy of 50 % and of 99 %, and the birth of the oldest key frequency
/// of the logits that lives at the end.
pub const EVENTS: [(&str, Watched<'static>); 4] = [
    ("memorized", Watched::Accuracy { train: true, reaches: 0.99 }),
    ("generalizing", Watched::Accuracy { train: false, reaches: 0.5 }),
    ("grokked", Watched::Accuracy { train: false, reaches: 0.99 }),
    ("first key", Watched::FirstKey),
];
/// Times of a study at most.
const MOST_TIMES: u64 = 10_000;

/// An event of one's own: a metric reaches a bound and stays beyond at five measurements in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EventConfig {
    /// What it is called.
    pub name: String,
    /// The metric.
    pub metric: String,
    /// Reached where any of its numbers (of one layer, head and index, where they are set) is at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// Or at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Only at this site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Only in this layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<i32>,
    /// Only this head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<i32>,
    /// Only this index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i32>,
}

/// A way to disturb a run for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PulseConfig {
    /// What it is called.
    pub name: String,
    /// Interventions, as an arm of a fork has them: their steps count from the time of the pulse.
    #[serde(default)]
    pub intervene: Vec<Pulse>,
    /// Other batches from there on, drawn by a seed that is so much more: the order of the data is swapped. Only where batches
    /// are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_seed: Option<u64>,
    /// For how many steps, in the place of every `until`; a curve for each. Default as `until` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub widths: Vec<u64>,
    /// What every dose is multiplied by; a curve for each. Effects are divided by it. Default 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doses: Vec<f64>,
    /// A sham of the same size is trained beside it, and what is looked at is the difference from that: another head of the
    /// layer, or a random direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sham: Option<Sham>,
    /// Or the difference from another pulse of the study, by its name; it must have the same widths and doses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
}

/// One way, one width and one dose of a pulse.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// What it is called.
    pub name: String,
    /// What is done, by steps from the time of the pulse.
    pub intervene: Vec<Pulse>,
    /// See [`PulseConfig::batch_seed`].
    pub batch_seed: Option<u64>,
    /// What effects are divided by.
    pub dose: f64,
    /// The kind that it is compared with, by number.
    pub against: Option<usize>,
    /// Whether it is there only as something to compare with.
    pub is_sham: bool,
}

impl Kind {
    /// Steps from the time of the pulse to the first that nothing changes any more; `None` where something goes on.
    pub fn end(&self) -> Option<u64> {
        let ends: Option<Vec<u64>> = self.intervene.iter().map(Pulse::end).collect();
        if self.batch_seed.is_some() { None } else { ends?.into_iter().max() }
    }
}

impl StudyConfig {
    /// All curves there will be, and what they are compared with.
    ///
    /// # Errors
    /// [`Error::Config`] naming the pulse that cannot be.
    pub fn kinds(&self) -> Result<Vec<Kind>> {
        let mut kinds: Vec<Kind> = Vec::new();
        // Of each pulse the numbers of its kinds.
        let mut of_pulse: Vec<Vec<usize>> = Vec::new();
        for pulse in &self.pulse {
            let fail = |what: &str| Err(Error::Config(format!("[[pulse]] {}: {what}", pulse.name)));
            if self.pulse.iter().filter(|other| other.name == pulse.name).count() > 1 {
                return fail("two have this name");
            }
            if pulse.intervene.is_empty() && pulse.batch_seed.is_none() {
                return fail("does nothing: give it interventions, or a batch_seed");
            }
            if !pulse.widths.is_empty() && pulse.intervene.iter().all(|one| one.until.is_none()) {
                return fail("widths take the place of until, and none of its interventions has one");
            }
            if pulse.batch_seed.is_some() && !pulse.doses.is_empty() {
                return fail("an order of the data has no dose: leave out doses");
            }
            if pulse.sham.is_some() && pulse.against.is_some() {
                return fail("is compared with a sham or against another pulse, not with both");
            }
            if pulse.doses.iter().any(|dose| !(*dose > 0.0 && dose.is_finite())) {
                return fail("doses must be greater than 0; a dose of nothing is in every batch");
            }
            if pulse.widths.contains(&0) {
                return fail("widths must be greater than 0");
            }
            let widths: Vec<Option<u64>> = match pulse.widths.as_slice() {
                [] => vec![None],
                some => some.iter().copied().map(Some).collect(),
            };
            let doses = if pulse.doses.is_empty() { vec![1.0] } else { pulse.doses.clone() };
            let mut own = Vec::new();
            for width in &widths {
                for dose in &doses {
                    let mut name = pulse.name.clone();
                    name.extend((widths.len() > 1).then(|| width.map(|width| format!(", {width} steps"))).flatten());
                    name.extend((doses.len() > 1).then(|| format!(", dose {dose}")));
                    let changed = |one: &Pulse| Pulse {
                        until: one.until.map(|until| width.map_or(until, |width| one.from + width)),
                        dose: one.dose * dose,
                        ..one.clone()
                    };
                    let real = Kind {
                        name,
                        intervene: pulse.intervene.iter().map(changed).collect(),
                        batch_seed: pulse.batch_seed,
                        dose: *dose,
                        against: pulse.sham.map(|_| kinds.len() + 1),
                        is_sham: false,
                    };
                    own.push(kinds.len());
                    kinds.push(real.clone());
                    if let Some(sham) = pulse.sham {
                        kinds.push(
                            real.sham(sham)
                                .map_err(|what| Error::Config(format!("[[pulse]] {}: {what}", pulse.name)))?,
                        );
                    }
                }
            }
            of_pulse.push(own);
        }
        for (pulse, own) in self.pulse.iter().zip(&of_pulse) {
            let Some(name) = &pulse.against else { continue };
            let other = self.pulse.iter().position(|other| other.name == *name && other.name != pulse.name);
            match other.map(|other| &of_pulse[other]) {
                Some(others) if others.len() == own.len() => {
                    own.iter().zip(others).for_each(|(own, other)| kinds[*own].against = Some(*other));
                }
                Some(_) => {
                    return Err(Error::Config(format!(
                        "[[pulse]] {}: against = \"{name}\", which has not as many widths and doses",
                        pulse.name
                    )));
                }
                None => {
                    return Err(Error::Config(format!(
                        "[[pulse]] {}: against = \"{name}\" is no other pulse of the study",
                        pulse.name
                    )));
                }
            }
        }
        Ok(kinds)
    }

    /// Checks what needs no run.
    ///
    /// # Errors
    /// [`Error::Config`] naming what must be otherwise.
    pub fn check(&self) -> Result<()> {
        check_between("rate", self.rate, 1e-6..=0.5)?;
        check_between("spread", self.spread.unwrap_or(1.0), 1e-30..=1e30)?;
        check_between("memory", self.memory, 1e-6..=1e6)?;
        if self.pulse.is_empty() {
            return Err(Error::Config("a study needs a [[pulse]]".to_owned()));
        }
        for name in self.events.iter().flatten() {
            if !EVENTS.iter().any(|(known, _)| known == name) {
                return Err(Error::Config(format!(
                    "events: \"{name}\" is none of {}; others are declared as [[event]]",
                    EVENTS.map(|(known, _)| known).join(", ")
                )));
            }
        }
        for event in &self.event {
            let fail = |what: &str| Err(Error::Config(format!("[[event]] {}: {what}", event.name)));
            if event.at_least.is_some() == event.at_most.is_some() {
                return fail("needs at_least or at_most");
            }
        }
        let names = self.event_names();
        if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(Error::Config(format!("two events are called {twice}; name each once")));
        }
        if self.event_names().is_empty() && self.last.is_empty() {
            return Err(Error::Config("a study looks at an event, or at a metric's last value (final)".to_owned()));
        }
        for trunk in &self.trunk {
            let plain = trunk.name.is_none();
            if plain || trunk.seed.is_some() || trunk.group.is_some() || trunk.control_of.is_some() {
                return Err(Error::Config(
                    "[[trunk]]: give it a name; seed, group and control_of are the study's".to_owned(),
                ));
            }
        }
        self.times.steps()?;
        self.kinds().map(|_| ())
    }

    /// Names of all events, the first what the study is about.
    pub fn event_names(&self) -> Vec<String> {
        let usual = || if self.event.is_empty() { vec!["grokked".to_owned()] } else { Vec::new() };
        let named = self.events.clone().unwrap_or_else(usual);
        named.into_iter().chain(self.event.iter().map(|event| event.name.clone())).collect()
    }

    /// What is to be seen in each run, in the order of [`StudyConfig::event_names`].
    pub fn watched(&self) -> Vec<Watched<'_>> {
        let own = |name: &String| self.event.iter().find(|event| event.name == *name).map(Watched::Own);
        let usual = |name: &String| EVENTS.iter().find(|(known, _)| known == name).map(|(_, watched)| *watched);
        self.event_names().iter().filter_map(|name| own(name).or_else(|| usual(name))).collect()
    }

    /// Metrics without which what is asked cannot be told.
    pub fn needed(&self) -> BTreeSet<String> {
        let of_events = self.watched().into_iter().map(|watched| watched.metric().to_owned());
        of_events.chain(self.last.iter().cloned()).collect()
    }

    /// All metrics that are looked at, where a run has them.
    pub fn metrics(&self) -> BTreeSet<String> {
        let beside = [self.damage.as_str(), "loss.train", crate::instrument::LOGIT_KEYS].map(str::to_owned);
        self.needed().into_iter().chain(beside).collect()
    }
}

impl Kind {
    /// The same size where it should not have the effect.
    fn sham(&self, sham: Sham) -> Result<Self, String> {
        let (word, fits): (_, fn(&Pulse) -> bool) = match sham {
            Sham::Head => ("another head", |one| one.head.is_some()),
            Sham::Direction => ("a random direction", |one| one.what == crate::intervene::PulseKind::Reinitialize),
        };
        let intervene: Vec<Pulse> = self
            .intervene
            .iter()
            .map(|one| Pulse { sham: if fits(one) { Some(sham) } else { one.sham }, ..one.clone() })
            .collect();
        if intervene == self.intervene {
            return Err(format!("none of its interventions can be done to {word}"));
        }
        Ok(Self { name: format!("{} ({word})", self.name), intervene, against: None, is_sham: true, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUDY: &str = "run = \"grok-quick\"\ntimes = [0, 100]\n[[pulse]]\nname = \"none\"\n\
        intervene = [{ what = \"weight_decay\", factor = 0, from = 0, until = 50 }]\n";

    fn read(text: &str) -> Result<StudyConfig> {
        let config: StudyConfig = crate::record::parse(text)?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn times_are_spread_evenly_and_each_is_there_once() {
        let spread = |from, until, points| Times::Spread(Spread { from, until, points }).steps();
        assert_eq!(spread(0, 1900, 20).unwrap(), (0..20).map(|at| 100 * at).collect::<Vec<_>>());
        assert_eq!(spread(3, 7, 5).unwrap(), [3, 4, 5, 6, 7]);
        assert_eq!(spread(0, 10, 4).unwrap(), [0, 3, 7, 10]);
        // Steps beyond what a product of two holds, and points that no memory does.
        assert_eq!(spread(0, 9_000_000_000_000_000_000, 11).unwrap()[10], 9_000_000_000_000_000_000);
        for (from, until, points) in [(3, 6, 5), (5, 5, 2), (0, 9, 1), (0, u64::MAX, 1_000_000_000_000)] {
            assert!(spread(from, until, points).is_err());
        }
        assert_eq!(Times::List(vec![7, 3]).steps().unwrap(), [3, 7]);
        assert!(Times::List(vec![7, 7]).steps().is_err() && Times::List(vec![7]).steps().is_err());
    }

    #[test]
    fn every_width_and_dose_is_a_curve_and_a_sham_stands_beside_each() {
        let config = read(&format!(
            "{STUDY}widths = [10, 20]\ndoses = [0.5, 1.0]\n[[pulse]]\nname = \"off\"\nsham = \"head\"\n\
             intervene = [{{ what = \"scale_head\", head = 1, from = 2, until = 9 }}]\n\
             [[pulse]]\nname = \"off, restarted\"\nagainst = \"off\"\nintervene = [\n\
             {{ what = \"scale_head\", head = 1, from = 2, until = 9 }},\n\
             {{ what = \"learning_rate\", factor = 3, from = 9, until = 30 }}]\n"
        ))
        .unwrap();
        let kinds = config.kinds().unwrap();
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "none, 10 steps, dose 0.5",
                "none, 10 steps, dose 1",
                "none, 20 steps, dose 0.5",
                "none, 20 steps, dose 1",
                "off",
                "off (another head)",
                "off, restarted"
            ]
        );
        assert_eq!(kinds[0].intervene[0].until, Some(10));
        assert_eq!((kinds[2].intervene[0].dose, kinds[2].dose, kinds[2].end()), (0.5, 0.5, Some(20)));
        assert_eq!((kinds[4].against, kinds[6].against, kinds[5].is_sham), (Some(5), Some(4), true));
        assert_eq!((kinds[5].intervene[0].sham, kinds[6].end()), (Some(Sham::Head), Some(30)));
        assert_eq!(config.event_names(), ["grokked"]);
        assert!(config.metrics().contains("accuracy.test"));
    }

    #[test]
    fn mistakes_are_named_with_their_line_or_their_pulse() {
        for (text, words) in [
            (STUDY.replace("times", "tims"), &["line 2", "^", "times"][..]),
            (STUDY.replace("[0, 100]", "\"often\""), &["line 2", "list of steps"]),
            (STUDY.replace("[0, 100]", "[0]"), &["at least two steps"]),
            (STUDY.replace("weight_decay", "weight_decai"), &["line 5", "^", "weight_decay"]),
            (format!("{STUDY}width = 3\n"), &["line 6", "^", "widths"]),
            (format!("{STUDY}doses = [0.0]\n"), &["[[pulse]] none", "greater than 0"]),
            (format!("{STUDY}against = \"nobody\"\n"), &["against = \"nobody\"", "no other pulse"]),
            (format!("{STUDY}against = \"none\"\n"), &["no other pulse"]),
            (format!("{STUDY}sham = \"head\"\n"), &["[[pulse]] none", "another head"]),
            (format!("{STUDY}[[pulse]]\nname = \"none\"\nbatch_seed = 1\n"), &["two have this name"]),
            (format!("{STUDY}[[pulse]]\nname = \"a\"\n"), &["[[pulse]] a", "does nothing"]),
            (format!("events = [\"grokked\", \"grokked\"]\n{STUDY}"), &["two events are called grokked"]),
            (format!("events = [\"groked\"]\n{STUDY}"), &["\"groked\"", "grokked", "[[event]]"]),
            (format!("events = []\n{STUDY}"), &["looks at an event"]),
            (format!("{STUDY}[[event]]\nname = \"a\"\nmetric = \"b\"\n"), &["[[event]] a", "at_least or at_most"]),
            (format!("{STUDY}[[trunk]]\nshuffle_labels = true\n"), &["[[trunk]]", "name"]),
            (format!("rate = 2.0\n{STUDY}"), &["rate = 2"]),
        ] {
            let error = read(&text).unwrap_err().to_string();
            words.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
        }
        assert!(read(STUDY).is_ok());
    }
}
