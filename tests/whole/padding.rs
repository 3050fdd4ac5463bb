//! Rows that only fill up a list change no measure: a replica beside one whose split has another size measures what
//! it measures alone, and so does a probe that asks about some of its examples only.

use std::collections::BTreeSet;

use crate::common::{Key, Values, gpus, two_sets, values};
use thermoscope::gpu::Gpu;
use thermoscope::instrument::registry;
use thermoscope::record::Setup;
use thermoscope::task::Feed;
use thermoscope::train::Session;

const MODULAR: &str = r#"
    [task]
    kind = "modular"
    p = 19
    [model]
    n_layers = 2
    d_model = 24
    n_heads = 3
    d_mlp = 20
"#;

const PERMUTATION: &str = r#"
    [task]
    kind = "permutation"
    n = 3
    [model]
    d_model = 16
    n_heads = 2
    d_mlp = 12
"#;

/// Every position is read out, and sequences end where they like; PATH stands for a file.
const TOKENS: &str = r#"
    [task]
    kind = "tokens"
    path = "PATH"
    [model]
    n_layers = 2
    d_model = 20
    n_heads = 2
    d_mlp = 12
    normalization_type = "LN"
"#;

/// A run of replicas by seed and the share they train on, in which all but the training loss is measured at every
/// third step.
fn text(start: &str, replicas: &[(u64, f64)], probe: &str) -> String {
    let mut text = format!("steps = 64\n{start}[schedule]\nwarmup = 3\n[measure.probe]\n{probe}\ndraws = 20\n");
    text += "[measure.every]\n";
    for instrument in registry().iter().filter(|instrument| instrument.name() != "train") {
        text += &format!("{} = 3\n", instrument.name());
    }
    for (seed, fraction) in replicas {
        text += &format!("[[replica]]\nseed = {seed}\ntrain_fraction = {fraction}\n");
    }
    text
}

/// What some steps measure, and the weights behind them, of each replica. With `waves`, embeddings begin as waves of
/// frequency 2, and MLPs are loud, so that modular arithmetic has key frequencies.
fn measured(gpu: &Gpu, text: &str, waves: bool, steps: u64) -> Vec<(Values, Vec<f32>)> {
    let mut session = Session::new(gpu, Setup::from_toml(text).unwrap().config).unwrap();
    if waves {
        let mut weights = session.snapshot().unwrap().weights;
        let spec = &session.table().specs()[session.table().find("embed.W_E").unwrap()];
        for spec in session.table().specs().iter().filter(|spec| spec.name.contains("mlp.W_")) {
            for weights in &mut weights {
                weights[spec.offset..][..spec.len()].iter_mut().for_each(|w| *w *= 8.0);
            }
        }
        for token in 0..19 {
            let angle = std::f32::consts::TAU * 2.0 * token as f32 / 19.0;
            let row = spec.offset + token * 24..spec.offset + (token + 1) * 24;
            for weights in &mut weights {
                weights[row.clone()].fill(0.0);
                weights[row.start..row.start + 2].copy_from_slice(&[2.0 * angle.cos(), 2.0 * angle.sin()]);
            }
        }
        session.set_weights(&weights).unwrap();
    }
    let values = values(gpu, &mut session, steps);
    values.into_iter().zip(session.snapshot().unwrap().weights).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Fillers stand at the end of every list, what they add is exactly 0, and the order of no sum depends on the length
/// of the list: so not only weights and training losses, which are promised it, have equal bits, but every measure.
#[test]
fn rows_that_fill_up_a_shorter_list_change_no_measure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sequences.json");
    let token = |s: usize, t: usize| (s * s + t * (s % 5 + 1) + t * t * (s % 3)) % 9;
    let sequences: Vec<Vec<usize>> = (0..40).map(|s| (0..8 + s % 7).map(|t| token(s, t)).collect()).collect();
    std::fs::write(&path, format!("{sequences:?}")).unwrap();
    let tokens = TOKENS.replace("PATH", path.to_str().unwrap());
    // Batches drawn on the device have no fillers, but are drawn from lists that do, and test sets have them.
    let drawn = format!("{MODULAR}[batch]\nsize = 20\n");

    let mut seen = BTreeSet::new();
    let mut changed = BTreeSet::new();
    // Four sequences have fewer tokens than all have distinct pairs of token and position.
    let four = "size = 4";
    // Of what is trained on, a model soon gets some right and some wrong, so that a best temperature exists.
    let learning = format!("{PERMUTATION}[optimizer]\nlearning_rate = 0.02\n");
    let trained_on = "size = 4\nset = \"train\"";
    let starts = [
        (MODULAR, 0.25, four),
        (&drawn, 0.25, four),
        (PERMUTATION, 0.25, four),
        (&tokens, 0.1, four),
        (&learning, 0.25, trained_on),
    ];
    // Masks are in the text of kernels.
    for (gpu, (start, short, probe)) in two_sets().into_iter().flat_map(|gpu| starts.map(|start| (gpu, start))) {
        let replicas = [(5, short), (6, 0.75)];
        let both = text(start, &replicas, probe);
        let config = Setup::from_toml(&both).unwrap().config;
        let feed = Feed::new(config.task.as_ref(), &config.data()).unwrap();
        let [short, long] = feed.splits() else { panic!("two replicas") };
        assert!(
            short.train.len() * 2 < long.train.len() && long.test.len() * 2 < short.test.len(),
            "both are filled up"
        );
        assert!(short.train.len().min(long.test.len()) >= 4);
        let waves = start.starts_with(MODULAR);
        let both = measured(gpu, &both, waves, 7);
        for (at, (together, weights)) in both.iter().enumerate() {
            let (alone, own) = measured(gpu, &text(start, &replicas[at..=at], probe), waves, 7).remove(0);
            assert!(bits(weights) == bits(&own), "weights of replica {at} differ: {start}");
            let keys: BTreeSet<&Key> = alone.keys().chain(together.keys()).collect();
            for key in keys {
                seen.insert(key.0);
                let found = [alone.get(key), together.get(key)].map(|value| value.map(|value| value.to_bits()));
                if found[0] != found[1] {
                    changed.insert(key.0);
                }
            }
        }
    }
    assert!(changed.is_empty(), "measured otherwise in company: {changed:?}");
    // Whoever adds a metric adds a run to this test that measures it, or finds that it has one. Losses are scaled where
    // products in f16 are possible only: `tests/precision.rs` has that.
    seen.insert("loss_scale");
    let all: BTreeSet<&str> =
        registry().iter().flat_map(|instrument| instrument.cards()).map(|card| card.name).collect();
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "no run here measures {missing:?}");
}

/// A probe of all examples asks about those of the test set; one of just the test set says the same, but where means
/// over all examples, or other examples, take the place of what a head wrote.
#[test]
fn examples_that_a_probe_does_not_ask_about_change_no_effect() {
    let run = |probe: usize| {
        measured(&gpus()[0], &text(MODULAR, &[(5, 0.25)], &format!("size = {probe}")), false, 1).remove(0).0
    };
    // 361 pairs, of which 271 are not trained on.
    let (test, all) = (run(271), run(361));
    let of_probe = |key: &Key| key.0.starts_with("probe.") || key.0.starts_with("ablation.");
    let baseline = |key: &Key| match key.0 {
        "ablation.path" => key.2[2] == 3,
        "ablation.p" | "ablation.null" | "ablation.reliability" => false,
        name => {
            !name.contains(".gate.")
                && !name.contains(".pair.")
                && [1, 2].contains(&key.2[2])
                && !name.starts_with("probe.")
        }
    };
    let mut compared = BTreeSet::new();
    for (key, a) in test.iter().filter(|(key, _)| of_probe(key) && !baseline(key)) {
        let b = all[key];
        // Sums in another order.
        assert!((a - b).abs() <= 2e-5 * a.abs().max(1.0), "{key:?}: {a} and {b}");
        compared.insert(key.0);
    }
    // A model that knows nothing has no best temperature, in neither.
    let unknown = ["probe.temperature", "ablation.temperature", "ablation.matched_loss", "ablation.matched_loss.se"];
    assert!(test.keys().chain(all.keys()).all(|key| !unknown.contains(&key.0)));
    compared.extend(unknown);
    let instrument = registry().into_iter().find(|instrument| instrument.name() == "ablation").unwrap();
    assert_eq!(compared, instrument.cards().iter().map(|card| card.name).collect());
    let test_loss = test[&("loss.test", String::new(), [-1; 3], 0)];
    let probe_loss = all[&("probe.loss", String::new(), [-1; 3], 0)];
    assert!((test_loss - probe_loss).abs() < 1e-5, "{test_loss} and {probe_loss}");
}
