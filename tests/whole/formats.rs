//! Folders of Hugging Face's layouts on the command line: measured, trained on, exported.

use std::path::Path;

use thermoscope::model::ModelFolder;
use thermoscope::record::RunDir;

use crate::place::Place;

const TASK: &str = "\
steps = 4
[task]
kind = \"tokens\"
path = \"tokens.json\"
[batch]
size = 2
[checkpoint]
every = 4
";

/// A place with a task of twelve tokens and a folder of two shards.
fn place() -> Place {
    let place = Place::new();
    let sequences: Vec<Vec<u32>> = (0..8).map(|n| (0..8).map(|t| (n * 5 + t * 3) % 19).collect()).collect();
    place.write("tokens.json", format!("{sequences:?}"));
    place.write("task.toml", TASK);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats/llama-linear");
    std::fs::create_dir(place.path("model")).unwrap();
    for file in ModelFolder::files(&golden).unwrap() {
        std::fs::copy(&file, place.path("model").join(file.file_name().unwrap())).unwrap();
    }
    place
}

#[test]
fn a_foreign_folder_is_measured_trained_from_and_depended_on() {
    let place = place();
    place.good("measure model --config task.toml --all --set measure.only=[\"loss.test\"] --out measured");
    place.good("run task.toml --from model --out trained");
    let manifest = RunDir::read_manifest(&place.path("trained")).unwrap();
    let names = ["config.json", "model.safetensors.index.json", "00001-of-00002", "00002-of-00002"];
    for name in names {
        assert!(manifest.contents.keys().any(|path| path.display().to_string().contains(name)), "{name}");
    }
    // Weights that a run began with count until it has saved its own.
    let text = std::fs::read_to_string(place.path("trained/run.json")).unwrap();
    place.write(
        "trained/run.json",
        text.replace("\"finished\"", "\"running\"").replace("\"steps_done\": 4", "\"steps_done\": 0"),
    );
    std::fs::remove_dir_all(place.path("trained/checkpoints")).unwrap();
    let shard = "model/model-00002-of-00002.safetensors";
    let before = std::fs::read(place.path(shard)).unwrap();
    let mut after = before.clone();
    *after.last_mut().unwrap() ^= 1;
    place.write(shard, after);
    place.bad("run --resume --out trained", &["00002-of-00002", "has changed"]);
    place.write(shard, before);
    place.good("run --resume --out trained");
}

#[test]
fn what_was_trained_is_exported() {
    let place = place();
    place.write("model/tokenizer.json", "{}");
    place.good("export model --out again");
    let [known, again] = ["model", "again"].map(|name| ModelFolder::read(&place.path(name)).unwrap());
    assert!(again.replicas == known.replicas && again.config.rotary_scaling == known.config.rotary_scaling);
    assert_eq!(std::fs::read(place.path("again/tokenizer.json")).unwrap(), b"{}");
    place.bad("export model --out again", &["again", "not empty", "--out"]);

    place.good("run task.toml --from model --replicas 2 --out trained");
    let checkpoint = "trained/checkpoints/step-000004";
    place.good(&format!("export {checkpoint} --out hf"));
    place.good(&format!("export {checkpoint} --out lens --to transformer-lens"));
    let trained = ModelFolder::read(&place.path(checkpoint)).unwrap();
    assert!(trained.replicas != [known.replicas.clone(), known.replicas].concat());
    for (number, weights) in trained.replicas.iter().enumerate() {
        for to in ["hf", "lens"] {
            let one = ModelFolder::read(&place.path(&format!("{to}/replica-{number}"))).unwrap();
            assert!(one.replicas == [weights.clone()], "{to} {number}");
        }
    }
    place.write("own.toml", format!("{TASK}[model]\nd_model = 8\nn_heads = 2\nnormalization_type = \"LN\"\n"));
    place.good("run own.toml --out own");
    place.bad("export own/checkpoints/step-000004 --out no", &["unembed.b_U", "--to transformer-lens"]);
    place.good("run own.toml --set model.unembed_bias=false --out fits");
    place.good("export fits/checkpoints/step-000004 --out yes");
    assert!(std::fs::read_to_string(place.path("yes/config.json")).unwrap().contains("GPT2LMHeadModel"));
}
