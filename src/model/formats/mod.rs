//! Model folders as Hugging Face's transformers writes them: each family says what its keys mean and where its files keep
//! each of our tensors.

mod gpt2;
mod keys;
mod llama;
mod neox;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::tensors::{Stored, Strides, Tensors};
use super::weights::Init;
use super::{ModelConfig, Normalization, WeightTable};
use crate::error::{Error, Result};
use keys::Keys;

/// Models that transformers loads with one class.
trait Family: Sync {
    /// Its `model_type`.
    fn name(&self) -> &'static str;

    /// The class with a language modelling head, as `architectures` names it.
    fn architecture(&self) -> &'static str;

    /// What stands before the names of all tensors but the head's. Files of models without a head lack it.
    fn prefix(&self) -> &'static str;

    /// Names of the head; files are written with the first.
    fn heads(&self) -> &'static [&'static str] {
        &["lm_head.weight"]
    }

    /// Endings of the names of tensors that follow from the configuration.
    fn buffers(&self) -> &'static [&'static str];

    /// The configuration, as yet unresolved, that the keys describe.
    fn config(&self, keys: &mut Keys<'_>) -> Result<ModelConfig>;

    /// Where a tensor of a block, called `part` behind `blocks.{layer}.`, or one outside (no layer) is kept; `None` where
    /// such models do not have it, and it is zero. Dimensions are ours.
    fn place(&self, layer: Option<usize>, part: &str, dims: &[usize]) -> Option<Place>;

    /// The configuration of a model of this family that computes what one of that configuration does, if its tensors have
    /// the same values and those that only one of the two has are zeros, or ones of norms; or why there is none.
    fn fit(&self, config: &ModelConfig) -> Result<ModelConfig, String>;

    /// The keys that describe a configuration that fits.
    fn keys(&self, config: &ModelConfig) -> Value;
}

/// All families.
const FAMILIES: &[&dyn Family] = &[&gpt2::Gpt2, &neox::Neox, &llama::LLAMA, &llama::MISTRAL, &llama::QWEN2];

/// Those that models are written in, the first that fits; what the others have, these have too.
const WRITTEN: &[&dyn Family] = &[&gpt2::Gpt2, &neox::Neox, &llama::LLAMA];

/// Where a file keeps a tensor of ours.
struct Place {
    /// Name, without the prefix.
    name: String,
    /// Dimensions in the file.
    shape: Vec<usize>,
    at: Strides,
}

impl Place {
    /// The whole of a tensor of the same dimensions.
    fn same(name: impl Into<String>, dims: &[usize]) -> Self {
        Self::flat(name, dims, dims)
    }

    /// The whole of a tensor whose elements stand in the same order, in dimensions of its own.
    fn flat(name: impl Into<String>, dims: &[usize], shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), at: Strides::contiguous(0, dims) }
    }

    /// A matrix [A, B] that is kept transposed, [B, A], as those of linear maps are.
    fn transposed(name: impl Into<String>, dims: &[usize]) -> Self {
        let (a, b) = (dims[0], dims[1]);
        Self { name: name.into(), shape: vec![b, a], at: Strides { start: 0, strides: vec![1, a] } }
    }

    /// Weights of heads that read, [H, D, K], kept as [H K, D].
    fn reading(name: impl Into<String>, dims: &[usize]) -> Self {
        let (h, d, k) = (dims[0], dims[1], dims[2]);
        Self { name: name.into(), shape: vec![h * k, d], at: Strides { start: 0, strides: vec![k * d, 1, d] } }
    }

    /// Weights of heads that write, [H, K, D], kept as [D, H K].
    fn writing(name: impl Into<String>, dims: &[usize]) -> Self {
        let (h, k, d) = (dims[0], dims[1], dims[2]);
        Self { name: name.into(), shape: vec![d, h * k], at: Strides { start: 0, strides: vec![k, 1, h * k] } }
    }
}

/// A tensor of ours, as families ask for it: its layer, and its name without the mark of shared keys and values.
fn part(name: &str) -> (Option<usize>, Cow<'_, str>) {
    let within = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    match within.and_then(|(layer, part)| Some((layer.parse().ok()?, part))) {
        Some((layer, part)) => (Some(layer), part.replace("attn._", "attn.").into()),
        None => (None, name.into()),
    }
}

/// Which family a `config.json` is of; `None` where it says nothing of that.
///
/// # Errors
/// [`Error::Format`] for a family that is not among [`FAMILIES`].
fn family(path: &Path, keys: &Map<String, Value>) -> Result<Option<&'static dyn Family>> {
    let architecture = keys.get("architectures").and_then(|list| list.get(0));
    let (key, found) = match (keys.get("model_type"), architecture) {
        (Some(found @ Value::String(_)), _) => ("model_type", found),
        (_, Some(found)) => ("architectures", found),
        _ => return Ok(None),
    };
    let is = |family: &&&dyn Family| *found == family.name() || *found == family.architecture();
    match FAMILIES.iter().find(is) {
        Some(family) => Ok(Some(*family)),
        None => Err(Error::format(
            path,
            format!(
                "{key} = {found} is not among the architectures computed here: {}, and what has TransformerLens's weight names",
                FAMILIES.iter().map(|family| family.name()).collect::<Vec<_>>().join(", ")
            ),
        )),
    }
}

/// Reads a model whose `config.json` has these keys; `None` where they name no family.
///
/// # Errors
/// [`Error::Format`] with the key or tensor that is missing, left over, or of another shape than it should be.
pub(super) fn read(
    path: &Path,
    keys: &Map<String, Value>,
    tensors: &Tensors,
) -> Result<Option<(ModelConfig, Vec<f32>)>> {
    let Some(family) = family(path, keys)? else { return Ok(None) };
    let mut keys = Keys::new(path, keys.clone());
    let config = family.config(&mut keys)?;
    keys.finish()?;
    let config = config.resolve().map_err(|error| Error::format(path, error.to_string()))?;
    let table = WeightTable::new(&config);
    let mut names = names(family, tensors)?;
    // Every shape is known to be right before there is room for what the configuration asks for.
    let mut found = Vec::new();
    for spec in table.specs() {
        let (layer, part) = part(&spec.name);
        let Some(place) = family.place(layer, &part, &spec.dims) else { continue };
        let stored = names.get(place.name.as_str()).and_then(|name| tensors.get(name)).ok_or_else(|| {
            let why = if spec.name == "unembed.W_U" {
                ": set tie_word_embeddings to true if the model reads out by its embedding".to_owned()
            } else {
                format!(" of {:?}, as {} models of {} layers have", place.shape, family.name(), config.n_layers)
            };
            let prefix = family.prefix_of(&place.name);
            Error::format(
                tensors.path(),
                format!("has no tensor {prefix}{}, which config.json asks for{why}", place.name),
            )
        })?;
        if stored.shape() != place.shape {
            let shape = stored.shape();
            return Err(stored.fail(format_args!("has shape {shape:?}; config.json asks for {:?}", place.shape)));
        }
        found.push((spec, stored, place));
    }
    let mut weights = vec![0.0; table.len()];
    for (spec, stored, place) in &found {
        stored.read(&place.at, &spec.dims, &mut weights[spec.offset..][..spec.len()])?;
    }
    for (.., place) in &found {
        names.remove(place.name.as_str());
    }
    let head = names.remove(family.heads()[0]).and_then(|name| tensors.get(name));
    if let Some(head) = head {
        check_tied(&head, &config, &weights)?;
    }
    names.retain(|name, _| !family.buffers().iter().any(|end| name.ends_with(end)));
    if !names.is_empty() {
        let rest: Vec<&str> = names.into_values().collect();
        return Err(super::folder::left_over(
            tensors.path(),
            &rest,
            &format!(" (a {} of {} layers)", family.name(), config.n_layers),
        ));
    }
    Ok(Some((config, weights)))
}

impl dyn Family {
    /// What a file puts before the name of a tensor.
    fn prefix_of(&self, name: &str) -> &'static str {
        if self.heads().contains(&name) { "" } else { self.prefix() }
    }
}

/// The tensors of a file by the names that [`Family::place`] gives, whether or not they carry the prefix.
fn names<'a>(family: &dyn Family, tensors: &'a Tensors) -> Result<BTreeMap<&'a str, &'a str>> {
    let mut names = BTreeMap::new();
    for name in tensors.names() {
        let bare = name.strip_prefix(family.prefix()).unwrap_or(name);
        let bare = if family.heads().contains(&bare) { family.heads()[0] } else { bare };
        if let Some(other) = names.insert(bare, name) {
            return Err(Error::format(
                tensors.path(),
                format!("holds {other} and {name}, which are the same tensor by two names: delete one"),
            ));
        }
    }
    Ok(names)
}

/// A file may carry the head [V, D] beside the embedding that stands for it, if the two are equal.
fn check_tied(head: &Stored<'_>, config: &ModelConfig, weights: &[f32]) -> Result<()> {
    let dims = [config.d_vocab, config.d_model];
    let mut out = vec![0.0; dims[0] * dims[1]];
    let fits = head.shape() == dims;
    if fits {
        head.read(&Strides::contiguous(0, &dims), &dims, &mut out)?;
    }
    // The embedding comes first in every table.
    if fits && out.iter().zip(weights).all(|(out, embed)| out.to_bits() == embed.to_bits()) {
        return Ok(());
    }
    Err(head.fail(
        "is not the embedding, which config.json says it is (tie_word_embeddings = true, the default of some families). Set that to false if the model reads out by this tensor, or delete the tensor",
    ))
}

/// A model as a family keeps it.
pub(super) struct Written {
    /// `config.json`.
    pub(super) config: Value,
    /// Name, dimensions and values of each tensor.
    pub(super) tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

/// Lays a replica's weights out as the family does that fits the model.
///
/// # Errors
/// [`Error::Unsupported`] with what none of them has.
pub(super) fn write(config: &ModelConfig, weights: &[f32]) -> Result<Written> {
    let refuse = |why: String| Error::Unsupported(format!("no Hugging Face layout fits this model: {why}"));
    fits_any(config).map_err(refuse)?;
    let tries: Vec<_> = WRITTEN.iter().map(|family| (*family, family.fit(config))).collect();
    let Some((family, full)) = tries.iter().find_map(|(family, fit)| Some((*family, fit.as_ref().ok()?))) else {
        let why = tries
            .iter()
            .map(|(family, fit)| format!("{}: {}", family.name(), fit.as_ref().err().map_or("", |why| why)));
        return Err(refuse(why.collect::<Vec<_>>().join("; ")));
    };
    let (own, table) = (WeightTable::new(config), WeightTable::new(full));
    for spec in own.specs().iter().filter(|spec| table.find(&spec.name).is_none()) {
        if weights[spec.offset..][..spec.len()].iter().any(|value| *value != 0.0) {
            return Err(refuse(format!("{} has no place for {}, which is not zero", family.name(), spec.name)));
        }
    }
    let mut files: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for spec in table.specs() {
        let values: Cow<'_, [f32]> = match own.find(&spec.name).map(|at| &own.specs()[at]) {
            Some(own) => weights[own.offset..][..own.len()].into(),
            None => vec![if spec.init == Init::Ones { 1.0 } else { 0.0 }; spec.len()].into(),
        };
        let (layer, part) = part(&spec.name);
        let Some(place) = family.place(layer, &part, &spec.dims) else { continue };
        let name = format!("{}{}", family.prefix_of(&place.name), place.name);
        let len = place.shape.iter().product();
        let (_, file) = files.entry(name).or_insert_with(|| (place.shape, vec![0.0; len]));
        place.at.each(&spec.dims, |index, at| file[at] = values[index]);
    }
    let mut keys = family.keys(full);
    keys["model_type"] = family.name().into();
    keys["architectures"] = json!([family.architecture()]);
    keys["tie_word_embeddings"] = full.tied_embeddings.into();
    keys["vocab_size"] = full.d_vocab.into();
    keys["initializer_range"] = full.initializer_range.into();
    keys["dtype"] = "float32".into();
    // transformers 4 knows the type of numbers by this name.
    keys["torch_dtype"] = "float32".into();
    let tensors = files.into_iter().map(|(name, (shape, values))| (name, shape, values)).collect();
    Ok(Written { config: keys, tensors })
}

/// What no family has.
fn fits_any(config: &ModelConfig) -> Result<(), String> {
    check(&[
        (config.normalization_type == Normalization::None, "normalization_type = \"none\": all have norms"),
        (config.attn_only, "attn_only = true: all have MLPs"),
        (
            config.d_vocab != config.d_vocab_out,
            "d_vocab_out differs from d_vocab: all read out as many tokens as they read",
        ),
    ])
}

/// What GPT-2 and GPT-NeoX have both and nothing else: LayerNorms, plain MLPs, and heads that share nothing.
fn fits_old(config: &ModelConfig) -> Result<(), String> {
    check(&[
        (!matches!(config.normalization_type, Normalization::LN | Normalization::LNPre), "norms must be LayerNorms"),
        (config.final_rms, "the last norm must be a LayerNorm"),
        (config.gated_mlp, "MLPs must not be gated"),
        (config.n_key_value_heads != config.n_heads, "every head must have its own keys and values"),
        (config.n_heads * config.d_head != config.d_model, "n_heads x d_head must be d_model"),
    ])
}

/// Whether scores are divided by √d_head.
fn scales(config: &ModelConfig) -> bool {
    config.attn_scale == (config.d_head as f64).sqrt()
}

/// The first of the reasons that holds.
fn check(reasons: &[(bool, &str)]) -> Result<(), String> {
    reasons.iter().find(|(holds, _)| *holds).map_or(Ok(()), |(_, why)| Err((*why).to_owned()))
}

#[cfg(test)]
mod mutated;
#[cfg(test)]
mod tests;
