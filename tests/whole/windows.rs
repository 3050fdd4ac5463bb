//! Studies of windows: a planted one is found at its place, arms without a pulse are their trunk, and a study that is killed
//! comes to the same results.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use thermoscope::gpu::{Philox, Stream};
use thermoscope::record::{RunDir, RunKind, Status, read_metrics};

use crate::place::Place;

/// A class that is there from step 40 to 80 only, and in the last step, which measures it with the others.
const TRUNK: &str = "\
steps = 121
intervene = [
  { what = \"leave_out\", class = 2, from = 0, until = 40 },
  { what = \"leave_out\", class = 2, from = 80, until = 120 },
]
[task]
kind = \"modular\"
p = 7
train_fraction = 0.6
[model]
d_model = 16
n_heads = 2
d_mlp = 16
[optimizer]
learning_rate = 3e-3
weight_decay = 0.1
";

/// Leaving it out can matter while it is there, and does where that takes away the last that is seen of it.
const STUDY: &str = "\
name = \"planted\"
run = \"trunk.toml\"
seeds = 6
times = { from = 0, until = 80, points = 5 }
events = []
final = [\"loss.train\"]
[[pulse]]
name = \"left out\"
intervene = [{ what = \"leave_out\", class = 2, from = 0, until = 40 }]
";

fn place(trunk: &str, study: &str) -> Place {
    let place = Place::new();
    place.write("trunk.toml", trunk);
    place.write("study.toml", study);
    place
}

fn findings(study: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(study.join("findings.json")).unwrap()).unwrap()
}

#[test]
fn a_planted_window_is_found_at_its_place_and_nowhere_else() {
    let place = place(TRUNK, STUDY);
    let said = place.good("windows study.toml --out study");
    let path = place.path("study");
    assert!(said.contains("There is a window in the last loss.train for left out (from step 40 to 60)"), "{said}");
    assert!(said.contains("report: study/report.html"), "{said}");
    let manifest = RunDir::read_manifest(&path).unwrap();
    assert_eq!((manifest.kind, manifest.status), (RunKind::Study, Status::Finished));

    let found = findings(&path);
    let curve = &found["curves"][0];
    assert_eq!(curve["windows"][0]["times"], serde_json::json!([40, 60]));
    assert_eq!(curve["windows"][0]["beyond"], serde_json::json!([20, 80]));
    assert_eq!(curve["windows"].as_array().unwrap().len(), 1);
    // Where the class is not there anyway, the pulse changes no bit; where it takes the class away, it is learned less in every
    // seed. At step 20 the class comes back behind the pulse.
    for (at, point) in curve["points"].as_array().unwrap().iter().enumerate() {
        for value in point["values"].as_array().unwrap() {
            let value = value.as_f64().unwrap();
            assert!([2, 3].contains(&at) == (value > 0.0) || at == 1, "{at}: {value}");
            assert!(![0, 4].contains(&at) || value == 0.0, "{at}: {value}");
        }
    }
    assert_eq!(found["shams"], serde_json::json!([5, 0]), "an arm of each batch has everything with a dose of nothing");
    assert_eq!(found["batches"], serde_json::json!([5, 5]));
    // Weights go apart where the pulse did something.
    for left in found["left"].as_array().unwrap() {
        let inside = [20, 40, 60].contains(&left["time"].as_u64().unwrap());
        assert_eq!(left["distance"].as_f64().unwrap() > 0.0, inside, "{left}");
    }
    let table = read_metrics(&path, |metric| metric == "study.effect").unwrap();
    assert_eq!(table.len(), 6, "a series for each seed");
    assert!(table.values().all(|series| series.steps == [0, 20, 40, 60, 80]));

    // The page shows it, and is made again from what is there.
    let page = std::fs::read_to_string(path.join("report.html")).unwrap();
    assert!(page.contains("There is a window") && page.contains("<svg") && page.contains("not at 20, and not at 80"));
    std::fs::remove_file(path.join("report.html")).unwrap();
    let again = place.good("report study");
    assert!(again.contains("There is a window"), "{again}");
    assert_eq!(std::fs::read_to_string(path.join("report.html")).unwrap(), page);
    assert!(place.good("windows --resume --out study").contains("is finished"));
    // Each batch is a run, and its arms know what they are.
    let batch = RunDir::read_manifest(&path.join("batches/002")).unwrap();
    let origin = batch.fork.unwrap();
    assert_eq!((origin.step, origin.each), (40, vec![0, 0, 1, 2, 3, 4, 5]));
    assert_eq!(batch.config["replica"][3]["name"], "left out, seed 2");
    place.bad("run --resume --out study", &["a study"]);
    place.bad("fork study --at 0 --arms trunk.toml --out no", &["a study"]);
}

/// Batches drawn on the device, two times in one batch each, a sham, another order of data, and a control trunk.
const DRAWN: &str = "\
run = \"trunk.toml\"
set = [\"batch.size=9\", \"steps=60\", \"intervene=[]\"]
seeds = 2
times = [10, 25]
events = [\"memorized\"]
final = [\"loss.test\"]
memory = 0.0005
[[trunk]]
name = \"random labels\"
shuffle_labels = true
[[pulse]]
name = \"head off\"
sham = \"head\"
doses = [0.5, 1.0]
intervene = [{ what = \"scale_head\", layer = 0, head = 1, from = 0, until = 20 }]
[[pulse]]
name = \"reordered\"
batch_seed = 1
[[event]]
name = \"low\"
metric = \"loss.train\"
at_most = 1.5
";

#[test]
fn a_study_that_is_killed_comes_to_the_same_bytes() {
    let place = place(TRUNK, DRAWN);
    place.good("windows study.toml --out whole");
    let results = |study: &str| -> Vec<Vec<u8>> {
        ["findings.json", "metrics.json", "metrics/part-000000.parquet", "report.html"]
            .map(|file| std::fs::read(place.path(study).join(file)).unwrap())
            .to_vec()
    };
    let chance = Philox::new(5, Stream::Batch, 0);
    let (mut kills, mut at) = (0, 0);
    loop {
        let begun = place.path("killed/run.json").exists();
        if !begun {
            let _ = std::fs::remove_dir_all(place.path("killed"));
        }
        let line = if begun { "windows --resume --out killed" } else { "windows study.toml --out killed" };
        let mut child = place.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The first kills come soon, the last ones not at all.
        let wait = 150 + u64::from(chance.below(at, 900)) + at * 150;
        at += 1;
        for _ in 0..wait / 10 {
            std::thread::sleep(Duration::from_millis(10));
            if child.try_wait().unwrap().is_some() {
                break;
            }
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills >= 3, "it was killed {kills} times only");
    assert!(results("killed") == results("whole"));
    let found = findings(&place.path("whole"));
    assert_eq!(found["plan"]["trunks"], serde_json::json!(["plain", "random labels"]));
    // Four seeds by five kinds at two times.
    let arms: usize = found["plan"]["batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| batch["arms"].as_array().unwrap().len() - 1)
        .sum();
    assert_eq!(arms, 40);
    assert!(found["batches"][1].as_u64().unwrap() > 2, "memory holds fewer than the twenty arms of a time");
    assert_eq!(found["shams"][1], 0);
    // Two seeds tell nothing, and say so; another order of the data is another run.
    let missing: Vec<&str> =
        found["curves"].as_array().unwrap().iter().filter_map(|curve| curve["missing"].as_str()).collect();
    assert!(missing.iter().any(|why| why.contains("too few")), "{missing:?}");
    // So few predictions are no evidence that a rate lies above 99 %.
    assert!(missing.iter().any(|why| why.contains("came in none of the runs")), "{missing:?}");
    let left = found["left"].as_array().unwrap();
    assert!(left.iter().all(|left| left["distance"].as_f64().unwrap() > 0.0));
    let names: Vec<&str> = found["kinds"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "head off, dose 0.5",
            "head off, dose 0.5 (another head)",
            "head off, dose 1",
            "head off, dose 1 (another head)",
            "reordered"
        ]
    );
}

#[test]
fn a_plan_says_what_it_takes_and_writes_nothing() {
    let place = place(TRUNK, STUDY);
    let said = place.good("windows study.toml --plan");
    for words in ["6 seeds", "5 times", "35 arms in 5 batches of at most 7", "the trunk included", "four of five"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    place.write("study.toml", format!("spread = 0.5\n{}", STUDY.replace("seeds = 6", "seeds = 5")));
    let said = place.good("windows study.toml --plan");
    assert!(said.contains("no window can be told at a rate of 0.05") && said.contains("5 runs are too few"), "{said}");
    assert_eq!(place.files("").iter().filter(|(path, _)| path.ends_with("run.json")).count(), 0);
}

#[test]
fn a_run_that_is_there_is_disturbed_where_it_lies() {
    let place = place(TRUNK, STUDY);
    place.good("run trunk.toml --replicas 2 --set measure.only=[\"loss.train\"] --set checkpoint.every=30 --set checkpoint.keep=0 --out runs/trunk");
    let study =
        STUDY.replace("trunk.toml", "runs/trunk").replace("seeds = 6\n", "").replace("points = 5", "points = 2");
    place.write("study.toml", &study);
    place.good("windows study.toml --out study");
    let found = findings(&place.path("study"));
    // Step 80 is replayed from the checkpoint of step 60.
    assert_eq!((&found["shams"], found["trunks"].as_array().unwrap().len()), (&serde_json::json!([2, 0]), 2));
    assert!(!place.path("study/trunk").exists());
    let bad = |study: &str, words: &[&str]| {
        place.write("bad.toml", study);
        place.bad("windows bad.toml --out no", words);
        assert!(!place.path("no").exists());
    };
    bad(&study.replace("events", "seeds = 3\nevents"), &["bad.toml", "is a directory", "seeds"]);
    bad(&study.replace("loss.train", "loss.test"), &["runs/trunk", "has not measured loss.test"]);
}

#[test]
fn mistakes_are_said_before_anything_is_written() {
    let place = place(TRUNK, STUDY);
    let bad = |study: &str, words: &[&str]| {
        place.write("bad.toml", study);
        place.bad("windows bad.toml --out no", words);
        assert!(!place.path("no").exists(), "{study}");
    };
    bad(&STUDY.replace("seeds", "seds"), &["bad.toml", "line 3", "^", "seeds"]);
    bad(&STUDY.replace("leave_out", "leave_in"), &["bad.toml", "line 9", "^", "leave_out"]);
    bad(&STUDY.replace("class = 2", "class = 9"), &["left out at step 0", "class = 9"]);
    bad(&STUDY.replace("until = 80", "until = 90"), &["left out at step 90", "121 steps"]);
    bad(&STUDY.replace("trunk.toml", "nowhere"), &["nowhere is neither a preset"]);
    bad(&STUDY.replace("loss.train", "loss.trian"), &["loss.trian"]);
    bad(&STUDY.replace("loss.train", "irrep_power"), &["irrep_power", "is not measured in this run"]);
    bad(&format!("set = [\"replicas=2\"]\n{STUDY}"), &["2 replicas of its own"]);
    bad(&format!("{STUDY}[[pulse]]\nname = \"order\"\nbatch_seed = 1\n"), &["order at step 0", "batches are full"]);
    place.bad("windows --resume --out nowhere", &["nowhere", "no run"]);
    place.bad("windows study.toml --plan --out no", &[]);
    place.good("run tiny.toml --out run");
    place.bad("windows --resume --out run", &["holds a run", "`thermoscope run --resume"]);
    place.bad("windows study.toml --out run", &["already holds a run"]);
}
