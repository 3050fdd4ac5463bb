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
use super::{ModelConfig, Normalization, WeightSpec, WeightTable};
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

    /// Every reason for which no model of this family computes what one of that configuration does.
    fn misfits(&self, config: &ModelConfig) -> Vec<&'static str>;

    /// The configuration of the model of this family that does, where there is no such reason: its tensors have the same
    /// values, and those that only one of the two has are zeros, or ones of norms.
    fn fit(&self, config: &ModelConfig) -> ModelConfig;

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
    let given = |key: &str| keys.get(key).filter(|value| !value.is_null());
    let (kind, list) = (given("model_type"), given("architectures"));
    let words = list.is_none_or(|list| list.as_array().is_some_and(|list| list.iter().all(Value::is_string)));
    for (key, value, sound, what) in [
        ("model_type", kind, kind.is_none_or(Value::is_string), "a word"),
        ("architectures", list, words, "a list of words"),
    ] {
        if let Some(value) = value.filter(|_| !sound) {
            return Err(Error::format(path, format!("{key} = {value} must be {what}")));
        }
    }
    let (key, found) = match (kind, list.and_then(|list| list.get(0))) {
        (Some(found), _) => ("model_type", found),
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
/// [`Error::Unsupported`] with all that stands in the way, of each of them.
pub(super) fn write(config: &ModelConfig, weights: &[f32]) -> Result<Written> {
    let own = WeightTable::new(config);
    let family = fitting(config, &own, weights)?;
    let full = &family.fit(config);
    let table = WeightTable::new(full);
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

/// The first family that a model fits.
///
/// # Errors
/// [`Error::Unsupported`] with every reason, those of all families and those of each.
fn fitting(config: &ModelConfig, own: &WeightTable, weights: &[f32]) -> Result<&'static dyn Family> {
    let placeless: Vec<Vec<&str>> = WRITTEN
        .iter()
        .map(|family| {
            let table = WeightTable::new(&family.fit(config));
            let rest = own.specs().iter().filter(|spec| table.find(&spec.name).is_none());
            let matters = |spec: &&WeightSpec| weights[spec.offset..][..spec.len()].iter().any(|value| *value != 0.0);
            rest.filter(matters).map(|spec| spec.name.as_str()).collect()
        })
        .collect();
    let in_none = |name: &str| placeless.iter().all(|names| names.contains(&name));
    let told = |misfits: Vec<&'static str>, names: &mut dyn Iterator<Item = &str>| {
        let names: Vec<&str> = names.collect();
        let homeless = (!names.is_empty()).then(|| format!("no place for {}, which is not zero", names.join(", ")));
        misfits.into_iter().map(str::to_owned).chain(homeless).collect::<Vec<_>>().join(", ")
    };
    let common = told(misfits_of_all(config), &mut placeless[0].iter().copied().filter(|name| in_none(name)));
    let mut reasons = vec![("all", common)];
    for (family, names) in WRITTEN.iter().zip(&placeless) {
        let own = told(family.misfits(config), &mut names.iter().copied().filter(|name| !in_none(name)));
        if own.is_empty() && reasons[0].1.is_empty() {
            return Ok(*family);
        }
        reasons.push((family.name(), own));
    }
    let reasons = reasons.iter().filter(|(_, why)| !why.is_empty()).map(|(name, why)| format!("{name}: {why}"));
    let reasons = reasons.collect::<Vec<_>>().join("; ");
    Err(Error::Unsupported(format!("no Hugging Face layout fits this model. {reasons}")))
}

/// What no family has.
fn misfits_of_all(config: &ModelConfig) -> Vec<&'static str> {
    holding(&[
        (config.normalization_type == Normalization::None, "they have norms, and normalization_type is \"none\""),
        (config.attn_only, "they have MLPs, and attn_only is true"),
        (
            config.d_vocab != config.d_vocab_out,
            "they read out as many tokens as they read, and d_vocab_out differs from d_vocab",
        ),
    ])
}

/// What GPT-2 and GPT-NeoX have both and nothing else: LayerNorms, plain MLPs, and heads that share nothing.
fn misfits_of_old(config: &ModelConfig) -> Vec<&'static str> {
    holding(&[
        (matches!(config.normalization_type, Normalization::RMS | Normalization::RMSPre), "norms must be LayerNorms"),
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

/// The reasons that hold.
fn holding(reasons: &[(bool, &'static str)]) -> Vec<&'static str> {
    reasons.iter().filter(|(holds, _)| *holds).map(|(_, why)| *why).collect()
}

#[cfg(test)]
mod mutated;
#[cfg(test)]
mod tests;
