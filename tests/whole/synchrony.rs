//! Heads that start equal stay equal: nothing in a step tells them apart.

use std::collections::BTreeMap;

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

#[test]
fn pairs_of_untrained_heads_lie_where_the_null_says() {
    let text = TOML
        .replace("steps = 64", "steps = 1\nreplicas = 32")
        .replace("sync = 1", "sync = 1\n\"sync.gradient.null\" = 1");
    let gpu = &gpus()[0];
    let mut session = Session::new(gpu, Setup::from_toml(&text).unwrap().config).unwrap();
    session.submit(1);
    let rows = arrived(gpu, &mut session);
    let mut found: BTreeMap<(String, u32), [Vec<f64>; 2]> = BTreeMap::new();
    for row in rows.iter().flat_map(|step| session.rows(step)) {
        let which = match row.metric.card.name {
            "sync.gradient" => 0,
            "sync.gradient.null" => 1,
            _ => continue,
        };
        found.entry((row.metric.site.clone(), row.replica)).or_default()[which].push(f64::from(row.value));
    }
    let mut sites: BTreeMap<&str, [Vec<f64>; 3]> = BTreeMap::new();
    for ((site, _), [own, null]) in &found {
        assert_eq!((own.len(), null.len()), (3, 28));
        let mean = null.iter().sum::<f64>() / 28.0;
        let spread = (null.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / 27.0).sqrt();
        let [scores, means, spreads] = sites.entry(site).or_default();
        scores.extend(own.iter().map(|c| (c - mean) / spread));
        means.push(mean);
        spreads.push(spread);
    }
    assert_eq!(sites.len(), 4);
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    for (site, [scores, means, spreads]) in sites {
        let spread = (scores.iter().map(|z| z * z).sum::<f64>() / scores.len() as f64).sqrt();
        // 96 pairs, three of each model: their mean is known to 0.2. The null's spread is of 28 pairs of eight heads and known to
        // a fifth or so, which widens scores to 1.2.
        assert!(mean(&scores).abs() < 0.5 && (0.8..1.6).contains(&spread), "{site}: {} and {spread}", mean(&scores));
        // Independent numbers, 576 of a circuit, would have 0 ± 0.04.
        let (chance, wide) = (mean(&means), mean(&spreads));
        assert!(if site.ends_with("OV") { chance > 0.3 } else { wide > 0.15 }, "{site}: {chance} and {wide}");
    }
}
