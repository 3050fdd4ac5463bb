//! Which frequency each neuron and each head follows, and how many follow the same: the frequency
//! synchronization degree, phases, and shares of variance explained.

use super::dominant::{BinMeans, Dominant, DominantSummary, ListSpread, TOP};
use super::fourier::Walked;
use super::parts::Parts;
use crate::autograd::op::misfit;
use crate::autograd::ops::{ColumnSum, GatherRows, IGNORE, Linear, add_rows, bucket_rows, scatter_rows};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::instrument::{Attach, Card, CostClass, Index, Instrument, Label, Presence};
use crate::task::Examples;

/// `fsd`, `fsd.top`, `fsd.participation`, `phase_synchrony`: on the training batch, without a forward pass.
pub(crate) struct Synchrony;

const CARDS: &[Card] = &[
    Card {
        name: "fsd",
        formula: "(peak - c) / (1 - c), c = 1/K, K frequencies: peak is the largest share of neurons with the same dominant frequency in the DFT over s of their mean activation given the answer s; for groups that do not commute irreps ρ by energy / d_ρ² in place of frequencies",
        unit: "1",
        axes: "site: mlp.hook_post at the last token, layer",
        cost: CostClass::L,
        every: 10,
        control: "0 where neurons spread evenly over all frequencies, 1 where all follow one; fsd.grid for all pairs",
        source: "Sivasankar 2026 (2606.12966): frequency synchronization degree",
        not_for: "a circuit of several frequencies, which has a low one: see fsd.top; a lead over grokking by itself",
        ..Card::BASE
    },
    Card {
        name: "fsd.top",
        formula: "share of neurons whose dominant frequency is one of the n most followed",
        unit: "1",
        axes: "site: mlp.hook_post at the last token, layer; index: n",
        cost: CostClass::L,
        every: 10,
        control: "n/K for neurons spread evenly, more where neurons are few",
        source: "Sivasankar 2026 (2606.12966): FSD_k",
        not_for: "how strongly neurons follow: a dominant frequency may hold little of a neuron",
        bounds: Card::SHARE,
        index: Index::Counts("n, how many frequencies"),
        ..Card::BASE
    },
    Card {
        name: "fsd.participation",
        formula: "neurons whose dominant frequency is k",
        unit: "neurons",
        axes: "site: mlp.hook_post at the last token, layer; index: frequency k",
        cost: CostClass::L,
        every: 10,
        control: "M/K for M neurons spread evenly",
        source: "Sivasankar 2026 (2606.12966)",
        not_for: "see fsd.top",
        bounds: Card::SIZE,
        index: Index::Counts("frequency k, or irrep of a group that does not commute"),
        ..Card::BASE
    },
    Card {
        name: "phase_synchrony",
        formula: "|mean of exp(i φ)| over the neurons whose dominant frequency is k, φ their phase at k in s; 0 where there is none",
        unit: "1",
        axes: "site: mlp.hook_post at the last token, layer; index: frequency k",
        cost: CostClass::L,
        every: 10,
        control: "√π / (2 √N) for N random phases, with N from fsd.participation",
        source: "Kuramoto's order parameter",
        not_for: "frequencies with few neurons; a circuit that reads every phase has a value near 0",
        bounds: Card::SHARE,
        index: Index::Counts("frequency k, or irrep of a group that does not commute"),
        ..Card::BASE
    },
];

impl Instrument for Synchrony {
    fn name(&self) -> &'static str {
        "synchrony"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let (Some(group), Some(every)) = (Parts::of(cx.task), cx.cadence(self)) else { return Ok(()) };
        let (train, layers) = (cx.train, cx.model.config.n_layers);
        for layer in (0..layers).filter(|_| cx.model.config.has_mlp()) {
            let site = format!("blocks.{layer}.mlp.hook_post");
            let hidden = train.forward.hook(&site)?;
            let [counts, phases, stats] = cx.tape.at_cadence(every, |tape| {
                let hidden = last_rows(tape, hidden)?;
                let (dominant, components) = of_batch(tape, &group, hidden, train.batch.targets)?;
                summary(tape, &group, dominant, components, 0.0)
            })?;
            let label = Label { layer: layer as i32, ..Label::NONE };
            let indices = |count: usize| (1..=count as i32).map(|index| Label { index, ..label }).collect::<Vec<_>>();
            cx.record(self, "fsd", &site, stats, 0, vec![label]);
            cx.record(self, "fsd.top", &site, stats, 3, indices(TOP));
            cx.record(self, "fsd.participation", &site, counts, 0, indices(group.count()));
            if cx.task.cyclic().is_some() {
                cx.record(self, "phase_synchrony", &site, phases, 0, indices(group.count()));
            }
        }
        Ok(())
    }
}

/// All pairs of operands, walked through piece by piece.
pub(crate) struct Grid<'a> {
    pub(crate) group: &'a Parts,
    pub(crate) examples: &'a Examples,
    pub(crate) passes: &'a [Walked<'a>],
}

/// Share of a neuron's variance from which it counts as following one frequency.
const FOLLOWS: f32 = 0.85;

impl Grid<'_> {
    /// Declares what neurons and heads follow over the whole grid, for an instrument with those cards.
    pub(crate) fn attach(&self, cx: &mut Attach<'_>, instrument: &dyn Instrument, every: u64) -> Result<()> {
        let (group, config) = (self.group, &cx.model.config);
        let operands: Option<Vec<Place>> = (self.examples.seq > 2).then(|| {
            let element = |token: u32| group.tokens.get(token as usize).copied().flatten();
            let pairs = self.examples.tokens.chunks_exact(self.examples.seq);
            pairs.map(|tokens| Some((element(tokens[0])?, element(tokens[1])?))).collect()
        });
        // Each pair once: only then are waves orthogonal over the examples.
        let Some(pairs) = operands.filter(|p| p.iter().flatten().count() == group.order * group.order) else {
            return Ok(());
        };
        let families = self.families(cx.tape, &pairs)?;
        for layer in 0..config.n_layers {
            let label = Label { layer: layer as i32, ..Label::NONE };
            if config.has_mlp() {
                let site = format!("blocks.{layer}.mlp.hook_post");
                let hidden = self.hooks(&site)?;
                let (strong, all) = cx.tape.at_cadence(every, |tape| {
                    let hidden = hidden.iter().map(|x| last_rows(tape, *x)).collect::<Result<Vec<_>>>()?;
                    let (dominant, sums) = of_grid(tape, group, &hidden, &families)?;
                    let strong = summary(tape, group, dominant, sums, FOLLOWS)?;
                    let starts = tape.constant_u32(&[group.starts.len()], &group.starts);
                    let weights = tape.constant(&[group.count()], &group.weights);
                    let along = tape.push1(Dominant { grid: None }, &[starts, weights, sums])?;
                    Ok((strong, summary(tape, group, along, sums, 0.0)?))
                })?;
                let frequencies = (1..=group.count() as i32).map(|index| Label { index, ..label }).collect();
                let keys = "key_frequencies.neurons";
                cx.record_where(Presence::InSet, instrument, keys, &site, strong[0], 0, frequencies);
                let both = (0..2).map(|index| Label { index, ..label }).collect();
                cx.record(instrument, "neuron_fve", &site, strong[2], 1, both);
                cx.record(instrument, "fsd.grid", &site, all[2], 0, vec![label]);
            }
            let site = format!("blocks.{layer}.attn.hook_pattern");
            let patterns = self.hooks(&site)?;
            let dims = cx.tape.shape(patterns[0]).dims.clone();
            let [_, heads, queries, keys] = dims[..] else { return Err(misfit("grid", format!("{dims:?}"))) };
            let found = cx.tape.at_cadence(every, |tape| {
                let flat = |x: &Var| {
                    let batch = tape.shape(*x).dims[0];
                    tape.reshape(*x, &[batch, heads * queries * keys])
                };
                let flat = patterns.iter().map(flat).collect::<Result<Vec<_>>>()?;
                Ok(of_grid(tape, group, &flat, &families)?.0)
            })?;
            for head in 0..heads {
                let first = (head * queries + queries - 1) * keys;
                let positions: Vec<Label> =
                    (0..keys as i32).map(|index| Label { head: head as i32, index, ..label }).collect();
                cx.record(instrument, "attention_frequency", &site, found, first, positions.clone());
                cx.record(instrument, "attention_fve", &site, found, heads * queries * keys + first, positions);
            }
        }
        Ok(())
    }

    fn hooks(&self, site: &str) -> Result<Vec<Var>> {
        self.passes.iter().map(|walked| walked.pass.forward.hook(site)).collect()
    }

    /// Of each pass, where its rows lie.
    fn families(&self, tape: &mut Tape, pairs: &[Place]) -> Result<Vec<Families>> {
        let places = |walked: &Walked<'_>| {
            walked.ids.iter().map(|id| pairs.get(*id as usize).copied().flatten()).collect::<Vec<Place>>()
        };
        let of = |walked: &Walked<'_>| families(tape, self.group.order, walked.pass.batch.size, &places(walked));
        self.passes.iter().map(of).collect()
    }
}

/// The last position's rows of x [B, Tq, C]: [B, C].
pub(crate) fn last_rows(tape: &mut Tape, x: Var) -> Result<Var> {
    let dims = tape.shape(x).dims.clone();
    let [batch, queries, columns] = dims[..] else { return Err(misfit("last rows", format!("{dims:?}"))) };
    let flat = tape.reshape(x, &[batch * queries, columns])?;
    if queries == 1 {
        return Ok(flat);
    }
    let rows: Vec<u32> = (1..=batch).map(|example| (example * queries - 1) as u32).collect();
    let rows = tape.constant_u32(&[batch], &rows);
    tape.push1(GatherRows, &[flat, rows])
}

/// Dominant part of each column of x [B, C] given the answer, [2, C], and the components of the columns'
/// conditional means, [n, C].
fn of_batch(tape: &mut Tape, group: &Parts, x: Var, targets: Var) -> Result<(Var, Var)> {
    let means = answer_means(tape, group, x, targets)?;
    let basis = group.over(tape, &group.classes, group.classes.len());
    let components = tape.push1(Linear::default(), &[basis, means])?;
    let starts = tape.constant_u32(&[group.starts.len()], &group.starts);
    let weights = tape.constant(&[group.count()], &group.weights);
    Ok((tape.push1(Dominant { grid: None }, &[starts, weights, components])?, components))
}

/// Mean of each column of x [B, C] for each answer, centred, [classes, C]; 0 where no row has the answer or
/// it is outside of the group.
pub(crate) fn answer_means(tape: &mut Tape, group: &Parts, x: Var, targets: Var) -> Result<Var> {
    let classes = group.classes.len();
    let batch = tape.shape(targets).len();
    let sums = scatter_rows(tape, x, targets, classes)?;
    // Answers outside of the group make up empty bins.
    let inside: Vec<f32> = group.classes.iter().map(|class| f32::from(u8::from(class.is_some()))).collect();
    let ones = match inside.contains(&0.0) {
        false => tape.constant(&[batch, 1], &vec![1.0; batch]),
        true => {
            let inside = tape.constant(&[classes, 1], &inside);
            tape.push1(GatherRows, &[inside, targets])?
        }
    };
    let counts = scatter_rows(tape, ones, targets, classes)?;
    tape.push1(BinMeans, &[sums, counts])
}

/// Elements of both operands of an example; `None` where one is outside of the group.
type Place = Option<(usize, usize)>;

/// Lists of the rows of pairs (a, b) by the elements a + b, a - b, a and b: see `bucket_rows`. Rows with one outside of the
/// group are in none.
type Families = [(Var, Var); 4];

/// The families of rows with these operands, those of all replicas or of each in turn.
fn families(tape: &mut Tape, n: usize, rows: usize, pairs: &[Place]) -> Result<Families> {
    let mut lists = |family: fn(usize, usize, usize) -> usize| {
        let index: Vec<u32> = pairs.iter().map(|p| p.map_or(IGNORE, |(a, b)| family(a, b, n) as u32)).collect();
        let index = tape.constant_u32(&[rows], &index);
        bucket_rows(tape, index, n)
    };
    Ok([lists(|a, b, n| (a + b) % n)?, lists(|a, b, n| (a + n - b) % n)?, lists(|a, _, _| a)?, lists(|_, b, _| b)?])
}

/// Dominant frequency of each column over all pairs (a, b), the best of the 3 x 3 blocks of its 2-D DFT,
/// [2, C]; and its components along a + b, [n, C]. The columns come in pieces [., C], with the families of
/// their rows.
///
/// cos and sin of k a times those of k b span the same as cos and sin of k (a + b) and of k (a - b), so
/// sums by a, b, a + b and a - b hold all that is needed. Every sum goes on from one piece to the next, so that no bit
/// depends on the cut.
fn of_grid(tape: &mut Tape, group: &Parts, pieces: &[Var], families: &[Families]) -> Result<(Var, Var)> {
    let n = group.order;
    let first = tape.constant_u32(&[1], &[0]);
    let pivot = tape.push1(GatherRows, &[pieces[0], first])?;
    let (mut spread, mut sums) = (None, [None; 4]);
    for (piece, families) in pieces.iter().zip(families) {
        let (starts, order) = families[0];
        let inputs: Vec<Var> = [*piece, pivot, starts, order].into_iter().chain(spread).collect();
        spread = Some(tape.push1(ListSpread, &inputs)?);
        for (sum, lists) in sums.iter_mut().zip(families) {
            *sum = Some(add_rows(tape, *sum, *piece, *lists)?);
        }
    }
    let spread = spread.ok_or_else(|| misfit("grid", "no pieces"))?;
    let columns = tape.shape(spread).rows().1;
    let spread = tape.reshape(spread, &[n, 3 * columns])?;
    let spread = tape.push1(ColumnSum, &[spread])?;
    let spread = tape.reshape(spread, &[3, columns])?;
    let basis = group.over_elements(tape);
    let differences = group.without_last_cosine(tape);
    let starts = tape.constant_u32(&[group.starts.len()], &group.starts);
    let mut inputs = vec![starts, tape.constant(&[group.count()], &group.weights)];
    for (at, sum) in sums.into_iter().flatten().enumerate() {
        let basis = if at == 1 { differences } else { basis };
        inputs.push(tape.push1(Linear::default(), &[basis, sum])?);
    }
    inputs.push(spread);
    // A unit vector over elements, spread over n pairs for each, is longer by the root of n.
    let op = Dominant { grid: Some(((n * n) as f32, 1.0 / n as f32)) };
    Ok((tape.push1(op, &inputs)?, inputs[2]))
}

/// Followers of each part, agreement of their phases, and statistics: see [`DominantSummary`].
fn summary(tape: &mut Tape, group: &Parts, dominant: Var, components: Var, threshold: f32) -> Result<[Var; 3]> {
    let starts = tape.constant_u32(&[group.starts.len()], &group.starts);
    let out = tape.push(DominantSummary { threshold }, &[dominant, components, starts])?;
    Ok([out[0], out[1], out[2]])
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::super::parts::tests::{cyclic, symmetric};
    use super::*;
    use crate::autograd::check::{Case, gpus};

    fn wave(k: usize, element: usize, order: usize, phase: f64) -> f64 {
        (TAU * (k * element) as f64 / order as f64 + phase).cos()
    }

    /// Dominant frequencies and shares of columns given as functions of (a, b), on each device.
    fn over_grid(order: usize, columns: &[&dyn Fn(usize, usize) -> f64]) -> Vec<Vec<f32>> {
        let mut case = Case::new("grid");
        let group = cyclic(order);
        let pairs: Vec<Place> = (0..order * order).map(|at| Some((at / order, at % order))).collect();
        let value = |at: usize| {
            let (row, column) = (at / columns.len(), at % columns.len());
            columns[column](row / order, row % order) as f32
        };
        let data: Vec<f32> = (0..order * order * columns.len()).map(value).collect();
        // Two pieces, cut in the middle of a row of the grid.
        let (left, right) = data.split_at((order * order / 2 + 1) * columns.len());
        let (above, below) = pairs.split_at(left.len() / columns.len());
        let pieces = [(left, above), (right, below)]
            .map(|(data, pairs)| case.tape.constant(&[pairs.len(), columns.len()], data));
        let rows = [above, below].map(|pairs| families(&mut case.tape, order, pairs.len(), pairs).unwrap());
        let (found, _) = of_grid(&mut case.tape, &group, &pieces, &rows).unwrap();
        gpus().iter().map(|gpu| case.run(gpu, &[found]).unwrap().concat().concat()).collect()
    }

    #[test]
    fn planted_waves_are_explained_whole_and_mixtures_in_part() {
        for n in [7, 12, 31] {
            let found = over_grid(
                n,
                &[
                    &|a, b| 5.0 + wave(2, a + b, n, 0.3),
                    &|a, b| wave(3, a, n, 0.1) * wave(3, b, n, 1.0),
                    // Energies 1/2 and 1/8: the first explains four fifths.
                    &|a, b| wave(1, a, n, 0.0) + 0.5 * wave(3, a + n - b, n, 0.0),
                    &|_, _| 3.0,
                    &|a, b| wave(n / 2, a, n, 0.2) + wave(n / 2, a + b, n, 0.2),
                ],
            );
            for values in found {
                assert_eq!(values[..5], [2.0, 3.0, 1.0, 0.0, (n / 2) as f32]);
                for (value, expected) in values[5..].iter().zip([1.0, 1.0, 0.8, 0.0, 1.0]) {
                    assert!((value - expected).abs() < 1e-5, "{n}: {values:?}");
                }
            }
        }
    }

    #[test]
    fn a_share_is_that_of_the_3_by_3_block_of_the_2_d_transform() {
        let n = 11;
        let value = |a: usize, b: usize| ((a * a + 3 * b + a * b) as f64).sin().max(0.0);
        let mean = (0..n * n).map(|at| value(at / n, at % n)).sum::<f64>() / (n * n) as f64;
        let variance: f64 = (0..n * n).map(|at| (value(at / n, at % n) - mean).powi(2)).sum();
        let unit = |which: usize, k: usize, x: usize| match which {
            0 => (1.0 / n as f64).sqrt(),
            _ => (2.0 / n as f64).sqrt() * wave(k, x, n, if which == 1 { 0.0 } else { -TAU / 4.0 }),
        };
        let block = |k: usize| -> f64 {
            let along = |i: usize, j: usize| -> f64 {
                (0..n * n).map(|at| value(at / n, at % n) * unit(i, k, at / n) * unit(j, k, at % n)).sum()
            };
            (1..9).map(|at| along(at / 3, at % 3).powi(2)).sum::<f64>() / variance
        };
        let best = (1..=n / 2).max_by(|j, k| block(*j).total_cmp(&block(*k))).unwrap();
        for values in over_grid(n, &[&value]) {
            assert_eq!(values[0], best as f32);
            assert!((f64::from(values[1]) - block(best)).abs() < 1e-5, "{values:?}, {}", block(best));
        }
    }

    /// Counts, phase agreement and statistics of columns that depend on the answer alone; with `padded`
    /// rows of noise that do not count.
    fn over_batch(order: usize, padded: usize, columns: &[Box<dyn Fn(usize) -> f64>]) -> Vec<Vec<Vec<f32>>> {
        let mut case = Case::new("batch");
        let group = cyclic(order);
        // Every answer at least twice, some more often, in no order.
        let mut targets: Vec<u32> = (0..order * 5 / 2).map(|i| (i * 3 % order) as u32).collect();
        let mut data: Vec<f32> =
            targets.iter().flat_map(|s| columns.iter().map(move |column| column(*s as usize) as f32)).collect();
        data.extend((0..padded * columns.len()).map(|i| (i * i % 7) as f32));
        targets.extend(vec![IGNORE; padded]);
        let x = case.tape.constant(&[targets.len(), columns.len()], &data);
        let targets = case.tape.constant_u32(&[targets.len()], &targets);
        let (dominant, components) = of_batch(&mut case.tape, &group, x, targets).unwrap();
        let out = summary(&mut case.tape, &group, dominant, components, 0.0).unwrap();
        gpus().iter().map(|gpu| case.run(gpu, &out).unwrap().concat()).collect()
    }

    fn waves(order: usize, of: impl Fn(usize) -> (usize, f64), count: usize) -> Vec<Box<dyn Fn(usize) -> f64>> {
        let column =
            |(k, phase): (usize, f64)| Box::new(move |s| 2.0 + wave(k, s, order, phase)) as Box<dyn Fn(_) -> _>;
        (0..count).map(|j| column(of(j))).collect()
    }

    #[test]
    fn neurons_of_one_frequency_have_degree_1_and_evenly_spread_ones_0() {
        let n = 31;
        for padded in [0, 7] {
            for values in over_batch(n, padded, &waves(n, |j| (4, j as f64), 40)) {
                let [counts, _, stats] = &values[..] else { panic!() };
                assert_eq!((counts[3], counts.iter().sum::<f32>()), (40.0, 40.0));
                assert!((stats[0] - 1.0).abs() < 1e-6 && stats[3..].iter().all(|top| *top == 1.0), "{stats:?}");
            }
            for values in over_batch(n, padded, &waves(n, |j| (j % 15 + 1, 0.0), 45)) {
                let [counts, _, stats] = &values[..] else { panic!() };
                assert!(counts.iter().all(|count| *count == 3.0), "{counts:?}");
                assert!(stats[0].abs() < 1e-6, "{stats:?}");
                for (n, top) in (1..).zip(&stats[3..]) {
                    assert!((top - n as f32 / 15.0).abs() < 1e-6, "{stats:?}");
                }
            }
        }
    }

    #[test]
    fn neurons_of_one_irrep_have_degree_1() {
        let group = symmetric(4);
        let task = crate::task::Permutation::new(4);
        let characters = crate::task::Task::irreps(&task).unwrap().characters;
        for irrep in 1..5 {
            let mut case = Case::new("irrep");
            // A little of another irrep, which the size of ρ must not turn into the most.
            let other = if irrep == 1 { 2 } else { 1 };
            let value = |g: usize| (characters[irrep][g] + 0.1 * characters[other][g]) as f32;
            let data: Vec<f32> = (0..24).map(value).collect();
            let x = case.tape.constant(&[24, 1], &data);
            let targets: Vec<u32> = (0..24).collect();
            let targets = case.tape.constant_u32(&[24], &targets);
            let (dominant, components) = of_batch(&mut case.tape, &group, x, targets).unwrap();
            let out = summary(&mut case.tape, &group, dominant, components, 0.0).unwrap();
            for gpu in gpus() {
                let found = case.run(gpu, &[dominant, out[2]]).unwrap().concat();
                assert_eq!(found[0][0], irrep as f32);
                assert!((found[0][1] - 1.0 / 1.01).abs() < 1e-5 && (found[1][0] - 1.0).abs() < 1e-6, "{found:?}");
            }
        }
    }

    #[test]
    fn equal_phases_agree_whole_and_random_ones_by_chance() {
        let n = 31;
        for values in over_batch(n, 0, &waves(n, |_| (5, 1.2), 33)) {
            assert!((values[1][4] - 1.0).abs() < 1e-5 && values[1][3] == 0.0, "{:?}", values[1]);
        }
        // Opposite phases cancel.
        for values in over_batch(n, 0, &waves(n, |j| (5, TAU * j as f64 / 8.0), 32)) {
            assert!(values[1][4] < 1e-5, "{:?}", values[1]);
        }
        // Random phases: √π / (2 √N) = 0.044 on average; three times that is rare.
        let random = |j: usize| (5, TAU * ((j as f64 * 12.9898).sin() * 43758.5453).fract());
        for values in over_batch(n, 0, &waves(n, random, 400)) {
            assert!(values[1][4] > 0.002 && values[1][4] < 0.14, "{:?}", values[1]);
        }
    }

    #[test]
    fn bins_without_examples_and_answers_outside_of_the_group_do_not_count() {
        let mut case = Case::new("holes");
        let n = 12;
        let mut group = cyclic(n);
        // Thirteen classes, of which number 5 is no element.
        group.classes.insert(5, None);
        let elements: Vec<u32> = (0..13).filter(|class| *class != 9).flat_map(|class| [class; 3]).collect();
        let data: Vec<f32> = elements
            .iter()
            .map(|class| match group.classes[*class as usize] {
                Some(element) => wave(2, element, n, 0.4) as f32,
                None => 100.0,
            })
            .collect();
        let x = case.tape.constant(&[data.len(), 1], &data);
        let targets = case.tape.constant_u32(&[data.len()], &elements);
        let (dominant, _) = of_batch(&mut case.tape, &group, x, targets).unwrap();
        for gpu in gpus() {
            let found = case.run(gpu, &[dominant]).unwrap().concat().concat();
            // One bin of twelve is empty: most of the wave is still there.
            assert!(found[0] == 2.0 && found[1] > 0.8, "{found:?}");
        }
    }
}
