//! Equal runs have equal bits, alone or in company, uninterrupted or not; adapters agree closely.

use crate::common::{arrived, gpus, losses};
use thermoscope::gpu::Gpu;
use thermoscope::record::Setup;
use thermoscope::train::Session;

/// Full batch, per-replica split, learning rate, decay and betas.
const MODULAR: &str = r#"
    steps = 64
    [task]
    kind = "modular"
    p = 17
    train_fraction = 0.4
    [model]
    d_model = 24
    n_heads = 3
    d_mlp = 40
    [schedule]
    warmup = 3
    [measure.probe]
    size = 7
    draws = 20
"#;

/// Batches drawn on the device, layer norm, clipping.
const REPEATED: &str = r#"
    steps = 64
    [task]
    kind = "repeated"
    d_vocab = 11
    seq = 18
    [model]
    n_layers = 2
    d_model = 20
    n_heads = 2
    attn_only = true
    normalization_type = "LN"
    [optimizer]
    clip = 1.0
    [batch]
    size = 5
    [measure.probe]
    size = 3
    draws = 20
"#;

/// What differs between the eight replicas of a test.
fn replica(at: usize, fraction: bool) -> String {
    let [lr, wd, beta] = [1e-3 + 2e-4 * at as f64, 0.25 * at as f64, 0.9 + 0.01 * at as f64];
    let split = if fraction { format!("train_fraction = {}\n", 0.3 + 0.05 * at as f64) } else { String::new() };
    format!(
        "[[replica]]\nseed = {}\nlearning_rate = {lr}\nweight_decay = {wd}\nbetas = [{beta}, 0.97]\n{split}",
        100 + 7 * at
    )
}

fn session(gpu: &Gpu, text: &str) -> Session {
    Session::new(gpu, Setup::from_toml(text).unwrap().config).unwrap()
}

fn bits(losses: &[Vec<f32>], replica: usize) -> Vec<u32> {
    losses.iter().map(|row| row[replica].to_bits()).collect()
}

#[test]
fn a_replica_has_the_bits_it_has_alone() {
    for (text, fraction) in [(MODULAR, true), (REPEATED, false)] {
        let all: String = (0..8).map(|at| replica(at, fraction)).collect();
        for gpu in gpus() {
            let together = losses(gpu, &mut session(gpu, &format!("{text}{all}")), 6);
            assert_eq!(together.len(), 6);
            for at in [0, 3, 7] {
                let alone = losses(gpu, &mut session(gpu, &format!("{text}{}", replica(at, fraction))), 6);
                assert_eq!(bits(&together, at), bits(&alone, 0), "replica {at} on {}", gpu.caps().name);
            }
            let distinct: std::collections::BTreeSet<u32> = (0..8).map(|at| bits(&together, at)[0]).collect();
            assert_eq!(distinct.len(), 8, "replicas differ from each other");
        }
    }
}

#[test]
fn shuffled_labels_leave_the_other_replicas_their_bits() {
    let arm = |words: &str| format!("[[replica]]\nseed = 3\n{words}\n");
    let shuffled = arm("shuffle_labels = true\nname = \"shuffled\"");
    for batch in ["", "[batch]\nsize = 40\n"] {
        let start = format!("{MODULAR}{batch}");
        for gpu in gpus() {
            let run = |arms: &[&str]| losses(gpu, &mut session(gpu, &format!("{start}{}", arms.concat())), 6);
            let together = run(&[&arm(""), &shuffled]);
            for (at, alone) in [run(&[&arm("")]), run(&[&shuffled])].iter().enumerate() {
                assert_eq!(bits(&together, at), bits(alone, 0), "replica {at} on {}", gpu.caps().name);
            }
            // Other labels, other losses.
            assert_ne!(bits(&together, 0), bits(&together, 1));
        }
    }
}

#[test]
fn the_same_run_twice_and_after_a_restore_has_the_same_bits() {
    let gpu = &gpus()[0];
    for text in [MODULAR, REPEATED] {
        let all = |session: &mut Session, steps: u64| {
            let mut rows = Vec::new();
            for _ in 0..steps {
                session.submit(1);
                for step in &arrived(gpu, session) {
                    rows.extend(session.rows(step).map(|row| {
                        (row.step, row.metric.card.name, row.metric.site.clone(), row.label.index, row.value.to_bits())
                    }));
                }
            }
            rows
        };
        let mut first = session(gpu, text);
        let mut whole = all(&mut first, 12);
        assert!(whole.len() > 100, "many numbers are measured");
        let end = first.snapshot().unwrap();

        let mut again = session(gpu, text);
        let mut parts = all(&mut again, 5);
        let middle = again.snapshot().unwrap();
        let mut resumed = session(gpu, text);
        resumed.restore(&middle).unwrap();
        parts.extend(all(&mut resumed, 7));
        whole.sort_unstable();
        parts.sort_unstable();
        assert_eq!(whole, parts);
        assert_eq!(end, resumed.snapshot().unwrap());
    }
}

#[test]
fn measuring_between_steps_changes_nothing() {
    let gpu = &gpus()[0];
    let plain = losses(gpu, &mut session(gpu, MODULAR), 6);
    let mut measured = session(gpu, MODULAR);
    let mut seen = Vec::new();
    for _ in 0..6 {
        measured.submit(0);
        arrived(gpu, &mut measured);
        seen.extend(losses(gpu, &mut measured, 1));
    }
    assert_eq!(bits(&plain, 0), bits(&seen, 0));
}

#[test]
fn adapters_agree_on_the_first_losses() {
    for text in [MODULAR, REPEATED] {
        let all: Vec<Vec<f32>> = gpus().iter().map(|gpu| losses(gpu, &mut session(gpu, text), 20).concat()).collect();
        for (gpu, other) in gpus().iter().zip(&all).skip(1) {
            for (step, (a, b)) in all[0].iter().zip(other).enumerate() {
                // Sums run in other orders elsewhere; twenty updates amplify 1e-7 to less than this.
                assert!((a - b).abs() <= 1e-4 * a.abs(), "{}: step {step}: {a} and {b}", gpu.caps().name);
            }
        }
    }
}
