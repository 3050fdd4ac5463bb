//! What the numbers of a scan are.

use crate::instrument::{Card, Chance, CostClass, Index};
use crate::record::{Catalog, Described};

use super::findings::Measure;
use super::{Calibration, Direction};

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

/// In the order of [`Calibration::NAMES`].
const CHOICE: [Card; Calibration::NAMES.len()] = [
    Card { name: "accuracy", formula: "share of prompts with d > 0", ..OF_CHOICE },
    Card { name: "nll", formula: "mean of ln(1 + e^-d)", unit: "nats", ..OF_CHOICE },
    Card { name: "brier", formula: "mean of σ(-d)²", ..OF_CHOICE },
    Card {
        name: "ece",
        formula: "Σ_b n_b/N |right_b - sure_b| over bins b of equal mass, up to 15 of 10 prompts or more",
        not_for: "few prompts: it is above 0 for calibrated choices too; take reliability",
        source: "definition",
        ..OF_CHOICE
    },
    Card {
        name: "reliability",
        formula: "Σ_b n_b/N ((right_b - sure_b)² - right_b (1 - right_b)/(n_b - 1))",
        source: "Murphy 1973; freed from its bias as Kumar, Liang and Ma 2019, Bröcker 2012",
        ..OF_CHOICE
    },
    Card {
        name: "resolution",
        formula: "Σ_b n_b/N ((right_b - right)² - right_b (1 - right_b)/(n_b - 1)) + right (1 - right)/(N - 1); brier = reliability - resolution + right (1 - right) N/(N - 1), but for what sureness varies by within bins",
        source: "Murphy 1973; freed from its bias as Bröcker 2012",
        ..OF_CHOICE
    },
    Card {
        name: "temperature",
        formula: "T within [1/32, 32] at which the mean of ln(1 + e^(-d/T)) is least; no row where that is at a bound, as where all are right",
        ..OF_CHOICE
    },
    Card {
        name: "matched.nll",
        formula: "nll at that T: a change is more than another temperature",
        unit: "nats",
        ..OF_CHOICE
    },
    Card { name: "matched.brier", formula: "brier at that T", ..OF_CHOICE },
    Card { name: "matched.reliability", formula: "reliability at that T; resolution is the same at any", ..OF_CHOICE },
];
const OF_CHOICE: Card = Card {
    control: "its .se; at the best temperature (matched), what is left is no matter of how large logits are",
    source: "definition; right and wrong are those of the probe file, d = z_target - z_foil, sure = σ(|d|)",
    not_for: "the whole vocabulary: it is about the choice between two answers",
    ..EFFECT
};
const OF_BLOCKS: &str = "standard error by the jackknife over 20 blocks of groups of prompts (or as many as there are), ablated and clean with the same block left out: √((b - 1)/b Σ (θ_i - mean θ)²)";

const DIRECT: Card = Card {
    name: "scan.direct",
    formula: "⟨written, u⟩ where the prompt ends, in the clean pass: u = w (W_U,target - W_U,foil)/scale of the final norm, centred where it centres. Over all heads, MLP blocks and scan.direct.rest it adds up to scan.clean.logit_difference",
    unit: "logits",
    axes: "site: hook_result or hook_mlp_out, layer, head (-1: the MLP block)",
    control: "scan.logit_difference: ablating it takes its direct part away, and changes what later layers make of it",
    source: "direct logit attribution (TransformerLens), the scale held at the clean pass's",
    not_for: "what a head does in all: early heads act through what reads them",
    chance: None,
    index: Index::None,
    ..EFFECT
};
const REST: Card = Card {
    name: "scan.direct.rest",
    formula: "the same of embeddings and of all biases that no MLP block adds",
    axes: "none",
    ..DIRECT
};
const PAIR: Card = Card {
    name: "scan.pair",
    formula: "change of the mean over groups of z_target - z_foil with both heads ablated in one pass",
    unit: "logits",
    axes: "site: hook_result, layer, head: the one, index: the other",
    control: "scan.pair.synergy",
    index: Index::Counts("other head"),
    ..EFFECT
};
const SYNERGY: Card = Card {
    name: "scan.pair.synergy",
    formula: "scan.pair less the sum of both heads' scan.logit_difference, prompt by prompt",
    control: "its .se and .q; 0: neither depends on the other",
    source: "definition; I_ij = Δ_ij - Δ_i - Δ_j",
    ..PAIR
};
const SET: Card = Card {
    name: "scan.set",
    formula: "change of the mean over groups of z_target - z_foil with all heads of the set ablated in one pass",
    axes: "site: the heads, index: number of the set",
    index: Index::Counts("set"),
    control: "scan.set.null: other sets, as many heads of the same layers",
    ..PAIR
};
const OF_SET: Card = Card {
    name: "scan.set.synergy",
    formula: "scan.set less the sum of what each of its heads does ablated alone, prompt by prompt",
    control: "its .se and .q",
    source: "definition",
    ..SET
};
const SET_NULL: Card = Card {
    name: "scan.set.null",
    formula: "scan.set of another set of as many heads of the same layers; all there are, or as many drawn ones as asked for",
    axes: "head: number of the set, index: draw",
    index: Index::Counts("draw"),
    control: "it is the control",
    chance: None,
    ..SET
};
const SET_NULL_P: Card = Card {
    name: "scan.set.null.p",
    formula: "two-sided (1 + #{null beyond effect})/(N + 1) of scan.set among scan.set.null; with few other sets it cannot be small",
    unit: "1",
    bounds: Card::SHARE,
    chance: None,
    ..SET
};
const BETWEEN: Card = Card {
    name: "scan.patch.between",
    formula: "mean over groups of z_target - z_foil of the prompt less that of its corrupted prompt",
    unit: "logits",
    axes: "none",
    control: "its .se: prompts that do not differ beyond it are refused",
    chance: None,
    index: Index::None,
    ..EFFECT
};
const RESTORED: Card = Card {
    name: "scan.patch.restored",
    formula: "corrupted prompt with one activation of the prompt: mean over groups of what that adds to z_target - z_foil, by mean of scan.patch.between over the same groups",
    axes: "site: hook_resid_post, index: the one place that is patched, counted back from the last token, 0; -1: the last place at which the two prompts differ. Or site: hook_result, head, at all places. The last layer's stream is left out: where it is read it is the other prompt's by construction",
    control: "places before the two prompts differ, 0; its .se, to first order, and .q among all places or heads",
    source: "activation patching (denoising); ratio of means after Cochran 1977, section 6.4",
    not_for: "adding up: several places may carry the same, and one alone may not be enough",
    index: Index::Counts("place from the end"),
    ..EFFECT
};
const LOST: Card = Card {
    name: "scan.patch.lost",
    formula: "prompt with one activation of the corrupted prompt: mean over groups of what that takes from z_target - z_foil, by mean of scan.patch.between over the same groups",
    source: "activation patching (noising)",
    ..RESTORED
};
const TOTAL: Card = Card {
    name: "scan.path.total",
    formula: "change of the mean over groups of z_target - z_foil where what a head writes is replaced at all positions: scan.path.direct + the sum of scan.path.layer over layers, to the last digit; and scan.path.direct + the sum of scan.path.reader + scan.path.rest",
    unit: "logits",
    axes: "site: the head, layer, head, index: in which prompts and by what",
    control: "its .se; another head of its layer; the sham, which has the bits of the clean pass",
    source: "path patching: Wang et al. 2023, Goldowsky-Dill et al. 2023",
    not_for: "what a head does when nothing is replaced",
    index: Index::Names(Direction::NAMES),
    ..EFFECT
};
const STRAIGHT: Card = Card {
    name: "scan.path.direct",
    formula: "the same where only the end of the stream, before the final norm, has what the head's writing changed by",
    ..TOTAL
};
const BY_LAYER: Card = Card {
    name: "scan.path.layer",
    formula: "what changes where the layers up to this one read the head's change, and the end of the stream has it, less the same with the layers below only",
    axes: "site: the head -> the layer that reads, layer, index: in which prompts and by what",
    control: "the sum of the layer's readers alone; where readers depend on each other the order, from below, matters",
    ..TOTAL
};
const BY_READER: Card = Card {
    name: "scan.path.reader",
    formula: "the same where one head's queries, keys or values, or one MLP block, read the head's change, and nothing else does; all above sees what that makes of it",
    axes: "site: the head -> hook_q_input, hook_k_input, hook_v_input or hook_mlp_in, layer and head that read, index: in which prompts and by what",
    control: "its .se, .p and .q among all readers of all heads followed; scan.path.rest",
    not_for: "adding up: what is left is scan.path.rest",
    ..TOTAL
};
const REST_OF_PATHS: Card = Card {
    name: "scan.path.rest",
    formula: "scan.path.total less scan.path.direct less the sum of scan.path.reader; 0 where readers do not depend on each other",
    ..TOTAL
};
const REPEATED: Card = Card {
    name: "scan.repeated.induction",
    formula: "mean of A_i,j+1 over queries i whose token stood before, at j",
    axes: "site: hook_pattern, layer, head with index 0; head -1 with index 1: uniform attention",
    control: "index 1: what attention spread evenly over the visible keys would score on the same queries",
    source: "Olsson et al. 2022 (prefix matching); TransformerLens's detectors; on up to 64 random tokens, all different, that come twice behind token 0",
    not_for: "natural text, and what a head writes: looking is not copying",
    chance: None,
    index: Index::Names(&["head", "even attention"]),
    bounds: Card::SHARE,
    ..EFFECT
};
const SCORES: [Card; 4] = [
    REPEATED,
    Card { name: "scan.repeated.previous_token", formula: "mean of A_i,i-1 over queries i ≥ 1", ..REPEATED },
    Card {
        name: "scan.repeated.duplicate_token",
        formula: "mean of A_i,j over queries i whose token stood before, at j",
        ..REPEATED
    },
    Card {
        name: "scan.repeated.loss",
        formula: "mean cross-entropy of the tokens of a round",
        unit: "nats",
        axes: "index: the round, 0 or 1",
        index: Index::Counts("round"),
        control: "round 0, where nothing can be known",
        source: "Olsson et al. 2022",
        bounds: Card::SIZE,
        ..REPEATED
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
    let error_by = |formula: &'static str| {
        move |described: &mut Described| {
            formula.clone_into(&mut described.formula);
            (described.chance, described.bounds) = (None, [Some(0.0), None]);
        }
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
    for card in &MEASURES {
        // What compares with the clean pass has no value there.
        let compares = card.chance.is_none();
        add(format!("scan.{}", card.name), card, &|described| {
            if !compares {
                described.formula = format!("change of the mean over groups of: {}", card.formula);
            }
        });
        add(format!("scan.{}.se", card.name), card, &error_by(ERROR));
        if !compares {
            add(format!("scan.clean.{}", card.name), card, &of_clean);
            add(format!("scan.clean.{}.se", card.name), card, &|described| {
                of_clean(described);
                error_by(ERROR)(described);
            });
        }
    }
    for (card, name) in CHOICE.iter().zip(Calibration::NAMES) {
        for (prefix, clean) in [("scan.choice", false), ("scan.clean.choice", true)] {
            let change = |described: &mut Described| {
                if clean {
                    of_clean(described);
                } else {
                    described.formula = format!("change of: {}", card.formula);
                }
            };
            add(format!("{prefix}.{name}"), card, &change);
            add(format!("{prefix}.{name}.se"), card, &|described| {
                change(described);
                error_by(OF_BLOCKS)(described);
            });
        }
    }
    for card in [&STRAIGHT, &BY_LAYER, &BY_READER, &REST_OF_PATHS] {
        let name = format!("{}.share", card.name);
        add(name.clone(), card, &|described| {
            described.formula = format!(
                "{} by scan.path.total, as a ratio of means over groups; no row where that is 0 within its error",
                card.name
            );
            "1".clone_into(&mut described.unit);
            described.source = "ratio of means after Cochran 1977, section 6.4".to_owned();
        });
        add(format!("{name}.se"), card, &error_by("standard error of a ratio of means over groups, to first order"));
    }
    for card in [&TOTAL, &STRAIGHT, &BY_LAYER, &BY_READER, &REST_OF_PATHS] {
        add(card.name.to_owned(), card, &|_| ());
        add(format!("{}.se", card.name), card, &error_by(ERROR));
    }
    for card in [&DIRECT, &REST, &PAIR, &SYNERGY, &SET, &OF_SET, &BETWEEN, &RESTORED, &LOST] {
        add(card.name.to_owned(), card, &|_| ());
        add(format!("{}.se", card.name), card, &error_by(ERROR));
    }
    for card in [&SYNERGY, &OF_SET, &RESTORED, &LOST, &BY_READER] {
        let name = card.name;
        let p = format!("two-sided p of {name} being 0: Student's t over groups");
        let q = format!(
            "the least rate of false discoveries at which {name}.p is one, among all of its kind that were tried"
        );
        for (what, formula) in [("p", p), ("q", q)] {
            add(format!("{name}.{what}"), card, &|described| {
                described.formula.clone_from(&formula);
                (described.unit, described.chance, described.bounds) = ("1".to_owned(), None, [Some(0.0), Some(1.0)]);
            });
        }
    }
    for card in OTHERS.iter().chain(&SCORES).chain([&SET_NULL, &SET_NULL_P]) {
        add(card.name.to_owned(), card, &|_| ());
    }
    all
}
