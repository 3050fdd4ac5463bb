//! Births and deaths in sets: a metric of [`Presence::InSet`] is a set, such as that of the key frequencies, whose members
//! come to stay and are gone for good by the rule of [`crate::stats::Births`], once that has held at [`LASTING`] measurements in a row.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::events::{Event, Subject, Turned, What};
use super::reader::{Key, Series};
use crate::instrument::{Metric, Presence};
use crate::stats::{Births, LASTING};
use crate::train::StepRow;

/// Layer, head and index, as a metric's labels have them.
type Place = [i32; 3];

/// All sets of a run.
pub struct Sets {
    sets: Vec<Set>,
}

struct Set {
    /// Number of the metric in the session's list.
    metric: usize,
    name: String,
    site: String,
    every: u64,
    replica: u32,
    births: Births<Place>,
}

impl Sets {
    /// Nothing seen yet of the sets among a session's metrics.
    pub fn new(metrics: &[Metric], replicas: u32) -> Self {
        let sets = metrics.iter().enumerate().filter(|(_, metric)| metric.presence == Presence::InSet);
        let of_replica = |(number, metric): (usize, &Metric), replica| Set {
            metric: number,
            name: metric.card.name.to_owned(),
            site: metric.site.clone(),
            every: metric.every,
            replica,
            births: Births::default(),
        };
        Self { sets: sets.flat_map(|set| (0..replicas).map(move |replica| of_replica(set, replica))).collect() }
    }

    /// Whether a metric is one of the sets.
    pub fn wants(&self, metric: &str) -> bool {
        self.sets.iter().any(|set| set.name == metric)
    }

    /// Takes in what was written of a run at these steps, from its first one, which is that of the fork where it is one: the
    /// series of the metrics that it wants, among others. Nobody looked before, so what the first look shows was born by then.
    pub fn replay(&mut self, written: &BTreeMap<Key, Series>, steps: Range<u64>) {
        for set in &mut self.sets {
            let mut seen: BTreeMap<u64, BTreeSet<Place>> = BTreeMap::new();
            let of_set = written
                .iter()
                .filter(|(key, _)| key.metric == set.name && key.site == set.site && key.replica == set.replica as i32);
            for (key, series) in of_set {
                for step in &series.steps {
                    seen.entry(*step as u64).or_default().insert([key.layer, key.head, key.index]);
                }
            }
            for step in (steps.start.next_multiple_of(set.every)..steps.end).step_by(set.every as usize) {
                set.births.measure(step, &seen.remove(&step).unwrap_or_default(), LASTING);
            }
        }
    }

    /// Takes in what one step measured; returns the births and deaths that are certain by now.
    pub fn measure(&mut self, metrics: &[Metric], row: &StepRow) -> Vec<Event> {
        let step = row.step();
        let due = self.sets.iter_mut().filter(|set| step.is_multiple_of(set.every));
        due.flat_map(|set| set.take(step, &row.members(&metrics[set.metric], set.replica))).collect()
    }
}

impl Set {
    /// One event for each member that turned, births first.
    fn take(&mut self, step: u64, present: &BTreeSet<Place>) -> Vec<Event> {
        let mut turns = self.births.measure(step, present, LASTING);
        turns.sort_by_key(|turn| !turn.born);
        let event = |turn: crate::stats::Turn<Place>| {
            let [layer, head, index] = turn.label;
            let subject =
                Subject { metric: self.name.clone(), site: self.site.clone(), layer, head, index, role: None };
            let turned = Turned { subject, numbers: BTreeMap::from([("hold".to_owned(), f64::from(LASTING))]) };
            let what = if turn.born { What::Birth(turned) } else { What::Death(turned) };
            Event::dated(turn.onset, step, self.replica, what)
        };
        turns.into_iter().map(event).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Set {
        let (name, site) = ("key_frequencies".to_owned(), "embed.W_E".to_owned());
        Set { metric: 0, name, site, every: 10, replica: 2, births: Births::default() }
    }

    #[test]
    fn what_a_fork_shows_at_its_first_look_was_born_by_then() {
        // A fork at step 95, looked at from step 100 on: frequency 6 is there at once, 23 from step 120 on.
        let present = |step: u64| -> BTreeSet<Place> {
            let born = [(6, 100), (23, 120)].into_iter().filter(|(_, born)| step >= *born);
            born.map(|(index, _)| [-1, -1, index]).collect()
        };
        let dates = |set: &mut Set, steps: Range<u64>| -> Vec<String> {
            let events = steps.step_by(10).flat_map(|step| set.take(step, &present(step)));
            events.map(|event| event.onset().words()).collect()
        };
        let expected = ["by step 100", "step 120 ± 10"];
        for went_on in [95, 100, 130, 150, 160] {
            let mut sets = Sets { sets: vec![set()] };
            let written = [6, 23].map(|index| {
                let [layer, head] = [-1; 2];
                let key = Key {
                    metric: sets.sets[0].name.clone(),
                    site: sets.sets[0].site.clone(),
                    layer,
                    head,
                    index,
                    replica: 2,
                };
                let steps = (100..went_on).step_by(10).filter(|step| present(*step).contains(&[-1, -1, index]));
                let steps: Vec<i64> = steps.map(|step| step as i64).collect();
                (key, Series { values: vec![1.0; steps.len()], steps })
            });
            sets.replay(&written.into(), 95..went_on);
            let found = dates(&mut sets.sets[0], went_on.next_multiple_of(10)..200);
            // What held at five looks before was told before.
            let told = [140, 160].iter().filter(|seen| **seen < went_on).count();
            assert_eq!(found, expected[told..], "going on at {went_on}");
        }
    }

    #[test]
    fn every_member_that_turns_is_an_event() {
        let mut set = set();
        let keys: BTreeSet<Place> = [[-1, -1, 23], [-1, -1, 6]].into();
        let heads: BTreeSet<Place> = [[0, 3, -1]].into();
        let mut events: Vec<Event> = (0..5).flat_map(|at| set.take(10 * at, &keys)).collect();
        events.extend((5..10).flat_map(|at| set.take(10 * at, &heads)));
        let lines: Vec<String> =
            events.iter().map(|e| format!("{}, seen at {}: {}", e.onset().words(), e.seen_at, e.text())).collect();
        assert_eq!(
            lines,
            [
                "by step 0, seen at 40: key_frequencies embed.W_E index 6 is born, replica 2",
                "by step 0, seen at 40: key_frequencies embed.W_E index 23 is born, replica 2",
                "step 50 ± 10, seen at 90: key_frequencies embed.W_E layer 0 head 3 is born, replica 2",
                "step 50 ± 10, seen at 90: key_frequencies embed.W_E index 6 is gone, replica 2",
                "step 50 ± 10, seen at 90: key_frequencies embed.W_E index 23 is gone, replica 2",
            ]
        );
    }
}
