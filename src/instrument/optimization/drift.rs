//! How the weights drift: along themselves, which changes their norm, and at right angles, which turns them.
//! With r = `drift.radial` and o = `drift.orthogonal` the norm grows by the factor √((1 + r)² + o²) in a step.
//!
//! Tensors add up to a circuit, such as W_Q and b_Q, by n² = `weight_norm`²: r = Σ n² r / Σ n², the same for
//! `drift.radial_gradient`, and o² = Σ n² (r² + o²) / Σ n² - r² with the circuit's r behind the sum.

use crate::error::Result;
use crate::instrument::{Attach, Card, CostClass, Instrument, Presence, UpdateSummary};

/// `drift.radial`, `drift.radial_gradient`, `drift.orthogonal`.
pub(crate) struct Drift;

const CARDS: &[Card] = &[
    Card {
        name: "drift.radial",
        formula: "⟨w, Δw⟩ / ‖w‖² with Δw = w(t+1) - w(t)",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "-rate decay, what decoupled decay alone gives; -drift.orthogonal²/2 where the norm stands still",
        source: "radial part of the update; half-life ln 2 / (rate decay) of decay alone",
        not_for: "tensors that begin at 0, such as biases; norms added up over tensors without weight_norm²",
        ..Card::BASE
    },
    Card {
        name: "drift.radial_gradient",
        formula: "⟨w, p⟩ / ‖w‖² with p = the step without decay (AdamW) or -rate g, clipped (Adam, SGD)",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "rate decay, what holds the weights against decay; for AdamW drift.radial is this less rate decay, but for rounding of w",
        source: "force balance along w; see decay_cosine for its direction",
        not_for: "Adam, and SGD with momentum, as a part of drift.radial: their moments mix decay and older gradients in",
        ..Card::BASE
    },
    Card {
        name: "drift.orthogonal",
        formula: "‖Δw - r w‖ / ‖w‖ with r = drift.radial; w turns by the angle arctan(this / (1 + r))",
        unit: "1",
        axes: "site: tensor",
        cost: CostClass::F,
        every: 1,
        control: "update_ratio, which holds drift.radial too; decay contributes nothing",
        source: "definition; angular update of Wan et al. 2021",
        not_for: "angle travelled over many steps, which may undo each other; what is below 1e-3 of the step: that is rounding, and has no row",
        bounds: Card::SIZE,
        ..Card::BASE
    },
];

impl Instrument for Drift {
    fn name(&self) -> &'static str {
        "drift"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach_to_update(&self, cx: &mut Attach<'_>, summary: &UpdateSummary) -> Result<()> {
        for (name, column) in [
            ("drift.radial", UpdateSummary::RADIAL),
            ("drift.radial_gradient", UpdateSummary::RADIAL_GRADIENT),
            ("drift.orthogonal", UpdateSummary::ORTHOGONAL),
        ] {
            cx.record_column(Presence::InUpdates, self, name, summary.tensors, column);
        }
        Ok(())
    }
}
