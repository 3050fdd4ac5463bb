//! A run that is killed at any moment goes on to the bits it would have had; a run that is asked to stop
//! saves and says so.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::CommandCargoExt as _;
use thermoscope::gpu::{Philox, Stream};
use thermoscope::record::{Event, RunDir, Status};

use crate::place::{Table, table};

/// Batches drawn on the device, momentum to restore, keys that come and go, checkpoints as often as possible.
const RUN: &str = r#"
    steps = 900
    [task]
    kind = "modular"
    p = 23
    [model]
    d_model = 16
    n_heads = 2
    [batch]
    size = 9
    [optimizer]
    learning_rate = 1e-2
    weight_decay = 1.0
    [checkpoint]
    every = 3
    # Measured as often as proposed, so that there are births and deaths.
    [measure]
    budget = 1000.0
    [measure.every]
    "loss.test" = 5
    ablation = 20
    [measure.probe]
    size = 16
    draws = 80
"#;

fn start(dir: &Path, words: &[&str]) -> Child {
    Command::cargo_bin("thermoscope")
        .unwrap()
        .current_dir(dir)
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn begin_or_resume(dir: &Path) -> Child {
    let begun = dir.join("run/run.json").exists();
    // Killed before run.json was there: nothing was begun, and the empty remains are in nobody's way.
    if !begun {
        let _ = std::fs::remove_dir_all(dir.join("run"));
    }
    start(dir, if begun { &["run", "--resume", "--out", "run"] } else { &["run", "run.toml", "--out", "run"] })
}

/// Every number, birth, death and checkpoint, and the final weights, as bits.
fn outcome(dir: &Path) -> (Table, Vec<Event>, Vec<u8>) {
    let run = dir.join("run");
    assert_eq!(RunDir::read_manifest(&run).unwrap().status, Status::Finished);
    let events = RunDir::read_events(&run).unwrap().into_iter();
    let kinds = ["birth", "death", "flip", "checkpoint"];
    let kept: Vec<_> = events.filter(|event| kinds.contains(&event.kind())).collect();
    let saved = kept.iter().filter(|event| event.kind() == "checkpoint").count();
    assert_eq!(saved, 300, "each checkpoint is told once");
    assert!(kept.len() > saved + 20, "the run has births and deaths: {kept:?}");
    (table(&run), kept, std::fs::read(run.join("checkpoints/step-000900/model.safetensors")).unwrap())
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("run.toml"), RUN).unwrap();
    dir
}

fn finish(mut child: Child) -> ExitStatus {
    let status = child.wait().unwrap();
    let mut error = String::new();
    let _ = std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut error);
    assert!(status.success(), "{status}: {error}");
    status
}

#[test]
fn killed_fifty_times_a_run_ends_with_the_same_bits() {
    let whole = folder();
    let began = Instant::now();
    finish(begin_or_resume(whole.path()));
    let whole_takes = began.elapsed();
    let truth = outcome(whole.path());
    assert!(truth.0.len() > 30);

    let mut kills = 0;
    // The same moments again, as far as the machine is as fast: KILL_SEED=... cargo test --test whole killed
    let seed: u64 = match std::env::var("KILL_SEED") {
        Ok(seed) => seed.parse().expect("KILL_SEED must be a whole number"),
        Err(_) => std::process::id().into(),
    };
    eprintln!("KILL_SEED={seed}");
    let moments = Philox::new(seed, Stream::Batch, 0);
    while kills < 50 {
        let dir = folder();
        loop {
            let mut child = begin_or_resume(dir.path());
            // Anywhere from start-up to well into the run.
            let share = f64::from(moments.below(kills, 1000)) / 1000.0;
            let until = Instant::now() + Duration::from_secs_f64(0.05 + share * whole_takes.as_secs_f64() * 0.5);
            let ended = loop {
                match child.try_wait().unwrap() {
                    Some(_) => break true,
                    None if Instant::now() >= until => break false,
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            if ended {
                finish(child);
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            if kills >= 50 {
                finish(begin_or_resume(dir.path()));
                break;
            }
        }
        assert!(outcome(dir.path()) == truth, "numbers or weights differ after {kills} kills, KILL_SEED={seed}");
    }
}

#[test]
fn a_run_stops_while_it_compiles_and_says_so_at_once() {
    use std::io::{BufRead as _, BufReader};
    // Another size than any other test's, so that no driver has kept its kernels.
    let odd = std::process::id() % 100 + 3;
    let dir = folder();
    let width = format!("model.d_mlp={odd}");
    let words = ["run", "run.toml", "--out", "run", "--steps", "1000000", "--set", &width];
    let mut child = start(dir.path(), &words);
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut lines = lines.skip_while(|line| !line.starts_with("compiling: "));
    if lines.next().is_some() {
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }
    let rest: Vec<String> = lines.collect();
    let at = |words: &str| rest.iter().position(|line| line.starts_with(words));
    assert!(at("asked to stop: waiting for the").is_some() && at("asked to stop") < at("stopped at step"), "{rest:?}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(RunDir::read_manifest(&dir.path().join("run")).unwrap().status, Status::Interrupted);
}

#[test]
fn signals_save_and_exit_with_their_codes() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let dir = folder();
        let mut child = start(dir.path(), &["run", "run.toml", "--out", "run", "--steps", "1000000"]);
        let run = dir.path().join("run");
        let patience = Instant::now() + Duration::from_secs(120);
        while !run.join("checkpoints/step-000003").exists() && !run.join("checkpoints/step-000006").exists() {
            assert!(Instant::now() < patience && child.try_wait().unwrap().is_none(), "the run goes on");
            std::thread::sleep(Duration::from_millis(2));
        }
        let kill = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let mut told = String::new();
        std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut told).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let [seen, stopped] = ["asked to stop: waiting for the step", "stopped at step"].map(|words| told.find(words));
        assert!(seen.is_some() && seen < stopped, "{told}");
        let manifest = RunDir::read_manifest(&run).unwrap();
        assert_eq!(manifest.status, Status::Interrupted);
        assert!(manifest.steps_done >= 3);
        assert!(run.join(format!("checkpoints/step-{:06}/state.json", manifest.steps_done)).exists());
        let events = RunDir::read_events(&run).unwrap();
        assert!(events.iter().any(|event| event.kind() == "stop" && event.step == manifest.steps_done));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_nohup_keeps_from_a_run_does_not_stop_it() {
    let dir = folder();
    let program = env!("CARGO_BIN_EXE_thermoscope");
    let mut nohup = Command::new("nohup");
    nohup.arg(program).args(["run", "run.toml", "--out", "run", "--steps", "30"]).current_dir(dir.path());
    let mut child = nohup.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let run = dir.path().join("run");
    let patience = Instant::now() + Duration::from_secs(120);
    while !run.join("run.json").exists() {
        assert!(Instant::now() < patience && child.try_wait().unwrap().is_none(), "the run begins");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    finish(child);
    assert_eq!(RunDir::read_manifest(&run).unwrap().status, Status::Finished);
}
