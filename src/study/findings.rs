//! What a study found, and what it says about that.

use std::path::Path;

use serde::Serialize;

use super::config::StudyConfig;
use super::effects::{Asked, Curve, Outcomes, Stretch};
use super::outcomes::{Apart, Outcome, Run};
use super::plan::Plan;
use crate::error::Result;
use crate::stats::{Missing, Onset, Sensitivity, Survival, Time};

/// What a study found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// What was asked.
    pub study: StudyConfig,
    /// What is trained.
    pub plan: Plan,
    /// Names of the kinds of pulses.
    pub kinds: Vec<String>,
    /// Batches that are done, and those there will be.
    pub batches: [usize; 2],
    /// When each event came in each seed of each trunk, in the order of the plan.
    pub trunks: Vec<Vec<Option<Onset>>>,
    /// Arms that everything was done to with a dose of nothing, and those of them that do not have the bits of their trunk.
    pub shams: [usize; 2],
    /// One for each trunk, outcome and kind that is no sham.
    pub curves: Vec<Curve>,
    /// What pulses left behind, for each trunk, kind and time.
    pub left: Vec<Behind>,
    /// Every run, for the table: number of the time and of the kind, none of a trunk; place of the seed in the plan; what it came
    /// to.
    #[serde(skip)]
    pub runs: Vec<(Option<[usize; 2]>, usize, Outcome)>,
}

/// What a kind of pulse at one time left behind, over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Behind {
    /// Which trunk, by number.
    pub trunk: usize,
    /// Which kind, by number.
    pub kind: usize,
    /// Step of the pulse.
    pub time: u64,
    /// Mean of the distance of the weights to the trunk's at the end, as a share of their length.
    pub distance: f64,
    /// Mean share of key frequencies that both have.
    pub keys: Option<f64>,
    /// Mean of the greatest damage.
    pub damage: Option<f64>,
    /// Steps by which half of it was made good in half of the seeds; none where it was not.
    pub half_life: Option<f64>,
    /// Mean of the share of it that is left at the end.
    pub permanent: Option<f64>,
}

/// A sixth of the times: how long the effect lasts of which is said how small it may be.
fn sixth(times: usize) -> usize {
    times.div_ceil(6)
}

/// What an effect at a sixth of the times must be for a study to find it in four of five cases, in standard deviations.
///
/// # Errors
/// See [`Sensitivity::smallest_effect`].
pub fn least(seeds: usize, times: usize, rate: f64) -> Result<f64, Missing> {
    Sensitivity::smallest_effect(seeds, times, sixth(times), rate)
}

/// The same in words.
pub fn times_together(times: usize) -> String {
    match sixth(times) {
        1 => "one time".to_owned(),
        many => format!("{many} neighbouring times"),
    }
}

impl Findings {
    /// What the batches that are done say, from the folders of the trunk and of each of them.
    ///
    /// # Errors
    /// Where a run cannot be read.
    pub fn of(study: &StudyConfig, plan: &Plan, trunk: &Path, batches: &[Option<std::path::PathBuf>]) -> Result<Self> {
        let kinds = study.kinds()?;
        let trunk = Run::read(trunk, study)?;
        let mut outcomes = Outcomes {
            config: study,
            plan,
            kinds: &kinds,
            trunks: plan.seeds.iter().map(|seed| trunk.trunk(study, seed.replica)).collect(),
            arms: vec![vec![vec![None; plan.seeds.len()]; kinds.len()]; plan.times.len()],
        };
        let mut shams = [0; 2];
        for (batch, path) in plan.batches.iter().zip(batches) {
            let Some(path) = path else { continue };
            let arms = Run::read(path, study)?.arms(study, plan, batch, &trunk)?;
            for (arm, outcome) in batch.arms.iter().zip(arms) {
                match arm.kind {
                    Some(kind) => outcomes.arms[batch.time][kind][arm.seed] = Some(outcome),
                    None => {
                        let equal = outcome.apart.is_some_and(|apart| apart.equal);
                        shams = [shams[0] + 1, shams[1] + usize::from(!equal)];
                    }
                }
            }
        }
        Ok(Self::from(&outcomes, shams, batches.iter().flatten().count()))
    }

    /// What these outcomes say.
    pub fn from(outcomes: &Outcomes<'_>, shams: [usize; 2], done: usize) -> Self {
        let Outcomes { config, plan, kinds, .. } = outcomes;
        let seeds = plan.of_trunk(0).len();
        let least = least(seeds, plan.times.len(), config.rate).ok();
        Self {
            study: (*config).clone(),
            plan: (*plan).clone(),
            kinds: kinds.iter().map(|kind| kind.name.clone()).collect(),
            batches: [done, plan.batches.len()],
            trunks: outcomes.trunks.iter().map(|outcome| outcome.events.clone()).collect(),
            shams,
            curves: outcomes.curves(least),
            left: behind(outcomes),
            runs: runs(outcomes),
        }
    }

    /// What a curve is compared with, in words.
    pub fn against(&self, curve: &Curve) -> String {
        curve.against.map_or_else(|| "no pulse".to_owned(), |other| self.kinds[other].clone())
    }

    /// The curves that the study is about: its first outcome, in the plain trunk.
    pub fn main(&self) -> impl Iterator<Item = &Curve> {
        let asked = self.curves.first().map(|curve| &curve.asked);
        self.curves.iter().filter(move |curve| curve.trunk == 0 && Some(&curve.asked) == asked)
    }

    /// All else.
    pub fn others(&self) -> impl Iterator<Item = &Curve> {
        let main = self.main().count();
        self.curves.iter().skip(main)
    }

    /// Whether all is done.
    pub fn is_whole(&self) -> bool {
        self.batches[0] == self.batches[1]
    }

    /// What the data support, in one sentence.
    pub fn verdict(&self) -> String {
        let Some(first) = self.main().next() else { return "Nothing was looked at.".to_owned() };
        if let (true, Some(missing)) = (self.main().all(|curve| curve.missing.is_some()), &first.missing) {
            return format!("Whether there is a window cannot be told at a rate of {}: {missing}.", self.study.rate);
        }
        let what = match &first.asked {
            Asked::Delay(event) => format!("when \"{event}\" comes"),
            Asked::Last(metric) => format!("the last {metric}"),
        };
        let named = |is: &dyn Fn(&&Curve) -> bool| -> Vec<String> {
            self.main().filter(is).map(|curve| self.kinds[curve.kind].clone()).collect()
        };
        let with: Vec<String> = self
            .main()
            .filter(|curve| !curve.windows.is_empty())
            .map(|curve| {
                let windows: Vec<String> = curve.windows.iter().map(Stretch::words).collect();
                format!("{} ({})", self.kinds[curve.kind], windows.join(" and "))
            })
            .collect();
        let always = named(&|curve| curve.windows.is_empty() && !curve.effective.is_empty());
        let untold = named(&|curve| curve.missing.is_some());
        let never = named(&|curve| curve.missing.is_none() && curve.windows.is_empty() && curve.effective.is_empty());
        let mut parts = Vec::new();
        if with.is_empty() {
            parts.push(format!("No window is seen in {what}"));
        } else {
            parts.push(format!("There is a window in {what} for {}", with.join("; ")));
        }
        if !always.is_empty() {
            parts.push(format!("{} {} an effect, but at no time more than at others", always.join(", "), has(&always)));
        }
        if !never.is_empty() {
            parts.push(format!("{} {} no effect that is beyond chance", never.join(", "), has(&never)));
        }
        if !untold.is_empty() {
            parts.push(format!("of {} it cannot be told", untold.join(", ")));
        }
        parts.join("; ") + "."
    }

    /// A curve in words.
    pub fn says(&self, curve: &Curve) -> String {
        let against = match curve.against {
            Some(other) => format!("than {}", self.kinds[other]),
            None => "than without a pulse".to_owned(),
        };
        if let Some(missing) = &curve.missing {
            return format!("Not told: {missing}.");
        }
        let seeds = curve.points.iter().map(|point| point.seeds).max().unwrap_or(0);
        let told = |stretch: &Stretch, what: &str| {
            format!("{} {against} where the pulse begins {}{what}", curve.asked.words(stretch.effect), stretch.words())
        };
        let least = curve.least.map_or_else(String::new, |least| {
            format!(
                " An effect of {} at {} is seen in four of five such studies.",
                curve.asked.amount(least),
                times_together(curve.points.len())
            )
        });
        match (curve.windows.as_slice(), curve.effective.as_slice()) {
            ([], []) => format!("No effect at any of {} times that is beyond chance.{least}", curve.points.len()),
            ([], all) => {
                let all: Vec<String> = all.iter().map(|stretch| told(stretch, "")).collect();
                format!("{}; at no time more than at a random one: no window.{least}", all.join("; "))
            }
            (windows, _) => {
                let all: Vec<String> = windows.iter().map(|window| told(window, &window.resolution())).collect();
                format!("{}: more than at a random time. {seeds} seeds.{least}", all.join("; "))
            }
        }
    }

    /// What must be known beside it.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.is_whole() {
            notes.push(format!("Only {} of {} batches are done.", self.batches[0], self.batches[1]));
        }
        match self.shams {
            [0, _] => {}
            [all, 0] => notes.push(format!(
                "In all {all} batches an arm to which every pulse was done with a dose of nothing ended with the bits of its trunk."
            )),
            [all, some] => notes.push(format!(
                "Warning: in {some} of {all} batches an arm to which every pulse was done with a dose of nothing did not end with the bits of its trunk. Nothing here can be trusted: was the trunk trained on another adapter?"
            )),
        }
        for (at, name) in self.study.event_names().iter().enumerate() {
            let plain = self.plan.of_trunk(0).into_iter().filter_map(|seed| self.trunks[seed][at]);
            let never = plain.filter(|onset| onset.began().is_none()).count();
            if never > 0 {
                notes.push(format!(
                    "In {never} of the undisturbed seeds \"{name}\" had not come by the end: their delays count up to there only."
                ));
            }
        }
        let control = self.curves.iter().filter(|curve| curve.trunk > 0 && !curve.windows.is_empty());
        for curve in control {
            notes.push(format!(
                "Warning: the control \"{}\" shows a window too, for {}.",
                self.plan.trunks[curve.trunk], self.kinds[curve.kind]
            ));
        }
        let told = self.curves.iter().filter(|curve| curve.bounds.is_some()).count();
        if told > 1 {
            notes.push(format!(
                "{told} curves were looked at. Each shows a window where there is none with a probability of at most {}, so {:.1} at most are expected by chance among all.",
                self.study.rate,
                told as f64 * self.study.rate
            ));
        }
        notes.push(
            "A window is one of this pulse, this width and this dose, in this run: it says when the run is sensitive to them, not what forms then."
                .to_owned(),
        );
        notes
    }
}

fn has(names: &[String]) -> &'static str {
    if names.len() == 1 { "has" } else { "have" }
}

impl Stretch {
    /// Its times: `at step 300`, or `from step 300 to 500`.
    pub fn words(&self) -> String {
        match self.times {
            [from, until] if from == until => format!("at step {from}"),
            [from, until] => format!("from step {from} to {until}"),
        }
    }

    /// How exactly its ends are known.
    fn resolution(&self) -> String {
        match self.beyond {
            [Some(before), Some(behind)] => format!(" (not at {before}, and not at {behind})"),
            [None, Some(behind)] => format!(" (not at {behind}; earlier was not looked at)"),
            [Some(before), None] => format!(" (not at {before}; later was not looked at)"),
            [None, None] => String::new(),
        }
    }
}

impl Asked {
    /// Of what.
    pub fn name(&self) -> &str {
        match self {
            Self::Delay(name) | Self::Last(name) => name,
        }
    }

    /// An effect in words.
    fn words(&self, effect: f64) -> String {
        match self {
            Self::Delay(event) => {
                format!(
                    "\"{event}\" comes {} {}",
                    self.amount(effect.abs()),
                    if effect > 0.0 { "later" } else { "sooner" }
                )
            }
            Self::Last(metric) => {
                format!("{metric} ends {} {}", self.amount(effect.abs()), if effect > 0.0 { "higher" } else { "lower" })
            }
        }
    }

    /// A size with its unit.
    pub fn amount(&self, size: f64) -> String {
        match self {
            Self::Delay(_) => format!("{size:.0} steps"),
            Self::Last(_) => format!("{size:.3}"),
        }
    }
}

fn runs(outcomes: &Outcomes<'_>) -> Vec<(Option<[usize; 2]>, usize, Outcome)> {
    let trunks = outcomes.trunks.iter().enumerate().map(|(seed, outcome)| (None, seed, outcome.clone()));
    let arms = outcomes.arms.iter().enumerate().flat_map(|(time, kinds)| {
        kinds.iter().enumerate().flat_map(move |(kind, seeds)| {
            let known = seeds.iter().enumerate().filter_map(|(seed, outcome)| Some((seed, outcome.clone()?)));
            known.map(move |(seed, outcome)| (Some([time, kind]), seed, outcome))
        })
    });
    trunks.chain(arms).collect()
}

/// What pulses left behind.
fn behind(outcomes: &Outcomes<'_>) -> Vec<Behind> {
    let Outcomes { plan, kinds, arms, .. } = outcomes;
    let mut all = Vec::new();
    for trunk in 0..plan.trunks.len() {
        for (kind, _) in kinds.iter().enumerate() {
            for (at, time) in plan.times.iter().enumerate() {
                let own = plan.of_trunk(trunk).into_iter().map(|seed| &arms[at][kind][seed]);
                let apart: Vec<&Apart> = own.filter_map(|outcome| outcome.as_ref()?.apart.as_ref()).collect();
                if apart.is_empty() {
                    continue;
                }
                let mean = |of: &dyn Fn(&Apart) -> Option<f64>| {
                    let known: Vec<f64> = apart.iter().filter_map(|apart| of(apart)).collect();
                    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
                };
                let lives: Vec<Time> = apart.iter().filter_map(|apart| apart.half_life).map(Time::from).collect();
                all.push(Behind {
                    trunk,
                    kind,
                    time: *time,
                    distance: mean(&|apart| Some(apart.distance)).unwrap_or_default(),
                    keys: mean(&|apart| apart.keys),
                    damage: mean(&|apart| apart.damage),
                    half_life: Survival::of(&lives).ok().and_then(|left| left.median()),
                    permanent: mean(&|apart| apart.permanent),
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::effects::tests::{plan, simulated, study};
    use super::*;

    fn findings(seeds: usize, delay: impl Fn(usize, usize) -> f64) -> Findings {
        let (config, plan) = (study(), plan(seeds));
        let kinds = config.kinds().unwrap();
        Findings::from(&simulated(&config, &plan, &kinds, 3, delay), [10, 0], 0)
    }

    #[test]
    fn a_window_is_told_with_its_place_and_its_resolution() {
        let found = findings(8, |kind, time| if kind == 0 && [3, 4].contains(&time) { 300.0 } else { 0.0 });
        let verdict = found.verdict();
        assert!(
            verdict.starts_with("There is a window in when \"grokked\" comes for off (from step 300 to 400)"),
            "{verdict}"
        );
        assert!(verdict.contains("slow has no effect"), "{verdict}");
        let says: Vec<String> = found.main().map(|curve| found.says(curve)).collect();
        assert!(
            says[0].contains("later than off (another head) where the pulse begins from step 300 to 400"),
            "{}",
            says[0]
        );
        assert!(says[0].contains("(not at 200, and not at 500)") && says[0].contains("8 seeds"), "{}", says[0]);
        assert!(says[1].starts_with("No effect at any of 10 times") && says[1].contains("four of five"), "{}", says[1]);
        let notes = found.notes().join("\n");
        assert!(
            notes.contains("4 curves") && notes.contains("0.2 at most") && notes.contains("bits of its trunk"),
            "{notes}"
        );
    }

    #[test]
    fn an_effect_that_is_always_there_is_no_window() {
        let found = findings(8, |kind, _| if kind == 2 { 200.0 } else { 0.0 });
        let verdict = found.verdict();
        assert!(
            verdict.starts_with("No window is seen") && verdict.contains("slow has an effect, but at no time"),
            "{verdict}"
        );
        // What could not be told of one kind hides no other, and is not called nothing.
        let mut part = findings(8, |kind, _| if kind == 2 { 200.0 } else { 0.0 });
        let first = part.curves.iter_mut().find(|curve| curve.kind == 0).unwrap();
        (first.missing, first.bounds) = (Some("none came".to_owned()), None);
        let verdict = part.verdict();
        assert!(verdict.contains("slow has an effect") && verdict.ends_with("of off it cannot be told."), "{verdict}");
        assert!(!verdict.contains("off has no effect"), "{verdict}");
        let few = findings(3, |_, _| 0.0);
        assert!(few.verdict().contains("cannot be told at a rate of 0.05: 3 runs are too few"), "{}", few.verdict());
    }

    #[test]
    fn shams_that_are_not_their_trunk_are_a_warning() {
        let mut found = findings(8, |_, _| 0.0);
        found.shams = [10, 1];
        assert!(found.notes().iter().any(|note| note.starts_with("Warning: in 1 of 10")));
    }
}
