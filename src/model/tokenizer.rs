//! Text and tokens: the `tokenizer.json` of a model folder, as Hugging Face's tokenizers read it.

use std::path::Path;

use super::folder::{ModelFolder, TOKENIZER};
use crate::error::{Error, Result};

/// How text becomes token ids, and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads the `tokenizer.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is none, so that there are token ids only; [`Error::Format`] where it cannot be
    /// read.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = ModelFolder::place(dir)?.join(TOKENIZER);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Unsupported(format!(
                    "{} has no {TOKENIZER}, so tokens have numbers only and no text: give token ids, or put the {TOKENIZER} of the model there",
                    dir.display()
                )));
            }
            read => read.map_err(Error::io("cannot read", &path))?,
        };
        Self::from_bytes(&bytes).map_err(|error| Error::format(&path, error))
    }

    /// Reads the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let fail = |error| format!("cannot be read as a {TOKENIZER} ({error}); take the one that belongs to the model");
        caught(|| tokenizers::Tokenizer::from_bytes(bytes)).map(|inner| Self { inner }).map_err(fail)
    }

    /// The ids of a text, without tokens at its beginning or end that it does not hold.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the tokenizer has no way to write the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = caught(|| self.inner.encode_fast(text, false));
        let fail = |error| Error::Unsupported(format!("{text:?} cannot be tokenized: {error}"));
        Ok(encoding.map_err(fail)?.get_ids().to_vec())
    }

    /// The text of ids, special tokens included.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an id that there is not.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|id| self.inner.id_to_token(**id).is_none()) {
            return Err(Error::Unsupported(format!(
                "there is no token {id}; the tokenizer has {}",
                self.inner.get_vocab_size(true)
            )));
        }
        caught(|| self.inner.decode(ids, false))
            .map_err(|error| Error::Unsupported(format!("{ids:?} cannot be written: {error}")))
    }

    /// The id of a text that is a single token, as the answers of a probe have to be; mind that most tokens of words begin
    /// with a space.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the tokens that it is instead.
    pub fn single(&self, text: &str) -> Result<u32> {
        let ids = self.encode(text)?;
        match ids.as_slice() {
            [id] => Ok(*id),
            _ => {
                let parts: Result<Vec<String>> = ids.iter().map(|id| self.decode(&[*id])).collect();
                Err(Error::Unsupported(format!("{text:?} is {} tokens, one is needed: {:?}", ids.len(), parts?)))
            }
        }
    }
}

/// The tokenizers crate, up to 0.23, panics at some files that are no JSON or contradict themselves.
fn caught<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    done.map_err(|_| "it is damaged or contradicts itself".to_owned())?.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Byte-level as GPT-2's, with two merges and a token for the end.
    fn text() -> String {
        let mut vocab: serde_json::Map<String, serde_json::Value> =
            "abcĠ".chars().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
        vocab.insert("ab".to_owned(), json!(4));
        vocab.insert("Ġab".to_owned(), json!(5));
        vocab.insert("<end>".to_owned(), json!(6));
        let special = json!({ "id": 6, "content": "<end>", "special": true, "normalized": false, "lstrip": false,
            "rstrip": false, "single_word": false });
        let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special], "normalizer": null,
            "pre_tokenizer": level, "post_processor": null, "decoder": level,
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "vocab": vocab, "merges": ["a b", "Ġ ab"] } })
        .to_string()
    }

    #[test]
    fn text_becomes_tokens_and_text_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(TOKENIZER), text()).unwrap();
        let tokenizer = Tokenizer::read(dir.path()).unwrap();
        assert_eq!(tokenizer.encode("ab abc<end>").unwrap(), [4, 5, 2, 6]);
        assert_eq!(tokenizer.decode(&[4, 5, 2, 6]).unwrap(), "ab abc<end>");
        assert_eq!(tokenizer.single(" ab").unwrap(), 5);
        let error = tokenizer.single(" abc").unwrap_err().to_string();
        assert!(error.contains("2 tokens") && error.contains("\" ab\", \"c\""), "{error}");
        assert!(tokenizer.decode(&[9]).unwrap_err().to_string().contains("no token 9"));
    }

    #[test]
    fn a_folder_without_text_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let words = |word: &str| {
            let error = Tokenizer::read(dir.path()).err().unwrap().to_string();
            assert!(error.contains(word) && error.contains(TOKENIZER), "{error}");
        };
        words("token ids");
        std::fs::write(dir.path().join(TOKENIZER), &text()[..90]).unwrap();
        words("cannot be read");
        assert!(Tokenizer::from_bytes(b"{\"model\": 3}").is_err());
    }

    /// Where the values of a JSON text are, as pointers.
    fn places(value: &serde_json::Value, at: &str, all: &mut Vec<String>) {
        all.push(at.to_owned());
        match value {
            serde_json::Value::Object(map) => {
                map.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), all))
            }
            serde_json::Value::Array(list) => {
                list.iter().enumerate().for_each(|(index, value)| places(value, &format!("{at}/{index}"), all));
            }
            _ => {}
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_files_are_read_or_refused(
            values in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![
                json!(null), json!(0), json!(-1), json!(9), json!(u64::MAX), json!(1.5), json!(true), json!(""), json!("ab"),
                json!("BPE"), json!([]), json!(["a"]), json!({}), json!({ "type": "WordLevel", "vocab": {}, "unk_token": "" }),
            ])), 0..3),
            cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            let mut json: serde_json::Value = serde_json::from_str(&text()).unwrap();
            for (at, value) in values {
                let mut all = Vec::new();
                places(&json, "", &mut all);
                *json.pointer_mut(&all[at.index(all.len())]).unwrap() = value;
            }
            let mut bytes = json.to_string().into_bytes();
            if let Some(at) = cut {
                bytes.remove(at.index(bytes.len()));
            }
            if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes) {
                let _ = tokenizer.single(" abc").map(|id| tokenizer.decode(&[id]));
            }
        }
    }
}
