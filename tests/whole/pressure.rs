//! What the optimizer should change the loss by, tensor by tensor, and what it does.

use crate::common::{arrived, gpus};
use thermoscope::gpu::Gpu;
use thermoscope::record::Setup;
use thermoscope::train::Session;

/// Loss before, loss after and predicted change of one full-batch step, after a few to fill the moments.
fn step(gpu: &Gpu, kind: &str, rate: f64) -> [f64; 3] {
    // Tanh-like GELU and no ReLU: the loss is smooth.
    let text = format!(
        "steps = 9\n[task]\nkind = \"modular\"\np = 13\ntrain_fraction = 0.5\n[model]\nd_model = 16\nn_heads = 2\n\
         d_mlp = 24\nact_fn = \"gelu\"\n[optimizer]\nkind = \"{kind}\"\nweight_decay = 0.5\nlearning_rate = {rate}\n"
    );
    let mut session = Session::new(gpu, Setup::from_toml(&text).unwrap().config).unwrap();
    session.submit(6);
    let rows = arrived(gpu, &mut session);
    let loss = |at: usize| f64::from(rows[at].value(session.metrics(), "loss.train", 0).unwrap());
    let changes = session.rows(&rows[4]).filter(|row| row.metric.card.name == "loss_change.predicted");
    [loss(4), loss(5), changes.map(|row| f64::from(row.value)).sum()]
}

#[test]
fn predicted_changes_of_the_loss_add_up_to_the_realized_one() {
    for gpu in gpus() {
        for (kind, rate) in [("adamw", 4e-4), ("adam", 4e-4), ("sgd", 4e-3)] {
            let off = |rate: f64| {
                let [before, after, predicted] = step(gpu, kind, rate);
                assert!(predicted < -1e-4, "{kind}: {predicted}");
                ((after - before) - predicted, predicted)
            };
            let ((whole, predicted), (half, _)) = (off(rate), off(rate / 2.0));
            // A loss of 2.6 rounds at 2.4e-7, and its mean over 85 examples a few times.
            let noise = 1e-6;
            assert!(whole.abs() <= 0.1 * predicted.abs() + noise, "{kind}: off by {whole} of {predicted}");
            // What is left is of second order: a quarter at half the rate.
            assert!(half.abs() <= 0.35 * whole.abs() + noise, "{kind}: off by {whole}, then {half}");
        }
    }
}
