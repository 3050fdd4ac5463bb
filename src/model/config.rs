//! What a model is made of.

use serde::{Deserialize, Serialize};

use crate::autograd::ops::{ActFn, NormKind, RotaryScaling};
use crate::error::{Error, Result, check_between};

/// Normalization before attention, MLP and unembedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Normalization {
    /// None at all.
    #[serde(rename = "none")]
    None,
    /// LayerNorm with weight and bias.
    LN,
    /// LayerNorm without weight and bias.
    LNPre,
    /// RMSNorm with weight.
    RMS,
    /// RMSNorm without weight.
    RMSPre,
}

/// How positions enter the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PositionalEmbedding {
    /// A learned vector added to the token's embedding.
    Standard,
    /// Queries and keys turned by their position.
    Rotary,
    /// Not at all.
    None,
}

/// How weights are drawn. Biases start at 0, norm weights at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InitMode {
    /// Normal with standard deviation `initializer_range`, TransformerLens's default.
    Gpt2,
    /// Normal with standard deviation 1/√d_model, and 1/√d_vocab_out for W_U (Nanda et al. 2023).
    Nanda,
}

/// A decoder-only transformer. What is left out in a file takes the default given with each field; 0
/// stands for a size that follows from others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Number of blocks. Default 1.
    pub n_layers: usize,
    /// Width of the residual stream. Default 128.
    pub d_model: usize,
    /// Query heads of a block. Default 4.
    pub n_heads: usize,
    /// Width of a head. Default d_model / n_heads.
    pub d_head: usize,
    /// Key and value heads; each serves n_heads / n_key_value_heads query heads. Default n_heads.
    pub n_key_value_heads: usize,
    /// Hidden width of the MLP. Default 4 d_model.
    pub d_mlp: usize,
    /// No MLPs. Default false.
    pub attn_only: bool,
    /// Non-linearity of the MLP. Default relu.
    pub act_fn: ActFn,
    /// The MLP multiplies act(x W_gate) with x W_in. Default false.
    pub gated_mlp: bool,
    /// Default none.
    pub normalization_type: Normalization,
    /// The norm before the unembedding is an RMSNorm: it neither centres nor adds a bias, whatever the others do. Default
    /// false.
    pub final_rms: bool,
    /// Default standard.
    pub positional_embedding_type: PositionalEmbedding,
    /// Dimensions of each head that rotary positions turn. Default d_head.
    pub rotary_dim: usize,
    /// Base of the rotary frequencies. Default 10,000.
    pub rotary_base: f64,
    /// How rotary frequencies change for long sequences: none, `{ linear = { factor } }` or `{ llama3 = { factor,
    /// low_freq_factor, high_freq_factor, original_n_ctx } }`. Default none.
    pub rotary_scaling: RotaryScaling,
    /// MLP and attention both read the block's input, and their outputs are added. Default false.
    pub parallel_attn_mlp: bool,
    /// b_Q, b_K, b_V and b_O exist. Default true.
    pub attn_biases: bool,
    /// b_in and b_out exist. Default true.
    pub mlp_biases: bool,
    /// Of gated MLPs: b_gate exists too, and b_in is added to x W_in before the gate multiplies it, as in Llama; else it is
    /// added behind the gate, as TransformerLens does. Default false.
    pub gate_biases: bool,
    /// b_U exists. Default true.
    pub unembed_bias: bool,
    /// W_U is the transpose of W_E. Default false.
    pub tied_embeddings: bool,
    /// Input tokens. Default: what the task needs.
    pub d_vocab: usize,
    /// Output classes. Default: what the task needs.
    pub d_vocab_out: usize,
    /// Positions. Default: what the task needs.
    pub n_ctx: usize,
    /// Added to variances in norms. Default 1e-5.
    pub eps: f64,
    /// Scores are divided by this; 0 for √d_head. Default 0.
    pub attn_scale: f64,
    /// Default gpt2.
    pub init_mode: InitMode,
    /// Standard deviation of initial weights in mode gpt2; 0 for 0.8/√d_model. Default 0.
    pub initializer_range: f64,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            n_layers: 1,
            d_model: 128,
            n_heads: 4,
            d_head: 0,
            n_key_value_heads: 0,
            d_mlp: 0,
            attn_only: false,
            act_fn: ActFn::Relu,
            gated_mlp: false,
            normalization_type: Normalization::None,
            final_rms: false,
            positional_embedding_type: PositionalEmbedding::Standard,
            rotary_dim: 0,
            rotary_base: 10_000.0,
            rotary_scaling: RotaryScaling::None,
            parallel_attn_mlp: false,
            attn_biases: true,
            mlp_biases: true,
            gate_biases: false,
            unembed_bias: true,
            tied_embeddings: false,
            d_vocab: 0,
            d_vocab_out: 0,
            n_ctx: 0,
            eps: 1e-5,
            attn_scale: 0.0,
            init_mode: InitMode::Gpt2,
            initializer_range: 0.0,
        }
    }
}

fn fill(value: &mut usize, default: usize) {
    if *value == 0 {
        *value = default;
    }
}

impl ModelConfig {
    /// Fills in what follows from other fields and checks the whole. Every later use expects a resolved
    /// configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field and what it must be.
    pub fn resolve(mut self) -> Result<Self> {
        let fail = |what: String| Err(Error::Config(what));
        check_between("model.n_layers", self.n_layers, 1..=512)?;
        // 0 in the lower half stands for a size that follows from others.
        for (name, value, least) in [
            ("d_model", self.d_model, 1),
            ("n_heads", self.n_heads, 1),
            ("d_vocab", self.d_vocab, 1),
            ("n_ctx", self.n_ctx, 1),
            ("d_head", self.d_head, 0),
            ("n_key_value_heads", self.n_key_value_heads, 0),
            ("d_mlp", self.d_mlp, 0),
            ("d_vocab_out", self.d_vocab_out, 0),
            ("rotary_dim", self.rotary_dim, 0),
        ] {
            check_between(&format!("model.{name}"), value, least..=1 << 20)?;
        }
        if self.d_head == 0 && !self.d_model.is_multiple_of(self.n_heads) {
            return fail(format!(
                "model.d_model = {} is not divisible by model.n_heads = {}; choose another number of heads or give model.d_head",
                self.d_model, self.n_heads
            ));
        }
        fill(&mut self.d_head, self.d_model / self.n_heads);
        fill(&mut self.n_key_value_heads, self.n_heads);
        fill(&mut self.d_mlp, if self.attn_only { 0 } else { 4 * self.d_model });
        fill(&mut self.d_vocab_out, self.d_vocab);
        if self.n_heads * self.d_head > 1 << 20 {
            return fail(format!("model.n_heads x d_head = {} must be at most 1048576", self.n_heads * self.d_head));
        }
        if !self.n_heads.is_multiple_of(self.n_key_value_heads) {
            return fail(format!(
                "model.n_heads = {} is not divisible by model.n_key_value_heads = {}",
                self.n_heads, self.n_key_value_heads
            ));
        }
        if self.tied_embeddings && self.d_vocab != self.d_vocab_out {
            return fail(format!(
                "model.tied_embeddings needs d_vocab_out = d_vocab, they are {} and {}",
                self.d_vocab_out, self.d_vocab
            ));
        }
        if self.positional_embedding_type == PositionalEmbedding::Rotary {
            fill(&mut self.rotary_dim, self.d_head);
            if !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.d_head {
                return fail(format!(
                    "model.rotary_dim = {} must be even and at most d_head = {}",
                    self.rotary_dim, self.d_head
                ));
            }
            if !self.rotary_base.is_finite() || self.rotary_base <= 1.0 {
                return fail(format!("model.rotary_base = {} must exceed 1", self.rotary_base));
            }
            let sound = |numbers: &[f64]| numbers.iter().all(|n| (1e-30..=1e30).contains(n));
            let scales = match self.rotary_scaling {
                RotaryScaling::None => true,
                RotaryScaling::Linear { factor } => sound(&[factor]),
                RotaryScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_n_ctx } => {
                    sound(&[factor, low, high, original_n_ctx as f64]) && low < high
                }
            };
            if !scales {
                return fail(format!(
                    "model.rotary_scaling = {:?} must have positive numbers, and low_freq_factor below high_freq_factor",
                    self.rotary_scaling
                ));
            }
        } else {
            self.rotary_dim = 0;
        }
        if self.gate_biases && !(self.gated_mlp && self.mlp_biases) {
            return fail("model.gate_biases = true needs gated_mlp = true and mlp_biases = true".to_owned());
        }
        if self.attn_only {
            self.d_mlp = 0;
        }
        for (name, value) in
            [("eps", self.eps), ("attn_scale", self.attn_scale), ("initializer_range", self.initializer_range)]
        {
            if value != 0.0 && !(1e-30..=1e30).contains(&value) {
                return fail(format!("model.{name} = {value} must be 0 or a number between 1e-30 and 1e30"));
            }
        }
        if self.attn_scale == 0.0 {
            self.attn_scale = (self.d_head as f64).sqrt();
        }
        if self.initializer_range == 0.0 {
            self.initializer_range = 0.8 / (self.d_model as f64).sqrt();
        }
        // Sizes are products of these; none may leave what the device could ever hold.
        let layer =
            2 * self.d_model * self.d_head * (self.n_heads + self.n_key_value_heads) + 3 * self.d_model * self.d_mlp;
        let parameters =
            (self.d_vocab + self.d_vocab_out + self.n_ctx) * self.d_model + self.n_layers.saturating_mul(layer);
        if parameters > u32::MAX as usize {
            return fail(format!("the model has {parameters} parameters, beyond 32-bit indices; make it smaller"));
        }
        Ok(self)
    }

    /// What the norm of that name divides by, and whether it carries a weight and a bias; `None` where there are no norms.
    pub fn norm(&self, name: &str) -> Option<(NormKind, bool, bool)> {
        let (kind, weight, bias) = match self.normalization_type {
            Normalization::None => return None,
            Normalization::LN => (NormKind::Layer, true, true),
            Normalization::LNPre => (NormKind::Layer, false, false),
            Normalization::RMS => (NormKind::Rms, true, false),
            Normalization::RMSPre => (NormKind::Rms, false, false),
        };
        let rms = self.final_rms && name == "ln_final";
        Some(if rms { (NormKind::Rms, weight, false) } else { (kind, weight, bias) })
    }

    /// What scores are multiplied by.
    pub fn score_scale(&self) -> f32 {
        (1.0 / self.attn_scale) as f32
    }

    /// Whether the MLP exists.
    pub fn has_mlp(&self) -> bool {
        !self.attn_only
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> ModelConfig {
        ModelConfig { d_vocab: 10, n_ctx: 3, ..ModelConfig::default() }
    }

    #[test]
    fn sizes_follow_from_others() {
        let config = base().resolve().unwrap();
        assert_eq!((config.d_head, config.d_mlp, config.d_vocab_out, config.n_key_value_heads), (32, 512, 10, 4));
        assert_eq!(config.attn_scale, 32.0f64.sqrt());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (broken, name) in [
            (ModelConfig { d_model: 130, ..base() }, "d_model"),
            (ModelConfig { n_heads: 0, ..base() }, "n_heads"),
            (ModelConfig { n_key_value_heads: 3, ..base() }, "n_key_value_heads"),
            (ModelConfig { tied_embeddings: true, d_vocab_out: 9, ..base() }, "tied_embeddings"),
            (
                ModelConfig { positional_embedding_type: PositionalEmbedding::Rotary, rotary_dim: 5, ..base() },
                "rotary_dim",
            ),
            (ModelConfig { eps: f64::NAN, ..base() }, "eps"),
            (ModelConfig { gate_biases: true, ..base() }, "gate_biases"),
            (
                ModelConfig {
                    positional_embedding_type: PositionalEmbedding::Rotary,
                    rotary_scaling: RotaryScaling::Linear { factor: 0.0 },
                    ..base()
                },
                "rotary_scaling",
            ),
        ] {
            let error = broken.resolve().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
