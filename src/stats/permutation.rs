//! Whether groups differ, by giving their members other groups: right of few runs too, where no error can be told.

use super::draws::Draws;
use super::p_values::add_one;
use crate::random::Stream;

/// What giving the members of groups other groups says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Permuted {
    /// The share of all ways to give so many members to each group in which the statistic is as great as in the groups
    /// themselves, which is one of them: where members could as well be in any group, at most a share p of samples has such a p.
    pub p: f64,
    /// Whether these are all ways; else [`Permuted::DRAWS`] of them, and the groups themselves.
    pub exact: bool,
}

impl Permuted {
    /// Ways that are drawn where there are more than [`Permuted::MOST`].
    pub const DRAWS: usize = 4999;
    /// Ways at most that are all gone through: two groups of 8 have 12,870.
    pub const MOST: f64 = 20_000.0;

    /// Of a statistic of groups, from the group of each member: the greater, the further groups are apart.
    pub(super) fn of(groups: &[usize], statistic: impl Fn(&[usize]) -> f64) -> Self {
        let own = statistic(groups);
        // The same number in another order of sums is as great, and what is no number is not less than anything.
        let falls_short = |groups: &[usize]| statistic(groups) < own - 1e-9 * own.abs();
        let mut again = groups.to_vec();
        again.sort_unstable();
        // n!/Π n_g!: of the first i members, i/k times as many as of one less, where member i is the k-th of its group.
        let of_group = |at: usize| again[..=at].iter().filter(|group| **group == again[at]).count();
        let ways: f64 = (0..again.len()).map(|at| (at + 1) as f64 / of_group(at) as f64).product();
        if ways <= Self::MOST {
            let (mut less, mut all) = (0, 0);
            loop {
                all += 1;
                less += usize::from(falls_short(&again));
                if !next_order(&mut again) {
                    return Self { p: (all - less) as f64 / all as f64, exact: true };
                }
            }
        }
        let draw = |draw: usize| {
            let mut again = groups.to_vec();
            Draws::new(0, Stream::Resample, draw).shuffle(&mut again);
            falls_short(&again)
        };
        let less = (0..Self::DRAWS).filter(|at| draw(*at)).count();
        Self { p: add_one(Self::DRAWS - less, Self::DRAWS), exact: false }
    }
}

/// The next order of the same values by the alphabet, of those that differ; false behind the last.
fn next_order(values: &mut [usize]) -> bool {
    let Some(rises) = values.windows(2).rposition(|pair| pair[0] < pair[1]) else { return false };
    let above = values.iter().rposition(|value| *value > values[rises]).unwrap_or(rises);
    values.swap(rises, above);
    values[rises + 1..].reverse();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Difference of the means of groups 1 and 0.
    fn apart(values: &[f64], groups: &[usize]) -> f64 {
        let mean = |group: usize| {
            let own = values.iter().zip(groups).filter(|(_, of)| **of == group).map(|(value, _)| *value);
            own.clone().sum::<f64>() / own.count() as f64
        };
        (mean(1) - mean(0)).abs()
    }

    #[test]
    fn few_are_gone_through_and_of_many_some_are_drawn() {
        let of = |values: &[f64], groups: &[usize]| Permuted::of(groups, |groups| apart(values, groups));
        // Of 3 and 3 the groups themselves, and both of them exchanged, are 2 of 20 ways; of 4 and 4 2 of 70.
        let found = of(&[1.0, 2.0, 3.0, 7.0, 8.0, 9.0], &[0, 0, 0, 1, 1, 1]);
        assert_eq!(found, Permuted { p: 0.1, exact: true });
        let found = of(&[1.0, 7.0, 2.0, 8.0, 3.0, 9.0, 3.5, 9.9], &[0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(found, Permuted { p: 2.0 / 70.0, exact: true });
        // What is the same in all is the same in each way.
        assert_eq!(of(&[0.1; 6], &[0, 0, 1, 1, 1, 0]).p, 1.0);
        assert_eq!(of(&[f64::NAN; 6], &[0, 0, 1, 1, 1, 0]).p, 1.0);
        // Of 8 and 8 all, of 10 and 10 some; what stands apart is in none that is drawn.
        let values = |count: usize| (0..count).map(|at| (at + 100 * (at % 2)) as f64).collect::<Vec<_>>();
        let groups = |count: usize| (0..count).map(|at| at % 2).collect::<Vec<_>>();
        let found = of(&values(16), &groups(16));
        assert!(found.exact && (found.p - 2.0 / 12_870.0).abs() < 1e-15, "{found:?}");
        assert_eq!(of(&values(20), &groups(20)), Permuted { p: 1.0 / 5000.0, exact: false });
    }

    #[test]
    fn every_order_comes_once() {
        let mut order = [0, 0, 1, 2];
        let mut all = vec![order];
        while next_order(&mut order) {
            all.push(order);
        }
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!((all.len(), different.len()), (12, 12));
    }
}
