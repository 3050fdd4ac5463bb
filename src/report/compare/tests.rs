//! Planted runs: tables whose events, orders and lags are known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Asked, compare};
use crate::error::Error;
use crate::gpu::{Philox, Stream};
use crate::record::{Catalog, Described, Manifest, Origin, Predictions, RunDir, RunKind, Setup, Status, TableRow};

/// A replica: its table in the configuration, and the steps at which train and test accuracy jump to 1.
type Planted<'a> = (&'a str, u64, u64);

const STEPS: u64 = 2000;
const EVERY: u64 = 10;

fn caps() -> crate::gpu::Caps {
    crate::autograd::check::gpus()[0].caps().clone()
}

fn noise(replica: u64, at: u64) -> f32 {
    (Philox::new(replica, Stream::Probe, 0).below(at, 1000) as f32 / 1000.0 - 0.5) * 0.01
}

/// Writes a run directory as a run would have left it.
fn plant(dir: &Path, text: &str, replicas: &[Planted<'_>], fork: Option<Origin>) -> Manifest {
    let tables: String = replicas.iter().map(|(table, ..)| format!("\n[[replica]]\n{table}")).collect();
    let setup =
        Setup::from_toml(&format!("steps = {STEPS}\n{text}\n[task]\nkind = \"modular\"\np = 7{tables}")).unwrap();
    let metric = |unit: &str| Described { unit: unit.to_owned(), every: EVERY, ..Described::default() };
    let metrics: BTreeMap<String, Described> =
        ["accuracy.train", "accuracy.test", "loss.test", "fsd"].map(|name| (name.to_owned(), metric("1"))).into();
    let predictions = Predictions { train: 1000, train_drawn: false, test: 2000, most_frequent: [0.1; 2] };
    let catalog = Catalog { classes: 7, predictions: vec![predictions; replicas.len()], metrics };
    let from = fork.as_ref().map_or(0, |origin| origin.step);
    let manifest = Manifest::new(setup.resolved, BTreeMap::new(), &caps(), None);
    let manifest = match fork {
        Some(origin) => manifest.forked(origin),
        None => manifest,
    };
    let mut out = RunDir::create(dir, manifest.clone(), &catalog).unwrap();
    for step in (from..=STEPS).step_by(EVERY as usize) {
        for (replica, (_, train, test)) in replicas.iter().enumerate() {
            let own = 7 + replica as u64;
            let mut row = |metric: &str, value: f32| {
                let (place, site) = ([-1; 3], "");
                out.table_row(&TableRow { step, replica: replica as u32, metric, site, place, value });
            };
            row("accuracy.train", if step >= *train { 1.0 } else { 0.3 });
            row("accuracy.test", if step >= *test { 1.0 } else { 0.2 });
            // A level that falls with the test accuracy, and news that the next series has three measurements later.
            let level = if step >= *test { 0.1 } else { 2.0 };
            row("loss.test", level + noise(own, step));
            row("fsd", level + noise(own, step.wrapping_sub(3 * EVERY)));
        }
    }
    out.close(Status::Finished, STEPS).unwrap();
    RunDir::read_manifest(dir).unwrap()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What a comparison says of some of its runs, in numbers.
    fn compared(&self, names: &[&str], asked: &Asked) -> Value {
        let dirs: Vec<PathBuf> = names.iter().map(|name| self.dir(name)).collect();
        let comparison = compare(&dirs, asked).unwrap();
        comparison.write(&self.dir("page.html")).unwrap();
        serde_json::from_str(&comparison.json().unwrap()).unwrap()
    }

    fn refused(&self, names: &[&str], asked: &Asked) -> String {
        let dirs: Vec<PathBuf> = names.iter().map(|name| self.dir(name)).collect();
        compare(&dirs, asked).err().unwrap().to_string()
    }
}

fn event<'a>(said: &'a Value, name: &str, from: Option<u64>) -> &'a Value {
    let all = said["events"].as_array().unwrap();
    all.iter().find(|event| event["event"] == name && event["from"] == json!(from)).unwrap()
}

/// Ten seeds of a run and of one with less decay, in which test accuracy comes 300 steps later.
fn two_runs(place: &Place) {
    let at = |seed: u64| 600 + 40 * seed;
    let names: Vec<String> = (0..10).map(|seed| format!("seed = {seed}")).collect();
    let plain: Vec<Planted<'_>> = names.iter().zip(0..).map(|(name, seed)| (&**name, 100, at(seed))).collect();
    // The last two have not come to it by the end.
    let when = |seed: u64| if seed < 8 { at(seed) + 300 } else { 9999 };
    let slow: Vec<Planted<'_>> = names.iter().zip(0..).map(|(name, seed)| (&**name, 150, when(seed))).collect();
    plant(&place.dir("plain"), "", &plain, None);
    plant(&place.dir("slow"), "[optimizer]\nweight_decay = 0.3", &slow, None);
}

#[test]
fn runs_that_differ_in_their_seeds_alone_are_one_arm_and_a_planted_delay_is_found() {
    let place = Place::new();
    two_runs(&place);
    let said = place.compared(&["plain", "slow"], &Asked::default());
    let arms = said["arms"].as_array().unwrap();
    assert_eq!(arms.len(), 2);
    assert_eq!([&arms[0]["arm"], &arms[1]["arm"]], ["plain", "slow"]);
    assert_eq!(arms[1]["settings"], json!({ "optimizer.weight_decay": "0.3" }), "what sets them apart");
    let grokked = event(&said, "grokked", None);
    let [plain, slow] = [0, 1].map(|at| &grokked["arms"][at]);
    assert_eq!([&plain["came"], &slow["came"], &slow["replicas"]], [&json!(10), &json!(8), &json!(10)]);
    // Means of 600, 640, ... 960; of 900 ... 1,180 and twice the end.
    let mean = |arm: &Value| arm["mean"]["value"].as_f64().unwrap();
    assert!((mean(plain) - 780.0).abs() < 1e-9 && (mean(slow) - (8.0 * 1040.0 + 4000.0) / 10.0).abs() < 1e-9);
    let against = &slow["against"];
    let later = against["later"]["value"].as_f64().unwrap();
    assert!((later - (mean(slow) - mean(plain))).abs() < 1e-9);
    assert!(against["p"].as_f64().unwrap() < 0.01 && against["q"].as_f64().unwrap() < 0.05, "{against}");
    // Seeds go in pairs, and eight of ten have both dates.
    assert_eq!((&against["pairs"]["later"], &against["pairs"]["by"]), (&json!(10), &json!(300.0)));
    // Memorizing is 50 steps apart in all; nothing else is to be said of it.
    assert_eq!(event(&said, "memorized", None)["arms"][1]["median"], json!(150.0));
    let words = said["supported"].as_str().unwrap();
    assert!(words.contains("slow") && words.contains("plain") && words.contains("log-rank p"), "{words}");
    assert!(said["not_supported"].as_str().unwrap().contains("cut off"), "{said}");
    // Memorized before generalized in all ten replicas of each arm, by their medians.
    for matrix in said["orders"].as_array().unwrap() {
        let pair =
            matrix["pairs"].as_array().unwrap().iter().find(|pair| pair["events"] == json!(["memorized", "grokked"]));
        let pair = pair.unwrap();
        assert_eq!((&pair["before"], pair["q"].as_f64().unwrap() < 0.05), (&json!(10), true), "{pair}");
        assert!(pair["family"].as_f64().unwrap() < 0.05);
    }
    let page = std::fs::read_to_string(place.dir("page.html")).unwrap();
    assert!(page.contains("Supported.") && !page.contains("bit for bit") && page.contains("\"survival\""));
}

#[test]
fn no_arm_differs_from_one_that_is_like_it() {
    let place = Place::new();
    let names: Vec<String> = (0..12).map(|seed| format!("seed = {seed}")).collect();
    let same: Vec<Planted<'_>> = names.iter().zip(0..).map(|(name, seed)| (&**name, 100, 600 + 30 * seed)).collect();
    // The same dates, dealt out to other seeds.
    let other: Vec<Planted<'_>> =
        names.iter().zip(0..).map(|(name, seed): (_, u64)| (&**name, 100, 600 + 30 * ((5 * seed + 3) % 12))).collect();
    plant(&place.dir("a"), "", &same, None);
    plant(&place.dir("b"), "[optimizer]\nweight_decay = 0.99", &other, None);
    let said = place.compared(&["a", "b"], &Asked::default());
    let against = &event(&said, "grokked", None)["arms"][1]["against"];
    assert_eq!((against["p"].as_f64(), against["later"]["value"].as_f64()), (Some(1.0), Some(0.0)), "{against}");
    assert!(against["pairs"]["p"].as_f64().unwrap() > 0.05, "{against}");
    // What is the same in both is an order of events.
    let words = said["supported"].as_str().unwrap();
    assert!(words.contains("comes before") && !words.contains("log-rank"), "{words}");
}

#[test]
fn what_came_before_a_fork_is_its_trunks_and_the_same_bits_count_once() {
    let place = Place::new();
    let trunk = plant(&place.dir("trunk"), "", &[("seed = 3", 100, 900)], None);
    let origin =
        |run: &str| Origin { run: place.dir(run), hash: trunk.hash.clone(), replica: 0, step: 500, each: Vec::new() };
    let pulse = "intervene = [{ what = \"weight_decay\", factor = 0, from = 500, until = 700 }]";
    let slow = format!("name = \"no decay\"\nseed = 3\n{pulse}");
    let arms = [("name = \"sham\"\nrole = \"sham\"\nseed = 3", 100, 900), (&*slow, 100, 1250)];
    plant(&place.dir("fork"), "", &arms, Some(origin("trunk")));
    let said = place.compared(&["trunk", "fork"], &Asked::default());
    let names: Vec<&str> = said["arms"].as_array().unwrap().iter().map(|arm| arm["arm"].as_str().unwrap()).collect();
    assert_eq!(names, ["trunk", "sham", "no decay"]);
    assert_eq!(said["arms"][2]["settings"]["intervene"], "weight decay times 0 from 500 to 700");
    // The fork began at 500, when its trunk had memorized: arms are compared by what came later, and not with the trunk, which
    // was watched from the beginning.
    let events = said["events"].as_array().unwrap();
    assert!(!events.iter().any(|event| event["event"] == "memorized" && event["from"] == json!(500)), "{events:?}");
    let grokked = event(&said, "grokked", Some(500));
    assert_eq!(grokked["arms"].as_array().unwrap().len(), 2);
    assert_eq!([&grokked["arms"][0]["arm"], &grokked["arms"][1]["arm"]], ["sham", "no decay"]);
    let against = &grokked["arms"][1]["against"];
    assert_eq!(
        (&against["enough"], &against["q"], &against["pairs"]["by"]),
        (&json!(false), &Value::Null, &json!(350.0))
    );
    let words = said["supported"].as_str().unwrap();
    assert!(words.contains("From one and the same state") && words.contains("by 350 steps"), "{words}");
    let not = said["not_supported"].as_str().unwrap();
    assert!(not.contains("one trunk") && not.contains("size-matched sham") && not.contains("one replica"), "{not}");
    // The very same arm again, in another folder, is no second replica.
    plant(&place.dir("again"), "", &arms, Some(origin("trunk")));
    let said = place.compared(&["fork", "again"], &Asked::default());
    let sham = &said["arms"][0];
    assert_eq!(sham["replicas"].as_array().unwrap().len(), 1, "{sham}");
    assert_eq!(sham["copies"], json!([["again: sham", "fork: sham"]]));
    assert!(std::fs::read_to_string(place.dir("page.html")).unwrap().contains("bit for bit"));
    // With its trunk's folder gone a fork knows only that it had memorized by then.
    std::fs::remove_dir_all(place.dir("trunk")).unwrap();
    let said = place.compared(&["fork"], &Asked::default());
    assert_eq!(event(&said, "grokked", Some(500))["arms"][1]["against"]["pairs"]["by"], json!(350.0));
}

#[test]
fn seeds_of_a_fork_are_one_arm_and_go_in_pairs() {
    let place = Place::new();
    let trunk = plant(&place.dir("trunk"), "", &[("seed = 3", 100, 900)], None);
    let origin = Origin { run: place.dir("trunk"), hash: trunk.hash, replica: 0, step: 500, each: Vec::new() };
    let tables: Vec<(String, u64)> = (0..7)
        .flat_map(|seed| {
            let of = |arm: &str, more: &str| {
                let own = if seed > 0 { format!("{arm}, seed {seed}") } else { arm.to_owned() };
                format!("name = \"{own}\"\ngroup = \"seed {seed}\"\nseed = 3\nbatch_seed = {}\n{more}", 50 + seed)
            };
            let noise = format!(
                "intervene = [{{ what = \"label_noise\", dose = 0.5, from = 500, until = 600, seed = {seed} }}]"
            );
            [(of("sham", "role = \"sham\""), 900 + 20 * seed), (of("noisy", &noise), 1100 + 20 * seed)]
        })
        .collect();
    let arms: Vec<Planted<'_>> = tables.iter().map(|(table, test)| (&**table, 100, *test)).collect();
    plant(&place.dir("fork"), "", &arms, Some(origin));
    let said = place.compared(&["fork"], &Asked::default());
    let names: Vec<&str> = said["arms"].as_array().unwrap().iter().map(|arm| arm["arm"].as_str().unwrap()).collect();
    assert_eq!(names, ["sham", "noisy"], "draws set no arms apart");
    let against = &event(&said, "grokked", Some(500))["arms"][1]["against"];
    let pairs = &against["pairs"];
    assert_eq!([&pairs["later"], &pairs["earlier"], &pairs["by"]], [&json!(7), &json!(0), &json!(200.0)]);
    assert!((pairs["p"].as_f64().unwrap() - 2.0 / 128.0).abs() < 1e-12);
    assert!(said["not_supported"].as_str().unwrap().contains("one trunk at one state (step 500)"));
}

#[test]
fn jumps_and_lags_are_where_they_were_planted() {
    let place = Place::new();
    two_runs(&place);
    let asked = Asked { metrics: vec!["loss.test".to_owned()], lags: vec![["loss.test".to_owned(), "fsd".to_owned()]] };
    let said = place.compared(&["plain", "slow"], &asked);
    let curves = said["curves"].as_array().unwrap();
    assert_eq!(curves.len(), 2, "one curve in two arms");
    for (seed, of) in curves[0]["replicas"].as_array().unwrap().iter().enumerate() {
        let change = &of["changes"][0];
        assert_eq!(change["step"], json!(600 + 40 * seed), "{of}");
        let [low, high] = [0, 1].map(|end| change["interval"][end].as_i64().unwrap());
        assert!(
            low <= change["step"].as_i64().unwrap() && change["step"].as_i64().unwrap() <= high && high - low <= 20
        );
        // Quicker than it was measured: a rise has no width, and the reason stands there.
        assert!(of["rise"]["missing"].as_str().is_some_and(|why| why.contains("change point")), "{of}");
    }
    // Replicas that did not come to it have no jump.
    let none = |of: &&Value| of["changes"].as_array().is_some_and(Vec::is_empty);
    assert_eq!(curves[1]["replicas"].as_array().unwrap().iter().filter(none).count(), 2);
    for lags in said["lags"].as_array().unwrap() {
        for of in lags["replicas"].as_array().unwrap() {
            assert_eq!((&of["lag"]["lag"], of["lag"]["p"].as_f64().unwrap() < 0.05), (&json!(30), true), "{of}");
        }
        assert_eq!([&lags["follows"], &lags["leads"]], [&json!(10), &json!(0)]);
    }
}

#[test]
fn what_cannot_be_compared_is_refused_and_what_is_not_shared_is_told() {
    let place = Place::new();
    two_runs(&place);
    plant(&place.dir("one"), "", &[("seed = 1", 100, 500)], None);
    let none = Asked::default();
    assert!(place.refused(&["one"], &none).contains("name another"));
    assert!(place.refused(&["plain", "plain"], &none).contains("named twice"));
    assert!(place.refused(&["plain", "nowhere"], &none).contains("nowhere"));
    let metric = |name: &str| Asked { metrics: vec![name.to_owned()], lags: Vec::new() };
    let said = place.refused(&["plain", "slow"], &metric("los.test"));
    assert!(said.contains("no run measured los.test") && said.contains("loss.test"), "{said}");
    assert!(place.refused(&["plain", "slow"], &metric("loss.test@L0")).contains("leave @L0 out"));
    let caps = caps();
    let config = RunDir::read_manifest(&place.dir("one")).unwrap().config;
    let kind = Manifest::new(config, BTreeMap::new(), &caps, None).of_kind(RunKind::Measurement);
    RunDir::create(&place.dir("measured"), kind, &Catalog::default()).unwrap();
    assert!(place.refused(&["plain", "measured"], &none).contains("the measurement of a model"));
    // A page takes the place of a page, and of nothing else.
    let notes = place.dir("notes.txt");
    std::fs::write(&notes, "mine").unwrap();
    let found = compare(&[place.dir("plain"), place.dir("slow")], &none).unwrap();
    assert!(matches!(found.write(&notes), Err(Error::Occupied { .. })));
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "mine");
    found.write(&place.dir("page.html")).unwrap();
    found.write(&place.dir("page.html")).unwrap();
    // A run that measured less: what only the other has is named.
    let path = place.dir("slow").join("metrics.json");
    let mut metrics: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    metrics["metrics"].as_object_mut().unwrap().remove("fsd");
    metrics["metrics"]["loss.test"]["every"] = json!(20);
    std::fs::write(&path, metrics.to_string()).unwrap();
    let said = place.compared(&["plain", "slow"], &none);
    let told = said["notes"].to_string();
    assert!(told.contains("Only plain measured fsd") && told.contains("every 20 steps in slow"), "{told}");
}
