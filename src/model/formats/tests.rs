//! Folders that transformers wrote (tools/formats.py), what contradicts itself in them, and what is written again.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::autograd::Var;
use crate::autograd::check::{Case, gpus};
use crate::autograd::ops::RotaryScaling;
use crate::error::Result;
use crate::model::{Model, ModelConfig, ModelFolder, ReadOut, Rows, WeightTable};

const ALL: [&str; 9] =
    ["gpt2", "gpt2-untied", "llama", "llama-linear", "llama3", "mistral", "neox", "neox-sequential", "qwen2"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats").join(name)
}

fn read(name: &str) -> ModelFolder {
    ModelFolder::read(&golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[derive(Deserialize)]
struct Expected {
    tokens: Vec<Vec<u32>>,
    logits: Vec<Vec<Vec<f64>>>,
}

impl Expected {
    fn of(name: &str) -> Self {
        serde_json::from_slice(&std::fs::read(golden(name).join("expected.json")).unwrap()).unwrap()
    }

    /// The logits of a folder's model for the tokens.
    fn graph(&self, folder: &ModelFolder) -> (Case, Var) {
        let mut case = Case::new("a folder's model");
        let model = Model::new(&folder.config, &mut case.tape);
        for (spec, weight) in model.table.specs().iter().zip(&model.weights) {
            case.set(*weight, folder.replicas[0][spec.offset..][..spec.len()].to_vec());
        }
        let (batch, seq) = (self.tokens.len(), self.tokens[0].len());
        let rows = Rows::Each { tokens: case.tape.constant_u32(&[batch * seq], &self.tokens.concat()) };
        let logits = model.forward(&mut case.tape, &rows, batch, seq, ReadOut::All).unwrap().logits;
        (case, logits)
    }

    /// The norm of the difference to these logits, relative to their norm.
    fn error(&self, found: impl IntoIterator<Item = f64>) -> f64 {
        let expected = self.logits.iter().flatten().flatten();
        let [difference, norm] = expected.zip(found).fold([0.0; 2], |[difference, norm], (expected, found)| {
            [difference + (expected - found).powi(2), norm + expected * expected]
        });
        (difference / norm).sqrt()
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for name in ALL {
        let expected = Expected::of(name);
        let (case, logits) = expected.graph(&read(name));
        // Angles are in f32 in transformers and here, and so are norms of the Llama family there.
        let error = expected.error(case.reference(0, &[logits]).unwrap().remove(0).data);
        assert!(error < 1e-6, "{name} in f64: {error:.1e}");
        for gpu in gpus() {
            let found = case.run(gpu, &[logits]).unwrap().remove(0).remove(0);
            let error = expected.error(found.into_iter().map(f64::from));
            assert!(error < 1e-5, "{name} on {}: {error:.1e}", gpu.caps().name);
        }
    }
}

#[test]
fn what_is_written_reads_as_the_same_model() {
    let place = tempfile::tempdir().unwrap();
    for name in ALL {
        let folder = read(name);
        let dir = place.path().join(name);
        folder.write_hf(&dir).unwrap();
        let again = ModelFolder::read(&dir).unwrap();
        // How weights were once drawn is not kept apart from the rest; Qwen2 and Mistral are written as Llama.
        let config = ModelConfig { initializer_range: again.config.initializer_range, ..folder.config.clone() };
        assert_eq!(again.config, config, "{name}");
        assert!(again.replicas == folder.replicas, "{name}");
        folder.write(&dir.join("lens")).unwrap();
        let lens = ModelFolder::read(&dir.join("lens")).unwrap();
        assert_eq!(lens.config, folder.config, "{name}");
        assert!(lens.replicas == folder.replicas, "{name}");
    }
}

#[test]
fn models_that_no_layout_fits_are_refused_by_what_they_have() {
    let place = tempfile::tempdir().unwrap();
    let refused = |name: &str, change: &dyn Fn(&mut ModelConfig), words: &[&str]| {
        let mut config = read(name).config;
        change(&mut config);
        let config = config.resolve().unwrap();
        let mut weights = WeightTable::new(&config).draw(0);
        weights.iter_mut().for_each(|weight| *weight += 0.1);
        let folder = ModelFolder { config, replicas: vec![weights] };
        let error = folder.write_hf(place.path()).unwrap_err().to_string();
        for word in words.iter().chain(&["no Hugging Face layout"]) {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(!place.path().join("config.json").exists());
    };
    refused("gpt2", &|config| config.unembed_bias = true, &["all: no place for unembed.b_U", "not zero"]);
    // Whatever stands in the way is told at once, of all layouts and of each.
    let several = |config: &mut ModelConfig| {
        (config.unembed_bias, config.attn_only, config.d_vocab_out) = (true, true, 7);
        (config.final_rms, config.parallel_attn_mlp, config.attn_scale) = (true, true, 3.0);
    };
    let words = ["attn_only", "d_vocab_out", "unembed.b_U", "gpt2: MLPs", "attn_scale must be 1", "last norm", "neox:"];
    refused("gpt2-untied", &several, &words);
    refused("gpt2", &|config| config.attn_only = true, &["attn_only"]);
    refused("gpt2", &|config| config.attn_scale = 3.0, &["gpt2: attn_scale", "neox: positions", "llama: positions"]);
    refused("gpt2-untied", &|config| config.d_vocab_out = 7, &["d_vocab_out"]);
    refused("neox", &|config| config.gated_mlp = true, &["gpt2: positions", "neox: MLPs must not be gated", "llama:"]);
    refused("llama", &|config| config.parallel_attn_mlp = true, &["neox: norms", "llama: MLPs"]);
    refused("llama", &|config| config.mlp_biases = true, &["blocks.0.mlp.b_in"]);
    let folder = read("gpt2");
    let two = ModelFolder { replicas: [folder.replicas.clone(), folder.replicas].concat(), config: folder.config };
    assert!(two.write_hf(place.path()).unwrap_err().to_string().contains("2 replicas"));
}

#[test]
fn what_a_model_lacks_and_its_layout_has_is_written_as_what_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let config = ModelConfig {
        normalization_type: crate::model::Normalization::LNPre,
        attn_biases: false,
        mlp_biases: false,
        ..read("gpt2").config
    };
    let expected = Expected::of("gpt2");
    let weights = WeightTable::new(&config).draw(1);
    let folder = ModelFolder { config, replicas: vec![weights] };
    folder.write_hf(place.path()).unwrap();
    let again = ModelFolder::read(place.path()).unwrap();
    assert!(again.config.attn_biases && again.config.mlp_biases);
    let logits = [&folder, &again].map(|folder| {
        let (case, logits) = expected.graph(folder);
        case.reference(0, &[logits]).unwrap().remove(0).data
    });
    assert_eq!(logits[0], logits[1]);
}

/// A copy of a folder, to be changed.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        for file in ModelFolder::files(&golden(name)).unwrap() {
            std::fs::copy(&file, copy.path(file.file_name().unwrap().to_str().unwrap())).unwrap();
        }
        copy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn keys(&self) -> Map<String, Value> {
        serde_json::from_slice(&std::fs::read(self.path("config.json")).unwrap()).unwrap()
    }

    /// Reads it with these keys over its own, which stay as they are.
    fn with(&self, keys: &Value) -> Result<ModelFolder> {
        let own = self.keys();
        let mut all = own.clone();
        all.extend(keys.as_object().unwrap().clone());
        std::fs::write(self.path("config.json"), Value::Object(all).to_string()).unwrap();
        let read = ModelFolder::read(self.0.path());
        std::fs::write(self.path("config.json"), Value::Object(own).to_string()).unwrap();
        read
    }

    fn refused(&self, keys: Value, words: &[&str]) {
        let error = self.with(&keys).map(|folder| folder.config).expect_err(&keys.to_string()).to_string();
        for word in words {
            assert!(error.contains(word), "{keys} should speak of {word}: {error}");
        }
    }

    /// Writes the weights again with other names, dimensions or values.
    fn rewrite(&self, change: impl Fn(&mut Vec<(String, Vec<usize>, Vec<f32>)>)) {
        use safetensors::{Dtype, SafeTensors, tensor::TensorView};
        let bytes = std::fs::read(self.path("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |view: &TensorView<'_>| bytemuck::pod_collect_to_vec(view.data());
        let mut all =
            tensors.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec(), floats(&view))).collect();
        change(&mut all);
        let views = all.iter().map(|(name, dims, data)| {
            (name.as_str(), TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(data)).unwrap())
        });
        std::fs::write(self.path("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

#[test]
fn keys_that_change_what_is_computed_are_understood_or_refused() {
    let gpt2 = Copy::of("gpt2");
    for (keys, words) in [
        (json!({ "scale_attn_by_inverse_layer_idx": true }), &["scale_attn_by_inverse_layer_idx"][..]),
        (json!({ "add_cross_attention": true }), &["add_cross_attention"]),
        (json!({ "activation_function": "quick_gelu" }), &["activation_function", "quick_gelu", "gelu_new"]),
        (json!({ "n_ctx": 7 }), &["n_ctx = 7", "12"]),
        (json!({ "n_embd": null }), &["n_embd = null", "whole number"]),
        (json!({ "model_type": -1 }), &["model_type = -1", "word"]),
        (json!({ "architectures": "GPT2LMHeadModel" }), &["architectures", "list"]),
        (json!({ "architectures": [3] }), &["architectures", "list of words"]),
        (json!({ "n_inner": 0 }), &["n_inner = 0", "above 0"]),
        (json!({ "n_positions": 0 }), &["n_positions = 0"]),
        (json!({ "vocab_size": 1.5 }), &["vocab_size = 1.5"]),
        (json!({ "layer_norm_epsilon": null }), &["layer_norm_epsilon = null"]),
        (json!({ "layer_norm_epsilon": -1e-5 }), &["layer_norm_epsilon"]),
        (json!({ "activation_function": null }), &["activation_function = null"]),
        (json!({ "scale_attn_weights": null }), &["scale_attn_weights = null"]),
        (json!({ "tie_word_embeddings": null }), &["tie_word_embeddings = null"]),
        (json!({ "my_own_switch": null }), &["my_own_switch = null", "delete"]),
        (json!({ "n_head": -1 }), &["n_head = -1", "whole number"]),
        (json!({ "n_head": 0 }), &["n_head = 0"]),
        (json!({ "n_layer": 3 }), &["transformer.h.2.ln_1.weight", "3 layers", "[16]"]),
        (json!({ "n_layer": 1 }), &["transformer.h.1.attn.c_attn.bias", "1 layers", "more"]),
        (json!({ "vocab_size": 20 }), &["transformer.wte.weight", "[19, 16]", "[20, 16]"]),
        (json!({ "tie_word_embeddings": false }), &["lm_head.weight", "tie_word_embeddings"]),
        (json!({ "quantization_config": { "bits": 4 } }), &["quantization_config"]),
        (json!({ "model_type": "bloom" }), &["bloom", "gpt2", "qwen2", "TransformerLens"]),
    ] {
        gpt2.refused(keys, words);
    }
    // Null says "not set" where transformers takes it so.
    assert!(gpt2.with(&json!({ "n_inner": null, "add_cross_attention": null, "pad_token_id": null })).is_ok());
    // Any of the two says what it is, and the order in which numbers are scaled is no other model.
    assert!(gpt2.with(&json!({ "model_type": null, "reorder_and_upcast_attn": true })).is_ok());
    assert_eq!(gpt2.with(&json!({ "scale_attn_weights": false })).unwrap().config.attn_scale, 1.0);

    let llama = Copy::of("llama3");
    let rope = |rope: Value| json!({ "rope_parameters": rope });
    for (keys, words) in [
        (rope(json!({ "rope_type": "yarn", "factor": 4.0 })), &["yarn", "llama3"][..]),
        (rope(json!({ "rope_type": "linear" })), &["linear", "needs factor"]),
        (rope(json!({ "rope_type": "linear", "factor": "x" })), &["factor", "number"]),
        (rope(json!({ "rope_type": "linear", "factor": -1.0 })), &["factor = -1.0", "above 0"]),
        (rope(json!({ "rope_type": "linear", "factor": null })), &["factor = null"]),
        (rope(json!({ "rope_type": null })), &["rope_type = null", "word"]),
        (rope(json!({ "rope_theta": null })), &["rope_theta = null"]),
        (json!({ "rms_norm_eps": null }), &["rms_norm_eps = null"]),
        (json!({ "rope_theta": null }), &["rope_theta = null"]),
        (json!({ "head_dim": 0 }), &["head_dim = 0", "above 0"]),
        (json!({ "num_key_value_heads": 0 }), &["num_key_value_heads = 0"]),
        (json!({ "intermediate_size": 0 }), &["intermediate_size = 0"]),
        (json!({ "max_position_embeddings": -4 }), &["max_position_embeddings = -4"]),
        (json!({ "attention_bias": null }), &["attention_bias = null"]),
        (json!({ "hidden_act": null }), &["hidden_act = null"]),
        (rope(json!({ "rope_type": "default", "mscale": 1.0 })), &["mscale"]),
        (rope(json!({ "rope_type": "default", "partial_rotary_factor": 0.5 })), &["partial_rotary_factor", "whole"]),
        (rope(json!({ "rope_type": "default", "type": "mrope" })), &["default", "mrope"]),
        (rope(json!({ "full_attention": { "rope_type": "default" } })), &["full_attention", "layer"]),
        (json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }), &["rope_scaling", "contradict"]),
        (json!({ "rope_theta": 1e6 }), &["rope_theta", "contradicts", "50000"]),
        (json!({ "attention_bias": false }), &["q_proj.bias", "k_proj.bias", "more"]),
        (json!({ "num_key_value_heads": 4 }), &["k_proj.weight", "[16, 16]", "[32, 16]"]),
        (json!({ "head_dim": 4 }), &["q_proj.weight", "[32, 16]", "[16, 16]"]),
        (json!({ "sliding_window": 4 }), &["sliding_window"]),
    ] {
        llama.refused(keys, words);
    }

    let linear = Copy::of("llama-linear");
    linear.refused(json!({ "mlp_bias": false }), &["model.safetensors.index.json", "mlp.down_proj.bias"]);

    assert!(llama.with(&json!({ "hidden_act": "swish" })).is_ok());

    let mistral = Copy::of("mistral");
    let n_ctx = |keys: Value| mistral.with(&keys).unwrap().config.n_ctx;
    assert_eq!((n_ctx(json!({})), n_ctx(json!({ "sliding_window": null }))), (10, 12));
    let qwen2 = Copy::of("qwen2");
    let n_ctx = |keys: Value| qwen2.with(&keys).unwrap().config.n_ctx;
    assert_eq!(n_ctx(json!({ "sliding_window": 5 })), 12);
    assert_eq!(n_ctx(json!({ "sliding_window": 5, "use_sliding_window": true })), 5);
    qwen2.refused(json!({ "layer_types": ["full_attention", "linear_attention"] }), &["linear_attention"]);
}

#[test]
fn older_names_of_positions_mean_the_same() {
    let llama = Copy::of("llama3");
    let known = llama.with(&json!({})).unwrap().config;
    let scaling = llama.keys()["rope_parameters"].clone();
    let old = json!({ "rope_parameters": null, "rope_theta": 50_000.0, "rope_scaling": scaling });
    assert_eq!(llama.with(&old).unwrap().config, known);
    assert!(matches!(known.rotary_scaling, RotaryScaling::Llama3 { original_n_ctx: 10, .. }));
    let plain = llama.with(&json!({ "rope_parameters": null })).unwrap().config;
    assert_eq!((plain.rotary_base, plain.rotary_scaling), (10_000.0, RotaryScaling::None));
    let neox = Copy::of("neox-sequential");
    let dims = |keys: Value| neox.with(&keys).unwrap().config.rotary_dim;
    // Half of heads of 8, and a quarter where nothing is said.
    assert_eq!(dims(json!({})), 4);
    neox.refused(json!({ "rotary_pct": null }), &["rotary_pct = null"]);
    let own = neox.keys();
    let without: Map<String, Value> = own.clone().into_iter().filter(|(key, _)| key != "rotary_pct").collect();
    std::fs::write(neox.path("config.json"), Value::Object(without).to_string()).unwrap();
    assert_eq!(dims(json!({})), 2);
    assert_eq!(dims(json!({ "rope_parameters": { "rope_type": "default" } })), 2);
    std::fs::write(neox.path("config.json"), Value::Object(own).to_string()).unwrap();
    neox.refused(json!({ "rotary_pct": 0.01 }), &["rotary_pct", "0.01"]);
    neox.refused(json!({ "rotary_pct": 1.5 }), &["rotary_dim"]);
}

#[test]
fn tensors_by_two_names_with_prefixes_and_buffers() {
    let neox = Copy::of("neox");
    let known = read("neox").replicas;
    let unchanged = |copy: &Copy| assert!(copy.with(&json!({})).unwrap().replicas == known);
    neox.rewrite(|all| {
        for (name, ..) in all.iter_mut() {
            *name = if name == "embed_out.weight" { "lm_head.weight".into() } else { name.replace("gpt_neox.", "") };
        }
        all.push(("layers.0.attention.rotary_emb.inv_freq".into(), vec![1], vec![1.0]));
        all.push(("layers.0.attention.masked_bias".into(), vec![], vec![-1e9]));
    });
    unchanged(&neox);
    neox.rewrite(|all| {
        let twice = all.iter().find(|(name, ..)| name == "embed_in.weight").unwrap().clone();
        all.push(("gpt_neox.embed_in.weight".into(), twice.1, twice.2));
    });
    neox.refused(json!({}), &["gpt_neox.embed_in.weight", "delete one"]);

    let tied = Copy::of("qwen2");
    let add_head = |change: f32| {
        tied.rewrite(|all| {
            all.retain(|(name, ..)| name != "lm_head.weight");
            let mut head = all.iter().find(|(name, ..)| name.ends_with("embed_tokens.weight")).unwrap().clone();
            head.0 = "lm_head.weight".into();
            head.2[5] += change;
            all.push(head);
        });
    };
    add_head(0.0);
    assert!(tied.with(&json!({})).unwrap().replicas == read("qwen2").replicas);
    add_head(1.0);
    tied.refused(json!({}), &["lm_head.weight", "tie_word_embeddings"]);
    assert!(!tied.with(&json!({ "tie_word_embeddings": false })).unwrap().config.tied_embeddings);
    tied.rewrite(|all| all.push(("model.layers.0.self_attn.q_norm.weight".into(), vec![4], vec![1.0; 4])));
    tied.refused(json!({ "tie_word_embeddings": false }), &["q_norm.weight", "qwen2", "delete"]);
}

#[test]
fn shards_that_do_not_fit_together_are_told() {
    let copy = Copy::of("llama-linear");
    let index = copy.path("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let second = "model-00002-of-00002.safetensors";
    let spoiled = |text: String, words: &[&str]| {
        std::fs::write(&index, text).unwrap();
        copy.refused(json!({}), words);
    };
    spoiled(text.replace(second, "model-3.safetensors"), &["index.json", "model-3.safetensors", "not there"]);
    spoiled(text.replace(second, "../model.safetensors"), &["../model.safetensors", "beside"]);
    spoiled(text.replacen(second, "model-00001-of-00002.safetensors", 1), &["index.json", "does not"]);
    spoiled("{}".to_owned(), &["index.json", "weight_map"]);
    spoiled("{\"weight_map\": {}}".to_owned(), &["index.json", "names none"]);
    std::fs::write(&index, &text).unwrap();
    assert!(copy.with(&json!({})).unwrap().replicas == read("llama-linear").replicas);
    assert_eq!(ModelFolder::files(copy.0.path()).unwrap().len(), 4);
    let half = std::fs::read(copy.path(second)).unwrap();
    std::fs::write(copy.path(second), &half[..half.len() / 2]).unwrap();
    copy.refused(json!({}), &[second, "torn"]);
}

#[test]
fn the_hubs_cache_is_read_as_its_main_branch_stands() {
    let place = tempfile::tempdir().unwrap();
    let cache = place.path().join("models--org--name");
    let snapshot = cache.join("snapshots/0123abcd");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(cache.join("refs")).unwrap();
    for file in ModelFolder::files(&golden("llama")).unwrap() {
        std::fs::copy(&file, snapshot.join(file.file_name().unwrap())).unwrap();
    }
    let words = |words: &[&str]| {
        let error = ModelFolder::read(&cache).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
    };
    words(&["refs", "main"]);
    for elsewhere in ["other", "..", ""] {
        std::fs::write(cache.join("refs/main"), elsewhere).unwrap();
        words(&["refs", "snapshots"]);
    }
    std::fs::write(cache.join("refs/main"), "0123abcd\n").unwrap();
    assert!(ModelFolder::read(&cache).unwrap().replicas == read("llama").replicas);
    assert!(ModelFolder::files(&cache).unwrap().iter().all(|file| file.starts_with(&snapshot) && file.exists()));
}

#[test]
fn a_pickle_is_not_opened_and_its_owner_is_told_how_to_convert_it() {
    let copy = Copy::of("gpt2");
    std::fs::rename(copy.path("model.safetensors"), copy.path("pytorch_model.bin")).unwrap();
    copy.refused(json!({}), &["pytorch_model.bin", "save_pretrained", "model.safetensors"]);
}
