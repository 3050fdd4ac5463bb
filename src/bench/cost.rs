//! What measuring costs: the time that each instrument's dispatches take within the step, on the device's
//! clock. What is taken for instruments inside the step's own kernels, statistics of attention's rows and of the logits',
//! counts as the step's: `bench step` without instruments has no statistics of logits, and those of attention always.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Result;
use crate::gpu::{Gpu, Part, STEP, Select, Work};
use crate::instrument::{CostClass, MeasureConfig, Metric, is_longest};
use crate::stats::median;
use crate::train::Session;

/// What one instrument takes at one of its cadences.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Its name; `filing` for what files the numbers of all, `update summary` for what all read of an update.
    pub instrument: &'static str,
    /// The class its cards claim: of the metrics of this cadence, the dearest.
    pub class: CostClass,
    /// Steps between two measurements.
    pub every: u64,
    /// Who decides on the cadence.
    pub cadence: Cadence,
    /// Kernels of one measurement.
    pub dispatches: usize,
    /// Floating-point operations of one measurement.
    pub flops: u64,
    /// Bytes that one measurement reads and writes, each tensor of each kernel once.
    pub bytes: u64,
    /// Milliseconds of one measurement.
    pub ms: f64,
    /// Spread over the cadence, as a share of a step that measures nothing.
    pub share: f64,
}

/// Who decides how often something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cadence {
    /// Nobody has to: it is of class F.
    Free,
    /// The run, by `measure.every`.
    Set,
    /// It is measured so seldom that a run of this length would not have ten measurements if the budget had its way.
    Longest,
    /// `measure.budget`.
    Budget,
}

impl Cost {
    /// The largest share that the class allows, where it is exceeded.
    pub fn broken(&self) -> Option<f64> {
        let limit = match self.class {
            CostClass::F => 0.005,
            CostClass::L => 0.03,
            CostClass::M | CostClass::H => return None,
        };
        (self.share > limit).then_some(limit)
    }
}

/// What measuring costs in a session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// Milliseconds of a step that measures nothing.
    pub step_ms: f64,
    /// Replays of which the median counts.
    pub replays: usize,
    /// By instrument and cadence.
    pub costs: Vec<Cost>,
    /// What measuring may take of a step's work, by operations and bytes counted: see `measure.budget`.
    pub budget: f64,
}

impl Costs {
    /// Replays the step with everything due, at most `rounds` times and for about `limit`, with timestamps
    /// around the neighbouring dispatches of each instrument. The replays train the weights on: whoever
    /// wants to keep them saves them before. `None` where the device has no timestamps.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the device failed.
    pub fn measure(gpu: &Gpu, session: &Session, rounds: u32, limit: Duration) -> Result<Option<Self>> {
        let program = session.program();
        let select = Select { step: 0, update: true };
        let parts = program.parts(select);
        let mut times: Vec<Vec<f64>> = Vec::new();
        let began = Instant::now();
        while times.is_empty() || (times.len() <= rounds as usize && began.elapsed() < limit) {
            let Some(spans) = program.time_parts(gpu, select)? else { return Ok(None) };
            times.push(spans.iter().map(|span| span.ms).collect());
            gpu.check()?;
        }
        // The first warms up, where there is another.
        if times.len() > 1 {
            times.remove(0);
        }
        let middle = |part: usize| median(times.iter().map(|spans| spans[part]).collect());
        let timed: Vec<(Part, f64)> = parts.iter().enumerate().map(|(at, part)| (*part, middle(at))).collect();
        let config = session.config();
        Ok(Self::of(&timed, session.metrics(), (&config.measure, config.steps), times.len()))
    }

    /// Adds up parts of a step and the milliseconds each took; `None` where the step took no time, for a
    /// clock that stands still.
    fn of(
        timed: &[(Part, f64)],
        metrics: &[Metric],
        (config, steps): (&MeasureConfig, u64),
        replays: usize,
    ) -> Option<Self> {
        let step_ms: f64 = timed.iter().filter(|(part, _)| part.scope == STEP).map(|(_, ms)| ms).sum();
        let mut sums: BTreeMap<(&'static str, u64), (usize, Work, f64)> = BTreeMap::new();
        for (part, ms) in timed.iter().filter(|(part, _)| part.scope != STEP) {
            let (dispatches, work, sum) = sums.entry((part.scope, part.every)).or_default();
            *dispatches += part.dispatches;
            *work = *work + part.work;
            *sum += ms;
        }
        let cadence = |class: CostClass, instrument: &str, every: u64| {
            let mut own = metrics.iter().filter(|metric| metric.instrument == instrument);
            let is_set = |name: &str| config.every.contains_key(name);
            match class {
                CostClass::F => Cadence::Free,
                _ if is_set(instrument) || own.any(|metric| is_set(metric.card.name)) => Cadence::Set,
                _ if is_longest(every, steps) => Cadence::Longest,
                _ => Cadence::Budget,
            }
        };
        let costs = sums.into_iter().map(|((instrument, every), (dispatches, work, ms))| Cost {
            instrument,
            class: class(metrics, instrument, every),
            every,
            cadence: cadence(class(metrics, instrument, every), instrument, every),
            dispatches,
            flops: work.flops,
            bytes: work.bytes,
            ms,
            share: ms / every as f64 / step_ms,
        });
        (step_ms > 0.0).then(|| Self { step_ms, replays, costs: costs.collect(), budget: config.budget })
    }

    /// Share of a step that measures nothing, of what `keep` accepts.
    pub fn share(&self, keep: impl Fn(&Cost) -> bool) -> f64 {
        // The sum of nothing is -0.
        0.0 + self.costs.iter().filter(|cost| keep(cost)).map(|cost| cost.share).sum::<f64>()
    }

    /// The share of all time that measuring took, in words, by who decides how often.
    pub fn summary(&self) -> String {
        let percent = |keep: &dyn Fn(&Cost) -> bool| 100.0 * self.share(keep) / (1.0 + self.share(|_| true));
        let part = |cadence: Cadence| percent(&|cost| cost.cadence == cadence);
        let some =
            |words: &str, share: f64| if share > 0.0 { format!("{words} {share:.1} %, ") } else { String::new() };
        format!(
            "measuring took {:.1} % of the time: class F {:.1} %, {}{}the rest {:.1} %, to which measure.budget gives {} % of a step's work (device timestamps of {} step{} repeated after the last, spread over the cadences)",
            percent(&|_| true),
            part(Cadence::Free),
            some("at cadences of measure.every", part(Cadence::Set)),
            some("for ten measurements a run", part(Cadence::Longest)),
            part(Cadence::Budget),
            // Of a share in decimal digits, without those of its binary ones.
            (1e6 * self.budget).round() / 1e4,
            self.replays,
            if self.replays == 1 { "" } else { "s" },
        )
    }
}

/// What an instrument's cards claim for its metrics of a cadence: the dearest class. Work that serves
/// several cadences runs at one that no metric may have; then all metrics count. What serves all instruments,
/// as filing does, is of class F.
fn class(metrics: &[Metric], instrument: &str, every: u64) -> CostClass {
    let own = |any: bool| {
        let due = move |metric: &&Metric| metric.instrument == instrument && (any || metric.every == every);
        metrics.iter().filter(due).map(|metric| metric.card.cost).max()
    };
    own(false).or_else(|| own(true)).unwrap_or(CostClass::F)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instrument::FILING;
    use crate::record::Setup;

    const RUN: &str = "steps = 9\n[task]\nkind = \"modular\"\np = 13\n[model]\nd_model = 16\nn_heads = 2\n";

    fn part(scope: &'static str, every: u64, dispatches: usize) -> Part {
        Part { scope, every, dispatches, work: Work { flops: 10, bytes: 100 } }
    }

    #[test]
    fn costs_are_spread_over_cadences_and_claims_are_held() {
        let session = Session::new(&Gpu::noop(), Setup::from_toml(RUN).unwrap().config).unwrap();
        let timed = [
            (part(STEP, 1, 4), 8.0),
            (part("train", 1, 1), 0.04),
            (part("attention", 10, 2), 5.0),
            (part(STEP, 1, 2), 2.0),
            (part("attention", 10, 1), 1.0),
            (part("test", 10, 3), 5.0),
            (part(FILING, 1, 1), 0.1),
        ];
        let mut config = MeasureConfig::default();
        let costs = Costs::of(&timed, session.metrics(), (&config, 2000), 3).unwrap();
        assert_eq!(costs.step_ms, 10.0);
        let of = |name: &str| costs.costs.iter().find(|cost| cost.instrument == name).unwrap();
        let attention = of("attention");
        assert_eq!((attention.class, attention.every, attention.dispatches), (CostClass::L, 10, 3));
        assert_eq!((attention.flops, attention.bytes, attention.ms), (20, 200, 6.0));
        assert!((attention.share - 0.06).abs() < 1e-12);
        // 6 % where L allows 3 %, 0.4 % where F allows 0.5 %, 1 % of class F; M claims no share.
        assert_eq!(attention.broken(), Some(0.03));
        assert_eq!((of("train").broken(), of(FILING).broken(), of("test").broken()), (None, Some(0.005), None));
        let text = costs.summary();
        assert!(text.contains("took 11.0 % of the time: class F 1.2 %, the rest 9.8 %"), "{text}");
        assert!(text.contains("measure.budget gives 7.5 % of a step's work"), "{text}");
        assert!(Costs::of(&timed[1..2], session.metrics(), (&config, 2000), 1).is_none());
        // What the run asked for stands by itself, by the name of the metric or of its instrument.
        config.every.insert("loss.test".to_owned(), 10);
        let text = Costs::of(&timed, session.metrics(), (&config, 2000), 3).unwrap().summary();
        assert!(text.contains("class F 1.2 %, at cadences of measure.every 4.4 %, the rest 5.3 %"), "{text}");
        // In a run of 100 steps neither can be measured less often.
        let text = Costs::of(&timed, session.metrics(), (&config, 100), 3).unwrap().summary();
        assert!(text.contains("measure.every 4.4 %, for ten measurements a run 5.3 %, the rest 0.0 %"), "{text}");
    }

    #[test]
    fn measuring_takes_the_steps_that_training_takes() {
        for gpu in crate::autograd::check::gpus() {
            let session = || Session::new(gpu, Setup::from_toml(RUN).unwrap().config).unwrap();
            let (measured, mut trained) = (session(), session());
            let costs = Costs::measure(gpu, &measured, 2, Duration::MAX).unwrap();
            let Some(costs) = costs else {
                assert_eq!(gpu.caps().timestamp_period, None, "{}", gpu.caps().name);
                continue;
            };
            assert_eq!(costs.replays, 2);
            assert!(costs.costs.iter().all(|cost| cost.ms > 0.0 && cost.share.is_finite() && cost.dispatches > 0));
            // One replay to warm up and two that count are three updates, wherever passes begin and end.
            trained.submit(3);
            let bits = |session: &Session| {
                session.snapshot().unwrap().weights.concat().iter().map(|w| w.to_bits()).collect::<Vec<_>>()
            };
            assert_eq!(bits(&measured), bits(&trained), "{}", gpu.caps().name);
        }
    }

    #[test]
    fn every_dispatch_has_an_owner_and_metrics_switched_off_leave_none() {
        let select = Select { step: 0, update: true };
        let parts = |sets: &str| {
            let session = Session::new(&Gpu::noop(), Setup::from_toml(&format!("{RUN}{sets}")).unwrap().config);
            let session = session.unwrap();
            let parts = session.program().parts(select);
            let all: usize = parts.iter().map(|part| part.dispatches).sum();
            assert_eq!(all, session.program().dispatches(select));
            let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
            parts.iter().for_each(|part| *sums.entry(part.scope).or_default() += part.dispatches);
            sums
        };
        let all = parts("");
        for instrument in crate::instrument::registry() {
            let metrics = instrument.cards().iter().map(|card| format!("{:?}", card.name)).collect::<Vec<_>>();
            let without = parts(&format!("[measure]\noff = [{}]\n", metrics.join(", ")));
            assert!(!without.contains_key(instrument.name()), "{}", instrument.name());
            // The step itself is the same whatever is measured, but for a gradient that nothing else reads.
            assert!((0..=1).contains(&(all[STEP] - without[STEP])), "without {}", instrument.name());
        }
        assert_eq!(all[FILING], 1);
        let nothing = crate::instrument::registry().into_iter().map(|i| format!("{:?}", i.name()));
        let nothing = parts(&format!("[measure]\noff = [{}]\n", nothing.collect::<Vec<_>>().join(", ")));
        assert_eq!(nothing.keys().copied().collect::<Vec<_>>(), [FILING, STEP]);
    }
}
