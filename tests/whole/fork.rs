//! A fork has its trunk's bits where nothing is changed, to the end, and tells where it comes from.

use std::collections::BTreeMap;
use std::path::Path;

use thermoscope::gpu::adapters;
use thermoscope::intervene::Pulse;
use thermoscope::model::ModelConfig;
use thermoscope::record::{Event, RunDir, Status, What, read_metrics};
use thermoscope::train::{ArmRole, ReplicaConfig, Snapshot};

use crate::place::Place;
use crate::pulses::KINDS;

/// Two seeds side by side, batches drawn on the device.
const TRUNK: &str = "\
name = \"trunk\"
steps = 2000
replicas = 2
[task]
kind = \"modular\"
p = 7
[model]
d_model = 8
n_heads = 2
d_mlp = 12
[batch]
size = 9
[optimizer]
learning_rate = 3e-3
[schedule]
kind = \"cosine\"
warmup = 5
floor = 0.5
[checkpoint]
every = 500
keep = 0
[measure]
only = [\"loss.train\", \"loss.test\"]
";

/// The same, short.
fn short() -> String {
    TRUNK.replace("steps = 2000", "steps = 40").replace("every = 500", "every = 10")
}

fn model(run: &Path) -> ModelConfig {
    serde_json::from_value(RunDir::read_manifest(run).unwrap().config["model"].clone()).unwrap()
}

/// The last state of a run.
fn end(run: &Path) -> Snapshot {
    let manifest = RunDir::read_manifest(run).unwrap();
    assert_eq!(manifest.status, Status::Finished);
    let state = RunDir::read_state(run, u64::MAX, &model(run)).unwrap().0.unwrap();
    assert_eq!(state.step, manifest.steps_done);
    state
}

/// Steps and bits of a metric of one replica, from a step on.
fn series(run: &Path, metric: &str, replica: i32, from: i64) -> BTreeMap<i64, u32> {
    let found = read_metrics(run, |name| name == metric).unwrap();
    let own = found.into_iter().find(|(key, _)| key.replica == replica).unwrap().1;
    own.steps
        .into_iter()
        .zip(own.values.iter().map(|value| value.to_bits()))
        .filter(|(step, _)| *step >= from)
        .collect()
}

fn replicas(run: &Path) -> Vec<ReplicaConfig> {
    serde_json::from_value(RunDir::read_manifest(run).unwrap().config["replica"].clone()).unwrap()
}

#[test]
fn the_sham_arm_has_the_bits_of_the_trunk_to_the_end_whatever_the_other_arms_do() {
    for adapter in 0..adapters().len() {
        let place = Place::new();
        place.write("trunk.toml", TRUNK);
        place.good(&format!("run trunk.toml --adapter {adapter} --out trunk"));
        // Every kind of intervention is in the program: with a dose of nothing in one arm, and whole in others.
        let arm = |name: &str, kinds: &mut dyn Iterator<Item = &&str>, dose: u32| {
            let pulses: Vec<String> = kinds.map(|kind| format!("{{ {kind}, from = 3, dose = {dose} }}")).collect();
            format!("[[arm]]\nname = \"{name}\"\nintervene = [{}]\n", pulses.join(", "))
        };
        let mut arms = arm("nothing of all", &mut KINDS.iter(), 0);
        arms += &arm("some", &mut KINDS.iter().step_by(2), 1);
        arms += &arm("others", &mut KINDS.iter().skip(1).step_by(2), 1);
        place.write("arms.toml", arms);
        let said =
            place.run(&format!("fork trunk --adapter {adapter} --at 700 --replica 1 --arms arms.toml --out fork"));
        assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains("from step 500 to step 700") && said.contains("report: fork/report.html"), "{said}");

        let (trunk, fork) = (end(&place.path("trunk")), end(&place.path("fork")));
        assert_eq!((trunk.step, fork.step), (2000, 2000));
        let own = trunk.select(&[1]);
        let losses = series(&place.path("trunk"), "loss.train", 1, 700);
        assert_eq!(losses.len(), 1301);
        for (at, arm) in replicas(&place.path("fork")).iter().enumerate() {
            let name = arm.name.as_deref().unwrap();
            let sham = name == "sham" || name.starts_with("nothing");
            assert_eq!(fork.select(&[at]) == own, sham, "{name} on adapter {adapter}");
            assert_eq!(series(&place.path("fork"), "loss.train", at as i32, 0) == losses, sham, "{name}");
            assert_eq!(arm.role == Some(ArmRole::Sham), name == "sham");
        }
    }
}

#[test]
fn a_fork_knows_its_trunk_and_what_its_arms_do() {
    let place = Place::new();
    place.write("trunk.toml", short());
    place.good("run trunk.toml --out trunk");
    place.write(
        "arms.toml",
        "[[arm]]\nname = \"frozen\"\ncontrol_of = \"sham\"\nintervene = [{ what = \"freeze\", weights = [\"q\"], from = 2, until = 7 }]\n\
         [[arm]]\nname = \"noisy\"\nlearning_rate = 1e-4\nintervene = [{ what = \"noise\", weights = [\"*\"], from = 0 }]\n",
    );
    place.good("fork trunk --at 12 --arms arms.toml --set measure.every.loss.test=3 --out fork");
    let fork = place.path("fork");
    let manifest = RunDir::read_manifest(&fork).unwrap();
    let origin = manifest.fork.clone().unwrap();
    assert_eq!((origin.replica, origin.step), (0, 12));
    assert_eq!(origin.run.canonicalize().unwrap(), place.path("trunk").canonicalize().unwrap());
    assert_eq!(origin.hash, RunDir::read_manifest(&place.path("trunk")).unwrap().hash);
    let arms = replicas(&fork);
    let names: Vec<&str> = arms.iter().filter_map(|arm| arm.name.as_deref()).collect();
    assert_eq!(names, ["sham", "frozen", "noisy"]);
    let pulse = &arms[1].intervene.as_ref().unwrap()[0];
    assert_eq!((pulse.from, pulse.until), (14, Some(19)), "steps of the run, not of the arms file");
    assert_eq!((arms[0].learning_rate, arms[2].learning_rate), (None, Some(1e-4)));
    // The learning rate comes down as it would have in the trunk.
    assert_eq!(manifest.config["schedule"]["steps"], 40);
    assert_eq!(
        series(&fork, "loss.test", 0, 0).into_keys().collect::<Vec<_>>(),
        [12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 40]
    );

    let events = RunDir::read_events(&fork).unwrap();
    let of = |event: &Event| match &event.what {
        What::PulseBegin { pulse } => Some((event.step, event.replica, true, pulse.words())),
        What::PulseEnd { pulse } => Some((event.step, event.replica, false, pulse.words())),
        _ => None,
    };
    let expected = [(12, 2, true, "noise *"), (14, 1, true, "freeze q"), (19, 1, false, "freeze q")];
    let expected = expected.map(|(step, replica, begins, words)| (step, Some(replica), begins, words.to_owned()));
    assert_eq!(events.iter().filter_map(of).collect::<Vec<_>>(), expected);
    assert!(matches!(&events[1].what, What::Fork { of: 0, .. }) && events[1].step == 12, "{:?}", events[1]);
    let page = std::fs::read_to_string(fork.join("report.html")).unwrap();
    assert!(page.contains("frozen") && page.contains("generalizes"));

    // It goes on without its trunk, to the same bits, and further; a fork of it has its bits.
    place.write("none.toml", "");
    place.good("fork fork --at 16 --replica 1 --arms none.toml --out again");
    let again = end(&place.path("again"));
    assert!(again == end(&fork).select(&[1]));
    place.good("fork again --at 20 --arms none.toml --out third");
    assert!(end(&place.path("third")) == again);
    std::fs::remove_dir_all(place.path("trunk")).unwrap();
    place.good("run --resume --out fork --steps 50");
    assert_eq!(end(&fork).step, 50);
    place.bad("fork again --at 15 --arms none.toml --out no", &["no checkpoint", "15", "16"]);
}

#[test]
fn a_fork_that_is_stopped_goes_on_to_the_same_bits() {
    let place = Place::new();
    // What the run does to all but the second replica is none of the fork's.
    let of_run = "intervene = [{ what = \"freeze\", weights = [\"k\"], from = 0 }]\n";
    let two = "[[replica]]\n[[replica]]\nintervene = []\n";
    place.write("trunk.toml", format!("{of_run}{}{two}", short().replace("replicas = 2\n", "")));
    place.good("run trunk.toml --out trunk");
    place.write("arms.toml", "[[arm]]\nintervene = [{ what = \"gradient_noise\", dose = 0.3, from = 1 }, { what = \"freeze\", weights = [\"mlp\"], from = 9 }]\n");
    place.good("fork trunk --at 5 --replica 1 --arms arms.toml --out whole");
    place.good("fork trunk --at 5 --replica 1 --arms arms.toml --steps 20 --out parts");
    place.good("run --resume --out parts --steps 40");
    assert!(end(&place.path("whole")) == end(&place.path("parts")));
    for replica in 0..2 {
        let [whole, parts] = ["whole", "parts"].map(|run| series(&place.path(run), "loss.train", replica, 0));
        assert_eq!(whole, parts);
    }
    // The step before the first checkpoint is replayed from the first weights.
    assert!(end(&place.path("whole")).select(&[0]) == end(&place.path("trunk")).select(&[1]));
    // And those of the first replica hold of its forks.
    place.good("fork trunk --at 15 --arms arms.toml --out first");
    assert!(end(&place.path("first")).select(&[0]) == end(&place.path("trunk")).select(&[0]));
}

#[test]
fn what_the_trunk_goes_on_with_stays_with_its_heads() {
    let place = Place::new();
    let sham = "{ what = \"scale_head\", head = 1, sham = \"head\", from = 3 }";
    let trunk = short().replace("replicas = 2\n", &format!("intervene = [{sham}]\n"));
    place.write("trunk.toml", trunk.replace("n_heads = 2", "n_heads = 4"));
    place.good("run trunk.toml --out trunk");
    let arm = replicas(&place.path("trunk")).remove(0);
    let of_run = RunDir::read_manifest(&place.path("trunk")).unwrap().config["intervene"].clone();
    let pulses: Vec<Pulse> = serde_json::from_value(of_run).unwrap();
    let taken = Pulse::heads(&pulses, &model(&place.path("trunk")), arm.seed.unwrap()).unwrap()[0].unwrap();
    assert_ne!(taken, 1);
    for head in [0, 2, 3] {
        let frozen = format!("{{ what = \"freeze\", weights = [\"q\"], head = {head}, from = 0 }}");
        place.write("arms.toml", format!("[[arm]]\nname = \"frozen\"\nintervene = [{frozen}]\n"));
        let line = format!("fork trunk --at 10 --arms arms.toml --out fork-{head}");
        if head == taken {
            place.bad(&line, &["frozen", &format!("is done to head {head}"), "leave that head alone"]);
            continue;
        }
        place.good(&line);
        let [trunk, fork] = ["trunk".to_owned(), format!("fork-{head}")].map(|run| end(&place.path(&run)));
        assert!(fork.select(&[0]) == trunk, "the sham arm is the trunk");
        assert!(fork.select(&[1]) != trunk);
    }
}

#[test]
fn seeds_of_a_fork_see_other_batches_and_arms_of_one_seed_the_same() {
    let place = Place::new();
    place.write("trunk.toml", short());
    place.good("run trunk.toml --out trunk");
    place.write(
        "arms.toml",
        "[[arm]]\nname = \"a\"\nintervene = [{ what = \"freeze\", weights = [\"q\"], dose = 0, from = 0 }]\n\
         [[arm]]\nname = \"b\"\ncontrol_of = \"a\"\nintervene = [{ what = \"noise\", weights = [\"q\"], from = 0 }]\n",
    );
    place.good("fork trunk --at 10 --arms arms.toml --seeds 3 --out fork");
    let (trunk, fork) = (end(&place.path("trunk")), end(&place.path("fork")));
    let arms = replicas(&place.path("fork"));
    let names: Vec<&str> = arms.iter().filter_map(|arm| arm.name.as_deref()).collect();
    let of = |seed: u32| ["sham", "a", "b"].map(|name| format!("{name}, seed {seed}"));
    assert_eq!(names[..3], ["sham", "a", "b"]);
    assert_eq!(names[3..], [of(1), of(2)].concat());
    assert_eq!(arms[5].control_of.as_deref(), Some("a, seed 1"));
    assert_eq!(arms[5].group.as_deref(), Some("seed 1"));
    for seed in 0..3 {
        let [sham, a, b] = [0, 1, 2].map(|arm| fork.select(&[3 * seed + arm]));
        assert!(sham == a && a != b, "seed {seed}");
        assert_eq!(sham == trunk.select(&[0]), seed == 0);
    }
    assert!(fork.select(&[3]) != fork.select(&[6]));
    place.write("full.toml", short().replace("[batch]\nsize = 9\n", ""));
    place.good("run full.toml --out full");
    place.write("none.toml", "");
    place.bad("fork full --at 10 --arms none.toml --seeds 2 --out no", &["--seeds 2", "nothing is drawn"]);
}

#[test]
fn what_cannot_be_forked_is_refused_and_nothing_is_written() {
    let place = Place::new();
    place.write("pairs.json", "[[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 0]]");
    place.write("trunk.toml", short().replace("p = 7\n", "p = 7\ntrain_pairs = \"pairs.json\"\n"));
    place.good("run trunk.toml --out trunk");
    place.write("arms.toml", "");
    let bad = |arms: &str, line: &str, words: &[&str]| {
        place.write("bad.toml", arms);
        place.bad(&format!("{line} --out no"), words);
        assert!(!place.path("no").exists(), "{line}");
    };
    let fork = "fork trunk --at 10 --arms bad.toml";
    bad("", "fork nowhere --at 10 --arms bad.toml", &["nowhere", "no run"]);
    bad("", "fork trunk --at 41 --arms bad.toml", &["--at 41", "step 40"]);
    bad("", "fork trunk --at 40 --arms bad.toml", &["nothing to train", "--steps"]);
    bad("", "fork trunk --at 10 --replica 2 --arms bad.toml", &["--replica 2", "2, counted from 0"]);
    bad("", "fork trunk --at 10 --arms none.toml", &["none.toml"]);
    bad("", &format!("{fork} --set optimizer.learning_rate=1"), &["optimizer.learning_rate=1", "arms"]);
    bad(
        "[[arm]]\nname = \"a\"\nintervene = [{ what = \"freez\", from = 0 }]\n",
        fork,
        &["bad.toml", "line 3", "^", "freeze"],
    );
    let noisy =
        "[[arm]]\nintervene = [{ what = \"label_noise\", dose = 0.5, from = 0, until = 9223372036854775807 }]\n";
    bad(noisy, &format!("{fork} --seeds 4000000000"), &["--seeds 4000000000", "4096 at most"]);
    bad("[[arm]]\nlr = 1\n", fork, &["bad.toml", "line 2", "^", "learning_rate"]);
    bad("[[arms]]\n", fork, &["bad.toml", "line 1", "^", "arm"]);
    bad("[[arm]]\nseed = 3\n", fork, &["bad.toml", "arm 0", "batch_seed"]);
    bad(
        "[[arm]]\nname = \"late\"\nintervene = [{ what = \"reset_moments\", from = 30 }]\n",
        fork,
        &["late", "from = 30", "30 steps"],
    );
    bad("[[arm]]\nname = \"a\"\ncontrol_of = \"b\"\n", fork, &["bad.toml", "control_of"]);
    bad("[[arm]]\nname = \"a\"\n[[arm]]\nname = \"a\"\n", fork, &["named a"]);
    place.write("pairs.json", "[[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 1]]");
    bad("", fork, &["pairs.json", "has changed"]);
    place.write("pairs.json", "[[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 0]]");
    let edited =
        std::fs::read_to_string(place.path("trunk/run.json")).unwrap().replace("\"warmup\": 5", "\"warmup\": 6");
    place.write("trunk/run.json", edited);
    bad("", fork, &["run.json", "was edited"]);
}
