//! What the report shows: topics, and in each the charts that are put together by hand. Metrics that none of them shows
//! have charts of their own, made from their cards alone.

use crate::record::Key;

/// Charts that answer one question.
pub(super) struct Topic {
    pub(super) title: &'static str,
    /// How to read it, in a sentence or two.
    pub(super) note: &'static str,
    /// The same of a model that was measured once, where steps have no place; empty for the same.
    pub(super) once: &'static str,
    pub(super) charts: &'static [Chart],
}

type Select = fn(&Key, &str) -> Option<String>;

/// One chart on the shared step axis.
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// Name of its table.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The name under which the chart shows a series, if it does; the second is what its index is called.
    pub(super) select: Select,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Lines,
    LogLines,
    /// Colour by value over step and index.
    Heat,
    /// A mark where a flag is set, over step and index.
    Flags,
    /// Births, deaths and flips.
    Marks,
    /// One small chart for each head, with the null's band.
    Heads,
}

const fn chart(name: &'static str, kind: Kind, title: &'static str, select: Select) -> Chart {
    Chart { title, name, kind, select }
}

/// Series that are one number: the metric's own name, or that of the index.
fn own_name(key: &Key, metrics: &[&str]) -> Option<String> {
    (metrics.contains(&key.metric.as_str()) && key.index <= 0).then(|| key.metric.clone())
}

fn by_site(key: &Key, metric: &str) -> Option<String> {
    (key.metric == metric).then(|| key.site.clone())
}

fn by_index(key: &Key, metric: &str, names: &[&str]) -> Option<String> {
    let name = || names.get(usize::try_from(key.index).ok()?).map(|name| (*name).to_owned());
    if key.metric == metric { name().filter(|name| !name.is_empty()) } else { None }
}

/// A number of a layer.
fn by_layer(key: &Key, metric: &str, index: i32, name: &str) -> Option<String> {
    (key.metric == metric && key.index == index).then(|| format!("L{} {name}", key.layer))
}

fn by_head(key: &Key, metric: &str) -> Option<String> {
    (key.metric == metric && key.head >= 0 && key.index <= 0).then(|| format!("L{} H{}", key.layer, key.head))
}

/// The same, and the score of uniform attention, which stands at head -1 under index 1.
fn by_head_or_uniform(key: &Key, metric: &str) -> Option<String> {
    let uniform = key.metric == metric && key.head < 0 && key.index == 1 && key.layer <= 0;
    if uniform { Some(UNIFORM.to_owned()) } else { by_head(key, metric) }
}

/// Name of the level that heads are compared with.
const UNIFORM: &str = "uniform attention";
/// What names of levels begin with that pairs of heads are compared with.
const UNTRAINED: &str = "untrained heads";

/// Whether a series of that name is what others are compared with, to be drawn in grey and dashed.
pub(super) fn is_level(name: &str) -> bool {
    name == UNIFORM || name.starts_with(UNTRAINED)
}

/// Heads, and the MLP.
fn by_part(key: &Key, metric: &str) -> Option<String> {
    let part = if key.site.ends_with("hook_mlp_out") { "MLP".to_owned() } else { format!("H{}", key.head) };
    let shown = key.metric == metric && key.index <= 0 && (key.head >= 0 || part == "MLP");
    shown.then(|| format!("L{} {part}", key.layer))
}

/// A debiased calibration error of the probe, or of what ablation changes.
fn debiased(key: &Key, of: &str) -> bool {
    key.metric == super::derived::DEBIASED && key.site.starts_with(of)
}

/// A circuit of a layer.
fn circuit(key: &Key) -> String {
    let name = ["QK", "OV"].into_iter().find(|name| key.site.ends_with(&format!(".{name}")));
    format!("L{}{}", key.layer, name.map_or(String::new(), |name| format!(" {name}")))
}

/// A pair of heads.
fn by_pair(key: &Key, metric: &str, pair: &str) -> Option<String> {
    (key.metric == metric).then(|| format!("{} {pair}", circuit(key)))
}

/// An end of the band of untrained heads.
fn by_untrained(key: &Key) -> Option<String> {
    let end = if key.index == 0 { "low" } else { "high" };
    (key.metric == super::derived::UNTRAINED).then(|| format!("{UNTRAINED} {} {end}", circuit(key)))
}

/// Tensors, or their heads where a tensor has rows by head.
fn by_tensor_and_head(key: &Key, metric: &str) -> Option<String> {
    let site = key.site.strip_prefix("blocks.").unwrap_or(&key.site);
    let head = if key.head >= 0 { format!(" H{}", key.head) } else { String::new() };
    (key.metric == metric).then(|| format!("{site}{head}"))
}

pub(super) const TOPICS: &[Topic] = &[
    Topic {
        title: "Loss and accuracy",
        note: "Memorizing is train accuracy without test accuracy; grokking is test accuracy that follows much later.",
        once: "How well the model does.",
        charts: &[
            chart("loss", Kind::LogLines, "Loss", |key, _| own_name(key, &["loss.train", "loss.test"])),
            chart("accuracy", Kind::Lines, "Accuracy", |key, _| own_name(key, &["accuracy.train", "accuracy.test"])),
            chart(
                "margin",
                Kind::Lines,
                "Margin on the test set: how far the right logit exceeds the best other",
                |key, _| by_index(key, "margin.test", &["min", "mean", "max"]),
            ),
            chart("marks", Kind::Marks, "Births, deaths and flips of keys and heads", |_, _| None),
        ],
    },
    Topic {
        title: "Grokking circuits",
        note: "Restricted loss keeps only the key frequencies of the logits, excluded loss removes them: a circuit is complete where the first is low, and in use where the second is high.",
        once: "",
        charts: &[
            chart("circuit_loss", Kind::LogLines, "Restricted and excluded loss, beside the train loss", |key, _| {
                own_name(key, &["loss.restricted", "loss.excluded", "loss.excluded.max", "loss.train"])
            }),
            chart("key_count", Kind::Lines, "Number of key frequencies, by rule", |key, _| {
                by_site(key, super::derived::KEY_COUNT)
            }),
            chart("keys", Kind::Flags, "Which frequencies are key", |key, _| match key.metric.as_str() {
                "key_frequencies" => Some("W_E: norm above a quarter of the largest".to_owned()),
                "key_frequencies.logits" => Some("logits: more than 1 % of the power".to_owned()),
                _ => None,
            }),
            chart("fourier_w_e", Kind::Heat, "Frequencies in the embedding W_E", |key, _| {
                (key.metric == "fourier_norm" && key.site == "embed.W_E").then(String::new)
            }),
            chart("fourier_w_l", Kind::Heat, "Frequencies in W_L = W_out W_U", |key, _| {
                (key.metric == "fourier_norm" && key.site == "W_L").then(String::new)
            }),
            chart("gini", Kind::Lines, "Sparsity of the spectra", |key, _| by_site(key, "gini")),
            chart("irreps", Kind::LogLines, "Power by irreducible representation, logits", |key, _| {
                (key.metric == "irrep_power" && key.site == "logits").then(|| format!("irrep {}", key.index))
            }),
            chart(
                "fsd",
                Kind::Lines,
                "Frequency synchronization of neurons, and share that follows one frequency",
                |key, _| {
                    by_layer(key, "fsd", -1, "FSD")
                        .or_else(|| by_layer(key, "fsd.grid", -1, "FSD, all pairs"))
                        .or_else(|| by_layer(key, "fsd.top", 4, "in the 4 most followed"))
                        .or_else(|| by_layer(key, "neuron_fve", 1, "FVE above 0.85"))
                },
            ),
            chart("participation", Kind::Heat, "Neurons that follow each frequency, first layer", |key, _| {
                (key.metric == "fsd.participation" && key.layer == 0).then(String::new)
            }),
            chart(
                "phase",
                Kind::Heat,
                "Synchrony of their phases, where five or more follow (chance: 0.4 with five, 0.2 with twenty)",
                |key, _| (key.metric == super::derived::FOLLOWED && key.layer == 0).then(String::new),
            ),
        ],
    },
    Topic {
        title: "Ablation",
        note: "What removing one head does to the logit difference of the probe, at every step it was measured. Grey: where 95 % of random subspaces of the same size fall, of what the same layer writes: an average share of the layer. A head that raises it beyond the band suppresses, one that lowers it contributes, where its effect differs from 0 too (its standard errors are drawn below).",
        once: "What removing one head does to the logit difference of the probe. A head that raises it beyond what random subspaces of the same size do, of what the same layer writes, suppresses; one that lowers it contributes, where its effect differs from 0 too (its standard error is below).",
        charts: &[
            chart("heads", Kind::Heads, "", |_, _| None),
            chart("ablation_loss", Kind::Lines, "Change of the loss, zero ablation", |key, _| {
                by_part(key, "ablation.loss")
            }),
            chart("ablation_kl", Kind::LogLines, "Change of the predictions, zero ablation: KL", |key, _| {
                by_part(key, "ablation.kl")
            }),
        ],
    },
    Topic {
        title: "Calibration",
        note: "On the probe. A debiased error that wanders around 0 is none. A best temperature above 1 means overconfidence. A head that changes temperature and nothing else is a confidence knob.",
        once: "On the probe. A best temperature above 1 means overconfidence. A head that changes temperature and nothing else is a confidence knob.",
        charts: &[
            chart(
                "calibration",
                Kind::Lines,
                "Calibration error: ECE, which chance alone raises, and debiased",
                |key, _| {
                    own_name(key, &["probe.ece"]).or_else(|| debiased(key, "probe.").then(|| "debiased".to_owned()))
                },
            ),
            chart("brier", Kind::Lines, "Brier score", |key, _| own_name(key, &["probe.brier"])),
            chart("probe_entropy", Kind::Lines, "Entropy of the predictions", |key, _| {
                own_name(key, &["probe.entropy"])
            }),
            chart("temperature", Kind::LogLines, "Best temperature", |key, _| own_name(key, &["probe.temperature"])),
            chart("ablation_brier", Kind::Lines, "Change of the Brier score, zero ablation", |key, _| {
                by_part(key, "ablation.brier")
            }),
            chart("ablation_ece", Kind::Lines, "Change of the ECE, zero ablation", |key, _| {
                by_part(key, "ablation.ece")
            }),
            chart(
                "ablation_debiased",
                Kind::Lines,
                "Change of the calibration error, debiased: of the root of its square, zero ablation",
                |key, _| by_part(key, super::derived::DEBIASED).filter(|_| debiased(key, "ablation.")),
            ),
            chart("ablation_temperature", Kind::Lines, "Change of the best temperature, zero ablation", |key, _| {
                by_part(key, "ablation.temperature")
            }),
        ],
    },
    Topic {
        title: "Induction",
        note: "On random tokens that repeat. Dashed: what attention spread evenly would score.",
        once: "",
        charts: &[
            chart("previous", Kind::Lines, "Looking at the previous token", |key, _| {
                by_head_or_uniform(key, "previous_token_score.probe")
            }),
            chart("prefix", Kind::Lines, "Looking at what followed the same token: prefix matching", |key, _| {
                by_head_or_uniform(key, "prefix_matching_score.probe")
            }),
            chart("duplicate", Kind::Lines, "Looking at the same token", |key, _| {
                by_head_or_uniform(key, "duplicate_token_score.probe")
            }),
            chart("in_context", Kind::Lines, "In-context learning: late loss less early loss", |key, _| {
                match (key.metric.as_str(), key.index) {
                    ("in_context_learning_score", _) => Some("test set".to_owned()),
                    ("in_context_learning_score.probe", 1) => Some("repeated tokens, less another order".to_owned()),
                    ("in_context_learning_score.probe", _) => Some("repeated tokens".to_owned()),
                    _ => None,
                }
            }),
            chart(
                "composition_k",
                Kind::Lines,
                "K composition: a head reads what an earlier one writes",
                |key, index| {
                    // Only readers above the first layer have writers below them.
                    (key.metric == "composition.k").then(|| format!("L{} H{} reads {index}", key.layer, key.head))
                },
            ),
            chart("copying", Kind::Lines, "Copying, from the weights alone", |key, _| by_head(key, "copying_score")),
        ],
    },
    Topic {
        title: "Synchronization of heads",
        note: "Likeness of attention patterns as they are is near 1 wherever positions decide; without each head's mean pattern, unrelated heads have 0.",
        once: "",
        charts: &[
            chart("similarity", Kind::Lines, "Mean cosine of attention patterns", |key, _| {
                by_layer(key, "sync.similarity", 0, "as it is")
                    .or_else(|| by_layer(key, "sync.similarity", 1, "without mean pattern"))
            }),
            chart(
                "sync_participation",
                Kind::Lines,
                "Participation ratio: 0 equal heads, 1 orthogonal heads",
                |key, _| {
                    by_layer(key, "sync.participation", 0, "as it is")
                        .or_else(|| by_layer(key, "sync.participation", 1, "without mean pattern"))
                },
            ),
            chart("entropy", Kind::Lines, "Attention entropy", |key, _| by_head(key, "attention_entropy")),
            chart("z_norm", Kind::Lines, "Length of z, what a head brings along", |key, _| by_head(key, "z_norm")),
            chart("entropy_spread", Kind::Lines, "Spread of attention entropies over heads", |key, _| {
                by_layer(key, "sync.entropy_spread", -1, "spread")
            }),
            chart(
                "sync_gradient",
                Kind::Lines,
                "Gradients of heads, by pair; dashed: chance, where untrained heads lie, mean ± 2 deviations",
                |key, index| by_pair(key, "sync.gradient", index).or_else(|| by_untrained(key)),
            ),
            chart("sync_drift", Kind::Lines, "Updates of heads, by pair; chance is not known", |key, index| {
                by_pair(key, "sync.drift", index)
            }),
        ],
    },
    Topic {
        title: "Noise and pressure",
        note: "The noise scale is the batch size at which noise and signal of the gradient are equally large: running averages of both over about ten measurements, then their ratio. A gap: the signal is lost in its own noise.",
        once: "",
        charts: &[
            chart("noise_scale", Kind::LogLines, "Gradient noise scale, tensors with rows by example", |key, _| {
                (key.metric == super::derived::NOISE_SCALE).then(|| "all together".to_owned())
            }),
            chart("dispersion", Kind::LogLines, "Dispersion of gradients over examples", |key, _| {
                by_tensor_and_head(key, "gradient_dispersion")
            }),
            chart("snr", Kind::LogLines, "Squared gradient by its variance over examples", |key, _| {
                by_tensor_and_head(key, "gradient_snr")
            }),
            chart("step_size", Kind::LogLines, "Step size of the optimizer, decay excluded", |key, _| {
                by_site(key, "step_size")
            }),
            chart(
                "decay_share",
                Kind::Lines,
                "Share of decay: 1/2 where decay and gradient are equally strong",
                |key, _| by_site(key, "decay_share"),
            ),
            chart(
                "softmax_collapse",
                Kind::Lines,
                "Targets whose softmax is 1 in f32 (naive losses stop learning there)",
                |key, _| own_name(key, &["softmax_collapse"]),
            ),
            chart("logit_scale", Kind::Lines, "Logit scale", |key, _| own_name(key, &["logit_scale"])),
        ],
    },
    Topic {
        title: "Norms",
        note: "By tensor.",
        once: "",
        charts: &[
            chart("weight_norm", Kind::Lines, "Weights", |key, _| by_site(key, "weight_norm")),
            chart("grad_norm", Kind::LogLines, "Gradients", |key, _| by_site(key, "grad_norm")),
            chart("update_norm", Kind::LogLines, "Updates, decay included", |key, _| by_site(key, "update_norm")),
        ],
    },
    Topic {
        title: "Geometry",
        note: "How many dimensions the embedding and the last residual stream fill. They lose dimensions in runs that never generalize too.",
        once: "",
        charts: &[
            chart("participation_ratio", Kind::Lines, "Participation ratio", |key, _| {
                by_site(key, "participation_ratio")
            }),
            chart("spectral_entropy", Kind::Lines, "Spectral entropy", |key, _| by_site(key, "spectral_entropy")),
            chart("effective_rank", Kind::Lines, "Effective rank", |key, _| by_site(key, "effective_rank")),
        ],
    },
    Topic {
        title: "Loss landscape",
        note: "Second derivatives of the mean loss over what a replica is trained on, without decay. Above the edge of stability, 1, oscillations grow. That circuits and curvature move together at one step says nothing of what leads: see the steps of both.",
        once: "",
        charts: &[
            chart("curvature", Kind::Lines, "Largest eigenvalues, and the smallest", |key, _| {
                match key.metric.as_str() {
                    "curvature.top" => Some(format!("largest, rank {}", key.index)),
                    "curvature.bottom" => Some("smallest".to_owned()),
                    _ => None,
                }
            }),
            chart("curvature_edge", Kind::Lines, "Largest curvature in relation to the edge of stability", |key, _| {
                own_name(key, &["curvature.edge"])
            }),
            chart("curvature_trace", Kind::Lines, "Trace of the Hessian, by tensor", |key, _| {
                by_site(key, "curvature.trace").filter(|_| key.head < 0)
            }),
            chart("curvature_heads", Kind::Lines, "Trace of the Hessian, by head", |key, _| {
                by_tensor_and_head(key, "curvature.trace").filter(|_| key.head >= 0)
            }),
            chart("curvature_share", Kind::Lines, "Share of a direction in the largest eigenvectors", |key, name| {
                (key.metric == "curvature.gradient_share").then(|| name.to_owned())
            }),
        ],
    },
];
