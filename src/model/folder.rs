//! A model on disk: `config.json` and `model.safetensors`, with TransformerLens's weight names.

use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

use super::keys::{self, decided_by, is_buffer};
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
    /// Reads a folder. Biases and sizes that `config.json` leaves out are read off the weights; the kind of norm and the
    /// activation must be there. Keys that would change what is computed and are not understood are refused, and so are
    /// tensors that the model has no place for: nothing in the two files is passed over unless it is known not to matter.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] with the file and what is wrong with it.
    pub fn read(dir: &Path) -> Result<Self> {
        let [config_path, weights_path] = Self::FILES.map(|name| dir.join(name));
        let bytes = std::fs::read(&weights_path).map_err(Error::io("cannot read", &weights_path))?;
        let tensors = open(&weights_path, &bytes)?;
        let text = std::fs::read(&config_path).map_err(Error::io("cannot read", &config_path))?;
        let config = keys::read(&config_path, &text, &tensors)?;
        let table = WeightTable::new(&config);
        let replicas = read_weights(&weights_path, &tensors, &table, "", |name| {
            let block = name.split_inclusive('.').take(2).collect::<String>();
            let none = name.starts_with("blocks.") && !tensors.names().iter().any(|name| name.starts_with(&block));
            if none { format!("n_layers = {}", config.n_layers) } else { decided_by(name, &config) }
        })?;
        let folder = Self { config, replicas };
        folder.check_the_rest(&weights_path, &tensors, &table)?;
        Ok(folder)
    }

    /// The files of a folder.
    pub const FILES: [&str; 2] = ["config.json", "model.safetensors"];

    /// Tensors that nobody reads mean that the two files do not belong together.
    fn check_the_rest(&self, path: &Path, tensors: &SafeTensors<'_>, table: &WeightTable) -> Result<()> {
        let config = &self.config;
        let read = |name: &str| {
            let other = with_other_mark(name);
            table.find(name).is_some() || table.find(&other).is_some() && tensors.tensor(&other).is_err()
        };
        let mut rest: Vec<&str> = tensors.names().into_iter().filter(|name| !read(name)).collect();
        rest.retain(|name| !is_buffer(name, config));
        if config.tied_embeddings && rest.contains(&"unembed.W_U") {
            if !self.is_tied(path, tensors, table)? {
                return Err(Error::format(
                    path,
                    "tensor unembed.W_U is not the transpose of embed.W_E, which config.json says it is (tied_embeddings or tie_word_embeddings). Set that to false if the model reads out by unembed.W_U, or delete the tensor",
                ));
            }
            rest.retain(|name| *name != "unembed.W_U");
        }
        rest.sort_unstable();
        let Some(first) = rest.first() else { return Ok(()) };
        let reason = decided_by(first, config);
        let (names, more) = (rest[..rest.len().min(4)].join(", "), rest.len().saturating_sub(4));
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let reason = if reason.is_empty() { String::new() } else { format!(" with {reason}") };
        Err(Error::format(
            path,
            format!(
                "holds tensors that config.json describes no place for{reason}: {names}{more}. Mend config.json if the model has them; delete them if it does not"
            ),
        ))
    }

    /// Whether `unembed.W_U` [D, V] is the transpose of `embed.W_E` [V, D] in every replica.
    fn is_tied(&self, path: &Path, tensors: &SafeTensors<'_>, table: &WeightTable) -> Result<bool> {
        let (d, v) = (self.config.d_model, self.config.d_vocab);
        let Ok(view) = tensors.tensor("unembed.W_U") else { return Ok(false) };
        let out = floats(path, "unembed.W_U", view.dtype(), view.data())?;
        let offset = table.find("embed.W_E").map_or(0, |at| table.specs()[at].offset);
        Ok(out.len() == self.replicas.len() * d * v
            && self.replicas.iter().zip(out.chunks_exact(d * v)).all(|(replica, out)| {
                let embed = &replica[offset..][..d * v];
                (0..d * v).all(|at| out[at] == embed[at % v * d + at / v])
            }))
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

/// The same weight as files name it that mark keys and values by an underscore though each serves one query head, or
/// do not though each serves several.
fn with_other_mark(name: &str) -> String {
    if name.contains(".attn._") { name.replace(".attn._", ".attn.") } else { name.replace(".attn.", ".attn._") }
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

/// Reads every tensor of the table, by its name behind `prefix`. Each may carry a leading replica axis. `why` tells of a
/// tensor's name what asks for it.
pub(crate) fn read_weights(
    path: &Path,
    tensors: &SafeTensors<'_>,
    table: &WeightTable,
    prefix: &str,
    why: impl Fn(&str) -> String,
) -> Result<Vec<Vec<f32>>> {
    let mut replicas: Vec<Vec<f32>> = Vec::new();
    for spec in table.specs() {
        let name = format!("{prefix}{}", spec.name);
        let other = with_other_mark(&name);
        let name = if tensors.tensor(&name).is_err() && tensors.tensor(&other).is_ok() { other } else { name };
        let view = tensors.tensor(&name).map_err(|_| {
            let why = why(&spec.name);
            let why = if why.is_empty() { String::new() } else { format!(" with {why}") };
            Error::format(path, format!("has no tensor {name}, which config.json asks for{why}"))
        })?;
        let count = match view.shape() {
            dims if dims == spec.dims => 1,
            [r, dims @ ..] if dims == spec.dims => *r,
            _ => 0,
        };
        if count == 0 || (!replicas.is_empty() && replicas.len() != count) {
            let of = match replicas.len() {
                0 | 1 => String::new(),
                count => format!(" for each of {count} replicas, as tensors before it have"),
            };
            return Err(Error::format(
                path,
                format!("tensor {name} has shape {:?}; config.json asks for {:?}{of}", view.shape(), spec.dims),
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
