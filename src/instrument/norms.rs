//! Norms of weights, gradients and updates, tensor by tensor, from the optimizer's own pass.

use super::{Attach, Card, CostClass, Instrument, Label, Presence};
use crate::autograd::Var;
use crate::error::Result;

/// What an optimizer step leaves behind, each `[tensors]`.
pub struct UpdateNorms {
    /// Of the weights before the update.
    pub weight: Var,
    /// Of the gradients before clipping.
    pub grad: Var,
    /// Of what was added to the weights, decay included; 0 where nothing moved.
    pub update: Var,
}

impl UpdateNorms {
    /// Name of the instrument for which they are added up, beside the update.
    pub(crate) const INSTRUMENT: &str = "norms";
}

/// `weight_norm`, `grad_norm`, `update_norm`.
pub(super) struct TensorNorms;

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
    },
];

impl Instrument for TensorNorms {
    fn name(&self) -> &'static str {
        UpdateNorms::INSTRUMENT
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, _cx: &mut Attach<'_>) -> Result<()> {
        Ok(())
    }

    fn attach_to_update(&self, cx: &mut Attach<'_>, norms: &UpdateNorms) -> Result<()> {
        let sites: Vec<String> = cx.model.table.specs().iter().map(|spec| spec.name.clone()).collect();
        for (name, var, presence) in [
            ("weight_norm", norms.weight, Presence::Always),
            ("grad_norm", norms.grad, Presence::Always),
            ("update_norm", norms.update, Presence::InUpdates),
        ] {
            for (tensor, site) in sites.iter().enumerate() {
                let layer = layer_of(site);
                let label = vec![Label { layer, ..Label::NONE }];
                cx.record_where(presence, self, name, site, var, tensor, label);
            }
        }
        Ok(())
    }
}

/// Layer of `blocks.L.…`, else -1.
fn layer_of(site: &str) -> i32 {
    site.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or(-1)
}
