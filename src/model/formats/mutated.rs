//! Damaged folders of every layout: whatever stands in a file, reading it ends in a model or a message. `fuzz/` looks further.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use crate::model::ModelFolder;

const FOLDERS: [&str; 5] = ["gpt2", "llama3", "llama-linear", "neox-sequential", "transformer-lens"];

/// What happens to a file.
#[derive(Clone, Debug)]
enum Damage {
    /// A byte near the beginning, where headers are, becomes another.
    Byte(Index, u8),
    /// It ends early.
    Cut(Index),
    /// A number in its text becomes another, at the place of some digit.
    Digit(Index, &'static str),
    /// A key of `config.json` takes another value, whatever the file.
    Key(Index, Value),
}

fn damage() -> impl Strategy<Value = Damage> {
    let values = [
        json!(null),
        json!(0),
        json!(1),
        json!(-1),
        json!(3),
        json!(20),
        json!(64),
        json!(u64::MAX),
        json!(1e300),
        json!(0.3),
        json!(true),
        json!("x"),
        json!([]),
        json!([1]),
        json!({}),
        json!({ "rope_type": "linear", "factor": 1e-300 }),
        json!({ "rope_type": "llama3", "factor": 2 }),
        json!({ "type": "yarn" }),
    ];
    prop_oneof![
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), prop::sample::select(vec!["", "9", "-", "18446744073709551615", "e9", "\"", "}"]))
            .prop_map(|(at, text)| Damage::Digit(at, text)),
        6 => (any::<Index>(), prop::sample::select(values.to_vec())).prop_map(|(at, value)| Damage::Key(at, value)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let digits: Vec<usize> = (0..bytes.len().min(4096)).filter(|at| bytes[*at].is_ascii_digit()).collect();
    match damage {
        _ if bytes.is_empty() => {}
        Damage::Byte(at, byte) => {
            let at = at.index(bytes.len().min(4096));
            bytes[at] = *byte;
        }
        Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Damage::Digit(at, text) if !digits.is_empty() => {
            let at = digits[at.index(digits.len())];
            bytes.splice(at..=at, text.bytes());
        }
        Damage::Key(at, value) => {
            let Ok(mut keys) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return };
            if let Some(key) = keys.keys().nth(at.index(keys.len().max(1))).cloned() {
                keys.insert(key, value.clone());
            }
            *bytes = Value::Object(keys).to_string().into_bytes();
        }
        Damage::Digit(..) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_folders_are_read_or_refused(
        which in 0..FOLDERS.len(),
        damages in prop::collection::vec((any::<Index>(), damage()), 1..4),
    ) {
        let place = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats");
        let name = FOLDERS[which];
        if name == "transformer-lens" {
            ModelFolder::read(&golden.join("gpt2")).unwrap().write(place.path()).unwrap();
        } else {
            for file in ModelFolder::files(&golden.join(name)).unwrap() {
                std::fs::copy(&file, place.path().join(file.file_name().unwrap())).unwrap();
            }
        }
        let mut files = ModelFolder::files(place.path()).unwrap();
        files.sort_unstable();
        for (file, damage) in &damages {
            let file = &files[if matches!(damage, Damage::Key(..)) { 0 } else { file.index(files.len()) }];
            let mut bytes = std::fs::read(file).unwrap();
            apply(&mut bytes, damage);
            std::fs::write(file, bytes).unwrap();
        }
        if let Err(error) = ModelFolder::read(place.path()) {
            let text = error.to_string();
            prop_assert!(text.contains(place.path().to_str().unwrap()), "which file? {text}");
        }
    }
}
