//! Model folders, the files that runs depend on, and what commands say of them.

use std::path::Path;

use serde_json::{Value, json};
use thermoscope::autograd::ops::ActFn;
use thermoscope::model::{ModelConfig, ModelFolder, Normalization, WeightTable};
use thermoscope::record::{RunDir, read_metrics};

use crate::place::{Place, table};

/// The last number of a metric in a run's table.
fn last(dir: &Path, metric: &str) -> f32 {
    let series = read_metrics(dir, |name| name == metric).unwrap();
    *series.into_values().next().unwrap().values.last().unwrap()
}

const RUN: &str = "\
steps = 40
[task]
kind = \"modular\"
p = 11
[model]
d_model = 16
n_heads = 2
[optimizer]
weight_decay = 0.0
learning_rate = 3e-3
[checkpoint]
every = 40
";

#[test]
fn a_checkpoint_is_measured_on_its_runs_own_split() {
    let place = Place::new();
    place.write("run.toml", RUN);
    place.good("run run.toml --seed 7 --replicas 2 --out out");
    let model = "out/checkpoints/step-000040";
    let own = |dir: &str| ["loss.train", "loss.test", "accuracy.test"].map(|metric| last(&place.path(dir), metric));
    let truth = own("out");
    assert!(truth[1] > truth[0], "what was trained on is known better: {truth:?}");

    place.good(&format!("measure {model} --out bare"));
    assert_eq!(own("bare"), truth);
    // The file of the run, which does not know what the command line said.
    place.good(&format!("measure {model} --config run.toml --out same"));
    assert_eq!(own("same"), truth);
    // A file with a split of its own.
    place.write("other.toml", format!("seed = 2\n{}", RUN.replace("p = 11", "p = 11\ntrain_fraction = 0.6")));
    let said = place.run(&format!("measure {model} --config other.toml --out other"));
    assert_eq!(own("other"), truth);
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("seed = 7 is the run's own and is taken, not 2"), "{said}");
    assert!(said.contains("task.train_fraction = 0.3 is the run's own"), "{said}");
    // Whoever wants another gets it, and is told.
    let said = place.run(&format!("measure {model} --set seed=0 --out asked"));
    assert!(own("asked") != truth);
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("seed = 0 is not the run's, which had 7"), "{said}");
    // Elsewhere the same folder knows nothing of a run.
    std::fs::create_dir(place.path("m")).unwrap();
    for file in ModelFolder::files(&place.path(model)).unwrap() {
        std::fs::copy(&file, place.path("m").join(file.file_name().unwrap())).unwrap();
    }
    place.bad("measure m --out no", &["--config", "[task]"]);
    place.good("measure m --config run.toml --out foreign");
    assert!(own("foreign") != truth);
    // Another task is another task.
    place.write("minus.toml", RUN.replace("p = 11", "p = 11\noperation = \"subtract\""));
    let said =
        String::from_utf8(place.run(&format!("measure {model} --config minus.toml --out minus")).stderr).unwrap();
    assert!(said.contains("another task") && said.contains("\"subtract\"") && said.contains("\"add\""), "{said}");
}

#[test]
fn training_on_with_another_split_is_told() {
    let place = Place::new();
    place.write("run.toml", RUN);
    place.good("run run.toml --seed 7 --out out");
    let on = |more: &str, out: &str| {
        let line = format!("run run.toml --from out/checkpoints/step-000040 --steps 2 {more} --out {out}");
        let said = String::from_utf8(place.run(&line).stderr).unwrap();
        (said, std::fs::read_to_string(place.path(out).join("events.jsonl")).unwrap())
    };
    let (said, events) = on("", "leaks");
    let words = "seed = 0 is not that of the run that the weights are from, which had 7";
    assert!(said.contains(words) && events.contains(words), "{said}\n{events}");
    for (more, out) in [("--seed 7", "same"), ("--set task.operation=subtract", "other")] {
        let (said, events) = on(more, out);
        assert!(!said.contains("warning") && !events.contains("warning"), "{more}: {said}");
    }
}

#[test]
fn a_run_depends_on_what_files_hold() {
    let place = Place::new();
    let numbers =
        |from: u32| json!((from..from + 6).map(|n| json!([n, n + 1, n + 2, n])).collect::<Vec<_>>()).to_string();
    place.write("seqs.json", numbers(0));
    place.write("train.json", "[0, 1, 2, 3]");
    let toml = RUN.replace("\"modular\"\np = 11", "\"tokens\"\npath = \"seqs.json\"\ntrain_sequences = \"train.json\"");
    place.write("run.toml", toml);
    place.good("run run.toml --steps 4 --out out");
    let model = "out/checkpoints/step-000004";
    place.good(&format!("run run.toml --steps 4 --from {model} --out more"));
    for (file, other) in [("seqs.json", numbers(1)), ("train.json", "[1, 2, 3, 4]".to_owned())] {
        let before = std::fs::read(place.path(file)).unwrap();
        place.write(file, other);
        let words = [file, "has changed"];
        place.bad("run --resume --out out --steps 8", &words);
        place.bad("run run.toml --resume --out out --steps 8", &words);
        place.bad(&format!("measure {model} --out measured"), &words);
        place.bad(&format!("measure {model} --config run.toml --out measured"), &words);
        place.write(file, before);
    }
    let manifest = RunDir::read_manifest(&place.path("out")).unwrap();
    assert_eq!(manifest.contents.len(), 2);
    // Weights that a run began with count until it has saved its own.
    let manifest = std::fs::read_to_string(place.path("more/run.json")).unwrap();
    let begun = manifest.replace("\"finished\"", "\"running\"").replace("\"steps_done\": 4", "\"steps_done\": 0");
    place.write("more/run.json", begun);
    std::fs::remove_dir_all(place.path("more/checkpoints")).unwrap();
    let config = std::fs::read_to_string(place.path(model).join("config.json")).unwrap();
    place.write(&format!("{model}/config.json"), config.replace("\"eps\": 0.00001", "\"eps\": 0.0001"));
    place.bad("run --resume --out more", &["config.json", "has changed"]);
    place.write(&format!("{model}/config.json"), config);
    place.good("run --resume --out more");
}

#[test]
fn the_model_comes_from_its_folder() {
    let place = Place::new();
    place.write("run.toml", RUN);
    let sets = "--steps 2 --set model.d_mlp=20 --set model.act_fn=gelu --set model.init_mode=nanda";
    place.good(&format!("run run.toml {sets} --out out"));
    let model = "out/checkpoints/step-000002";
    place.write("bare.toml", "steps = 2\n[task]\nkind = \"modular\"\np = 11\n");
    place.good(&format!("run bare.toml --from {model} --out bare"));
    let config = RunDir::read_manifest(&place.path("bare")).unwrap().config;
    assert_eq!((&config["model"]["d_mlp"], &config["model"]["act_fn"]), (&json!(20), &json!("gelu")));
    place.good(&format!("run run.toml --steps 2 --from {model} --out fits"));
    // What leaves a number to follow from others does so in other models.
    place.good(&format!("measure {model} --config bare.toml --set model.d_mlp=0 --out follows"));
    assert_eq!(last(&place.path("follows"), "loss.test"), last(&place.path("out"), "loss.test"));
    for line in [format!("run other.toml --from {model}"), format!("measure {model} --config other.toml")] {
        place.write("other.toml", RUN.replace("d_model = 16", "d_model = 16\nd_mlp = 24\nact_fn = \"relu\""));
        let words =
            ["another model", "model.d_mlp = 24, and 20", "model.act_fn = \"relu\", and \"gelu\"", "other.toml"];
        place.bad(&format!("{line} --out no"), &words);
        // Faults are told by the lines of the file that people wrote.
        place.write("other.toml", RUN.replace("d_model = 16", "d_model = 16\nact_fn = \"swish\""));
        place.bad(&format!("{line} --out no"), &["other.toml", "line 7", "act_fn = \"swish\"", "gelu_new"]);
        place.write("other.toml", format!("{RUN}[measure]\noff = \"ablation\"\n"));
        place.bad(&format!("{line} --out no"), &["other.toml", "line 14", "[\"ablation\"]"]);
    }
    place.write("short.toml", "[task]\nkind = \"modular\"\np = 11\nprime = 7\n");
    place.bad(
        &format!("measure {model} --config short.toml --set measure.off=[\"ablation\"] --out no"),
        &["line 4", "prime"],
    );
    assert!(!place.path("no").exists());
}

#[test]
fn a_run_goes_on_to_more_steps_than_it_had() {
    let place = Place::new();
    place.good("run tiny.toml --out whole --steps 9");
    place.good("run tiny.toml --out out");
    place.bad("run --resume --out out --steps 3", &["--steps 3", "4 steps", "only add"]);
    assert!(place.good("run --resume --out out --steps 4").contains("is finished"));
    place.good("run --resume --out out --steps 6");
    place.good("run tiny.toml --resume --out out --steps 9");
    let manifest = RunDir::read_manifest(&place.path("out")).unwrap();
    assert_eq!((manifest.steps_done, &manifest.config["steps"]), (9, &json!(9)));
    let weights = |dir: &str| std::fs::read(place.path(dir).join("checkpoints/step-000009/model.safetensors")).unwrap();
    assert!(weights("out") == weights("whole"), "the bits of a run that was to go so far from its start");
    assert_eq!(table(&place.path("out")), table(&place.path("whole")));
    let events = RunDir::read_events(&place.path("out")).unwrap();
    assert_eq!(events.iter().filter(|event| event.kind() == "finish").count(), 1, "{events:?}");
    assert!(events.iter().any(|event| event.text().contains("now to step 6")), "{events:?}");
    place.bad("run --resume --out out --steps 12 --seed 3", &["leave out"]);

    let cosine = "--set schedule.kind=cosine";
    place.good(&format!("run tiny.toml {cosine} --out bent"));
    place.bad("run --resume --out bent --steps 8", &["learning rate", "schedule.steps"]);
    place.good(&format!("run tiny.toml {cosine} --set schedule.steps=8 --out straight"));
    place.good("run --resume --out straight --steps 8");
}

#[test]
fn instruments_are_listed_in_lines_and_shown_by_name() {
    let place = Place::new();
    let list = place.good("instruments");
    assert!(list.lines().all(|line| line.chars().count() <= 130), "{list}");
    let lines = |name: &str| list.lines().filter(|line| line.split(' ').any(|word| word == name)).count();
    assert_eq!((lines("loss.test"), lines("ablation.p")), (1, 1));
    assert!(!list.contains("source "));
    let shown = place.good("instruments loss.test noise");
    assert!(shown.contains("\nloss.test\n") || shown.starts_with("loss.test\n"), "{shown}");
    assert!(shown.contains("control  ") && !shown.contains("\nloss.train\n"), "{shown}");
    assert_eq!(shown.matches("(instrument noise)").count(), place.good("instruments noise --json").lines().count());
    place.bad("instruments loss.tset", &["loss.tset", "loss"]);
}

#[test]
fn what_is_measured_is_chosen_by_name() {
    let place = Place::new();
    let names = |dir: &str| {
        let series = read_metrics(&place.path(dir), |_| true).unwrap();
        series.into_keys().map(|key| key.metric).collect::<std::collections::BTreeSet<String>>()
    };
    let only = "--set measure.only=[\"loss.test\",\"weight_norm\"]";
    place.good(&format!("run tiny.toml {only} --out out"));
    assert!(names("out").iter().eq(["loss.test", "weight_norm"]), "{:?}", names("out"));
    let model = "out/checkpoints/step-000004";
    place.good(&format!("measure {model} {only} --set measure.off=[\"weight_norm\"] --out less"));
    assert!(names("less").iter().eq(["loss.test"]), "{:?}", names("less"));
    place.bad("run tiny.toml --set measure.only=[\"loss.tset\"] --out no", &["measure.only", "loss.tset", "loss.test"]);
    place.bad(
        "run tiny.toml --set measure.off=ablation --out no",
        &["--set measure.off=ablation", "'measure.off=[\"ablation\"]'"],
    );
    let nothing =
        format!("measure {model} --set measure.only=[\"loss.test\"] --set measure.off=[\"loss.test\"] --out no");
    place.bad(&nothing, &["nothing is left to measure", "measure.only", "measure.off"]);
}

#[test]
fn messages_look_at_what_is_the_matter() {
    let place = Place::new();
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        let mut command = place.command("run tiny.toml --out no");
        for other in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"] {
            command.env_remove(other);
        }
        let output = command.env(variable, "/nowhere/driver.json").output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        // Systems that need no such file do not look at the variable.
        if cfg!(target_os = "linux") {
            assert!(error.contains(variable) && error.contains("/nowhere/driver.json"), "{error}");
        }
    }
    let pairs: Vec<[u32; 2]> = (0..49).map(|n| [n / 7, n % 7]).collect();
    place.write("all.json", json!(pairs).to_string());
    place.write("none.json", "[]");
    place.bad("run tiny.toml --set task.train_pairs=all.json --out no", &["all.json", "all 49", "nothing to test on"]);
    place.bad("run tiny.toml --set task.train_pairs=none.json --out no", &["none.json", "nothing to train on"]);
    place.write("tokens.toml", "steps = 2\n[task]\nkind = \"tokens\"\npath = \"lines.json\"\n");
    place.write("lines.json", "[1, 2, 3]\n[4, 5, 6]\n");
    place.bad("run tokens.toml --out no", &["lines.json", "JSON lines", "line 2"]);
    assert!(!String::from_utf8(place.run("run tokens.toml --out no").stderr).unwrap().contains('^'));
    place.write("lines.json", b"\xef\xbb\xbf[[1, 2, 3], [4, 5, 6], [2, 3, 4]]");
    place.good("run tokens.toml --set task.train_fraction=0.5 --out marked");
    let wide: Vec<u8> = "It was the best of times. ".repeat(40).encode_utf16().flat_map(u16::to_le_bytes).collect();
    place.write("wide.txt", &wide);
    place.bad("run text --set task.path=wide.txt --set task.seq=16 --out no", &["wide.txt", "UTF-16", "zero bytes"]);
    place.write("wide.txt", [b"plain ".repeat(100), vec![0], b"text ".repeat(100)].concat());
    place.bad("run text --set task.path=wide.txt --set task.seq=16 --out no", &["zero byte", "binary"]);
    assert!(!place.path("no").exists());
}

/// A model of one block in f64, its weights by name.
struct Reference<'a> {
    config: &'a Value,
    model: &'a ModelConfig,
    table: WeightTable,
    weights: &'a [f32],
}

impl Reference<'_> {
    fn w(&self, name: &str) -> Vec<f64> {
        let spec = &self.table.specs()[self.table.find(name).unwrap()];
        self.weights[spec.offset..][..spec.len()].iter().map(|w| f64::from(*w)).collect()
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let rms = name == "ln_final" && self.config["final_rms"] == true;
        let n = x.len() as f64;
        let mean = if rms { 0.0 } else { x.iter().sum::<f64>() / n };
        let scale = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + self.model.eps).sqrt();
        let w = self.w(&format!("{name}.w"));
        let b = if rms { vec![0.0; x.len()] } else { self.w(&format!("{name}.b")) };
        (0..x.len()).map(|i| (x[i] - mean) / scale * w[i] + b[i]).collect()
    }

    /// x [n] times w [n, m] from `from` on, plus b.
    fn linear(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
        (0..b.len()).map(|o| b[o] + (0..x.len()).map(|i| x[i] * w[i * b.len() + o]).sum::<f64>()).collect()
    }

    /// The sum of the losses of a sequence's predictions.
    fn loss(&self, sequence: &[usize]) -> f64 {
        let (d, h, k) = (self.model.d_model, self.model.n_heads, self.model.d_head);
        let divisor = match (&self.config["use_attn_scale"], &self.config["attn_scale"]) {
            (Value::Bool(false), _) => 1.0,
            (_, scale) => scale.as_f64().filter(|scale| *scale > 0.0).unwrap_or((k as f64).sqrt()),
        };
        let (embed, places) = (self.w("embed.W_E"), self.w("pos_embed.W_pos"));
        let tokens = &sequence[..sequence.len() - 1];
        let x: Vec<Vec<f64>> = tokens
            .iter()
            .enumerate()
            .map(|(t, token)| (0..d).map(|i| embed[token * d + i] + places[t * d + i]).collect())
            .collect();
        let normal: Vec<Vec<f64>> = x.iter().map(|x| self.norm(x, "blocks.0.ln1")).collect();
        let part = |name: &str, head: usize, x: &[f64]| {
            let (w, b) = (self.w(&format!("blocks.0.attn.W_{name}")), self.w(&format!("blocks.0.attn.b_{name}")));
            Self::linear(x, &w[head * d * k..][..d * k], &b[head * k..][..k])
        };
        let mut total = 0.0;
        for t in 0..tokens.len() {
            let mut stream: Vec<f64> = x[t].iter().zip(self.w("blocks.0.attn.b_O")).map(|(x, b)| x + b).collect();
            for head in 0..h {
                let q = part("Q", head, &normal[t]);
                let scores: Vec<f64> = (0..=t)
                    .map(|s| q.iter().zip(part("K", head, &normal[s])).map(|(q, k)| q * k).sum::<f64>() / divisor)
                    .collect();
                let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                let mut z = vec![0.0; k];
                for (s, score) in scores.iter().enumerate() {
                    for (z, v) in z.iter_mut().zip(part("V", head, &normal[s])) {
                        *z += score.exp() / sum * v;
                    }
                }
                let out = Self::linear(&z, &self.w("blocks.0.attn.W_O")[head * k * d..][..k * d], &vec![0.0; d]);
                stream.iter_mut().zip(out).for_each(|(x, o)| *x += o);
            }
            let [w_in, b_in, w_out, b_out] =
                ["W_in", "b_in", "W_out", "b_out"].map(|n| self.w(&format!("blocks.0.mlp.{n}")));
            let gelu =
                |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
            let hidden: Vec<f64> =
                Self::linear(&self.norm(&stream, "blocks.0.ln2"), &w_in, &b_in).into_iter().map(gelu).collect();
            stream.iter_mut().zip(Self::linear(&hidden, &w_out, &b_out)).for_each(|(x, o)| *x += o);
            let logits = Self::linear(&self.norm(&stream, "ln_final"), &self.w("unembed.W_U"), &self.w("unembed.b_U"));
            total += logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[sequence[t + 1]];
        }
        total
    }
}

#[test]
fn switches_of_foreign_folders_give_the_loss_of_an_f64_forward_pass() {
    let place = Place::new();
    let (sequences, length, vocab) = (6, 6, 9);
    let tokens: Vec<Vec<usize>> =
        (0..sequences).map(|e| (0..length).map(|t| (e * 5 + t * t + t * e) % vocab).collect()).collect();
    place.write("seqs.json", json!(tokens).to_string());
    place.write("task.toml", "[task]\nkind = \"tokens\"\npath = \"seqs.json\"\n");
    let mut losses = Vec::new();
    for (number, keys) in [
        json!({ "use_attn_scale": true, "attn_scale": 2.0 }),
        json!({ "attn_scale": -1.0, "init_mode": "kaiming_uniform", "initializer_range": -1.0, "d_vocab_out": -1 }),
        json!({ "use_attn_scale": false, "attn_scale": -1.0 }),
        json!({ "use_attn_scale": false }),
        json!({ "use_attn_scale": true, "attn_scale": 0.7, "final_rms": true }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = ModelConfig::default();
        (config.d_model, config.n_heads, config.d_mlp, config.act_fn) = (8, 2, 12, ActFn::GeluNew);
        (config.normalization_type, config.final_rms) = (Normalization::LN, keys["final_rms"] == true);
        (config.d_vocab, config.n_ctx) = (vocab, 5);
        let config = config.resolve().unwrap();
        let table = WeightTable::new(&config);
        // Weights and biases large enough that attention is far from even and every bias counts.
        let weights: Vec<f32> =
            table.draw(1).iter().zip(0u32..).map(|(w, n)| 2.5 * w + 0.3 * (n as f32 * 1.7).sin()).collect();
        let dir = place.path(&format!("m{number}"));
        ModelFolder { config: config.clone(), replicas: vec![weights.clone()] }.write(&dir).unwrap();
        // As TransformerLens writes it: sizes, and no word of what is not in its configuration.
        let mut foreign = json!({
            "n_layers": 1, "d_model": 8, "n_ctx": 5, "d_head": 4, "n_heads": 2, "d_mlp": 12, "d_vocab": vocab,
            "act_fn": "gelu_new", "normalization_type": "LN", "device": "cpu", "dtype": "torch.float32", "seed": null,
            "attention_dir": "causal", "use_local_attn": false, "model_name": "custom", "attn_scores_soft_cap": -1.0,
        });
        foreign.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        std::fs::write(dir.join("config.json"), foreign.to_string()).unwrap();
        place.good(&format!("measure m{number} --config task.toml --all --set measure.only=[\"loss.test\",\"loss.train\"] --out o{number}"));
        let reference = Reference { config: &keys, model: &config, table, weights: &weights };
        let exact = tokens.iter().map(|s| reference.loss(s)).sum::<f64>() / (sequences * (length - 1)) as f64;
        for metric in ["loss.test", "loss.train"] {
            let found = f64::from(last(&place.path(&format!("o{number}")), metric));
            // A few dozen roundings of 6e-8 before the softmax.
            assert!((found - exact).abs() < 1e-5 * exact, "{metric} with {keys}: {found} instead of {exact}");
        }
        losses.push(exact);
    }
    assert_eq!(losses[0], losses[1], "the root of d_head is what 2 is here");
    assert_eq!(losses[2], losses[3]);
    assert!((losses[0] - losses[2]).abs() > 1e-3 && (losses[0] - losses[4]).abs() > 1e-3, "{losses:?}");
}
