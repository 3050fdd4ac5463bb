//! The command, as people use it and as they misuse it.

use std::path::Path;
use std::process::Command;

use thermoscope::record::{RunDir, Status, read_metrics};

use crate::place::{Place, TINY};

#[test]
fn a_run_leaves_a_readable_directory_and_a_report() {
    let place = Place::new();
    let output = place.run("run tiny.toml --out out --seed 3");
    let told = String::from_utf8(output.stderr).unwrap();
    // Compiling may take minutes: that it began is told at once, and before anything else is done.
    let compiling = told.lines().position(|line| line.starts_with("compiling: "));
    assert_eq!(compiling.is_some(), crate::common::gpus()[0].caps().is_software(), "{told}");
    assert!(compiling < told.lines().position(|line| line.contains("steps done")), "{told}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("report: out/report.html"), "{said}");
    let manifest = RunDir::read_manifest(&place.path("out")).unwrap();
    assert_eq!((manifest.status, manifest.steps_done), (Status::Finished, 4));
    assert_eq!(manifest.config["seed"], 3);
    let series = read_metrics(&place.path("out"), |_| true).unwrap();
    let steps_of = |metric: &str| series.iter().find(|(key, _)| key.metric == metric).unwrap().1.steps.clone();
    assert_eq!(steps_of("loss.train"), [0, 1, 2, 3, 4], "each step, and the state the run ends with");
    assert_eq!(steps_of("update_norm"), [0, 1, 2, 3], "the last state was only measured");
    assert!(series.values().flat_map(|s| &s.values).all(|value| value.is_finite()));
    for file in ["config.json", "model.safetensors", "optimizer.safetensors", "state.json"] {
        assert!(place.path("out/checkpoints/step-000004").join(file).exists(), "{file}");
    }
    assert!(place.good("run --resume --out out").contains("finished"));
    assert!(place.good("report out").contains("report.html"));
}

#[test]
fn an_arm_in_which_nothing_happened_says_what_was_looked_for() {
    let place = Place::new();
    place.write("arms.toml", format!("{TINY}[[replica]]\nname = \"one\"\n[[replica]]\nname = \"two\"\n"));
    let said = place.good("run arms.toml --out out");
    let page = std::fs::read_to_string(place.path("out/report.html")).unwrap();
    for name in ["one", "two"] {
        let words = format!("{name}: nothing yet of memorized (not by step 4), generalizing (not by step 4)");
        assert!(said.contains(&words) && page.contains(&words), "{said}");
    }
}

#[test]
fn any_seed_may_be_asked_for() {
    let place = Place::new();
    place.good("run tiny.toml --seed 18446744073709551615 --replicas 2 --out flag");
    place.good("run tiny.toml --set seed=18446744073709551615 --set replicas=2 --out set");
    place.write("quoted.toml", format!("seed = \"18446744073709551615\"\nreplicas = 2\n{TINY}"));
    place.good("run quoted.toml --steps 2 --out file");
    place.good("run --resume --out file --steps 4");
    let weights = |dir: &str| std::fs::read(place.path(dir).join("checkpoints/step-000004/model.safetensors")).unwrap();
    assert!(weights("flag") == weights("set") && weights("set") == weights("file"));
    assert_eq!(RunDir::read_manifest(&place.path("file")).unwrap().config["seed"], "18446744073709551615");
    let said = place.run("measure file/checkpoints/step-000004 --out measured");
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        said.status.success() && !told.contains("warning") && !told.contains("note"),
        "its split is its own: {told}"
    );
    place.write("bare.toml", format!("seed = 18446744073709551615\n{TINY}"));
    place.bad("run bare.toml --out no", &["bare.toml", "line 1", "in quotes"]);
}

/// Its tokens lie four to a word on the device: a word each would be more than the 128 MiB that any device binds.
#[test]
fn a_text_of_forty_megabytes_is_trained_on() {
    let place = Place::new();
    place.write("book.txt", "It was a dark and stormy night.\n".repeat(1_250_000));
    let set = "--set task.path=book.txt --set task.seq=8 --set task.test_sequences=2 --set batch.size=2 --set model.n_layers=1 \
               --set model.d_model=8 --set model.n_heads=1 --set model.d_mlp=8 --set measure.off=[\"ablation\"]";
    place.good(&format!("run text {set} --steps 1 --out out"));
    let manifest = RunDir::read_manifest(&place.path("out")).unwrap();
    assert_eq!((manifest.status, manifest.steps_done), (Status::Finished, 1));
}

#[test]
fn a_model_folder_can_be_measured_and_trained_on() {
    let place = Place::new();
    place.good("run tiny.toml --out out");
    place.write("task.toml", "[task]\nkind = \"modular\"\np = 7\n");
    let model = "out/checkpoints/step-000004";
    let said = place.good(&format!("measure {model} --config task.toml --out measured"));
    assert!(said.contains("loss.test") && said.contains("weight_norm"), "{said}");
    assert!(said.contains("layer 0 head 1 resample"), "indices go by their names: {said}");
    // Its page is of a model, and knows no training.
    place.good(&format!("measure {model} --all --set name= --out whole"));
    for dir in ["measured", "whole"] {
        let page = std::fs::read_to_string(place.path(dir).join("report.html")).unwrap();
        let page = page.split("<script").next().unwrap();
        assert!(page.contains("measured once") && page.contains(&model.replace('/', "&#x2f;")), "{page}");
        for words in ["step 0", "± 0", "adamw", "Training", "under way", "Drag"] {
            assert!(!page.contains(words), "{words}: {page}");
        }
    }
    assert!(std::fs::read_to_string(place.path("whole/report.html")).unwrap().contains("<h1>step-000004</h1>"));
    place.bad("run --resume --out measured", &["the measurement of a model", "--from"]);
    place.bad("measure measured --config tiny.toml --out no", &["the measurement of a model", "name the folder"]);
    // The model's last measurement in the run is the same model's measurement now.
    let last = |dir: &str| {
        let series = read_metrics(&place.path(dir), |name| name == "loss.test").unwrap();
        series.into_values().next().unwrap().values.last().unwrap().to_bits()
    };
    assert_eq!(last("out"), last("measured"));
    place.good(&format!("run tiny.toml --from {model} --out more"));
    place.bad(&format!("run tiny.toml --from {model} --set model.d_model=16 --out no"), &["another model", "[model]"]);
    place.bad("run tiny.toml --from nowhere --out no", &["nowhere"]);
    assert!(!place.path("no").exists());
}

#[test]
fn lists_and_helps() {
    let place = Place::new();
    for (line, words) in [
        ("--help", &["Examples", "run", "measure", "adapters"][..]),
        ("run --help", &["--resume", "Examples"]),
        ("--version", &["thermoscope"]),
        ("presets", &["grok", "grok-quick", "arms", "verma", "power", "fsd", "induction", "olsson", "text"]),
        ("presets grok", &["p = 113"]),
        ("instruments", &["loss.test", "attention_entropy", "fourier_norm"]),
        ("instruments --measure tiny.toml", &["attention", "filing", "class F together"]),
        ("bench instruments --help", &["instruments"]),
        ("completions bash", &["thermoscope"]),
        ("adapters", &["subgroup"]),
    ] {
        let said = place.good(line);
        for word in words {
            assert!(said.contains(word), "{line} should speak of {word}: {said}");
        }
    }
    let cards = place.good("instruments --json");
    assert!(cards.lines().count() >= 15);
    for card in cards.lines() {
        let card: serde_json::Value = serde_json::from_str(card).unwrap();
        for field in ["name", "formula", "unit", "axes", "cost", "every", "control", "source", "not_for"] {
            assert!(!card[field].is_null() && card[field] != "", "{field} of {card}");
        }
    }
    let listed = place.good("adapters");
    for line in place.good("adapters --json").lines() {
        let adapter: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(listed.contains(adapter["name"].as_str().unwrap()), "{adapter} is not in {listed}");
        assert!(adapter["name"].is_string() && adapter["max_binding"].is_u64());
    }
    let costs: serde_json::Value = serde_json::from_str(&place.good("instruments --measure tiny.toml --json")).unwrap();
    for cost in costs["costs"]["costs"].as_array().unwrap() {
        assert!(cost["ms"].as_f64().unwrap() > 0.0 && cost["dispatches"].as_u64().unwrap() > 0, "{cost}");
    }
    let mine = place.good("presets grok-quick");
    place.write("mine.toml", mine);
    place.good("run mine.toml --steps 1 --out mine");
}

#[test]
fn mistakes_in_a_configuration_are_told_and_write_nothing() {
    let place = Place::new();
    place.write("broken.toml", "steps = [");
    place.write("no-utf8.txt", [b'a', 0xff, 0xfe, b'b'].repeat(200));
    place.write("short.txt", "tiny");
    place.write("pairs.json", "[[1, 2], [3, 9]]");
    place.write("not-pairs.json", "{\"a\": 1}");
    place.write("tokens.json", "[[1, 2], [3]]");
    place.write("torn.safetensors", [7u8; 20]);
    for (set, words) in [
        ("optimizer.lr=1", &["lr", "learning_rate"][..]),
        ("foo=1", &["foo"]),
        ("steps=many", &["steps"]),
        ("steps=0", &["steps"]),
        ("steps=-3", &["steps"]),
        ("seed=-1", &["--set seed=-1", "from 0 to 18446744073709551615"]),
        ("seed=18446744073709551616", &["seed=18446744073709551616", "from 0 to 18446744073709551615"]),
        ("replicas=0", &["replicas = 0", "at least one"]),
        ("measure.only=[]", &["measure.only = []", "everything"]),
        ("optimizer.learning_rate=fast", &["learning_rate"]),
        ("precision=f8", &["f8", "f16-forward"]),
        ("loss_scale=1000", &["loss_scale", "power of two"]),
        ("optimizer.learning_rate=nan", &["learning_rate"]),
        ("optimizer.betas=[0.9]", &["betas"]),
        ("optimizer.betas=[0.9,1.0]", &["betas"]),
        ("optimizer.no_decay=[\"nothing\"]", &["no_decay", "embed.W_E"]),
        ("task.p=1", &["p"]),
        ("task.p=258", &["p", "257"]),
        ("task.kind=chess", &["chess", "modular"]),
        ("task.train_fraction=0", &["train_fraction"]),
        ("task.train_fraction=1", &["train_fraction"]),
        ("replica=[{name='a'},{name='a'}]", &["named a"]),
        ("task.train_pairs=nowhere.json", &["nowhere.json"]),
        ("task.train_pairs=pairs.json", &["pairs.json"]),
        ("task.train_pairs=not-pairs.json", &["not-pairs.json"]),
        ("model.d_model=9", &["d_model"]),
        ("model.d_model=0", &["d_model"]),
        ("model.n_heads=0", &["n_heads"]),
        ("model.n_heads=3", &["n_heads"]),
        ("model.act_fn=tanh", &["act_fn", "relu"]),
        ("model.n_ctx=2", &["n_ctx"]),
        ("model.normalization_type=batch", &["normalization_type"]),
        ("batch.size=0", &["batch.size"]),
        ("batch.size=half", &["batch"]),
        ("checkpoint.every=0", &["checkpoint.every"]),
        ("measure.every.loss.tset=5", &["loss.tset", "loss.test"]),
        ("measure.every.loss.test=0", &["loss.test"]),
        ("measure.off=[\"everything\"]", &["everything"]),
        ("replicas=5000", &["replicas"]),
        ("nonsense", &["nonsense", "key=value"]),
        // Too large for any device: refused before memory is asked for.
        ("model.d_mlp=4000000000", &["d_mlp"]),
        ("model.d_model=200000", &[]),
        ("replicas=4096", &[]),
    ] {
        if set == "replicas=4096" {
            let more = "--set model.d_model=512 --set task.p=113";
            place.bad(&format!("run tiny.toml --out out --set {set} {more}"), &["ewer replicas"]);
        } else {
            place.bad(&format!("run tiny.toml --out out --set {set}"), words);
        }
        assert!(!place.path("out").exists(), "{set} wrote something");
    }
    for (line, words) in [
        ("run", &["PRESET"][..]),
        ("run nothing", &["nothing", "grok"]),
        ("run nowhere.toml", &["nowhere.toml"]),
        ("run broken.toml", &["broken.toml", "line 1"]),
        ("run text --out out", &["path"]),
        ("run text --out out --set task.path=nowhere.txt", &["nowhere.txt"]),
        ("run text --out out --set task.path=no-utf8.txt", &["no-utf8.txt", "UTF-8"]),
        ("run text --out out --set task.path=short.txt", &["short.txt"]),
        ("run tiny.toml --out out --adapter 99", &["99", "--adapter"]),
        ("run tiny.toml --out out --adapter abacus", &["abacus", "--adapter"]),
        ("run --resume", &["--out"]),
        ("run --resume --out nowhere", &["nowhere"]),
        ("report nowhere", &["nowhere"]),
        ("measure nowhere --config tiny.toml --out out", &["nowhere", "is not there", "download"]),
        ("measure tiny.toml --config tiny.toml --out out", &["tiny.toml", "is a file", "model.safetensors"]),
        ("measure . --config tiny.toml --out out", &["holds no model", "config.json"]),
        ("scan nowhere --probes nothing --out out", &["nowhere", "is not there"]),
        ("export nowhere --out out", &["nowhere", "is not there"]),
        ("run tiny.toml --from nowhere --out out", &["nowhere", "is not there"]),
        ("run tiny.toml --replicas 0 --out out", &["--replicas 0", "at least one"]),
        (
            "run tiny.toml --set measure.only=[\"loss.test\"] --set measure.off=[\"test\"] --out out",
            &["nothing is left to measure", "measure.only = [\"loss.test\"]", "measure.off = [\"test\"]"],
        ),
        ("run tiny.toml --set measure.only=[\"irreps\"] --out out", &["nothing is left to measure"]),
        ("export nowhere --adapter 0 --out out", &["--adapter"]),
        ("report nowhere --adapter 0", &["--adapter"]),
        ("instruments --adapter 0", &["--adapter", "--measure"]),
        ("frobnicate", &["frobnicate"]),
        ("presets nothing", &["nothing"]),
    ] {
        place.bad(line, words);
        assert!(!place.path("out").exists(), "{line} wrote something");
    }
    for file in ["tokens.json", "torn.safetensors", "nowhere.json"] {
        place.write("tokens.toml", format!("steps = 2\n[task]\nkind = \"tokens\"\npath = \"{file}\"\n"));
        place.bad("run tokens.toml --out out", &[file]);
    }
    assert!(!place.path("out").exists());
}

#[test]
fn a_damaged_model_folder_is_told() {
    let place = Place::new();
    place.good("run tiny.toml --out out");
    let model = place.path("out/checkpoints/step-000004");
    let measure = "measure m --config tiny.toml --out measured";
    let with = |change: &dyn Fn(&Path)| {
        let copy = place.path("m");
        let _ = std::fs::remove_dir_all(&copy);
        std::fs::create_dir(&copy).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(model.join(name), copy.join(name)).unwrap();
        }
        change(&copy);
    };
    with(&|m| std::fs::remove_file(m.join("model.safetensors")).unwrap());
    place.bad(measure, &["model.safetensors"]);
    with(&|m| std::fs::remove_file(m.join("config.json")).unwrap());
    place.bad(measure, &["config.json"]);
    with(&|m| {
        let bytes = std::fs::read(m.join("model.safetensors")).unwrap();
        std::fs::write(m.join("model.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    });
    place.bad(measure, &["model.safetensors"]);
    with(&|m| {
        let text = std::fs::read_to_string(m.join("config.json")).unwrap();
        std::fs::write(m.join("config.json"), text.replace("\"d_model\": 8", "\"d_model\": 12")).unwrap();
    });
    place.bad(measure, &["model.safetensors"]);
    for key in ["act_fn", "normalization_type"] {
        with(&|m| {
            let text = std::fs::read_to_string(m.join("config.json")).unwrap();
            std::fs::write(m.join("config.json"), text.replace(key, "misspelt")).unwrap();
        });
        place.bad(measure, &["config.json", &format!("has no {key}"), "add it"]);
    }
    with(&|m| std::fs::write(m.join("config.json"), "{").unwrap());
    place.bad(measure, &["config.json"]);
    // The model knows fewer tokens than the task has.
    with(&|_| ());
    place.bad(&format!("{measure} --set task.p=11"), &["d_vocab"]);
    // The header of a safetensors file is behind 8 bytes that hold its length; what follows are the weights.
    with(&|m| {
        let path = m.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    });
    place.bad(measure, &["no finite numbers", "tensor"]);
    assert!(!place.path("measured").exists());
}

#[test]
fn what_exists_is_never_overwritten() {
    let place = Place::new();
    place.good("run tiny.toml --out out");
    let before = place.files("out");
    place.bad("run tiny.toml --out out", &["already holds a run", "--resume"]);
    place.bad("run tiny.toml --out out --seed 1", &["already holds a run"]);
    place.bad("run tiny.toml --resume --out out --seed 1", &["another run"]);
    place.bad("measure out/checkpoints/step-000004 --config tiny.toml --out out", &["already holds a run"]);
    assert_eq!(place.files("out"), before);

    std::fs::create_dir(place.path("mine")).unwrap();
    place.write("mine/letter.txt", "dear reader");
    place.bad("run tiny.toml --out mine", &["not empty"]);
    assert_eq!(place.files("mine").len(), 1);
    place.bad("run tiny.toml --out tiny.toml", &["tiny.toml"]);
    place.bad("run tiny.toml --out tiny.toml/below", &["tiny.toml"]);
    assert_eq!(std::fs::read_to_string(place.path("tiny.toml")).unwrap(), TINY);
}

#[test]
fn damaged_run_directories_are_told() {
    let place = Place::new();
    place.good("run tiny.toml --out out --steps 4");
    // As if it had been killed: status running, checkpoints there.
    let manifest = std::fs::read_to_string(place.path("out/run.json")).unwrap();
    let running = manifest.replace("\"finished\"", "\"running\"");
    std::fs::remove_dir_all(place.path("out/checkpoints/step-000004")).unwrap();
    place.write("out/run.json", &running);
    let checkpoint = "out/checkpoints/step-000002";

    let whole = std::fs::read(place.path(&format!("{checkpoint}/model.safetensors"))).unwrap();
    place.write(&format!("{checkpoint}/model.safetensors"), &whole[..100]);
    place.bad("run --resume --out out", &["no checkpoint that can be read", "model.safetensors", "begin anew"]);
    place.write(&format!("{checkpoint}/model.safetensors"), &whole);

    // One that another run saved, of the same model: it is somebody's, and stays.
    place.good("run tiny.toml --seed 5 --out other");
    let copy = |from: &str, to: &str| {
        std::fs::create_dir(place.path(to)).unwrap();
        for (path, bytes) in place.files(from) {
            std::fs::write(place.path(to).join(path.file_name().unwrap()), bytes).unwrap();
        }
    };
    copy("other/checkpoints/step-000004", "out/checkpoints/step-000004");
    let words = ["step-000004", "a checkpoint of another run", "Move it out", "--from"];
    place.bad("run --resume --out out", &words);
    place.bad("measure out/checkpoints/step-000004 --out measured", &words);
    // A fork does not pass it over in silence either.
    place.write("arms.toml", "[[arm]]\nlearning_rate = 1e-4\n");
    place.bad("fork out --at 4 --arms arms.toml --steps 8 --out forked", &words);
    place.bad("fork out --at 2 --arms arms.toml --steps 8 --set namex=a --out forked", &["--set namex=a"]);
    let said = place.run("fork out --at 2 --arms arms.toml --steps 8 --set measure.budgt=3 --out forked");
    assert!(!String::from_utf8_lossy(&said.stderr).contains("arms.toml"), "{said:?}");
    assert_eq!(place.files("out/checkpoints/step-000004").len(), 4);
    std::fs::remove_dir_all(place.path("out/checkpoints/step-000004")).unwrap();

    let config = std::fs::read_to_string(place.path(&format!("{checkpoint}/config.json"))).unwrap();
    place.write(&format!("{checkpoint}/config.json"), config.replace("\"relu\"", "\"gelu\""));
    place.bad("run --resume --out out", &["another model"]);
    place.write(&format!("{checkpoint}/config.json"), &config);

    place.write("out/run.json", &running[..running.len() / 2]);
    place.bad("run --resume --out out", &["run.json"]);
    place.bad("report out", &["run.json"]);
    place.write("out/run.json", &running);

    place.bad("report out/run.json", &["out/run.json is a file", "folder"]);

    let events = std::fs::read(place.path("out/events.jsonl")).unwrap();
    place.write("out/events.jsonl", "{\n");
    place.bad("run --resume --out out", &["events.jsonl", "torn"]);
    place.write("out/events.jsonl", &events);

    // Without checkpoints there is nothing to go on from, and what was measured stays.
    std::fs::rename(place.path("out/checkpoints"), place.path("elsewhere")).unwrap();
    place.bad("run --resume --out out", &["no checkpoint left", "step 4"]);
    assert_eq!(std::fs::read(place.path("out/events.jsonl")).unwrap(), events);
    std::fs::remove_dir_all(place.path("out/checkpoints")).unwrap();
    std::fs::rename(place.path("elsewhere"), place.path("out/checkpoints")).unwrap();

    // A checkpoint that is torn gives way to the one before it, and that is said.
    std::fs::create_dir(place.path("out/checkpoints/step-000003")).unwrap();
    // So does one that goes by another name than it was saved under.
    copy(checkpoint, "out/checkpoints/step-000004");
    let said = place.run("run --resume --out out");
    assert!(String::from_utf8_lossy(&said.stderr).contains("step-000004: holds step 2"), "{said:?}");
    let heard = |bytes: &[u8], words: &str| String::from_utf8_lossy(bytes).contains(words);
    assert!(heard(&said.stderr, "passed over") && heard(&said.stdout, "goes on from step 2"), "{said:?}");
    // What is set aside is still there.
    assert!(place.path("out/checkpoints/unreadable-step-000004/model.safetensors").exists());
}

#[test]
fn a_resumed_run_keeps_its_events_and_warns_once() {
    let place = Place::new();
    // A step of this size leaves no number finite.
    place.good("run tiny.toml --out out --steps 6 --set optimizer.learning_rate=1e29");
    let events = || {
        let all = RunDir::read_events(&place.path("out")).unwrap().into_iter().filter(|event| event.kind() != "resume");
        all.map(|event| format!("{event:?}")).collect::<Vec<_>>()
    };
    let whole = events();
    let count = |kind: &str| whole.iter().filter(|event| event.contains(&format!("what: {kind}"))).count();
    assert_eq!((count("Checkpoint"), count("Diverged")), (3, 1), "{whole:?}");
    // As if it had been killed after step 4, and once more at its end, when all was saved.
    for latest in [4, 6] {
        if latest == 4 {
            std::fs::remove_dir_all(place.path("out/checkpoints/step-000006")).unwrap();
        }
        let manifest = std::fs::read_to_string(place.path("out/run.json")).unwrap();
        place.write("out/run.json", manifest.replace("\"finished\"", "\"running\""));
        place.good("run --resume --out out");
        assert_eq!(events(), whole, "from step {latest}");
    }
}

#[test]
fn costly_measures_are_taken_less_often_and_it_is_said() {
    let place = Place::new();
    // 160 test pairs, where a step has two.
    let sets = "--steps 200 --set checkpoint.every=100 --set task.p=13 --set task.train_fraction=0.05 --set batch.size=2 --out out";
    let told = |line: &str| String::from_utf8(place.run(line).stderr).unwrap();
    let first = told(&format!("run tiny.toml {sets}"));
    let manifest = || -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(place.path("out/run.json")).unwrap()).unwrap()
    };
    let cadences = manifest()["cadences"].clone();
    let every = cadences["loss.test"].as_u64().expect("the cadence of loss.test");
    assert!(every > 10 && first.contains(&format!("test every {every} steps")), "{first}");
    // A run goes on at the cadences it began with.
    let text = std::fs::read_to_string(place.path("out/run.json")).unwrap();
    let text =
        text.replace("\"finished\"", "\"running\"").replace(&format!("\"loss.test\": {every}"), "\"loss.test\": 1");
    place.write("out/run.json", text);
    std::fs::remove_dir_all(place.path("out/checkpoints/step-000200")).unwrap();
    place.good("run --resume --out out");
    let series = read_metrics(&place.path("out"), |name| name == "loss.test").unwrap();
    let steps = series.into_values().next().unwrap().steps;
    assert_eq!(steps[..3], [0, 20, 40]);
    assert_eq!(steps[steps.len() - 3..], [198, 199, 200]);
    let rich = told(&format!("run tiny.toml {sets}2 --set measure.budget=1000"));
    assert!(rich.contains("200 steps") && !rich.contains("less often"), "{rich}");
    place.bad("run tiny.toml --set measure.budget=0 --out out3", &["measure.budget = 0", "above 0"]);
    place.bad("run tiny.toml --set measure.budget=inf --out out3", &["measure.budget = inf", "a number above 0"]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let place = Place::new();
    // No file may grow beyond 256 KiB: the tables fit, the checkpoint does not.
    let binary = assert_cmd::cargo::cargo_bin("thermoscope");
    let line = format!(
        "trap '' XFSZ; ulimit -f 256; exec {} run tiny.toml --set model.d_model=128 --set model.n_heads=4 --out out",
        binary.display()
    );
    let output = Command::new("bash").current_dir(place.dir.path()).args(["-c", &line]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("cannot write") && !error.contains("panicked"), "{error}");
    let series = read_metrics(&place.path("out"), |name| name == "loss.train").unwrap();
    assert_eq!(series.into_values().next().unwrap().steps, [0, 1], "what was measured is there");
    place.good("report out");
    // With room again the run goes on.
    place.good("run --resume --out out");
    let series = read_metrics(&place.path("out"), |name| name == "loss.train").unwrap();
    assert_eq!(series.into_values().next().unwrap().steps, [0, 1, 2, 3, 4]);
}

#[test]
fn products_in_f16_are_taken_or_refused_with_advice() {
    let place = Place::new();
    // What is measured is f32 in any case, so that a run's configuration will do anywhere.
    place.write("half.toml", format!("precision = \"f16\"\n{TINY}"));
    place.good("run tiny.toml --out plain");
    place.good("measure plain/checkpoints/step-000004 --config half.toml --out measured");
    let run = "run half.toml --out out";
    let described: serde_json::Value = serde_json::from_str(&place.good("adapters --json --adapter 0")).unwrap();
    if described["cooperative_side"].is_null() {
        assert!(place.good("adapters --adapter 0").contains("for products in f16 none"));
        place.bad(run, &["cooperative", "precision = \"f32\"", "thermoscope adapters"]);
        assert!(!place.path("out").exists());
        return;
    }
    place.good("adapters --check --adapter 0").find("cooperative products").expect("the check covers them");
    place.good(run);
    let weights = || {
        let files = place.files("out/checkpoints/step-000004").into_iter();
        files.filter(|(path, _)| path.extension().is_some_and(|e| e == "safetensors")).collect::<Vec<_>>()
    };
    let whole = weights();
    let state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("out/checkpoints/step-000004/state.json")).unwrap()).unwrap();
    assert_eq!(state["loss_scale"], serde_json::json!([65536.0]));
    // As if it had been killed after step 2.
    std::fs::remove_dir_all(place.path("out/checkpoints/step-000004")).unwrap();
    let manifest = std::fs::read_to_string(place.path("out/run.json")).unwrap();
    place.write("out/run.json", manifest.replace("\"finished\"", "\"running\""));
    place.good("run --resume --out out");
    assert!(whole.len() == 2 && weights() == whole, "a resumed run has the same bits");
}
