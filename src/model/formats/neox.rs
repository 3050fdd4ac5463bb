//! GPT-NeoX and Pythia: rotary positions on a part of each head, LayerNorms, MLPs beside attention; queries, keys and
//! values in one tensor, head by head.

use serde_json::{Value, json};

use super::keys::write_rotary;
use super::{Family, Keys, Place, holding, misfits_of_old, scales};
use crate::autograd::ops::ActFn;
use crate::error::Result;
use crate::model::tensors::Strides;
use crate::model::{ModelConfig, Normalization, PositionalEmbedding};

/// `GPTNeoXForCausalLM`, as in transformers' modeling_gpt_neox.py.
pub(super) struct Neox;

impl Family for Neox {
    fn name(&self) -> &'static str {
        "gpt_neox"
    }

    fn architecture(&self) -> &'static str {
        "GPTNeoXForCausalLM"
    }

    fn prefix(&self) -> &'static str {
        "gpt_neox."
    }

    fn heads(&self) -> &'static [&'static str] {
        &["embed_out.weight", "lm_head.weight"]
    }

    fn buffers(&self) -> &'static [&'static str] {
        &[".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"]
    }

    fn config(&self, keys: &mut Keys<'_>) -> Result<ModelConfig> {
        let (d_model, n_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
        let n_ctx = keys.size("max_position_embeddings")?;
        let (base, share, scaling) = keys.rotary(("rotary_emb_base", 10_000.0), ("rotary_pct", 0.25), n_ctx)?;
        let d_head = d_model / n_heads.max(1);
        let rotary_dim = (d_head as f64 * share) as usize;
        if rotary_dim == 0 {
            return Err(keys.fail(format!(
                "rotary positions turn {share} of a head (rotary_pct or partial_rotary_factor), which is no dimension of {d_head}; a share up to 1 is needed"
            )));
        }
        Ok(ModelConfig {
            n_layers: keys.size("num_hidden_layers")?,
            d_model,
            n_heads,
            d_mlp: keys.size("intermediate_size")?,
            act_fn: keys.act_fn("hidden_act", ActFn::Gelu)?,
            normalization_type: Normalization::LN,
            positional_embedding_type: PositionalEmbedding::Rotary,
            rotary_dim,
            rotary_base: base,
            rotary_scaling: scaling,
            parallel_attn_mlp: keys.flag("use_parallel_residual", true)?,
            attn_biases: keys.flag("attention_bias", true)?,
            unembed_bias: false,
            tied_embeddings: keys.flag("tie_word_embeddings", false)?,
            d_vocab: keys.size("vocab_size")?,
            n_ctx,
            eps: keys.eps("layer_norm_eps", 1e-5)?,
            ..ModelConfig::default()
        })
    }

    fn place(&self, layer: Option<usize>, part: &str, dims: &[usize]) -> Option<Place> {
        let Some(layer) = layer else {
            return Some(match part {
                "embed.W_E" => Place::same("embed_in.weight", dims),
                "ln_final.w" => Place::same("final_layer_norm.weight", dims),
                "ln_final.b" => Place::same("final_layer_norm.bias", dims),
                "unembed.W_U" => Place::transposed("embed_out.weight", dims),
                _ => return None,
            });
        };
        let block = |name: &str| format!("layers.{layer}.{name}");
        // Rows are heads; within each, its query, key and value.
        let which = ["Q", "K", "V"].iter().position(|which| part.ends_with(which));
        Some(match (part, which, dims) {
            (_, Some(which), &[h, d, k]) => Place {
                name: block("attention.query_key_value.weight"),
                shape: vec![3 * h * k, d],
                at: Strides { start: which * k * d, strides: vec![3 * k * d, 1, d] },
            },
            (_, Some(which), &[h, k]) => Place {
                name: block("attention.query_key_value.bias"),
                shape: vec![3 * h * k],
                at: Strides { start: which * k, strides: vec![3 * k, 1] },
            },
            ("attn.W_O", ..) => Place::writing(block("attention.dense.weight"), dims),
            ("attn.b_O", ..) => Place::same(block("attention.dense.bias"), dims),
            ("ln1.w", ..) => Place::same(block("input_layernorm.weight"), dims),
            ("ln1.b", ..) => Place::same(block("input_layernorm.bias"), dims),
            ("ln2.w", ..) => Place::same(block("post_attention_layernorm.weight"), dims),
            ("ln2.b", ..) => Place::same(block("post_attention_layernorm.bias"), dims),
            ("mlp.W_in", ..) => Place::transposed(block("mlp.dense_h_to_4h.weight"), dims),
            ("mlp.b_in", ..) => Place::same(block("mlp.dense_h_to_4h.bias"), dims),
            ("mlp.W_out", ..) => Place::transposed(block("mlp.dense_4h_to_h.weight"), dims),
            ("mlp.b_out", ..) => Place::same(block("mlp.dense_4h_to_h.bias"), dims),
            _ => return None,
        })
    }

    fn misfits(&self, config: &ModelConfig) -> Vec<&'static str> {
        let own = holding(&[
            (config.positional_embedding_type != PositionalEmbedding::Rotary, "positions must be rotary"),
            (!scales(config), "attn_scale must be the root of d_head"),
        ]);
        [own, misfits_of_old(config)].concat()
    }

    fn fit(&self, config: &ModelConfig) -> ModelConfig {
        ModelConfig { normalization_type: Normalization::LN, mlp_biases: true, unembed_bias: false, ..config.clone() }
    }

    fn keys(&self, config: &ModelConfig) -> Value {
        let mut keys = json!({
            "hidden_size": config.d_model,
            "num_attention_heads": config.n_heads,
            "num_hidden_layers": config.n_layers,
            "intermediate_size": config.d_mlp,
            "hidden_act": config.act_fn,
            "max_position_embeddings": config.n_ctx,
            "layer_norm_eps": config.eps,
            "use_parallel_residual": config.parallel_attn_mlp,
            "attention_bias": config.attn_biases,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
        });
        // Readers round the product down, which must not come out below the number that was meant.
        let (turns, all) = (config.rotary_dim as f64, config.d_head as f64);
        let share = if (turns / all * all) as usize == config.rotary_dim { turns / all } else { (turns + 0.5) / all };
        write_rotary(&mut keys, config, ("rotary_emb_base", Some(("rotary_pct", share))));
        keys
    }
}
