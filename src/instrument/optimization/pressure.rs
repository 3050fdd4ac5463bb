//! What pushes the weights: the optimizer's step, decay against gradient, and the loss they should change.

use crate::error::Result;
use crate::instrument::{Attach, Card, Chance, CostClass, Instrument, Label, Presence, UpdateSummary};

/// `update_ratio`, `step_size`, `epsilon_share`, `decay_share`, `decay_cosine`, `loss_change.predicted`,
/// `loss_scale`.
pub(crate) struct Pressure;

const CARDS: &[Card] = &[
    Card {
        name: "update_ratio",
        formula: "‖w(t+1) - w(t)‖ / ‖w(t)‖, decay included",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "rate times decay, what decay alone gives",
        source: "definition; about 1e-3 is a rule of thumb",
        not_for: "tensors that begin at 0, such as biases",
        bounds: Card::SIZE,
        ..Card::BASE
    },
    Card {
        name: "step_size",
        formula: "√ mean over parameters of (size m / (√v̂ + eps))², decoupled decay excluded",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "the learning rate: Adam's step for a gradient that never changes; far below it gradients change sign",
        source: "Kingma and Ba 2015",
        not_for: "Adam and SGD with decay, where decay is part of the step and cannot be taken out",
        bounds: Card::SIZE,
        ..Card::BASE
    },
    Card {
        name: "epsilon_share",
        formula: "share of parameters with √v̂ < eps",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "0 while gradients are large; parameters that never had a gradient, as rows of absent tokens, count",
        source: "definition, for Adam and AdamW",
        not_for: "SGD, which has no eps",
        bounds: Card::SHARE,
        ..Card::BASE
    },
    Card {
        name: "decay_share",
        formula: "‖d‖ / (‖d‖ + ‖p‖) with d = -rate decay w, and p = the step without decay (AdamW) or -rate g, clipped (Adam, SGD)",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "1 for decay alone, 0 without decay, 1/2 where the two are equally strong; their ratio is s / (1 - s)",
        source: "force balance; sizes alone, for directions see decay_cosine",
        not_for: "equilibrium: forces of one size need not oppose each other",
        bounds: Card::SHARE,
        chance: Some(Chance::At(0.5)),
        ..Card::BASE
    },
    Card {
        name: "decay_cosine",
        formula: "⟨d, p⟩ / (‖d‖ ‖p‖) with d = -w and p as in decay_share",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "-1: the gradient holds against decay; 1: it shrinks the weights too; 0 also where nothing pushes",
        source: "radial part of the step; defined without decay too",
        not_for: "large tensors without a guess of what chance gives: ±1/√parameters",
        bounds: Card::COSINE,
        chance: Some(Chance::At(0.0)),
        ..Card::BASE
    },
    Card {
        name: "loss_change.predicted",
        formula: "⟨g, w(t+1) - w(t)⟩ with g = ∂L/∂w before clipping; summed over tensors it is the change to first order",
        unit: "nats",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "what is realized on a full batch: loss.train of the next step less that of this one, equal up to curvature times ‖Δw‖²",
        source: "loss change allocation, Lan et al. 2019, to first order",
        not_for: "drawn batches, where the next loss is of other examples; steps large enough for curvature",
        ..Card::BASE
    },
    Card {
        name: "loss_scale",
        formula: "what the loss's gradient is multiplied by before products in f16; half of it in the next step where a gradient was not finite",
        unit: "1",
        axes: "none",
        cost: CostClass::F,
        every: 1,
        control: "stays the same: the step before each halving moved no weight",
        source: "loss scaling, Micikevicius et al. 2018; it never grows again here",
        not_for: "precision f32 and f16-forward, which scale nothing and have no rows",
        bounds: Card::SIZE,
        ..Card::BASE
    },
];

impl Instrument for Pressure {
    fn name(&self) -> &'static str {
        "pressure"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach_to_update(&self, cx: &mut Attach<'_>, summary: &UpdateSummary) -> Result<()> {
        for (name, column) in [
            ("update_ratio", UpdateSummary::UPDATE_RATIO),
            ("step_size", UpdateSummary::STEP_SIZE),
            ("epsilon_share", UpdateSummary::EPSILON_SHARE),
            ("decay_share", UpdateSummary::DECAY_SHARE),
            ("decay_cosine", UpdateSummary::DECAY_COSINE),
            ("loss_change.predicted", UpdateSummary::LOSS_CHANGE),
        ] {
            if summary.adaptive || name != "epsilon_share" {
                cx.record_column(Presence::InUpdates, self, name, summary.tensors, column);
            }
        }
        if let Some(scale) = summary.loss_scale {
            cx.record_where(Presence::InUpdates, self, "loss_scale", "", scale, 0, vec![Label::NONE]);
        }
        Ok(())
    }
}
