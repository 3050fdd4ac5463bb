//! Exact ablation, at every head and MLP block, on a held probe batch, beside random subspaces.
//!
//! The clean pass over the probe is computed once, and only what lies above an intervention again: see
//! [`crate::intervene`]. Effects are always *ablated minus clean*.

pub(crate) mod calibration;
pub(crate) mod ops;
pub(crate) mod subspaces;

use crate::autograd::Var;
use crate::autograd::check::Build;
use crate::error::Result;
use crate::gpu::Shader;
use crate::instrument::{Attach, Card, Chance, CostClass, Index, Instrument, Label, Presence};
use crate::intervene::{Baseline, Intervention, OUTCOMES, Probe, Writers, column};
use calibration::{BINS, Calibration};
use ops::{Effects, NullSummary, SelfRepair};
use subspaces::Draws;

pub(super) const INSTRUMENTS: &[&dyn Instrument] = &[&Ablation];
pub(super) const CHECKS: &[&[(&str, Build)]] = &[ops::CHECKS, subspaces::CHECKS, calibration::CHECKS];
pub(super) const SHADERS: &[&[&Shader<'_>]] = &[ops::SHADERS, subspaces::SHADERS, calibration::SHADERS];

/// `probe.*` and `ablation.*`.
pub(crate) struct Ablation;

/// Steps between two measurements.
const EVERY: u64 = 200;
/// Of what is dearer or smoother.
const SLOW: u64 = 1000;

/// Names of the baselines, by index.
const BASELINES: &[&str] = &["zero", "mean", "resample", "zero, later patterns frozen"];
/// What is kept of each bin of a reliability diagram.
const IN_A_BIN: &[&str] = &["rows", "sum of correct", "sum of confidence"];
/// A change that is a size or a share.
const CHANGE: Card = Card { chance: None, ..EFFECT };

const LEVEL: Card = Card {
    name: "",
    formula: "",
    unit: "1",
    axes: "none",
    cost: CostClass::M,
    every: EVERY,
    control: "loss.test over the whole test set",
    source: "definition",
    not_for: "replacing the test set: the probe is a small part of it",
    ..Card::BASE
};
const EFFECT: Card = Card {
    axes: "site: hook_result or hook_mlp_out, layer, head (-1: the MLP, or all heads together), index: 0 zero, 1 mean over examples, 2 resample (the next example's), 3 zero with the later layers' patterns frozen",
    control: "its .se: whether it differs from 0; ablation.p: whether it is more than an average share of its layer",
    source: "TransformerLens's definitions of zero, mean and resample ablation",
    not_for: "telling what a head does when nothing is ablated; baselines rank heads differently, compare all",
    chance: Some(Chance::At(0.0)),
    index: Index::Names(BASELINES),
    ..LEVEL
};
const ZEROED: Card = Card {
    axes: "site: hook_result or hook_mlp_out, layer, head (-1: MLP)",
    source: CALIBRATED.source,
    index: Index::None,
    ..EFFECT
};
const CALIBRATED: Card = Card { source: "Guo et al. 2017; debiased after Kumar, Liang and Ma 2019", ..LEVEL };
const GATE: Card = Card {
    axes: "site: hook_result, layer, head, index: 100 ξ",
    every: SLOW,
    control: "0 at ξ = 1",
    index: Index::Counts("percent of the head's output that is left, 100 ξ"),
    not_for: "extrapolating: the curve is not linear",
    ..EFFECT
};
const PAIR: Card = Card {
    axes: "site: hook_result, layer, index: pair (i, j) with i < j, row by row",
    every: SLOW,
    control: "0 where heads add up",
    index: Index::Pairs,
    not_for: "heads of different layers: pairs are of one layer",
    ..EFFECT
};
const PATH: Card = Card {
    axes: "site: hook_result, layer, head, index: 0 direct, 1 mediated, 2 norm, 3 self-repair",
    control: "direct + mediated = total",
    source: "direct and total effects as in McDougall et al. 2023 and, for the norm, Stolfo et al. 2024",
    not_for: "self-repair of heads without a direct effect: where that is not beyond two of its standard errors there is no row",
    index: Index::Names(&["direct", "mediated", "through the final norm", "self-repair"]),
    ..EFFECT
};
const NULL: Card =
    Card { source: "definition; add-one p-values after Davison and Hinkley 1997", chance: None, ..EFFECT };

/// The standard error of an effect, under the labels of the effect.
const fn error_of(name: &'static str, effect: Card) -> Card {
    Card {
        name,
        formula: "standard error over the probe's examples of the difference from clean, paired; of mean m over N predictions, n_e in example e, of which u_e is the sum: √(E/(E - 1) Σ_e (u_e - n_e m)²)/N, and at least what f32 can tell",
        control: "probe.n: how many examples that are; ablation.p asks another question, whether the effect is more than a share of its layer",
        source: "cluster-robust error of a mean, Liang and Zeger 1986",
        not_for: "neighbouring steps as independent evidence: they see the same examples; few examples: it is exact for many",
        bounds: Card::SIZE,
        chance: None,
        ..effect
    }
}

const CARDS: &[Card] = &[
    Card {
        name: "probe.n",
        formula: "examples of the probe with predictions that count",
        unit: "examples",
        bounds: Card::SIZE,
        ..LEVEL
    },
    Card {
        name: "probe.loss",
        formula: "mean cross-entropy of the probe",
        unit: "nats",
        bounds: Card::SIZE,
        chance: Some(Chance::LnOutputs),
        ..LEVEL
    },
    Card { name: "probe.logit_difference", formula: "mean of z_y - mean_{v≠y} z_v", unit: "logits", ..LEVEL },
    Card {
        name: "probe.accuracy",
        formula: "share of predictions whose logit exceeds every other",
        bounds: Card::SHARE,
        chance: Some(Chance::OneOfClasses),
        ..LEVEL
    },
    Card {
        name: "probe.entropy",
        formula: "mean of -Σ p ln p",
        unit: "nats",
        bounds: Card::SIZE,
        chance: Some(Chance::LnOutputs),
        ..LEVEL
    },
    Card { name: "probe.brier", formula: "mean of Σ_v (p_v - 1_{v=y})²", bounds: [0.0, 2.0], ..LEVEL },
    Card {
        name: "probe.ece",
        formula: "Σ_b n_b/N |acc_b - conf_b| over 15 bins of equal mass",
        control: "probe.calibration: a calibrated model has a positive ece too",
        not_for: "few predictions: it grows as 1/√n_b by chance alone",
        bounds: Card::SHARE,
        ..CALIBRATED
    },
    Card {
        name: "probe.calibration",
        formula: "Σ_b n_b/N ((acc_b - conf_b)² - acc_b (1 - acc_b)/(n_b - 1)), debiased (Kumar, Liang, Ma 2019)",
        control: "0 in expectation for a calibrated model",
        not_for: "single values: it is noisy and may be negative",
        chance: Some(Chance::At(0.0)),
        ..CALIBRATED
    },
    Card {
        name: "probe.reliability",
        formula: "rows, sum of correct, sum of confidence of each bin",
        axes: "index: 3 bin + 0, 1, 2",
        index: Index::Bins(IN_A_BIN),
        control: "the diagonal",
        ..CALIBRATED
    },
    Card {
        name: "probe.temperature",
        formula: "argmin over T in [1/32, 32] of the mean loss of z/T",
        control: "1: logits scaled as they should be",
        not_for: "models without errors: there T runs into its bound, which is no number and has no row",
        bounds: [1.0 / 32.0, 32.0],
        chance: Some(Chance::At(1.0)),
        ..CALIBRATED
    },
    LOSS,
    error_of("ablation.loss.se", LOSS),
    LOGIT_DIFFERENCE,
    error_of("ablation.logit_difference.se", LOGIT_DIFFERENCE),
    ACCURACY,
    error_of("ablation.accuracy.se", ACCURACY),
    KL,
    error_of("ablation.kl.se", KL),
    ARGMAX_CHANGED,
    error_of("ablation.argmax_changed.se", ARGMAX_CHANGED),
    ENTROPY,
    error_of("ablation.entropy.se", ENTROPY),
    BRIER,
    error_of("ablation.brier.se", BRIER),
    Card {
        name: "ablation.ece",
        formula: "change of probe.ece, zero ablation",
        control: "ablation.calibration",
        not_for: "few predictions",
        ..ZEROED
    },
    Card {
        name: "ablation.calibration",
        formula: "change of probe.calibration, zero ablation",
        control: "ablation.matched_loss: whether more than the temperature changed",
        not_for: "single values: it is noisy",
        ..ZEROED
    },
    Card {
        name: "ablation.reliability",
        formula: "rows, sum of correct, sum of confidence of each bin, zero ablation",
        axes: "site, layer, head (-1: MLP), index: 3 bin + 0, 1, 2",
        index: Index::Bins(IN_A_BIN),
        control: "probe.reliability",
        chance: None,
        ..ZEROED
    },
    Card {
        name: "ablation.temperature",
        formula: "change of the best temperature, zero ablation",
        control: "0: the head does not scale logits",
        not_for: "models without errors: there T runs into its bound, with or without the head, and there is no row",
        ..ZEROED
    },
    MATCHED,
    Card {
        not_for: "fewer than some ten wrong predictions in the probe, which temperatures rest on: with 1 % of 256 wrong the change is beyond two errors in 13 of a hundred by chance, and in 9 has no row; neighbouring steps as independent evidence",
        ..error_of("ablation.matched_loss.se", MATCHED)
    },
    Card {
        name: "ablation.path",
        formula: "zero ablation's change of the logit difference: direct (final norm's scale frozen), mediated = total - direct, through the final norm = total - total with frozen scale, self-repair = -mediated/direct",
        unit: "logits; self-repair 1",
        ..PATH
    },
    error_of(
        "ablation.path.se",
        Card { unit: "logits", axes: "site: hook_result, layer, head, index: 0 direct, 1 mediated, 2 norm", ..PATH },
    ),
    Card {
        name: "ablation.p",
        formula: "(1 + #{null ≥ effect})/(N + 1), and the same for ≤; zero ablation: whether a head does more than an average K-dimensional share of its layer",
        axes: "site: hook_result, layer, head, index: 0 loss and 1 logit difference, raised; 2 and 3, lowered",
        control: "uniform on an untrained model",
        bounds: Card::SHARE,
        index: Index::Names(&[
            "loss, raised",
            "logit difference, raised",
            "loss, lowered",
            "logit difference, lowered",
        ]),
        not_for: "whether a head matters: of heads that matter alike none is beyond its layer's average, ask .se; many heads or steps without a correction for their number; neighbouring steps as independent evidence, for they see the same examples and subspaces",
        ..NULL
    },
    Card {
        name: "ablation.null",
        formula: "points that 2.5 %, 50 % and 97.5 % of the null's effects do not exceed: an average K-dimensional share of the layer. The null takes away random K-dimensional subspaces of what the layer's heads write, drawn in the residual stream and projected on the rows of each W_O: the basis of z does not matter",
        unit: "nats, logits",
        axes: "site: hook_result, layer, index: 0-2 loss, 3-5 logit difference",
        control: "it is the control",
        index: Index::Names(&[
            "loss, 2.5 %",
            "loss, 50 %",
            "loss, 97.5 %",
            "logit difference, 2.5 %",
            "logit difference, 50 %",
            "logit difference, 97.5 %",
        ]),
        not_for: "heads of other layers; what would happen if nothing were taken away: that is 0",
        ..NULL
    },
    GATE_LOSS,
    error_of("ablation.gate.loss.se", GATE_LOSS),
    GATE_LOGITS,
    error_of("ablation.gate.logit_difference.se", GATE_LOGITS),
    PAIR_LOSS,
    error_of("ablation.pair.loss.se", PAIR_LOSS),
    PAIR_LOGITS,
    error_of("ablation.pair.logit_difference.se", PAIR_LOGITS),
];
const MATCHED: Card = Card {
    name: "ablation.matched_loss",
    formula: "change of the mean loss, clean and ablated each at its best temperature",
    unit: "nats",
    control: "its .se: whether it differs from 0, as it does not where the head is a temperature knob and nothing else; no row where ablation.temperature has none",
    ..ZEROED
};
const LOSS: Card = Card { name: "ablation.loss", formula: "change of the mean cross-entropy", unit: "nats", ..EFFECT };
const LOGIT_DIFFERENCE: Card = Card {
    name: "ablation.logit_difference",
    formula: "change of the mean of z_y - mean_{v≠y} z_v; a head that raises it, beyond its error and beyond the null, is a suppressor",
    unit: "logits",
    ..EFFECT
};
const ACCURACY: Card =
    Card { name: "ablation.accuracy", formula: "change of the share of right predictions", ..EFFECT };
const KL: Card =
    Card { name: "ablation.kl", formula: "mean of KL(clean, ablated)", unit: "nats", bounds: Card::SIZE, ..CHANGE };
const ARGMAX_CHANGED: Card = Card {
    name: "ablation.argmax_changed",
    formula: "share of predictions with another greatest logit",
    bounds: Card::SHARE,
    ..CHANGE
};
const ENTROPY: Card = Card {
    name: "ablation.entropy",
    formula: "change of the mean entropy of the prediction",
    unit: "nats",
    not_for: "confidence in the right answer: see brier",
    ..EFFECT
};
const BRIER: Card = Card { name: "ablation.brier", formula: "change of the mean Brier score", ..EFFECT };
const GATE_LOSS: Card = Card {
    name: "ablation.gate.loss",
    formula: "change of the mean cross-entropy with the head's output times ξ",
    unit: "nats",
    ..GATE
};
const GATE_LOGITS: Card = Card {
    name: "ablation.gate.logit_difference",
    formula: "change of the mean logit difference with the head's output times ξ",
    unit: "logits",
    ..GATE
};
const PAIR_LOSS: Card = Card {
    name: "ablation.pair.loss",
    formula: "Δ_ij - Δ_i - Δ_j of the mean cross-entropy, zero ablation",
    unit: "nats",
    ..PAIR
};
const PAIR_LOGITS: Card = Card {
    name: "ablation.pair.logit_difference",
    formula: "Δ_ij - Δ_i - Δ_j of the mean logit difference, zero ablation",
    unit: "logits",
    ..PAIR
};

/// Metric of each column of an outcome, behind `probe.` or `ablation.`; confidence serves the bins only.
const COLUMNS: [&str; OUTCOMES - 1] =
    ["loss", "logit_difference", "accuracy", "kl", "argmax_changed", "entropy", "brier"];
/// What heads' outputs are multiplied by, in percent.
const GATES: [i32; 4] = [25, 50, 75, 125];

/// The probe, and what this instrument compares interventions with.
struct Panel<'a> {
    probe: Probe<'a>,
    /// Of the clean pass.
    calibration: Calibration,
    /// What the null draws; nothing where there is none.
    draws: Vec<Draws>,
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
            let probe = Probe::new(tape, model, batch, read, cx.pieces.most)?;
            let calibration = Calibration::of(tape, &probe, probe.pass.forward.logits, probe.rows)?;
            Ok(Panel { probe, calibration, draws: Vec::new() })
        })?;
        // The only head of a layer is all that it writes: there is nothing else to draw.
        let config = &model.config;
        if self.null_every(cx).is_some() && config.n_heads > 1 {
            let (sizes, draws) = ([config.n_heads, config.d_head, config.d_model], cx.null_draws());
            panel.draws = subspaces::draw(cx.tape, sizes, draws, panel.probe.chunk);
        }
        self.levels(cx, every, &panel)?;
        for layer in 0..config.n_layers {
            let heads = cx.tape.at_cadence(every, |tape| panel.probe.heads(tape, layer))?;
            self.effects(cx, &panel, &heads)?;
            self.gates_and_pairs(cx, &panel.probe, &heads)?;
            if config.has_mlp() {
                let block = cx.tape.at_cadence(every, |tape| panel.probe.mlp(tape, layer))?;
                self.effects(cx, &panel, &block)?;
            }
        }
        Ok(())
    }
}

/// One of `writers` alone: its layer, its number where it is a head, and an index.
fn label(writers: &Writers, writer: usize, index: i32) -> Label {
    Label { layer: writers.layer as i32, head: if writers.heads { writer as i32 } else { -1 }, index }
}

/// All of a layer's writers together.
fn layer_label(writers: &Writers, index: i32) -> Label {
    Label { layer: writers.layer as i32, head: -1, index }
}

/// Each of `writers` ablated alone, under labels of this index.
fn each(writers: &Writers, baseline: Baseline, index: i32) -> impl Iterator<Item = (Intervention, Label)> {
    let all = Intervention::each(writers.count, baseline).into_iter().enumerate();
    all.map(move |(writer, what)| (what, label(writers, writer, index)))
}

/// What interventions change, as many at once as fit, and whose changes these are.
fn changes(
    cx: &mut Attach<'_>,
    every: u64,
    probe: &Probe<'_>,
    writers: &Writers,
    what: &[(Intervention, Label)],
    frozen: bool,
) -> Result<Vec<(Var, Vec<Label>)>> {
    let of_part = |part: &[(Intervention, Label)]| {
        let (what, labels): (Vec<Intervention>, Vec<Label>) = part.iter().cloned().unzip();
        let effects = cx.tape.at_cadence(every, |tape| {
            let examples = probe.outcomes(tape, writers, &what, frozen, None)?;
            probe.effects(tape, examples)
        })?;
        Ok((effects, labels))
    };
    what.chunks(probe.chunk).map(of_part).collect()
}

impl Ablation {
    /// The cadence of all metrics whose names are wanted; `None` where all are off.
    fn every(&self, cx: &Attach<'_>, wanted: impl Fn(&str) -> bool) -> Option<u64> {
        let names: Vec<&str> = CARDS.iter().map(|card| card.name).filter(|name| wanted(name)).collect();
        cx.cadence_of(self, &names)
    }

    fn null_every(&self, cx: &Attach<'_>) -> Option<u64> {
        cx.cadence_of(self, &["ablation.p", "ablation.null"])
    }

    /// `probe.*`: what the model does when nothing is changed.
    fn levels(&self, cx: &mut Attach<'_>, every: u64, panel: &Panel<'_>) -> Result<()> {
        let probe = &panel.probe;
        let levels =
            cx.tape.at_cadence(every, |tape| probe.contrast(tape, probe.clean, probe.clean, |_| vec![(0, 0.0)]))?;
        for (column, name) in COLUMNS.iter().enumerate() {
            cx.record(self, &format!("probe.{name}"), "", levels, column, vec![Label::NONE]);
        }
        cx.record(self, "probe.n", "", levels, 2 * OUTCOMES, vec![Label::NONE]);
        let Calibration { bins, errors: error, temperature, .. } = panel.calibration;
        cx.record(self, "probe.ece", "", error, 0, vec![Label::NONE]);
        cx.record(self, "probe.calibration", "", error, 1, vec![Label::NONE]);
        cx.record(self, "probe.reliability", "", bins, 0, Label::indices(0..3 * BINS as i32));
        cx.record_where(Presence::WhereKnown, self, "probe.temperature", "", temperature, 0, vec![Label::NONE]);
        Ok(())
    }

    /// Declares one column of contrasts to be a metric, and their errors that metric's `.se`.
    fn record_contrast(&self, cx: &mut Attach<'_>, name: &str, site: &str, column: usize, of: Var, labels: &[Label]) {
        let count = labels.len();
        cx.record(self, name, site, of, column * count, labels.to_vec());
        let (error, first) = (format!("{name}.se"), (OUTCOMES + column) * count);
        cx.record_where(Presence::WhereKnown, self, &error, site, of, first, labels.to_vec());
    }

    /// Declares what interventions change.
    fn record_effects(&self, cx: &mut Attach<'_>, site: &str, effects: Var, labels: &[Label]) {
        for (column, name) in COLUMNS.iter().enumerate() {
            self.record_contrast(cx, &format!("ablation.{name}"), site, column, effects, labels);
        }
    }

    /// Every baseline at every head of a layer or at an MLP block; for heads also the ways an effect takes,
    /// and the null.
    fn effects(&self, cx: &mut Attach<'_>, panel: &Panel<'_>, writers: &Writers) -> Result<()> {
        let gate_or_pair = |name: &str| name.contains(".gate.") || name.contains(".pair.");
        let Some(every) = self.every(cx, |name| name.starts_with("ablation.") && !gate_or_pair(name)) else {
            return Ok(());
        };
        let (probe, site, count) = (&panel.probe, writers.site.as_str(), writers.count);
        let zero: Vec<(Intervention, Label)> = each(writers, Baseline::Zero, 0).collect();
        let mut others: Vec<(Intervention, Label)> =
            each(writers, Baseline::Mean, 1).chain(each(writers, Baseline::Resample, 2)).collect();
        if count > 1 {
            let together = [Baseline::Zero, Baseline::Mean, Baseline::Resample].into_iter().zip(0..);
            others.extend(together.map(|(base, index)| (Intervention::all(count, base), layer_label(writers, index))));
        }

        // Zero ablation is looked at more closely than the others.
        let mut means = None;
        for (part, first) in zero.chunks(probe.chunk).zip((0..).step_by(probe.chunk)) {
            let (what, labels): (Vec<Intervention>, Vec<Label>) = part.iter().cloned().unzip();
            let (examples, effects, frozen, bins, moved) = cx.tape.at_cadence(every, |tape| {
                let changed = probe.under(tape, writers, &what, false)?;
                let rows = probe.rows_of(tape, changed.logits)?;
                let examples = probe.examples(tape, rows, None)?;
                means = Some(probe.means(tape, examples, means)?);
                let effects = probe.effects(tape, examples)?;
                let frozen = probe.model.logits_at_scale_of(tape, changed.last, &probe.pass.forward)?;
                let frozen = probe.rows_of(tape, frozen)?;
                let frozen = probe.examples(tape, frozen, None)?;
                let (after, before) = (Calibration::of(tape, probe, changed.logits, rows)?, panel.calibration);
                let moved = [
                    tape.push1(Effects, &[after.errors, before.errors])?,
                    tape.push1(Effects, &[after.temperature, before.temperature])?,
                    after.matched_error(tape, probe, before)?,
                ];
                Ok((examples, effects, frozen, after.bins, moved))
            })?;
            self.record_effects(cx, site, effects, &labels);
            let without: Vec<Label> = labels.iter().map(|label| Label { index: -1, ..*label }).collect();
            let names = [
                "ablation.ece",
                "ablation.calibration",
                "ablation.temperature",
                "ablation.matched_loss",
                "ablation.matched_loss.se",
            ];
            for (at, name) in names.into_iter().enumerate() {
                let (values, first) = (moved[at / 2], at % 2 * part.len());
                cx.record_where(Presence::WhereKnown, self, name, site, values, first, without.clone());
            }
            let cells = |label: &Label| {
                (0..3 * BINS as i32).map({
                    let label = *label;
                    move |index| Label { index, ..label }
                })
            };
            cx.record(self, "ablation.reliability", site, bins, 0, labels.iter().flat_map(cells).collect());

            if writers.heads {
                let ways = cx.tape.at_cadence(every, |tape| {
                    let direct = probe.direct(tape, writers, first..first + part.len())?;
                    let alone = probe.effects(tape, direct)?;
                    let mediated = probe.contrast(tape, examples, direct, |head| vec![(head, -1.0)])?;
                    let norm = probe.contrast(tape, examples, frozen, |head| vec![(head, -1.0)])?;
                    let repair = tape.push1(SelfRepair { heads: part.len() }, &[mediated, alone])?;
                    Ok(([alone, mediated, norm], repair))
                })?;
                let of = |index: i32| labels.iter().map(|label| Label { index, ..*label }).collect::<Vec<_>>();
                for (way, index) in ways.0.into_iter().zip(0..) {
                    self.record_contrast(cx, "ablation.path", site, column::LOGIT_DIFFERENCE, way, &of(index));
                }
                cx.record_where(Presence::WhereKnown, self, "ablation.path", site, ways.1, 0, of(3));
            }
        }
        let mut changed = changes(cx, every, probe, writers, &others, false)?;
        if writers.layer + 1 < probe.model.config.n_layers {
            let frozen: Vec<_> = each(writers, Baseline::Zero, 3).collect();
            changed.extend(changes(cx, every, probe, writers, &frozen, true)?);
        }
        for (effects, labels) in changed {
            self.record_effects(cx, site, effects, &labels);
        }

        if let (Some(every), Some(zeroed), true) =
            (self.null_every(cx), means, writers.heads && !panel.draws.is_empty())
        {
            let summary = cx.tape.at_cadence(every, |tape| {
                let null = subspaces::null(tape, probe, writers, &panel.draws)?;
                tape.push1(NullSummary { heads: count }, &[zeroed, null, probe.levels])
            })?;
            let labels = (0..4).flat_map(|of| (0..count).map(move |head| label(writers, head, of))).collect();
            cx.record(self, "ablation.p", site, summary, 0, labels);
            let labels = (0..6).map(|index| layer_label(writers, index)).collect();
            cx.record(self, "ablation.null", site, summary, 4 * count, labels);
        }
        Ok(())
    }

    /// Heads turned down and up, and removed in pairs.
    fn gates_and_pairs(&self, cx: &mut Attach<'_>, probe: &Probe<'_>, writers: &Writers) -> Result<()> {
        let (site, heads) = (writers.site.as_str(), writers.count);
        let logit_difference = column::LOGIT_DIFFERENCE;
        if let Some(every) = self.every(cx, |name| name.contains(".gate.")) {
            let gate = |(percent, head): (i32, usize)| {
                let share = 1.0 - percent as f32 / 100.0;
                (Intervention::one(head, heads, share, Baseline::Zero), label(writers, head, percent))
            };
            let gates = GATES.into_iter().flat_map(|percent| (0..heads).map(move |head| (percent, head)));
            let gates: Vec<(Intervention, Label)> = gates.map(gate).collect();
            for (effects, labels) in changes(cx, every, probe, writers, &gates, false)? {
                self.record_contrast(cx, "ablation.gate.loss", site, column::LOSS, effects, &labels);
                self.record_contrast(cx, "ablation.gate.logit_difference", site, logit_difference, effects, &labels);
            }
        }
        if let (Some(every), true) = (self.every(cx, |name| name.contains(".pair.")), heads > 1) {
            let pairs: Vec<[usize; 2]> = (0..heads).flat_map(|i| (i + 1..heads).map(move |j| [i, j])).collect();
            let both = |[i, j]: [usize; 2]| {
                let removed = (0..heads).map(|h| f32::from(u8::from(h == i || h == j))).collect();
                Intervention { removed, baseline: Baseline::Zero }
            };
            // The clean pass, and each head alone.
            let against = cx.tape.at_cadence(every, |tape| {
                let alone = Intervention::each(heads, Baseline::Zero);
                probe.outcomes(tape, writers, &alone, false, Some(probe.clean))
            })?;
            for (part, first) in pairs.chunks(probe.chunk).zip((0..).step_by(probe.chunk)) {
                let what: Vec<Intervention> = part.iter().copied().map(both).collect();
                let extra = cx.tape.at_cadence(every, |tape| {
                    let examples = probe.outcomes(tape, writers, &what, false, None)?;
                    let terms = |at: usize| vec![(0, 1.0), (1 + part[at][0], -1.0), (1 + part[at][1], -1.0)];
                    probe.contrast(tape, examples, against, terms)
                })?;
                let labels: Vec<Label> =
                    (first..first + part.len()).map(|pair| layer_label(writers, pair as i32)).collect();
                self.record_contrast(cx, "ablation.pair.loss", site, column::LOSS, extra, &labels);
                self.record_contrast(cx, "ablation.pair.logit_difference", site, logit_difference, extra, &labels);
            }
        }
        Ok(())
    }
}
