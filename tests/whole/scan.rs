//! `thermoscope scan`, as people use it and as they misuse it.

use std::collections::BTreeSet;
use std::path::Path;

use thermoscope::model::{ModelConfig, ModelFolder, PositionalEmbedding, WeightTable};
use thermoscope::record::{RunDir, Status, read_metrics};
use thermoscope::scan::Findings;

use crate::place::{Place, Table, table};

const V: usize = 12;

/// Attention only, of one-hot tokens that are read as they are, with heads that hardly do anything; but one of the first layer looks
/// everywhere alike and takes away what it sees.
fn suppressed(layers: usize) -> ModelFolder {
    let mut config = ModelConfig::default();
    (config.n_layers, config.n_heads, config.n_ctx) = (layers, 4, 8);
    (config.d_model, config.d_head, config.d_vocab) = (V, V, V);
    (config.attn_only, config.attn_biases, config.unembed_bias) = (true, false, false);
    config.positional_embedding_type = PositionalEmbedding::None;
    config.initializer_range = 0.05;
    let config = config.resolve().unwrap();
    let table = WeightTable::new(&config);
    let mut weights = table.draw(5);
    let mut set = |name: &str, first: usize, much: f32| {
        let spec = &table.specs()[table.find(name).unwrap()];
        for (at, value) in weights[spec.offset + first..][..V * V].iter_mut().enumerate() {
            *value = if at % V == at / V { much } else { 0.0 };
        }
    };
    ["embed.W_E", "unembed.W_U"].iter().for_each(|name| set(name, 0, 1.0));
    for (tensor, much) in [("W_Q", 0.0), ("W_V", 1.0), ("W_O", -1.0)] {
        set(&format!("blocks.0.attn.{tensor}"), 2 * V * V, much);
    }
    ModelFolder { replicas: vec![weights], config }
}

/// Token ids, of which the last is the answer; the corrupted prompt has it in the first place too, where it is suppressed.
fn ids() -> String {
    let line = |at: u32| {
        let tokens: Vec<u32> = (0..2 + at % 4).map(|t| (at * 5 + t * 7) % 12).collect();
        let target = tokens[tokens.len() - 1];
        let foil = (0..12).map(|step| (target + 1 + at + step) % 12).find(|token| !tokens.contains(token)).unwrap();
        let mut corrupted = tokens.clone();
        corrupted[0] = target;
        serde_json::json!({
            "tokens": tokens, "corrupted_tokens": corrupted, "target_id": target, "foil_id": foil,
            "group": format!("{tokens:?}"), "category": "last",
        })
        .to_string()
    };
    let lines: BTreeSet<String> = (0..24).map(line).collect();
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

/// A folder whose words are tokens, and prompts in words.
fn in_words(place: &Place) {
    suppressed(2).write(&place.path("words")).unwrap();
    let names = ["[UNK]", "The", "capital", "of", "France", "Spain", "Peru", "is", "Paris", "Madrid", "Lima", "called"];
    let vocab: serde_json::Map<String, serde_json::Value> =
        names.iter().enumerate().map(|(at, word)| ((*word).to_owned(), at.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [], "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    });
    place.write("words/tokenizer.json", tokenizer.to_string());
    let facts = [("France", "Paris"), ("Spain", "Madrid"), ("Peru", "Lima")];
    let mut lines = Vec::new();
    for verb in ["is", "is called"] {
        for (at, (country, city)) in facts.iter().enumerate() {
            let (other, foil) = facts[(at + 1) % 3];
            lines.push(
                serde_json::json!({
                    "prompt": format!("The capital of {country} {verb}"), "corrupted": format!("The capital of {other} {verb}"),
                    "target": format!(" {city}"), "foil": format!(" {foil}"), "group": country, "category": "facts",
                })
                .to_string(),
            );
        }
    }
    place.write("words.jsonl", lines.join("\n"));
}

/// The table of prompts, which has the schema of the metrics.
fn by_prompt(place: &Place, scan: &str) -> Table {
    let copy = place.path(&format!("{scan}-prompts"));
    std::fs::create_dir_all(copy.join("metrics")).unwrap();
    for entry in std::fs::read_dir(place.path(scan).join("probes")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join("metrics").join(entry.file_name())).unwrap();
    }
    table(&copy)
}

/// That the table of a scan has nothing that `metrics.json` does not describe, and no number that is none.
fn is_described(run: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(run.join("metrics.json")).unwrap();
    let catalog: serde_json::Value = serde_json::from_str(&text).unwrap();
    let series = read_metrics(run, |_| true).unwrap();
    for (key, values) in &series {
        assert!(catalog["metrics"][&key.metric]["formula"].is_string(), "{} is not described", key.metric);
        assert!(values.values.iter().all(|value| value.is_finite()), "{key:?}");
    }
    series.keys().map(|key| key.metric.clone()).collect()
}

#[test]
fn an_early_suppressor_of_a_folder_is_found() {
    let place = Place::new();
    suppressed(3).write(&place.path("model")).unwrap();
    place.write("ids.jsonl", ids());
    let said = place.good("scan model --probes ids.jsonl --battery heads --null 99 --out out");
    assert!(said.contains("suppressors L0H2; contributors none."), "{said}");
    let found = Findings::read(&place.path("out")).unwrap().unwrap();
    assert_eq!((found.heads()[0].name(), found.marked().count()), ("L0H2".to_owned(), 1));
    assert_eq!(RunDir::read_manifest(&place.path("out")).unwrap().status, Status::Finished);
    let metrics = is_described(&place.path("out"));
    for name in ["scan.logit_difference", "scan.q", "scan.null", "scan.direct", "scan.repeated.induction"] {
        assert!(metrics.contains(name), "{name} is missing: {metrics:?}");
    }
    // 24 prompts in the clean pass and under 12 heads, and what each head writes.
    let prompts = by_prompt(&place, "out");
    let count = |name: &str| prompts.iter().filter(|(key, ..)| key.contains(&format!("\"{name}\""))).count();
    let set = ids().lines().count();
    assert_eq!((count("clean.loss"), count("ablated.loss"), count("direct")), (set, 12 * set, 12 * set));
    let page = std::fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(page.contains("L0H2") && page.contains("Is the choice as sure as it is right?"));
    std::fs::remove_file(place.path("out/report.html")).unwrap();
    assert!(place.good("report out").contains("suppressors L0H2"));
    assert_eq!(std::fs::read_to_string(place.path("out/report.html")).unwrap(), page);
    assert!(place.good("scan --resume --out out").contains("is finished"));
}

#[test]
fn every_battery_leaves_what_it_found() {
    let place = Place::new();
    in_words(&place);
    let said = place.good("scan words --probes words.jsonl --layers 1 --null 0 --out first");
    assert!(said.contains("the first 1 of 2 layers"), "{said}");
    let said = place.good("scan words --probes words.jsonl --battery pairs,mlps --null 0 --baseline mean --out pairs");
    assert!(said.contains("\" Paris\" / \" Madrid\"") && said.contains("Of 12 pairs of heads"), "{said}");
    assert!(is_described(&place.path("pairs")).contains("scan.pair.synergy"));
    place.write("sets.txt", "L0H2,L1H0\n\nL1H1,L1H3\n");
    let said =
        place.good("scan words --probes words.jsonl --set L0H0,L0H1 --sets sets.txt --baseline resample --out sets");
    for words in ["L0H0 + L0H1 together", "5 other sets", "L0H2 + L1H0 together", "15 other sets", "L1H1 + L1H3"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(is_described(&place.path("sets")).contains("scan.set.null.p"));

    suppressed(3).write(&place.path("model")).unwrap();
    place.write("ids.jsonl", ids());
    let said = place.good("scan model --probes ids.jsonl --battery patch --out patch");
    assert!(said.contains("brought back by one activation at a time"), "{said}");
    let metrics = is_described(&place.path("patch"));
    assert!(metrics.contains("scan.patch.restored.q") && metrics.contains("scan.patch.lost.se"), "{metrics:?}");
    let page = std::fs::read_to_string(place.path("patch/report.html")).unwrap();
    assert!(page.contains("What one place of the stream carries"));

    let said = place.good("scan model --probes ids.jsonl --battery paths --from L0H2,L1H0 --from L0H1 --out paths");
    assert!(said.contains("In the corrupted prompts, putting what the prompt has in place of L0H2"), "{said}");
    let metrics = is_described(&place.path("paths"));
    for name in
        ["scan.path.total.se", "scan.path.direct.share", "scan.path.layer", "scan.path.reader.q", "scan.path.rest"]
    {
        assert!(metrics.contains(name), "{name} is missing: {metrics:?}");
    }
    // Of L0H2, every prompt and its corrupted one by queries, keys and values of four heads in two layers, straight, and by layers.
    let paths = by_prompt(&place, "paths");
    let of_head = paths.iter().filter(|(key, ..)| key.contains("path.logit_difference") && key.contains("L0H2 ->"));
    assert_eq!(of_head.count(), 2 * ids().lines().count() * (2 * 3 * 4 + 1 + 2));
    let page = std::fs::read_to_string(place.path("paths/report.html")).unwrap();
    assert!(page.contains("Paths of L0H2, prompt in corrupted") && page.contains("straight to the end"));
    let said = place.good("scan model --probes ids.jsonl --battery paths --from L0H2 --baseline mean --out means");
    assert!(said.contains("Ablating L0H2 moves the logit difference by"), "{said}");
}

/// Folders `steps/step-N` of one layer whose head 2 takes away so much of what it sees.
fn over_training(place: &Place, steps: &[(u32, f32)]) {
    for (step, much) in steps {
        let mut folder = suppressed(1);
        let table = WeightTable::new(&folder.config);
        let spec = &table.specs()[table.find("blocks.0.attn.W_O").unwrap()];
        folder.replicas[0][spec.offset + 2 * V * V..][..V * V].iter_mut().for_each(|w| *w *= much);
        folder.write(&place.path(&format!("steps/step-{step}"))).unwrap();
    }
    place.write("ids.jsonl", ids());
}

/// Events of a series but those of the process.
fn told(place: &Place, run: &str) -> Vec<String> {
    let events = RunDir::read_events(&place.path(run)).unwrap();
    let events = events.iter().filter(|event| !["start", "resume", "finish", "stop"].contains(&event.kind()));
    events.map(|event| format!("{}, seen at {}: {}", event.onset().words(), event.seen_at, event.text())).collect()
}

#[test]
fn over_training_heads_are_born_change_sides_and_go() {
    let place = Place::new();
    let steps: Vec<(u32, f32)> = [0.0, 0.001, 0.002, 1.0, 1.1, 1.2, -1.0, -1.1, -1.2, -1.2, 0.0]
        .into_iter()
        .zip(0..)
        .map(|(w, at)| (at * 100, w))
        .collect();
    over_training(&place, &steps);
    // In another order than that of training.
    let names: Vec<String> = steps.iter().rev().map(|(step, _)| format!("steps/step-{step}")).collect();
    let said = place.good(&format!("scan {} --probes ids.jsonl --battery heads --null 159 --out out", names.join(" ")));
    let who = "layer 0 head 2";
    // Where it does nothing, the others share the layer's work as it was drawn, and one may stand out.
    let about = |line: &String| line.contains(who) || line.contains("left out");
    assert_eq!(
        told(&place, "out").into_iter().filter(about).collect::<Vec<_>>(),
        [
            format!("step 300 ± 100, seen at 500: suppressor {who} is born, replica 0"),
            format!("step 600 ± 100, seen at 800: suppressor {who} is gone, replica 0"),
            format!("step 600 ± 100, seen at 800: contributor {who} has changed sides, replica 0"),
            "step 900, seen at 900: step 900 is left out: its weights are those of step 800".to_owned(),
            "step 1000, seen at 1000: step 1000 is left out: its weights are those of step 0".to_owned(),
        ]
    );
    assert!(said.contains("9 scans at steps 0 to 800") && said.contains("has changed sides"), "{said}");
    // A row of the table for each of the nine, with the numbers of the scan of that step.
    is_described(&place.path("out"));
    let series = read_metrics(&place.path("out"), |metric| metric == "scan.logit_difference").unwrap();
    let (_, head) = series.iter().find(|(key, _)| key.layer == 0 && key.head == 2).unwrap();
    assert_eq!(head.steps, (0..9).map(|at| at * 100).collect::<Vec<i64>>());
    for (step, value) in head.steps.iter().zip(&head.values) {
        let found = Findings::read(&place.path(&format!("out/scans/step-{step:06}"))).unwrap().unwrap();
        let effect = found.effects.iter().find(|effect| effect.head == Some(2)).unwrap();
        assert_eq!(*value, effect.logit_difference().mean as f32, "step {step}");
    }
    let page = std::fs::read_to_string(place.path("out/report.html")).unwrap();
    for words in ["Heads over steps", "step-000300", "left out"] {
        assert!(page.contains(words), "{words}");
    }
    std::fs::remove_file(place.path("out/report.html")).unwrap();
    place.good("report out");
    assert_eq!(std::fs::read_to_string(place.path("out/report.html")).unwrap(), page);
    // With too few draws nobody can be told from chance, and that is said.
    let said =
        place.good("scan steps/step-300 steps/step-400 steps/step-500 --probes ids.jsonl --battery heads --out few");
    assert!(said.contains("No head came to stay") && said.contains("39 random subspaces tell heads"), "{said}");
}

#[test]
fn a_run_is_scanned_at_its_checkpoints_each_replica_as_if_it_were_alone() {
    let place = Place::new();
    place.good("run tiny.toml --replicas 2 --set checkpoint.keep=0 --out trained");
    let line = |a: u32| {
        format!(
            r#"{{"tokens": [{a}, 3, 7], "target_id": {}, "foil_id": {}, "group": "{a}", "category": "sums"}}"#,
            (a + 3) % 7,
            (a + 4) % 7
        )
    };
    place.write("sums.jsonl", (0..7).map(line).collect::<Vec<_>>().join("\n"));
    let said = place.good("scan trained --probes sums.jsonl --null 39 --out over");
    assert!(said.contains("4 scans of 2 steps") && said.contains("(replica 1)"), "{said}");
    place.good("export trained/checkpoints/step-000004 --to transformer-lens --out alone");
    place.good("scan alone/replica-1 --probes sums.jsonl --null 39 --out single");
    let single = read_metrics(&place.path("single"), |_| true).unwrap();
    let over = read_metrics(&place.path("over"), |_| true).unwrap();
    for (mut key, series) in single {
        key.replica = 1;
        let of_run = &over[&key];
        assert_eq!((of_run.steps.as_slice(), of_run.values.last()), (&[2, 4][..], series.values.last()), "{key:?}");
        assert!(
            key.metric != "scan.logit_difference" || of_run.values[0] != of_run.values[1],
            "the weights are trained"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_series_that_was_killed_goes_on_and_ends_the_same() {
    let place = Place::new();
    let steps: Vec<(u32, f32)> = (0..6).map(|at| (at * 10, at as f32 / 5.0)).collect();
    over_training(&place, &steps);
    let names: Vec<String> = steps.iter().map(|(step, _)| format!("steps/step-{step}")).collect();
    let scan = format!("scan {} --probes ids.jsonl --battery heads --null 159 --out", names.join(" "));
    place.good(&format!("{scan} whole"));
    let mut child = place.command(&format!("{scan} killed")).stdout(std::process::Stdio::null()).spawn().unwrap();
    while !place.path("killed/scans/step-000020/run.json").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // A model that is still to come has changed.
    let weights = place.path("steps/step-50/model.safetensors");
    let before = std::fs::read(&weights).unwrap();
    std::fs::copy(place.path("steps/step-40/model.safetensors"), &weights).unwrap();
    place.bad("scan --resume --out killed", &["step-50", "other weights than when the series began"]);
    std::fs::write(&weights, before).unwrap();
    place.good("scan --resume --out killed");
    assert_eq!(table(&place.path("killed")), table(&place.path("whole")));
    assert_eq!(told(&place, "killed"), told(&place, "whole"));
    let page = |run: &str| std::fs::read_to_string(place.path(run).join("report.html")).unwrap();
    assert!(page("killed") == page("whole"), "the pages differ");
    assert!(place.good("scan --resume --out killed").contains("6 scans at steps 0 to 50"));
}

#[test]
fn a_series_that_is_none_is_told_before_anything_is_written() {
    let place = Place::new();
    over_training(&place, &[(1, 1.0), (2, 1.0), (3, 0.5)]);
    suppressed(2).write(&place.path("other-step-4")).unwrap();
    place.good("run tiny.toml --set checkpoint.keep=1 --out trained");
    std::fs::rename(place.path("trained/checkpoints/step-000004"), place.path("moved")).unwrap();
    for (line, words) in [
        ("scan steps/step-1 moved --probes ids.jsonl --out out", &["moved", "of which step"][..]),
        ("scan steps/step-1 1=steps/step-3 --probes ids.jsonl --out out", &["both of step 1"]),
        ("scan steps/step-1 other-step-4 --probes ids.jsonl --out out", &["other-step-4", "its configuration"]),
        ("scan steps/step-1 steps/step-9 --probes ids.jsonl --out out", &["step-9", "not there"]),
        ("scan steps/step-1 steps/step-3 --probes ids.jsonl --battery patch --out out", &["early in training"]),
        ("scan steps/step-1 steps/step-3 --probes nowhere.jsonl --out out", &["nowhere.jsonl"]),
        ("scan trained --probes ids.jsonl --out out", &["no checkpoint yet"]),
        ("scan steps/step-1 steps/step-3 --out out", &["--probes"]),
    ] {
        place.bad(line, words);
        assert!(!place.path("out").exists(), "{line} wrote something");
    }
}

#[test]
fn what_cannot_be_scanned_is_told_and_writes_nothing() {
    let place = Place::new();
    in_words(&place);
    suppressed(2).write(&place.path("model")).unwrap();
    place.write("ids.jsonl", ids());
    place.write("empty.jsonl", "\n");
    place.write("two.jsonl", r#"{"prompt": "The capital of Peru is", "target": " Lima Lima", "foil": " Paris", "group": "a", "category": "b"}"#);
    place.write("alone.jsonl", ids().replace("corrupted_tokens", "corupted_tokens"));
    let plain: String = std::fs::read_to_string(place.path("words.jsonl")).unwrap();
    let without = plain.lines().map(|line| {
        let mut line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        line.remove("corrupted");
        serde_json::Value::from(line).to_string()
    });
    place.write("without.jsonl", without.collect::<Vec<_>>().join("\n"));
    place.write("none.txt", "\n");
    std::fs::create_dir(place.path("full")).unwrap();
    place.write("full/letter.txt", "dear reader");
    for (line, words) in [
        ("scan --out out", &["MODEL_DIR", "--probes"][..]),
        ("scan words --out out", &["--probes"]),
        ("scan nowhere --probes words.jsonl --out out", &["nowhere"]),
        ("scan words --probes nowhere.jsonl --out out", &["nowhere.jsonl"]),
        ("scan words --probes empty.jsonl --out out", &["no prompts"]),
        ("scan words --probes two.jsonl --out out", &["2 tokens", "line 1"]),
        ("scan model --probes alone.jsonl --out out", &["corupted_tokens"]),
        ("scan model --probes words.jsonl --out out", &["no tokenizer.json"]),
        ("scan words --probes words.jsonl --null 5 --out out", &["--null 5", "39"]),
        ("scan words --probes words.jsonl --battery noses --out out", &["noses", "heads"]),
        ("scan words --probes words.jsonl --baseline two --out out", &["two", "resample"]),
        ("scan words --probes words.jsonl --set L0H9,L0H1 --out out", &["no L0H9", "0 to 3"]),
        ("scan words --probes words.jsonl --set L0H1 --out out", &["two heads or more"]),
        ("scan words --probes words.jsonl --sets none.txt --out out", &["none.txt", "holds no set"]),
        ("scan words --probes words.jsonl --layers 0 --out out", &["0", "--layers"]),
        ("scan words --probes words.jsonl --layers 9 --out out", &["--layers 9", "words has"]),
        ("scan words --probes words.jsonl --battery mlps --null 99 --out out", &["--null 99", "add heads"]),
        ("scan words --probes words.jsonl --first 0 --out out", &["0", "--first"]),
        ("scan words --probes words.jsonl --set L0H1,L1H1 --layers 1 --out out", &["--layers 1", "a layer of a set"]),
        ("scan words --probes words.jsonl --battery patch,heads --out out", &["goes with nothing else"]),
        ("scan words --probes words.jsonl --battery patch --null 39 --out out", &["neither a baseline nor a null"]),
        ("scan words --probes words.jsonl --battery paths --out out", &["--from L0H1"]),
        ("scan words --probes words.jsonl --from L0H1 --out out", &["give both or neither"]),
        ("scan words --probes words.jsonl --battery paths --from L0H9 --out out", &["no L0H9", "--from"]),
        ("scan words --probes words.jsonl --battery paths,mlps --from L0H1 --out out", &["goes with nothing else"]),
        ("scan words --probes words.jsonl --battery paths --from L0H1 --null 39 --out out", &["leave out --null"]),
        ("scan words --probes without.jsonl --battery paths --from L0H1 --out out", &["add \"corrupted\""]),
        ("scan words --probes without.jsonl --battery patch --out out", &["add \"corrupted\""]),
        // A model that knows nothing of these answers.
        ("scan words --probes words.jsonl --battery patch --out out", &["nothing to be moved"]),
        ("scan words --probes words.jsonl --out full", &["full", "not empty"]),
        ("scan words --resume --out out", &["--resume"]),
        ("scan --resume --out out", &["out", "no run.json"]),
    ] {
        place.bad(line, words);
        assert!(!place.path("out").exists(), "{line} wrote something");
    }
    assert_eq!(place.files("full").len(), 1);
    place.good("run tiny.toml --out trained");
    place.bad("scan --resume --out trained", &["holds a run", "`thermoscope run --resume"]);
}

#[cfg(unix)]
#[test]
fn a_scan_that_was_killed_goes_on_and_ends_the_same() {
    let place = Place::new();
    suppressed(8).write(&place.path("model")).unwrap();
    place.write("ids.jsonl", ids());
    let scan = "scan model --probes ids.jsonl --battery heads,pairs --set L1H0,L5H3 --null 39 --baseline mean --out";
    place.good(&format!("{scan} whole"));
    let mut child = place.command(&format!("{scan} killed")).stdout(std::process::Stdio::null()).spawn().unwrap();
    let layers = || Findings::read(&place.path("killed")).ok().flatten().map_or(0, |found| found.layers);
    while layers() < 3 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(RunDir::read_manifest(&place.path("killed")).unwrap().status, Status::Running);
    assert!(layers() < 8);
    // What it depends on must be as it was.
    let prompts = std::fs::read_to_string(place.path("ids.jsonl")).unwrap();
    place.write("ids.jsonl", prompts.replace("\"last\"", "\"first\""));
    place.bad("scan --resume --out killed", &["ids.jsonl", "has changed"]);
    place.write("ids.jsonl", &prompts);
    place.good("scan --resume --out killed");
    for file in ["scan.json", "metrics.json", "report.html"] {
        let [whole, killed] =
            ["whole", "killed"].map(|run| std::fs::read_to_string(place.path(run).join(file)).unwrap());
        assert!(whole == killed, "{file} differs");
    }
    assert_eq!(table(&place.path("killed")), table(&place.path("whole")));
    assert_eq!(by_prompt(&place, "killed"), by_prompt(&place, "whole"));
    assert_eq!(RunDir::read_manifest(&place.path("killed")).unwrap().status, Status::Finished);
}
