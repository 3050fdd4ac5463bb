//! Births, deaths and flips of keys and heads: marks on the step axis, and a short list.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::record::{Event, HeadRole, Turned, What};
use crate::stats::Onset;

/// Lines of the list.
const LISTED: usize = 20;
/// Marks that stand on one pixel are drawn as one.
const PIXELS: i64 = 400;

/// What turned; in the order in which the list takes them in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Head,
    LogitKey,
    NeuronKey,
    EmbeddingKey,
}

impl Who {
    fn lane(self) -> &'static str {
        match self {
            Self::Head => "heads",
            Self::LogitKey => "logit keys",
            Self::NeuronKey => "neuron keys",
            Self::EmbeddingKey => "W_E keys",
        }
    }
}

/// An event of `events.jsonl` that is a turn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turn {
    onset: Onset,
    /// `birth`, `death` or `flip`.
    kind: &'static str,
    who: Who,
    replica: usize,
    /// Layer, head and index, -1 where one does not apply.
    place: [i32; 3],
    role: Option<HeadRole>,
}

impl Turn {
    /// `None` for other events, and for sets that are no circuits.
    pub(super) fn of(event: &Event) -> Option<Self> {
        let (What::Birth(turned) | What::Death(turned) | What::Flip(turned)) = &event.what else { return None };
        let Turned { subject, .. } = turned;
        let who = match (subject.role, subject.metric.as_str()) {
            (Some(_), _) => Who::Head,
            (_, "key_frequencies.logits") => Who::LogitKey,
            (_, "key_frequencies.neurons") => Who::NeuronKey,
            (_, "key_frequencies") => Who::EmbeddingKey,
            _ => return None,
        };
        Some(Self {
            onset: event.onset(),
            kind: event.kind(),
            who,
            replica: event.replica? as usize,
            place: [subject.layer, subject.head, subject.index],
            role: subject.role,
        })
    }

    fn step(&self) -> u64 {
        self.onset.step
    }

    /// In short words.
    fn text(&self) -> String {
        let [layer, head, index] = self.place;
        match (self.role, self.who) {
            (Some(role), _) => format!("{} L{layer} H{head}", role.word()),
            (None, Who::NeuronKey) => format!("frequency {index} in layer {layer}"),
            (None, _) => format!("frequency {index}"),
        }
    }

    /// A line of the list: when, kind, what.
    pub(super) fn words(&self) -> (String, &'static str, String) {
        let set = if self.who == Who::Head { String::new() } else { format!(", {}", self.who.lane()) };
        (self.onset.words(), self.kind, self.text() + &set)
    }

    /// What a head is at the end, and since when, if anything.
    pub(super) fn role(turns: &[Self], replica: usize, layer: i32, head: i32) -> Option<(HeadRole, Onset)> {
        let of_head =
            |turn: &&Self| turn.who == Who::Head && turn.replica == replica && turn.place[..2] == [layer, head];
        // A flip is written behind the death that it goes with.
        let last = turns.iter().rev().find(of_head)?;
        Some((last.role.filter(|_| last.kind != "death")?, last.onset))
    }

    pub(super) fn replica(&self) -> usize {
        self.replica
    }
}

/// The turns worth a line, in order of step, and how many are left out, by lane: heads come first, then keys of the
/// logits, then the rest. Births at the first step are a beginning rather than an event.
pub(super) fn list(turns: &[Turn]) -> (Vec<&Turn>, Vec<(&'static str, usize)>) {
    let mut chosen: Vec<&Turn> = turns.iter().filter(|turn| turn.who != Who::EmbeddingKey || turn.step() > 0).collect();
    // Of equals the last ones: what happens late stays.
    chosen.sort_by_key(|turn| (turn.who, turn.replica, std::cmp::Reverse(turn.step())));
    chosen.truncate(LISTED);
    let mut left: BTreeMap<Who, usize> = BTreeMap::new();
    for turn in turns.iter().filter(|turn| !chosen.iter().any(|known| std::ptr::eq(*known, *turn))) {
        *left.entry(turn.who).or_default() += 1;
    }
    chosen.sort_by_key(|turn| (turn.step(), turn.who, turn.replica));
    (chosen, left.into_iter().map(|(who, count)| (who.lane(), count)).collect())
}

/// Rows for the chart; turns of one lane and kind on the same pixel share a mark.
pub(super) fn rows(turns: &[Turn], last_step: i64) -> Vec<Value> {
    let mut marks: BTreeMap<_, Vec<&Turn>> = BTreeMap::new();
    for turn in turns {
        let pixel = turn.step() as i64 * PIXELS / last_step.max(1);
        marks.entry((turn.replica, turn.who, turn.kind, pixel)).or_default().push(turn);
    }
    let row = |((replica, who, kind, _), turns): ((usize, Who, &str, i64), Vec<&Turn>)| {
        let mut text = turns[0].text();
        if turns.len() > 1 {
            text += &format!(", and {} more", turns.len() - 1);
        }
        json!({ "step": turns[0].step(), "when": turns[0].onset.words(), "lane": who.lane(), "kind": kind, "replica": replica, "what": text })
    };
    marks.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Subject;

    fn event(step: u64, kind: fn(Turned) -> What, subject: Subject) -> Event {
        let onset = Onset { step, resolution: 10, censored: None };
        Event::dated(onset, step + 20, 2, kind(Turned { subject, numbers: BTreeMap::new() }))
    }

    fn subject(metric: &str, [layer, head, index]: [i32; 3], role: Option<HeadRole>) -> Subject {
        Subject { metric: metric.to_owned(), site: "x".to_owned(), layer, head, index, role }
    }

    #[test]
    fn events_become_short_words() {
        let words = |kind: fn(Turned) -> What, subject| {
            Turn::of(&event(7, kind, subject)).map(|turn| (turn.replica, turn.words().1, turn.words().2))
        };
        assert_eq!(
            words(What::Birth, subject("key_frequencies.logits", [-1, -1, 6], None)),
            Some((2, "birth", "frequency 6, logit keys".to_owned()))
        );
        assert_eq!(
            words(What::Flip, subject("ablation.logit_difference", [0, 3, -1], Some(HeadRole::Suppressor))),
            Some((2, "flip", "suppressor L0 H3".to_owned()))
        );
        assert_eq!(
            words(What::Death, subject("key_frequencies.neurons", [1, -1, 4], None)),
            Some((2, "death", "frequency 4 in layer 1, neuron keys".to_owned()))
        );
        assert_eq!(words(What::Birth, subject("previous_token_score", [0, 1, -1], None)), None);
        assert_eq!(Turn::of(&Event::at(7, What::Diverged)), None);
    }

    #[test]
    fn heads_are_listed_before_hundreds_of_keys() {
        let mut events: Vec<Event> =
            (0..300).map(|at| event(at, What::Birth, subject("key_frequencies", [-1, -1, 5], None))).collect();
        let head = subject("ablation.logit_difference", [1, 2, -1], Some(HeadRole::Contributor));
        events.push(event(50, What::Birth, head));
        let turns: Vec<Turn> = events.iter().filter_map(Turn::of).collect();
        let (listed, left) = list(&turns);
        assert_eq!(listed.len(), LISTED);
        assert_eq!(listed[0].words(), ("step 50 ± 10".to_owned(), "birth", "contributor L1 H2".to_owned()));
        assert_eq!(listed.last().unwrap().step(), 299);
        assert_eq!(left, [("W_E keys", 301 - LISTED)]);
        // A picture of few pixels has few marks.
        assert!(rows(&turns, 1_000_000).len() <= 2);
    }
}
