//! A model on disk: `config.json` and `model.safetensors`, with TransformerLens's weight names.

use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

use super::{ModelConfig, WeightTable};
use crate::error::{Error, Result};

/// A configuration and the weights of one or more replicas.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// Resolved configuration.
    pub config: ModelConfig,
    /// Parameters of each replica, laid out by [`WeightTable`].
    pub replicas: Vec<Vec<f32>>,
}

impl ModelFolder {
    /// Reads a folder. Keys of `config.json` that do not concern the architecture are ignored; biases and
    /// sizes that it leaves out are read off the weights. The kind of norm and the activation must be there.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] with the file and what is wrong with it.
    pub fn read(dir: &Path) -> Result<Self> {
        let weights_path = dir.join("model.safetensors");
        let bytes = std::fs::read(&weights_path).map_err(Error::io("cannot read", &weights_path))?;
        let tensors = open(&weights_path, &bytes)?;
        let config = read_config(&dir.join("config.json"), &tensors)?;
        let replicas = read_weights(&weights_path, &tensors, &WeightTable::new(&config), "")?;
        Ok(Self { config, replicas })
    }

    /// The first tensor that holds infinities or what is no number.
    pub fn not_finite(&self) -> Option<String> {
        let table = WeightTable::new(&self.config);
        let holds = |range: std::ops::Range<usize>| {
            self.replicas.iter().any(|weights| weights[range.clone()].iter().any(|w| !w.is_finite()))
        };
        table.specs().iter().find(|spec| holds(spec.offset..spec.offset + spec.len())).map(|spec| spec.name.clone())
    }

    /// Writes a folder; files are written beside and renamed, so that no torn file is left.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("cannot create", dir))?;
        let mut config = serde_json::to_value(&self.config).unwrap_or_default();
        if let Value::Object(map) = &mut config {
            // TransformerLens writes null where there is no norm.
            if map.get("normalization_type") == Some(&Value::from("none")) {
                map.insert("normalization_type".to_owned(), Value::Null);
            }
        }
        let text = serde_json::to_string_pretty(&config).unwrap_or_default();
        crate::files::write_whole(&dir.join("config.json"), text.as_bytes())?;
        let table = WeightTable::new(&self.config);
        write_tensors(&dir.join("model.safetensors"), &table, &[("", &self.replicas)])
    }
}

/// Writes one tensor for each of the table and each prefix, `[R, ...]` where there are several replicas.
pub(crate) fn write_tensors(path: &Path, table: &WeightTable, sets: &[(&str, &Vec<Vec<f32>>)]) -> Result<()> {
    let fail = |error: safetensors::SafeTensorError| Error::format(path, error.to_string());
    let mut data: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (prefix, replicas) in sets {
        for spec in table.specs() {
            let values = replicas.iter().flat_map(|r| &r[spec.offset..][..spec.len()]).copied().collect();
            let mut dims = spec.dims.clone();
            if replicas.len() > 1 {
                dims.insert(0, replicas.len());
            }
            data.push((format!("{prefix}{}", spec.name), dims, values));
        }
    }
    let views = data
        .iter()
        .map(|(name, dims, values)| {
            let view = TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(values)).map_err(fail)?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(fail)?;
    crate::files::write_whole(path, &bytes)
}

/// Opens the bytes of a safetensors file.
pub(crate) fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|error| {
        Error::format(
            path,
            format!("is no complete safetensors file ({error}). It may be torn: copy or write it again"),
        )
    })
}

/// Reads every tensor of the table, by its name behind `prefix`. Each may carry a leading replica axis.
pub(crate) fn read_weights(
    path: &Path,
    tensors: &SafeTensors<'_>,
    table: &WeightTable,
    prefix: &str,
) -> Result<Vec<Vec<f32>>> {
    let mut replicas: Vec<Vec<f32>> = Vec::new();
    for spec in table.specs() {
        let name = format!("{prefix}{}", spec.name);
        let view = tensors
            .tensor(&name)
            .map_err(|_| Error::format(path, format!("has no tensor {name}, which config.json asks for")))?;
        let (count, dims) = match view.shape() {
            dims if dims == spec.dims => (1, dims),
            [r, dims @ ..] if dims == spec.dims => (*r, dims),
            dims => (0, dims),
        };
        if count == 0 || (!replicas.is_empty() && replicas.len() != count) {
            return Err(Error::format(
                path,
                format!("tensor {name} has shape {dims:?}; config.json asks for {:?}", spec.dims),
            ));
        }
        if replicas.is_empty() {
            replicas = vec![vec![0.0; table.len()]; count];
        }
        let values = floats(path, &name, view.dtype(), view.data())?;
        for (replica, values) in replicas.iter_mut().zip(values.chunks_exact(spec.len())) {
            replica[spec.offset..][..spec.len()].copy_from_slice(values);
        }
    }
    Ok(replicas)
}

/// Elements as f32, whatever float type they are stored as.
fn floats(path: &Path, name: &str, dtype: Dtype, data: &[u8]) -> Result<Vec<f32>> {
    Ok(match dtype {
        Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(data).into_iter().map(|x| x as f32).collect(),
        Dtype::F16 => data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => data.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        other => return Err(Error::format(path, format!("tensor {name} is {other:?}; floats are needed"))),
    })
}

/// Keys that are read, and under which other names files may hold them.
const ALIASES: &[(&str, &str)] = &[("tied", "tied_embeddings"), ("tie_word_embeddings", "tied_embeddings")];

/// TransformerLens's switches for architectures that are not computed here, with the value that leaves
/// the model as it is; null always does.
const FOREIGN: &[(&str, Value)] = &[
    ("scale_attn_by_inverse_layer_idx", Value::Bool(false)),
    ("use_local_attn", Value::Bool(false)),
    ("use_qk_norm", Value::Bool(false)),
    ("use_normalization_before_and_after", Value::Bool(false)),
    ("rotary_adjacent_pairs", Value::Bool(false)),
    ("use_NTK_by_parts_rope", Value::Bool(false)),
    ("post_embedding_ln", Value::Bool(false)),
    ("window_size", Value::Null),
    ("num_experts", Value::Null),
    ("decoder_start_token_id", Value::Null),
];

/// Caps on scores and logits; -1 for none.
const SOFT_CAPS: [&str; 2] = ["attn_scores_soft_cap", "output_logits_soft_cap"];

fn read_config(path: &Path, tensors: &SafeTensors<'_>) -> Result<ModelConfig> {
    let text = std::fs::read_to_string(path).map_err(Error::io("cannot read", path))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|error| Error::format(path, format!("is no JSON: {error}")))?;
    let Value::Object(mut found) = value else { return Err(Error::format(path, "must hold a JSON object")) };
    for (alias, key) in ALIASES {
        if let Some(value) = found.remove(*alias) {
            found.entry(*key).or_insert(value);
        }
    }
    if found.get("attention_dir").is_some_and(|dir| dir != "causal") {
        return Err(Error::format(path, "attention_dir must be \"causal\"; other models cannot be measured"));
    }
    let foreign = FOREIGN.iter().find(|(key, plain)| found.get(*key).is_some_and(|v| !v.is_null() && v != plain));
    let capped = SOFT_CAPS.iter().find(|key| found.get(**key).and_then(Value::as_f64).is_some_and(|cap| cap > 0.0));
    if let Some(key) = foreign.map(|(key, _)| key).or(capped) {
        return Err(Error::format(
            path,
            format!("{key} = {} asks for a kind of model that is not computed here", found[*key]),
        ));
    }
    // TransformerLens writes a number by which scores are divided, or leaves the default to its reader.
    if !found.get("attn_scale").is_some_and(Value::is_number) {
        found.remove("attn_scale");
    }
    if found.get("normalization_type") == Some(&Value::Null) {
        found.insert("normalization_type".to_owned(), Value::from("none"));
    }
    let Ok(Value::Object(known)) = serde_json::to_value(ModelConfig::default()) else {
        return Err(Error::format(path, "config"));
    };
    found.retain(|key, value| known.contains_key(key) && !value.is_null());

    // What the file leaves out, the weights tell.
    let has = |name: &str| tensors.tensor(name).is_ok();
    let grouped = has("blocks.0.attn._W_K");
    let facts = [
        ("attn_biases", has("blocks.0.attn.b_Q")),
        ("mlp_biases", has("blocks.0.mlp.b_in")),
        ("unembed_bias", has("unembed.b_U")),
        ("attn_only", !has("blocks.0.mlp.W_in")),
        ("gated_mlp", has("blocks.0.mlp.W_gate")),
        ("tied_embeddings", !has("unembed.W_U")),
    ];
    for (key, fact) in facts {
        found.entry(key).or_insert(Value::from(fact));
    }
    let size = |name: &str, at_from_end: usize| {
        tensors.tensor(name).ok().and_then(|view| {
            let shape = view.shape();
            shape.len().checked_sub(at_from_end).map(|at| shape[at])
        })
    };
    let key_name = if grouped { "blocks.0.attn._W_K" } else { "blocks.0.attn.W_K" };
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
            found.entry(key).or_insert(Value::from(value));
        }
    }
    // And what they do not tell.
    let untold = ["normalization_type", "act_fn"].into_iter().find(|key| !found.contains_key(*key));
    let needless = |key: &str| key == "act_fn" && found.get("attn_only") == Some(&Value::Bool(true));
    if let Some(key) = untold.filter(|key| !needless(key)) {
        return Err(Error::format(
            path,
            format!("has no {key}, and the weights do not tell it: add it as the model was trained with"),
        ));
    }
    let config: ModelConfig =
        serde_json::from_value(Value::Object(found)).map_err(|error| Error::format(path, error.to_string()))?;
    config.resolve().map_err(|error| Error::format(path, error.to_string()))
}
