//! A crate of its own that adds a task, an op with its shader and an instrument to Thermoscope, trains, and reads the
//! number that its instrument measures.
//!
//!     cargo run --manifest-path examples/own/Cargo.toml

mod logits;
mod parity;
mod square;

use thermoscope::instrument::registry;
use thermoscope::{AdapterChoice, Gpu, Options, Result, RunConfig, Session};

use logits::LogitSquare;
use parity::Parity;

/// Trains on the parity of six bits; returns step, train loss and mean square of the logits, every ten steps.
fn train(steps: u64) -> Result<Vec<(u64, f32, f32)>> {
    let gpu = Gpu::open(&AdapterChoice::Best, Options::default())?;
    let mut run = RunConfig::new(steps, Parity { n: 6, train_fraction: 0.5 });
    run.model.d_model = 32;
    // Of Thermoscope's own instruments the one of the training loss is enough.
    let others = registry().into_iter().map(|instrument| instrument.name()).filter(|name| *name != "train");
    run.measure.off = others.map(str::to_owned).collect();
    let mut session = Session::builder(&gpu, run.resolve()?).instrument(LogitSquare).build()?;
    session.submit(steps);
    gpu.wait()?;
    let mut found = Vec::new();
    while let Some(rows) = session.take_rows()? {
        for row in rows {
            let value = |name: &str| row.value(session.metrics(), name, 0);
            found.extend(value("loss.train").zip(value("logit_square")).map(|(loss, square)| (row.step(), loss, square)));
        }
    }
    Ok(found)
}

fn main() -> Result<()> {
    for (step, loss, square) in train(60)? {
        println!("step {step:2}  train loss {loss:.4}  mean square of the logits {square:.4}");
    }
    Ok(())
}

#[test]
fn it_trains_and_measures() {
    let found = train(60).unwrap();
    assert_eq!(found.iter().map(|(step, ..)| *step).collect::<Vec<_>>(), [0, 10, 20, 30, 40, 50]);
    let ((_, first, _), (_, last, _)) = (found[0], found[5]);
    assert!((first - 2.0f32.ln()).abs() < 0.3, "an untrained net knows nothing: {first}");
    assert!(last < first, "the loss falls: {found:?}");
    // Its own reference holds the instrument's value; here it moves with the weights.
    assert!(found.iter().all(|(.., square)| *square > 0.0) && found[0].2 != found[5].2, "{found:?}");
}
