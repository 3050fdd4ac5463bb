//! What several tests need: every adapter at hand, and the losses of a session.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::collections::BTreeMap;

use thermoscope::gpu::{AdapterChoice, Gpu, Options, adapters, no_adapter_help};
use thermoscope::train::{Session, StepRow};

/// Every adapter, with bounds checks; and the first once more with no optional feature and default limits, where it
/// takes the kernels that GPUs take.
pub fn gpus() -> &'static [Gpu] {
    static GPUS: std::sync::OnceLock<Vec<Gpu>> = std::sync::OnceLock::new();
    GPUS.get_or_init(|| {
        let count = adapters().len();
        assert!(count > 0, "{}", no_adapter_help());
        let open = |index: usize, plain: bool| {
            Gpu::open(&AdapterChoice::Index(index), Options { checked: true, plain, ..Options::default() })
                .expect("the adapter opens")
        };
        (0..count).map(|index| open(index, false)).chain([open(0, true)]).collect()
    })
}

/// An adapter for each of the two sets of kernels: those for software adapters, and those for GPUs, which the plain device
/// takes.
pub fn two_sets() -> [&'static Gpu; 2] {
    let all = gpus();
    [&all[0], &all[all.len() - 1]]
}

/// The rows of everything submitted so far. Tests share devices: a copy may be under way in another thread that
/// polled, so one wait is not enough.
pub fn arrived(gpu: &Gpu, session: &mut Session) -> Vec<StepRow> {
    let mut all = Vec::new();
    while session.in_flight() > 0 {
        gpu.wait().expect("the device works");
        match session.take_rows().expect("rows arrive") {
            Some(rows) => all.extend(rows),
            None => std::thread::yield_now(),
        }
    }
    all
}

/// Metric, site, [layer, head, index], step.
pub type Key = (&'static str, String, [i32; 3], u64);
/// What was measured, by what it is.
pub type Values = BTreeMap<Key, f32>;

/// What the next steps measure, of each replica.
pub fn values(gpu: &Gpu, session: &mut Session, steps: u64) -> Vec<Values> {
    session.submit(steps);
    let rows = arrived(gpu, session);
    let mut values = vec![Values::new(); session.config().replicas as usize];
    for row in rows.iter().flat_map(|step| session.rows(step)) {
        let label = [row.label.layer, row.label.head, row.label.index];
        values[row.replica as usize]
            .insert((row.metric.card.name, row.metric.site.clone(), label, row.step), row.value);
    }
    values
}

/// Trains for some steps and returns the train loss of every step and replica.
pub fn losses(gpu: &Gpu, session: &mut Session, steps: u64) -> Vec<Vec<f32>> {
    let mut losses = Vec::new();
    let replicas = session.config().replicas;
    let end = session.step() + steps;
    while session.step() < end {
        session.submit((end - session.step()).min(8));
        for row in arrived(gpu, session) {
            let value = |r| row.value(session.metrics(), "loss.train", r).expect("the loss is measured at every step");
            losses.push((0..replicas).map(value).collect());
        }
    }
    losses
}
