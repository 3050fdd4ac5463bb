//! Exact ablation, at every head and MLP block, on a held probe batch, beside random subspaces.
//!
//! The clean pass over the probe is computed once, and only what lies above an intervention again: see
//! [`crate::intervene`]. Effects are always *ablated minus clean*.

pub(crate) mod calibration;
pub(crate) mod ops;

use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{HeadResult, Linear, TransposedProduct};
use crate::autograd::{Tape, Var, gcd, length};
use crate::error::Result;
use crate::gpu::{Philox, Shader, Stream};
use crate::instrument::{Attach, Card, CostClass, Instrument, Label, Presence};
use crate::intervene::{AblateEach, Baseline, Intervention, OUTCOMES, Probe, Writers};
use calibration::{BINS, calibration};
use ops::{Effects, Interactions, NullSummary, Paths};

pub(super) const INSTRUMENTS: &[&dyn Instrument] = &[&Ablation];
pub(super) const CHECKS: &[&[(&str, Build)]] = &[ops::CHECKS, calibration::CHECKS];
pub(super) const SHADERS: &[&[&Shader<'_>]] = &[ops::SHADERS, calibration::SHADERS];

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
    Card { name, formula, unit, axes, cost: CostClass::M, every, control, source, not_for, ..Card::BASE }
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
        "models without errors: there T runs into its bound, which is no number and has no row",
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
        "models without errors: there T runs into its bound, with or without the head, and there is no row",
        CALIBRATION,
    ),
    card(
        "ablation.matched_loss",
        "change of the mean loss, clean and ablated each at its best temperature",
        "nats",
        ZEROED,
        EVERY,
        "0: the head is a temperature knob and nothing else; no row where ablation.temperature has none",
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

/// The probe, and what this instrument compares interventions with.
struct Panel<'a> {
    probe: Probe<'a>,
    /// See [`calibration()`].
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
        let mut panel = cx.tape.at_cadence(every, |tape| {
            let probe = Probe::new(tape, model, batch, read, cx.piece)?;
            Panel::new(tape, probe)
        })?;
        // The only head of a layer is all of its z: there is nothing else to draw.
        if self.null_every(cx).is_some() && model.config.n_heads > 1 {
            panel.draw_subspaces(cx.tape, cx.null_draws());
        }
        self.levels(cx, &panel);
        for layer in 0..model.config.n_layers {
            let heads = cx.tape.at_cadence(every, |tape| panel.probe.heads(tape, layer))?;
            self.effects(cx, &panel, &heads)?;
            self.gates_and_pairs(cx, &panel, &heads)?;
            if model.config.has_mlp() {
                let block = cx.tape.at_cadence(every, |tape| panel.probe.mlp(tape, layer))?;
                self.effects(cx, &panel, &block)?;
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
    fn levels(&self, cx: &mut Attach<'_>, panel: &Panel<'_>) {
        for (column, name) in COLUMNS.iter().enumerate() {
            cx.record(self, &format!("probe.{name}"), "", panel.probe.clean, column, vec![Label::NONE]);
        }
        let [bins, error, temperature] = panel.calibration;
        cx.record(self, "probe.ece", "", error, 0, vec![Label::NONE]);
        cx.record(self, "probe.calibration", "", error, 1, vec![Label::NONE]);
        cx.record(self, "probe.reliability", "", bins, 0, Label::indices(0..3 * BINS as i32));
        cx.record_where(Presence::WhereKnown, self, "probe.temperature", "", temperature, 0, vec![Label::NONE]);
    }

    /// Every baseline at every head of a layer or at an MLP block; for heads also the ways an effect takes,
    /// and the null.
    fn effects(&self, cx: &mut Attach<'_>, panel: &Panel<'_>, writers: &Writers) -> Result<()> {
        let probe = &panel.probe;
        let gate_or_pair = |name: &str| name.contains(".gate.") || name.contains(".pair.");
        let Some(every) = self.every(cx, |name| name.starts_with("ablation.") && !gate_or_pair(name)) else {
            return Ok(());
        };
        let site = writers.site.as_str();
        let heads = writers.count;
        let zero = Intervention::each(heads, Baseline::Zero);
        let others: Vec<_> =
            [Baseline::Mean, Baseline::Resample].into_iter().flat_map(|base| Intervention::each(heads, base)).collect();
        let together: Vec<_> = [Baseline::Zero, Baseline::Mean, Baseline::Resample]
            .into_iter()
            .map(|baseline| Intervention::all(heads, baseline))
            .collect();
        let above = writers.layer + 1 < probe.model.config.n_layers;

        // Zero ablation is looked at more closely than the others.
        let mut seen = 0;
        let (mut means, mut frozen_norm) = (None, None);
        for part in zero.chunks(probe.chunk) {
            let (bins, moved) = cx.tape.at_cadence(every, |tape| {
                let changed = probe.under(tape, writers, part, false)?;
                let rows = probe.rows_of(tape, changed.logits)?;
                means = Some(probe.means(tape, rows, means)?);
                let frozen = probe.model.logits_at_scale_of(tape, changed.last, &probe.pass.forward)?;
                let frozen = probe.rows_of(tape, frozen)?;
                frozen_norm = Some(probe.means(tape, frozen, frozen_norm)?);
                let after = calibration(tape, probe, changed.logits, rows)?;
                let moved = [1, 2].map(|which| tape.push1(Effects, &[after[which], panel.calibration[which]]));
                Ok((after[0], moved.into_iter().collect::<Result<Vec<_>>>()?))
            })?;
            let labels: Vec<Label> = (0..part.len()).map(|at| label(writers, seen + at, -1)).collect();
            let names = ["ablation.ece", "ablation.calibration", "ablation.temperature", "ablation.matched_loss"];
            for (at, name) in names.into_iter().enumerate() {
                let (values, first) = (moved[at / 2], at % 2 * part.len());
                cx.record_where(Presence::WhereKnown, self, name, site, values, first, labels.clone());
            }
            let cells = |at: usize| (0..3 * BINS as i32).map(move |index| (at, index));
            let labels = (0..part.len()).flat_map(cells).map(|(at, index)| label(writers, seen + at, index)).collect();
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
            .map(|(head, base)| label(writers, head, base))
            .collect();
        if heads > 1 {
            labels.extend((0..together.len() as i32).map(|base| layer_label(writers, base)));
        }
        for (column, name) in COLUMNS.iter().enumerate() {
            cx.record(self, &format!("ablation.{name}"), site, effects, column * labels.len(), labels.clone());
        }
        if !writers.heads {
            return Ok(());
        }

        let ways = cx.tape.at_cadence(every, |tape| {
            let direct = probe.direct(tape, writers)?;
            tape.push1(Paths { heads }, &[zeroed, direct, frozen_norm, probe.clean])
        })?;
        let labels = (0..4).flat_map(|way| (0..heads).map(move |head| label(writers, head, way))).collect();
        cx.record(self, "ablation.path", site, ways, 0, labels);

        if let (Some(every), false) = (self.null_every(cx), panel.subspaces.is_empty()) {
            let summary = cx.tape.at_cadence(every, |tape| {
                let null = panel.null(tape, writers)?;
                tape.push1(NullSummary { heads }, &[zeroed, null, probe.clean])
            })?;
            let labels = (0..4).flat_map(|of| (0..heads).map(move |head| label(writers, head, of))).collect();
            cx.record(self, "ablation.p", site, summary, 0, labels);
            let labels = (0..6).map(|index| layer_label(writers, index)).collect();
            cx.record(self, "ablation.null", site, summary, 4 * heads, labels);
        }
        Ok(())
    }

    /// Heads turned down and up, and removed in pairs.
    fn gates_and_pairs(&self, cx: &mut Attach<'_>, panel: &Panel<'_>, writers: &Writers) -> Result<()> {
        let probe = &panel.probe;
        let (site, heads) = (writers.site.as_str(), writers.count);
        if let Some(every) = self.every(cx, |name| name.contains(".gate.")) {
            let gates: Vec<Intervention> = GATES
                .iter()
                .flat_map(|gate| (0..heads).map(move |head| (head, 1.0 - *gate as f32 / 100.0)))
                .map(|(head, share)| Intervention::one(head, heads, share, Baseline::Zero))
                .collect();
            let effects = cx.tape.at_cadence(every, |tape| {
                let means = probe.outcomes(tape, writers, &gates, false, None)?;
                tape.push1(Effects, &[means, probe.clean])
            })?;
            let labels: Vec<Label> =
                GATES.iter().flat_map(|gate| (0..heads).map(|head| label(writers, head, *gate))).collect();
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
                let single = probe.outcomes(tape, writers, &Intervention::each(heads, Baseline::Zero), false, None)?;
                let both = probe.outcomes(tape, writers, &pairs, false, None)?;
                tape.push1(Interactions { heads }, &[both, single, probe.clean])
            })?;
            let labels: Vec<Label> = (0..pairs.len() as i32).map(|index| layer_label(writers, index)).collect();
            cx.record(self, "ablation.pair.loss", site, extra, 0, labels.clone());
            cx.record(self, "ablation.pair.logit_difference", site, extra, labels.len(), labels);
        }
        Ok(())
    }
}

/// Label of one of `writers`: its layer, its number where it is a head, and an index.
fn label(writers: &Writers, writer: usize, index: i32) -> Label {
    Label { layer: writers.layer as i32, head: if writers.heads { writer as i32 } else { -1 }, index }
}

/// Label of the layer as a whole.
fn layer_label(writers: &Writers, index: i32) -> Label {
    Label { layer: writers.layer as i32, head: -1, index }
}

impl<'a> Panel<'a> {
    fn new(tape: &mut Tape, probe: Probe<'a>) -> Result<Self> {
        let calibration = calibration(tape, &probe, probe.pass.forward.logits, probe.rows)?;
        Ok(Self { probe, calibration, subspaces: Vec::new() })
    }

    /// Draws the subspaces of the null.
    fn draw_subspaces(&mut self, tape: &mut Tape, draws: usize) {
        let (k, width) =
            (self.probe.model.config.d_head, self.probe.model.config.n_heads * self.probe.model.config.d_head);
        for first in (0..draws).step_by(self.probe.chunk) {
            let count = self.probe.chunk.min(draws - first);
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
        let (config, layer) = (&self.probe.model.config, on.layer);
        let (k, width) = (config.d_head, config.n_heads * config.d_head);
        let z = self.probe.pass.forward.hook(&format!("blocks.{layer}.attn.hook_z"))?;
        let rows = tape.shape(on.stream).rows().0;
        let z = tape.reshape(z, &[rows, width])?;
        let w_o = self.probe.model.need(&format!("blocks.{layer}.attn.W_O"))?;
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
            let logits = self.probe.above(tape, on, stream, false)?.logits;
            let rows = self.probe.rows_of(tape, logits)?;
            means = Some(self.probe.means(tape, rows, means)?);
        }
        means.ok_or_else(|| misfit("ablation", "no draws"))
    }
}

/// `k` orthonormal vectors of `width` numbers, uniformly drawn: Gaussian vectors made orthogonal one by one.
fn random_subspace(width: usize, k: usize, draw: u32) -> Vec<Vec<f64>> {
    let stream = Philox::new(0, Stream::Subspace, draw);
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
