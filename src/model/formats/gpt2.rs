//! GPT-2: learned positions, LayerNorms, weights kept as [in, out] (`Conv1D`), queries, keys and values in one tensor.

use serde_json::{Value, json};

use super::{Family, Keys, Place, holding, misfits_of_old, scales};
use crate::autograd::ops::ActFn;
use crate::error::Result;
use crate::model::tensors::Strides;
use crate::model::{ModelConfig, Normalization, PositionalEmbedding};

/// `GPT2LMHeadModel`, as in transformers' modeling_gpt2.py.
pub(super) struct Gpt2;

impl Family for Gpt2 {
    fn name(&self) -> &'static str {
        "gpt2"
    }

    fn architecture(&self) -> &'static str {
        "GPT2LMHeadModel"
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn buffers(&self) -> &'static [&'static str] {
        &[".attn.bias", ".attn.masked_bias"]
    }

    fn config(&self, keys: &mut Keys<'_>) -> Result<ModelConfig> {
        let (d_model, n_heads, n_ctx) = (keys.size("n_embd")?, keys.size("n_head")?, keys.size("n_positions")?);
        // What the oldest files call the size of the mask.
        keys.only("n_ctx", &json!(n_ctx))?;
        keys.only("scale_attn_by_inverse_layer_idx", &json!(false))?;
        // Heads that classify, which no language model has.
        keys.pass(&[
            "n_special",
            "predict_special_tokens",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        ]);
        Ok(ModelConfig {
            n_layers: keys.size("n_layer")?,
            d_model,
            n_heads,
            d_mlp: keys.maybe_size("n_inner", None)?.unwrap_or(0),
            act_fn: keys.act_fn("activation_function", ActFn::GeluNew)?,
            normalization_type: Normalization::LN,
            unembed_bias: false,
            tied_embeddings: keys.flag("tie_word_embeddings", true)?,
            d_vocab: keys.size("vocab_size")?,
            n_ctx,
            eps: keys.eps("layer_norm_epsilon", 1e-5)?,
            attn_scale: if keys.flag("scale_attn_weights", true)? { 0.0 } else { 1.0 },
            ..ModelConfig::default()
        })
    }

    fn place(&self, layer: Option<usize>, part: &str, dims: &[usize]) -> Option<Place> {
        let Some(layer) = layer else {
            return Some(match part {
                "embed.W_E" => Place::same("wte.weight", dims),
                "pos_embed.W_pos" => Place::same("wpe.weight", dims),
                "ln_final.w" => Place::same("ln_f.weight", dims),
                "ln_final.b" => Place::same("ln_f.bias", dims),
                "unembed.W_U" => Place::transposed("lm_head.weight", dims),
                _ => return None,
            });
        };
        let block = |name: &str| format!("h.{layer}.{name}");
        // Columns are queries, keys, values; within each, heads.
        let which = ["Q", "K", "V"].iter().position(|which| part.ends_with(which));
        Some(match (part, which, dims) {
            (_, Some(which), &[h, d, k]) => Place {
                name: block("attn.c_attn.weight"),
                shape: vec![d, 3 * h * k],
                at: Strides { start: which * h * k, strides: vec![k, 3 * h * k, 1] },
            },
            (_, Some(which), &[h, k]) => Place {
                name: block("attn.c_attn.bias"),
                shape: vec![3 * h * k],
                at: Strides::contiguous(which * h * k, dims),
            },
            ("attn.W_O", _, &[h, k, d]) => Place::flat(block("attn.c_proj.weight"), dims, &[h * k, d]),
            ("attn.b_O", ..) => Place::same(block("attn.c_proj.bias"), dims),
            ("ln1.w", ..) => Place::same(block("ln_1.weight"), dims),
            ("ln1.b", ..) => Place::same(block("ln_1.bias"), dims),
            ("ln2.w", ..) => Place::same(block("ln_2.weight"), dims),
            ("ln2.b", ..) => Place::same(block("ln_2.bias"), dims),
            ("mlp.W_in", ..) => Place::same(block("mlp.c_fc.weight"), dims),
            ("mlp.b_in", ..) => Place::same(block("mlp.c_fc.bias"), dims),
            ("mlp.W_out", ..) => Place::same(block("mlp.c_proj.weight"), dims),
            ("mlp.b_out", ..) => Place::same(block("mlp.c_proj.bias"), dims),
            _ => return None,
        })
    }

    fn misfits(&self, config: &ModelConfig) -> Vec<&'static str> {
        let own = holding(&[
            (config.positional_embedding_type != PositionalEmbedding::Standard, "positions must be learned"),
            (config.parallel_attn_mlp, "MLPs must read behind attention"),
            (!scales(config) && config.attn_scale != 1.0, "attn_scale must be 1 or the root of d_head"),
        ]);
        [own, misfits_of_old(config)].concat()
    }

    fn fit(&self, config: &ModelConfig) -> ModelConfig {
        ModelConfig {
            normalization_type: Normalization::LN,
            attn_biases: true,
            mlp_biases: true,
            unembed_bias: false,
            ..config.clone()
        }
    }

    fn keys(&self, config: &ModelConfig) -> Value {
        json!({
            "n_embd": config.d_model,
            "n_head": config.n_heads,
            "n_layer": config.n_layers,
            "n_positions": config.n_ctx,
            "n_inner": config.d_mlp,
            "activation_function": config.act_fn,
            "layer_norm_epsilon": config.eps,
            "scale_attn_weights": scales(config),
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        })
    }
}
