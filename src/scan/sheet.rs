//! What is computed at a layer, written as ops: the block, what wrote to the residual stream, the stream without it or with
//! something else, and the rest of the pass above.

use super::engine::Engine;
use crate::autograd::ops::{Add, Copy, GatherRows, Scale};
use crate::autograd::{Bindings, Shape, Tape, Var};
use crate::error::Result;
use crate::gpu::{Class, Program, Storage};
use crate::instrument::ablation::subspaces;
use crate::intervene::{Ablate, Baseline, Intervention, Outcomes};
use crate::model::{Forward, Model, Point, ReadOut, Resume, Rows};

/// Hooks of what heads and the MLP block of a layer write.
pub(super) const HEADS: &str = "attn.hook_result";
pub(super) const MLP: &str = "hook_mlp_out";

/// A tape with the model on it, and what its inputs are bound to.
pub(super) struct Sheet<'a> {
    pub(super) engine: &'a Engine,
    /// T.
    pub(super) seq: usize,
    pub(super) tape: Tape,
    pub(super) model: Model,
    pub(super) bindings: Bindings,
}

/// What wrote to the residual stream at one place, as [N, W, D], and the stream behind it, [N, D].
#[derive(Clone, Copy)]
pub(super) struct Written {
    layer: usize,
    point: Point,
    stream: Var,
    /// What was written.
    pub(super) result: Var,
    /// Less the baseline: what ablation takes away.
    lost: Var,
    pub(super) count: usize,
}

impl<'a> Sheet<'a> {
    /// Of prompts of `seq` tokens.
    pub(super) fn new(engine: &'a Engine, seq: usize) -> Self {
        let mut tape = Tape::new(1);
        let model = Model::new(&engine.config, &mut tape);
        let mut bindings = Bindings::new();
        for (weight, buffer) in model.weights.iter().zip(&engine.weights) {
            bindings.bind(*weight, Storage::whole(buffer, 0));
        }
        Self { engine, seq, tape, model, bindings }
    }

    pub(super) fn compile(&self) -> Result<Program> {
        self.tape.compile(&self.engine.gpu, &self.bindings)
    }

    pub(super) fn input(&mut self, name: &str, shape: Shape, slot: &wgpu::Buffer) -> Var {
        let var = self.tape.input(name, shape.shared());
        self.bindings.bind(var, Storage::whole(slot, 0));
        var
    }

    /// A buffer that a value is written to.
    pub(super) fn output(&mut self, var: Var) -> Result<wgpu::Buffer> {
        let buffer = self.engine.gpu.buffer(Class::Data, self.tape.shape(var).len() as u64)?;
        self.bindings.bind(var, Storage::whole(&buffer, 0));
        Ok(buffer)
    }

    /// Rows that are read out, of `copies` of the batch.
    pub(super) fn rows(&mut self, copies: usize) -> Var {
        self.input("rows", Shape::u32(&[copies * self.engine.size]), &self.engine.slots.rows)
    }

    pub(super) fn answers(&mut self) -> [Var; 2] {
        let (size, slots) = (self.engine.size, &self.engine.slots);
        [("targets", &slots.targets), ("foils", &slots.foils)]
            .map(|(name, slot)| self.input(name, Shape::u32(&[size]), slot))
    }

    /// A layer's block over every position of the batch, with what follows it, and the stream behind it, [B, T, D].
    pub(super) fn block(&mut self, layer: usize) -> Result<(Forward, Var)> {
        let engine = self.engine;
        let (batch, seq, d) = (engine.size, self.seq, engine.config.d_model);
        let forward = if layer == 0 {
            let tokens = self.input("tokens", Shape::u32(&[batch * seq]), &engine.slots.tokens);
            self.model.forward(&mut self.tape, &Rows::Each { tokens }, batch, seq, ReadOut::All)?
        } else {
            let x = self.input("stream", Shape::f32(&[batch, seq, d]), &engine.slots.stream);
            let (layer, point, read) = (layer - 1, Point::Post, ReadOut::All);
            self.model.resume(&mut self.tape, &Resume { layer, point, x, batch, seq, read, patterns: None })?
        };
        let after = forward.hook(&format!("blocks.{layer}.hook_resid_post"))?;
        let after = self.tape.push1(Copy, &[after])?;
        Ok((forward, after))
    }

    /// What heads wrote in a pass; the baseline is of the clean one, which may be the same.
    pub(super) fn heads(
        &mut self,
        layer: usize,
        forward: &Forward,
        clean: &Forward,
        baseline: Baseline,
    ) -> Result<Written> {
        let config = &self.engine.config;
        // An MLP beside attention does not see what heads write.
        let beside = config.parallel_attn_mlp && config.has_mlp();
        let (point, stream) = if beside { (Point::Post, "hook_resid_post") } else { (Point::Mid, "hook_resid_mid") };
        self.written(layer, [forward, clean], (stream, point), (HEADS, config.n_heads), baseline)
    }

    pub(super) fn mlp(&mut self, layer: usize, forward: &Forward, baseline: Baseline) -> Result<Written> {
        self.written(layer, [forward; 2], ("hook_resid_post", Point::Post), (MLP, 1), baseline)
    }

    fn written(
        &mut self,
        layer: usize,
        [forward, clean]: [&Forward; 2],
        (stream, point): (&str, Point),
        (result, count): (&str, usize),
        baseline: Baseline,
    ) -> Result<Written> {
        let engine = self.engine;
        let (tokens, d) = (engine.size * self.seq, engine.config.d_model);
        let name = |name: &str| format!("blocks.{layer}.{name}");
        let of = usize::from(result == MLP);
        let stream = self.tape.reshape(forward.hook(&name(stream))?, &[tokens, d])?;
        let [clean, result] = [clean.hook(&name(result))?, forward.hook(&name(result))?];
        let [clean, result] = [clean, result].map(|var| self.tape.reshape(var, &[tokens, count * d]));
        let result = result?;
        let instead = match baseline {
            Baseline::Zero => None,
            Baseline::Mean => {
                let means = &engine.means[layer][of];
                let mean = self.tape.constant(&[1, count * d], means);
                let everywhere = self.tape.constant_u32(&[tokens], &vec![0; tokens]);
                Some(self.tape.push1(GatherRows, &[mean, everywhere])?)
            }
            Baseline::Resample => {
                let other = self.input("other prompt", Shape::u32(&[tokens]), &engine.slots.other);
                Some(self.tape.push1(GatherRows, &[clean?, other])?)
            }
        };
        let lost = match instead {
            None => result,
            Some(instead) => {
                let negative = self.tape.push1(Scale(-1.0), &[instead])?;
                self.tape.push1(Add, &[result, negative])?
            }
        };
        // Behind the last block only what is read out goes on.
        let (rows, [stream, result, lost]) = if layer + 1 == engine.config.n_layers {
            let rows = self.rows(1);
            let pick = |var: Var| self.tape.push1(GatherRows, &[var, rows]);
            let [stream, result, lost] = [stream, result, lost].map(pick);
            (engine.size, [stream?, result?, lost?])
        } else {
            (tokens, [stream, result, lost])
        };
        let [result, lost] = [result, lost].map(|var| self.tape.reshape(var, &[rows, count, d]));
        Ok(Written { layer, point, stream, result: result?, lost: lost?, count })
    }

    /// What was written where prompts are read, [B, W * D].
    pub(super) fn at_the_end(&mut self, on: &Written) -> Result<wgpu::Buffer> {
        let (rows, width) = (self.tape.shape(on.stream).rows().0, on.count * self.engine.config.d_model);
        let result = self.tape.reshape(on.result, &[rows, width])?;
        let picked = match rows == self.engine.size && self.seq > 1 {
            true => self.tape.push1(Copy, &[result])?,
            false => {
                let rows = self.rows(1);
                self.tape.push1(GatherRows, &[result, rows])?
            }
        };
        self.output(picked)
    }

    /// Embeddings where prompts are read, [B, D].
    pub(super) fn embedded(&mut self, forward: &Forward) -> Result<wgpu::Buffer> {
        let (tokens, d) = (self.engine.size * self.seq, self.engine.config.d_model);
        let stream = self.tape.reshape(forward.hook("blocks.0.hook_resid_pre")?, &[tokens, d])?;
        let rows = self.rows(1);
        let picked = self.tape.push1(GatherRows, &[stream, rows])?;
        self.output(picked)
    }

    /// The stream under interventions, [I * N, D]; `removed` is [I, W].
    fn without(&mut self, on: &Written, removed: Var) -> Result<Var> {
        let count = self.tape.shape(removed).rows().0;
        // Baselines are in what is lost already.
        let (zero, held) = (self.tape.constant_u32(&[count], &vec![0; count]), self.tape.constant(&[1], &[1.0]));
        self.tape.push1(Ablate, &[on.stream, on.lost, on.lost, held, removed, zero])
    }

    /// What takes the place of what heads wrote, less that, where so much of each is taken away, [N, D].
    pub(super) fn change(&mut self, on: &Written, removed: Var) -> Result<Var> {
        let dims = self.tape.shape(on.stream).dims.clone();
        let nothing = self.tape.constant(&dims, &vec![0.0; dims.iter().product()]);
        self.without(&Written { stream: nothing, ..*on }, removed)
    }

    /// Two streams added; where one is of every position and the other where prompts are read only, what is read.
    pub(super) fn sum(&mut self, a: Var, b: Var) -> Result<Var> {
        let d = self.engine.config.d_model;
        let [mut a, mut b] = [a, b].map(|var| (var, self.tape.shape(var).len() / d));
        if a.1 != b.1 {
            let longer = if a.1 > b.1 { &mut a } else { &mut b };
            *longer = (self.read_rows(longer.0)?, self.engine.size);
        }
        let [a, b] = [a, b].map(|(var, rows)| self.tape.reshape(var, &[rows, d]));
        self.tape.push1(Add, &[a?, b?])
    }

    /// The rows where prompts are read, [B, D], of a stream that may be these alone.
    fn read_rows(&mut self, stream: Var) -> Result<Var> {
        let d = self.engine.config.d_model;
        let rows = self.tape.shape(stream).len() / d;
        let stream = self.tape.reshape(stream, &[rows, d])?;
        if rows == self.engine.size {
            return Ok(stream);
        }
        let read = self.rows(1);
        self.tape.push1(GatherRows, &[stream, read])
    }

    /// The pass above a stream behind or in the middle of a layer with something added to it.
    pub(super) fn onwards(&mut self, layer: usize, point: Point, stream: Var, change: Var) -> Result<Forward> {
        let (engine, d) = (self.engine, self.engine.config.d_model);
        let (mut stream, mut read) = (self.sum(stream, change)?, ReadOut::All);
        // The last block computes what is read and nothing else.
        if layer + 1 == engine.config.n_layers {
            (stream, read) = (self.read_rows(stream)?, ReadOut::At(self.rows(1)));
        }
        let rows = self.tape.shape(stream).rows().0;
        let x = self.tape.reshape(stream, &[engine.size, rows / engine.size, d])?;
        let (batch, seq) = (engine.size, self.seq);
        self.model.resume(&mut self.tape, &Resume { layer, point, x, batch, seq, read, patterns: None })
    }

    /// The same of what wrote at a layer, where that is changed.
    pub(super) fn with_change(&mut self, on: &Written, change: Var) -> Result<Forward> {
        self.onwards(on.layer, on.point, on.stream, change)
    }

    /// What takes away what was written and puts something else in its place, of every position or where prompts are read.
    pub(super) fn instead(&mut self, on: &Written, instead: Var) -> Result<Written> {
        let [rows, count, d] = self.tape.shape(on.result).dims[..] else {
            return Err(crate::autograd::op::misfit("paths", "what was written"));
        };
        let all = self.tape.shape(instead).len() / (count * d);
        let mut instead = self.tape.reshape(instead, &[all, count * d])?;
        if all != rows {
            let read = self.rows(1);
            instead = self.tape.push1(GatherRows, &[instead, read])?;
        }
        let instead = self.tape.reshape(instead, &[rows, count, d])?;
        let negative = self.tape.push1(Scale(-1.0), &[instead])?;
        let lost = self.tape.push1(Add, &[on.result, negative])?;
        Ok(Written { lost, ..*on })
    }

    /// Outcomes where something is added to the stream where it ends, of a stream behind a layer.
    pub(super) fn ending(&mut self, layer: usize, stream: Var, change: Var) -> Result<wgpu::Buffer> {
        let (engine, d, last) = (self.engine, self.engine.config.d_model, self.engine.config.n_layers - 1);
        let stream = if layer == last {
            self.read_rows(stream)?
        } else {
            let x = self.tape.reshape(stream, &[engine.size, self.seq, d])?;
            let (batch, seq, read) = (engine.size, self.seq, ReadOut::At(self.rows(1)));
            let from = Resume { layer, point: Point::Post, x, batch, seq, read, patterns: None };
            let forward = self.model.resume(&mut self.tape, &from)?;
            self.read_rows(forward.hook(&format!("blocks.{last}.hook_resid_post"))?)?
        };
        let change = self.read_rows(change)?;
        let stream = self.sum(stream, change)?;
        self.above(last, Point::Post, stream)
    }

    /// Outcomes of every prompt under interventions, of which there are at most `chunk`.
    pub(super) fn under(&mut self, on: &Written, what: &[Intervention]) -> Result<wgpu::Buffer> {
        let removed: Vec<f32> = what.iter().flat_map(|i| i.removed.iter().copied()).collect();
        let removed = self.tape.constant(&[what.len(), on.count], &removed);
        let stream = self.without(on, removed)?;
        self.above(on.layer, on.point, stream)
    }

    /// Outcomes where random subspaces of what the heads of a layer write are taken away.
    pub(super) fn null(&mut self, on: &Written) -> Result<Vec<wgpu::Buffer>> {
        let engine = self.engine;
        let (heads, k, d) = (on.count, engine.config.d_head, engine.config.d_model);
        let w_o = self.model.need(&format!("blocks.{}.attn.W_O", on.layer))?;
        let mut draws = Vec::new();
        for (count, blocks, [directions, fill]) in &engine.drawn {
            let directions = self.input("directions", Shape::f32(&[blocks * k, d]), directions);
            let fill = self.input("coordinates", Shape::f32(&[blocks * k, heads * k]), fill);
            draws.push(subspaces::Draws { count: *count, directions, fill });
        }
        let mut streams = Vec::new();
        subspaces::without(&mut self.tape, w_o, (on.stream, on.lost), &draws, engine.chunk, |_, stream| {
            streams.push(stream);
            Ok(())
        })?;
        streams.into_iter().map(|stream| self.above(on.layer, on.point, stream)).collect()
    }

    /// Outcomes where the stream behind a block has other rows at some places, [I * N] row numbers.
    pub(super) fn swapped(&mut self, layer: usize, after: Var, rows: &wgpu::Buffer) -> Result<wgpu::Buffer> {
        let (tokens, d) = (self.engine.size * self.seq, self.engine.config.d_model);
        let stream = self.tape.reshape(after, &[tokens, d])?;
        let rows = self.input("rows by place", Shape::u32(&[rows.size() as usize / 4]), rows);
        let stream = self.tape.push1(GatherRows, &[stream, rows])?;
        self.above(layer, Point::Post, stream)
    }

    /// Outcomes where some heads of each of these layers, in rising order, are ablated together: above the first, what a head
    /// writes is what it writes under the ablations below it. `removed` says how much of each head of a layer is taken away, `[H]`.
    pub(super) fn chain(
        &mut self,
        layers: &[usize],
        clean: &Forward,
        baseline: Baseline,
        removed: &[wgpu::Buffer],
    ) -> Result<wgpu::Buffer> {
        let (engine, seq) = (self.engine, self.seq);
        let mut forward = clean.clone();
        let mut changed = None;
        for (layer, removed) in layers.iter().zip(removed) {
            if let Some((layer, point, stream)) = changed {
                let x = self.tape.reshape(stream, &[engine.size, seq, engine.config.d_model])?;
                let (batch, read) = (engine.size, ReadOut::All);
                let from = Resume { layer, point, x, batch, seq, read, patterns: None };
                forward = self.model.resume(&mut self.tape, &from)?;
            }
            let on = self.heads(*layer, &forward, clean, baseline)?;
            let removed = self.input("removed", Shape::f32(&[1, on.count]), removed);
            changed = Some((on.layer, on.point, self.without(&on, removed)?));
        }
        let (layer, point, stream) =
            changed.ok_or_else(|| crate::autograd::op::misfit("sets of heads", "a set of none"))?;
        self.above(layer, point, stream)
    }

    /// The rest of the pass above changed streams [I * N, D], and the outcomes of it.
    fn above(&mut self, layer: usize, point: Point, stream: Var) -> Result<wgpu::Buffer> {
        let engine = self.engine;
        let (seq, d, v) = (self.seq, engine.config.d_model, engine.config.d_vocab_out);
        let positions = if layer + 1 == engine.config.n_layers { 1 } else { seq };
        let batch = self.tape.shape(stream).rows().0 / positions;
        let x = self.tape.reshape(stream, &[batch, positions, d])?;
        let read = ReadOut::At(self.rows(batch / engine.size));
        let from = Resume { layer, point, x, batch, seq, read, patterns: None };
        let logits = self.model.resume(&mut self.tape, &from)?.logits;
        let clean = self.input("clean logits", Shape::f32(&[engine.size, v]), &engine.slots.clean);
        let [targets, foils] = self.answers();
        let outcomes = self.tape.push1(Outcomes, &[logits, clean, targets, foils])?;
        self.output(outcomes)
    }
}
