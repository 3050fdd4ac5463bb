//! Induction: where heads look relative to what was read before, on the training batch and on repeated random
//! tokens, and what models gain from context. Definitions: Olsson et al. 2022, detectors of TransformerLens.

use std::ops::Range;

use super::attention::{PatternParams, counts, four, own_targets, params, rows_of};
use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{ActFn, Activation, Add, Linear, add_rows, bucket_rows, sum_columns};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Philox, Shader, Stream, Tensor, grid_1d};
use crate::instrument::{Attach, Card, CostClass, Index, Instrument, Label, Presence};
use crate::intervene::{Contrasts, OUTCOMES};
use crate::model::{Forward, Model, ReadOut, Rows};
use crate::task::{Batch, Pass, count_targets};

/// `previous_token_score`, `duplicate_token_score`, `prefix_matching_score`.
pub(crate) struct Induction;

/// The same on repeated random tokens, and `in_context_learning_score.probe`.
pub(crate) struct Probe;

/// `in_context_learning_score`.
pub(crate) struct InContext;

const PREVIOUS: &str = "mean over queries i ≥ 1 of A_i,i-1";
const DUPLICATE: &str = "mean of Σ_j<i A_ij [token j = token i] over queries whose token stood before";
const PREFIX: &str = "mean of Σ_j<i A_i,j+1 [token j = token i] over queries whose token stood before";
const AXES: &str = "site: hook_pattern, layer, head with index 0; head -1 with index 1: uniform attention";
const CHANCE: &str = "index 1: what attention spread evenly over the visible keys would score on the same queries";
const DETECTORS: &str = "Olsson et al. 2022; Σ(pattern mask) / Σ pattern of TransformerLens, over queries with a mask";
const REPEATS: &str =
    "the same on 16 times up to 25 random tokens, all different, repeated up to 4 times behind token 0";

const fn score(name: &'static str, formula: &'static str, not_for: &'static str) -> Card {
    Card {
        name,
        formula,
        unit: "1",
        axes: AXES,
        index: Index::Names(&["the head", "uniform attention"]),
        cost: CostClass::L,
        every: 10,
        control: CHANCE,
        source: DETECTORS,
        not_for,
        ..Card::BASE
    }
}

const fn probe(name: &'static str, formula: &'static str, not_for: &'static str) -> Card {
    Card { cost: CostClass::M, every: 100, source: REPEATS, ..score(name, formula, not_for) }
}

const CARDS: &[Card] = &[
    score("previous_token_score", PREVIOUS, "a function: a head may look back and write nothing"),
    score(
        "duplicate_token_score",
        DUPLICATE,
        "comparing tasks: the queries whose prediction counts are those of the training batch",
    ),
    score(
        "prefix_matching_score",
        PREFIX,
        "induction by itself: in text what follows a token is often the token again, and looking is not copying",
    ),
];

const PROBE_CARDS: &[Card] = &[
    probe("previous_token_score.probe", PREVIOUS, "a function: a head may look back and write nothing"),
    probe("duplicate_token_score.probe", DUPLICATE, "models of a vocabulary or context too small for two rounds"),
    probe("prefix_matching_score.probe", PREFIX, "natural text: random tokens are far from what such a model has seen"),
    GAINED,
    Card {
        name: "in_context_learning_score.probe.se",
        formula: "standard error over the 16 sequences, paired",
        control: "each sequence is one observation, however many tokens it has",
        source: "definition; and at least what f32 can tell",
        not_for: "neighbouring steps as independent evidence: the sequences are the same",
        bounds: Card::SIZE,
        ..GAINED
    },
];
const GAINED: Card = Card {
    name: "in_context_learning_score.probe",
    formula: "mean loss of the last round of the repeated tokens; index 0 less that of the first round, 1 less that of a last round of the same tokens in another order",
    unit: "nats",
    axes: "index: 0 all that the context gives, 1 what its order gives",
    cost: CostClass::M,
    every: 100,
    control: "its .se: whether it differs from 0; index 1, which is 0 for models that know which tokens came, but not in what order; one layer may reach -2 nats by that in index 0. Its other order leaves no token behind the one before it, nor the first behind the last; models with room for two tokens a round alone have no such order, and no index 1",
    source: "after Olsson et al. 2022, on the tokens of prefix_matching_score.probe",
    not_for: "a model whose training leaves the first round out of the loss: that part is untrained",
    index: Index::Names(&["all that the context gives", "what its order gives"]),
    ..Card::BASE
};

const CONTEXT_CARDS: &[Card] = &[Card {
    name: "in_context_learning_score",
    formula: "mean test loss at the late position - at the early one: tokens 500 and 50, or T and T/10 where T < 500",
    unit: "nats",
    axes: "index: the late position, from 1",
    index: Index::Counts("position that is late in the sequence, from 1"),
    cost: CostClass::M,
    every: 100,
    control: "in_context_learning_score.probe, index 1: knowing which tokens came before, in whatever order, lowers it too. 0: a late token is no easier",
    source: "Olsson et al. 2022",
    not_for: "few test sequences: it is the difference of two means over one position each",
    ..Card::BASE
}];

impl Instrument for Induction {
    fn name(&self) -> &'static str {
        "induction"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence(self) else { return Ok(()) };
        let (model, train) = (cx.model, cx.train);
        let scores = cx.tape.at_cadence(every, |tape| {
            let tokens = train.batch.tokens(tape)?;
            all_scores(tape, model, &train.forward, tokens, train.batch.targets, train.batch.size)
        })?;
        record_scores(self, cx, &scores);
        Ok(())
    }
}

impl Instrument for Probe {
    fn name(&self) -> &'static str {
        "induction_probe"
    }

    fn cards(&self) -> &'static [Card] {
        PROBE_CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let (Some(every), Some(repeats)) = (cx.cadence(self), Repeats::fitting(cx.model)) else {
            return Ok(());
        };
        let (model, most) = (cx.model, cx.pieces.most_of(&cx.model.config, repeats.seq()));
        let (scores, gaps) = cx.tape.at_cadence(every, |tape| repeats.measure(tape, model, most))?;
        record_scores(self, cx, &scores);
        for (index, gap) in (0..).zip(gaps) {
            let (labels, error) = (vec![Label { index, ..Label::NONE }], format!("{}.se", GAINED.name));
            cx.record(self, GAINED.name, "logits", gap, 0, labels.clone());
            cx.record_where(Presence::WhereKnown, self, &error, "logits", gap, OUTCOMES, labels);
        }
        Ok(())
    }
}

impl Instrument for InContext {
    fn name(&self) -> &'static str {
        "in_context"
    }

    fn cards(&self) -> &'static [Card] {
        CONTEXT_CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let (Some(every), shape) = (cx.cadence(self), cx.task.shape()) else { return Ok(()) };
        let late = shape.seq.min(500);
        if shape.read == ReadOut::Last || late < 10 {
            return Ok(());
        }
        let passes = cx.test_passes(every)?;
        let places = [late / 10 - 1..late / 10, late - 1..late];
        let gap = cx.tape.at_cadence(every, |tape| {
            let totals = position_totals(tape, &passes)?;
            let [sums, counts] = totals;
            let [early, late] = places;
            tape.push1(PositionGap { early, late }, &[sums, counts, sums, counts])
        })?;
        let label = Label { index: late as i32, ..Label::NONE };
        cx.record_where(Presence::WhereNotZero, self, "in_context_learning_score", "logits", gap, 0, vec![label]);
        Ok(())
    }
}

/// Declares the scores [3, H + 1] of every layer. What no query has a place for is 0 and has no row.
fn record_scores(instrument: &dyn Instrument, cx: &mut Attach<'_>, scores: &[Var]) {
    let heads = cx.model.config.n_heads;
    for (layer, found) in (0..).zip(scores) {
        let site = format!("blocks.{layer}.attn.hook_pattern");
        let chance = Label { layer, head: -1, index: 1 };
        let labels: Vec<Label> =
            (0..heads as i32).map(|head| Label { layer, head, index: 0 }).chain([chance]).collect();
        for (at, card) in instrument.cards()[..3].iter().enumerate() {
            let (first, labels) = (at * (heads + 1), labels.clone());
            cx.record_where(Presence::WhereNotZero, instrument, card.name, &site, *found, first, labels);
        }
    }
}

/// Scores [3, H + 1] of the patterns of every layer.
fn all_scores(
    tape: &mut Tape,
    model: &Model,
    forward: &Forward,
    tokens: Var,
    targets: Var,
    batch: usize,
) -> Result<Vec<Var>> {
    let counts = tape.push1(MatchCounts { batch }, &[tokens, targets])?;
    let layers = (0..model.config.n_layers).map(|layer| {
        let (x, taken) = rows_of(forward, layer)?;
        tape.push1(MatchScores { taken, each: false }, &[x, tokens, targets, counts])
    });
    layers.collect()
}

/// Losses at each position and how many there are, [T] each, over all pieces of a set, whose cut changes no bit.
fn position_totals(tape: &mut Tape, passes: &[Pass]) -> Result<[Var; 2]> {
    let (mut sums, mut counts) = (None, None);
    for pass in passes {
        let (size, seq) = (pass.batch.size, pass.batch.seq);
        let losses = tape.reshape(pass.loss, &[size, seq])?;
        let together = tape.constant_u32(&[size], &vec![0; size]);
        let lists = bucket_rows(tape, together, 1)?;
        sums = Some(add_rows(tape, sums, losses, lists)?);
        // Whole numbers, which add up exactly.
        let part = count_targets(tape, pass.batch.targets, seq)?;
        counts = Some(counts.map_or(Ok(part), |counts| tape.push1(Add, &[counts, part]))?);
    }
    let (Some(sums), Some(counts)) = (sums, counts) else { return Err(misfit("position gap", "an empty test set")) };
    Ok([tape.reshape(sums, &[tape.shape(counts).len()])?, counts])
}

/// Random tokens, all different, that are repeated behind token 0, which stands nowhere else.
pub(crate) struct Repeats {
    /// Number of the first sequence: each has tokens of its own.
    pub(crate) first: u64,
    pub(crate) sequences: usize,
    pub(crate) period: usize,
    pub(crate) rounds: usize,
}

impl Repeats {
    /// 16 sequences with as many rounds of 25 tokens as fit, 4 at most; of fewer where context or vocabulary is small; `None`
    /// where there is no room for two rounds of two tokens.
    fn fitting(model: &Model) -> Option<Self> {
        let room = model.config.n_ctx - 1;
        let period = (room / 2).min(model.config.d_vocab - 1).min(25);
        (period >= 2).then(|| Self { first: 0, sequences: 16, period, rounds: (room / period).min(4) })
    }

    pub(crate) fn seq(&self) -> usize {
        1 + self.period * self.rounds
    }

    /// Orders of the last round that let nothing be known from the earlier ones: no token has the one before it that it had
    /// there, the last round's first token included. The fewest tokens that have such an order.
    const REORDERED: usize = 3;

    /// Whether an order is one of these. The last token of a round stood before the first one of the next.
    fn is_apart(order: &[u32]) -> bool {
        let period = order.len() as u32;
        let before = std::iter::once(period - 1).chain(order.iter().copied());
        before.zip(order).all(|(before, token)| *token != (before + 1) % period)
    }

    /// Tokens and next tokens of all sequences, the same in every run; where `permuted`, with the last round in another order.
    fn draw(&self, vocabulary: usize, permuted: bool) -> (Vec<u32>, Vec<u32>) {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for number in self.first..self.first + self.sequences as u64 {
            let order = Philox::new(number, Stream::Repeats, 0).permutation(vocabulary as u32 - 1);
            let drawn = |draw| Philox::new(number, Stream::Repeats, draw).permutation(self.period as u32);
            let last = (1..).map(drawn).find(|order| !permuted || Self::is_apart(order)).filter(|_| permuted);
            let repeated = |t: usize| {
                let (round, place) = (t / self.period, t % self.period);
                let moved = last.as_ref().filter(|_| round + 1 == self.rounds);
                1 + order[moved.map_or(place, |last| last[place] as usize)]
            };
            tokens.push(0);
            tokens.extend((1..self.seq()).map(|t| repeated(t - 1)));
            targets.extend((0..self.seq()).map(repeated));
        }
        (tokens, targets)
    }

    /// A forward pass over the sequences, and their tokens.
    fn pass(&self, tape: &mut Tape, model: &Model, permuted: bool) -> Result<(Pass, Var)> {
        let (size, seq) = (self.sequences, self.seq());
        let (tokens, targets) = self.draw(model.config.d_vocab, permuted);
        let [tokens, targets] = [tokens, targets].map(|data| tape.constant_u32(&[size * seq], &data));
        let count = tape.constant(&[1], &[(size * seq) as f32]);
        let batch = Batch { rows: Rows::Each { tokens }, targets, count, size, seq, ids: None };
        Ok((Pass::new(tape, model, batch, ReadOut::All)?, tokens))
    }

    /// These sequences, at most so many at once.
    fn pieces(&self, most: usize) -> impl Iterator<Item = Self> {
        let end = self.first + self.sequences as u64;
        let starts = (self.first..end).step_by(most);
        starts.map(move |first| Self { first, sequences: most.min((end - first) as usize), ..*self })
    }

    /// Of each sequence, the mean of its losses over some positions, in the first column of outcomes by example [E, 8].
    fn means(&self, tape: &mut Tape, pass: &Pass, over: &Range<usize>) -> Result<Var> {
        let share = |at: usize| match at.is_multiple_of(OUTCOMES) && over.contains(&(at / OUTCOMES)) {
            true => 1.0 / over.len() as f32,
            false => 0.0,
        };
        let shares: Vec<f32> = (0..self.seq() * OUTCOMES).map(share).collect();
        let shares = tape.constant(&[self.seq(), OUTCOMES], &shares);
        let losses = tape.reshape(pass.loss, &[self.sequences, self.seq()])?;
        tape.push1(Linear::default(), &[losses, shares])
    }

    /// Mean over sequences of what is in one table of [`Repeats::means`] above another, and its standard error, in columns 0 and
    /// 8: see [`Contrasts`].
    fn gap(&self, tape: &mut Tape, late: Var, early: Var) -> Result<Var> {
        let asked = tape.constant_u32(&[self.sequences], &vec![0; self.sequences]);
        let count = tape.constant(&[1], &[self.sequences as f32]);
        let (term, minus) = (tape.constant_u32(&[1, 1], &[0]), tape.constant(&[1, 1], &[-1.0]));
        let [late, early] = [late, early].map(|table| tape.reshape(table, &[1, self.sequences, OUTCOMES]));
        tape.push1(Contrasts, &[late?, early?, asked, count, term, minus])
    }

    /// Scores [3, H + 1] of every layer, see [`MatchScores`]; and, where the model predicts tokens, the sum of losses over sequences
    /// at each position, [T], which asks for repeated token number t.
    #[cfg(feature = "cli")]
    pub(crate) fn scores(&self, tape: &mut Tape, model: &Model) -> Result<(Vec<Var>, Option<Var>)> {
        let (pass, tokens) = self.pass(tape, model, false)?;
        let scores = all_scores(tape, model, &pass.forward, tokens, pass.batch.targets, self.sequences)?;
        if model.config.d_vocab_out < model.config.d_vocab {
            return Ok((scores, None));
        }
        Ok((scores, Some(position_totals(tape, &[pass])?[0])))
    }

    /// Scores [3, H + 1] of every layer; and, where the model predicts tokens, what the last round's loss is above the first's, and,
    /// where there is one, above that of a last round in another order, as of [`Repeats::gap`]. At most so many sequences pass at
    /// once, which changes no bit.
    fn measure(&self, tape: &mut Tape, model: &Model, most: usize) -> Result<(Vec<Var>, Vec<Var>)> {
        // Of all sequences: queries with a token before them, and those of a round behind the first.
        let queries = [self.seq() - 1, self.seq() - 1 - self.period].map(|queries| (self.sequences * queries) as f32);
        let queries = tape.constant(&[2], &queries);
        // Position t asks for repeated token number t: the last round's are asked for from the end of the one before.
        let last = self.seq() - 1 - self.period..self.seq() - 1;
        let predicts = model.config.d_vocab_out >= model.config.d_vocab;
        let reordered = predicts && self.period >= Self::REORDERED;
        let mut scores = vec![None; model.config.n_layers];
        // Means of the last round, of the first, and of the last in another order.
        let mut tables = [None; 3];
        for piece in self.pieces(most) {
            let (pass, tokens) = piece.pass(tape, model, false)?;
            let together = tape.constant_u32(&[piece.sequences], &vec![0; piece.sequences]);
            let together = bucket_rows(tape, together, 1)?;
            for (layer, sum) in scores.iter_mut().enumerate() {
                let (x, taken) = rows_of(&pass.forward, layer)?;
                let each = tape.push1(MatchScores { taken, each: true }, &[x, tokens, pass.batch.targets, queries])?;
                *sum = Some(add_rows(tape, *sum, each, together)?);
            }
            let own: Vec<u32> = (piece.first - self.first..).map(|at| at as u32).take(piece.sequences).collect();
            let own = tape.constant_u32(&[piece.sequences], &own);
            let own = bucket_rows(tape, own, self.sequences)?;
            let mut means = Vec::new();
            if predicts {
                means.extend([piece.means(tape, &pass, &last)?, piece.means(tape, &pass, &(0..self.period))?]);
            }
            if reordered {
                let (permuted, _) = piece.pass(tape, model, true)?;
                means.push(piece.means(tape, &permuted, &last)?);
            }
            for (table, means) in tables.iter_mut().zip(means) {
                *table = Some(add_rows(tape, *table, means, own)?);
            }
        }
        let [repeated, others @ ..] = tables;
        let gaps = others.into_iter().flatten().filter_map(|other| Some(self.gap(tape, repeated?, other)));
        let gaps: Vec<Var> = gaps.collect::<Result<_>>()?;
        Ok((scores.into_iter().flatten().collect(), gaps))
    }
}

static MATCH_COUNTS: Shader<'_> = Shader {
    name: "instrument/heads/match_counts",
    source: include_str!("../../../shaders/instrument/heads/match_counts.wgsl"),
    knobs: &[],
    params: PatternParams::FIELDS,
};
static MATCH_SCORES: Shader<'_> = Shader {
    name: "instrument/heads/match_scores",
    source: include_str!("../../../shaders/instrument/heads/match_scores.wgsl"),
    knobs: &[Knob { name: "TAKEN", values: &[0, 1] }],
    params: PatternParams::FIELDS,
};
crate::params! {
    struct GapParams {
        early: u32, early_end: u32, late: u32, late_end: u32, early_sums_replica: u32, early_counts_replica: u32,
        late_sums_replica: u32, late_counts_replica: u32, y_replica: u32,
    }
}
static POSITION_GAP: Shader<'_> = Shader {
    name: "instrument/heads/position_gap",
    source: include_str!("../../../shaders/instrument/heads/position_gap.wgsl"),
    knobs: &[],
    params: GapParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&MATCH_COUNTS, &MATCH_SCORES, &POSITION_GAP];

/// y [2]: how many queries that count have a token before them, and how many of those read a token that stood
/// before. Inputs: tokens [B * T], targets [B * T], or `[B]` where only the last position is read out.
struct MatchCounts {
    batch: usize,
}

impl MatchCounts {
    /// Dimensions of a pattern in which every position asks.
    fn dims(&self, tokens: usize) -> [usize; 4] {
        [self.batch, 1, tokens / self.batch, tokens / self.batch]
    }
}

impl Op for MatchCounts {
    fn name(&self) -> &'static str {
        "match counts"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &[2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [tokens, targets] = inputs else { return Err(misfit("match counts", "inputs")) };
        let dims = self.dims(tokens.len());
        let groups = tokens.len().div_ceil(64);
        let partial = cx.scratch(&[groups, 2]);
        let params = PatternParams {
            tokens_replica: tokens.replica_stride,
            ..params(dims, own_targets(dims, targets.len()), 64, [None, Some(targets), None, None, Some(&partial)])
        };
        cx.dispatch(&MATCH_COUNTS, &[], &params, &[tokens, targets, &partial], grid_1d(groups as u64, cx.replicas))?;
        sum_columns(cx, &partial, groups, 2, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let dims @ [batch, _, seq, _] = self.dims(inputs[0].data.len());
        let mut out = Array::zeros(&[2]);
        for b in 0..batch {
            let tokens = &inputs[0].data[b * seq..][..seq];
            for i in (1..seq).filter(|i| counts(dims, inputs[1], b, *i)) {
                out.data[0] += 1.0;
                out.data[1] += f64::from(tokens[..i].contains(&tokens[i]));
            }
        }
        vec![out]
    }
}

/// y [3, H + 1]: previous-token, duplicate-token and prefix-matching score of each head, and of uniform attention;
/// 0 where no query has one. Inputs: A [B, H, Tq, T], tokens [B * T], targets, counts [2].
struct MatchScores {
    /// Whether statistics of the rows [B, H, Tq, 5] stand in for A.
    taken: bool,
    /// Whether each example has a row for its part of them: y [B, 3 (H + 1)].
    each: bool,
}

impl MatchScores {
    fn dims(&self, batch: usize, heads: usize) -> [usize; 2] {
        if self.each { [batch, 3 * (heads + 1)] } else { [3, heads + 1] }
    }
}

impl Op for MatchScores {
    fn name(&self) -> &'static str {
        "match scores"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [batch, heads, _, keys] = four(&inputs[0].dims)?;
        if !self.taken && inputs[1].len() != batch * keys {
            return Err(misfit("match scores", format!("{:?} and {} tokens", inputs[0].dims, inputs[1].len())));
        }
        Ok(vec![like(inputs, &self.dims(batch, heads))])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, tokens, targets, counts] = inputs else { return Err(misfit("match scores", "inputs")) };
        let [batch, heads, queries, _] = four(&x.dims)?;
        let dims = [batch, heads, queries, tokens.len() / batch];
        let of_example = if self.taken { queries } else { queries * dims[3] };
        let usual = if self.taken { 64 } else { 2048 };
        let chunk = if self.each { of_example } else { usual };
        let chunks = (batch * of_example).div_ceil(chunk);
        let partial = if self.each { outputs[0].clone() } else { cx.scratch(&[chunks, outputs[0].len()]) };
        let strides = [Some(x), Some(targets), Some(counts), None, Some(&partial)];
        let params = PatternParams {
            tokens_replica: tokens.replica_stride,
            ..params(dims, own_targets(dims, targets.len()), chunk, strides)
        };
        let grid = [heads as u32 + 1, chunks as u32, cx.replicas];
        cx.dispatch(&MATCH_SCORES, &[u32::from(self.taken)], &params, &[x, tokens, targets, counts, &partial], grid)?;
        if self.each { Ok(()) } else { sum_columns(cx, &partial, chunks, outputs[0].len(), &outputs[0]) }
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let Ok([batch, heads, queries, _]) = four(&inputs[0].dims) else { return Vec::new() };
        let keys = inputs[1].data.len() / batch;
        let dims = [batch, heads, queries, keys];
        let mut out = Array::zeros(&self.dims(batch, heads));
        for (b, q) in (0..batch).flat_map(|b| (0..queries).map(move |q| (b, q))) {
            let (tokens, i) = (&inputs[1].data[b * keys..][..keys], keys - queries + q);
            if !counts(dims, inputs[2], b, q) {
                continue;
            }
            for (h, k) in (0..=heads).flat_map(|h| (0..=i).map(move |k| (h, k))) {
                let of_head = (b * heads + h) * queries + q;
                let found = [k + 1 == i, k < i && tokens[k] == tokens[i], k > 0 && tokens[k - 1] == tokens[i]];
                for (kind, count) in [0, 1, 1].into_iter().enumerate() {
                    let a = match self.taken && h < heads {
                        // Once for the whole row.
                        true if k == 0 => inputs[0].data[of_head * 5 + 1 + kind],
                        false if found[kind] && h == heads => 1.0 / (i + 1) as f64,
                        false if found[kind] => inputs[0].data[of_head * keys + k],
                        _ => continue,
                    };
                    let row = if self.each { 3 * b } else { 0 };
                    out.data[(row + kind) * (heads + 1) + h] += a / inputs[3].data[count];
                }
            }
        }
        vec![out]
    }
}

/// y `[1]` = mean over the late positions minus mean over the early ones; 0 where one of them has no row.
/// Inputs: sums and numbers of rows at each position, [T], for the early ones and for the late ones.
struct PositionGap {
    early: Range<usize>,
    late: Range<usize>,
}

impl Op for PositionGap {
    fn name(&self) -> &'static str {
        "position gap"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs.iter().any(|s| s.len() < self.early.end.max(self.late.end)) {
            return Err(misfit("position gap", format!("{:?} in {} positions", self.late, inputs[0].len())));
        }
        Ok(vec![like(inputs, &[1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = GapParams {
            early: self.early.start as u32,
            early_end: self.early.end as u32,
            late: self.late.start as u32,
            late_end: self.late.end as u32,
            early_sums_replica: inputs[0].replica_stride,
            early_counts_replica: inputs[1].replica_stride,
            late_sums_replica: inputs[2].replica_stride,
            late_counts_replica: inputs[3].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&POSITION_GAP, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let total = |x: &Array, range: &Range<usize>| x.data[range.clone()].iter().sum::<f64>();
        let early = [inputs[0], inputs[1]].map(|x| total(x, &self.early));
        let late = [inputs[2], inputs[3]].map(|x| total(x, &self.late));
        let none = late[1] == 0.0 || early[1] == 0.0;
        vec![Array::new(&[1], vec![if none { 0.0 } else { late[0] / late[1] - early[0] / early[1] }])]
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[
    ("match scores", |c| {
        let (pattern, tokens, targets) =
            (c.owned(&[20, 4, 3, 5]), c.indices(&[100], 3, true), c.indices(&[20], 7, true));
        let pattern = c.tape.push1(Activation(ActFn::Relu), &[pattern])?;
        let counts = c.tape.push1(MatchCounts { batch: 20 }, &[tokens, targets])?;
        Ok((
            vec![counts, c.tape.push1(MatchScores { taken: false, each: false }, &[pattern, tokens, targets, counts])?],
            Vec::new(),
        ))
    }),
    ("position gap", |c| {
        let inputs = [(); 4].map(|()| c.owned(&[300]));
        Ok((vec![c.tape.push1(PositionGap { early: 3..97, late: 200..201 }, &inputs)?], Vec::new()))
    }),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::autograd::check::{Case, SIZES, gpus};
    use crate::autograd::ops::{Attention, AttentionPattern, IGNORE, StreamedAttention};
    use crate::model::ModelConfig;

    #[test]
    fn scores_match_their_reference() {
        for (b, tq, t, h) in
            [(1, 1, 1, 1), (31, 1, 3, 2), (257, 3, 3, 3), (20, 31, 31, 2), (3, 2, 257, 4), (5, 64, 64, 8)]
        {
            for own in [false, true] {
                let mut case = Case::new(&format!("match scores b{b} tq{tq} t{t} h{h}, own targets {own}"));
                let [q, k] = [tq, t].map(|n| case.owned(&[b, n, h, 4]));
                let pattern = case.tape.push(Attention { scale: 0.9 }, &[q, k, k]).unwrap()[1];
                let tokens = case.indices(&[b * t], 5, true);
                let all: Vec<u32> = (0..b * tq).map(|i| if i % 3 == 1 { IGNORE } else { 1 }).collect();
                let all = case.tape.constant_u32(&[if own { b * tq } else { b }], &all[..if own { b * tq } else { b }]);
                let counts = case.tape.constant(&[2], &[7.0, 3.0]);
                let scores = [false, true].map(|each| {
                    case.tape.push1(MatchScores { taken: false, each }, &[pattern, tokens, all, counts]).unwrap()
                });
                // Sums of up to a few thousand positive terms, in trees.
                case.agree(&scores, 1e-5);
                if tq == t {
                    let counts = case.tape.push1(MatchCounts { batch: b }, &[tokens, all]).unwrap();
                    case.agree(&[counts], 0.0);
                }
            }
        }
    }

    #[test]
    fn scores_taken_by_long_attention_are_those_of_its_pattern() {
        for (b, t, h) in [(3, 65, 2), (1, 130, 3)] {
            let mut case = Case::new("scores taken on the way");
            let (q, k) = (case.owned(&[b, t, h, 8]), case.owned(&[b, t, h, 8]));
            let (tokens, targets) = (case.indices(&[b * t], 9, true), case.indices(&[b * t], 2, true));
            let streamed = case.tape.push(StreamedAttention { scale: 0.9 }, &[q, k, k, tokens]).unwrap()[2];
            let pattern = case.tape.push(AttentionPattern { scale: 0.9 }, &[q, k]).unwrap()[0];
            let counts = case.tape.push1(MatchCounts { batch: b }, &[tokens, targets]).unwrap();
            for each in [false, true] {
                let mut scores =
                    |x, taken| case.tape.push1(MatchScores { taken, each }, &[x, tokens, targets, counts]).unwrap();
                let both = [scores(streamed, true), scores(pattern, false)];
                case.agree(&both, 1e-5);
                let exact = case.reference(0, &both).unwrap();
                for (taken, plain) in exact[0].data.iter().zip(&exact[1].data) {
                    assert!((taken - plain).abs() < 1e-12, "{taken} and {plain}");
                }
            }
        }
    }

    #[test]
    fn gaps_match_their_reference() {
        for n in SIZES {
            let mut case = Case::new("position gap");
            let sums = case.owned(&[n]);
            let counts: Vec<f32> = (0..n).map(|t| (t % 5) as f32).collect();
            let counts = case.tape.constant(&[n], &counts);
            let gap = PositionGap { early: 0..n.div_ceil(3), late: n / 2..n };
            let other = case.owned(&[n]);
            let gap = case.tape.push1(gap, &[sums, counts, other, counts]).unwrap();
            case.agree(&[gap], 1e-5);
        }
    }

    /// A model of two attention-only layers with two heads: those of number 0 are given, the others look everywhere
    /// alike and write nothing. The stream holds the token, its position, and the token before.
    fn planted(case: &mut Case) -> Model {
        const V: usize = 11;
        const T: usize = 25;
        const D: usize = 2 * V + T;
        let config = ModelConfig {
            n_layers: 2,
            d_model: D,
            n_heads: 2,
            d_head: T,
            attn_only: true,
            attn_biases: false,
            unembed_bias: false,
            d_vocab: V,
            n_ctx: T,
            ..ModelConfig::default()
        };
        let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
        // A score of 40 leaves others a share of e^-40.
        let sharp = 40.0 * (T as f32).sqrt();
        for (spec, var) in model.table.specs().iter().zip(&model.weights) {
            let columns = spec.dims[spec.dims.len() - 1];
            let ones: Vec<(usize, usize, f32)> = match spec.name.as_str() {
                "embed.W_E" => (0..V).map(|t| (t, t, 1.0)).collect(),
                "pos_embed.W_pos" => (0..T).map(|i| (i, V + i, 1.0)).collect(),
                // The key of position i - 1 is what the query of position i asks for.
                "blocks.0.attn.W_Q" => (1..T).map(|i| (V + i, i - 1, sharp)).collect(),
                "blocks.0.attn.W_K" => (0..T).map(|i| (V + i, i, 1.0)).collect(),
                "blocks.0.attn.W_V" | "blocks.1.attn.W_V" => (0..V).map(|t| (t, t, 1.0)).collect(),
                "blocks.0.attn.W_O" => (0..V).map(|t| (t, V + T + t, 1.0)).collect(),
                // A token asks for places behind itself.
                "blocks.1.attn.W_Q" => (0..V).map(|t| (t, t, sharp)).collect(),
                "blocks.1.attn.W_K" => (0..V).map(|t| (V + T + t, t, 1.0)).collect(),
                "blocks.1.attn.W_O" => (0..V).map(|t| (t, t, 3.0)).collect(),
                _ => (0..V).map(|t| (t, t, 10.0)).collect(),
            };
            let mut values = vec![0.0; spec.len()];
            ones.into_iter().for_each(|(row, column, value)| values[row * columns + column] = value);
            case.set(*var, values);
        }
        model
    }

    /// What uniform attention scores on repeats, by counting: previous token, duplicates, prefixes.
    fn chance(repeats: &Repeats) -> [f64; 3] {
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let again = 1 + repeats.period..repeats.seq();
        let stood = mean(again.map(|i| ((i - 1) / repeats.period) as f64 / (i + 1) as f64).collect());
        [mean((1..repeats.seq()).map(|i| 1.0 / (i + 1) as f64).collect()), stood, stood]
    }

    #[test]
    fn a_hand_built_induction_circuit_scores_one_and_other_heads_chance() {
        let mut case = Case::new("induction circuit");
        let model = planted(&mut case);
        let repeats = Repeats::fitting(&model).unwrap();
        assert_eq!((repeats.sequences, repeats.period, repeats.rounds), (16, 10, 2));
        let (scores, gaps) = repeats.measure(&mut case.tape, &model, 100).unwrap();
        let chance = chance(&repeats);
        for gpu in gpus() {
            let mut found = case.run(gpu, &[scores.clone(), gaps.clone()].concat()).unwrap();
            let gaps = [found.pop().unwrap()[0][0], found.pop().unwrap()[0][0]];
            for (layer, found) in found.iter().enumerate() {
                for (kind, (scores, chance)) in found[0].chunks_exact(3).zip(chance).enumerate() {
                    let [given, idle, uniform] = [scores[0], scores[1], scores[2]];
                    // A thousand terms of order 0.1.
                    assert!((f64::from(uniform) - chance).abs() < 1e-6, "{kind}: {uniform} instead of {chance}");
                    assert!((idle - uniform).abs() < 1e-6, "{kind}: {idle} and {uniform}");
                    let expected = if (layer, kind) == (0, 0) || (layer, kind) == (1, 2) { 1.0 } else { 0.0 };
                    if kind != 0 || layer == 0 {
                        assert!((given - expected).abs() < 1e-6, "layer {layer}, {kind}: {given}");
                    }
                }
            }
            // The second round's tokens stand 20 logits or more above the others; those of the first, and of a second round in
            // another order, do not.
            assert!(gaps.iter().all(|gap| *gap < -5.0), "{gaps:?}");
        }
    }

    #[test]
    fn a_bag_of_tokens_gains_from_context_and_nothing_from_its_order() {
        const V: usize = 60;
        let config = ModelConfig {
            d_model: V,
            n_heads: 1,
            d_head: V,
            attn_only: true,
            attn_biases: false,
            unembed_bias: false,
            d_vocab: V,
            n_ctx: 110,
            ..ModelConfig::default()
        };
        let mut case = Case::new("bag of tokens");
        let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
        // One head looks everywhere alike and writes what it reads: of a hundred tokens 25 come, and no other.
        for (spec, var) in model.table.specs().iter().zip(&model.weights) {
            let size = match spec.name.as_str() {
                "embed.W_E" | "blocks.0.attn.W_V" => 1.0,
                "blocks.0.attn.W_O" => 40.0,
                "unembed.W_U" => 3.0,
                _ => 0.0,
            };
            let one = |at: usize| if at / V == at % V { size } else { 0.0 };
            case.set(*var, (0..spec.len()).map(one).collect());
        }
        let repeats = Repeats::fitting(&model).unwrap();
        assert_eq!((repeats.period, repeats.rounds), (25, 4));
        let (_, gaps) = repeats.measure(&mut case.tape, &model, 100).unwrap();
        // Differences of mean losses: some roundings of losses of 4 nats.
        case.agree(&gaps, 1e-5);
        for gpu in gpus() {
            let found = case.run(gpu, &gaps).unwrap().concat();
            assert!(found[0][0] < -0.5, "{found:?}");
            // The current token counts once more in the bag, which is a token at random in either order.
            assert!(found[2][0].abs() < 0.02 * found[0][0].abs(), "{found:?}");
            // What order gives is beyond no two standard errors of it, what the context gives is beyond a hundred.
            let [context, order] = [0, 2].map(|at| found[at][0].abs() / found[at][OUTCOMES]);
            assert!(context > 100.0 && order < 2.0, "{context} and {order} standard errors");
        }
    }

    #[test]
    fn orders_are_drawn_apart_and_of_the_same_tokens() {
        for (period, rounds) in [(3, 3), (4, 2), (25, 4)] {
            let repeats = Repeats { first: 0, sequences: 16, period, rounds };
            let [(plain, _), (moved, targets)] = [false, true].map(|permuted| repeats.draw(40, permuted));
            for (number, (plain, moved)) in
                plain.chunks_exact(repeats.seq()).zip(moved.chunks_exact(repeats.seq())).enumerate()
            {
                let first = repeats.seq() - period;
                assert_eq!(plain[..first], moved[..first]);
                let last = &moved[first..];
                // From the last token of the round before on, nothing follows what it followed there.
                let known: BTreeSet<&[u32]> = plain[1..].windows(2).collect();
                assert_eq!(known.len(), period);
                assert!(moved[first - 1..].windows(2).all(|pair| !known.contains(pair)), "{plain:?} {moved:?}");
                let sorted = |tokens: &[u32]| {
                    let mut tokens = tokens.to_vec();
                    tokens.sort_unstable();
                    tokens
                };
                assert_eq!(sorted(&plain[first..]), sorted(last));
                assert_eq!(targets[number * repeats.seq()..][..repeats.seq() - 1], moved[1..]);
            }
        }
    }

    /// Every order of 0 .. n.
    fn orders(n: u32) -> Vec<Vec<u32>> {
        let Some(last) = n.checked_sub(1) else { return vec![Vec::new()] };
        let place = |order: Vec<u32>, at: usize| [&order[..at], &[last], &order[at..]].concat();
        orders(last).into_iter().flat_map(|order| (0..n as usize).map(move |at| place(order.clone(), at))).collect()
    }

    #[test]
    fn an_order_is_apart_where_it_shares_no_pair_with_the_rounds_before() {
        for period in 2..=7 {
            let rounds: Vec<u32> = (0..period).chain(0..period).collect();
            let known: BTreeSet<&[u32]> = rounds.windows(2).collect();
            let all = orders(period);
            assert_eq!(all.len() as u32, (1..=period).product::<u32>());
            let mut apart = 0;
            for order in all {
                let read = [&[period - 1], &order[..]].concat();
                let shares = read.windows(2).any(|pair| known.contains(pair));
                assert_eq!(Repeats::is_apart(&order), !shares, "{order:?}");
                apart += usize::from(!shares);
            }
            assert_eq!(apart > 0, period as usize >= Repeats::REORDERED, "{apart} orders of {period}");
        }
    }

    #[test]
    fn two_tokens_have_no_other_order_and_no_control() {
        for (vocabulary, count) in [(3, 1), (4, 2)] {
            let config =
                ModelConfig { d_model: 8, n_heads: 1, d_vocab: vocabulary, n_ctx: 9, ..ModelConfig::default() };
            let mut case = Case::new("two tokens");
            let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
            let repeats = Repeats::fitting(&model).unwrap();
            assert_eq!(repeats.period, vocabulary - 1);
            assert_eq!(repeats.measure(&mut case.tape, &model, 100).unwrap().1.len(), count);
        }
    }

    #[test]
    fn untrained_heads_look_back_by_chance() {
        let config = ModelConfig { d_model: 32, n_heads: 4, d_vocab: 60, n_ctx: 200, ..ModelConfig::default() };
        let mut case = Case::new("untrained");
        let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
        for (spec, var) in model.table.specs().iter().zip(&model.weights) {
            case.set(*var, model.table.draw(3)[spec.offset..][..spec.len()].to_vec());
        }
        let repeats = Repeats::fitting(&model).unwrap();
        assert_eq!((repeats.period, repeats.rounds), (25, 4));
        let (scores, _) = repeats.measure(&mut case.tape, &model, 100).unwrap();
        let chance = chance(&repeats);
        for gpu in gpus() {
            for (found, chance) in case.run(gpu, &scores).unwrap()[0][0].chunks_exact(5).zip(chance) {
                for score in found {
                    // Initial scores are far below 1, which moves no share of attention by a tenth.
                    assert!((f64::from(*score) / chance - 1.0).abs() < 0.1, "{score} instead of {chance}");
                }
            }
        }
    }

    #[test]
    fn how_many_sequences_pass_at_once_changes_no_bit() {
        // Attention that keeps its pattern, and attention that streams.
        for n_ctx in [60, 110] {
            let config =
                ModelConfig { n_layers: 2, d_model: 32, n_heads: 4, d_vocab: 60, n_ctx, ..ModelConfig::default() };
            let found = [16, 5, 1].map(|most| {
                let mut case = Case::new(&format!("repeats, {most} at once"));
                let model = Model::new(&config.clone().resolve().unwrap(), &mut case.tape);
                for (spec, var) in model.table.specs().iter().zip(&model.weights) {
                    case.set(*var, model.table.draw(3)[spec.offset..][..spec.len()].to_vec());
                }
                let repeats = Repeats::fitting(&model).unwrap();
                let (scores, gaps) = repeats.measure(&mut case.tape, &model, most).unwrap();
                let all = [scores, gaps].concat();
                gpus().iter().map(|gpu| case.run(gpu, &all).unwrap()).collect::<Vec<_>>()
            });
            for (at, gpu) in gpus().iter().enumerate() {
                assert!(found[0][at] == found[1][at] && found[0][at] == found[2][at], "{}", gpu.caps().name);
                // 16 sequences are examples, and have an error.
                let gap = &found[0][at][2][0];
                assert!(gap[2 * OUTCOMES] == 16.0 && gap[OUTCOMES] > 0.0, "{gap:?}");
            }
        }
    }

    #[test]
    fn a_model_without_room_for_two_rounds_has_no_probe() {
        let fits = |d_vocab, n_ctx| {
            let config = ModelConfig { d_model: 8, d_vocab, n_ctx, ..ModelConfig::default() };
            let model = Model::new(&config.resolve().unwrap(), &mut Tape::new(1));
            Repeats::fitting(&model).map(|r| (r.sequences, r.period, r.rounds))
        };
        assert_eq!(fits(114, 3), None);
        assert_eq!(fits(2, 100), None);
        assert_eq!(fits(114, 5), Some((16, 2, 2)));
        assert_eq!(fits(64, 64), Some((16, 25, 2)));
        assert_eq!(fits(8, 100), Some((16, 7, 4)));
    }

    #[test]
    fn rows_that_do_not_count_change_nothing() {
        // The same 10 examples alone, and followed by 30 that do not count: copies of the first.
        let values = |n: usize| {
            let mut case = Case::new("padded matches");
            let (t, h) = (7, 2);
            let copied = |size: usize, values: fn(usize) -> u32| -> Vec<u32> {
                (0..n * size).map(|at| if at < 10 * size { values(at) } else { values(at % size) }).collect()
            };
            let tokens = case.tape.constant_u32(&[n * t], &copied(t, |at| (at * at) as u32 % 4));
            let pattern: Vec<f32> = copied(h * t * t, |at| at as u32 % 13).iter().map(|x| *x as f32 / 30.0).collect();
            let pattern = case.tape.constant(&[n, h, t, t], &pattern);
            let targets: Vec<u32> = (0..n * t).map(|i| if i < 10 * t && i % 5 != 2 { 1 } else { IGNORE }).collect();
            let targets = case.tape.constant_u32(&[n * t], &targets);
            let counts = case.tape.push1(MatchCounts { batch: n }, &[tokens, targets]).unwrap();
            let scores = case
                .tape
                .push1(MatchScores { taken: false, each: false }, &[pattern, tokens, targets, counts])
                .unwrap();
            gpus().iter().map(|gpu| case.run(gpu, &[counts, scores]).unwrap().concat().concat()).collect::<Vec<_>>()
        };
        for (alone, padded) in values(10).iter().zip(values(40)) {
            for (a, b) in alone.iter().zip(padded) {
                // Sums are cut into other chunks: a few roundings.
                assert!(*a > 0.0 && (a - b).abs() <= 2e-6 * a, "{a} and {b}");
            }
        }
    }
}
