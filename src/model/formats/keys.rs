//! The keys of a `config.json` of transformers: what no family needs, and how a family takes what it does.

use std::path::Path;

use serde_json::{Map, Value};

use crate::autograd::ops::{ActFn, RotaryScaling};
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::keys::typed;

/// How weights were once drawn and dropped out, how text is generated and labelled, and how a model was run.
const IRRELEVANT: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_model_name_or_path",
    "_name_or_path",
    "_num_labels",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "attn_pdrop",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cls_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_window_layers",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "reorder_and_upcast_attn",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
];

/// The keys of a file, which a family takes one after the other. Null is a value like any other: transformers takes it for
/// "not set" of a few keys ([`Keys::or_null`]), and of others fails or takes it for no.
pub(super) struct Keys<'a> {
    path: &'a Path,
    left: Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(path: &'a Path, left: Map<String, Value>) -> Self {
        Self { path, left }
    }

    /// An error that names the file.
    pub(super) fn fail(&self, what: impl Into<String>) -> Error {
        Error::format(self.path, what)
    }

    fn take<T>(&mut self, key: &str, what: &str, of: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.left.remove(key) else { return Ok(None) };
        of(&value).map(Some).ok_or_else(|| self.fail(format!("{key} = {value} must be {what}")))
    }

    /// The same of a key that may be null, which says that nothing is set; a missing one is worth `missing`.
    fn or_null<T>(
        &mut self,
        key: &str,
        missing: Option<T>,
        what: &str,
        of: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let of = |value: &Value| if value.is_null() { Some(None) } else { of(value).map(Some) };
        Ok(self.take(key, &format!("{what}, or null"), of)?.unwrap_or(missing))
    }

    /// A size that may be null, which leaves it to follow from others; a missing one is worth `missing`.
    pub(super) fn maybe_size(&mut self, key: &str, missing: Option<usize>) -> Result<Option<usize>> {
        self.or_null(key, missing, SIZE, size)
    }

    /// A size that must be there.
    pub(super) fn size(&mut self, key: &str) -> Result<usize> {
        let found = self.take(key, SIZE, size)?;
        found.ok_or_else(|| self.fail(format!("has no {key}: add it as the model was trained with")))
    }

    /// A number above 0.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<f64>> {
        self.take(key, "a number above 0", |value| value.as_f64().filter(|number| *number > 0.0))
    }

    /// What is added to variances: no less than 0.
    pub(super) fn eps(&mut self, key: &str, missing: f64) -> Result<f64> {
        let eps = self.take(key, "a number from 0 on", |value| value.as_f64().filter(|eps| *eps >= 0.0))?;
        Ok(eps.unwrap_or(missing))
    }

    /// A switch.
    pub(super) fn flag(&mut self, key: &str, default: bool) -> Result<bool> {
        Ok(self.take(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// The name of a non-linearity.
    pub(super) fn act_fn(&mut self, key: &str, default: ActFn) -> Result<ActFn> {
        let Some(value) = self.left.remove(key) else { return Ok(default) };
        if value == "swish" {
            return Ok(ActFn::Silu);
        }
        let config: ModelConfig =
            typed("act_fn", &value).map_err(|error| self.fail(format!("{key} = {value}: {error}")))?;
        Ok(config.act_fn)
    }

    /// Takes a key whose only value that is computed here is this one. Null asks for nothing.
    pub(super) fn only(&mut self, key: &str, plain: &Value) -> Result<()> {
        match self.left.remove(key) {
            Some(value) if value != *plain && !value.is_null() => {
                Err(self
                    .fail(format!("{key} = {value} asks for a kind of model that is not computed here; {plain} is")))
            }
            _ => Ok(()),
        }
    }

    /// Keys that do not matter in this family.
    pub(super) fn pass(&mut self, keys: &[&str]) {
        self.left.retain(|key, _| !keys.contains(&key.as_str()));
    }

    /// The kinds of attention of the layers, where they are listed.
    pub(super) fn layer_types(&mut self) -> Result<Option<Vec<String>>> {
        let strings = |value: &Value| value.as_array()?.iter().map(|kind| kind.as_str().map(str::to_owned)).collect();
        self.or_null("layer_types", None, "a list of words", strings)
    }

    /// Refuses what is left and not known to be irrelevant.
    ///
    /// # Errors
    /// [`Error::Format`] with the first such key.
    pub(super) fn finish(mut self) -> Result<()> {
        for (key, plain) in [
            ("add_cross_attention", Value::Bool(false)),
            ("cross_attention_hidden_size", Value::Null),
            ("is_encoder_decoder", Value::Bool(false)),
            ("rope_interleaved", Value::Bool(false)),
            ("pruned_heads", Value::Object(Map::new())),
            ("tf_legacy_loss", Value::Bool(false)),
            ("tie_encoder_decoder", Value::Bool(false)),
        ] {
            self.only(key, &plain)?;
        }
        match self.left.iter().find(|(key, _)| !IRRELEVANT.contains(&key.as_str())) {
            Some((key, value)) => Err(self.fail(format!(
                "{key} = {value} is not known: delete it if it does not change what the model computes"
            ))),
            None => Ok(()),
        }
    }

    /// Rotary positions: the base, the share of each head that turns, and the scaling. transformers 5 keeps all in
    /// `rope_parameters`, earlier ones kept base and share beside `rope_scaling`, under names that differ by family.
    pub(super) fn rotary(
        &mut self,
        (theta, default_theta): (&str, f64),
        (partial, default_partial): (&str, f64),
        n_ctx: usize,
    ) -> Result<(f64, f64, RotaryScaling)> {
        let object = |value: &Value| value.as_object().cloned();
        let mut one = |key: &str| self.or_null(key, None, "an object", object);
        let (new, old) = (one("rope_parameters")?, one("rope_scaling")?);
        if let (Some(new), Some(old)) = (&new, &old)
            && new != old
        {
            return Err(self.fail("rope_parameters and rope_scaling contradict each other: delete the wrong one"));
        }
        let beside = [(theta, self.number(theta)?), (partial, self.number(partial)?)];
        let mut of = Keys::new(self.path, new.or(old).unwrap_or_default());
        if let Some((kind, _)) = of.left.iter().find(|(_, value)| value.is_object()) {
            return Err(of.fail(format!(
                "rope_parameters for {kind} alone: positions that differ by layer are not computed here"
            )));
        }
        let mut within = |key: &str, (name, beside): (&str, Option<f64>), default: f64| match (of.number(key)?, beside)
        {
            (Some(within), Some(beside)) if within != beside => Err(of.fail(format!(
                "{name} = {beside} contradicts {key} = {within} of rope_parameters: delete the wrong one"
            ))),
            (within, beside) => Ok(within.or(beside).unwrap_or(default)),
        };
        let base = within("rope_theta", beside[0], default_theta)?;
        let share = within("partial_rotary_factor", beside[1], default_partial)?;
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let (kind, older) = (of.take("rope_type", "a word", word)?, of.take("type", "a word", word)?);
        if let (Some(kind), Some(older)) = (&kind, &older)
            && kind != older
        {
            return Err(of.fail(format!("rope_type = {kind:?} contradicts type = {older:?}: delete the wrong one")));
        }
        let kind = kind.or(older).unwrap_or_else(|| "default".to_owned());
        let mut need = |key: &str| of.number(key)?.ok_or_else(|| of.fail(format!("rope_type = {kind:?} needs {key}")));
        let scaling = match kind.as_str() {
            "default" => RotaryScaling::None,
            "linear" => RotaryScaling::Linear { factor: need("factor")? },
            "llama3" => RotaryScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_n_ctx: of.take("original_max_position_embeddings", SIZE, size)?.unwrap_or(n_ctx),
            },
            _ => {
                return Err(
                    of.fail(format!("rope_type = {kind:?} is not computed here; default, linear and llama3 are"))
                );
            }
        };
        match of.left.iter().next() {
            Some((key, value)) => {
                Err(of.fail(format!("{key} = {value} has no meaning for rope_type = {kind:?}: delete it")))
            }
            None => Ok((base, share, scaling)),
        }
    }
}

const SIZE: &str = "a whole number above 0";

fn size(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|size| *size > 0)
}

/// `rope_parameters` of transformers 5, and the names by which earlier ones know the same.
pub(super) fn write_rotary(keys: &mut Value, config: &ModelConfig, (theta, share): (&str, Option<(&str, f64)>)) {
    let mut of = match config.rotary_scaling {
        RotaryScaling::None => serde_json::json!({ "rope_type": "default" }),
        RotaryScaling::Linear { factor } => serde_json::json!({ "rope_type": "linear", "factor": factor }),
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_n_ctx } => serde_json::json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_n_ctx,
        }),
    };
    of["rope_theta"] = config.rotary_base.into();
    keys[theta] = config.rotary_base.into();
    if let Some((name, share)) = share {
        of["partial_rotary_factor"] = share.into();
        keys[name] = share.into();
    }
    if config.rotary_scaling != RotaryScaling::None {
        keys["rope_scaling"] = of.clone();
    }
    keys["rope_parameters"] = of;
}
