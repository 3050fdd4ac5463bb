//! Any bytes as the configuration of a folder whose weights are sound: the first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thermoscope::model::ModelFolder;

const WEIGHTS: [&[u8]; 4] = [
    include_bytes!("../../tests/golden/formats/gpt2/model.safetensors"),
    include_bytes!("../../tests/golden/formats/neox/model.safetensors"),
    include_bytes!("../../tests/golden/formats/llama3/model.safetensors"),
    include_bytes!("../../tests/golden/formats/qwen2/model.safetensors"),
];

fuzz_target!(|bytes: &[u8]| {
    let Some((which, config)) = bytes.split_first() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), WEIGHTS[usize::from(which % 4)]).unwrap();
    let _ = ModelFolder::read(dir.path());
});
