//! Norms of weights, gradients and updates, tensor by tensor, from the optimizer's own pass.

use crate::autograd::Var;
use crate::error::Result;
use crate::instrument::{Attach, Card, CostClass, Instrument, Label, Presence};

/// What an optimizer step leaves behind.
pub struct UpdateSummary {
    /// [tensors, [`UpdateSummary::COLUMNS`]]. All but the first two are 0 where nothing moved.
    pub tensors: Var,
    /// The same of the weights alone, without gradients where nothing is trained: only the first column counts.
    pub weights: Var,
    /// Whether the optimizer divides by the root of a second moment.
    pub adaptive: bool,
    /// Where gradients are scaled: by what in this step, `[1]`.
    pub loss_scale: Option<Var>,
}

impl UpdateSummary {
    /// Norm of the weights before the update.
    pub const WEIGHT_NORM: usize = 0;
    /// Norm of the gradient before clipping.
    pub const GRAD_NORM: usize = 1;
    /// Norm of what was added to the weights, decay included.
    pub const UPDATE_NORM: usize = 2;
    /// The latter by the norm of the weights.
    pub const UPDATE_RATIO: usize = 3;
    /// Root mean square of the step, decoupled decay excluded.
    pub const STEP_SIZE: usize = 4;
    /// Norm of decay's part, by the sum of the norms of decay's and the gradient's.
    pub const DECAY_SHARE: usize = 5;
    /// Cosine between decay's part and the gradient's.
    pub const DECAY_COSINE: usize = 6;
    /// Gradient times update.
    pub const LOSS_CHANGE: usize = 7;
    /// Share of parameters whose root of the second moment lies below eps.
    pub const EPSILON_SHARE: usize = 8;
    /// Weights times update, by the square of the weights' norm.
    pub const RADIAL: usize = 9;
    /// Weights times the gradient's part, by the same.
    pub const RADIAL_GRADIENT: usize = 10;
    /// Norm of what of the update is at right angles to the weights, by the weights' norm.
    pub const ORTHOGONAL: usize = 11;
    /// Numbers of each tensor.
    pub const COLUMNS: usize = 12;
}

impl Attach<'_> {
    /// Records one column of an update's summary for each tensor.
    pub(crate) fn record_column(
        &mut self,
        presence: Presence,
        instrument: &dyn Instrument,
        name: &str,
        tensors: Var,
        column: usize,
    ) {
        let sites: Vec<String> = self.model.table.specs().iter().map(|spec| spec.name.clone()).collect();
        for (tensor, site) in sites.iter().enumerate() {
            let label = vec![Label { layer: layer_of(site), ..Label::NONE }];
            let at = tensor * UpdateSummary::COLUMNS + column;
            self.record_where(presence, instrument, name, site, tensors, at, label);
        }
    }
}

/// `weight_norm`, `grad_norm`, `update_norm`.
pub(crate) struct TensorNorms;

const CARDS: &[Card] = &[
    Card {
        name: "weight_norm",
        formula: "‖w‖ before the update",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "decay alone shrinks it by the factor (1 - rate decay) a step: half-life 693 steps at rate 0.001, decay 1",
        source: "Loshchilov and Hutter 2019; Omnigrok (Liu et al. 2023)",
        not_for: "telling circuits apart: all heads of a layer share a tensor",
        bounds: Card::SIZE,
        ..Card::BASE
    },
    Card {
        name: "grad_norm",
        formula: "‖∂L/∂w‖ before clipping",
        unit: "nats",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "the loss itself: late in training both fall together",
        source: "definition",
        not_for: "noise: a full batch has none, and one batch cannot tell noise from signal",
        bounds: Card::SIZE,
        gradients: true,
        ..Card::BASE
    },
    Card {
        name: "update_norm",
        formula: "‖w(t+1) - w(t)‖, decay included",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "rate decay ‖w‖, the part that decay alone contributes",
        source: "definition",
        not_for: "distance travelled: steps may undo each other",
        bounds: Card::SIZE,
        ..Card::BASE
    },
];

impl Instrument for TensorNorms {
    fn name(&self) -> &'static str {
        "norms"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach_to_update(&self, cx: &mut Attach<'_>, summary: &UpdateSummary) -> Result<()> {
        let UpdateSummary { tensors, weights, .. } = *summary;
        for (name, presence, of, column) in [
            ("weight_norm", Presence::Always, weights, UpdateSummary::WEIGHT_NORM),
            ("grad_norm", Presence::Always, tensors, UpdateSummary::GRAD_NORM),
            ("update_norm", Presence::InUpdates, tensors, UpdateSummary::UPDATE_NORM),
        ] {
            cx.record_column(presence, self, name, of, column);
        }
        Ok(())
    }
}

/// Layer of `blocks.L.…`, else -1.
pub(crate) fn layer_of(site: &str) -> i32 {
    site.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or(-1)
}
