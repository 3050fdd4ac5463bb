//! Sets of prompts: JSON lines, checked before anything is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::model::ModelFolder;
use crate::model::tokenizer::Tokenizer;

/// One prompt and two answers to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The prompt in words, or its token ids where there is no tokenizer.
    pub text: String,
    /// Its tokens as the model reads them.
    pub tokens: Vec<u32>,
    /// Those of the same prompt about something else, as many; place by place they are about the same part of it.
    pub corrupted: Option<Vec<u32>>,
    /// The right answer, one token.
    pub target: u32,
    /// A wrong one.
    pub foil: u32,
    /// Both in words.
    pub answers: [String; 2],
    /// Prompts of one group are not independent: errors are over groups.
    pub group: String,
    /// What kind of prompt it is.
    pub category: String,
}

/// A set of prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompts {
    /// The prompts, in the order of the file.
    pub list: Vec<Prompt>,
    /// What stands before each prompt, if anything does, in words.
    pub begin: Option<String>,
    /// The first prompt as the model reads it, token by token: in words, or by their ids where there is no tokenizer.
    pub first: Vec<String>,
    /// Whether prompts 2i and 2i + 1 are a prompt and its corrupted one, asked for the same answers.
    pub paired: bool,
}

/// A line of the file. Text and token ids are two ways of saying the same.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: Option<String>,
    corrupted: Option<String>,
    target: Option<String>,
    foil: Option<String>,
    tokens: Option<Vec<u32>>,
    corrupted_tokens: Option<Vec<u32>>,
    target_id: Option<u32>,
    foil_id: Option<u32>,
    group: String,
    category: String,
}

/// Faults of a file that are told at once.
const TOLD: usize = 8;

impl Prompts {
    /// Reads a file of JSON lines: `prompt`, `target`, `foil`, `group`, `category` and, if wanted, `corrupted`, the same prompt
    /// about something else, of as many tokens; or token ids in place of text, under `tokens`, `target_id`, `foil_id` and
    /// `corrupted_tokens`. The first `limit` lines, if there is a limit.
    ///
    /// What the tokens of a prompt begin with follows `add_bos_token` of the folder's `tokenizer_config.json`: nothing, where that
    /// says nothing.
    ///
    /// # Errors
    /// [`Error::Format`] with the lines that cannot be used, and why: keys that nobody knows, answers that are not one token,
    /// prompts that hold the answer already, duplicates, no prompts at all, and a target that is the same everywhere.
    pub fn read(path: &Path, model: &Path, sizes: [usize; 2], limit: Option<usize>, paired: bool) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("cannot read", path))?;
        let reader = match Tokenizer::read(model) {
            Ok(tokenizer) => Some(Reader { begin: begin(model, &tokenizer)?, tokenizer }),
            Err(Error::Unsupported(_)) => None,
            Err(error) => return Err(error),
        };
        let mut faults: Vec<(String, Vec<usize>)> = Vec::new();
        let mut fault = |line: usize, what: String| match faults.iter_mut().find(|(known, _)| *known == what) {
            Some((_, lines)) => lines.push(line),
            None => faults.push((what, vec![line])),
        };
        let mut list: Vec<Prompt> = Vec::new();
        let mut seen: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty()).take(limit.unwrap_or(usize::MAX));
        for (number, line) in lines.map(|(at, line)| (at + 1, line)) {
            let parsed: Result<Line, String> = serde_json::from_str(line).map_err(|error| error.to_string());
            match parsed.and_then(|line| prompt(line, reader.as_ref(), sizes)) {
                Ok(prompt) => {
                    match seen.get(&prompt.tokens) {
                        Some(first) => fault(number, format!("the prompt of line {first} again")),
                        None => _ = seen.insert(prompt.tokens.clone(), number),
                    }
                    list.push(prompt);
                }
                Err(what) => fault(number, what),
            }
        }
        if !faults.is_empty() {
            let told = faults.iter().take(TOLD).map(|(what, lines)| {
                let named = lines.iter().take(TOLD).map(usize::to_string).collect::<Vec<_>>().join(", ");
                let more = lines.len().saturating_sub(TOLD);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("\n  line {named}{more}: {what}")
            });
            let (told, more) = (told.collect::<String>(), faults.len().saturating_sub(TOLD));
            let more = if more > 0 { format!("\n  and {more} other faults") } else { String::new() };
            let text = format!("has lines that cannot be used:{told}{more}\nMend them, or leave them out");
            return Err(Error::format(path, text));
        }
        if list.is_empty() {
            return Err(Error::format(path, "holds no prompts: one JSON object a line is needed"));
        }
        if paired {
            list = with_corrupted(&list)?;
        }
        let targets: BTreeSet<u32> = list.iter().map(|prompt| prompt.target).collect();
        if targets.len() == 1 && list.len() > if paired { 2 } else { 1 } {
            return Err(Error::format(
                path,
                format!(
                    "has the target {:?} in every line, so that what raises that one word would look like an effect on the task: add prompts with other answers",
                    list[0].answers[0]
                ),
            ));
        }
        let first = &list[0].tokens;
        let first = match &reader {
            Some(Reader { tokenizer, .. }) => first.iter().map(|id| tokenizer.decode(&[*id])).collect::<Result<_>>()?,
            None => first.iter().map(u32::to_string).collect(),
        };
        let begin = reader.and_then(|reader| reader.begin.map(|(text, _)| text));
        Ok(Self { list, begin, first, paired })
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.list.iter().map(|prompt| &prompt.group).collect::<BTreeSet<_>>().len()
    }
}

struct Reader {
    tokenizer: Tokenizer,
    /// Text and id of what stands before each prompt.
    begin: Option<(String, u32)>,
}

/// What a folder's `tokenizer_config.json` puts before a text.
fn begin(model: &Path, tokenizer: &Tokenizer) -> Result<Option<(String, u32)>> {
    let path = ModelFolder::place(model)?.join("tokenizer_config.json");
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io("cannot read", &path))?,
    };
    let config: serde_json::Value = crate::files::json(&path, &bytes, "a JSON object")?;
    if config["add_bos_token"] != true {
        return Ok(None);
    }
    let token = &config["bos_token"];
    let text = token["content"].as_str().or_else(|| token.as_str()).ok_or_else(|| {
        Error::format(&path, "has add_bos_token = true and no bos_token: name the token, or set add_bos_token to false")
    })?;
    Ok(Some((text.to_owned(), tokenizer.single(text)?)))
}

/// Each prompt that has a corrupted one, with that behind it.
pub(super) fn with_corrupted(list: &[Prompt]) -> Result<Vec<Prompt>> {
    let pair = |prompt: &Prompt| {
        let tokens = prompt.corrupted.clone()?;
        Some([prompt.clone(), Prompt { tokens, ..prompt.clone() }])
    };
    let list: Vec<Prompt> = list.iter().filter_map(pair).flatten().collect();
    if list.is_empty() {
        return Err(Error::Refused(
            "none of the prompts has a corrupted one, and patching puts what the model makes of one in the other: add \"corrupted\" to the lines of the file, the same prompt about something else, of as many tokens"
                .to_owned(),
        ));
    }
    Ok(list)
}

/// A line as the model reads it, or what is wrong with it.
fn prompt(line: Line, reader: Option<&Reader>, [d_vocab, answers_of]: [usize; 2]) -> Result<Prompt, String> {
    let told = |error: Error| error.to_string();
    if line.group.trim().is_empty() || line.category.trim().is_empty() {
        return Err("group and category must say something".to_owned());
    }
    let (text, tokens, corrupted, [target, foil], answers) =
        match (line.prompt, line.target, line.foil, line.tokens, line.target_id, line.foil_id) {
            (Some(text), Some(target), Some(foil), None, None, None) => {
                let Some(Reader { tokenizer, begin }) = reader else {
                    return Err(
                        "the model's folder has no tokenizer.json: give tokens, target_id and foil_id".to_owned()
                    );
                };
                if text.ends_with(char::is_whitespace) {
                    return Err(format!(
                        "{text:?} ends with a space: the space belongs to the answers, as in \" Paris\""
                    ));
                }
                let read = |text: &str| -> Result<Vec<u32>, String> {
                    Ok([begin.iter().map(|(_, id)| *id).collect(), tokenizer.encode(text).map_err(told)?].concat())
                };
                let ids = [&target, &foil].map(|answer| tokenizer.single(answer).map_err(told));
                let [target_id, foil_id] = ids;
                let corrupted = line.corrupted.as_deref().map(&read).transpose()?;
                holds_answer(&text, &target, &foil)?;
                (text.clone(), read(&text)?, corrupted, [target_id?, foil_id?], [target, foil])
            }
            (None, None, None, Some(tokens), Some(target), Some(foil)) => {
                let words = [target, foil].map(|id| format!("token {id}"));
                (format!("tokens {tokens:?}"), tokens, line.corrupted_tokens, [target, foil], words)
            }
            _ => {
                return Err("needs either prompt, target and foil, or tokens, target_id and foil_id".to_owned());
            }
        };
    if tokens.is_empty() {
        return Err("the prompt is empty".to_owned());
    }
    let read = tokens.iter().map(|id| (id, d_vocab));
    if let Some((id, known)) =
        read.chain([(&target, answers_of), (&foil, answers_of)]).find(|(id, of)| **id as usize >= *of)
    {
        let what = if known == d_vocab { "the model has" } else { "the model answers with one of" };
        return Err(format!("there is no token {id}; {what} {known}"));
    }
    if target == foil {
        return Err(format!("target and foil are both {:?}", answers[0]));
    }
    match &corrupted {
        Some(other) if *other == tokens => return Err("corrupted is the prompt itself".to_owned()),
        Some(other) if other.len() != tokens.len() => {
            return Err(format!(
                "corrupted has {} tokens, and the prompt {}: they must match",
                other.len(),
                tokens.len()
            ));
        }
        // The stream at the last place would be all that differs, and a patch there the corrupted prompt itself, at any layer.
        Some(other) if other[..other.len() - 1] == tokens[..tokens.len() - 1] => {
            return Err("corrupted differs in its last token only: it must differ before that".to_owned());
        }
        Some(other) => {
            if let Some(id) = other.iter().find(|id| **id as usize >= d_vocab) {
                return Err(format!("there is no token {id}, which corrupted has; the model has {d_vocab}"));
            }
        }
        None => {}
    }
    Ok(Prompt { text, tokens, corrupted, target, foil, answers, group: line.group, category: line.category })
}

/// Refuses a prompt that holds the answer: at its end, where it has been given already; or anywhere, unless the wrong answer is
/// there too and the question is which of the two.
fn holds_answer(text: &str, target: &str, foil: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let (target, foil) = (target.trim(), foil.trim());
    if words.last() == Some(&target) {
        return Err(format!("{text:?} ends with the answer {target:?}"));
    }
    if words.contains(&target) && !words.contains(&foil) {
        return Err(format!("{text:?} holds the answer {target:?} and not the wrong one, {foil:?}: copying would do"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What reading these lines in a folder says; words are tokens of their own, and `cap` is two.
    fn read(lines: &[&str], config: &str) -> Result<Prompts, String> {
        read_of(lines, config, 11, false)
    }

    fn read_of(lines: &[&str], config: &str, answers: usize, paired: bool) -> Result<Prompts, String> {
        let dir = tempfile::tempdir().unwrap();
        let words = ["[UNK]", "<s>", "The", "capital", "of", "France", "Spain", "is", "Paris", "Madrid", "Peru"];
        let vocab: serde_json::Map<String, serde_json::Value> =
            words.iter().enumerate().map(|(at, word)| ((*word).to_owned(), at.into())).collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
            "added_tokens": [{ "id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }],
            "pre_tokenizer": { "type": "Whitespace" },
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
        });
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        let path = dir.path().join("set.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        Prompts::read(&path, dir.path(), [words.len(), answers], None, paired).map_err(|error| error.to_string())
    }

    const FRANCE: &str = r#"{"prompt": "The capital of France is", "target": "Paris", "foil": "Madrid", "group": "France", "category": "facts"}"#;
    const SPAIN: &str = r#"{"prompt": "The capital of Spain is", "corrupted": "The capital of France is", "target": "Madrid", "foil": "Paris", "group": "Spain", "category": "facts"}"#;

    #[test]
    fn prompts_are_read_with_and_without_a_token_before_them() {
        let set = read(&[FRANCE, "", SPAIN], "{}").unwrap();
        assert_eq!(set.list[0].tokens, [2, 3, 4, 5, 7]);
        assert_eq!((set.list[1].target, set.list[1].foil, set.groups(), set.begin), (9, 8, 2, None));
        let set = read(&[FRANCE, SPAIN], r#"{"add_bos_token": true, "bos_token": {"content": "<s>"}}"#).unwrap();
        assert_eq!((set.list[0].tokens.as_slice(), set.begin.as_deref()), (&[1, 2, 3, 4, 5, 7][..], Some("<s>")));
        let error = read(&[FRANCE, SPAIN], r#"{"add_bos_token": true}"#).unwrap_err();
        assert!(error.contains("bos_token"), "{error}");
        let ids = r#"{"tokens": [2, 3], "target_id": 4, "foil_id": 5, "group": "a", "category": "b"}"#;
        assert_eq!(read(&[ids], "{}").unwrap().list[0].tokens, [2, 3]);
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_line() {
        for (line, words) in [
            (FRANCE.replace("Paris", "Paris Peru"), "2 tokens"),
            (FRANCE.replace("France is", "France is Paris"), "ends with the answer"),
            (FRANCE.replace("The capital", "Paris capital"), "copying would do"),
            (FRANCE.replace("Madrid", "Paris"), "both"),
            (FRANCE.replace("France is\"", "France is \""), "ends with a space"),
            (FRANCE.replace("category", "kategory"), "kategory"),
            (FRANCE.replace("\"facts\"", "\"\""), "must say something"),
            (SPAIN.replace("The capital of France is", "France is"), "must match"),
            (SPAIN.replace("The capital of France is", "The capital of Spain Spain"), "its last token only"),
            (
                r#"{"tokens": [2, 3], "corrupted_tokens": [99, 3], "target_id": 4, "foil_id": 5, "group": "a", "category": "b"}"#
                    .to_owned(),
                "no token 99, which corrupted has",
            ),
            (SPAIN.to_owned(), "line 2 again"),
            (
                r#"{"tokens": [2, 99], "target_id": 4, "foil_id": 5, "group": "a", "category": "b"}"#.to_owned(),
                "no token 99",
            ),
            (r#"{"tokens": [2], "target": "Paris", "group": "a", "category": "b"}"#.to_owned(), "needs either"),
            ("[]".to_owned(), "line 3"),
        ] {
            let error = read(&[FRANCE, SPAIN, &line], "{}").unwrap_err();
            assert!(error.contains(words) && error.contains("line 3"), "{words}: {error}");
        }
        assert!(read(&[], "{}").unwrap_err().contains("holds no prompts"));
        let other = FRANCE.replace("France is", "Peru is");
        assert!(read(&[FRANCE, &other], "{}").unwrap_err().contains("the target \"Paris\" in every line"));
    }

    #[test]
    fn corrupted_prompts_stand_behind_their_prompts() {
        let pairs = read_of(&[FRANCE, SPAIN], "{}", 11, true).unwrap();
        let tokens: Vec<&[u32]> = pairs.list.iter().map(|prompt| prompt.tokens.as_slice()).collect();
        assert_eq!(tokens, [[2, 3, 4, 6, 7], [2, 3, 4, 5, 7]], "the first has no corrupted one");
        assert!(pairs.paired && pairs.list[1].target == 9 && pairs.list[1].group == "Spain");
        assert_eq!(pairs.first[3], "Spain", "the first that is read, not of the file");
        assert!(read_of(&[FRANCE], "{}", 11, true).unwrap_err().contains("add \"corrupted\""));
        // What is left has one target.
        let again = SPAIN.replace("of Spain", "in Spain").replace("capital of France", "capital in France");
        let error = read_of(&[FRANCE, SPAIN, &again], "{}", 11, true).unwrap_err();
        assert!(error.contains("the target \"Madrid\" in every line"), "{error}");
    }

    #[test]
    fn answers_are_among_those_that_the_model_gives() {
        let ids = r#"{"tokens": [2, 3], "target_id": 4, "foil_id": 5, "group": "a", "category": "b"}"#;
        read_of(&[ids], "{}", 6, false).unwrap();
        let error = read_of(&[ids], "{}", 5, false).unwrap_err();
        assert!(error.contains("no token 5; the model answers with one of 5"), "{error}");
    }

    #[test]
    fn a_question_which_of_two_may_hold_both() {
        holds_answer("Then Ann and Bob met and Ann gave it to", " Bob", " Ann").unwrap();
        assert!(holds_answer("Then Bob met me and I gave it to", " Bob", " Ann").is_err());
        assert!(holds_answer("Ann met Bob", " Bob", " Ann").is_err());
    }
}
