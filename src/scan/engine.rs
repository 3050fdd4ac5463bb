//! A model's weights and forward activations, and interventions at one layer after the other.

use crate::autograd::ops::{Add, Copy, GatherRows, IGNORE, Scale, scatter_rows};
use crate::autograd::{Bindings, Shape, Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::{Class, Commands, Gpu, Program, Select, Storage, read_together};
use crate::instrument::ablation::subspaces;
use crate::intervene::{Ablate, Baseline, Intervention, OUTCOMES, Outcomes};
use crate::model::{Forward, Model, ModelConfig, ModelFolder, Point, ReadOut, Resume, Rows};

use super::Prompts;

/// What a prompt's prediction became, in the columns of [`crate::intervene::column`].
pub type Outcome = [f32; OUTCOMES];

/// What is done at each layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Battery {
    /// Every head is ablated, alone.
    pub heads: bool,
    /// Every MLP block is ablated, alone.
    pub mlps: bool,
    /// What takes the place of what was written.
    pub baseline: Baseline,
    /// How many random subspaces of what a layer's heads write are taken away.
    pub draws: usize,
}

/// Outcomes of all prompts at one layer, a list of prompts for each intervention.
#[derive(Clone, Debug, Default)]
pub struct LayerOutcomes {
    /// Each head ablated, or none.
    pub heads: Vec<Vec<Outcome>>,
    /// The MLP block ablated, if there is one.
    pub mlp: Vec<Vec<Outcome>>,
    /// An intervention of dose 0.
    pub sham: Vec<Vec<Outcome>>,
    /// Random subspaces taken away.
    pub null: Vec<Vec<Outcome>>,
}

impl LayerOutcomes {
    fn lists(&mut self) -> [&mut Vec<Vec<Outcome>>; 4] {
        [&mut self.heads, &mut self.mlp, &mut self.sham, &mut self.null]
    }
}

/// Prompts that go through the model together, padded to the longest of them on the right: no token sees what comes later, so
/// padding changes nothing. The last batch is filled up with copies of a prompt, whose outcomes nobody reads.
struct Batch {
    /// Numbers of the prompts that are no copies.
    numbers: Vec<usize>,
    /// T.
    seq: usize,
    /// [B * T].
    tokens: Vec<u32>,
    /// Row of the last token of each prompt, of `chunk` copies of the batch one behind the other.
    rows: Vec<u32>,
    /// `[B]`.
    targets: Vec<u32>,
    /// `[B]`.
    foils: Vec<u32>,
    /// 0 for tokens of prompts, [`IGNORE`] for padding and copies, [B * T].
    own: Vec<u32>,
    /// For each token, the row of the next prompt that stands at the same place, or at its end where it is shorter.
    next: Vec<u32>,
    /// The residual stream before the layer that comes next, [B * T, D].
    stream: wgpu::Buffer,
    /// Logits of the clean pass, [B, V].
    clean: wgpu::Buffer,
}

/// Where a program finds its batch.
struct Slots {
    tokens: wgpu::Buffer,
    rows: wgpu::Buffer,
    targets: wgpu::Buffer,
    foils: wgpu::Buffer,
    own: wgpu::Buffer,
    next: wgpu::Buffer,
    stream: wgpu::Buffer,
    /// What a layer leaves behind; written, so in a buffer of its own.
    after: wgpu::Buffer,
    clean: wgpu::Buffer,
    /// Means of what heads [H, D] and the MLP block `[D]` write.
    means: [wgpu::Buffer; 2],
}

impl Slots {
    fn new(gpu: &Gpu, config: &ModelConfig, seq: usize, size: usize, chunk: usize) -> Result<Self> {
        let (d, tokens, data) = (config.d_model, size * seq, Class::Data);
        let room = |class: Class, elements: usize| gpu.buffer(class, elements as u64);
        Ok(Self {
            tokens: room(data, tokens)?,
            rows: room(data, chunk * size)?,
            targets: room(data, size)?,
            foils: room(data, size)?,
            own: room(data, tokens)?,
            next: room(data, tokens)?,
            stream: room(Class::Activations, tokens * d)?,
            after: room(Class::Activations, tokens * d)?,
            clean: room(Class::Activations, size * config.d_vocab_out)?,
            means: [room(data, config.n_heads * d)?, room(data, d)?],
        })
    }
}

/// A pretrained model on a device with a set of prompts.
pub struct Engine {
    gpu: Gpu,
    config: ModelConfig,
    /// One for each weight: together they may be more than can be bound at once.
    weights: Vec<wgpu::Buffer>,
    /// Prompts of a batch B.
    size: usize,
    /// Interventions that are computed at once.
    chunk: usize,
    /// From the shortest prompts to the longest: few are padded, and a program serves all batches of one length.
    batches: Vec<Batch>,
    /// Directions of the null, [B K, D] and [B K, H K], of so many draws and blocks B; made when they are first asked for.
    drawn: Vec<(usize, usize, [wgpu::Buffer; 2])>,
    slots: Slots,
    layer: usize,
}

/// A tape with the model on it, and what its inputs are bound to.
struct Sheet<'a> {
    engine: &'a Engine,
    /// T.
    seq: usize,
    tape: Tape,
    model: Model,
    bindings: Bindings,
}

/// What wrote to the residual stream at one place, as [N, W, D], and the stream behind it, [N, D].
struct Written {
    layer: usize,
    point: Point,
    stream: Var,
    /// Less the baseline: what ablation takes away.
    lost: Var,
    count: usize,
}

impl Engine {
    /// Brings a model of one replica and all prompts to the device.
    ///
    /// # Errors
    /// [`Error::Refused`] where prompts are longer than the model can read; [`Error::Limit`] where the device has no room.
    pub fn new(gpu: &Gpu, folder: ModelFolder, prompts: &Prompts) -> Result<Self> {
        let ModelFolder { config, mut replicas } = folder;
        let longest = longest(prompts);
        if longest > config.n_ctx {
            return Err(Error::Refused(format!(
                "a prompt has {longest} tokens, and the model reads at most {}: leave out the longest",
                config.n_ctx
            )));
        }
        if let [_, _, ..] = replicas.as_slice() {
            return Err(Error::Refused(format!(
                "the folder holds {} replicas, and a scan is of one model: `thermoscope export` writes each alone",
                replicas.len()
            )));
        }
        let values = replicas.pop().unwrap_or_default();
        let table = crate::model::WeightTable::new(&config);
        let upload = |spec: &crate::model::WeightSpec| gpu.upload(Class::Weights, &values[spec.offset..][..spec.len()]);
        let weights = table.specs().iter().map(upload).collect::<Result<Vec<_>>>()?;
        drop(values);
        let (most, alone) = most(gpu, &config, longest);
        let parts = prompts.list.len().div_ceil(most.min(alone).min(TOGETHER)).max(1);
        let size = prompts.list.len().div_ceil(parts);
        let chunk = (most / size).max(1);
        let slots = Slots::new(gpu, &config, longest, size, chunk)?;
        let (batches, drawn) = (Vec::new(), Vec::new());
        let mut engine = Self { gpu: gpu.clone(), config, weights, size, chunk, batches, drawn, slots, layer: 0 };
        engine.fill(prompts)?;
        Ok(engine)
    }

    fn fill(&mut self, prompts: &Prompts) -> Result<()> {
        let mut order: Vec<usize> = (0..prompts.list.len()).collect();
        order.sort_by_key(|at| prompts.list[*at].tokens.len());
        self.batches = order.chunks(self.size).map(|part| self.batch(prompts, part)).collect::<Result<_>>()?;
        Ok(())
    }

    /// Cuts prompts and interventions into smaller pieces.
    #[cfg(test)]
    pub(super) fn cut(&mut self, prompts: &Prompts, size: usize, chunk: usize) -> Result<()> {
        (self.size, self.chunk) = (size, chunk);
        self.slots = Slots::new(&self.gpu, &self.config, longest(prompts), size, chunk)?;
        self.fill(prompts)
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The batch of the prompts of these numbers, in order of length.
    fn batch(&self, prompts: &Prompts, part: &[usize]) -> Result<Batch> {
        let size = self.size;
        let of = |at: usize| &prompts.list[part[if at < part.len() { at } else { 0 }]];
        let seq = of(part.len() - 1).tokens.len();
        let last = |at: usize| of(at).tokens.len() - 1;
        let places = || (0..size * seq).map(|row| (row / seq, row % seq));
        let inside = |(b, t): (usize, usize)| b < part.len() && t <= last(b);
        Ok(Batch {
            numbers: part.to_vec(),
            seq,
            tokens: places().map(|(b, t)| of(b).tokens.get(t).copied().unwrap_or(0)).collect(),
            rows: (0..self.chunk * size).map(|b| (b * seq + last(b % size)) as u32).collect(),
            targets: (0..size).map(|b| of(b).target).collect(),
            foils: (0..size).map(|b| of(b).foil).collect(),
            own: places().map(|at| if inside(at) { 0 } else { IGNORE }).collect(),
            next: places()
                .map(|(b, t)| {
                    let other = (b + 1) % part.len();
                    (other * seq + t.min(last(other))) as u32
                })
                .collect(),
            stream: self.gpu.buffer(Class::Activations, (size * seq * self.config.d_model) as u64)?,
            clean: self.gpu.buffer(Class::Activations, (size * self.config.d_vocab_out) as u64)?,
        })
    }

    /// The clean pass over all prompts: their outcomes. Layers begin anew behind it.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn clean(&mut self) -> Result<Vec<Outcome>> {
        let mut found = vec![[0.0; OUTCOMES]; self.prompts()];
        for batches in self.batches.chunk_by(|a, b| a.seq == b.seq) {
            let mut sheet = Sheet::new(self, batches[0].seq);
            let rows = sheet.rows(1);
            let tokens = sheet.input("tokens", Shape::u32(&[self.size * sheet.seq]), &self.slots.tokens);
            let read = ReadOut::At(rows);
            let logits =
                sheet.model.forward(&mut sheet.tape, &Rows::Each { tokens }, self.size, sheet.seq, read)?.logits;
            let [targets, foils] = sheet.answers();
            let outcomes = sheet.tape.push1(Outcomes, &[logits, logits, targets, foils])?;
            // The next programs read them: a buffer is either read or written in a dispatch.
            let kept = sheet.tape.push1(Copy, &[logits])?;
            sheet.bindings.bind(kept, Storage::whole(&self.slots.clean, 0));
            let outcomes = sheet.output(outcomes)?;
            let program = sheet.compile()?;
            for batch in batches {
                let read = self.run(&program, batch, Some((&self.slots.clean, &batch.clean)), &[&outcomes])?;
                batch.numbers.iter().zip(by_prompt(&read[0])).for_each(|(at, outcome)| found[*at] = outcome);
            }
        }
        self.layer = 0;
        Ok(found)
    }

    fn prompts(&self) -> usize {
        self.batches.iter().map(|batch| batch.numbers.len()).sum()
    }

    /// The next layer: its interventions on all prompts. [`Engine::clean`] comes before the first. `each` is told behind every
    /// batch how many prompts are done, and says whether to go on; where it does not, there are no outcomes.
    ///
    /// # Errors
    /// Where there is no further layer, or the device fails.
    pub fn next_layer(&mut self, what: &Battery, mut each: impl FnMut(usize) -> bool) -> Result<Option<LayerOutcomes>> {
        let layer = self.layer;
        if what.draws > 0 && self.drawn.is_empty() {
            self.draw(what.draws)?;
        }
        if what.baseline == Baseline::Mean {
            self.find_means(layer)?;
        }
        let mut found = LayerOutcomes::default();
        let mut done = 0;
        for batches in self.batches.chunk_by(|a, b| a.seq == b.seq) {
            let (program, outputs) = self.interventions(layer, what, batches[0].seq)?;
            for batch in batches {
                let all: Vec<&wgpu::Buffer> = outputs.iter().flatten().collect();
                let mut read = self.run(&program, batch, Some((&self.slots.after, &batch.stream)), &all)?.into_iter();
                for (list, buffers) in found.lists().into_iter().zip(&outputs) {
                    let words = read.by_ref().take(buffers.len()).flatten().collect::<Vec<u32>>();
                    let outcomes: Vec<Outcome> = by_prompt(&words).collect();
                    list.resize_with(outcomes.len() / self.size, || vec![[0.0; OUTCOMES]; self.prompts()]);
                    for (list, outcomes) in list.iter_mut().zip(outcomes.chunks(self.size)) {
                        batch.numbers.iter().zip(outcomes).for_each(|(at, outcome)| list[*at] = *outcome);
                    }
                }
                done += batch.numbers.len();
                if !each(done) {
                    return Ok(None);
                }
            }
        }
        self.layer += 1;
        Ok(Some(found))
    }

    /// Every intervention at a layer on a batch of prompts of `seq` tokens, and where outcomes of heads, MLP block, sham and null
    /// are written to.
    fn interventions(&self, layer: usize, what: &Battery, seq: usize) -> Result<(Program, [Vec<wgpu::Buffer>; 4])> {
        let mut sheet = Sheet::new(self, seq);
        let (forward, after) = sheet.block(layer)?;
        let mut outputs: [Vec<wgpu::Buffer>; 4] = Default::default();
        let heads = sheet.heads(layer, &forward, what.baseline)?;
        if what.heads {
            for part in Intervention::each(heads.count, Baseline::Zero).chunks(self.chunk) {
                outputs[0].push(sheet.under(&heads, part)?);
            }
        }
        if what.mlps && self.config.has_mlp() {
            let mlp = sheet.mlp(layer, &forward, what.baseline)?;
            outputs[1].push(sheet.under(&mlp, &Intervention::each(1, Baseline::Zero))?);
        }
        let sham = Intervention::one(0, heads.count, 0.0, Baseline::Zero);
        outputs[2].push(sheet.under(&heads, &[sham])?);
        // The only head of a layer is all that it writes: there is nothing else to draw.
        if what.draws > 0 && heads.count > 1 {
            outputs[3] = sheet.null(&heads)?;
        }
        sheet.bindings.bind(after, Storage::whole(&self.slots.after, 0));
        Ok((sheet.compile()?, outputs))
    }

    /// Draws the directions of the null, the same for all layers.
    fn draw(&mut self, draws: usize) -> Result<()> {
        let sizes = [self.config.n_heads, self.config.d_head, self.config.d_model];
        let upload = |some: subspaces::Drawn| {
            let [directions, fill] = [&some.directions, &some.fill].map(|data| self.gpu.upload(Class::Data, data));
            Ok((some.count, some.blocks, [directions?, fill?]))
        };
        self.drawn = subspaces::drawn(sizes, draws, self.chunk).into_iter().map(upload).collect::<Result<_>>()?;
        Ok(())
    }

    /// Means over all tokens of all prompts of what heads and the MLP block of a layer write.
    fn find_means(&self, layer: usize) -> Result<()> {
        let mut sums: Vec<Vec<f64>> = Vec::new();
        for batches in self.batches.chunk_by(|a, b| a.seq == b.seq) {
            let mut sheet = Sheet::new(self, batches[0].seq);
            let (forward, _) = sheet.block(layer)?;
            let rows = self.size * sheet.seq;
            let own = sheet.input("tokens of prompts", Shape::u32(&[rows]), &self.slots.own);
            let mut outputs = Vec::new();
            let hooks = [Some("attn.hook_result"), self.config.has_mlp().then_some("hook_mlp_out")];
            for hook in hooks.into_iter().flatten() {
                let written = forward.hook(&format!("blocks.{layer}.{hook}"))?;
                let width = sheet.tape.shape(written).len() / rows;
                let written = sheet.tape.reshape(written, &[rows, width])?;
                let sum = scatter_rows(&mut sheet.tape, written, own, 1)?;
                outputs.push(sheet.output(sum)?);
            }
            let program = sheet.compile()?;
            for batch in batches {
                let read = self.run(&program, batch, None, &outputs.iter().collect::<Vec<_>>())?;
                sums.resize_with(read.len(), Vec::new);
                for (sum, words) in sums.iter_mut().zip(read) {
                    sum.resize(words.len(), 0.0);
                    sum.iter_mut().zip(words).for_each(|(sum, word)| *sum += f64::from(f32::from_bits(word)));
                }
            }
        }
        let count = self.batches.iter().flat_map(|batch| &batch.own).filter(|own| **own == 0).count() as f64;
        for (sum, slot) in sums.iter().zip(&self.slots.means) {
            let means: Vec<f32> = sum.iter().map(|sum| (sum / count) as f32).collect();
            self.gpu.queue().write_buffer(slot, 0, bytemuck::cast_slice(&means));
        }
        Ok(())
    }

    /// Runs a program over a batch; keeps what it leaves in `keep`'s first in its second, and reads `outputs`.
    fn run(
        &self,
        program: &Program,
        batch: &Batch,
        keep: Option<(&wgpu::Buffer, &wgpu::Buffer)>,
        outputs: &[&wgpu::Buffer],
    ) -> Result<Vec<Vec<u32>>> {
        let slots = &self.slots;
        let words = [
            (&slots.tokens, &batch.tokens),
            (&slots.rows, &batch.rows),
            (&slots.targets, &batch.targets),
            (&slots.foils, &batch.foils),
            (&slots.own, &batch.own),
            (&slots.next, &batch.next),
        ];
        for (slot, words) in words {
            self.gpu.queue().write_buffer(slot, 0, bytemuck::cast_slice(words));
        }
        let mut commands = Commands::new(&self.gpu, None);
        for (from, to) in [(&batch.stream, &slots.stream), (&batch.clean, &slots.clean)] {
            commands.encoder().copy_buffer_to_buffer(from, 0, to, 0, from.size());
        }
        program.encode_into(&mut commands, Select { step: 0, update: true });
        if let Some((from, to)) = keep {
            commands.encoder().copy_buffer_to_buffer(from, 0, to, 0, to.size());
        }
        commands.submit();
        read_together(&self.gpu, &outputs.iter().map(|buffer| (*buffer, 0..buffer.size())).collect::<Vec<_>>())
    }
}

impl<'a> Sheet<'a> {
    /// Of prompts of `seq` tokens.
    fn new(engine: &'a Engine, seq: usize) -> Self {
        let mut tape = Tape::new(1);
        let model = Model::new(&engine.config, &mut tape);
        let mut bindings = Bindings::new();
        for (weight, buffer) in model.weights.iter().zip(&engine.weights) {
            bindings.bind(*weight, Storage::whole(buffer, 0));
        }
        Self { engine, seq, tape, model, bindings }
    }

    fn compile(&self) -> Result<Program> {
        self.tape.compile(&self.engine.gpu, &self.bindings)
    }

    fn input(&mut self, name: &str, shape: Shape, slot: &wgpu::Buffer) -> Var {
        let var = self.tape.input(name, shape.shared());
        self.bindings.bind(var, Storage::whole(slot, 0));
        var
    }

    /// A buffer that a value is written to.
    fn output(&mut self, var: Var) -> Result<wgpu::Buffer> {
        let buffer = self.engine.gpu.buffer(Class::Data, self.tape.shape(var).len() as u64)?;
        self.bindings.bind(var, Storage::whole(&buffer, 0));
        Ok(buffer)
    }

    /// Rows that are read out, of `copies` of the batch.
    fn rows(&mut self, copies: usize) -> Var {
        self.input("rows", Shape::u32(&[copies * self.engine.size]), &self.engine.slots.rows)
    }

    fn answers(&mut self) -> [Var; 2] {
        let (size, slots) = (self.engine.size, &self.engine.slots);
        [("targets", &slots.targets), ("foils", &slots.foils)]
            .map(|(name, slot)| self.input(name, Shape::u32(&[size]), slot))
    }

    /// A layer's block over every position of the batch, and the stream behind it, [B, T, D].
    fn block(&mut self, layer: usize) -> Result<(Forward, Var)> {
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

    fn heads(&mut self, layer: usize, forward: &Forward, baseline: Baseline) -> Result<Written> {
        let config = &self.engine.config;
        // An MLP beside attention does not see what heads write.
        let beside = config.parallel_attn_mlp && config.has_mlp();
        let (point, stream) = if beside { (Point::Post, "hook_resid_post") } else { (Point::Mid, "hook_resid_mid") };
        self.written(layer, forward, (stream, point), ("attn.hook_result", config.n_heads), baseline)
    }

    fn mlp(&mut self, layer: usize, forward: &Forward, baseline: Baseline) -> Result<Written> {
        self.written(layer, forward, ("hook_resid_post", Point::Post), ("hook_mlp_out", 1), baseline)
    }

    fn written(
        &mut self,
        layer: usize,
        forward: &Forward,
        (stream, point): (&str, Point),
        (result, count): (&str, usize),
        baseline: Baseline,
    ) -> Result<Written> {
        let engine = self.engine;
        let (tokens, d) = (engine.size * self.seq, engine.config.d_model);
        let hook = |name: &str| forward.hook(&format!("blocks.{layer}.{name}"));
        let stream = self.tape.reshape(hook(stream)?, &[tokens, d])?;
        let result = self.tape.reshape(hook(result)?, &[tokens, count * d])?;
        let instead = match baseline {
            Baseline::Zero => None,
            Baseline::Mean => {
                let slot = &engine.slots.means[usize::from(point == Point::Post && count == 1)];
                let mean = self.input("mean", Shape::f32(&[1, count * d]), slot);
                let everywhere = self.tape.constant_u32(&[tokens], &vec![0; tokens]);
                Some(self.tape.push1(GatherRows, &[mean, everywhere])?)
            }
            Baseline::Resample => {
                let next = self.input("next prompt", Shape::u32(&[tokens]), &engine.slots.next);
                Some(self.tape.push1(GatherRows, &[result, next])?)
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
        let (rows, stream, lost) = if layer + 1 == engine.config.n_layers {
            let rows = self.rows(1);
            let pick = |tape: &mut Tape, x: Var| tape.push1(GatherRows, &[x, rows]);
            (engine.size, pick(&mut self.tape, stream)?, pick(&mut self.tape, lost)?)
        } else {
            (tokens, stream, lost)
        };
        let lost = self.tape.reshape(lost, &[rows, count, d])?;
        Ok(Written { layer, point, stream, lost, count })
    }

    /// Outcomes of every prompt under interventions, of which there are at most `chunk`.
    fn under(&mut self, on: &Written, what: &[Intervention]) -> Result<wgpu::Buffer> {
        let removed: Vec<f32> = what.iter().flat_map(|i| i.removed.iter().copied()).collect();
        let removed = self.tape.constant(&[what.len(), on.count], &removed);
        // Baselines are in what is lost already.
        let (zero, held) =
            (self.tape.constant_u32(&[what.len()], &vec![0; what.len()]), self.tape.constant(&[1], &[1.0]));
        let stream = self.tape.push1(Ablate, &[on.stream, on.lost, on.lost, held, removed, zero])?;
        self.above(on.layer, on.point, stream)
    }

    /// Outcomes where random subspaces of what the heads of a layer write are taken away.
    fn null(&mut self, on: &Written) -> Result<Vec<wgpu::Buffer>> {
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

fn longest(prompts: &Prompts) -> usize {
    prompts.list.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0)
}

/// Prompts of a batch at most, so that a scan soon says how far it has come.
const TOGETHER: usize = 32;

fn by_prompt(words: &[u32]) -> impl Iterator<Item = Outcome> {
    words.chunks_exact(OUTCOMES).map(|words| std::array::from_fn(|column| f32::from_bits(words[column])))
}

/// How many sequences of `seq` tokens go through blocks and read-out at once, and how many where also what each head writes is
/// kept: so many that the widest activation has [`Caps::room`](crate::gpu::Caps).
fn most(gpu: &Gpu, config: &ModelConfig, seq: usize) -> (usize, usize) {
    let (h, k, d) = (config.n_heads, config.d_head, config.d_model);
    let room = gpu.caps().room() as usize;
    let widest =
        [seq * d.max(h * k).max(config.d_mlp), h * seq * seq, config.d_vocab_out].into_iter().max().unwrap_or(1);
    // Attention has a workgroup layer for each head of each sequence, of which there may be 65,535.
    let most = (room / widest).min(65_535 / h).max(1);
    (most, (room / (seq * h * d)).max(1))
}
