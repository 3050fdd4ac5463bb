//! A model on disk: `config.json` and weights, with TransformerLens's names or as Hugging Face's transformers keeps them.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

use super::keys::{self, decided_by, is_buffer};
use super::tensors::{INDEX, Stored, Strides, Tensors, WHOLE, is_name, pickle};
use super::{ModelConfig, WeightSpec, WeightTable, formats};
use crate::error::{Error, Result};

const CONFIG: &str = "config.json";

/// The file of a folder that says how text becomes tokens.
pub const TOKENIZER: &str = "tokenizer.json";

/// A configuration and the weights of one or more replicas.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// Resolved configuration.
    pub config: ModelConfig,
    /// Parameters of each replica, laid out by [`WeightTable`].
    pub replicas: Vec<Vec<f32>>,
}

impl ModelFolder {
    /// Reads a folder of TransformerLens's layout or of one of Hugging Face's (GPT-2, GPT-NeoX, Llama, Mistral, Qwen2), told
    /// apart by what the weights are called. Of TransformerLens's, biases and sizes that `config.json` leaves out are read off
    /// the weights; the kind of norm and the activation must be there. Keys that would change what is computed and are not
    /// understood are refused, and so are tensors that the model has no place for: nothing is passed over unless it is known
    /// not to matter.
    /// A model of the Hub's cache (`models--org--name`) is read as its `refs/main` stands.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] with the file and what is wrong with it.
    pub fn read(dir: &Path) -> Result<Self> {
        let dir = &Self::place(dir)?;
        Self::check_is_one(dir)?;
        let tensors = Tensors::of_folder(dir)?;
        let path = dir.join(CONFIG);
        let text = std::fs::read(&path).map_err(Error::io("cannot read", &path))?;
        let Value::Object(keys) = crate::files::json(&path, &text, "a JSON object")? else {
            return Err(Error::format(&path, "must hold a JSON object"));
        };
        if !tensors.has("embed.W_E")
            && let Some((config, weights)) = formats::read(&path, &keys, &tensors)?
        {
            return Ok(Self { config, replicas: vec![weights] });
        }
        let config = keys::read(&path, keys, &tensors)?;
        let table = WeightTable::new(&config);
        let replicas = read_weights(&tensors, &table, "", |name| {
            let block = name.split_inclusive('.').take(2).collect::<String>();
            let none = name.starts_with("blocks.") && !tensors.names().any(|name| name.starts_with(&block));
            if none { format!("n_layers = {}", config.n_layers) } else { decided_by(name, &config) }
        })?;
        let folder = Self { config, replicas };
        folder.check_the_rest(&tensors, &table)?;
        Ok(folder)
    }

    /// Fails where there is nothing that could be a model, with what to do.
    fn check_is_one(dir: &Path) -> Result<()> {
        const NEEDED: &str = "a folder with config.json and model.safetensors is needed";
        let what = if !dir.exists() {
            "is not there: name a folder on this machine. A model of the Hub is downloaded first, as by: hf download ORG/NAME --local-dir DIR"
                .to_owned()
        } else if !dir.is_dir() {
            format!("is a file; {NEEDED}, name the folder that it lies in")
        } else if [CONFIG, WHOLE, INDEX].iter().all(|name| !dir.join(name).exists()) && pickle(dir).is_none() {
            format!("holds no model; {NEEDED}")
        } else {
            return Ok(());
        };
        Err(Error::format(dir, what))
    }

    /// The folder of a model's files: the folder itself, or where that is the Hub's cache of a model (`models--org--name`), the
    /// snapshot that `refs/main` names.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] where the cache names none.
    pub fn place(dir: &Path) -> Result<PathBuf> {
        let snapshots = dir.join("snapshots");
        if dir.join(CONFIG).exists() || !snapshots.is_dir() {
            return Ok(dir.to_owned());
        }
        let main = dir.join("refs").join("main");
        let revision = std::fs::read_to_string(&main).map_err(Error::io("cannot read", &main))?;
        let found = snapshots.join(revision.trim());
        if is_name(revision.trim()) && found.is_dir() {
            return Ok(found);
        }
        Err(Error::format(
            &main,
            format!(
                "names revision {:?}, which is not in snapshots/: download it again, or name one of the folders there",
                revision.trim()
            ),
        ))
    }

    /// The files that [`ModelFolder::read`] reads of a folder.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] where they cannot be told.
    pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
        let dir = Self::place(dir)?;
        let (weights, shards) = super::tensors::files(&dir)?;
        Ok([vec![dir.join(CONFIG), weights], shards].concat())
    }

    /// Tensors that nobody reads mean that the two files do not belong together.
    fn check_the_rest(&self, tensors: &Tensors, table: &WeightTable) -> Result<()> {
        let config = &self.config;
        let read = |name: &str| {
            let other = with_other_mark(name);
            table.find(name).is_some() || table.find(&other).is_some() && !tensors.has(&other)
        };
        let mut rest: Vec<&str> = tensors.names().filter(|name| !read(name)).collect();
        rest.retain(|name| !is_buffer(name, config));
        if config.tied_embeddings
            && let Some(unembed) = tensors.get("unembed.W_U")
        {
            if !self.is_tied(&unembed)? {
                return Err(unembed.fail(
                    "is not the transpose of embed.W_E, which config.json says it is (tied_embeddings or tie_word_embeddings). Set that to false if the model reads out by unembed.W_U, or delete the tensor",
                ));
            }
            rest.retain(|name| *name != "unembed.W_U");
        }
        let Some(first) = rest.first() else { return Ok(()) };
        let reason = decided_by(first, config);
        let reason = if reason.is_empty() { String::new() } else { format!(" with {reason}") };
        Err(left_over(tensors.path(), &rest, &reason))
    }

    /// Whether `unembed.W_U` [D, V] is the transpose of `embed.W_E` [V, D] in every replica.
    fn is_tied(&self, unembed: &Stored<'_>) -> Result<bool> {
        let (d, v) = (self.config.d_model, self.config.d_vocab);
        if unembed.shape().iter().product::<usize>() != self.replicas.len() * d * v {
            return Ok(false);
        }
        let mut out = vec![0.0; d * v];
        for (number, replica) in self.replicas.iter().enumerate() {
            unembed.read(&Strides { start: number * d * v, strides: vec![1, v] }, &[v, d], &mut out)?;
            // The embedding comes first in every table.
            if out != replica[..d * v] {
                return Ok(false);
            }
        }
        Ok(true)
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
        let mut config = serde_json::to_value(&self.config).unwrap_or_default();
        if let Value::Object(map) = &mut config {
            // TransformerLens writes null where there is no norm.
            if map.get("normalization_type") == Some(&Value::from("none")) {
                map.insert("normalization_type".to_owned(), Value::Null);
            }
        }
        write_config(dir, &config)?;
        let table = WeightTable::new(&self.config);
        write_tensors(&dir.join(WHOLE), &table, &[("", &self.replicas)])
    }

    /// Writes a folder as Hugging Face's transformers does, in the layout of GPT-2, GPT-NeoX or Llama, whichever the
    /// model fits.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with what none of them has, or where there are several replicas; [`Error::Io`] where the folder
    /// cannot be written.
    pub fn write_hf(&self, dir: &Path) -> Result<()> {
        let [weights] = self.replicas.as_slice() else {
            return Err(Error::Unsupported(format!(
                "Hugging Face's folders hold one model, and here are {} replicas: write each alone",
                self.replicas.len()
            )));
        };
        let written = formats::write(&self.config, weights)?;
        write_config(dir, &written.config)?;
        write_safetensors(&dir.join(WHOLE), &written.tensors)
    }
}

/// Tensors of a file that a configuration has no place for, for a reason.
pub(super) fn left_over(path: &Path, rest: &[&str], reason: &str) -> Error {
    let (names, more) = (rest[..rest.len().min(4)].join(", "), rest.len().saturating_sub(4));
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Error::format(
        path,
        format!(
            "holds tensors that config.json describes no place for{reason}: {names}{more}. Mend config.json if the model has them; delete them if it does not"
        ),
    )
}

/// Writes one tensor for each of the table and each prefix, `[R, ...]` where there are several replicas.
pub(crate) fn write_tensors(path: &Path, table: &WeightTable, sets: &[(&str, &Vec<Vec<f32>>)]) -> Result<()> {
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
    write_safetensors(path, &data)
}

/// Writes tensors by name, with their dimensions and values.
fn write_safetensors(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Result<()> {
    let fail = |error: safetensors::SafeTensorError| Error::format(path, error.to_string());
    let views = tensors
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

/// Writes a `config.json`.
fn write_config(dir: &Path, config: &Value) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("cannot create", dir))?;
    let text = serde_json::to_string_pretty(config).unwrap_or_default();
    crate::files::write_whole(&dir.join(CONFIG), text.as_bytes())
}

/// The same weight as files name it that mark keys and values by an underscore though each serves one query head, or
/// do not though each serves several.
fn with_other_mark(name: &str) -> String {
    if name.contains(".attn._") { name.replace(".attn._", ".attn.") } else { name.replace(".attn.", ".attn._") }
}

/// Reads every tensor of the table, by its name behind `prefix`. Each may carry a leading replica axis. `why` tells of a
/// tensor's name what asks for it.
pub(crate) fn read_weights(
    tensors: &Tensors,
    table: &WeightTable,
    prefix: &str,
    why: impl Fn(&str) -> String,
) -> Result<Vec<Vec<f32>>> {
    let mut found: Vec<(&WeightSpec, Stored<'_>)> = Vec::new();
    let mut replicas = 0;
    for spec in table.specs() {
        let name = format!("{prefix}{}", spec.name);
        let stored = tensors.get(&name).or_else(|| tensors.get(&with_other_mark(&name))).ok_or_else(|| {
            let why = why(&spec.name);
            let why = if why.is_empty() { String::new() } else { format!(" with {why}") };
            Error::format(tensors.path(), format!("has no tensor {name}, which config.json asks for{why}"))
        })?;
        let count = match stored.shape() {
            dims if dims == spec.dims => 1,
            [r, dims @ ..] if dims == spec.dims => *r,
            _ => 0,
        };
        if count == 0 || (!found.is_empty() && replicas != count) {
            let of = match replicas {
                0 | 1 => String::new(),
                count => format!(" for each of {count} replicas, as tensors before it have"),
            };
            let shape = stored.shape();
            return Err(stored.fail(format_args!("has shape {shape:?}; config.json asks for {:?}{of}", spec.dims)));
        }
        replicas = count;
        found.push((spec, stored));
    }
    let mut replicas = vec![vec![0.0; table.len()]; replicas];
    for (spec, stored) in &found {
        for (number, replica) in replicas.iter_mut().enumerate() {
            let at = Strides::contiguous(number * spec.len(), &spec.dims);
            stored.read(&at, &spec.dims, &mut replica[spec.offset..][..spec.len()])?;
        }
    }
    Ok(replicas)
}
