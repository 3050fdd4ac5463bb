//! The keys of a `config.json`: TransformerLens's in all its versions and our own. Each is understood, known
//! not to matter for weights that are there, or refused by name.

use std::path::Path;

use serde_json::{Map, Value};

use super::ModelConfig;
use super::tensors::Tensors;
use crate::error::{Error, Result};

/// Names under which files hold keys of [`ModelConfig`].
const ALIASES: &[(&str, &str)] = &[("tied", "tied_embeddings"), ("tie_word_embeddings", "tied_embeddings")];

/// Names that other libraries have for keys of [`ModelConfig`]: people write them by habit.
const ELSEWHERE: &[(&str, &str)] = &[
    ("ln_eps", "eps"),
    ("layer_norm_eps", "eps"),
    ("layer_norm_epsilon", "eps"),
    ("rms_norm_eps", "eps"),
    ("hidden_act", "act_fn"),
    ("activation_function", "act_fn"),
    ("hidden_size", "d_model"),
    ("n_embd", "d_model"),
    ("intermediate_size", "d_mlp"),
    ("n_inner", "d_mlp"),
    ("vocab_size", "d_vocab"),
    ("num_hidden_layers", "n_layers"),
    ("n_layer", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("n_head", "n_heads"),
    ("num_key_value_heads", "n_key_value_heads"),
    ("head_dim", "d_head"),
    ("n_positions", "n_ctx"),
    ("max_position_embeddings", "n_ctx"),
    ("rope_theta", "rotary_base"),
];

/// How weights were once drawn, where a model ran, which hooks it had, how its text became tokens, and parameters of
/// switches that [`plain`] wants off.
const IRRELEVANT: &[&str] = &[
    "NTK_by_parts_factor",
    "NTK_by_parts_high_freq_factor",
    "NTK_by_parts_low_freq_factor",
    "NTK_original_ctx_len",
    "_name_or_path",
    "architecture",
    "architectures",
    "attn_implementation",
    "bos_token_id",
    "checkpoint",
    "checkpoint_index",
    "checkpoint_label_type",
    "checkpoint_value",
    "default_padding_side",
    "default_prepend_bos",
    "device",
    "dtype",
    "eos_token_id",
    "from_checkpoint",
    "full_model_name",
    "init_weights",
    "model_family",
    "model_name",
    "model_type",
    "n_devices",
    "n_params",
    "norm_topk_prob",
    "original_architecture",
    "pad_token_id",
    "seed",
    "split_attention_weights",
    "tokenizer_appends_eos",
    "tokenizer_name",
    "tokenizer_prepends_bos",
    "torch_dtype",
    "transformers_version",
    "trust_remote_code",
    "ungroup_grouped_query_attention",
    "use_attn_in",
    "use_attn_result",
    "use_hook_mlp_in",
    "use_hook_tokens",
    "use_split_qkv_input",
    "weight_init_mode",
    "yarn_attention_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_factor",
    "yarn_original_max_position_embeddings",
];

/// Keys of ours of which -1 says that they are not set.
const NOT_SET: &[&str] = &[
    "attn_scale",
    "d_head",
    "d_mlp",
    "d_vocab",
    "d_vocab_out",
    "initializer_range",
    "n_heads",
    "n_key_value_heads",
    "rotary_dim",
];

/// Keys of ours that nothing but the file tells, and that have a value in every TransformerLens file: null is none.
const TOLD: &[&str] =
    &["eps", "final_rms", "parallel_attn_mlp", "positional_embedding_type", "rotary_base", "rotary_scaling"];

/// What asks for models that are not computed here, and the value that leaves a model as it is. Null always does.
fn plain(key: &str) -> Option<Value> {
    Some(match key {
        "is_audio_model"
        | "is_multimodal"
        | "is_stateful"
        | "is_visual_model"
        | "layer_norm_folding"
        | "load_in_4bit"
        | "post_embedding_ln"
        | "rmsnorm_uses_offset"
        | "rotary_adjacent_pairs"
        | "rotary_interleaved_cos_sin"
        | "scale_attn_by_inverse_layer_idx"
        | "scale_embedding"
        | "use_NTK_by_parts_rope"
        | "use_local_attn"
        | "use_normalization_before_and_after"
        | "use_qk_norm"
        | "use_yarn_rope"
        | "uses_rms_norm" => Value::Bool(false),
        "attn_types"
        | "decoder_start_token_id"
        | "experts_per_token"
        | "mm_tokens_per_image"
        | "num_experts"
        | "per_layer_head_dim"
        | "per_layer_num_key_value_heads"
        | "relative_attention_max_distance"
        | "relative_attention_num_buckets"
        | "rotary_base_local"
        | "vision_hidden_size"
        | "vision_num_heads"
        | "vision_num_layers"
        | "window_size" => Value::Null,
        "attention_dir" => Value::from("causal"),
        "rotary_scaling_factor" => Value::from(1.0),
        // Caps on scores and logits; no positive number is none.
        "attn_scores_soft_cap" | "output_logits_soft_cap" => Value::from(-1.0),
        _ => return None,
    })
}

/// Whether a value of a key that [`plain`] knows changes nothing.
fn changes_nothing(key: &str, value: &Value, plain: &Value, all: &Map<String, Value>) -> bool {
    let norm = all.get("normalization_type").and_then(Value::as_str).unwrap_or_default();
    match key {
        "attn_scores_soft_cap" | "output_logits_soft_cap" => value.as_f64().is_some_and(|cap| cap <= 0.0),
        // Parameters of a switch that is off.
        "attn_types" | "window_size" if all.get("use_local_attn") == Some(&Value::Bool(false)) => true,
        "uses_rms_norm" if norm.starts_with("RMS") => true,
        _ => value == plain || value.as_f64().is_some_and(|value| plain.as_f64() == Some(value)),
    }
}

/// The resolved configuration that the keys of a `config.json` describe. What it leaves out or marks as not set, by null
/// or -1, the weights tell.
pub(super) fn read(path: &Path, mut found: Map<String, Value>, tensors: &Tensors) -> Result<ModelConfig> {
    let fail = |detail: String| Error::format(path, detail);
    for (alias, key) in ALIASES {
        if let Some(value) = found.remove(*alias).filter(|value| !value.is_null()) {
            let known = found.entry(*key).or_insert_with(|| value.clone());
            if *known != value {
                return Err(fail(format!("{alias} = {value} contradicts {key} = {known}: delete the wrong one")));
            }
        }
    }
    for (key, value) in &found {
        if plain(key).is_some_and(|plain| !value.is_null() && !changes_nothing(key, value, &plain, &found)) {
            return Err(fail(format!("{key} = {value} asks for a kind of model that is not computed here")));
        }
    }
    // Scores are divided by attn_scale, unless a switch says that they are not divided at all.
    match found.remove("use_attn_scale") {
        None | Some(Value::Null | Value::Bool(true)) => {}
        Some(Value::Bool(false)) => {
            found.insert("attn_scale".to_owned(), Value::from(1.0));
        }
        Some(other) => return Err(fail(format!("use_attn_scale = {other} must be true or false"))),
    }
    if found.get("normalization_type") == Some(&Value::Null) {
        found.insert("normalization_type".to_owned(), Value::from("none"));
    }
    // How weights were once drawn does not matter any more; our own words for it are kept.
    if typed("init_mode", found.get("init_mode").unwrap_or(&Value::Null)).is_err() {
        found.remove("init_mode");
        found.remove("initializer_range");
    }
    if !found.get("initializer_range").and_then(Value::as_f64).is_some_and(|range| range > 0.0) {
        found.remove("initializer_range");
    }
    let Ok(Value::Object(ours)) = serde_json::to_value(ModelConfig::default()) else {
        return Err(fail("cannot be read".to_owned()));
    };
    let needless = |key: &str| plain(key).is_some() || IRRELEVANT.contains(&key);
    found.retain(|key, value| {
        let known = needless(key) || ours.contains_key(key) || ELSEWHERE.iter().any(|(name, _)| name == key);
        let marks = needless(key) || NOT_SET.contains(&key.as_str());
        let unset = value.is_null() && known && !TOLD.contains(&key.as_str()) || value.as_f64() == Some(-1.0) && marks;
        !unset
    });
    let (mut config, others): (Map<_, _>, Map<_, _>) = found.into_iter().partition(|(key, _)| ours.contains_key(key));
    ask_the_weights(&mut config, tensors);
    let without = |key: &str| key == "act_fn" && config.get("attn_only") == Some(&Value::Bool(true));
    let untold = ["normalization_type", "act_fn", "n_ctx"].into_iter().find(|key| !config.contains_key(*key));
    if let Some(key) = untold.filter(|key| !without(key)) {
        let other = others.keys().filter(|other| ELSEWHERE.contains(&(other.as_str(), key)));
        let other: String = other.map(|other| format!(" (there is {other}: is that it?)")).collect();
        return Err(fail(format!(
            "has no {key}, and the weights do not tell it: add it as the model was trained with{other}"
        )));
    }
    if let Some(key) = others.keys().find(|key| !needless(key)) {
        let advice = match ELSEWHERE.iter().find(|(name, _)| name == key) {
            Some((_, ours)) => format!("is called {ours} here: rename it"),
            None => "is not known: delete it if it does not change what the model computes".to_owned(),
        };
        return Err(fail(format!("{key} = {} {advice}", others[key.as_str()])));
    }
    for (key, value) in &config {
        typed(key, value).map_err(|error| fail(format!("{key} = {value}: {error}")))?;
    }
    let config: ModelConfig = serde_json::from_value(Value::Object(config)).map_err(|error| fail(error.to_string()))?;
    config.resolve().map_err(|error| fail(error.to_string()))
}

/// One key alone: the error of a whole configuration does not say whose it is.
pub(super) fn typed(key: &str, value: &Value) -> serde_json::Result<ModelConfig> {
    serde_json::from_value(Value::Object(Map::from_iter([(key.to_owned(), value.clone())])))
}

/// Fills in what the weights tell.
fn ask_the_weights(config: &mut Map<String, Value>, tensors: &Tensors) {
    let has = |name: &str| tensors.has(name);
    let facts = [
        ("attn_biases", has("blocks.0.attn.b_Q")),
        ("mlp_biases", has("blocks.0.mlp.b_in")),
        ("gate_biases", has("blocks.0.mlp.b_gate")),
        ("unembed_bias", has("unembed.b_U")),
        ("attn_only", !has("blocks.0.mlp.W_in")),
        ("gated_mlp", has("blocks.0.mlp.W_gate")),
        ("tied_embeddings", !has("unembed.W_U")),
    ];
    for (key, fact) in facts {
        config.entry(key).or_insert(Value::from(fact));
    }
    let size = |name: &str, at_from_end: usize| {
        tensors.get(name).and_then(|stored| {
            let shape = stored.shape();
            shape.len().checked_sub(at_from_end).map(|at| shape[at])
        })
    };
    let key_name = if has("blocks.0.attn._W_K") { "blocks.0.attn._W_K" } else { "blocks.0.attn.W_K" };
    for (key, value) in [
        ("d_vocab", size("embed.W_E", 2)),
        ("d_model", size("embed.W_E", 1)),
        ("n_ctx", size("pos_embed.W_pos", 2)),
        ("n_heads", size("blocks.0.attn.W_Q", 3)),
        ("d_head", size("blocks.0.attn.W_Q", 1)),
        ("n_key_value_heads", size(key_name, 3)),
        ("d_mlp", size("blocks.0.mlp.W_in", 1)),
        ("d_vocab_out", size("unembed.W_U", 1)),
        ("n_layers", (0..).find(|l| !has(&format!("blocks.{l}.attn.W_Q")))),
    ] {
        if let Some(value) = value {
            config.entry(key).or_insert(Value::from(value));
        }
    }
}

/// Buffers that files of such models hold beside the parameters: they follow from the configuration.
pub(super) fn is_buffer(name: &str, config: &ModelConfig) -> bool {
    let rotary = config.positional_embedding_type == super::PositionalEmbedding::Rotary;
    name.strip_prefix("blocks.").and_then(|rest| rest.split_once(".attn.")).is_some_and(|(layer, buffer)| {
        let in_range = layer.parse::<usize>().is_ok_and(|layer| layer < config.n_layers);
        in_range && (matches!(buffer, "mask" | "IGNORE") || rotary && matches!(buffer, "rotary_sin" | "rotary_cos"))
    })
}

/// The keys that decide whether a model has the tensor of that name, with their values.
pub(super) fn decided_by(name: &str, config: &ModelConfig) -> String {
    let in_block = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    let layer = in_block.and_then(|(layer, _)| layer.parse::<usize>().ok());
    let part = in_block.map_or(name, |(_, part)| part);
    let last = part.rsplit('.').next().unwrap_or(part);
    let keys: &[&str] = match part {
        _ if layer.is_some_and(|layer| layer >= config.n_layers) => &["n_layers"],
        "ln_final.b" if config.final_rms => &["normalization_type", "final_rms"],
        _ if part.starts_with("ln2") && config.attn_only => &["attn_only"],
        _ if part.starts_with("ln") => &["normalization_type"],
        _ if part.starts_with("mlp.") && config.attn_only => &["attn_only"],
        "mlp.W_gate" => &["gated_mlp"],
        "mlp.b_in" | "mlp.b_out" => &["mlp_biases"],
        "mlp.b_gate" => &["gate_biases"],
        _ if part.starts_with("mlp.") => &["attn_only"],
        _ if part.starts_with("attn.") && last.trim_start_matches('_').starts_with("b_") && !config.attn_biases => {
            &["attn_biases"]
        }
        _ if part.starts_with("attn.") && last.ends_with(['K', 'V']) => &["n_heads", "n_key_value_heads"],
        _ if part.starts_with("attn.b_") => &["attn_biases"],
        "attn.rotary_sin" | "attn.rotary_cos" | "pos_embed.W_pos" => &["positional_embedding_type"],
        "unembed.W_U" => &["tied_embeddings"],
        "unembed.b_U" => &["unembed_bias"],
        _ => &[],
    };
    let values = serde_json::to_value(config).unwrap_or_default();
    keys.iter().map(|key| format!("{key} = {}", values[*key])).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::autograd::ops::ActFn;
    use crate::model::{ModelFolder, Normalization, WeightTable};

    /// A folder with random weights, of a model like GPT-2 in small.
    struct Place {
        dir: tempfile::TempDir,
        folder: ModelFolder,
    }

    impl Place {
        fn new(change: impl Fn(&mut ModelConfig)) -> Self {
            let mut config = ModelConfig {
                n_layers: 2,
                d_model: 8,
                n_heads: 2,
                d_mlp: 12,
                act_fn: ActFn::GeluNew,
                normalization_type: Normalization::LN,
                d_vocab: 11,
                n_ctx: 5,
                ..ModelConfig::default()
            };
            change(&mut config);
            let config = config.resolve().unwrap();
            let replicas = vec![WeightTable::new(&config).draw(3)];
            let place = Self { dir: tempfile::tempdir().unwrap(), folder: ModelFolder { config, replicas } };
            place.folder.write(place.dir.path()).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Reads the folder with these keys in place of its own; null deletes nothing.
        fn with(&self, keys: Value) -> Result<ModelConfig> {
            let mut config: Map<String, Value> =
                serde_json::to_value(&self.folder.config).unwrap().as_object().unwrap().clone();
            config.extend(keys.as_object().unwrap().clone());
            std::fs::write(self.path("config.json"), Value::Object(config).to_string()).unwrap();
            ModelFolder::read(self.dir.path()).map(|folder| folder.config)
        }

        /// The folder is refused in these words.
        fn refused(&self, keys: Value, words: &[&str]) {
            let error = self.with(keys.clone()).expect_err(&keys.to_string()).to_string();
            for word in words {
                assert!(error.contains(word), "{keys} should speak of {word}: {error}");
            }
        }

        /// Writes the weights again under other names and with other tensors.
        fn rewrite(&self, change: impl Fn(&mut Vec<(String, Vec<usize>, Vec<f32>)>)) {
            use safetensors::{Dtype, tensor::TensorView};
            let table = WeightTable::new(&self.folder.config);
            let weights = &self.folder.replicas[0];
            let mut all = table
                .specs()
                .iter()
                .map(|s| (s.name.clone(), s.dims.clone(), weights[s.offset..][..s.len()].to_vec()))
                .collect();
            change(&mut all);
            let views = all.iter().map(|(name, dims, data)| {
                (name.as_str(), TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(data)).unwrap())
            });
            std::fs::write(self.path("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        }
    }

    #[test]
    fn every_way_to_say_not_set_is_understood() {
        let place = Place::new(|_| {});
        let plain = place.with(json!({})).unwrap();
        for keys in [
            json!({ "attn_scale": -1.0 }),
            json!({ "attn_scale": -1 }),
            json!({ "attn_scale": null }),
            json!({ "attn_scale": 0 }),
            json!({ "use_attn_scale": true, "attn_scale": -1.0 }),
            json!({ "initializer_range": -1.0 }),
            json!({ "init_mode": "xavier_uniform", "initializer_range": 1.0 }),
            json!({ "init_mode": "kaiming_normal", "initializer_range": -1.0 }),
            json!({ "d_vocab": -1, "d_vocab_out": -1, "n_heads": -1, "d_mlp": null, "n_key_value_heads": null }),
            json!({ "rotary_dim": null, "tied_embeddings": null, "attn_biases": null }),
            json!({ "attn_scores_soft_cap": -1.0, "output_logits_soft_cap": 0, "window_size": null }),
            json!({ "use_local_attn": false, "window_size": 256, "attn_types": ["global", "local"] }),
            json!({ "seed": 3, "device": "cuda", "dtype": "torch.float16", "n_params": 7, "use_attn_result": true }),
            json!({ "rotary_scaling_factor": 1, "rotary_base_local": null, "uses_rms_norm": false, "n_devices": 4 }),
            json!({ "tie_word_embeddings": false, "attention_dir": "causal", "num_experts": null }),
        ] {
            let mut found = place.with(keys.clone()).unwrap();
            (found.init_mode, found.initializer_range) = (plain.init_mode, plain.initializer_range);
            assert_eq!(found, plain, "{keys}");
        }
    }

    #[test]
    fn switches_that_change_what_is_computed_are_understood_or_refused() {
        let place = Place::new(|_| {});
        for scale in [json!(null), json!(-1.0), json!(2.0), json!(0)] {
            let found = place.with(json!({ "use_attn_scale": false, "attn_scale": scale })).unwrap();
            assert_eq!(found.attn_scale, 1.0, "scores are not divided");
        }
        assert_eq!(place.with(json!({ "use_attn_scale": true, "attn_scale": 3.0 })).unwrap().attn_scale, 3.0);
        for (key, value) in [
            ("use_local_attn", json!(true)),
            ("attention_dir", json!("bidirectional")),
            ("window_size", json!(64)),
            ("use_qk_norm", json!(true)),
            ("post_embedding_ln", json!(true)),
            ("scale_attn_by_inverse_layer_idx", json!(true)),
            ("use_normalization_before_and_after", json!(true)),
            ("attn_scores_soft_cap", json!(50.0)),
            ("output_logits_soft_cap", json!(30)),
            ("num_experts", json!(8)),
            ("rotary_scaling_factor", json!(8.0)),
            ("use_yarn_rope", json!(true)),
            ("rmsnorm_uses_offset", json!(true)),
            ("uses_rms_norm", json!(true)),
            ("load_in_4bit", json!(true)),
            ("use_attn_scale", json!("no")),
            ("attn_scale", json!(-2.0)),
            ("attn_scale", json!("sqrt")),
            ("positional_embedding_type", json!("alibi")),
            ("normalization_type", json!("BatchNorm")),
            ("act_fn", json!("solu_ln")),
            ("d_model", json!("wide")),
            ("my_own_switch", json!(true)),
        ] {
            place.refused(json!({ key: value }), &[key, "config.json"]);
        }
        place.refused(json!({ "act_fn": "solu_ln" }), &["act_fn", "solu_ln", "gelu_new", "silu"]);
        place.refused(json!({ "ln_eps": 1e-6 }), &["ln_eps", "eps"]);
        place.refused(json!({ "my_own_switch": 1 }), &["my_own_switch", "delete it"]);
        // No value makes a key known, and -1 says "not set" of those keys alone of which TransformerLens says so.
        place.refused(json!({ "my_own_switch": -1 }), &["my_own_switch", "delete it"]);
        place.refused(json!({ "my_own_switch": null }), &["my_own_switch", "delete it"]);
        place.refused(json!({ "eps": -1 }), &["eps"]);
        // Null says so where the weights tell, and nowhere else.
        for key in TOLD {
            place.refused(json!({ *key: null }), &[key, "null"]);
        }
        place.refused(json!({ "n_layers": -1 }), &["n_layers"]);
        place.refused(json!({ "tied": true, "tied_embeddings": false }), &["tied", "contradicts"]);
    }

    #[test]
    fn a_byte_order_mark_before_the_configuration_is_passed_over() {
        let place = Place::new(|_| {});
        let text = std::fs::read(place.path("config.json")).unwrap();
        std::fs::write(place.path("config.json"), [b"\xef\xbb\xbf".as_slice(), &text].concat()).unwrap();
        assert_eq!(ModelFolder::read(place.dir.path()).unwrap().config, place.folder.config);
    }

    #[test]
    fn tensors_that_the_configuration_has_no_use_for_are_told() {
        let place = Place::new(|config| config.gated_mlp = true);
        for (keys, words) in [
            (json!({ "n_layers": 1 }), &["n_layers = 1", "blocks.1.attn.W_K", "more"][..]),
            (json!({ "n_layers": 3 }), &["blocks.2.", "n_layers = 3"]),
            (json!({ "normalization_type": null }), &["normalization_type = \"none\"", "blocks.0.ln1.b"]),
            (json!({ "normalization_type": "RMS" }), &["normalization_type = \"RMS\"", "blocks.0.ln1.b"]),
            (json!({ "final_rms": true }), &["final_rms = true", "ln_final.b"]),
            (json!({ "gated_mlp": false }), &["gated_mlp = false", "blocks.0.mlp.W_gate"]),
            (json!({ "attn_only": true }), &["attn_only = true", "blocks.0.ln2.b"]),
            (json!({ "attn_biases": false }), &["attn_biases = false", "blocks.0.attn.b_K"]),
            (json!({ "mlp_biases": false }), &["mlp_biases = false", "blocks.0.mlp.b_in"]),
            (json!({ "unembed_bias": false }), &["unembed_bias = false", "unembed.b_U"]),
            (json!({ "positional_embedding_type": "rotary" }), &["positional_embedding_type = \"rotary\"", "W_pos"]),
            (json!({ "n_key_value_heads": 1 }), &["attn.W_K", "[2, 8, 4]", "[1, 8, 4]"]),
            (json!({ "tied_embeddings": true }), &["unembed.W_U", "embed.W_E", "tie_word_embeddings"]),
            (json!({ "d_vocab": 12 }), &["embed.W_E", "[11, 8]", "[12, 8]"]),
        ] {
            place.refused(keys, words);
        }
        place.rewrite(|all| all.push(("blocks.0.attn.W_Z".to_owned(), vec![1], vec![0.0])));
        place.refused(json!({}), &["blocks.0.attn.W_Z", "delete"]);
        // Buffers are no parameters, and a transpose that is one is no contradiction.
        let tied = Place::new(|config| config.tied_embeddings = true);
        tied.rewrite(|all| {
            let embed = all.iter().find(|(name, ..)| name == "embed.W_E").unwrap().2.clone();
            let out = (0..8 * 11).map(|at| embed[at % 11 * 8 + at / 11]).collect();
            all.push(("unembed.W_U".to_owned(), vec![8, 11], out));
            all.push(("blocks.1.attn.mask".to_owned(), vec![5, 5], vec![1.0; 25]));
            all.push(("blocks.0.attn.IGNORE".to_owned(), vec![], vec![f32::NEG_INFINITY]));
        });
        assert_eq!(tied.with(json!({})).unwrap(), tied.folder.config);
    }

    #[test]
    fn keys_and_values_may_be_marked_as_shared_where_they_are_not() {
        let place = Place::new(|_| {});
        let mark = |name: &str| ["W_K", "W_V", "b_K", "b_V"].iter().any(|end| name.ends_with(end));
        let marked = |all: &mut Vec<(String, Vec<usize>, Vec<f32>)>| {
            for (name, ..) in all.iter_mut().filter(|(name, ..)| mark(name)) {
                *name = name.replace(".attn.", ".attn._");
            }
        };
        place.rewrite(marked);
        assert_eq!(place.with(json!({ "n_key_value_heads": 2 })).unwrap(), place.folder.config);
        assert_eq!(ModelFolder::read(place.dir.path()).unwrap().replicas, place.folder.replicas);
        // Both are one too many.
        place.rewrite(|all| {
            let twice = all.iter().find(|(name, ..)| name.ends_with("W_K")).unwrap().clone();
            all.push((twice.0.replace(".attn.", ".attn._"), twice.1, twice.2));
        });
        place.refused(json!({}), &["blocks.0.attn._W_K", "n_key_value_heads = 2"]);
    }

    #[test]
    fn the_last_norm_may_be_rms_alone() {
        let place = Place::new(|config| config.final_rms = true);
        let table = WeightTable::new(&place.folder.config);
        assert!(table.find("ln_final.w").is_some() && table.find("ln_final.b").is_none());
        assert!(table.find("blocks.1.ln2.b").is_some());
        assert_eq!(place.with(json!({})).unwrap(), place.folder.config);
    }

    #[test]
    fn folders_of_several_replicas_and_what_contradicts_them() {
        let place = Place::new(|_| {});
        let replicas = [4, 5].map(|seed| WeightTable::new(&place.folder.config).draw(seed)).to_vec();
        let folder = ModelFolder { config: place.folder.config.clone(), replicas };
        folder.write(place.dir.path()).unwrap();
        assert_eq!(ModelFolder::read(place.dir.path()).unwrap().replicas, folder.replicas);
        place.rewrite(|all| {
            let bias = all.iter_mut().find(|(name, ..)| name == "unembed.b_U").unwrap();
            (bias.1, bias.2) = (vec![3, 11], vec![0.0; 33]);
        });
        place.refused(json!({}), &["unembed.b_U", "[3, 11]"]);
    }
}
