//! A long run is reported in memory that does not grow with its rows. `ROWS=140000000 cargo test
//! --release --test whole long` tries one of that length.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use thermoscope::record::{Catalog, Described, Predictions, Segments, TableRow, read_metrics};

const REPLICAS: u32 = 3;
const BIN: &str = env!("CARGO_BIN_EXE_thermoscope");

/// Metrics of a run as `power` has them, with their sites, heads and indices.
fn metrics() -> Vec<(&'static str, String, Vec<[i32; 3]>)> {
    let mut all: Vec<(&str, String, Vec<[i32; 3]>)> = Vec::new();
    for name in ["loss.train", "accuracy.train", "loss.test", "accuracy.test", "logit_scale"] {
        all.push((name, String::new(), vec![[-1; 3]]));
    }
    for tensor in 0..20 {
        for name in ["weight_norm", "grad_norm", "update_norm", "drift.radial"] {
            all.push((name, format!("blocks.{}.tensor.{tensor}", tensor % 2), vec![[tensor % 2, -1, -1]]));
        }
    }
    let heads: Vec<[i32; 3]> = (0..8).map(|head| [head / 4, head % 4, -1]).collect();
    all.push(("attention_entropy", "hook_pattern".to_owned(), heads));
    all.push(("fourier_norm", "embed.W_E".to_owned(), (1..=48).map(|k| [-1, -1, k]).collect()));
    all
}

/// Writes a run of about so many rows; returns its steps. One replica has learned at two thirds of it.
fn write(dir: &Path, rows: usize) -> u64 {
    let metrics = metrics();
    let per_step = metrics.iter().map(|(_, _, places)| places.len()).sum::<usize>() * REPLICAS as usize;
    let steps = (rows / per_step) as u64;
    let mut table = Segments::open(&dir.join("metrics"), 0).unwrap();
    for step in 0..steps {
        for (name, site, places) in &metrics {
            for replica in 0..REPLICAS {
                for place in places {
                    let learned = replica == 0 && 3 * step >= 2 * steps;
                    let value = match *name {
                        "accuracy.train" | "accuracy.test" => f32::from(u8::from(learned)),
                        _ => 1.0 + ((step * 31 + (place[2] + 1) as u64 * 7) % 1000) as f32 * 1e-3,
                    };
                    table.push(&TableRow { step, replica, metric: name, site, place: *place, value });
                }
            }
        }
        if table.waiting() >= 200_000 {
            table.flush().unwrap();
        }
    }
    table.flush().unwrap();
    let described = |name: &str| Described {
        instrument: "test".to_owned(),
        formula: name.to_owned(),
        unit: "1".to_owned(),
        axes: String::new(),
        index: Vec::new(),
        counts: String::new(),
        every: 1,
        cost: "F".to_owned(),
        control: String::new(),
        chance: None,
        bounds: [None; 2],
        source: String::new(),
        not_for: String::new(),
        set: false,
        sites: Vec::new(),
    };
    let catalog = Catalog {
        classes: 97,
        predictions: vec![
            Predictions { train: 512, train_drawn: true, test: 4000, most_frequent: [0.0; 2] };
            REPLICAS as usize
        ],
        metrics: metrics.iter().map(|(name, ..)| ((*name).to_owned(), described(name))).collect::<BTreeMap<_, _>>(),
    };
    std::fs::write(dir.join("metrics.json"), serde_json::to_string(&catalog).unwrap()).unwrap();
    let manifest = json!({
        "format": 2, "version": "0", "status": "finished", "started": "then", "seconds": 1.0, "steps_done": steps,
        "hash": "", "adapter": {}, "config": { "steps": steps, "replicas": REPLICAS, "replica": [{}, {}, {}] },
    });
    std::fs::write(dir.join("run.json"), manifest.to_string()).unwrap();
    steps
}

/// Runs a command; returns what it printed and its largest resident memory in KiB.
fn peak(command: &mut Command) -> (String, u64) {
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        // The file is gone, or holds no memory any more, once the process has ended.
        while let Some(now) = std::fs::read_to_string(&status).ok().and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok())
        }) {
            peak = peak.max(now);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        peak
    });
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success());
    (String::from_utf8(done.stdout).unwrap(), watch.join().unwrap())
}

#[test]
fn memory_does_not_grow_with_the_rows_of_a_run() {
    let rows: usize = std::env::var("ROWS").map_or(3_000_000, |rows| rows.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let report = |rows: usize| {
        let dir = folder.path().join(rows.to_string());
        let steps = write(&dir, rows);
        let before = std::time::Instant::now();
        let (said, peak) = peak(Command::new(BIN).arg("report").arg(&dir));
        eprintln!("{rows} rows: {} MiB at most, {:.1} s", peak >> 10, before.elapsed().as_secs_f32());
        // What a threshold decides is decided at every step, however much the pictures are thinned.
        let learned = format!("step {} ± 1", (2 * steps).div_ceil(3));
        assert!(said.contains("grokked") && said.contains(&learned), "{learned} is not in {said}");
        (dir, peak)
    };
    let (dir, few) = report(300_000);
    let series = read_metrics(&dir, |metric| metric == "loss.train").unwrap();
    assert_eq!(series.len(), REPLICAS as usize, "the same table can be read whole");
    let (_, many) = report(rows);
    assert!(many < 500 << 10, "{} MiB", many >> 10);
    // Whole series take 12 bytes a row.
    let more = many.saturating_sub(few) as f64 * 1024.0 / (rows - 300_000) as f64;
    assert!(more < 6.0, "{more} bytes a row");
}
