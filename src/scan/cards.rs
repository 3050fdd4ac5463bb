//! What the numbers of a scan are.

use crate::instrument::{Card, Chance, CostClass, Index};
use crate::record::{Catalog, Described};

use super::findings::Measure;

/// Names of the baselines, by index.
pub const BASELINES: &[&str] = &["zero", "mean", "resample"];

const EFFECT: Card = Card {
    axes: "site: hook_result or hook_mlp_out, layer, head (-1: the MLP block), index: 0 zero, 1 mean over all tokens of all prompts, 2 resample (the next prompt's)",
    cost: CostClass::M,
    control: "its .se, and scan.null.p: whether it is more than a share of its layer; the sham, which has the bits of the clean pass",
    source: "TransformerLens's definitions of zero, mean and resample ablation",
    not_for: "telling what a head does when nothing is ablated, or what several do together; baselines rank heads differently",
    chance: Some(Chance::At(0.0)),
    index: Index::Names(BASELINES),
    ..Card::BASE
};
const CHANGE: Card = Card { chance: None, bounds: Card::SIZE, ..EFFECT };
const ERROR: &str = "standard error of a mean over groups of prompts, each group the mean of its prompts, paired with the clean pass: √(Σ (d_g - mean)²/(G - 1)/G), and at least what f32 can tell";

const LOSS: Card = Card {
    name: "loss",
    formula: "cross-entropy of the target, which is minus its log-probability",
    unit: "nats",
    ..EFFECT
};
const LOGIT_DIFFERENCE: Card =
    Card { name: "logit_difference", formula: "z_target - z_foil", unit: "logits", ..EFFECT };
const ACCURACY: Card =
    Card { name: "accuracy", formula: "share of prompts whose target's logit exceeds every other", ..EFFECT };
const KL: Card = Card { name: "kl", formula: "KL(clean, ablated) over the vocabulary", unit: "nats", ..CHANGE };
const ARGMAX: Card =
    Card { name: "argmax_changed", formula: "share of prompts with another most likely token", ..CHANGE };
const ENTROPY: Card = Card { name: "entropy", formula: "entropy of the prediction", unit: "nats", ..EFFECT };
const BRIER: Card = Card { name: "brier", formula: "Σ_v (p_v - 1_{v = target})²", ..EFFECT };
/// In the order of [`crate::intervene::column`].
const MEASURES: [Card; Measure::COUNT] = [LOSS, LOGIT_DIFFERENCE, ACCURACY, KL, ARGMAX, ENTROPY, BRIER];

const P: Card = Card {
    name: "scan.p",
    formula: "two-sided p of scan.logit_difference being 0: Student's t over groups",
    control: "uniform on an untrained model with random answers",
    source: "Student 1908",
    bounds: Card::SHARE,
    chance: None,
    not_for: "many heads: take scan.q",
    ..EFFECT
};
const OTHERS: [Card; 4] = [
    P,
    Card {
        name: "scan.q",
        formula: "the least rate of false discoveries at which scan.p is one, among all heads (all MLP blocks) that were tried",
        source: "Benjamini and Hochberg 1995, adjusted p",
        not_for: "whether a head is more than its share of its layer",
        ..P
    },
    Card {
        name: "scan.null.p",
        formula: "two-sided (1 + #{null beyond effect})/(N + 1) of scan.logit_difference, where the null takes away random K-dimensional subspaces of what the layer's heads write",
        control: "uniform on an untrained model",
        source: "definition; add-one p-values after Davison and Hinkley 1997",
        not_for: "whether a head matters: of heads that matter alike none is beyond its layer's average; corrections for many heads, unless there are many draws",
        ..P
    },
    Card {
        name: "scan.null",
        formula: "scan.logit_difference of each draw of the null",
        unit: "logits",
        axes: "site: hook_result, layer, index: draw",
        control: "it is the control",
        index: Index::Counts("draw"),
        chance: None,
        ..EFFECT
    },
];

/// `metrics.json` of a scan.
pub fn catalog(classes: usize) -> Catalog {
    let mut all = Catalog { classes, ..Catalog::default() };
    let mut add = |name: String, card: &Card, change: &dyn Fn(&mut Described)| {
        let mut described = Described::new("scan", card, 1, [classes; 2], false);
        change(&mut described);
        all.metrics.insert(name, described);
    };
    for card in &MEASURES {
        // What compares with the clean pass has no value there.
        let compares = card.chance.is_none();
        let error_of = |described: &mut Described| {
            ERROR.clone_into(&mut described.formula);
            (described.chance, described.bounds) = (None, [Some(0.0), None]);
        };
        let of_clean = |described: &mut Described| {
            *described = Described {
                axes: "none".to_owned(),
                index: Vec::new(),
                counts: String::new(),
                chance: None,
                ..described.clone()
            };
        };
        add(format!("scan.{}", card.name), card, &|described| {
            if !compares {
                described.formula = format!("change of the mean over groups of: {}", card.formula);
            }
        });
        add(format!("scan.{}.se", card.name), card, &error_of);
        if !compares {
            add(format!("scan.clean.{}", card.name), card, &of_clean);
            add(format!("scan.clean.{}.se", card.name), card, &|described| {
                of_clean(described);
                error_of(described);
            });
        }
    }
    for card in &OTHERS {
        add(card.name.to_owned(), card, &|_| ());
    }
    all
}
