//! How often costly measures are taken where the run does not say: as often as their cards propose, unless that takes
//! more than its share of the work.

use std::collections::BTreeMap;

use super::config::every;
use super::{Card, CostClass, Instrument, MeasureConfig};
use crate::gpu::{Part, STEP};

/// Floating-point operations that take as long as reading or writing a byte, and as one dispatch: of the order of
/// what software adapters need. Nothing here is timed, so that equal runs measure at equal steps; another device may cut
/// passes into other pieces, which can tip the scale.
const PER_BYTE: f64 = 8.0;
const PER_DISPATCH: f64 = 2e6;
/// Measurements that a run has at least of what is measured less often than proposed.
const FEWEST: u64 = 10;

/// What a part has to do, in floating-point operations.
fn load(part: &Part) -> f64 {
    part.work.flops as f64 + PER_BYTE * part.work.bytes as f64 + PER_DISPATCH * part.dispatches as f64
}

/// The next longer cadence of 1, 2, 10, 20, 100, ... that `every` divides. Of two cadences on cards of an instrument one
/// divides the other, and so it stays: work they share is done no more often than the shorter asks for.
fn next(every: u64) -> u64 {
    let rounds = std::iter::successors(Some(1), |power| Some(power * 10)).flat_map(|power| [power, 2 * power]);
    rounds
        .take_while(|longer| *longer <= 10 * every)
        .find(|c| *c > every && c.is_multiple_of(every))
        .unwrap_or(10 * every)
}

/// Whether measures at a cadence cannot be taken less often in a run of so many steps, whatever they cost.
#[cfg(feature = "cli")]
pub(crate) fn is_longest(every: u64, steps: u64) -> bool {
    next(every) > steps / FEWEST
}

/// Cadences of metrics that must be lengthened for the work of measuring, class F aside, to keep within
/// `measure.budget` of what the step has to do: the dearest first, none of an instrument of which the run sets any, and
/// none so far that fewer than ten measurements were left of `steps`. `parts` are those of a step at which everything is
/// due. Empty where all is well, or nothing more can be done.
pub(crate) fn lengthened(
    instruments: &[&dyn Instrument],
    config: &MeasureConfig,
    steps: u64,
    parts: &[Part],
) -> BTreeMap<String, u64> {
    let families: Vec<Family> = instruments.iter().filter_map(|instrument| Family::of(config, *instrument)).collect();
    let step: f64 = parts.iter().filter(|part| part.scope == STEP).map(load).sum();
    // By instrument and cadence as it is: the work, and the cadence as it shall be.
    let mut groups: BTreeMap<(&str, u64), (f64, u64)> = BTreeMap::new();
    for part in parts {
        let family = families.iter().find(|family| family.instrument == part.scope);
        if let Some(every) = family.and_then(|family| family.charged(part.every)) {
            groups.entry((part.scope, every)).or_insert((0.0, every)).0 += load(part);
        }
    }
    let share = |(load, every): &(f64, u64)| load / *every as f64;
    let saved = |group: &(f64, u64)| share(group) - group.0 / next(group.1) as f64;
    loop {
        // What cannot be measured less often is not made up for by the others.
        let longer = || groups.iter().filter(|(_, (_, every))| next(*every) <= steps / FEWEST);
        let excess = longer().map(|(_, group)| share(group)).sum::<f64>() - config.budget * step;
        // The smallest change that is enough, else the dearest.
        let enough = longer().filter(|(_, group)| saved(group) >= excess);
        let chosen = enough.min_by(|a, b| saved(a.1).total_cmp(&saved(b.1)));
        let chosen = chosen.or_else(|| longer().max_by(|a, b| share(a.1).total_cmp(&share(b.1)))).map(|(key, _)| *key);
        match chosen.filter(|_| excess > 0.0).and_then(|key| groups.get_mut(&key)) {
            Some((_, every)) => *every = next(*every),
            None => break,
        }
    }
    let mut longer = BTreeMap::new();
    for family in families {
        for (card, every) in family.cards.iter().filter(|(card, _)| card.cost != CostClass::F) {
            match groups.get(&(family.instrument, *every)) {
                Some((_, longest)) if longest != every => longer.insert(card.name.to_owned(), *longest),
                _ => None,
            };
        }
    }
    longer
}

/// An instrument of which the run sets no cadence, and the cadence of each metric that is on, recorded or not: what it
/// appends runs at the greatest common divisor of all.
struct Family {
    instrument: &'static str,
    cards: Vec<(&'static Card, u64)>,
}

impl Family {
    fn of(config: &MeasureConfig, instrument: &dyn Instrument) -> Option<Self> {
        let mut names = instrument.cards().iter().map(|card| card.name).chain([instrument.name()]);
        if names.any(|name| config.every.contains_key(name)) {
            return None;
        }
        let cards = instrument.cards().iter().filter_map(|card| Some((card, every(config, true, instrument, card)?)));
        Some(Self { instrument: instrument.name(), cards: cards.collect() })
    }

    /// Whose cadence work at `every` goes by: that of the metrics measured then; `None` where one of them is free. What
    /// cadences share goes by the shortest.
    fn charged(&self, every: u64) -> Option<u64> {
        if self.cards.iter().any(|(card, own)| *own == every && card.cost == CostClass::F) {
            return None;
        }
        let dear = || self.cards.iter().filter(|(card, _)| card.cost != CostClass::F).map(|(_, own)| *own);
        dear().find(|own| *own == every).or_else(|| dear().min())
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry;
    use super::*;
    use crate::gpu::{Gpu, Select};
    use crate::record::Setup;
    use crate::train::Session;

    fn session(sets: &str) -> Session {
        let text = format!(
            "steps = 10000000\n[task]\nkind = \"modular\"\np = 31\ntrain_fraction = 0.1\n[model]\nd_model = 32\nn_heads = 2\n[batch]\nsize = 16\n{sets}"
        );
        Session::new(&Gpu::noop(), Setup::from_toml(&text).unwrap().config).unwrap()
    }

    fn every(session: &Session, name: &str) -> u64 {
        session.metrics().iter().find(|metric| metric.card.name == name).unwrap().every
    }

    /// Work of measuring, class F aside, by that of the step: whatever runs when no metric of class F is due.
    fn share(session: &Session) -> f64 {
        let parts = session.program().parts(Select { step: 0, update: true });
        let sum = |keep: &dyn Fn(&&Part) -> bool| -> f64 {
            parts.iter().filter(keep).map(|part| load(part) / part.every as f64).sum()
        };
        let free = |part: &Part| {
            let due = |metric: &&crate::instrument::Metric| {
                metric.instrument == part.scope && metric.every == part.every && metric.card.cost == CostClass::F
            };
            session.metrics().iter().any(|metric| due(&metric))
        };
        let named = |part: &Part| registry().iter().any(|instrument| instrument.name() == part.scope);
        sum(&|part| named(part) && !free(part)) / sum(&|part| part.scope == STEP)
    }

    #[test]
    fn cadences_are_lengthened_until_the_work_fits_and_no_further() {
        // 865 test examples where a step has 16; so long a run that no cadence is the longest it may have.
        let (kept, fitted) = (session("[measure]\nbudget = 1e9\n"), session(""));
        assert_eq!((every(&kept, "loss.test"), every(&kept, "ablation.loss")), (10, 200));
        assert!(share(&kept) > 0.4, "{}", share(&kept));
        assert!(every(&fitted, "loss.test") > 10 && every(&fitted, "ablation.loss") > 200);
        let found = share(&fitted);
        assert!(found <= MeasureConfig::default().budget, "{found}");
        let more = session("[measure]\nbudget = 0.2\n");
        assert!(found < share(&more) && share(&more) <= 0.2 && share(&more) > 0.1, "{}", share(&more));
        // Free measures are left alone.
        assert_eq!([&kept, &fitted].map(|session| every(session, "loss.train")), [1, 1]);
        assert_eq!(fitted.config().measure.cadences.as_ref().unwrap()["loss.test"], every(&fitted, "loss.test"));
        assert!(kept.config().measure.cadences.as_ref().unwrap().is_empty());
    }

    #[test]
    fn a_short_run_keeps_ten_measurements() {
        let kept = session("[measure]\nbudget = 1e9\n");
        let parts = kept.program().parts(Select { step: 0, update: true });
        let config = MeasureConfig::default();
        let all: Vec<&dyn Instrument> = registry().into_iter().map(|known| known as &dyn Instrument).collect();
        // Ablation is proposed at every 200 steps, which leaves one of 200.
        let found = lengthened(&all, &config, 200, &parts);
        assert_eq!((found["loss.test"], found.get("ablation.loss")), (20, None));
        assert!(lengthened(&all, &config, 9, &parts).is_empty());
    }

    #[test]
    fn cadences_that_the_run_sets_stay() {
        let set = session("[measure.every]\n\"loss.test\" = 10\nablation = 50\n");
        assert_eq!((every(&set, "loss.test"), every(&set, "ablation.loss"), every(&set, "ablation.p")), (10, 50, 50));
        assert!(set.config().measure.cadences.as_ref().unwrap().keys().all(|name| !name.starts_with("ablation")));
        // One that is no multiple of the others leaves these alone too.
        let odd = session("[measure.every]\n\"ablation.loss\" = 300\n");
        assert_eq!((every(&odd, "ablation.loss"), every(&odd, "ablation.p")), (300, 200));
    }

    #[test]
    fn nothing_runs_more_often_than_its_metrics_want() {
        // Where some metrics of an instrument are not recorded: one head, no MLP, full batch, a wide stream, S5.
        let cases = [
            ("", "p = 31\ntrain_fraction = 0.1", "d_model = 16\nn_heads = 1", "size = 16"),
            ("", "p = 31\ntrain_fraction = 0.1", "d_model = 16\nn_heads = 2\nattn_only = true", "size = \"full\""),
            ("", "p = 13\ntrain_fraction = 0.1", "d_model = 256\nn_heads = 2", "size = 4"),
            ("permutation", "n = 4\ntrain_fraction = 0.1", "d_model = 16\nn_heads = 2", "size = 4"),
        ];
        for (kind, task, model, batch) in cases {
            let kind = if kind.is_empty() { "modular" } else { kind };
            let text = format!(
                "steps = 100000\n[task]\nkind = \"{kind}\"\n{task}\n[model]\n{model}\n[batch]\n{batch}\n[measure]\nbudget = 0.02\n"
            );
            let session = Session::new(&Gpu::noop(), Setup::from_toml(&text).unwrap().config).unwrap();
            assert!(!session.config().measure.cadences.as_ref().unwrap().is_empty(), "{text}");
            for part in session.program().parts(Select { step: 0, update: true }) {
                let mut own = session.metrics().iter().filter(|metric| metric.instrument == part.scope).peekable();
                let scheduled = own.peek().is_none() || own.any(|metric| metric.every == part.every);
                assert!(scheduled, "{} runs every {} steps: {text}", part.scope, part.every);
            }
        }
    }

    #[test]
    fn a_longer_cadence_is_a_multiple() {
        for (every, longer) in [(1, 2), (2, 10), (10, 20), (20, 100), (50, 100), (100, 200), (200, 1000), (500, 1000)] {
            assert_eq!(next(every), longer);
        }
        assert_eq!([7, 1_000_000].map(next), [70, 2_000_000]);
    }
}
