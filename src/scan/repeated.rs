//! What heads do on repeated random tokens, where nothing but what was read before helps.

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::sheet::Sheet;
use crate::autograd::ops::Copy;
use crate::error::Result;
use crate::gpu::{Commands, Select, read_together};
use crate::instrument::heads::induction::Repeats;

/// Attention scores of a head on repeated random tokens, each a mean over the queries that have one: on the token before
/// (`previous`), on the same token where it stood before (`duplicate`), on what followed it there (`induction`, which
/// TransformerLens calls so and Olsson et al. 2022 prefix matching).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// On the token before.
    pub previous: f32,
    /// On the same token.
    pub duplicate: f32,
    /// On the token behind the same token.
    pub induction: f32,
}

/// What a model does on random tokens, all different, that come twice behind token 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repeated {
    /// Sequences, and how many tokens each repeats.
    pub size: [usize; 2],
    /// Mean loss of the first and of the second round, nats; none of models that do not predict tokens.
    pub losses: Option<[f32; 2]>,
    /// Scores of each head, layer by layer.
    pub scores: Vec<Vec<Scores>>,
    /// What attention spread evenly over all it sees would score.
    pub uniform: Scores,
}

impl Repeated {
    /// The head with the greatest of some score, as layer and number.
    pub fn greatest(&self, of: impl Fn(&Scores) -> f32) -> Option<(usize, usize, f32)> {
        let all = self.scores.iter().enumerate();
        let heads = all.flat_map(|(layer, heads)| heads.iter().enumerate().map(move |(head, s)| (layer, head, s)));
        heads.map(|(layer, head, scores)| (layer, head, of(scores))).max_by(|a, b| a.2.total_cmp(&b.2))
    }
}

/// Tokens that are repeated, and sequences of them, at most.
const PERIOD: usize = 64;
const SEQUENCES: usize = 4;

impl Engine {
    /// Scores of all heads on repeated random tokens; `None` where context or vocabulary have no room for two rounds of two tokens.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn repeated(&self) -> Result<Option<Repeated>> {
        let config = &self.config;
        let widest = config.d_vocab_out.max(config.d_mlp).max(config.n_heads * config.d_head);
        let room = self.gpu.caps().room() as usize / ((1 + 2 * PERIOD) * widest);
        self.repeated_in_pieces(room.clamp(1, SEQUENCES))
    }

    /// The same, of so many sequences at once.
    pub(super) fn repeated_in_pieces(&self, piece: usize) -> Result<Option<Repeated>> {
        let config = &self.config;
        let period = (config.n_ctx.saturating_sub(1) / 2).min(config.d_vocab - 1).min(PERIOD);
        if period < 2 {
            return Ok(None);
        }
        // Scores [3, H + 1] of each layer and losses [T], means over sequences.
        let mut found: Vec<Vec<f64>> = Vec::new();
        for first in (0..SEQUENCES).step_by(piece) {
            let sequences = piece.min(SEQUENCES - first);
            let repeats = Repeats { first: first as u64, sequences, period, rounds: 2 };
            let read = self.on_repeats(&repeats)?;
            found.resize_with(read.len(), Vec::new);
            for (at, (sum, words)) in found.iter_mut().zip(read).enumerate() {
                // Scores are means over a piece already, losses are sums.
                let share = if at < config.n_layers { sequences as f64 } else { 1.0 } / SEQUENCES as f64;
                sum.resize(words.len(), 0.0);
                sum.iter_mut().zip(words).for_each(|(sum, word)| *sum += share * f64::from(f32::from_bits(word)));
            }
        }
        let columns = config.n_heads + 1;
        let of_layer = |found: &Vec<f64>| -> Vec<Scores> {
            let score = |head: usize, kind: usize| found[kind * columns + head] as f32;
            let of = |h: usize| Scores { previous: score(h, 0), duplicate: score(h, 1), induction: score(h, 2) };
            (0..columns).map(of).collect()
        };
        let mut scores: Vec<Vec<Scores>> = found[..config.n_layers].iter().map(of_layer).collect();
        // Behind the heads of each layer, the same in all.
        let mut uniform = Scores::default();
        scores.iter_mut().filter_map(Vec::pop).for_each(|last| uniform = last);
        // Position t asks for repeated token number t; behind the last one nothing is right or wrong.
        let losses = found.get(config.n_layers).map(|losses| {
            let mean = |of: &[f64]| (of.iter().sum::<f64>() / of.len() as f64) as f32;
            [mean(&losses[..period]), mean(&losses[period..2 * period])]
        });
        Ok(Some(Repeated { size: [SEQUENCES, period], losses, scores, uniform }))
    }

    /// Scores of each layer, and losses where there are any.
    fn on_repeats(&self, repeats: &Repeats) -> Result<Vec<Vec<u32>>> {
        let mut sheet = Sheet::new(self, repeats.seq());
        let (scores, losses) = repeats.scores(&mut sheet.tape, &sheet.model)?;
        let mut outputs = Vec::new();
        for var in scores.into_iter().chain(losses) {
            let var = sheet.tape.push1(Copy, &[var])?;
            outputs.push(sheet.output(var)?);
        }
        let program = sheet.compile()?;
        let mut commands = Commands::new(&self.gpu, None);
        program.encode_into(&mut commands, Select { step: 0, update: true });
        commands.submit();
        read_together(&self.gpu, &outputs.iter().map(|b| (b, 0..b.size())).collect::<Vec<_>>())
    }
}
