//! Llama (SmolLM2, TinyLlama, Llama 2 and 3), Mistral and Qwen2: rotary positions, RMSNorms, gated MLPs, keys and values that
//! several query heads share.

use serde_json::{Value, json};

use super::keys::write_rotary;
use super::{Family, Keys, Place, holding, scales};
use crate::autograd::ops::ActFn;
use crate::error::Result;
use crate::model::{ModelConfig, Normalization, PositionalEmbedding};

/// `LlamaForCausalLM` and its like, as in transformers' modeling_llama.py.
pub(super) struct Llama {
    name: &'static str,
    architecture: &'static str,
}

pub(super) static LLAMA: Llama = Llama { name: "llama", architecture: "LlamaForCausalLM" };
pub(super) static MISTRAL: Llama = Llama { name: "mistral", architecture: "MistralForCausalLM" };
pub(super) static QWEN2: Llama = Llama { name: "qwen2", architecture: "Qwen2ForCausalLM" };

impl Llama {
    fn is_qwen2(&self) -> bool {
        self.name == QWEN2.name
    }

    /// Keys that a query sees at most, where that is fewer than all.
    fn window(&self, keys: &mut Keys<'_>) -> Result<Option<usize>> {
        let slides = match self.name {
            "mistral" => true,
            "qwen2" => keys.flag("use_sliding_window", false)?,
            _ => return Ok(None),
        };
        let types = keys.layer_types()?;
        let known = ["full_attention", "sliding_attention"];
        if let Some(other) = types.iter().flatten().find(|kind| !known.contains(&kind.as_str())) {
            return Err(keys.fail(format!("layer_types has {other:?}, which is not computed here; {known:?} are")));
        }
        // A missing window is one of 4,096 in transformers; null is none.
        Ok(keys.maybe_size("sliding_window", Some(4096))?.filter(|_| slides))
    }

    /// What transformers takes where a file does not say, which files written by it always do; null is one for each head.
    fn usual_key_value_heads(&self) -> Option<usize> {
        match self.name {
            "mistral" => Some(8),
            "qwen2" => Some(32),
            _ => None,
        }
    }
}

impl Family for Llama {
    fn name(&self) -> &'static str {
        self.name
    }

    fn architecture(&self) -> &'static str {
        self.architecture
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn buffers(&self) -> &'static [&'static str] {
        &["rotary_emb.inv_freq"]
    }

    fn config(&self, keys: &mut Keys<'_>) -> Result<ModelConfig> {
        let (d_model, n_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
        let positions = keys.size("max_position_embeddings")?;
        let (rotary_base, share, rotary_scaling) =
            keys.rotary(("rope_theta", 10_000.0), ("partial_rotary_factor", 1.0), positions)?;
        if share != 1.0 {
            return Err(keys
                .fail(format!("partial_rotary_factor = {share}: {} models turn whole heads; 1 is needed", self.name)));
        }
        let window = self.window(keys)?;
        // Only Llama has switches for biases; Qwen2's stand as they are.
        let (attn_biases, mlp_biases) = if self.name == LLAMA.name {
            (keys.flag("attention_bias", false)?, keys.flag("mlp_bias", false)?)
        } else {
            keys.only("attention_bias", &json!(self.is_qwen2()))?;
            keys.only("mlp_bias", &json!(false))?;
            keys.only("use_mrope", &json!(false))?;
            (self.is_qwen2(), false)
        };
        Ok(ModelConfig {
            n_layers: keys.size("num_hidden_layers")?,
            d_model,
            n_heads,
            d_head: keys.maybe_size("head_dim", None)?.unwrap_or(0),
            n_key_value_heads: keys.maybe_size("num_key_value_heads", self.usual_key_value_heads())?.unwrap_or(0),
            d_mlp: keys.size("intermediate_size")?,
            act_fn: keys.act_fn("hidden_act", ActFn::Silu)?,
            gated_mlp: true,
            normalization_type: Normalization::RMS,
            positional_embedding_type: PositionalEmbedding::Rotary,
            rotary_base,
            rotary_scaling,
            attn_biases,
            mlp_biases,
            gate_biases: mlp_biases,
            unembed_bias: false,
            tied_embeddings: keys.flag("tie_word_embeddings", false)?,
            d_vocab: keys.size("vocab_size")?,
            // Within a window every query sees all keys before it, as queries here always do.
            n_ctx: window.map_or(positions, |window| window.min(positions)),
            eps: keys.eps("rms_norm_eps", 1e-6)?,
            ..ModelConfig::default()
        })
    }

    fn place(&self, layer: Option<usize>, part: &str, dims: &[usize]) -> Option<Place> {
        let Some(layer) = layer else {
            return Some(match part {
                "embed.W_E" => Place::same("embed_tokens.weight", dims),
                "ln_final.w" => Place::same("norm.weight", dims),
                "unembed.W_U" => Place::transposed("lm_head.weight", dims),
                _ => return None,
            });
        };
        let block = |name: &str| format!("layers.{layer}.{name}");
        let heads = |name: &str| match dims {
            [h, k] => Place::flat(block(&format!("self_attn.{name}.bias")), dims, &[h * k]),
            _ => Place::reading(block(&format!("self_attn.{name}.weight")), dims),
        };
        Some(match part {
            "attn.W_Q" | "attn.b_Q" => heads("q_proj"),
            "attn.W_K" | "attn.b_K" => heads("k_proj"),
            "attn.W_V" | "attn.b_V" => heads("v_proj"),
            "attn.W_O" => Place::writing(block("self_attn.o_proj.weight"), dims),
            // Qwen2 has biases of queries, keys and values alone.
            "attn.b_O" if !self.is_qwen2() => Place::same(block("self_attn.o_proj.bias"), dims),
            "ln1.w" => Place::same(block("input_layernorm.weight"), dims),
            "ln2.w" => Place::same(block("post_attention_layernorm.weight"), dims),
            "mlp.W_gate" => Place::transposed(block("mlp.gate_proj.weight"), dims),
            "mlp.b_gate" => Place::same(block("mlp.gate_proj.bias"), dims),
            "mlp.W_in" => Place::transposed(block("mlp.up_proj.weight"), dims),
            "mlp.b_in" => Place::same(block("mlp.up_proj.bias"), dims),
            "mlp.W_out" => Place::transposed(block("mlp.down_proj.weight"), dims),
            "mlp.b_out" => Place::same(block("mlp.down_proj.bias"), dims),
            _ => return None,
        })
    }

    fn misfits(&self, config: &ModelConfig) -> Vec<&'static str> {
        let rotary = config.positional_embedding_type == PositionalEmbedding::Rotary;
        holding(&[
            (!rotary, "positions must be rotary"),
            (rotary && config.rotary_dim != config.d_head, "whole heads must turn"),
            (matches!(config.normalization_type, Normalization::LN | Normalization::LNPre), "norms must be RMSNorms"),
            (!config.gated_mlp, "MLPs must be gated"),
            (config.parallel_attn_mlp, "MLPs must read behind attention"),
            (!config.d_model.is_multiple_of(config.n_heads), "d_model must be divisible by n_heads"),
            (!scales(config), "attn_scale must be the root of d_head"),
        ])
    }

    fn fit(&self, config: &ModelConfig) -> ModelConfig {
        ModelConfig {
            normalization_type: Normalization::RMS,
            mlp_biases: config.gate_biases,
            unembed_bias: false,
            ..config.clone()
        }
    }

    fn keys(&self, config: &ModelConfig) -> Value {
        let mut keys = json!({
            "hidden_size": config.d_model,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_key_value_heads,
            "head_dim": config.d_head,
            "num_hidden_layers": config.n_layers,
            "intermediate_size": config.d_mlp,
            "hidden_act": config.act_fn,
            "max_position_embeddings": config.n_ctx,
            "rms_norm_eps": config.eps,
            "attention_bias": config.attn_biases,
            "mlp_bias": config.mlp_biases,
        });
        write_rotary(&mut keys, config, ("rope_theta", None));
        keys
    }
}
