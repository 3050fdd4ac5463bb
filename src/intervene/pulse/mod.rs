//! Interventions in training: what is changed while a replica trains, from which step until which, and by how much.
//!
//! A [`Pulse`] is one of them, as a configuration declares it. Five mechanisms do all of them, and one more knows of time:
//!
//! * *doses*: of each pulse how much of it is done at this step, from the device's clock; 0 outside its window, and for a
//!   dose of 0. Everything below leaves what it finds, bit by bit, where the dose is 0.
//! * *edits* in place of stretches of parameters, moments or gradients: before a step, before the optimizer, or behind it
//! * *rotations* of the basis of heads
//! * *gates* on activations and hyper-parameters: [`Gate`](crate::autograd::ops::Gate)
//! * *labels*: targets that are not the true ones
//!
//! An op of these is in a program only where a replica asks for it. What is drawn is addressed by the replica's seed, or the
//! pulse's own, so a replica draws the same in any company.

mod doses;
mod edit;
mod labels;
mod list;
mod plan;

use serde::{Deserialize, Serialize};

pub(crate) use plan::Pulses;

use super::Baseline;
use crate::autograd::check::Build;
use crate::error::{Error, Result};
use crate::gpu::Shader;
use crate::model::{ModelConfig, PositionalEmbedding, WeightTable, matches};
use edit::Span;

/// Every kernel of interventions in training.
pub(super) const SHADERS: &[&[&Shader<'_>]] = &[doses::SHADERS, edit::SHADERS, labels::SHADERS];

/// Their ops, for the self-check.
pub(super) const CHECKS: &[&[(&str, Build)]] = &[edit::CHECKS];

/// An intervention in training: one entry of `intervene`, of a replica or of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Pulse {
    /// What is changed.
    pub what: PulseKind,
    /// First step that it changes. In the arms of a fork: counted from the step of the fork.
    pub from: u64,
    /// First step that it does not change any more. Default: for what happens once `from` + 1, else never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// How much of it is done: 1 all, 0 nothing, which leaves every bit of the run as it is. Default 1.
    #[serde(default = "whole")]
    pub dose: f64,
    /// Which parameters: groups (`q`, `k`, `v`, `o`, `mlp`, `embed`, `unembed`, with their biases) or names of tensors, in which
    /// `*` stands for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<String>,
    /// In this block only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Of this head only; of grouped keys and values, those of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<usize>,
    /// Another head of the layer, with which it is exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<usize>,
    /// What something is multiplied by, with a dose of 1; with another 1 + dose (factor - 1). Of a subset: the share of the
    /// examples that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// What a head is taken to write instead: nothing (`zero`, the default), or its `mean` over the examples of the training
    /// batch at that position, taken as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// The class that is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<u32>,
    /// Seed of what is drawn. Default: the replica's seed. Two pulses that draw for the same numbers at the same step draw the
    /// same, unless they have seeds of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Something of the same size that should not have the effect, in the place of what is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sham: Option<Sham>,
}

fn whole() -> f64 {
    1.0
}

/// What a pulse changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PulseKind {
    /// The learning rate, times `factor`.
    LearningRate,
    /// The weight decay, times `factor`.
    WeightDecay,
    /// Both moments begin anew at `from`, as those of a fresh optimizer do, whose corrections count from there.
    ResetMoments,
    /// Of each update of `weights` the share `dose` is taken back. The moments go on.
    Freeze,
    /// `weights` go to new initial values, at `from`; with a dose below 1 part of the way.
    Reinitialize,
    /// Noise on `weights`: normal, and `dose` times as long as what it is added to, each tensor (or a head's part of it) by
    /// itself. At `from`, or at every step to `until`.
    Noise,
    /// `weights` of a head exchanged with those of the head `with` of its layer, at `from`; all of `q`, `k`, `v` and `o` together
    /// change no function. The moments stay where they are.
    SwapHeads,
    /// The basis of heads, turned at random at `from`: W_Q and W_K by one orthogonal matrix, W_V and W_O by another. It changes no
    /// function, but what Adam makes of the next gradients.
    Rotate,
    /// What a head writes (its z, the input of W_O), times `factor`, 0 by default: with a dose of 1 it is gone. Or, by `baseline`,
    /// moved to its mean.
    ScaleHead,
    /// Attention scores of a head, times 1 - dose: with a dose of 1 it attends to every position it may see alike.
    UniformAttention,
    /// The logits, times `factor`: an output temperature of 1 / factor.
    ScaleLogits,
    /// Noise on the gradients of `weights` (all by default): normal, the same in every direction, `dose` times as long as those
    /// gradients together.
    GradientNoise,
    /// The sign of each element of the gradients of `weights` (all by default) turned with probability `dose`.
    GradientSigns,
    /// Each target, with probability `dose`, another one drawn from all classes, at each step anew.
    LabelNoise,
    /// Predictions whose target is `class` do not count.
    LeaveOut,
    /// Only a share `factor` of the training examples counts, always the same ones: each is kept or not by a draw.
    Subset,
    /// The length of `weights`, tensor by tensor, held at what it is: each update is followed by a rescaling.
    HoldNorm,
}

/// What of the same size takes the place of an intervention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sham {
    /// The same done to another head of the layer, drawn at random among those that no pulse of the replica is about; of several
    /// heads, to as many others. What the other head's weights are, and so how large a change of them is, is its own.
    Head,
    /// A change as long as the one declared, tensor by tensor (or a head's part of it), in a random direction. It matches how far
    /// weights are moved, and neither how long they are in the end nor what is left of them. Drawn anew, weights of the initial
    /// size keep their length and have a cosine of 0 or so with what they were; moved as far at random they are 1.7 times as long,
    /// with a cosine of 0.6. What matched these too would be one more draw, the intervention itself.
    Direction,
}

/// What a kind of pulse takes.
struct Form {
    /// Whether it happens at one step, unless `until` says more.
    once: bool,
    /// Keys that must be there, and keys that may.
    needs: &'static [&'static str],
    takes: &'static [&'static str],
    /// Largest dose.
    most: f64,
    /// Whether there is no dose between 0 and 1.
    all_or_nothing: bool,
}

const FORM: Form = Form { once: false, needs: &[], takes: &["until"], most: 1.0, all_or_nothing: false };

impl PulseKind {
    /// Its word in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::LearningRate => "learning_rate",
            Self::WeightDecay => "weight_decay",
            Self::ResetMoments => "reset_moments",
            Self::Freeze => "freeze",
            Self::Reinitialize => "reinitialize",
            Self::Noise => "noise",
            Self::SwapHeads => "swap_heads",
            Self::Rotate => "rotate",
            Self::ScaleHead => "scale_head",
            Self::UniformAttention => "uniform_attention",
            Self::ScaleLogits => "scale_logits",
            Self::GradientNoise => "gradient_noise",
            Self::GradientSigns => "gradient_signs",
            Self::LabelNoise => "label_noise",
            Self::LeaveOut => "leave_out",
            Self::Subset => "subset",
            Self::HoldNorm => "hold_norm",
        }
    }

    fn form(self) -> Form {
        const SIZES: f64 = 1e6;
        match self {
            Self::LearningRate | Self::WeightDecay | Self::ScaleLogits => Form { needs: &["factor"], ..FORM },
            Self::ResetMoments => Form { once: true, takes: &[], all_or_nothing: true, ..FORM },
            Self::Freeze | Self::HoldNorm => {
                Form { needs: &["weights"], takes: &["until", "layer", "head", "seed", "sham"], ..FORM }
            }
            Self::Reinitialize => {
                Form { once: true, needs: &["weights"], takes: &["layer", "head", "seed", "sham"], ..FORM }
            }
            Self::Noise => Form {
                once: true,
                needs: &["weights"],
                takes: &["until", "layer", "head", "seed", "sham"],
                most: SIZES,
                ..FORM
            },
            Self::Rotate => {
                Form { once: true, takes: &["weights", "layer", "head", "seed", "sham"], all_or_nothing: true, ..FORM }
            }
            Self::ScaleHead => {
                Form { needs: &["head"], takes: &["until", "layer", "factor", "baseline", "seed", "sham"], ..FORM }
            }
            Self::UniformAttention => Form { needs: &["head"], takes: &["until", "layer", "seed", "sham"], ..FORM },
            Self::GradientNoise => Form { takes: &["until", "weights", "layer", "head", "seed"], most: SIZES, ..FORM },
            Self::GradientSigns => Form { takes: &["until", "weights", "layer", "head", "seed"], ..FORM },
            Self::LabelNoise => Form { takes: &["until", "seed"], ..FORM },
            Self::LeaveOut => Form { needs: &["class"], all_or_nothing: true, ..FORM },
            Self::Subset => Form { needs: &["factor"], takes: &["until", "seed"], all_or_nothing: true, ..FORM },
            Self::SwapHeads => Form {
                once: true,
                needs: &["weights", "head", "with"],
                takes: &["layer"],
                all_or_nothing: true,
                ..FORM
            },
        }
    }

    /// Whether anything is drawn for it while it is done.
    fn draws(self) -> bool {
        use PulseKind::{GradientNoise, GradientSigns, LabelNoise, Noise, Reinitialize, Rotate, Subset};
        matches!(self, Reinitialize | Noise | Rotate | GradientNoise | GradientSigns | LabelNoise | Subset)
    }
}

/// Groups of parameters, and what of a model they are.
const GROUPS: [(&str, &[&str]); 7] = [
    ("q", &["blocks.*.attn.W_Q", "blocks.*.attn.b_Q"]),
    ("k", &["blocks.*.attn.*W_K", "blocks.*.attn.*b_K"]),
    ("v", &["blocks.*.attn.*W_V", "blocks.*.attn.*b_V"]),
    ("o", &["blocks.*.attn.W_O", "blocks.*.attn.b_O"]),
    ("mlp", &["blocks.*.mlp.*"]),
    ("embed", &["embed.W_E", "pos_embed.W_pos"]),
    ("unembed", &["unembed.*"]),
];

impl Pulse {
    /// A whole one from a step on, with everything else at its default.
    pub fn new(what: PulseKind, from: u64) -> Self {
        Self {
            what,
            from,
            until: None,
            dose: 1.0,
            weights: Vec::new(),
            layer: None,
            head: None,
            with: None,
            factor: None,
            baseline: None,
            class: None,
            seed: None,
            sham: None,
        }
    }

    /// First step that it does not change any more, if there is one.
    pub fn end(&self) -> Option<u64> {
        self.until.or_else(|| self.what.form().once.then_some(self.from + 1))
    }

    /// Whether it happens at one step.
    pub fn is_once(&self) -> bool {
        self.end() == Some(self.from + 1)
    }

    /// Whether anything is drawn for it.
    pub fn draws(&self) -> bool {
        self.what.draws() || self.sham.is_some()
    }

    /// In words: `freeze q, k layer 0 head 2`.
    pub fn words(&self) -> String {
        let mut words = vec![self.what.word().replace('_', " ")];
        words.extend((!self.weights.is_empty()).then(|| self.weights.join(", ")));
        let sham = |sham| match sham {
            Sham::Head => "sham: another head".to_owned(),
            Sham::Direction => "sham: a random direction".to_owned(),
        };
        words.extend(self.layer.map(|layer| format!("layer {layer}")));
        words.extend(self.head.map(|head| format!("head {head}")));
        words.extend(self.with.map(|with| format!("with head {with}")));
        words.extend(self.class.map(|class| format!("class {class}")));
        words.extend((self.baseline == Some(Baseline::Mean)).then(|| "to the mean".to_owned()));
        words.extend(self.factor.map(|factor| format!("times {factor}")));
        words.extend((self.dose != 1.0).then(|| format!("dose {}", self.dose)));
        words.extend(self.sham.map(|of| format!("({})", sham(of))));
        words.join(" ")
    }

    /// Checks it by itself for a resolved model, a run of so many steps and so many classes.
    ///
    /// # Errors
    /// [`Error::Config`] saying what must be otherwise.
    pub fn check(&self, model: &ModelConfig, steps: u64, classes: usize) -> Result<()> {
        let fail = |what: String| Err(Error::Config(format!("{}: {what}", self.what.word())));
        let form = self.what.form();
        for (key, given) in [
            ("weights", !self.weights.is_empty()),
            ("layer", self.layer.is_some()),
            ("head", self.head.is_some()),
            ("with", self.with.is_some()),
            ("until", self.until.is_some()),
            ("factor", self.factor.is_some()),
            ("baseline", self.baseline.is_some()),
            ("class", self.class.is_some()),
            ("seed", self.seed.is_some()),
            ("sham", self.sham.is_some()),
        ] {
            if form.needs.contains(&key) && !given {
                return fail(format!("{key} is missing"));
            }
            if given && !form.needs.contains(&key) && !form.takes.contains(&key) {
                let known = [&["from", "dose"], form.needs, form.takes].concat();
                return fail(format!("takes no {key}; it takes {}", known.join(", ")));
            }
        }
        if self.from >= steps {
            return fail(format!("from = {} is beyond the run, which has {steps} steps", self.from));
        }
        if self.until.is_some_and(|until| until <= self.from) {
            return fail(format!("until = {} must exceed from = {}", self.until.unwrap_or(0), self.from));
        }
        if !(0.0..=form.most).contains(&self.dose) {
            return fail(format!("dose = {} must lie between 0 and {}", self.dose, form.most));
        }
        if form.all_or_nothing && self.dose != 0.0 && self.dose != 1.0 {
            return fail(format!("dose = {} must be 0 or 1: it is done or not", self.dose));
        }
        if let Some(factor) = self.factor.filter(|factor| !(0.0..=1e6).contains(factor)) {
            return fail(format!("factor = {factor} must lie between 0 and 1e6"));
        }
        if self.what == PulseKind::Subset && !self.factor.is_some_and(|share| share > 0.0 && share <= 1.0) {
            return fail(format!("factor = {} is the share that stays: above 0, up to 1", self.factor.unwrap_or(0.0)));
        }
        match self.baseline {
            Some(Baseline::Resample) => return fail("baseline must be \"zero\" or \"mean\" in training".to_owned()),
            Some(Baseline::Mean) if self.factor.is_some() => {
                return fail("factor is for baseline \"zero\"; say by dose how far it goes to the mean".to_owned());
            }
            _ => {}
        }
        if let Some(class) = self.class.filter(|class| *class as usize >= classes) {
            return fail(format!("class = {class} is none of the task's {classes}"));
        }
        if let Some(seed) = self.seed.filter(|seed| *seed > i64::MAX as u64) {
            return fail(format!("seed = {seed} must be at most {}", i64::MAX));
        }
        if let Some(layer) = self.layer.filter(|layer| *layer >= model.n_layers) {
            return fail(format!("layer = {layer}: the model has {}, counted from 0", model.n_layers));
        }
        if let Some(head) = self.head {
            if head >= model.n_heads {
                return fail(format!("head = {head}: a layer has {}, counted from 0", model.n_heads));
            }
            if self.layer.is_none() && model.n_layers > 1 {
                return fail(format!("head = {head} of which layer? Give layer too"));
            }
        }
        if let (Some(own), Some(with)) = (self.head, self.with) {
            let share = model.n_heads / model.n_key_value_heads;
            if with >= model.n_heads || with == own {
                return fail(format!(
                    "with = {with} must be another of the layer's {} heads, counted from 0",
                    model.n_heads
                ));
            }
            if own / share == with / share && !self.of_queries() {
                return fail(format!(
                    "heads {own} and {with} have their keys and values in common; swap q and o alone"
                ));
            }
        }
        match self.sham {
            Some(Sham::Direction) if self.what != PulseKind::Reinitialize => {
                return fail("sham = \"direction\" is for reinitialize, whose change has a length".to_owned());
            }
            Some(Sham::Head) if self.head.is_none() => {
                return fail(
                    "sham = \"head\" does the same to another head: name the head that it is a sham of".to_owned(),
                );
            }
            _ => {}
        }
        if self.what == PulseKind::Rotate {
            self.turned(model).map_err(|what| Error::Config(format!("rotate: {what}")))?;
        }
        self.spans(model, &WeightTable::new(model), self.head).map(|_| ()).or_else(fail)
    }

    /// Whether it is about one head of queries alone, whatever its keys and values serve.
    fn of_queries(&self) -> bool {
        match self.what {
            PulseKind::ScaleHead | PulseKind::UniformAttention => true,
            PulseKind::Rotate => false,
            _ => self.weights.iter().all(|name| ["q", "o"].contains(&name.as_str())),
        }
    }

    /// Layers that it is about.
    fn layers(&self, model: &ModelConfig) -> std::ops::Range<usize> {
        self.layer.map_or(0..model.n_layers, |layer| layer..layer + 1)
    }

    /// Whether the basis of queries and keys, and that of values and outputs, is turned.
    fn turned(&self, model: &ModelConfig) -> Result<[bool; 2], String> {
        let named = |pair: [&str; 2]| {
            let [a, b] = pair.map(|name| self.weights.iter().any(|weights| weights == name));
            if a == b { Ok(a) } else { Err(format!("{} and {} are turned together; name both", pair[0], pair[1])) }
        };
        let known = self.weights.iter().all(|name| ["q", "k", "v", "o"].contains(&name.as_str()));
        let turned = match (self.weights.is_empty(), known) {
            (true, _) => [true; 2],
            (_, true) => [named(["q", "k"])?, named(["v", "o"])?],
            _ => return Err("weights must be [\"q\", \"k\"], [\"v\", \"o\"] or both".to_owned()),
        };
        if turned[0] && model.positional_embedding_type == PositionalEmbedding::Rotary {
            return Err("rotary positions fix the basis of queries and keys; set weights = [\"v\", \"o\"]".to_owned());
        }
        Ok(turned)
    }

    /// The parameters that it is about, in the order of the table, of this head alone where there is one; where `weights` names
    /// none, all.
    fn spans(&self, model: &ModelConfig, table: &WeightTable, head: Option<usize>) -> Result<Vec<Span>, String> {
        let in_layer = |name: &str| match self.layer {
            Some(layer) => name.starts_with(&format!("blocks.{layer}.")),
            None => true,
        };
        let meant = |word: &String, name: &str| match GROUPS.iter().find(|(group, _)| group == word) {
            Some((_, patterns)) => patterns.iter().any(|pattern| matches(pattern, name)),
            None => matches(word, name),
        };
        for word in &self.weights {
            if !table.specs().iter().any(|spec| in_layer(&spec.name) && meant(word, &spec.name)) {
                let names: Vec<&str> = table.specs().iter().map(|spec| spec.name.as_str()).collect();
                let groups: Vec<&str> = GROUPS.iter().map(|(group, _)| *group).collect();
                let place = self.layer.map_or_else(String::new, |layer| format!(" in layer {layer}"));
                return Err(format!(
                    "weights: {word} is no group ({}) nor tensor{place}; this model has {}",
                    groups.join(", "),
                    names.join(", ")
                ));
            }
        }
        let mut spans = Vec::new();
        for spec in table.specs() {
            let named = self.weights.is_empty() || self.weights.iter().any(|word| meant(word, &spec.name));
            if !named || !in_layer(&spec.name) {
                continue;
            }
            let Some(head) = head else {
                spans.push(Span { first: spec.offset, len: spec.len() });
                continue;
            };
            let heads = if spec.name.contains(".attn.") && !spec.name.ends_with("b_O") { spec.dims[0] } else { 0 };
            match heads {
                // A bias that all heads of a layer share is none of theirs.
                0 if spec.name.ends_with("b_O") || self.weights.is_empty() => {}
                0 => return Err(format!("head: {} is not of heads; weights of heads are q, k, v, o", spec.name)),
                _ => {
                    let len = spec.len() / heads;
                    spans.push(Span { first: spec.offset + head / (model.n_heads / heads) * len, len });
                }
            }
        }
        Ok(spans)
    }
}
