//! What a model without numbers measures is no number either, and not one that looks like one.

use std::collections::BTreeSet;

use crate::common::{arrived, gpus};
use thermoscope::record::Setup;
use thermoscope::train::Session;

/// Rectified neurons would be 0, and so would what is measured of neurons that never vary.
const MODULAR: &str = r#"
    [task]
    kind = "modular"
    p = 11
    [model]
    n_layers = 2
    d_model = 24
    n_heads = 3
    d_mlp = 20
    act_fn = "gelu"
"#;

/// Every position is read out.
const REPEATED: &str = r#"
    [task]
    kind = "repeated"
    d_vocab = 11
    seq = 18
    [batch]
    size = 5
    [model]
    n_layers = 2
    d_model = 20
    n_heads = 2
"#;

/// Counts, and shares of what is certain: no prediction is right, no p-value is small, no neuron follows a frequency.
const COUNTS: [&str; 16] = [
    "ablation.accuracy",
    "ablation.accuracy.se",
    "ablation.argmax_changed",
    "ablation.argmax_changed.se",
    "ablation.p",
    "ablation.reliability",
    "accuracy.test",
    "accuracy.train",
    "attention_frequency",
    "epsilon_share",
    "fsd.participation",
    "phase_synchrony",
    "probe.accuracy",
    "probe.n",
    "probe.reliability",
    "softmax_collapse",
];

#[test]
fn weights_that_are_no_numbers_have_no_measures() {
    // One adapter: others need a while for so many kernels, and tell finite numbers by the same bits.
    let gpu = &gpus()[0];
    let mut finite = BTreeSet::new();
    for start in [MODULAR, REPEATED] {
        let text = format!("steps = 8\nreplicas = 2\n{start}[measure.probe]\nsize = 6\ndraws = 20\n");
        let mut session = Session::new(gpu, Setup::from_toml(&text).unwrap().config).unwrap();
        let start = session.snapshot().unwrap();
        for broken in [f32::NAN, f32::INFINITY] {
            // The first replica has no numbers, its neighbour has.
            let mut snapshot = start.clone();
            snapshot.weights[0].fill(broken);
            session.restore(&snapshot).unwrap();
            session.submit(1);
            let steps = arrived(gpu, &mut session);
            let mut sound = 0;
            for row in steps.iter().flat_map(|step| session.rows(step)) {
                let what = format!("{} {} {:?}", row.metric.card.name, row.metric.site, row.label);
                // What uniform attention scores has nothing to do with the model.
                let uniform =
                    row.metric.card.name.contains("_token_score") || row.metric.card.name.contains("_matching_");
                if row.replica == 1 {
                    assert!(row.value.is_finite(), "beside {broken}: {what} is {}", row.value);
                    sound += 1;
                } else if row.value.is_finite() && !(uniform && row.label.head == -1) {
                    assert!(COUNTS.contains(&row.metric.card.name), "{broken}: {what} is {}", row.value);
                    finite.insert(row.metric.card.name);
                }
            }
            assert!(sound > 500, "{sound}");
        }
    }
    assert_eq!(finite, COUNTS.into(), "nothing else is finite, and all of these are");
}
