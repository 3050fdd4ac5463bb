//! Births and deaths: when something comes to stay, and when it is gone for good.
//!
//! What lies on a border comes and goes from measurement to measurement, so a change counts once it has held at some of
//! them in a row, and dates from the first of these.

use std::collections::{BTreeMap, BTreeSet};

use super::onset::Onset;

/// A yes or no, watched from measurement to measurement. It is no before the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    yes: bool,
    /// Measurements in a row that say otherwise, the step of the first of them and of the one before it.
    against: u32,
    since: u64,
    before: Option<u64>,
    /// Step of the last measurement.
    last: Option<u64>,
}

impl Watch {
    /// Takes in one measurement; returns since when it is otherwise than before, once that has held at `hold` in a row.
    pub fn measure(&mut self, step: u64, now: bool, hold: u32) -> Option<Onset> {
        if now == self.yes {
            self.against = 0;
        } else {
            if self.against == 0 {
                (self.since, self.before) = (step, self.last);
            }
            self.against += 1;
        }
        self.last = Some(step);
        (self.against >= hold).then(|| {
            (self.yes, self.against) = (!self.yes, 0);
            Onset::seen(self.since, self.before)
        })
    }

    /// Whether it is yes by now.
    pub fn is_yes(&self) -> bool {
        self.yes
    }

    /// How far it is known not to have changed: to the last measurement, or to the one before those that say otherwise.
    /// `None` where nothing was measured.
    pub fn until(&self) -> Option<Onset> {
        let last = self.last?;
        let step = if self.against > 0 { self.before.unwrap_or(0) } else { last };
        Some(Onset::not_by(step))
    }
}

/// A set, watched: who belongs to it.
#[derive(Clone, Debug)]
pub struct Births<L> {
    members: BTreeMap<L, Watch>,
    last: Option<u64>,
}

/// A birth or a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn<L> {
    /// Whose.
    pub label: L,
    /// Born, or else died.
    pub born: bool,
    /// When.
    pub onset: Onset,
}

impl<L> Default for Births<L> {
    fn default() -> Self {
        Self { members: BTreeMap::new(), last: None }
    }
}

impl<L: Ord + Copy> Births<L> {
    /// How far it is known that nobody more came to stay: to the last measurement, or to the one before those at the end that
    /// show somebody.
    pub fn until(&self) -> Option<u64> {
        let shown = self.members.values().filter(|member| !member.yes).filter_map(Watch::until);
        shown.map(|onset| onset.step).min().or(self.last)
    }

    /// Takes in one measurement, all that were present in it; returns what has by now held at `hold` measurements in a
    /// row, in order of label.
    pub fn measure(&mut self, step: u64, present: &BTreeSet<L>, hold: u32) -> Vec<Turn<L>> {
        let unknown = Watch { last: self.last, ..Watch::default() };
        self.last = Some(step);
        for label in present {
            self.members.entry(*label).or_insert(unknown);
        }
        let mut turns = Vec::new();
        self.members.retain(|label, member| {
            let onset = member.measure(step, present.contains(label), hold);
            turns.extend(onset.map(|onset| Turn { label: *label, born: member.yes, onset }));
            member.yes || member.against > 0
        });
        turns
    }
}

/// A set, watched: who lives, and since when.
#[derive(Clone, Debug)]
pub struct Living<L> {
    births: Births<L>,
    since: BTreeMap<L, Onset>,
}

impl<L> Default for Living<L> {
    fn default() -> Self {
        Self { births: Births::default(), since: BTreeMap::new() }
    }
}

impl<L: Ord + Copy> Living<L> {
    /// Takes in one measurement: see [`Births::measure`].
    pub fn measure(&mut self, step: u64, present: &BTreeSet<L>, hold: u32) {
        for turn in self.births.measure(step, present, hold) {
            if turn.born {
                self.since.insert(turn.label, turn.onset);
            } else {
                self.since.remove(&turn.label);
            }
        }
    }

    /// Who lives by now, and since when.
    pub fn since(&self) -> &BTreeMap<L, Onset> {
        &self.since
    }

    /// The birth of the oldest that lives. Where nobody does: by when nobody was born, for who shows at the last measurements
    /// may have come to stay.
    pub fn oldest(&self) -> Option<Onset> {
        let none = self.births.until().map(Onset::not_by);
        self.since.values().copied().min_by_key(|onset| onset.step).or(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Censored;

    const HOLD: u32 = 3;

    /// Turns of one label that is present where the text has a #, ten steps a character.
    fn turns(present: &str) -> Vec<(u64, bool)> {
        let mut births = Births::default();
        let measure = |(step, mark): (usize, char)| {
            let set = if mark == '#' { [7].into() } else { BTreeSet::new() };
            births.measure(10 * step as u64, &set, HOLD)
        };
        present.chars().enumerate().flat_map(measure).map(|turn| (turn.onset.step, turn.born)).collect()
    }

    #[test]
    fn a_change_counts_when_it_held_at_three_measurements() {
        assert_eq!(turns("###"), [(0, true)]);
        assert!(turns("##.##.##.##").is_empty());
        assert_eq!(turns("..###.#..#...###"), [(20, true), (100, false), (130, true)]);
        assert_eq!(turns("#####"), [(0, true)]);
        // Neither is a death a birth that was interrupted, nor is one counted twice.
        assert_eq!(turns("###......###"), [(0, true), (30, false), (90, true)]);
    }

    #[test]
    fn members_do_not_know_of_each_other() {
        let mut births = Births::default();
        let mut all = Vec::new();
        for step in 0..9u64 {
            let present = (0..4u64).filter(|label| step >= *label && step < label + 4).collect();
            all.extend(births.measure(step, &present, HOLD));
        }
        let of = |born| move |turn: &&Turn<u64>| turn.born == born;
        let born: Vec<(u64, u64)> = all.iter().filter(of(true)).map(|turn| (turn.label, turn.onset.step)).collect();
        assert_eq!(born, [(0, 0), (1, 1), (2, 2), (3, 3)]);
        assert_eq!(all.iter().filter(of(false)).map(|turn| turn.onset.step).collect::<Vec<_>>(), [4, 5, 6]);
    }

    #[test]
    fn who_shows_at_the_end_may_have_come_to_stay() {
        let mut births = Births::default();
        for step in 0..8u64 {
            births.measure(
                10 * step,
                &[(0, 0), (1, 6)].iter().filter(|(_, from)| step >= *from).map(|one| one.0).collect(),
                HOLD,
            );
        }
        assert_eq!(births.until(), Some(50));
        births.measure(80, &[0].into(), HOLD);
        assert_eq!(births.until(), Some(80));
    }

    #[test]
    fn a_turn_is_dated_between_two_measurements() {
        let mut births = Births::default();
        let mut found = Vec::new();
        // Measured at 0, 5, 30, 40, 50: there since 30, so born after 5.
        for (step, there) in [(0, false), (5, false), (30, true), (40, true), (50, true)] {
            found.extend(births.measure(step, &there.then_some(1).into_iter().collect(), HOLD));
        }
        assert_eq!(found[0].onset, Onset { step: 30, resolution: 25, censored: None });
        // There from the first look on: born then, or before anybody looked.
        let mut births = Births::default();
        let found: Vec<_> = (2..5).flat_map(|step| births.measure(step, &[1].into(), HOLD)).collect();
        assert_eq!(found[0].onset, Onset { step: 2, resolution: 0, censored: Some(Censored::Before) });
    }
}
