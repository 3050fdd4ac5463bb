//! Any bytes as a tokenizer.json, and what it makes of a text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thermoscope::model::tokenizer::Tokenizer;

// Panics of the tokenizers crate are caught by ours; libFuzzer's hook would end the process before that.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_bytes(bytes) {
        let _ = tokenizer.single(" a text").map(|id| tokenizer.decode(&[id]));
    }
});
