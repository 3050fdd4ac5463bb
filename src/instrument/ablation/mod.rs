//! Exact ablation, at every head and MLP block, on a held probe batch, beside random subspaces.
//!
//! The clean pass over the probe is computed once. An intervention changes the residual stream where the
//! head or block has just written to it, and only what lies above is computed again; interventions lie one
//! behind the other along the batch axis. Effects are always *ablated minus clean*.

pub(crate) mod calibration;
pub(crate) mod ops;

use crate::autograd::check::Build;
use crate::autograd::ops::{ColumnSum, GatherRows, HeadResult, Linear, Scale, TransposedProduct};
use crate::autograd::{Tape, Var, gcd, length};
use crate::error::Result;
use crate::gpu::{Philox, Shader, Stream};
use crate::instrument::{Attach, Card, CostClass, Instrument, Label};
use crate::model::{Model, Point, ReadOut, Resume};
use crate::task::Pass;
use calibration::{BINS, Reliability, Temperature};
use ops::{Ablate, AblateEach, Baseline, Effects, GroupMeans, Interactions, NullSummary, OUTCOMES, Outcomes, Paths};

pub(super) const INSTRUMENTS: &[&dyn Instrument] = &[&Ablation];
pub(super) const CHECKS: &[&[(&str, Build)]] = &[ops::CHECKS, calibration::CHECKS];
pub(super) const SHADERS: &[&[&Shader]] = &[ops::SHADERS, calibration::SHADERS];

/// `probe.*` and `ablation.*`.
pub(crate) struct Ablation;

const ABLATION: &str = "TransformerLens's definitions of zero, mean and resample ablation";
const PATHS: &str = "direct and total effects as in McDougall et al. 2023 and, for the norm, Stolfo et al. 2024";
const NULL: &str = "definition; add-one p-values after Davison and Hinkley 1997";
const CALIBRATION: &str = "Guo et al. 2017; debiased after Kumar, Liang and Ma 2019";
const HEADS: &str = "site: hook_result or hook_mlp_out, layer, head (-1: the MLP, or all heads together), index: 0 zero, 1 mean over examples, 2 resample (the next example's), 3 zero with the later layers' patterns frozen";
const ZEROED: &str = "site: hook_result or hook_mlp_out, layer, head (-1: MLP)";
/// Steps between two measurements.
const EVERY: u64 = 200;
/// Of what is dearer or smoother.
const SLOW: u64 = 1000;

#[expect(clippy::too_many_arguments, reason = "a card has these parts")]
const fn card(
    name: &'static str,
    formula: &'static str,
    unit: &'static str,
    axes: &'static str,
    every: u64,
    control: &'static str,
    not_for: &'static str,
    source: &'static str,
) -> Card {
    Card { name, formula, unit, axes, cost: CostClass::M, every, control, source, not_for }
}

const LEVEL_CONTROL: &str = "loss.test over the whole test set";
const LEVEL_NOT: &str = "replacing the test set: the probe is a small part of it";
const EFFECT_CONTROL: &str = "ablation.null, ablation.p: random subspaces of the same size in the same layer";
const EFFECT_NOT: &str =
    "telling what a head does when nothing is ablated; baselines rank heads differently, compare all";

const CARDS: &[Card] = &[
    card(
        "probe.loss",
        "mean cross-entropy of the probe",
        "nats",
        "none",
        EVERY,
        LEVEL_CONTROL,
        LEVEL_NOT,
        "definition",
    ),
    card(
        "probe.logit_difference",
        "mean of z_y - mean_{v≠y} z_v",
        "logits",
        "none",
        EVERY,
        LEVEL_CONTROL,
        LEVEL_NOT,
        "definition",
    ),
    card(
        "probe.accuracy",
        "share of predictions whose logit exceeds every other",
        "1",
        "none",
        EVERY,
        LEVEL_CONTROL,
        LEVEL_NOT,
        "definition",
    ),
    card("probe.entropy", "mean of -Σ p ln p", "nats", "none", EVERY, LEVEL_CONTROL, LEVEL_NOT, "definition"),
    card("probe.brier", "mean of Σ_v (p_v - 1_{v=y})²", "1", "none", EVERY, LEVEL_CONTROL, LEVEL_NOT, "definition"),
    card(
        "probe.ece",
        "Σ_b n_b/N |acc_b - conf_b| over 15 bins of equal mass",
        "1",
        "none",
        EVERY,
        "probe.calibration: a calibrated model has a positive ece too",
        "few predictions: it grows as 1/√n_b by chance alone",
        CALIBRATION,
    ),
    card(
        "probe.calibration",
        "Σ_b n_b/N ((acc_b - conf_b)² - acc_b (1 - acc_b)/(n_b - 1)), debiased (Kumar, Liang, Ma 2019)",
        "1",
        "none",
        EVERY,
        "0 in expectation for a calibrated model",
        "single values: it is noisy and may be negative",
        CALIBRATION,
    ),
    card(
        "probe.reliability",
        "rows, sum of correct, sum of confidence of each bin",
        "1",
        "index: 3 bin + 0, 1, 2",
        EVERY,
        "the diagonal",
        LEVEL_NOT,
        CALIBRATION,
    ),
    card(
        "probe.temperature",
        "argmin over T in [1/32, 32] of the mean loss of z/T",
        "1",
        "none",
        EVERY,
        "1: logits scaled as they should be",
        "models without errors: there T runs into its bound",
        CALIBRATION,
    ),
    card(
        "ablation.loss",
        "change of the mean cross-entropy",
        "nats",
        HEADS,
        EVERY,
        EFFECT_CONTROL,
        EFFECT_NOT,
        ABLATION,
    ),
    card(
        "ablation.logit_difference",
        "change of the mean of z_y - mean_{v≠y} z_v; a head that raises it beyond the null is a suppressor",
        "logits",
        HEADS,
        EVERY,
        EFFECT_CONTROL,
        EFFECT_NOT,
        ABLATION,
    ),
    card(
        "ablation.accuracy",
        "change of the share of right predictions",
        "1",
        HEADS,
        EVERY,
        EFFECT_CONTROL,
        EFFECT_NOT,
        ABLATION,
    ),
    card("ablation.kl", "mean of KL(clean, ablated)", "nats", HEADS, EVERY, EFFECT_CONTROL, EFFECT_NOT, ABLATION),
    card(
        "ablation.argmax_changed",
        "share of predictions with another greatest logit",
        "1",
        HEADS,
        EVERY,
        EFFECT_CONTROL,
        EFFECT_NOT,
        ABLATION,
    ),
    card(
        "ablation.entropy",
        "change of the mean entropy of the prediction",
        "nats",
        HEADS,
        EVERY,
        EFFECT_CONTROL,
        "confidence in the right answer: see brier",
        ABLATION,
    ),
    card("ablation.brier", "change of the mean Brier score", "1", HEADS, EVERY, EFFECT_CONTROL, EFFECT_NOT, ABLATION),
    card(
        "ablation.ece",
        "change of probe.ece, zero ablation",
        "1",
        ZEROED,
        EVERY,
        "ablation.calibration",
        "few predictions",
        CALIBRATION,
    ),
    card(
        "ablation.calibration",
        "change of probe.calibration, zero ablation",
        "1",
        ZEROED,
        EVERY,
        "ablation.matched_loss: whether more than the temperature changed",
        "single values: it is noisy",
        CALIBRATION,
    ),
    card(
        "ablation.reliability",
        "rows, sum of correct, sum of confidence of each bin, zero ablation",
        "1",
        "site, layer, head (-1: MLP), index: 3 bin + 0, 1, 2",
        EVERY,
        "probe.reliability",
        EFFECT_NOT,
        CALIBRATION,
    ),
    card(
        "ablation.temperature",
        "change of the best temperature, zero ablation",
        "1",
        ZEROED,
        EVERY,
        "0: the head does not scale logits",
        "models without errors: there T runs into its bound",
        CALIBRATION,
    ),
    card(
        "ablation.matched_loss",
        "change of the mean loss, clean and ablated each at its best temperature",
        "nats",
        ZEROED,
        EVERY,
        "0: the head is a temperature knob and nothing else",
        EFFECT_NOT,
        CALIBRATION,
    ),
    card(
        "ablation.path",
        "zero ablation's change of the logit difference: direct (final norm's scale frozen), mediated = total - direct, through the final norm = total - total with frozen scale, self-repair = -mediated/direct",
        "logits; self-repair 1",
        "site: hook_result, layer, head, index: 0 direct, 1 mediated, 2 norm, 3 self-repair",
        EVERY,
        "direct + mediated = total",
        "self-repair where the direct effect is near 0",
        PATHS,
    ),
    card(
        "ablation.p",
        "(1 + #{null ≥ effect})/(N + 1), and the same for ≤; zero ablation",
        "1",
        "site: hook_result, layer, head, index: 0 loss and 1 logit difference, raised; 2 and 3, lowered",
        EVERY,
        "uniform on an untrained model",
        "many heads or steps without a correction for their number; neighbouring steps as independent evidence, for they see the same examples and subspaces",
        NULL,
    ),
    card(
        "ablation.null",
        "points that 2.5 %, 50 % and 97.5 % of the null's effects do not exceed; the null zeroes random K-dimensional subspaces of the layer's concatenated z",
        "nats, logits",
        "site: hook_result, layer, index: 0-2 loss, 3-5 logit difference",
        EVERY,
        "it is the control",
        "heads of other layers",
        NULL,
    ),
    card(
        "ablation.gate.loss",
        "change of the mean cross-entropy with the head's output times ξ",
        "nats",
        "site: hook_result, layer, head, index: 100 ξ",
        SLOW,
        "0 at ξ = 1",
        "extrapolating: the curve is not linear",
        ABLATION,
    ),
    card(
        "ablation.gate.logit_difference",
        "change of the mean logit difference with the head's output times ξ",
        "logits",
        "site: hook_result, layer, head, index: 100 ξ",
        SLOW,
        "0 at ξ = 1",
        "extrapolating: the curve is not linear",
        ABLATION,
    ),
    card(
        "ablation.pair.loss",
        "Δ_ij - Δ_i - Δ_j of the mean cross-entropy, zero ablation",
        "nats",
        "site: hook_result, layer, index: pair (i, j) with i < j, row by row",
        SLOW,
        "0 where heads add up",
        "heads of different layers: pairs are of one layer",
        ABLATION,
    ),
    card(
        "ablation.pair.logit_difference",
        "Δ_ij - Δ_i - Δ_j of the mean logit difference, zero ablation",
        "logits",
        "site: hook_result, layer, index: pair (i, j) with i < j, row by row",
        SLOW,
        "0 where heads add up",
        "heads of different layers: pairs are of one layer",
        ABLATION,
    ),
];

/// Metric of each column of an outcome, behind `probe.` or `ablation.`; confidence serves the bins only.
const COLUMNS: [&str; OUTCOMES - 1] =
    ["loss", "logit_difference", "accuracy", "kl", "argmax_changed", "entropy", "brier"];
/// What heads' outputs are multiplied by, in percent.
const GATES: [i32; 4] = [25, 50, 75, 125];

/// One way of changing what a layer's heads wrote.
struct Intervention {
    /// How much of each head is taken away, `[H]`.
    removed: Vec<f32>,
    baseline: Baseline,
}

/// What wrote to the residual stream at one place: the heads of a layer, or its MLP block.
struct Writers {
    site: String,
    layer: usize,
    point: Point,
    /// -1 for an MLP block, which counts as one head here.
    first_head: i32,
    heads: usize,
    /// The stream behind them, [N, D].
    stream: Var,
    /// What each wrote, [N, H, D].
    result: Var,
    /// Its mean over examples, [Tq, H, D].
    mean: Var,
}

/// The clean pass over the probe, and what interventions are compared with.
struct Probe<'a> {
    model: &'a Model,
    pass: Pass,
    read: ReadOut,
    /// Interventions computed at once.
    chunk: usize,
    /// Means of the clean outcomes, [1, 8].
    clean: Var,
    /// See [`Probe::calibration`].
    calibration: [Var; 3],
    /// Bases of random subspaces, [H K, draws K] for as many draws as are computed at once: each draw's is K
    /// neighbouring columns. The same for all layers, replicas and steps.
    subspaces: Vec<Var>,
}

impl Instrument for Ablation {
    fn name(&self) -> &'static str {
        "ablation"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence(self) else { return Ok(()) };
        let (model, read, batch) = (cx.model, cx.task.shape().read, cx.probe_batch()?);
        let mut probe = cx.tape.at_cadence(every, |tape| Probe::new(tape, model, batch, read, cx.piece))?;
        // The only head of a layer is all of its z: there is nothing else to draw.
        if self.null_every(cx).is_some() && model.config.n_heads > 1 {
            probe.draw_subspaces(cx.tape, cx.null_draws());
        }
        self.levels(cx, &probe);
        for layer in 0..model.config.n_layers {
            let heads = cx.tape.at_cadence(every, |tape| probe.heads(tape, layer))?;
            self.effects(cx, &probe, &heads)?;
            self.gates_and_pairs(cx, &probe, &heads)?;
            if model.config.has_mlp() {
                let block = cx.tape.at_cadence(every, |tape| probe.mlp(tape, layer))?;
                self.effects(cx, &probe, &block)?;
            }
        }
        Ok(())
    }
}

impl Ablation {
    /// The greatest cadence that divides those of all metrics of these names; `None` where all are off.
    fn every(&self, cx: &Attach<'_>, wanted: impl Fn(&str) -> bool) -> Option<u64> {
        CARDS.iter().filter(|card| wanted(card.name)).filter_map(|card| cx.every(self, card)).reduce(gcd)
    }

    fn null_every(&self, cx: &Attach<'_>) -> Option<u64> {
        self.every(cx, |name| ["ablation.p", "ablation.null"].contains(&name))
    }

    /// `probe.*`: what the model does when nothing is changed.
    fn levels(&self, cx: &mut Attach<'_>, probe: &Probe<'_>) {
        for (column, name) in COLUMNS.iter().enumerate() {
            cx.record(self, &format!("probe.{name}"), "", probe.clean, column, vec![Label::NONE]);
        }
        let [bins, error, temperature] = probe.calibration;
        cx.record(self, "probe.ece", "", error, 0, vec![Label::NONE]);
        cx.record(self, "probe.calibration", "", error, 1, vec![Label::NONE]);
        cx.record(self, "probe.reliability", "", bins, 0, Label::indices(0..3 * BINS as i32));
        cx.record(self, "probe.temperature", "", temperature, 0, vec![Label::NONE]);
    }

    /// Every baseline at every head of a layer or at an MLP block; for heads also the ways an effect takes,
    /// and the null.
    fn effects(&self, cx: &mut Attach<'_>, probe: &Probe<'_>, writers: &Writers) -> Result<()> {
        let gate_or_pair = |name: &str| name.contains(".gate.") || name.contains(".pair.");
        let Some(every) = self.every(cx, |name| name.starts_with("ablation.") && !gate_or_pair(name)) else {
            return Ok(());
        };
        let site = writers.site.as_str();
        let heads = writers.heads;
        let zero = writers.each(Baseline::Zero);
        let others: Vec<_> =
            [Baseline::Mean, Baseline::Resample].into_iter().flat_map(|base| writers.each(base)).collect();
        let together: Vec<_> = [Baseline::Zero, Baseline::Mean, Baseline::Resample]
            .into_iter()
            .map(|baseline| Intervention { removed: vec![1.0; heads], baseline })
            .collect();
        let above = writers.layer + 1 < probe.model.config.n_layers;

        // Zero ablation is looked at more closely than the others.
        let mut seen = 0;
        let (mut means, mut frozen_norm) = (None, None);
        for part in zero.chunks(probe.chunk) {
            let (bins, moved) = cx.tape.at_cadence(every, |tape| {
                let (logits, last) = probe.logits(tape, writers, part, false)?;
                let (rows, together) = probe.rows_and_means(tape, logits, means)?;
                means = Some(together);
                let frozen = probe.model.logits_at_scale_of(tape, last, &probe.pass.forward)?;
                frozen_norm = Some(probe.means(tape, frozen, frozen_norm)?);
                let after = probe.calibration(tape, logits, rows)?;
                let moved = [1, 2].map(|which| tape.push1(Effects, &[after[which], probe.calibration[which]]));
                Ok((after[0], moved.into_iter().collect::<Result<Vec<_>>>()?))
            })?;
            let labels: Vec<Label> = (0..part.len()).map(|at| writers.label(seen + at, -1)).collect();
            let names = ["ablation.ece", "ablation.calibration", "ablation.temperature", "ablation.matched_loss"];
            for (at, name) in names.into_iter().enumerate() {
                cx.record(self, name, site, moved[at / 2], at % 2 * part.len(), labels.clone());
            }
            let cells = |at: usize| (0..3 * BINS as i32).map(move |index| (at, index));
            let labels = (0..part.len()).flat_map(cells).map(|(at, index)| writers.label(seen + at, index)).collect();
            cx.record(self, "ablation.reliability", site, bins, 0, labels);
            seen += part.len();
        }
        let (Some(zeroed), Some(frozen_norm)) = (means, frozen_norm) else { return Ok(()) };

        let effects = cx.tape.at_cadence(every, |tape| {
            let mut means = probe.outcomes(tape, writers, &others, false, Some(zeroed))?;
            if above {
                means = probe.outcomes(tape, writers, &zero, true, Some(means))?;
            }
            if heads > 1 {
                means = probe.outcomes(tape, writers, &together, false, Some(means))?;
            }
            tape.push1(Effects, &[means, probe.clean])
        })?;
        let mut labels: Vec<Label> = (0..3 + i32::from(above))
            .flat_map(|base| (0..heads).map(move |head| (head, base)))
            .map(|(head, base)| writers.label(head, base))
            .collect();
        if heads > 1 {
            labels.extend((0..together.len() as i32).map(|base| Label { head: -1, ..writers.label(0, base) }));
        }
        for (column, name) in COLUMNS.iter().enumerate() {
            cx.record(self, &format!("ablation.{name}"), site, effects, column * labels.len(), labels.clone());
        }
        if writers.first_head < 0 {
            return Ok(());
        }

        let ways = cx.tape.at_cadence(every, |tape| {
            let direct = probe.direct(tape, writers)?;
            tape.push1(Paths { heads }, &[zeroed, direct, frozen_norm, probe.clean])
        })?;
        let labels = (0..4).flat_map(|way| (0..heads).map(move |head| writers.label(head, way))).collect();
        cx.record(self, "ablation.path", site, ways, 0, labels);

        if let (Some(every), false) = (self.null_every(cx), probe.subspaces.is_empty()) {
            let summary = cx.tape.at_cadence(every, |tape| {
                let null = probe.null(tape, writers)?;
                tape.push1(NullSummary { heads }, &[zeroed, null, probe.clean])
            })?;
            let labels = (0..4).flat_map(|of| (0..heads).map(move |head| writers.label(head, of))).collect();
            cx.record(self, "ablation.p", site, summary, 0, labels);
            let labels = (0..6).map(|index| Label { head: -1, ..writers.label(0, index) }).collect();
            cx.record(self, "ablation.null", site, summary, 4 * heads, labels);
        }
        Ok(())
    }

    /// Heads turned down and up, and removed in pairs.
    fn gates_and_pairs(&self, cx: &mut Attach<'_>, probe: &Probe<'_>, writers: &Writers) -> Result<()> {
        let (site, heads) = (writers.site.as_str(), writers.heads);
        let only = |head: usize, share: f32| (0..heads).map(|h| if h == head { share } else { 0.0 }).collect();
        if let Some(every) = self.every(cx, |name| name.contains(".gate.")) {
            let gates: Vec<Intervention> = GATES
                .iter()
                .flat_map(|gate| (0..heads).map(move |head| (head, 1.0 - *gate as f32 / 100.0)))
                .map(|(head, share)| Intervention { removed: only(head, share), baseline: Baseline::Zero })
                .collect();
            let effects = cx.tape.at_cadence(every, |tape| {
                let means = probe.outcomes(tape, writers, &gates, false, None)?;
                tape.push1(Effects, &[means, probe.clean])
            })?;
            let labels: Vec<Label> =
                GATES.iter().flat_map(|gate| (0..heads).map(|head| writers.label(head, *gate))).collect();
            cx.record(self, "ablation.gate.loss", site, effects, 0, labels.clone());
            cx.record(self, "ablation.gate.logit_difference", site, effects, labels.len(), labels);
        }
        if let (Some(every), true) = (self.every(cx, |name| name.contains(".pair.")), heads > 1) {
            let pairs: Vec<Intervention> = (0..heads)
                .flat_map(|i| (i + 1..heads).map(move |j| (i, j)))
                .map(|(i, j)| {
                    let removed = (0..heads).map(|h| f32::from(u8::from(h == i || h == j))).collect();
                    Intervention { removed, baseline: Baseline::Zero }
                })
                .collect();
            let extra = cx.tape.at_cadence(every, |tape| {
                let single = probe.outcomes(tape, writers, &writers.each(Baseline::Zero), false, None)?;
                let both = probe.outcomes(tape, writers, &pairs, false, None)?;
                tape.push1(Interactions { heads }, &[both, single, probe.clean])
            })?;
            let labels: Vec<Label> =
                (0..pairs.len() as i32).map(|index| Label { head: -1, ..writers.label(0, index) }).collect();
            cx.record(self, "ablation.pair.loss", site, extra, 0, labels.clone());
            cx.record(self, "ablation.pair.logit_difference", site, extra, labels.len(), labels);
        }
        Ok(())
    }
}

impl Writers {
    /// Each writer ablated alone, one after the other.
    fn each(&self, baseline: Baseline) -> Vec<Intervention> {
        let only = |head: usize| (0..self.heads).map(|h| f32::from(u8::from(h == head))).collect();
        (0..self.heads).map(|head| Intervention { removed: only(head), baseline }).collect()
    }

    fn label(&self, writer: usize, index: i32) -> Label {
        let head = if self.first_head < 0 { -1 } else { writer as i32 };
        Label { layer: self.layer as i32, head, index }
    }
}

impl<'a> Probe<'a> {
    fn new(tape: &mut Tape, model: &'a Model, batch: crate::task::Batch, read: ReadOut, piece: usize) -> Result<Self> {
        let pass = Pass::new(tape, model, batch, read)?;
        let logits = pass.forward.logits;
        let chunk = (piece / batch.size).max(1);
        let calibration = [logits; 3];
        let mut probe = Self { model, pass, read, chunk, clean: logits, calibration, subspaces: Vec::new() };
        let (rows, clean) = probe.rows_and_means(tape, logits, None)?;
        probe.clean = clean;
        probe.calibration = probe.calibration(tape, logits, rows)?;
        Ok(probe)
    }

    /// The heads of a layer, and the stream behind them.
    fn heads(&self, tape: &mut Tape, layer: usize) -> Result<Writers> {
        let config = &self.model.config;
        // An MLP beside attention does not see what heads write.
        let beside = config.parallel_attn_mlp && config.has_mlp();
        let (point, stream) = if beside { (Point::Post, "hook_resid_post") } else { (Point::Mid, "hook_resid_mid") };
        self.writers(tape, layer, "attn.hook_result", config.n_heads, point, stream)
    }

    /// The MLP block of a layer, and the stream behind it.
    fn mlp(&self, tape: &mut Tape, layer: usize) -> Result<Writers> {
        let block = self.writers(tape, layer, "hook_mlp_out", 1, Point::Post, "hook_resid_post")?;
        Ok(Writers { first_head: -1, ..block })
    }

    fn writers(
        &self,
        tape: &mut Tape,
        layer: usize,
        hook: &str,
        heads: usize,
        point: Point,
        stream: &str,
    ) -> Result<Writers> {
        let d = self.model.config.d_model;
        let hook_at = |name: &str| self.pass.forward.hook(&format!("blocks.{layer}.{name}"));
        let (stream, result) = (hook_at(stream)?, hook_at(hook)?);
        let rows = tape.shape(stream).len() / d;
        let batch = self.pass.batch.size;
        let stream = tape.reshape(stream, &[rows, d])?;
        let result = tape.reshape(result, &[rows, heads, d])?;
        let by_example = tape.reshape(result, &[batch, rows / batch * heads * d])?;
        let sum = tape.push1(ColumnSum, &[by_example])?;
        let mean = tape.push1(Scale(1.0 / batch as f32), &[sum])?;
        let site = format!("blocks.{layer}.{hook}");
        Ok(Writers { site, layer, point, first_head: 0, heads, stream, result, mean })
    }

    /// Means of the outcomes of logits [I * N, V], behind those of earlier interventions.
    fn means(&self, tape: &mut Tape, logits: Var, before: Option<Var>) -> Result<Var> {
        Ok(self.rows_and_means(tape, logits, before)?.1)
    }

    /// The outcomes of each prediction as well, [I * N, 8].
    fn rows_and_means(&self, tape: &mut Tape, logits: Var, before: Option<Var>) -> Result<(Var, Var)> {
        let (targets, count) = (self.pass.batch.targets, self.pass.batch.count);
        let rows = tape.push1(Outcomes, &[logits, self.pass.forward.logits, targets])?;
        let group = tape.shape(targets).len();
        let mut inputs = vec![rows, count];
        inputs.extend(before);
        Ok((rows, tape.push1(GroupMeans { rows: group }, &inputs)?))
    }

    /// Reliability bins, calibration errors, and best temperatures with the losses there, of logits and their
    /// outcomes.
    fn calibration(&self, tape: &mut Tape, logits: Var, rows: Var) -> Result<[Var; 3]> {
        let (targets, count) = (self.pass.batch.targets, self.pass.batch.count);
        let classes = tape.shape(logits).rows().1;
        let out = tape.push(Reliability { classes }, &[rows, targets, count])?;
        let temperature = tape.push1(Temperature, &[logits, targets, count])?;
        Ok([out[0], out[1], temperature])
    }

    /// The rest of the pass above a changed stream [I * N, D]: its logits and its last residual stream.
    fn above(&self, tape: &mut Tape, writers: &Writers, stream: Var, frozen: bool) -> Result<(Var, Var)> {
        let rows = tape.shape(writers.stream).rows().0;
        let (interventions, d) = (tape.shape(stream).rows().0 / rows, self.model.config.d_model);
        let batch = interventions * self.pass.batch.size;
        let x = tape.reshape(stream, &[batch, rows / self.pass.batch.size, d])?;
        let patterns = frozen.then_some(&self.pass.forward);
        let (layer, point, seq, read) = (writers.layer, writers.point, self.pass.batch.seq, self.read);
        let forward = self.model.resume(tape, &Resume { layer, point, x, batch, seq, read, patterns })?;
        let last = forward.hook(&format!("blocks.{}.hook_resid_post", self.model.config.n_layers - 1))?;
        let rows = tape.shape(last).rows().0;
        Ok((forward.logits, tape.reshape(last, &[rows, d])?))
    }

    /// Logits [I * N, V] and last residual streams under interventions.
    fn logits(&self, tape: &mut Tape, on: &Writers, what: &[Intervention], frozen: bool) -> Result<(Var, Var)> {
        let removed: Vec<f32> = what.iter().flat_map(|i| i.removed.iter().copied()).collect();
        let removed = tape.constant(&[what.len(), on.heads], &removed);
        let base: Vec<u32> = what.iter().map(|i| i.baseline as u32).collect();
        let base = tape.constant_u32(&[what.len()], &base);
        let stream = tape.push1(Ablate, &[on.stream, on.result, on.mean, removed, base])?;
        self.above(tape, on, stream, frozen)
    }

    /// Means of outcomes [F + I, 8] under interventions, behind the F rows of an earlier result.
    fn outcomes(
        &self,
        tape: &mut Tape,
        on: &Writers,
        what: &[Intervention],
        frozen: bool,
        mut means: Option<Var>,
    ) -> Result<Var> {
        for part in what.chunks(self.chunk) {
            let (logits, _) = self.logits(tape, on, part, frozen)?;
            means = Some(self.means(tape, logits, means)?);
        }
        means.ok_or_else(|| crate::autograd::op::misfit("ablation", "nothing to intervene on"))
    }

    /// Means of outcomes [H, 8] where what heads write is missing from the last residual stream only, under
    /// the final norm's clean scale.
    fn direct(&self, tape: &mut Tape, on: &Writers) -> Result<Var> {
        let (config, forward) = (&self.model.config, &self.pass.forward);
        let last = forward.hook(&format!("blocks.{}.hook_resid_post", config.n_layers - 1))?;
        let rows = tape.shape(last).len() / config.d_model;
        let last = tape.reshape(last, &[rows, config.d_model])?;
        let written = tape.shape(on.stream).rows().0;
        let mut result = on.result;
        if rows != written {
            // Only the last position of each example is read out.
            let step = (written / rows) as u32;
            let at: Vec<u32> = (1..=rows as u32).map(|example| example * step - 1).collect();
            let at = tape.constant_u32(&[rows], &at);
            let flat = tape.reshape(result, &[written, on.heads * config.d_model])?;
            let picked = tape.push1(GatherRows, &[flat, at])?;
            result = tape.reshape(picked, &[rows, on.heads, config.d_model])?;
        }
        let stream = tape.push1(AblateEach, &[last, result])?;
        let mut means = None;
        for first in (0..on.heads).step_by(self.chunk) {
            let heads = first..(first + self.chunk).min(on.heads);
            let mut part = stream;
            if heads.len() < on.heads {
                let at: Vec<u32> = (heads.start * rows..heads.end * rows).map(|row| row as u32).collect();
                let at = tape.constant_u32(&[at.len()], &at);
                part = tape.push1(GatherRows, &[stream, at])?;
            }
            let logits = self.model.logits_at_scale_of(tape, part, forward)?;
            means = Some(self.means(tape, logits, means)?);
        }
        means.ok_or_else(|| crate::autograd::op::misfit("ablation", "no heads"))
    }

    /// Draws the subspaces of the null.
    fn draw_subspaces(&mut self, tape: &mut Tape, draws: usize) {
        let (k, width) = (self.model.config.d_head, self.model.config.n_heads * self.model.config.d_head);
        for first in (0..draws).step_by(self.chunk) {
            let count = self.chunk.min(draws - first);
            let mut bases = vec![0.0; width * count * k];
            for draw in 0..count {
                for (column, vector) in random_subspace(width, k, (first + draw) as u32).iter().enumerate() {
                    for (row, value) in vector.iter().enumerate() {
                        bases[row * count * k + draw * k + column] = *value as f32;
                    }
                }
            }
            self.subspaces.push(tape.constant(&[width, count * k], &bases));
        }
    }

    /// Means of outcomes [draws, 8] where a random K-dimensional subspace of the layer's concatenated z is
    /// zeroed: z' = z - z Q Qᵀ, so that the stream loses (z Q)(Qᵀ W_O). All replicas and all steps see the same
    /// subspaces.
    fn null(&self, tape: &mut Tape, on: &Writers) -> Result<Var> {
        let (config, layer) = (&self.model.config, on.layer);
        let (k, width) = (config.d_head, config.n_heads * config.d_head);
        let z = self.pass.forward.hook(&format!("blocks.{layer}.attn.hook_z"))?;
        let rows = tape.shape(on.stream).rows().0;
        let z = tape.reshape(z, &[rows, width])?;
        let w_o = self.model.need(&format!("blocks.{layer}.attn.W_O"))?;
        let w_o = tape.reshape(w_o, &[width, config.d_model])?;
        let mut means = None;
        for q in self.subspaces.iter().copied() {
            let count = tape.shape(q).rows().1 / k;
            let inside = tape.push1(Linear::default(), &[z, q])?;
            let inside = tape.reshape(inside, &[rows * count, k])?;
            let out = tape.push1(TransposedProduct { dims: vec![count * k, config.d_model] }, &[q, w_o])?;
            let out = tape.reshape(out, &[count, k, config.d_model])?;
            let result = tape.push1(HeadResult, &[inside, out])?;
            let stream = tape.push1(AblateEach, &[on.stream, result])?;
            let (logits, _) = self.above(tape, on, stream, false)?;
            means = Some(self.means(tape, logits, means)?);
        }
        means.ok_or_else(|| crate::autograd::op::misfit("ablation", "no draws"))
    }
}

/// `k` orthonormal vectors of `width` numbers, uniformly drawn: Gaussian vectors made orthogonal one by one.
fn random_subspace(width: usize, k: usize, draw: u32) -> Vec<Vec<f64>> {
    let stream = Philox::new(0, Stream::Probe, draw);
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(k);
    for column in 0..k {
        let mut vector: Vec<f64> = (0..width).map(|row| stream.normals((1 + column * width + row) as u64)[0]).collect();
        // Twice: once leaves rounding along what was subtracted.
        for _ in 0..2 {
            for other in &basis {
                let along: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
                vector.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let size = length(&vector);
        vector.iter_mut().for_each(|x| *x /= size);
        basis.push(vector);
    }
    basis
}
