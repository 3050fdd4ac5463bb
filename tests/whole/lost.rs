//! A run whose device is lost, by a Vulkan layer that says so as a driver does, ends with an error and its last checkpoint,
//! from which it goes on to the bits it would have had.

use std::path::{Path, PathBuf};
use std::process::Command;

use thermoscope::record::{RunDir, Setup, Status, read_metrics};
use thermoscope::train::Session;

use crate::common::gpus;
use crate::place::{Place, Table, table};

const RUN: &str = r#"
    steps = 300
    [task]
    kind = "modular"
    p = 11
    [model]
    d_model = 8
    n_heads = 2
    [batch]
    size = 9
    [checkpoint]
    every = 20
    [measure]
    off = ["ablation"]
"#;

/// Builds the layer and describes it to the loader.
fn layer(dir: &Path) {
    let library = dir.join("liblose.so");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition", "2021", "--crate-type", "cdylib", "-o"])
        .arg(&library)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/whole/lost/layer.rs"))
        .output()
        .expect("rustc runs where cargo does");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let manifest = serde_json::json!({
        "file_format_version": "1.1.2",
        "layer": {
            "name": "VK_LAYER_TEST_lose",
            "type": "GLOBAL",
            "library_path": library,
            "api_version": "1.3.0",
            "implementation_version": "1",
            "description": "loses the device",
        }
    });
    std::fs::write(dir.join("lose.json"), manifest.to_string()).unwrap();
}

/// Every number of the table and the last weights, as bits.
fn outcome(run: &Path) -> (Table, Vec<u8>) {
    (table(run), std::fs::read(run.join("checkpoints/step-000300/model.safetensors")).unwrap())
}

fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(run.join("checkpoints")).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn a_run_whose_device_is_lost_ends_with_its_last_checkpoint_and_goes_on() {
    let place = Place::new();
    let dir = place.dir.path();
    layer(dir);
    place.write("run.toml", RUN);
    place.good("run run.toml --out whole");
    let whole = outcome(&place.path("whole"));

    // Behind the kernels, each of which is compiled with a submission and a wait of its own.
    let mut kernels = 0;
    let session = Session::new(&gpus()[0], Setup::from_toml(RUN).unwrap().config).unwrap();
    session
        .compile(|_, of| {
            kernels = of;
            false
        })
        .unwrap();
    // Where wgpu is told of it decides what it does: to a failed submission nothing, to a failed wait it panics.
    // A fast machine submits twenty steps and a checkpoint by two calls, a slow one by twenty.
    for (name, what, later) in [("submitting", "submit", 28), ("waiting", "wait", 24)] {
        let lose_at = format!("{what} {}", kernels + later);
        let run = place.path(name);
        let mut command = place.command(&format!("run run.toml --out {name}"));
        command.env("VK_LAYER_PATH", dir).env("VK_INSTANCE_LAYERS", "VK_LAYER_TEST_lose").env("LOSE_AT", lose_at);
        let ended = command.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("error: the device failed") && !said.contains("panicked"), "{name}: {said}");
        assert_ne!(RunDir::read_manifest(&run).unwrap().status, Status::Finished);

        // The last checkpoint is whole, and nothing was filed that came behind it.
        let last = checkpoints(&run).pop().expect("a checkpoint before the loss");
        let step: i64 = last.file_name().unwrap().to_str().unwrap().strip_prefix("step-").unwrap().parse().unwrap();
        assert!((20..300).contains(&step), "{name}: {step}");
        assert!(last.join("model.safetensors").exists() && last.join("optimizer.safetensors").exists());
        let series = read_metrics(&run, |_| true).unwrap();
        let filed = series.values().flat_map(|s| s.steps.iter()).max().copied();
        assert_eq!(filed, Some(step - 1), "{name}");

        place.good(&format!("run --resume --out {name}"));
        assert!(outcome(&run) == whole, "{name}: goes on to the bits it would have had");
    }
}
