//! Births, deaths and flips of keys and heads: marks on the step axis, and a short list.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::record::Event;

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
    step: u64,
    /// `birth`, `death` or `flip`.
    kind: String,
    who: Who,
    replica: usize,
    /// In short words.
    text: String,
}

impl Turn {
    /// `None` for other events, and for sets that are no circuits.
    pub(super) fn of(event: &Event) -> Option<Self> {
        if !["birth", "death", "flip"].contains(&event.kind.as_str()) {
            return None;
        }
        let (name, rest) = event.text.split_once(", replica ")?;
        let (replica, members) = rest.split_once(": ")?;
        let who = match name.split(' ').next()? {
            "suppressor" | "contributor" => Who::Head,
            "key_frequencies.logits" => Who::LogitKey,
            "key_frequencies.neurons" => Who::NeuronKey,
            "key_frequencies" => Who::EmbeddingKey,
            _ => return None,
        };
        let text = if who == Who::Head {
            name.replace(" layer ", " L").replace(" head ", " H")
        } else {
            let members: Vec<&str> = members.split("index ").skip(1).map(|m| m.trim_end_matches([',', ' '])).collect();
            let frequencies = if members.len() == 1 { "frequency" } else { "frequencies" };
            format!("{frequencies} {}", members.join(", "))
        };
        Some(Self { step: event.step, kind: event.kind.clone(), who, replica: replica.parse().ok()?, text })
    }

    /// A line of the list: step, kind, what.
    pub(super) fn words(&self) -> (u64, &str, String) {
        let set = if self.who == Who::Head { String::new() } else { format!(", {}", self.who.lane()) };
        (self.step, &self.kind, self.text.clone() + &set)
    }

    /// What a head is at the end, `suppressor` or `contributor`, and since when, if anything.
    pub(super) fn role<'a>(turns: &'a [Self], replica: usize, place: &str) -> Option<(&'a str, u64)> {
        let of_head = turns.iter().filter(|turn| turn.who == Who::Head && turn.replica == replica);
        let named = of_head.filter_map(|turn| turn.text.split_once(' ').map(|(role, name)| (turn, role, name)));
        // A flip is written behind the death that it goes with.
        let last = named.rev().find(|(_, _, name)| *name == place)?;
        (last.0.kind != "death").then_some((last.1, last.0.step))
    }

    pub(super) fn replica(&self) -> usize {
        self.replica
    }
}

/// The turns worth a line, in order of step, and how many are left out, by lane: heads come first, then keys of the
/// logits, then the rest. Births at the first step are a beginning rather than an event.
pub(super) fn list(turns: &[Turn]) -> (Vec<&Turn>, Vec<(&'static str, usize)>) {
    let mut chosen: Vec<&Turn> = turns.iter().filter(|turn| turn.who != Who::EmbeddingKey || turn.step > 0).collect();
    // Of equals the last ones: what happens late stays.
    chosen.sort_by_key(|turn| (turn.who, turn.replica, std::cmp::Reverse(turn.step)));
    chosen.truncate(LISTED);
    let mut left: BTreeMap<Who, usize> = BTreeMap::new();
    for turn in turns.iter().filter(|turn| !chosen.iter().any(|known| std::ptr::eq(*known, *turn))) {
        *left.entry(turn.who).or_default() += 1;
    }
    chosen.sort_by_key(|turn| (turn.step, turn.who, turn.replica));
    (chosen, left.into_iter().map(|(who, count)| (who.lane(), count)).collect())
}

/// Rows for the chart; turns of one lane and kind on the same pixel share a mark.
pub(super) fn rows(turns: &[Turn], last_step: i64) -> Vec<Value> {
    let mut marks: BTreeMap<_, Vec<&Turn>> = BTreeMap::new();
    for turn in turns {
        let pixel = turn.step as i64 * PIXELS / last_step.max(1);
        marks.entry((turn.replica, turn.who, &turn.kind, pixel)).or_default().push(turn);
    }
    let row = |((replica, who, kind, _), turns): ((usize, Who, &String, i64), Vec<&Turn>)| {
        let mut text = turns[0].text.clone();
        if turns.len() > 1 {
            text += &format!(", and {} more", turns.len() - 1);
        }
        json!({ "step": turns[0].step, "lane": who.lane(), "kind": kind, "replica": replica, "what": text })
    };
    marks.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(step: u64, kind: &str, text: &str) -> Event {
        Event { step, kind: kind.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn events_become_short_words() {
        let words = |kind, text| Turn::of(&event(7, kind, text)).map(|turn| (turn.replica, turn.words().2));
        assert_eq!(
            words("birth", "key_frequencies.logits logits, replica 2: index 6, index 23"),
            Some((2, "frequencies 6, 23, logit keys".to_owned()))
        );
        assert_eq!(
            words("flip", "suppressor layer 0 head 3, replica 0: zeroing it raises the logit difference"),
            Some((0, "suppressor L0 H3".to_owned()))
        );
        assert_eq!(
            words("death", "key_frequencies.neurons blocks.0.mlp.hook_post, replica 1: layer 0 index 4"),
            Some((1, "frequency 4, neuron keys".to_owned()))
        );
        assert_eq!(words("warning", "suppressor, replica 0: x"), None);
        assert_eq!(words("birth", "previous_token_score x, replica 0: head 1"), None);
    }

    #[test]
    fn heads_are_listed_before_hundreds_of_keys() {
        let mut events: Vec<Event> =
            (0..300).map(|at| event(at, "birth", "key_frequencies embed.W_E, replica 0: index 5")).collect();
        events.push(event(50, "birth", "contributor layer 1 head 2, replica 0: zeroing it lowers"));
        let turns: Vec<Turn> = events.iter().filter_map(Turn::of).collect();
        let (listed, left) = list(&turns);
        assert_eq!(listed.len(), LISTED);
        assert_eq!(listed[0].words(), (50, "birth", "contributor L1 H2".to_owned()));
        assert_eq!(listed.last().unwrap().step, 299);
        assert_eq!(left, [("W_E keys", 301 - LISTED)]);
        // A picture of few pixels has few marks.
        assert!(rows(&turns, 1_000_000).len() <= 2);
    }
}
