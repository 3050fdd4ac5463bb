//! Heads that start equal stay equal: nothing in a step tells them apart.

use crate::common::{arrived, gpus};
use thermoscope::record::Setup;
use thermoscope::train::Session;

const TOML: &str = r#"
    steps = 64
    [task]
    kind = "modular"
    p = 13
    train_fraction = 0.5
    [model]
    n_layers = 2
    d_model = 24
    n_heads = 3
    d_mlp = 40
    [schedule]
    warmup = 3
    [measure]
    off = ["test", "fourier", "fourier_losses", "ablation", "induction", "copying", "composition"]
    [measure.every]
    sync = 1
"#;

/// Copies head 0 of W_Q, W_K, W_V and W_O onto head 1, in every layer.
fn twins(session: &Session) -> Vec<f32> {
    let mut weights = session.snapshot().unwrap().weights.remove(0);
    for place in heads(session) {
        let (first, second) = weights[place].split_at_mut(24 * 8);
        second[..24 * 8].copy_from_slice(&first[..24 * 8]);
    }
    weights
}

/// Where the tensors with heads lie.
fn heads(session: &Session) -> Vec<std::ops::Range<usize>> {
    let specs = session.table().specs().iter().filter(|spec| spec.name.contains(".attn.W_"));
    specs.map(|spec| spec.offset..spec.offset + spec.len()).collect()
}

#[test]
fn heads_that_start_equal_stay_equal_bit_for_bit() {
    for gpu in gpus() {
        let mut session = Session::new(gpu, Setup::from_toml(TOML).unwrap().config).unwrap();
        let weights = twins(&session);
        session.set_weights(std::slice::from_ref(&weights)).unwrap();
        let mut seen = 0;
        for _ in 0..5 {
            session.submit(10);
            let rows = arrived(gpu, &mut session);
            for row in rows.iter().flat_map(|step| session.rows(step)) {
                let pair = row.label.index;
                match row.metric.card.name {
                    // Update 0 moves nothing: warm-up starts at rate 0.
                    "sync.drift" if row.step == 0 => assert_eq!(row.value, 0.0),
                    // Pairs are 01, 02, 12.
                    "sync.gradient" | "sync.drift" if pair == 0 => {
                        assert!((row.value - 1.0).abs() < 1e-6, "{} {}", row.metric.card.name, row.value);
                        seen += 1;
                    }
                    "sync.gradient" | "sync.drift" => assert!(row.value < 0.999, "{} {pair}", row.value),
                    _ => {}
                }
            }
        }
        // Two circuits in each of two layers.
        assert_eq!(seen, 4 * (50 + 49));
        let after = session.snapshot().unwrap().weights.remove(0);
        for place in heads(&session) {
            let [a, b, c] = [0, 1, 2].map(|h| &after[place.clone()][h * 24 * 8..][..24 * 8]);
            assert_eq!(a, b);
            assert_ne!(a, c);
            assert_ne!(a, &weights[place.clone()][..24 * 8], "it trained");
        }
    }
}

#[test]
fn layers_of_one_head_have_no_synchrony() {
    let text = TOML.replace("n_heads = 3", "n_heads = 1");
    let session = Session::new(&gpus()[0], Setup::from_toml(&text).unwrap().config).unwrap();
    assert!(session.metrics().iter().all(|metric| !metric.card.name.starts_with("sync")));
}
