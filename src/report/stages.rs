//! Early against late: what pulls on a replica before it has memorized, on the plateau, and after it has generalized, block by
//! block and head by head, with intervals over the seeds of an arm.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use minijinja::{Value, context};

use super::arms::Arm;
use super::phases::Watched;
use crate::error::Result;
use crate::record::{Catalog, Key, Sink, scan_metrics};
use crate::stats::{Bootstrap, Drawn};

const STAGES: usize = 3;
/// Replicas from which on an interval over them is drawn again from them; of fewer, the least and the greatest are shown.
const ENOUGH: usize = 10;
const DRAWS: usize = 2000;

/// Steps of a replica's stages, each from a step to before another.
type Bounds = [Option<(u64, u64)>; STAGES];

/// Early: before train accuracy has reached 99 %. Plateau: from there until test accuracy has reached 50 %, or the end. Late: from
/// where test accuracy has reached 99 % on. What has no beginning or no length is none.
fn bounds(watched: &Watched) -> Bounds {
    let dates = watched.dates().map(|(_, onset)| onset.and_then(|onset| onset.began()));
    let [memorized, half, grokked, ..] = dates;
    let end = u64::MAX;
    let stage = |from: Option<u64>, to: Option<u64>| Some((from?, to?)).filter(|(from, to)| from < to);
    [stage(Some(0), memorized), stage(memorized, Some(half.unwrap_or(end))), stage(grokked, Some(end))]
}

/// What is shown, and how to read it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Quantity {
    NoiseScale,
    Agreement,
    StepSize,
    DecayShare,
    LossShare,
    Signs,
    OneClass,
    OtherClasses,
}

impl Quantity {
    const ALL: [Self; 8] = [
        Self::NoiseScale,
        Self::Agreement,
        Self::StepSize,
        Self::DecayShare,
        Self::LossShare,
        Self::Signs,
        Self::OneClass,
        Self::OtherClasses,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::NoiseScale => "noise scale: examples at which noise and signal of the gradient are equally large",
            Self::Agreement => {
                "agreement of examples: inner product of the gradients of two, by their mean square (0 where they have nothing to do with each other)"
            }
            Self::StepSize => "pressure of the gradient: step size, decay excluded, mean over tensors",
            Self::DecayShare => "share of decay in what pulls, mean over tensors (1/2: as strong as the gradient)",
            Self::LossShare => "share of the change of the loss that the update should make",
            Self::Signs => "agreement of signs over examples, less what signs turned by chance give, mean over hooks",
            Self::OneClass => {
                "cosine of the gradients of two examples of one class, less that of classes dealt out anew, mean over tensors"
            }
            Self::OtherClasses => "the same of two examples of different classes (below 0: classes in conflict)",
        }
    }

    /// Whether late against early is a ratio; else it is a difference.
    fn is_ratio(self) -> bool {
        matches!(self, Self::NoiseScale | Self::StepSize)
    }
}

/// Metrics that are summed over the steps of a stage.
const METRICS: [&str; 9] = [
    "noise.trace",
    "noise.signal",
    "gradient_dispersion",
    "example_gradient_norm",
    "step_size",
    "decay_share",
    "loss_change.predicted",
    "sign_agreement",
    "class_agreement",
];

/// Sums of a series over a stage.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: f64,
    values: f64,
    squares: f64,
}

impl Sums {
    fn mean(self) -> Option<f64> {
        (self.count > 0.0).then(|| self.values / self.count)
    }

    fn mean_square(self) -> Option<f64> {
        (self.count > 0.0).then(|| self.squares / self.count)
    }
}

/// Takes in the rows of a table.
struct Summed<'a> {
    bounds: &'a [Bounds],
    open: Vec<(Key, [Sums; STAGES])>,
}

impl Sink for Summed<'_> {
    fn open(&mut self, key: Key) -> Option<usize> {
        let known = METRICS.contains(&key.metric.as_str()) && (key.replica as usize) < self.bounds.len();
        known.then(|| {
            self.open.push((key, [Sums::default(); STAGES]));
            self.open.len() - 1
        })
    }

    fn take(&mut self, series: usize, step: i64, value: f32) {
        let (key, sums) = &mut self.open[series];
        let inside = |bounds: &Option<(u64, u64)>| bounds.is_some_and(|(from, to)| (from..to).contains(&(step as u64)));
        for (stage, bounds) in self.bounds[key.replica as usize].iter().enumerate() {
            if inside(bounds) && value.is_finite() {
                let value = f64::from(value);
                sums[stage].count += 1.0;
                sums[stage].values += value;
                sums[stage].squares += value * value;
            }
        }
    }
}

/// The part of the model that a tensor is of, and that of its head; in the order in which they are shown.
fn parts(key: &Key) -> Vec<(i32, String)> {
    let of_block = |name: &str| key.site.starts_with(&format!("blocks.{}.{name}.", key.layer));
    let first = 1000 * (key.layer + 1);
    match () {
        () if key.site == "logits" => vec![(i32::MAX, "unembedding".to_owned())],
        () if key.site.ends_with("hook_resid_post") => vec![(first + 998, format!("L{} residual stream", key.layer))],
        () if key.site.contains("embed.") && !key.site.starts_with("unembed") => vec![(0, "embedding".to_owned())],
        () if key.site.starts_with("unembed") => vec![(i32::MAX, "unembedding".to_owned())],
        () if of_block("attn") => {
            let mut all = vec![(first, format!("L{} attention", key.layer))];
            all.extend((key.head >= 0).then(|| (first + 1 + key.head, format!("L{} H{}", key.layer, key.head))));
            all
        }
        () if of_block("mlp") => vec![(first + 999, format!("L{} MLP", key.layer))],
        // Weights of norms.
        () => Vec::new(),
    }
}

/// What the tensors of a part come to in one stage of one replica.
#[derive(Clone, Copy, Default)]
struct Part {
    trace: f64,
    signal: f64,
    mean_square: f64,
    step_size: (f64, f64),
    decay_share: (f64, f64),
    loss_change: f64,
    /// Measured less by chance, and how many were measured: of signs, of one class, of others.
    agreement: [(f64, f64); 3],
    known: [bool; 8],
}

/// What is shown of one stage of one replica, by quantity and part.
fn of_stage(
    open: &[(Key, [Sums; STAGES])],
    replica: i32,
    stage: usize,
    batch: f64,
) -> BTreeMap<(Quantity, (i32, String)), f64> {
    let mut all: BTreeMap<(i32, String), Part> = BTreeMap::new();
    let mut change = 0.0;
    for (key, sums) in open.iter().filter(|(key, _)| key.replica == replica) {
        let sums = sums[stage];
        let (Some(mean), Some(square)) = (sums.mean(), sums.mean_square()) else { continue };
        if key.metric == "loss_change.predicted" {
            change += mean;
        }
        for part in parts(key) {
            let part = all.entry(part).or_default();
            let known = match key.metric.as_str() {
                "noise.trace" => {
                    part.trace += mean;
                    Quantity::NoiseScale
                }
                "noise.signal" => {
                    part.signal += mean;
                    Quantity::NoiseScale
                }
                // Of a full batch, which draws nothing: what examples disagree about.
                "gradient_dispersion" => {
                    part.trace += mean;
                    part.signal -= mean;
                    Quantity::NoiseScale
                }
                "example_gradient_norm" => {
                    part.mean_square += square;
                    Quantity::Agreement
                }
                "step_size" => {
                    part.step_size = (part.step_size.0 + mean, part.step_size.1 + 1.0);
                    Quantity::StepSize
                }
                "decay_share" => {
                    part.decay_share = (part.decay_share.0 + mean, part.decay_share.1 + 1.0);
                    Quantity::DecayShare
                }
                "loss_change.predicted" => {
                    part.loss_change += mean;
                    Quantity::LossShare
                }
                // By chance: signs at index 1, classes at 2 and 3.
                metric => {
                    let signs = metric == "sign_agreement";
                    let (which, chance) = match key.index {
                        index if signs => (0, index == 1),
                        index => (1 + index as usize % 2, index > 1),
                    };
                    let own = &mut part.agreement[which];
                    *own = if chance { (own.0 - mean, own.1) } else { (own.0 + mean, own.1 + 1.0) };
                    [Quantity::Signs, Quantity::OneClass, Quantity::OtherClasses][which]
                }
            };
            part.known[known as usize] = true;
        }
    }
    let full = open.iter().any(|(key, _)| key.metric == "gradient_dispersion");
    let value = |part: &Part, quantity: Quantity| {
        // ‖ḡ‖² of a full batch is the mean square of its examples' gradients less what they disagree about.
        let signal = if full { part.mean_square + part.signal } else { part.signal };
        let both = part.known[Quantity::NoiseScale as usize] && part.known[Quantity::Agreement as usize];
        match quantity {
            Quantity::NoiseScale if both && signal > 0.0 => Some(part.trace / signal),
            // Of all pairs of two of a full batch: an example with itself is none.
            Quantity::Agreement if both && part.mean_square > 0.0 => {
                let pairs = if full { (signal - part.mean_square / batch) * batch / (batch - 1.0) } else { signal };
                Some(pairs / part.mean_square)
            }
            Quantity::StepSize => Some(part.step_size.0 / part.step_size.1),
            Quantity::DecayShare => Some(part.decay_share.0 / part.decay_share.1),
            Quantity::LossShare if change != 0.0 => Some(part.loss_change / change),
            Quantity::Signs | Quantity::OneClass | Quantity::OtherClasses => {
                let (sum, count) = part.agreement[quantity as usize - Quantity::Signs as usize];
                Some(sum / count)
            }
            _ => None,
        }
    };
    let of_part = |(name, part): (&(i32, String), &Part)| {
        let known = Quantity::ALL.into_iter().filter(|quantity| part.known[*quantity as usize]);
        known.filter_map(|quantity| Some(((quantity, name.clone()), value(part, quantity)?))).collect::<Vec<_>>()
    };
    all.iter().flat_map(of_part).filter(|(_, value)| value.is_finite()).collect()
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.1e}"),
    }
}

/// The mean over replicas, and where it lies: 95 % of means drawn again from them, or of few the least and the greatest.
/// `scale` turns a mean back into what is shown.
fn over(values: &[f64], scale: fn(f64) -> f64) -> String {
    if values.is_empty() {
        return String::new();
    }
    let mean = |rows: &[usize]| rows.iter().map(|row| values[*row]).sum::<f64>() / rows.len() as f64;
    let all: Vec<usize> = (0..values.len()).collect();
    let shown = number(scale(mean(&all)));
    let ends = match values.len() {
        1 => None,
        count if count < ENOUGH => Some([
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ]),
        count => Bootstrap::of(count, Drawn::Rows, DRAWS, 0, mean).and_then(|drawn| drawn.bca(0.95)).ok(),
    };
    ends.map_or_else(
        || shown.clone(),
        |[low, high]| format!("{shown} [{}, {}]", number(scale(low)), number(scale(high))),
    )
}

/// The table of each arm; none where no replica has two stages with numbers.
pub(super) fn tables(run: &Path, catalog: &Catalog, watched: &[Watched], arms: &[Arm]) -> Result<Vec<Value>> {
    let all: Vec<Bounds> = watched.iter().map(bounds).collect();
    let staged = |bounds: &Bounds| bounds.iter().flatten().count() > 1;
    if !all.iter().any(staged) || !METRICS.iter().any(|metric| catalog.metrics.contains_key(*metric)) {
        return Ok(Vec::new());
    }
    let mut summed = Summed { bounds: &all, open: Vec::new() };
    scan_metrics(run, &mut summed)?;
    let table = |arm: &Arm| {
        let replicas: Vec<usize> = arm.replicas.iter().copied().filter(|at| staged(&all[*at])).collect();
        let stages: Vec<[BTreeMap<_, f64>; STAGES]> = replicas
            .iter()
            .map(|at| {
                let batch = catalog.predictions.get(*at).map_or(2, |seen| seen.train.max(2)) as f64;
                [0, 1, 2].map(|stage| of_stage(&summed.open, *at as i32, stage, batch))
            })
            .collect();
        let rows: BTreeSet<&(Quantity, (i32, String))> = stages.iter().flatten().flat_map(BTreeMap::keys).collect();
        if rows.is_empty() {
            return None;
        }
        let counts = [0, 1, 2].map(|stage| replicas.iter().filter(|at| all[**at][stage].is_some()).count());
        let mut quantities: Vec<Value> = Vec::new();
        for quantity in Quantity::ALL {
            let of_part = |key: &&(Quantity, (i32, String))| {
                let at =
                    |stage: usize| stages.iter().filter_map(|of| of[stage].get(*key).copied()).collect::<Vec<f64>>();
                let change = |of: &[BTreeMap<_, f64>; STAGES]| {
                    let (early, late) = (*of[0].get(*key)?, *of[2].get(*key)?);
                    let change = if quantity.is_ratio() { (late / early).ln() } else { late - early };
                    change.is_finite().then_some(change)
                };
                let changes: Vec<f64> = stages.iter().filter_map(change).collect();
                context! {
                    part => key.1.1.clone(),
                    cells => [0, 1, 2].map(|stage| over(&at(stage), |x| x)).to_vec(),
                    change => over(&changes, if quantity.is_ratio() { f64::exp } else { |x| x }),
                }
            };
            let rows: Vec<Value> = rows.iter().filter(|(of, _)| *of == quantity).map(of_part).collect();
            if !rows.is_empty() {
                let change = if quantity.is_ratio() { "late by early" } else { "late less early" };
                quantities.push(context! { name => quantity.words(), change, rows });
            }
        }
        Some(context! { name => arm.name.clone(), replicas => replicas.len(), counts => counts.to_vec(), quantities })
    };
    Ok(arms.iter().filter_map(table).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Described, Predictions};

    fn key(metric: &str, site: &str, layer: i32, head: i32) -> Key {
        Key { metric: metric.to_owned(), site: site.to_owned(), layer, head, index: -1, replica: 0 }
    }

    fn watched(memorized: u64, half: u64, grokked: u64) -> Watched {
        let metric = || Described { every: 10, ..Described::default() };
        let metrics = ["accuracy.train", "accuracy.test"].map(|name| (name.to_owned(), metric())).into();
        let predictions = vec![Predictions { train: 1000, train_drawn: false, test: 1000, most_frequent: [0.1; 2] }];
        let mut watched = Watched::new(&Catalog { classes: 10, predictions, metrics }, 0, 1000);
        for step in (0..=1000).step_by(10) {
            let train = if step >= memorized { 1.0 } else { 0.2 };
            let test = if step >= grokked {
                1.0
            } else if step >= half {
                0.6
            } else {
                0.1
            };
            watched.take(&key("accuracy.train", "", -1, -1), step, train);
            watched.take(&key("accuracy.test", "", -1, -1), step, test);
        }
        watched
    }

    #[test]
    fn stages_are_those_of_the_replicas_own_events() {
        let end = u64::MAX;
        assert_eq!(bounds(&watched(100, 400, 600)), [Some((0, 100)), Some((100, 400)), Some((600, end))]);
        assert_eq!(bounds(&watched(100, 9999, 9999)), [Some((0, 100)), Some((100, end)), None], "it never groks");
        assert_eq!(bounds(&watched(300, 300, 500)), [Some((0, 300)), None, Some((500, end))], "no plateau");
        assert_eq!(bounds(&watched(9999, 9999, 9999)), [None; 3], "nothing to be early of");
    }

    #[test]
    fn planted_noise_agreement_and_pressure_are_read_off_by_stage_and_part() {
        let bounds = [[Some((0, 10)), Some((10, 20)), Some((30, 40))]];
        let mut summed = Summed { bounds: &bounds, open: Vec::new() };
        // A trace of 60 beside a signal that scatters around 2 early and 6 late; heads add up to their layer.
        let rows = |stage: i64| -> Vec<(Key, f32)> {
            let signal = [2.0, 1.0, 6.0][stage as usize];
            let w_q = |metric: &str, head: i32| key(metric, "blocks.0.attn.W_Q", 0, head);
            let mut rows = Vec::new();
            for head in 0..2 {
                rows.push((w_q("noise.trace", head), 60.0));
                rows.push((w_q("noise.signal", head), signal * (head + 1) as f32));
                rows.push((w_q("example_gradient_norm", head), 8.0));
            }
            rows.push((w_q("decay_share", -1), 0.25));
            rows.push((w_q("loss_change.predicted", -1), -1.0));
            rows.push((key("decay_share", "blocks.0.mlp.W_in", 0, -1), 0.5));
            rows.push((key("decay_share", "blocks.0.mlp.W_out", 0, -1), 0.7));
            rows.push((key("loss_change.predicted", "blocks.0.mlp.W_in", 0, -1), -3.0));
            rows.push((key("loss_change.predicted", "embed.W_E", -1, -1), f32::NAN));
            for (index, value) in [(0, 0.5), (1, -0.2), (2, 0.1), (3, 0.05)] {
                rows.push((Key { index, ..key("class_agreement", "unembed.W_U", -1, -1) }, value));
            }
            rows.push((Key { index: 0, ..key("sign_agreement", "logits", -1, -1) }, 0.75));
            rows.push((Key { index: 1, ..key("sign_agreement", "logits", -1, -1) }, 0.25));
            rows
        };
        let mut places: BTreeMap<Key, usize> = BTreeMap::new();
        for step in 0..40 {
            // What lies between stages is of none.
            let stage = if step < 20 { step / 10 } else { 2 };
            for (key, value) in rows(stage) {
                let value = if (20..30).contains(&step) { 1e9 } else { value };
                // A ratio of means is no mean of ratios: signals swing below 0.
                let swing = if key.metric == "noise.signal" { if step % 2 == 0 { 50.0 } else { -50.0 } } else { 0.0 };
                let at = *places.entry(key.clone()).or_insert_with(|| summed.open(key).unwrap());
                summed.take(at, step, value + swing);
            }
        }
        let early = of_stage(&summed.open, 0, 0, 100.0);
        let late = of_stage(&summed.open, 0, 2, 100.0);
        let get = |of: &BTreeMap<(Quantity, (i32, String)), f64>, quantity: Quantity, part: &str| {
            of.iter().find(|((of, (_, name)), _)| *of == quantity && name == part).map(|(_, value)| *value)
        };
        let near = |found: Option<f64>, expected: f64| {
            assert!(found.is_some_and(|found| (found - expected).abs() < 1e-6), "{found:?} instead of {expected}");
        };
        near(get(&early, Quantity::NoiseScale, "L0 H0"), 30.0);
        near(get(&early, Quantity::NoiseScale, "L0 H1"), 15.0);
        near(get(&early, Quantity::NoiseScale, "L0 attention"), 20.0);
        near(get(&late, Quantity::NoiseScale, "L0 H0"), 10.0);
        near(get(&early, Quantity::Agreement, "L0 H0"), 2.0 / 64.0);
        near(get(&early, Quantity::DecayShare, "L0 MLP"), 0.6);
        near(get(&late, Quantity::LossShare, "L0 MLP"), 0.75);
        assert_eq!(get(&early, Quantity::NoiseScale, "L0 MLP"), None);
        near(get(&early, Quantity::OneClass, "unembedding"), 0.4);
        near(get(&late, Quantity::OtherClasses, "unembedding"), -0.25);
        near(get(&late, Quantity::Signs, "unembedding"), 0.5);
    }

    #[test]
    fn examples_of_a_full_batch_agree_by_what_its_gradient_keeps() {
        // B examples with gradients (1, ±a): ḡ = (1, 0), mean square 1 + a², two of them agree by (1 - a²/(B - 1))/(1 + a²).
        let (a, count) = (3.0f64, 10.0);
        let bounds = [[Some((0, 10)), None, None]];
        let mut summed = Summed { bounds: &bounds, open: Vec::new() };
        let site = "unembed.W_U";
        for (metric, value) in [("gradient_dispersion", a * a), ("example_gradient_norm", (1.0 + a * a).sqrt())] {
            let at = summed.open(key(metric, site, -1, -1)).unwrap();
            summed.take(at, 0, value as f32);
        }
        let found = of_stage(&summed.open, 0, 0, count);
        let get = |quantity: Quantity| found[&(quantity, (i32::MAX, "unembedding".to_owned()))];
        assert!((get(Quantity::NoiseScale) - a * a).abs() < 1e-4, "{}", get(Quantity::NoiseScale));
        let expected = (1.0 - a * a / (count - 1.0)) / (1.0 + a * a);
        assert!((get(Quantity::Agreement) - expected).abs() < 1e-6, "{}", get(Quantity::Agreement));
    }

    #[test]
    fn intervals_are_drawn_of_enough_seeds_and_ranges_of_few() {
        assert_eq!(over(&[], |x| x), "");
        assert_eq!(over(&[2.0], |x| x), "2.00");
        assert_eq!(over(&[1.0, 3.0], |x| x), "2.00 [1.00, 3.00]");
        assert_eq!(over(&[1f64.ln(), 100f64.ln()], f64::exp), "10.00 [1.00, 100]");
        let many: Vec<f64> = (0..20).map(|at| f64::from(at % 5)).collect();
        let found = over(&many, |x| x);
        let ends: Vec<f64> =
            found[found.find('[').unwrap() + 1..found.len() - 1].split(", ").map(|x| x.parse().unwrap()).collect();
        // Mean 2 with a standard error of 0.32, not a range from 0 to 4.
        assert!(found.starts_with("2.00 ") && ends[0] > 1.2 && ends[1] < 2.8 && ends[1] - ends[0] > 0.8, "{found}");
    }
}
