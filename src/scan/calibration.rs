//! Whether the choice between two answers is as sure as it is right.

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::findings::{Groups, Mean};
use crate::intervene::column::LOGIT_DIFFERENCE;
use crate::stats::jackknife;

/// How far the choice between right and wrong answer can be trusted. A prompt with the logit difference d = z_target - z_foil chooses
/// the target with probability σ(d): it is right where d > 0, and sure to σ(|d|). Labels are the answers of the probe file, never
/// what the model says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// In the order of [`Calibration::NAMES`]; `None` where there is no such number: a temperature beyond 32 or below 1/32, and
    /// what is taken at it.
    pub values: Vec<Option<Mean>>,
}

impl Calibration {
    /// What it holds.
    pub const NAMES: [&str; COUNT] = [
        "accuracy",
        "nll",
        "brier",
        "ece",
        "reliability",
        "resolution",
        "temperature",
        "matched.nll",
        "matched.brier",
        "matched.reliability",
    ];

    /// The number of that name.
    pub fn get(&self, name: &str) -> Option<Mean> {
        Self::NAMES.iter().position(|known| *known == name).and_then(|at| self.values.get(at).copied().flatten())
    }

    /// Of choices.
    pub(super) fn of(choices: &Choices) -> Self {
        Self::with_errors(choices.whole, &choices.left_out)
    }

    /// What ablation changes: of the changed choices less of the clean ones, each at its own temperature.
    pub(super) fn change(clean: &Choices, changed: &Choices) -> Self {
        let less = |after: &[f64; COUNT], before: &[f64; COUNT]| std::array::from_fn(|at| after[at] - before[at]);
        let left_out: Vec<_> =
            changed.left_out.iter().zip(&clean.left_out).map(|(after, before)| less(after, before)).collect();
        Self::with_errors(less(&changed.whole, &clean.whole), &left_out)
    }

    fn with_errors(whole: [f64; COUNT], left_out: &[[f64; COUNT]]) -> Self {
        let errors = jackknife(left_out);
        let one = |at: usize| {
            let error = errors[at].is_finite().then_some(errors[at]);
            whole[at].is_finite().then_some(Mean { mean: whole[at], error })
        };
        Self { values: (0..COUNT).map(one).collect() }
    }
}

const COUNT: usize = 10;
/// Blocks of groups that errors are taken from. Of a reliability that is truly 0 they are some half too great.
const BLOCKS: usize = 20;
/// Bins at most, and prompts of a bin at least.
const BINS: usize = 15;
const OF_BIN: usize = 10;

/// The numbers of [`Calibration::NAMES`] of some outcomes, NaN where there is none; and the same with one block of groups left
/// out each time, of at most [`BLOCKS`].
pub(super) struct Choices {
    whole: [f64; COUNT],
    left_out: Vec<[f64; COUNT]>,
}

impl Choices {
    /// Of the outcomes of all prompts.
    pub(super) fn of(groups: &Groups, outcomes: &[Outcome]) -> Self {
        let blocks = groups.0.len().min(BLOCKS);
        let mut block_of = vec![0; outcomes.len()];
        for (number, group) in groups.0.iter().enumerate() {
            group.iter().for_each(|prompt| block_of[*prompt] = number % blocks);
        }
        let differences: Vec<f64> = outcomes.iter().map(|outcome| f64::from(outcome[LOGIT_DIFFERENCE])).collect();
        let bins = Bins::of(&differences);
        let without = |left_out: Option<usize>| {
            let kept = differences.iter().zip(&block_of).filter(|(_, block)| Some(**block) != left_out);
            numbers(&kept.map(|(difference, _)| *difference).collect::<Vec<_>>(), &bins)
        };
        Self { whole: without(None), left_out: (0..blocks).map(|block| without(Some(block))).collect() }
    }
}

/// ln(1 + e^x), without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1/(1 + e^-x), precise where it is small.
fn sigmoid(x: f64) -> f64 {
    if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
}

/// Bins of how sure a choice is, of equal mass. What is left out for an error is binned as the whole: cut anew, bins would move by
/// much more than what was left out.
struct Bins {
    /// From the least sure on.
    sure: Vec<f64>,
    count: usize,
}

impl Bins {
    fn of(differences: &[f64]) -> Self {
        let mut sure: Vec<f64> = differences.iter().map(|difference| difference.abs()).collect();
        sure.sort_by(f64::total_cmp);
        Self { count: (sure.len() / OF_BIN).clamp(1, BINS), sure }
    }

    /// The bin of a choice among them; those that are equally sure share one.
    fn place(&self, difference: f64) -> usize {
        self.sure.partition_point(|other| *other < difference.abs()) * self.count / self.sure.len()
    }
}

/// The numbers of [`Calibration::NAMES`], over prompts; NaN where there is none.
fn numbers(differences: &[f64], bins: &Bins) -> [f64; COUNT] {
    let count = differences.len() as f64;
    let mean = |of: &dyn Fn(f64) -> f64| differences.iter().map(|d| of(*d)).sum::<f64>() / count;
    let nll = |beta: f64| mean(&|d| softplus(-beta * d));
    let brier = |beta: f64| mean(&|d| sigmoid(-beta * d).powi(2));
    let [ece, reliability, resolution] = binned(differences, 1.0, bins);
    let beta = inverse_temperature(differences);
    [
        mean(&|d| f64::from(u8::from(d > 0.0))),
        nll(1.0),
        brier(1.0),
        ece,
        reliability,
        resolution,
        1.0 / beta,
        nll(beta),
        brier(beta),
        binned(differences, beta, bins)[1],
    ]
}

/// Expected calibration error; reliability and resolution of the Brier score (Murphy 1973), both freed from what finite bins add to
/// them (Bröcker 2012; the first as Kumar, Liang and Ma 2019).
fn binned(differences: &[f64], beta: f64, bins: &Bins) -> [f64; 3] {
    let count = differences.len();
    let mut sums = vec![[0.0f64; 3]; bins.count];
    for difference in differences {
        let [n, wrong, doubt] = &mut sums[bins.place(*difference)];
        *n += 1.0;
        *wrong += f64::from(u8::from(*difference <= 0.0));
        *doubt += sigmoid(-beta * difference.abs());
    }
    let total = count as f64;
    let wrong = sums.iter().map(|[_, wrong, _]| wrong).sum::<f64>() / total;
    let [mut ece, mut reliability, mut resolution] = [0.0; 3];
    for [n, wrongs, doubts] in sums.into_iter().filter(|[n, ..]| *n > 0.0) {
        let (share, rate, gap) = (n / total, wrongs / n, (wrongs - doubts) / n);
        // What the rate of a bin varies by, where it could be told.
        let noise = if n > 1.0 { rate * (1.0 - rate) / (n - 1.0) } else { 0.0 };
        ece += share * gap.abs();
        reliability += share * (gap * gap - noise);
        resolution += share * ((rate - wrong).powi(2) - noise);
    }
    let noise = if count > 1 { wrong * (1.0 - wrong) / (total - 1.0) } else { 0.0 };
    [ece, reliability, resolution + noise]
}

/// The inverse temperature within [1/32, 32] at which the mean loss is least, which is convex in it; NaN where that is at a bound.
fn inverse_temperature(differences: &[f64]) -> f64 {
    let falls = |beta: f64| differences.iter().map(|d| -d * sigmoid(-beta * d)).sum::<f64>() < 0.0;
    let [mut low, mut high] = [-5.0f64, 5.0];
    if !falls(low.exp2()) || falls(high.exp2()) {
        return f64::NAN;
    }
    // Halving 10 sixty times leaves 1e-17.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if falls(middle.exp2()) { low = middle } else { high = middle }
    }
    (0.5 * (low + high)).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Philox, Stream};

    fn at(name: &str) -> usize {
        Calibration::NAMES.iter().position(|known| *known == name).unwrap()
    }

    fn own(differences: &[f64]) -> [f64; COUNT] {
        numbers(differences, &Bins::of(differences))
    }

    /// Choices as sure as `sure` says for a uniform number, right as often as that; and by a factor too sure.
    fn drawn(seed: u64, count: usize, factor: f64) -> Vec<f64> {
        let stream = Philox::new(seed, Stream::Tokens, 0);
        let uniform = |word: u32| (f64::from(word) + 0.5) / 2f64.powi(32);
        let one = |at: usize| {
            let [a, b, ..] = stream.words(at as u64);
            let d = 4.0 * uniform(a);
            factor * if uniform(b) < sigmoid(d) { d } else { -d }
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn what_is_calibrated_has_no_reliability_left_and_what_is_too_sure_its_temperature() {
        // Forty models of 300 choices each; bins of 20, of which the plain error is never free.
        let mean = |factor: f64, name: &str| {
            let of = |seed: u64| own(&drawn(seed, 300, factor))[at(name)];
            let all: Vec<f64> = (0..40).map(of).collect();
            let paired = crate::stats::Paired::of(&all);
            (paired.mean, paired.standard_error)
        };
        let (left, error) = mean(1.0, "reliability");
        assert!(left.abs() < 4.0 * error + 1e-4 && error < 1e-3, "{left} ± {error}");
        assert!(mean(1.0, "ece").0 > 0.04);
        // Three times too sure: best at three times the temperature, and calibrated there.
        let (one, three) = (mean(1.0, "temperature").0, mean(3.0, "temperature").0);
        assert!((one - 1.0).abs() < 0.05 && (three / one - 3.0).abs() < 1e-6, "{one} and {three}");
        assert!(mean(3.0, "reliability").0 > 0.01 && mean(3.0, "matched.reliability").0.abs() < 2e-3);
        let [plain, loud] = [1.0, 3.0].map(|factor| mean(factor, "matched.nll").0);
        assert!((plain - loud).abs() < 1e-9, "temperature is all that differs");
    }

    #[test]
    fn errors_are_as_great_as_what_other_prompts_change() {
        // Too sure by half; of 100 samples of 300 prompts what numbers vary by, and what a sample says of that.
        let samples: Vec<Calibration> = (0..100)
            .map(|seed| {
                let outcome = |difference: f64| {
                    let mut outcome = Outcome::default();
                    outcome[LOGIT_DIFFERENCE] = difference as f32;
                    outcome
                };
                let outcomes: Vec<Outcome> = drawn(seed, 300, 1.5).into_iter().map(outcome).collect();
                Calibration::of(&Choices::of(&Groups((0..300).map(|at| vec![at]).collect()), &outcomes))
            })
            .collect();
        for name in Calibration::NAMES {
            let found: Vec<Mean> = samples.iter().map(|sample| sample.get(name).unwrap()).collect();
            let mean = found.iter().map(|found| found.mean).sum::<f64>() / 100.0;
            let spread = (found.iter().map(|found| (found.mean - mean).powi(2)).sum::<f64>() / 99.0).sqrt();
            let errors: Vec<f64> = found.iter().map(|found| found.error.unwrap()).collect();
            let ratio = crate::stats::median(errors) / spread;
            // A spread of 100 is known to a fourteenth; sizes of gaps have no slope where a gap changes sides. What is truly 0 has
            // no slope at all, and the jackknife takes its variance for twice as great.
            let most = if name == "matched.reliability" { 1.9 } else { 1.4 };
            assert!((0.75..most).contains(&ratio), "{name}: {ratio}");
        }
    }

    #[test]
    fn the_parts_of_a_brier_score_add_up() {
        // Two bins of ten, each of one sureness: 0.9 and 0.6, of which 7 and 6 are right.
        let sure = |p: f64| (p / (1.0 - p)).ln();
        let of = |p: f64, right: usize| (0..10).map(move |at| if at < right { sure(p) } else { -sure(p) });
        let all: Vec<f64> = of(0.9, 7).chain(of(0.6, 6)).collect();
        let found = own(&all);
        let brier = (7.0 * 0.01 + 3.0 * 0.81 + 6.0 * 0.16 + 4.0 * 0.36) / 20.0;
        assert!((found[at("brier")] - brier).abs() < 1e-12);
        assert!((found[at("accuracy")] - 0.65).abs() < 1e-12 && (found[at("ece")] - 0.1).abs() < 1e-12);
        // Reliability 0.5 (0.2² + 0) less 0.5 (0.21 + 0.24)/9; resolution 0.05² less the same, with 0.65 0.35/19 back.
        let noise = 0.5 * (0.21 + 0.24) / 9.0;
        assert!((found[at("reliability")] - (0.02 - noise)).abs() < 1e-12);
        let back = 0.65 * 0.35 / 19.0;
        assert!((found[at("resolution")] - (0.0025 - noise + back)).abs() < 1e-12);
        // Brier = reliability - resolution + uncertainty, whether or not each is freed from its bias.
        let parts = found[at("reliability")] - found[at("resolution")] + 0.65 * 0.35 + back;
        assert!((parts - brier).abs() < 1e-12, "{parts} and {brier}");
    }

    #[test]
    fn labels_are_the_files_and_not_the_models() {
        // Always wrong and very sure: where the prediction were the label, the error would vanish.
        let found = own(&[-8.0; 40]);
        assert!(found[at("ece")] > 0.99 && found[at("nll")] > 7.9 && found[at("accuracy")] == 0.0);
        assert!(found[at("temperature")].is_nan(), "the hotter the better");
        assert!(own(&[3.0; 40])[at("matched.nll")].is_nan(), "the colder the better");
    }
}
