//! What the index column of the metric table stands for.

use serde::Serialize;

/// What an index is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Index {
    /// Nothing: it is -1.
    None,
    /// It is the number of this, such as a frequency or a position.
    Counts(&'static str),
    /// Things with these names, from 0.
    Names(&'static [&'static str]),
    /// 0 has the first name; n is this many of the second.
    Ranks(&'static str, &'static str),
    /// These numbers of each bin, bin by bin.
    Bins(&'static [&'static str]),
    /// Pairs (i, j) with i < j of a layer's heads, row by row.
    Pairs,
    /// The same of so many heads that are not the model's.
    PairsOfStrangers(usize),
    /// Heads of all layers, layer by layer.
    Heads,
    /// Pairs (s, t) with s < t of heads and layers, of each layer its heads and then its stream, by t and then s.
    PairsOfParts,
}

impl Index {
    /// What an index is called in a model of so many heads a layer; `None` where its number says it.
    pub fn name(self, index: usize, heads: usize) -> Option<String> {
        match self {
            Self::None | Self::Counts(_) => None,
            Self::Names(names) => names.get(index).map(|name| (*name).to_owned()),
            Self::Ranks(zero, _) if index == 0 => Some(zero.to_owned()),
            Self::Ranks(_, many) => Some(format!("the {index} {many}")),
            Self::Bins(names) => Some(format!("bin {}: {}", index / names.len(), names[index % names.len()])),
            Self::Pairs => pair(index, heads).map(|(i, j)| format!("heads {i} and {j}")),
            Self::PairsOfStrangers(count) => pair(index, count).map(|(i, j)| format!("strangers {i} and {j}")),
            Self::PairsOfParts => {
                let second = (1..).find(|t| index < t * (t + 1) / 2)?;
                let part = |at: usize| match (at / (heads + 1), at % (heads + 1)) {
                    (layer, head) if head < heads => format!("L{layer} H{head}"),
                    (layer, _) => format!("L{layer} stream"),
                };
                Some(format!("{} and {}", part(index - second * (second - 1) / 2), part(second)))
            }
            Self::Heads => Some(format!("L{} H{}", index / heads.max(1), index % heads.max(1))),
        }
    }

    /// What it counts, where its number says it; else empty.
    pub fn counts(self) -> &'static str {
        match self {
            Self::Counts(what) => what,
            _ => "",
        }
    }
}

/// The pair (i, j) with i < j of so many at a place, row by row.
fn pair(index: usize, count: usize) -> Option<(usize, usize)> {
    (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j))).nth(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instrument::registry;

    #[test]
    fn names_follow_the_order_in_which_numbers_are_recorded() {
        let names = |index: Index, count: usize| (0..count).filter_map(|at| index.name(at, 3)).collect::<Vec<_>>();
        assert_eq!(names(Index::Pairs, 9), ["heads 0 and 1", "heads 0 and 2", "heads 1 and 2"]);
        assert_eq!(names(Index::PairsOfStrangers(2), 9), ["strangers 0 and 1"]);
        assert_eq!(names(Index::Heads, 4), ["L0 H0", "L0 H1", "L0 H2", "L1 H0"]);
        assert_eq!(names(Index::Ranks("keys", "strongest"), 3), ["keys", "the 1 strongest", "the 2 strongest"]);
        assert_eq!(names(Index::Bins(&["rows", "right"]), 3), ["bin 0: rows", "bin 0: right", "bin 1: rows"]);
        assert_eq!(names(Index::Names(&["low", "high"]), 3), ["low", "high"]);
        assert_eq!(names(Index::PairsOfParts, 3), ["L0 H0 and L0 H1", "L0 H0 and L0 H2", "L0 H1 and L0 H2"]);
        assert_eq!(names(Index::PairsOfParts, 8)[6..], ["L0 H0 and L1 H0", "L0 H1 and L1 H0"]);
        assert_eq!(names(Index::PairsOfParts, 6)[5], "L0 H2 and L0 stream");
        assert!(names(Index::Counts("frequency k"), 3).is_empty());
    }

    #[test]
    fn cards_that_speak_of_an_index_say_what_it_is() {
        for card in registry().iter().flat_map(|instrument| instrument.cards()) {
            assert_eq!(card.axes.contains("index"), card.index != Index::None, "{}: {}", card.name, card.axes);
        }
    }
}
