//! Prompts that go through a model together, and where a program finds them.

use super::Prompts;
use crate::autograd::ops::IGNORE;
use crate::error::Result;
use crate::gpu::{Class, Gpu};
use crate::model::ModelConfig;

/// Prompts that go through the model together, padded to the longest of them on the right: no token sees what comes later, so
/// padding changes nothing. The last batch is filled up with copies of a prompt, whose outcomes nobody reads.
pub(super) struct Batch {
    /// Numbers of the prompts that are no copies.
    pub(super) numbers: Vec<usize>,
    /// T.
    pub(super) seq: usize,
    /// Place of the last token of each prompt, copies included, `[B]`.
    pub(super) last: Vec<usize>,
    /// [B * T].
    pub(super) tokens: Vec<u32>,
    /// Row of the last token of each prompt, of `chunk` copies of the batch one behind the other.
    pub(super) rows: Vec<u32>,
    /// `[B]`.
    pub(super) targets: Vec<u32>,
    /// `[B]`.
    pub(super) foils: Vec<u32>,
    /// 0 for tokens of prompts, [`IGNORE`] for padding and copies, [B * T].
    pub(super) own: Vec<u32>,
    /// For each token, the row at the same place of the prompt that resampling takes from, or at its end where it is shorter: of
    /// the next prompt, or of the other one of a pair.
    pub(super) other: Vec<u32>,
    /// The residual stream before the layer that comes next, [B * T, D].
    pub(super) stream: wgpu::Buffer,
    /// Logits of the clean pass, [B, V].
    pub(super) clean: wgpu::Buffer,
}

impl Batch {
    /// The batch of the prompts of these numbers, in order of length, with copies up to `size` of them.
    pub(super) fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        prompts: &Prompts,
        part: &[usize],
        (size, chunk): (usize, usize),
    ) -> Result<Self> {
        let of = |at: usize| &prompts.list[part[if at < part.len() { at } else { 0 }]];
        let seq = of(part.len() - 1).tokens.len();
        let last: Vec<usize> = (0..size).map(|at| of(at).tokens.len() - 1).collect();
        let places = || (0..size * seq).map(|row| (row / seq, row % seq));
        let inside = |(b, t): (usize, usize)| b < part.len() && t <= last[b];
        let other = |b: usize| (if prompts.paired { b ^ 1 } else { b + 1 }) % part.len();
        Ok(Self {
            numbers: part.to_vec(),
            seq,
            tokens: places().map(|(b, t)| of(b).tokens.get(t).copied().unwrap_or(0)).collect(),
            rows: (0..chunk * size).map(|b| (b * seq + last[b % size]) as u32).collect(),
            targets: (0..size).map(|b| of(b).target).collect(),
            foils: (0..size).map(|b| of(b).foil).collect(),
            own: places().map(|at| if inside(at) { 0 } else { IGNORE }).collect(),
            other: places().map(|(b, t)| (other(b) * seq + t.min(last[other(b)])) as u32).collect(),
            last,
            stream: gpu.buffer(Class::Activations, (size * seq * config.d_model) as u64)?,
            clean: gpu.buffer(Class::Activations, (size * config.d_vocab_out) as u64)?,
        })
    }

    /// Which row of the batch stands at each row of copies of it, one behind the other: the other prompt's at the place that is
    /// this far from the end of the prompt, its own everywhere else. A prompt that is too short for that place stays as it is.
    pub(super) fn swapped(&self, places: impl Iterator<Item = usize>) -> Vec<u32> {
        let rows = 0..self.other.len();
        let of_copy = |place: usize| {
            rows.clone().map(move |row| {
                let here = self.last[row / self.seq] == row % self.seq + place;
                if here { self.other[row] } else { row as u32 }
            })
        };
        places.flat_map(of_copy).collect()
    }
}

/// Where a program finds its batch.
pub(super) struct Slots {
    pub(super) tokens: wgpu::Buffer,
    pub(super) rows: wgpu::Buffer,
    pub(super) targets: wgpu::Buffer,
    pub(super) foils: wgpu::Buffer,
    pub(super) own: wgpu::Buffer,
    pub(super) other: wgpu::Buffer,
    pub(super) stream: wgpu::Buffer,
    /// What a layer leaves behind; written, so in a buffer of its own.
    pub(super) after: wgpu::Buffer,
    pub(super) clean: wgpu::Buffer,
}

impl Slots {
    pub(super) fn new(gpu: &Gpu, config: &ModelConfig, seq: usize, size: usize, chunk: usize) -> Result<Self> {
        let (d, tokens, data) = (config.d_model, size * seq, Class::Data);
        let room = |class: Class, elements: usize| gpu.buffer(class, elements as u64);
        Ok(Self {
            tokens: room(data, tokens)?,
            rows: room(data, chunk * size)?,
            targets: room(data, size)?,
            foils: room(data, size)?,
            own: room(data, tokens)?,
            other: room(data, tokens)?,
            stream: room(Class::Activations, tokens * d)?,
            after: room(Class::Activations, tokens * d)?,
            clean: room(Class::Activations, size * config.d_vocab_out)?,
        })
    }
}
