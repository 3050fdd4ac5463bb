//! The main job does what it is for: the preset memorizes, and long after that it understands.

use crate::common::gpus;
use thermoscope::gpu::{AdapterChoice, Gpu, Options};
use thermoscope::record::Setup;
use thermoscope::train::Session;

#[test]
fn grok_quick_memorizes_long_before_it_generalizes() {
    assert!(!gpus().is_empty());
    // The speed of unchecked kernels is wanted here; other tests check bounds.
    let gpu = Gpu::open(&AdapterChoice::Best, Options { checked: false, ..Options::default() }).unwrap();
    let setup = Setup::from_toml(include_str!("../../src/cli/presets/grok-quick.toml")).unwrap();
    let steps = setup.config.steps;
    let mut session = Session::new(&gpu, setup.config).unwrap();
    let (mut train, mut test) = (Vec::new(), Vec::new());
    while session.step() < steps {
        session.submit((steps - session.step()).min(16));
        gpu.wait().unwrap();
        while let Some(rows) = session.take_rows().unwrap() {
            for row in rows {
                let value = |name| row.value(session.metrics(), name, 0);
                train.extend(value("accuracy.train").map(|a| (row.step(), a)));
                test.extend(value("accuracy.test").map(|a| (row.step(), a)));
            }
        }
    }
    let first = |curve: &[(u64, f32)], level: f32| curve.iter().find(|(_, a)| *a >= level).map(|(step, _)| *step);
    let memorized = first(&train, 0.99).expect("the training set is learned");
    let grokked = first(&test, 0.9).expect("the task is understood");
    assert!(grokked >= memorized + 500, "memorized at step {memorized}, grokked at {grokked}");
    assert!(test.last().unwrap().1 >= 0.99);
}
