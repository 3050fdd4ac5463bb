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

/// Hits that a share was counted from, for a rule that knows how many it has seen: [`Reach`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Trials that one measurement counts.
    pub trials: u64,
    /// Whether every measurement draws new ones.
    pub fresh: bool,
    /// Probability of a hit by guessing, or by always giving the most frequent answer.
    pub chance: f64,
}

/// A share of hits that is to reach a threshold, watched from measurement to measurement.
///
/// *The same trials every time*: the share is that of the set, without an error. It must be at the threshold at [`LASTING`]
/// measurements in a row; and guessing must not: that as many hits come by chance has a probability below [`Reach::ALPHA`], shared
/// among all measurements, at each of these. Looking again makes the trials no more, so they count once.
///
/// *New ones every time*: a share reaches any threshold by luck, if it is looked at often enough. So there must be evidence that
/// the rate behind it is above the threshold, and above what guessing reaches: by the likelihood ratio of half as many misses
/// against as many as the greater of both leaves, over a stretch that begins where that is greatest (Page 1954). With
/// independent trials whose rate stays at or below the threshold, some stretch of a run has a ratio of `looks / ALPHA` with a
/// probability of at most [`Reach::ALPHA`], for the sum of the ratios over all beginnings grows by 1 a measurement in the mean
/// (Shiryaev and Roberts's statistic, and Doob's inequality). For 99 % and 2,000 measurements that takes 2,880 hits without a miss;
/// a rate that stays between 99 and 99.3 % is never said to have reached 99 %.
#[derive(Clone, Debug)]
pub struct Reach {
    sample: Sample,
    threshold: f64,
    looks: u64,
    /// The stretch that may reach it: its first step, the measurement before that, how many measurements it has, and the
    /// logarithm of its likelihood ratio.
    since: u64,
    before: Option<u64>,
    count: u32,
    evidence: f64,
    last: Option<u64>,
    found: Option<Onset>,
}

impl Reach {
    /// Probability with which a share is said to be reached by chance anywhere in a series.
    pub const ALPHA: f64 = 0.001;

    /// Nothing seen yet; `looks` is how many measurements a run of this length has.
    pub fn new(sample: Sample, threshold: f64, looks: u64) -> Self {
        let (since, before, count, evidence) = (0, None, 0, 0.0);
        Self { sample, threshold, looks, since, before, count, evidence, last: None, found: None }
    }

    /// Takes in a measurement.
    pub fn measure(&mut self, step: u64, share: f32) {
        if self.found.is_some() {
            return;
        }
        let evidence = self.evidence + self.evidence_of(f64::from(share));
        if evidence > 0.0 {
            if self.count == 0 {
                (self.since, self.before) = (step, self.last);
            }
            (self.count, self.evidence) = (self.count + 1, evidence);
        } else {
            (self.count, self.evidence) = (0, 0.0);
        }
        self.last = Some(step);
        if self.count >= LASTING && self.evidence >= (self.looks.max(1) as f64 / Self::ALPHA).ln() {
            self.found = Some(Onset::seen(self.since, self.before));
        }
    }

    /// The logarithm of the likelihood ratio of one measurement; of the same trials every time all or nothing.
    fn evidence_of(&self, share: f64) -> f64 {
        let Sample { trials, fresh, chance } = self.sample;
        let hits = (share * trials as f64).round();
        if !fresh {
            // Shares are f32: a count by a number of trials is off by less than a hundredth of a hit.
            let reaches = share >= self.threshold - 0.01 / trials.max(1) as f64;
            let guessed = || at_least(hits as u64, trials, chance) * self.looks as f64;
            return if reaches && guessed() <= Self::ALPHA { f64::INFINITY } else { f64::NEG_INFINITY };
        }
        let rate = self.threshold.max(chance);
        // Where guessing is always right, nothing is above it.
        if rate < 1.0 { hits * (0.5 + 0.5 / rate).ln() - (trials as f64 - hits) * 2f64.ln() } else { f64::NEG_INFINITY }
    }

    /// When; censored where it did not, by the end, or for too short a time before it. `None` where nothing was measured.
    pub fn onset(&self) -> Option<Onset> {
        let last = self.last?;
        let not_by = if self.count > 0 { self.before.unwrap_or(0) } else { last };
        Some(self.found.unwrap_or(Onset::not_by(not_by)))
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

    /// When the shares of measurements ten steps apart reach 99 %.
    fn reached(sample: Sample, looks: u64, shares: impl IntoIterator<Item = f32>) -> Onset {
        let mut reach = Reach::new(sample, 0.99, looks);
        shares.into_iter().zip(0..).for_each(|(share, at)| reach.measure(10 * at, share));
        reach.onset().unwrap()
    }

    #[test]
    fn few_trials_reach_nothing_by_chance() {
        let all_right = |sample: Sample, looks, seen: usize| reached(sample, looks, vec![1.0; seen]).began().is_some();
        // The same three coins at every look: heads by chance once in eight runs.
        assert!(!all_right(Sample { trials: 3, fresh: false, chance: 0.5 }, 1, 500));
        // Twenty are enough for one look, and not for a thousand.
        assert!(all_right(Sample { trials: 20, fresh: false, chance: 0.5 }, 1, 5));
        assert!(!all_right(Sample { trials: 20, fresh: false, chance: 0.5 }, 10_000, 500));
        // Drawn anew four at a time: ln (10,000 / 0.001) / ln (1.99 / 1.98) = 3,200 right ones.
        let drawn = Sample { trials: 4, fresh: true, chance: 0.5 };
        assert!(!all_right(drawn, 10_000, 799));
        assert!(all_right(drawn, 10_000, 805));
        // However many at once, one look does not last; and what guessing reaches nobody reaches.
        let many = Sample { trials: 100_000, ..drawn };
        assert!(!all_right(many, 10_000, 4) && all_right(many, 10_000, 5));
        assert!(!all_right(Sample { chance: 1.0, ..many }, 10_000, 500));
        let frequent = Sample { trials: 512, chance: 0.995, ..drawn };
        assert_eq!(reached(frequent, 500, vec![0.996; 500]).began(), None);
    }

    #[test]
    fn a_set_that_is_looked_at_as_a_whole_reaches_a_share_where_it_does_at_every_look() {
        let whole = Sample { trials: 1000, fresh: false, chance: 0.1 };
        assert_eq!(reached(whole, 100, [0.99; 5]).words(), "by step 0");
        assert_eq!(reached(whole, 100, [0.99, 1.0, 0.989, 1.0, 1.0]).words(), "not by step 20");
        assert_eq!(reached(whole, 100, [0.98, 0.99, 1.0, 0.99, 1.0, 1.0]).words(), "step 10 ± 10");
    }

    /// Shares of so many trials, of which each is a hit with the probability of that measurement.
    fn drawn(seed: u32, trials: usize, looks: usize, rate: impl Fn(usize) -> f64) -> Vec<f32> {
        let stream = crate::gpu::Philox::new(u64::from(seed), crate::gpu::Stream::Probe, 0);
        let mut tables = std::collections::BTreeMap::new();
        let share = |at: usize| {
            let rate = rate(at);
            let below: &Vec<f64> = tables.entry(rate.to_bits()).or_insert_with(|| {
                // Misses from none on: there are few.
                let mut one = rate.powi(trials as i32);
                let mut sum = 0.0;
                let of = |misses: usize| {
                    sum += one;
                    one *= (trials - misses) as f64 / (misses + 1) as f64 * (1.0 - rate) / rate;
                    sum
                };
                (0..trials).map(of).collect()
            });
            let draw = (f64::from(stream.words(at as u64)[0]) + 0.5) / 2f64.powi(32);
            let misses = below.partition_point(|below| *below <= draw);
            (trials - misses) as f32 / trials as f32
        };
        (0..looks).map(share).collect()
    }

    #[test]
    fn a_rate_below_99_percent_is_not_taken_for_it_however_often_it_is_looked_at() {
        let mut said = 0;
        for (rate, trials, looks, seeds) in [
            (0.96, 64, 10_000, 40),
            (0.97, 64, 10_000, 40),
            (0.985, 1024, 10_000, 40),
            (0.99, 64, 10_000, 100),
            (0.99, 1, 4000, 200),
            (0.99, 1024, 2000, 100),
        ] {
            let sample = Sample { trials, fresh: true, chance: 0.1 };
            let of = |seed| reached(sample, looks as u64, drawn(seed, trials as usize, looks, |_| rate));
            said += (0..seeds).filter(|seed| of(*seed).began().is_some()).count();
        }
        // 520 runs, of which one in a thousand at most says so.
        assert!(said <= 4, "{said}");
    }

    #[test]
    fn a_rate_above_99_percent_is_found_and_dated_where_it_begins() {
        for (rate, trials, looks) in [(0.998, 64, 2000), (1.0, 1, 6000), (0.997, 1024, 2000), (0.9999, 16, 2000)] {
            let sample = Sample { trials, fresh: true, chance: 0.1 };
            let from = 300;
            let of = |seed: u32| {
                let rate = |at: usize| if at < from { 0.9 } else { rate };
                reached(sample, looks as u64, drawn(seed, trials as usize, looks, rate)).began()
            };
            let found: Vec<u64> = (0..50).filter_map(of).collect();
            assert_eq!(found.len(), 50, "{rate} of {trials}");
            // By luck a batch before it is right, or one behind it has more misses; ten predictions of one say little.
            let within = (2000 / trials).clamp(20, 200);
            let close = found.iter().filter(|step| step.abs_diff(10 * from as u64) <= 10 * within).count();
            assert!(close >= 45, "{rate} of {trials}: {close} of 50, {found:?}");
        }
    }
}
