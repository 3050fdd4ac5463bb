//! Any bytes as the weights of a folder whose configuration is sound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thermoscope::model::ModelFolder;

const CONFIG: &[u8] = include_bytes!("../../tests/golden/formats/llama3/config.json");

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let _ = ModelFolder::read(dir.path());
});
