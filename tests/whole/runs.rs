//! `thermoscope runs`: every run in a folder, what became of it, and its last numbers.

use std::process::Stdio;
use std::time::{Duration, Instant};

use thermoscope::record::{RunDir, read_metrics};

use crate::place::{Place, TINY};

fn lines(place: &Place, line: &str) -> Vec<serde_json::Value> {
    place.good(line).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn runs_are_listed_with_their_states_and_last_numbers() {
    let place = Place::new();
    place.good("run tiny.toml --out runs/deep/done");
    place.good("measure runs/deep/done/checkpoints/step-000004 --out runs/measured");
    place.write("runs/notes.txt", "no run");

    let listed = lines(&place, "runs --json");
    let of = |name: &str| listed.iter().find(|line| line["path"].as_str().unwrap().ends_with(name)).unwrap();
    let done = of("done");
    assert_eq!(
        (listed.len(), &done["state"], &done["steps_done"], &done["steps"]),
        (2, &"finished".into(), &4.into(), &4.into())
    );
    assert_eq!(
        (of("measured")["kind"].as_str(), &of("measured")["steps"]),
        (Some("measurement"), &serde_json::Value::Null)
    );
    let series = read_metrics(&place.path("runs/deep/done"), |metric| metric == "loss.train").unwrap();
    let last = series.values().next().unwrap().values.last().copied().unwrap();
    assert_eq!(done["last"]["loss.train"]["value"].as_f64(), Some(f64::from(last)));
    assert_eq!(done["last"]["loss.train"]["step"], 4);

    let table = place.good("runs");
    let row = table.lines().find(|line| line.starts_with("runs/deep/done ")).unwrap();
    for words in [" tiny ", " finished ", " 4/4 ", &format!("{last:.3e}")] {
        assert!(row.contains(words), "{words} in {row}");
    }
    // A folder without any says so; a damaged run hides no other.
    let none = place.run("runs elsewhere");
    assert_eq!(none.status.code(), Some(2));
    place.write("runs/measured/run.json", "{");
    let output = place.run("runs");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("runs/deep/done"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("runs/measured"), "{output:?}");
}

#[test]
fn a_run_under_way_is_told_from_one_that_was_killed() {
    let place = Place::new();
    place.write("long.toml", TINY.replace("steps = 4", "steps = 1000000"));
    let mut child = place.command("run long.toml --out runs/one").stderr(Stdio::null()).spawn().unwrap();
    let run = place.path("runs/one");
    let patience = Instant::now() + Duration::from_secs(120);
    while !run.join("checkpoints/step-000002").exists() && !run.join("checkpoints/step-000004").exists() {
        assert!(Instant::now() < patience && child.try_wait().unwrap().is_none(), "the run goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    let state = || lines(&place, "runs --json")[0]["state"].as_str().unwrap().to_owned();
    assert_eq!(state(), "running");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(state(), "killed");
    // Looking does not keep anybody from going on.
    assert!(!RunDir::is_written(&run));
}
