//! What pulses did to an outcome, by the time at which they came.

use serde::Serialize;

use super::config::{Kind, StudyConfig};
use super::outcomes::Outcome;
use super::plan::Plan;
use crate::stats::{Onset, Paired, Sensitivity, Survival, Time, log_rank};

/// Draws of the null of each curve.
const DRAWS: usize = 1999;

/// Outcomes of all runs of a study that are done.
pub struct Outcomes<'a> {
    /// What was asked.
    pub config: &'a StudyConfig,
    /// What is trained.
    pub plan: &'a Plan,
    /// How runs are disturbed.
    pub kinds: &'a [Kind],
    /// Of each seed, in the order of the plan.
    pub trunks: Vec<Outcome>,
    /// Of each time, kind and seed, where it is done.
    pub arms: Vec<Vec<Vec<Option<Outcome>>>>,
}

/// What a curve is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// By how many steps an event is later.
    Delay(String),
    /// By how much a metric differs at the end.
    Last(String),
}

/// One curve: what a kind of pulse did to one outcome of one trunk, by time.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// Which trunk, by number.
    pub trunk: usize,
    /// Which kind of pulse, by number.
    pub kind: usize,
    /// Of which outcome.
    pub asked: Asked,
    /// What the difference is from: another pulse, or the trunk without any.
    pub against: Option<usize>,
    /// Effects by dose, at each time.
    pub points: Vec<CurvePoint>,
    /// Means over n seeds beyond this by √n, around 0, are effects; and around `level`, of a time.
    pub bounds: Option<Bounds>,
    /// Why nothing can be told.
    pub missing: Option<String>,
    /// Times at which it has an effect.
    pub effective: Vec<Stretch>,
    /// Times at which it has one that it does not have at a random time.
    pub windows: Vec<Stretch>,
    /// The effect at a sixth of the times, next to each other, that such a study finds in four of five cases.
    pub least: Option<f64>,
    /// Of an event: how runs came to it.
    pub survival: Option<Came>,
}

/// What must be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// See [`Sensitivity::effect_bound`].
    pub effect: f64,
    /// See [`Sensitivity::time_bound`].
    pub time: f64,
    /// See [`Sensitivity::level`].
    pub level: f64,
}

/// A point of a curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Step of the pulse.
    pub time: u64,
    /// Seeds.
    pub seeds: usize,
    /// Mean over them; none where there is no seed.
    pub mean: Option<f64>,
    /// Its standard error.
    pub error: Option<f64>,
    /// Over all times: see [`crate::stats::Point`].
    pub p_effect: Option<f64>,
    /// Likewise.
    pub p_time: Option<f64>,
    /// Of each seed, by number.
    pub values: Vec<Option<f64>>,
}

/// Neighbouring times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stretch {
    /// The first time and the last.
    pub times: [u64; 2],
    /// The time before the first, and behind the last, at which it is not so; none at the ends of what was looked at.
    pub beyond: [Option<u64>; 2],
    /// The mean effect by dose, over times and seeds.
    pub effect: f64,
}

/// Runs that came to an event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Came {
    /// The last step by which all runs were watched: delays count up to there.
    pub until: u64,
    /// Of the trunk, and of the pulses.
    pub groups: Vec<Left>,
    /// Whether it comes as quickly whenever the pulse is: log-rank over times, a guide, for times share their seeds.
    pub log_rank: Option<f64>,
}

/// Kaplan and Meier's share of runs that have not come to an event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Left {
    /// Whose: 0 without a pulse, 1 with one in a window, 2 with one at another time.
    #[serde(skip)]
    pub whose: usize,
    /// Whose, in words.
    pub name: String,
    /// How many runs.
    pub runs: usize,
    /// How many came to it.
    pub came: usize,
    /// Steps at which it fell, and the share that is left from there.
    pub falls: Vec<[f64; 2]>,
    /// The mean step of the event up to `until`, and its standard error; NaN where nothing says how runs differ.
    pub mean: Option<[f64; 2]>,
}

impl Outcomes<'_> {
    /// All curves; `least` is the effect that is found in four of five studies, in standard deviations, where there is one.
    pub fn curves(&self, least: Option<f64>) -> Vec<Curve> {
        // Each with its place among the events, or among the metrics.
        let events = self.config.event_names().into_iter().map(Asked::Delay).enumerate();
        let asked: Vec<_> = events.chain(self.config.last.iter().cloned().map(Asked::Last).enumerate()).collect();
        let mut curves = Vec::new();
        for trunk in 0..self.plan.trunks.len() {
            for asked in &asked {
                for kind in (0..self.kinds.len()).filter(|kind| !self.kinds[*kind].is_sham) {
                    curves.push(self.curve(trunk, kind, asked, least));
                }
            }
        }
        curves
    }

    /// The last step by which every run was watched for an event.
    fn watched_until(&self, event: usize) -> u64 {
        let arms = self.arms.iter().flatten().flatten().flatten();
        let all = self.trunks.iter().chain(arms).filter_map(|outcome| outcome.events[event]);
        let not_by = all.filter(|onset| onset.began().is_none()).map(|onset| onset.step);
        not_by.min().unwrap_or(self.plan.steps)
    }

    fn curve(&self, trunk: usize, kind: usize, (at, asked): &(usize, Asked), least: Option<f64>) -> Curve {
        let seeds = self.plan.of_trunk(trunk);
        let until = matches!(asked, Asked::Delay(_)).then(|| self.watched_until(*at));
        // The event's step up to `until`, or the metric's last value.
        let value = |outcome: &Outcome| match until {
            Some(until) => Some(restricted(outcome.events[*at]?, until)),
            None => outcome.last[*at],
        };
        let against = self.kinds[kind].against;
        let dose = self.kinds[kind].dose;
        let effect = |time: usize, seed: usize| {
            let trunk = value(&self.trunks[seed])?;
            // What has come can be delayed no more.
            if until.is_some() && trunk <= self.plan.times[time] as f64 {
                return None;
            }
            let of = |kind: usize| Some(value(self.arms[time][kind][seed].as_ref()?)? - trunk);
            let other = match against {
                Some(other) => of(other)?,
                None => 0.0,
            };
            Some((of(kind)? - other) / dose)
        };
        let times = 0..self.plan.times.len();
        let rows: Vec<Vec<Option<f64>>> =
            seeds.iter().map(|seed| times.clone().map(|time| effect(time, *seed)).collect()).collect();
        let told = Sensitivity::of(&rows, self.config.rate, DRAWS, 0);
        let points: Vec<CurvePoint> =
            times.map(|time| point(&rows, time, self.plan.times[time], told.as_ref().ok())).collect();
        let stretches = |of: Option<Vec<std::ops::Range<usize>>>| -> Vec<Stretch> {
            of.into_iter().flatten().map(|range| stretch(&points, range)).collect()
        };
        // Where it came to nobody, with a pulse or without, nothing was delayed that could be.
        let came = |event: usize| {
            let of = |outcome: &Outcome| outcome.events[event].is_some_and(|onset| onset.began().is_some());
            let arms =
                || self.arms.iter().flat_map(|kinds| seeds.iter().filter_map(move |seed| kinds[kind][*seed].as_ref()));
            seeds.iter().any(|seed| of(&self.trunks[*seed])) || arms().any(of)
        };
        let (told, missing) = match told {
            _ if until.is_some() && !came(*at) => {
                (None, Some(format!("\"{}\" came in none of the runs", asked.name())))
            }
            Ok(told) => (Some(told), None),
            Err(missing) => (None, Some(missing.to_string())),
        };
        let (effective, windows) =
            (stretches(told.as_ref().map(Sensitivity::effective)), stretches(told.as_ref().map(Sensitivity::windows)));
        let survival = until.map(|until| self.came(&seeds, kind, *at, until, &rows, &windows));
        Curve {
            trunk,
            kind,
            asked: asked.clone(),
            against,
            bounds: told.as_ref().map(|told| Bounds {
                effect: told.effect_bound,
                time: told.time_bound,
                level: told.level,
            }),
            missing,
            effective,
            windows,
            least: told.as_ref().zip(least).map(|(told, least)| told.spread * least).filter(|least| *least > 0.0),
            survival,
            points,
        }
    }

    fn came(
        &self,
        seeds: &[usize],
        kind: usize,
        event: usize,
        until: u64,
        rows: &[Vec<Option<f64>>],
        windows: &[Stretch],
    ) -> Came {
        let left = |whose: usize, name: &str, times: &[Time]| {
            let survival = Survival::of(times).ok()?;
            let mean = survival.restricted_mean(until as f64).ok();
            Some(Left {
                whose,
                name: name.to_owned(),
                runs: times.len(),
                came: times.iter().filter(|time| time.came).count(),
                falls: survival.falls.iter().map(|fall| [fall.at, fall.left]).collect(),
                mean: mean.map(|mean| [mean.value, mean.error]),
            })
        };
        let time = |outcome: &Outcome| outcome.events[event].map(Time::from);
        let of_trunk: Vec<Time> = seeds.iter().filter_map(|seed| time(&self.trunks[*seed])).collect();
        // Arms that could still be delayed, by time.
        let by_time: Vec<Vec<Time>> = (0..self.plan.times.len())
            .map(|at| {
                let counted = seeds.iter().zip(rows).filter(|(_, row)| row[at].is_some());
                counted.filter_map(|(seed, _)| time(self.arms[at][kind][*seed].as_ref()?)).collect()
            })
            .collect();
        let within = |at: usize| {
            let step = self.plan.times[at];
            windows.iter().any(|window| (window.times[0]..=window.times[1]).contains(&step))
        };
        let some = |inside: bool| -> Vec<Time> {
            let at = (0..by_time.len()).filter(|at| within(*at) == inside);
            at.flat_map(|at| by_time[at].iter().copied()).collect()
        };
        let elsewhere = if windows.is_empty() { "pulse at any time" } else { "pulse at another time" };
        let groups = [
            left(0, "no pulse", &of_trunk),
            left(1, "pulse in the window", &some(true)),
            left(2, elsewhere, &some(false)),
        ];
        let known: Vec<&[Time]> = by_time.iter().filter(|times| !times.is_empty()).map(Vec::as_slice).collect();
        Came {
            until,
            groups: groups.into_iter().flatten().collect(),
            log_rank: log_rank(&known).ok().map(|test| test.p),
        }
    }
}

/// The step of an event, or the last by which all were watched.
fn restricted(onset: Onset, until: u64) -> f64 {
    onset.began().map_or(until, |step| step.min(until)) as f64
}

fn point(rows: &[Vec<Option<f64>>], at: usize, time: u64, told: Option<&Sensitivity>) -> CurvePoint {
    let values: Vec<Option<f64>> = rows.iter().map(|row| row[at]).collect();
    let known: Vec<f64> = values.iter().copied().flatten().collect();
    let Paired { mean, standard_error, count } = Paired::of(&known);
    let number = |value: f64| Some(value).filter(|value| value.is_finite());
    CurvePoint {
        time,
        seeds: count as usize,
        mean: number(mean),
        error: number(standard_error),
        p_effect: told.map(|told| told.points[at].p_effect),
        p_time: told.map(|told| told.points[at].p_time),
        values,
    }
}

fn stretch(points: &[CurvePoint], range: std::ops::Range<usize>) -> Stretch {
    let own: Vec<f64> = points[range.clone()].iter().filter_map(|point| point.mean).collect();
    Stretch {
        times: [points[range.start].time, points[range.end - 1].time],
        beyond: [
            range.start.checked_sub(1).map(|before| points[before].time),
            points.get(range.end).map(|behind| behind.time),
        ],
        effect: own.iter().sum::<f64>() / own.len() as f64,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::plan::Seed;
    use super::*;
    use crate::random::{Philox, Stream};

    const STUDY: &str = "run = \"grok-quick\"\ntimes = { from = 0, until = 900, points = 10 }\nfinal = [\"loss.test\"]\n\
        [[pulse]]\nname = \"off\"\nsham = \"head\"\ndoses = [0.5]\n\
        intervene = [{ what = \"scale_head\", head = 1, from = 0, until = 50 }]\n\
        [[pulse]]\nname = \"slow\"\nintervene = [{ what = \"learning_rate\", factor = 0, from = 0, until = 50 }]\n";

    pub(in super::super) fn study() -> StudyConfig {
        crate::record::parse(STUDY).unwrap()
    }

    pub(in super::super) fn plan(seeds: usize) -> Plan {
        let seed = |number| Seed { replica: number, trunk: 0, number };
        Plan {
            times: study().times.steps().unwrap(),
            steps: 2000,
            trunks: vec!["trunk".to_owned()],
            seeds: (0..seeds).map(seed).collect(),
            batches: Vec::new(),
        }
    }

    fn outcome(grokked: u64, loss: f64) -> Outcome {
        let onset = if grokked > 1900 { Onset::not_by(1900) } else { Onset::seen(grokked, Some(grokked - 10)) };
        Outcome { events: vec![Some(onset)], last: vec![Some(loss)], apart: None }
    }

    /// Runs of a simulated study: `delay` by kind, seed and time, beside noise of some tens of steps.
    pub(in super::super) fn simulated<'a>(
        config: &'a StudyConfig,
        plan: &'a Plan,
        kinds: &'a [Kind],
        draw: u32,
        delay: impl Fn(usize, usize) -> f64,
    ) -> Outcomes<'a> {
        let trunk = |seed: usize| 1100 + 60 * (seed as u64 % 5);
        let noise = Philox::new(u64::from(draw), Stream::Weights, 7);
        let arm = |time: usize, kind: usize, seed: usize| {
            let at = plan.times[time];
            if trunk(seed) <= at {
                return Some(outcome(trunk(seed), 0.1));
            }
            let place = (time * kinds.len() + kind) * plan.seeds.len() + seed;
            let [noise, _] = noise.normals(place as u64);
            let later = trunk(seed) as f64 + 20.0 * noise + delay(kind, time);
            Some(outcome(later.max(at as f64 + 10.0) as u64, 0.1 + noise / 100.0))
        };
        let arms = (0..plan.times.len()).map(|time| {
            let kinds = (0..kinds.len()).map(|kind| (0..plan.seeds.len()).map(|seed| arm(time, kind, seed)).collect());
            kinds.collect()
        });
        let trunks = (0..plan.seeds.len()).map(|seed| outcome(trunk(seed), 0.1)).collect();
        Outcomes { config, plan, kinds, trunks, arms: arms.collect() }
    }

    #[test]
    fn a_window_is_found_in_the_delays_beyond_the_sham() {
        let (config, plan) = (study(), plan(8));
        let kinds = config.kinds().unwrap();
        // Both the pulse and its sham delay by 100 steps at all times; the pulse by 300 more at steps 300 and 400.
        let delay = |kind: usize, time: usize| match kind {
            0 => 100.0 + if [3, 4].contains(&time) { 300.0 } else { 0.0 },
            1 => 100.0,
            _ => 0.0,
        };
        let curves = simulated(&config, &plan, &kinds, 1, delay).curves(Some(2.0));
        assert_eq!(curves.len(), 4, "two kinds that are no shams, two outcomes");
        let [off, slow] = [&curves[0], &curves[1]];
        assert_eq!((off.kind, off.against, slow.kind, slow.against), (0, Some(1), 2, None));
        let window = off.windows[0];
        assert_eq!((off.windows.len(), window.times, window.beyond), (1, [300, 400], [Some(200), Some(500)]));
        // By dose: half of it made 300 steps.
        assert!((window.effect - 600.0).abs() < 60.0, "{window:?}");
        assert!(slow.windows.is_empty() && slow.effective.is_empty());
        assert!(slow.least.is_some_and(|least| (20.0..80.0).contains(&least)), "{:?}", slow.least);
        let groups = &off.survival.as_ref().unwrap().groups;
        let names: Vec<(&str, usize)> = groups.iter().map(|left| (left.name.as_str(), left.runs)).collect();
        assert_eq!(names, [("no pulse", 8), ("pulse in the window", 16), ("pulse at another time", 64)]);
        let [none, inside] = [0, 1].map(|at| groups[at].mean.unwrap()[0]);
        assert!((inside - none - 400.0).abs() < 40.0, "{none} {inside}");
        assert_eq!(curves[2].asked, Asked::Last("loss.test".to_owned()));
        assert!(curves[2].survival.is_none());
    }

    #[test]
    fn what_has_come_is_not_delayed_and_what_never_comes_is_as_late_as_was_watched() {
        let (config, mut plan) = (study(), plan(8));
        let kinds = config.kinds().unwrap();
        plan.times.push(1200);
        let never = |kind: usize, time: usize| if kind == 2 && time == 2 { 5000.0 } else { 0.0 };
        let outcomes = simulated(&config, &plan, &kinds, 2, never);
        let curves = outcomes.curves(None);
        let slow = &curves[1];
        // Seeds grok at 1100, 1160, 1220, 1280, 1340: at 1200 three of five are left, of eight seeds four.
        assert_eq!((slow.points[9].seeds, slow.points[10].seeds), (8, 4));
        assert_eq!(slow.points[10].values[0], None);
        let came = slow.survival.as_ref().unwrap();
        assert_eq!(came.until, 1900, "the last step by which those that did not come were watched");
        assert_eq!(slow.points[2].values[0], Some(1900.0 - 1100.0));
        assert_eq!(slow.windows.iter().map(|window| window.times).collect::<Vec<_>>(), [[200, 200]]);
        let pulsed = &came.groups[1];
        assert_eq!((pulsed.runs, pulsed.came, pulsed.falls.len()), (8, 0, 0));
        let p = came.log_rank.unwrap();
        assert!(p < 1e-3, "{p}");
    }

    #[test]
    fn a_study_without_a_window_shows_none_in_twenty_repetitions_at_the_rate() {
        let plan = plan(8);
        // No effect; and one at all times, of the pulse and of its sham.
        let always = |kind: usize, _: usize| [200.0, 120.0, 80.0][kind];
        let with_windows = |rate: f64, delay: &dyn Fn(usize, usize) -> f64| -> Vec<usize> {
            let config = StudyConfig { rate, ..study() };
            let kinds = config.kinds().unwrap();
            let of = |draw: u32| simulated(&config, &plan, &kinds, 100 + draw, delay).curves(None);
            (0..20).map(|draw| of(draw).iter().filter(|curve| !curve.windows.is_empty()).count()).collect()
        };
        // Eight seeds can tell at 0.8 %. Of four curves in each of twenty repetitions, 80 in all, none at a rate of 1 %.
        assert_eq!(with_windows(0.01, &|_, _| 0.0), [0; 20]);
        for delay in [&(|_: usize, _: usize| 0.0) as &dyn Fn(usize, usize) -> f64, &always] {
            // At 5 % four of 80 curves at most, and four standard errors of 1.9.
            let count: usize = with_windows(0.05, delay).iter().sum();
            assert!(count <= 4 + 8, "{count} of 80 curves");
        }
    }

    #[test]
    fn an_event_that_comes_to_nobody_tells_nothing() {
        let (config, plan) = (study(), plan(8));
        let kinds = config.kinds().unwrap();
        let mut outcomes = simulated(&config, &plan, &kinds, 1, |_, _| 0.0);
        let all = outcomes.arms.iter_mut().flatten().flatten().flatten();
        all.chain(&mut outcomes.trunks).for_each(|outcome| outcome.events[0] = Some(Onset::not_by(1900)));
        let curves = outcomes.curves(Some(2.0));
        let said = [0, 2].map(|at| curves[at].missing.as_deref());
        assert_eq!(said, [Some("\"grokked\" came in none of the runs"), None]);
        assert!(curves[0].bounds.is_none() && curves[2].bounds.is_some());
        // One run that it comes to, and something is told.
        outcomes.trunks[3].events[0] = Some(Onset::seen(1500, Some(1490)));
        assert!(outcomes.curves(None)[0].bounds.is_some());
    }

    #[test]
    fn few_seeds_tell_nothing_and_say_so() {
        let (config, plan) = (study(), plan(4));
        let kinds = config.kinds().unwrap();
        let curves = simulated(&config, &plan, &kinds, 1, |_, _| 500.0).curves(Some(2.0));
        let off = &curves[0];
        assert!(off.windows.is_empty() && off.bounds.is_none());
        assert_eq!(off.missing.as_deref(), Some("4 runs are too few: at least 6 are needed"));
        assert_eq!(off.points[0].seeds, 4);
    }
}
