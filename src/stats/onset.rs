//! When something began: a step, how exactly it is known, and whether the looking began or ended too soon to tell.

use serde::{Deserialize, Serialize};

use super::holds::Watch;
use super::p_values::at_least;

/// Measurements in a row at which a number must stay beyond a threshold to have reached it.
pub const LASTING: u32 = 5;

/// When something began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onset {
    /// The first measurement that shows it; where it is censored, the step to which that is known.
    pub step: u64,
    /// Steps back to the measurement before: it began after `step - resolution`, and by `step`.
    pub resolution: u64,
    /// What the measurements cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub censored: Option<Censored>,
}

/// Why a date is a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Censored {
    /// The first measurement shows it already: it began by `step`.
    Before,
    /// No measurement shows it, or too few at the end: it did not begin by `step`.
    After,
}

impl Onset {
    /// The first step from which something holds at `hold` measurements in a row, of measurements in order of step;
    /// `None` of none.
    pub fn of(measurements: impl IntoIterator<Item = (u64, bool)>, hold: u32) -> Option<Self> {
        let mut watch = Watch::default();
        let found = measurements.into_iter().find_map(|(step, now)| watch.measure(step, now, hold));
        found.or_else(|| watch.until())
    }

    /// Of the first measurement that shows it, and the one before, if there was one.
    pub fn seen(step: u64, before: Option<u64>) -> Self {
        match before {
            Some(before) => Self { step, resolution: step - before, censored: None },
            None => Self { step, resolution: 0, censored: Some(Censored::Before) },
        }
    }

    /// Of what had not begun by a step.
    pub fn not_by(step: u64) -> Self {
        Self { step, resolution: 0, censored: Some(Censored::After) }
    }

    /// The step, where it did begin.
    pub fn began(&self) -> Option<u64> {
        (self.censored != Some(Censored::After)).then_some(self.step)
    }

    /// The date in words: `step 960 ± 20`, or `step 960` of what is known to the step.
    pub fn words(&self) -> String {
        match self.censored {
            None if self.resolution == 0 => format!("step {}", self.step),
            None => format!("step {} ± {}", self.step, self.resolution),
            Some(Censored::Before) => format!("by step {}", self.step),
            Some(Censored::After) => format!("not by step {}", self.step),
        }
    }
}

/// Hits that a share was counted from, for a rule that knows how many it has seen.
///
/// A share of few trials reaches any threshold by luck: four guesses between two answers are all right once in sixteen
/// times. So `reached` asks for two things. The share of all trials of some measurements in a row must reach the
/// threshold: of [`LASTING`] measurements, and of [`Sample::ENOUGH`] trials at least where every measurement draws new
/// ones. And guessing must not: the probability that as many hits come by chance is below [`Sample::ALPHA`], shared
/// among all stretches that were looked at. Trials that are the same ones every time count once there: looking at them
/// again makes them no more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Trials that one measurement counts.
    pub trials: u64,
    /// Whether every measurement draws new ones.
    pub fresh: bool,
    /// Probability of a hit by guessing, or by always giving the most frequent answer.
    pub chance: f64,
}

impl Sample {
    /// Of so many trials, all hits, a rate of 0.99 is the 95 % bound: ln 0.05 / ln 0.99.
    pub const ENOUGH: u64 = 298;
    /// Probability that guessing is taken for more anywhere in a series.
    pub const ALPHA: f64 = 0.001;

    /// Measurements that are taken together.
    pub fn window(&self) -> u32 {
        let fresh = if self.fresh { Self::ENOUGH.div_ceil(self.trials.max(1)) as u32 } else { 0 };
        LASTING.max(fresh)
    }

    /// Whether shares of one window, of `looks` that are looked at, reach a threshold.
    pub fn reaches(&self, shares: impl Iterator<Item = f64> + Clone, threshold: f64, looks: u64) -> bool {
        let count = shares.clone().count() as f64;
        let trials = self.trials as f64;
        let mean = shares.clone().sum::<f64>() / count;
        // Shares are f32: a count by a number of trials is off by less than half a hit.
        let enough = mean * trials * count >= threshold * trials * count - 0.01;
        // The same trials every time: the worst of the looks counts, and as one.
        let least = shares.fold(f64::INFINITY, f64::min);
        let (hits, trials) = match self.fresh {
            true => ((mean * trials * count).round() as u64, self.trials * count as u64),
            false => ((least * trials).round() as u64, self.trials),
        };
        let lasts = self.fresh || least >= threshold - 0.01 / trials as f64;
        enough && lasts && at_least(hits, trials, self.chance) * looks as f64 <= Self::ALPHA
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn onset(text: &str, hold: u32) -> Onset {
        let at = |(step, mark): (usize, char)| (10 * step as u64, mark == '#');
        Onset::of(text.chars().enumerate().map(at), hold).unwrap()
    }

    #[test]
    fn an_onset_must_last_and_says_how_exactly_it_is_known() {
        assert_eq!(onset(".#..#####.", 5), Onset { step: 40, resolution: 10, censored: None });
        assert_eq!(onset("#####", 5), Onset { step: 0, resolution: 0, censored: Some(Censored::Before) });
        // It shows at the very end, too late to say that it lasts: not by step 50, so far.
        assert_eq!(onset("......####", 5), Onset { step: 50, resolution: 0, censored: Some(Censored::After) });
        assert_eq!(onset("..........", 5).step, 90);
        assert_eq!(onset("..........", 5).began(), None);
        assert_eq!(Onset::of([], 5), None);
        assert_eq!(onset(".#####", 5).words(), "step 10 ± 10");
    }

    #[test]
    fn few_trials_reach_nothing_by_chance() {
        let all_right =
            |sample: Sample, looks| sample.reaches(vec![1.0; sample.window() as usize].into_iter(), 0.99, looks);
        // The same three coins at every look: heads by chance once in eight runs.
        assert!(!all_right(Sample { trials: 3, fresh: false, chance: 0.5 }, 1));
        // Twenty are enough for one look, and not for a thousand.
        assert!(all_right(Sample { trials: 20, fresh: false, chance: 0.5 }, 1));
        assert!(!all_right(Sample { trials: 20, fresh: false, chance: 0.5 }, 10_000));
        // Drawn anew four at a time, 75 looks make enough.
        let drawn = Sample { trials: 4, fresh: true, chance: 0.5 };
        assert_eq!(drawn.window(), 75);
        assert!(all_right(drawn, 10_000));
        // A set that is looked at as a whole reaches a share where it does at every look.
        let whole = Sample { trials: 1000, fresh: false, chance: 0.1 };
        assert_eq!(whole.window(), LASTING);
        assert!(whole.reaches([0.99; 5].into_iter(), 0.99, 100));
        assert!(!whole.reaches([0.99, 1.0, 0.989, 1.0, 1.0].into_iter(), 0.99, 100));
    }
}
