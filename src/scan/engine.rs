//! A model's weights and forward activations, and interventions at one layer after the other.

use super::Prompts;
use super::batch::{Batch, Slots};
use super::direct::Direct;
use super::routes::Routes;
use super::sheet::{HEADS, MLP, Sheet};
use crate::autograd::Shape;
use crate::autograd::ops::{Copy, scatter_rows};
use crate::error::{Error, Result};
use crate::gpu::{Class, Commands, Gpu, Program, Select, Storage, read_together};
use crate::instrument::ablation::subspaces;
use crate::intervene::{Baseline, Intervention, OUTCOMES, Outcomes};
use crate::model::{Forward, ModelConfig, ModelFolder, ReadOut, Rows};

/// What a prompt's prediction became, in the columns of [`crate::intervene::column`].
pub type Outcome = [f32; OUTCOMES];

/// Heads that are ablated together, as layer and number, in rising order.
pub type Set = Vec<[usize; 2]>;

/// What is done at each layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Battery {
    /// Every head is ablated, alone.
    pub heads: bool,
    /// Every MLP block is ablated, alone.
    pub mlps: bool,
    /// Every two heads of the layer are ablated together.
    pub pairs: bool,
    /// Of prompts in pairs, the residual stream behind the layer takes that of the other one at one place; at each, alone.
    pub places: bool,
    /// Sets of heads that are ablated together, each when its first layer comes.
    pub sets: Vec<Set>,
    /// Heads whose writing is followed to what reads it, in rising order.
    pub senders: Set,
    /// What takes the place of what was written.
    pub baseline: Baseline,
    /// How many random subspaces of what a layer's heads write are taken away.
    pub draws: usize,
}

impl Battery {
    /// Passes above a layer that are computed there, where every set begins in the first layer.
    pub fn passes(&self, config: &ModelConfig, seq: usize, layer: usize) -> usize {
        let h = config.n_heads;
        let of = |there: bool, passes: usize| if there { passes } else { 0 };
        of(self.heads, h)
            + of(self.mlps && config.has_mlp(), 1)
            + of(self.pairs, h * (h - 1) / 2)
            + of(self.places && layer + 1 < config.n_layers, seq)
            + self.sets.iter().filter(|set| set[0][0] == layer).count()
            + self.readings(config, layer)
            + 1
            + self.draws
    }
}

impl Battery {
    /// How many of the passes are through what reads the senders of a layer: queries, keys and values of each head above, each MLP
    /// block, and each layer; half of the layers are left for them on average.
    fn readings(&self, config: &ModelConfig, layer: usize) -> usize {
        let senders = self.senders.iter().filter(|head| head[0] == layer).count();
        senders * (2 + (3 * config.n_heads + 2) * (config.n_layers - layer) / 2)
    }
}

/// Every two of `heads` heads, in the order in which they are ablated together.
pub fn pairs(heads: usize) -> impl Iterator<Item = [usize; 2]> {
    (0..heads).flat_map(move |a| (a + 1..heads).map(move |b| [a, b]))
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
    /// Every two heads ablated, in the order of [`pairs`].
    pub pairs: Vec<Vec<Outcome>>,
    /// The stream behind the block swapped at one place, from the last token of each prompt backwards; what stands for a prompt
    /// that has no such place says nothing. None behind the last layer, where the place that is read is all that counts.
    pub places: Vec<Vec<Outcome>>,
    /// Sets of heads ablated, with their numbers.
    pub sets: Vec<(usize, Vec<Outcome>)>,
    /// What reads the senders of the layer.
    pub routes: Vec<Routes>,
    /// What each head, and then the MLP block, writes towards z_target - z_foil in the clean pass, of those that are ablated:
    /// see `Direct`.
    pub direct: Vec<Vec<f64>>,
    /// At the first layer, the same of embeddings and biases, which nobody ablates.
    pub rest: Vec<f64>,
}

impl LayerOutcomes {
    fn lists(&mut self) -> [&mut Vec<Vec<Outcome>>; 6] {
        [&mut self.heads, &mut self.mlp, &mut self.sham, &mut self.null, &mut self.pairs, &mut self.places]
    }
}

/// A program over the batches of one length, and where it leaves what.
struct Built {
    program: Program,
    /// In the order of [`LayerOutcomes::lists`].
    lists: [Vec<wgpu::Buffer>; 6],
    /// Places that are swapped, and where their rows go.
    places: Vec<(std::ops::Range<usize>, wgpu::Buffer)>,
    /// What heads and MLP block wrote where prompts are read, [B, W, D]; and the embeddings there at the first layer.
    direct: Vec<wgpu::Buffer>,
    rest: Option<wgpu::Buffer>,
}

/// A pretrained model on a device with a set of prompts.
pub struct Engine {
    pub(super) gpu: Gpu,
    pub(super) config: ModelConfig,
    /// One for each weight: together they may be more than can be bound at once.
    pub(super) weights: Vec<wgpu::Buffer>,
    /// Prompts of a batch B.
    pub(super) size: usize,
    /// Interventions that are computed at once.
    pub(super) chunk: usize,
    /// From the shortest prompts to the longest: few are padded, and a program serves all batches of one length.
    pub(super) batches: Vec<Batch>,
    /// Directions of the null, [B K, D] and [B K, H K], of so many draws and blocks B; made when they are first asked for.
    pub(super) drawn: Vec<(usize, usize, [wgpu::Buffer; 2])>,
    /// Means over all tokens of all prompts of what heads [H, D] and the MLP block `[D]` of each layer write; made when they are
    /// first asked for.
    pub(super) means: Vec<[Vec<f32>; 2]>,
    pub(super) slots: Slots,
    direct: Direct,
    layer: usize,
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
        let direct = Direct::new(&config, &table, &values, prompts);
        drop(values);
        let (most, alone) = most(gpu, &config, longest);
        let parts = prompts.list.len().div_ceil(most.min(alone).min(TOGETHER)).max(1);
        let size = prompts.list.len().div_ceil(parts);
        // Those of a pair stay together.
        let size = if prompts.paired { size.next_multiple_of(2) } else { size };
        let chunk = (most / size).max(1);
        let slots = Slots::new(gpu, &config, longest, size, chunk)?;
        let (gpu, batches, drawn, means) = (gpu.clone(), Vec::new(), Vec::new(), Vec::new());
        let mut engine = Self { gpu, config, weights, size, chunk, batches, drawn, means, slots, direct, layer: 0 };
        engine.fill(prompts)?;
        Ok(engine)
    }

    fn fill(&mut self, prompts: &Prompts) -> Result<()> {
        let mut order: Vec<usize> = (0..prompts.list.len()).collect();
        order.sort_by_key(|at| prompts.list[*at].tokens.len());
        let sizes = (self.size, self.chunk);
        let batches = order.chunks(self.size).map(|part| Batch::new(&self.gpu, &self.config, prompts, part, sizes));
        self.batches = batches.collect::<Result<_>>()?;
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

    /// The clean pass over all prompts: their outcomes. Layers begin anew behind it.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn clean(&mut self) -> Result<Vec<Outcome>> {
        let mut found = vec![[0.0; OUTCOMES]; self.prompts()];
        let mut scales = vec![1.0; self.prompts()];
        for batches in self.batches.chunk_by(|a, b| a.seq == b.seq) {
            let mut sheet = Sheet::new(self, batches[0].seq);
            let rows = sheet.rows(1);
            let tokens = sheet.input("tokens", Shape::u32(&[self.size * sheet.seq]), &self.slots.tokens);
            let read = ReadOut::At(rows);
            let forward = sheet.model.forward(&mut sheet.tape, &Rows::Each { tokens }, self.size, sheet.seq, read)?;
            let [targets, foils] = sheet.answers();
            let outcomes = sheet.tape.push1(Outcomes, &[forward.logits, forward.logits, targets, foils])?;
            // The next programs read them: a buffer is either read or written in a dispatch.
            let kept = sheet.tape.push1(Copy, &[forward.logits])?;
            sheet.bindings.bind(kept, Storage::whole(&self.slots.clean, 0));
            let mut outputs = vec![sheet.output(outcomes)?];
            if let Ok(scale) = forward.hook("ln_final.hook_scale") {
                let scale = sheet.tape.push1(Copy, &[scale])?;
                outputs.push(sheet.output(scale)?);
            }
            let program = sheet.compile()?;
            for batch in batches {
                let outputs = outputs.iter().collect::<Vec<_>>();
                let read = self.run(&program, batch, Some((&self.slots.clean, &batch.clean)), &outputs)?;
                fill(&mut found, batch, &by_prompt(&read[0]), || "the model".to_owned())?;
                for (at, scale) in batch.numbers.iter().zip(read.get(1).into_iter().flatten()) {
                    scales[*at] = f64::from(f32::from_bits(*scale));
                }
            }
        }
        self.direct.scales = scales;
        self.layer = 0;
        Ok(found)
    }

    pub(super) fn prompts(&self) -> usize {
        self.batches.iter().map(|batch| batch.numbers.len()).sum()
    }

    /// The next layer: its interventions on all prompts. [`Engine::clean`] comes before the first. `each` is told behind every
    /// batch what share is done, and says whether to go on; where it does not, there are no outcomes.
    ///
    /// # Errors
    /// Where there is no further layer, or the device fails.
    pub fn next_layer(&mut self, what: &Battery, mut each: impl FnMut(f64) -> bool) -> Result<Option<LayerOutcomes>> {
        let layer = self.layer;
        if what.draws > 0 && self.drawn.is_empty() {
            self.draw(what.draws)?;
        }
        if what.baseline == Baseline::Mean && self.means.is_empty() {
            self.means = self.find_means()?;
            // That went over all layers.
            (0..layer).try_for_each(|below| self.advance(below, |_, _| Ok(Vec::new()), |_| ()))?;
        }
        let count = self.prompts();
        // Before the streams go on to the next layer.
        let mut found = LayerOutcomes { sets: self.sets(layer, what)?, ..LayerOutcomes::default() };
        let passes = what.passes(&self.config, self.batches.last().map_or(1, |batch| batch.seq), layer);
        let of_routes = what.readings(&self.config, layer) as f64 / passes as f64;
        match self.routes(layer, what, |share| each(of_routes * share))? {
            Some(routes) => found.routes = routes,
            None => return Ok(None),
        }
        let mut done = 0;
        for batches in self.batches.chunk_by(|a, b| a.seq == b.seq) {
            let built = self.interventions(layer, what, batches[0].seq)?;
            for batch in batches {
                for (places, slot) in &built.places {
                    let rows = batch.swapped(places.clone());
                    self.gpu.queue().write_buffer(slot, 0, bytemuck::cast_slice(&rows));
                }
                let all: Vec<&wgpu::Buffer> =
                    built.lists.iter().flatten().chain(&built.direct).chain(&built.rest).collect();
                let keep = Some((&self.slots.after, &batch.stream));
                let mut read = self.run(&built.program, batch, keep, &all)?.into_iter();
                for (list, buffers) in found.lists().into_iter().zip(&built.lists) {
                    let words = read.by_ref().take(buffers.len()).flatten().collect::<Vec<u32>>();
                    let outcomes = by_prompt(&words);
                    // A longer batch has more places.
                    list.resize_with(list.len().max(outcomes.len() / self.size), || vec![MISSING; count]);
                    for (list, outcomes) in list.iter_mut().zip(outcomes.chunks(self.size)) {
                        fill(list, batch, outcomes, || format!("the model with a change in layer {layer}"))?;
                    }
                }
                let written: Vec<Vec<u32>> = read.by_ref().take(built.direct.len()).collect();
                self.direct.of(written, &batch.numbers, (self.size, count), &mut found.direct);
                for words in read {
                    found.rest.resize(count, 0.0);
                    self.direct.rest(&words, &batch.numbers, &mut found.rest);
                }
                done += batch.numbers.len();
                if !each(of_routes + (1.0 - of_routes) * done as f64 / count as f64) {
                    return Ok(None);
                }
            }
        }
        self.layer += 1;
        Ok(Some(found))
    }

    /// Goes over a layer without any intervention.
    ///
    /// # Errors
    /// As [`Engine::next_layer`].
    pub fn skip_layer(&mut self) -> Result<()> {
        self.advance(self.layer, |_, _| Ok(Vec::new()), |_| ())?;
        self.layer += 1;
        Ok(())
    }

    /// Computes a layer and nothing else: `each` gets what `build` leaves in buffers, batch by batch.
    fn advance(
        &self,
        layer: usize,
        build: impl Fn(&mut Sheet<'_>, &Forward) -> Result<Vec<wgpu::Buffer>>,
        mut each: impl FnMut(Vec<Vec<u32>>),
    ) -> Result<()> {
        for batches in self.batches.chunk_by(|a, b| a.seq == b.seq) {
            let mut sheet = Sheet::new(self, batches[0].seq);
            let (forward, after) = sheet.block(layer)?;
            let outputs = build(&mut sheet, &forward)?;
            sheet.bindings.bind(after, Storage::whole(&self.slots.after, 0));
            let program = sheet.compile()?;
            for batch in batches {
                let keep = Some((&self.slots.after, &batch.stream));
                each(self.run(&program, batch, keep, &outputs.iter().collect::<Vec<_>>())?);
            }
        }
        Ok(())
    }

    /// Every intervention at a layer on a batch of prompts of `seq` tokens, but for sets.
    fn interventions(&self, layer: usize, what: &Battery, seq: usize) -> Result<Built> {
        let mut sheet = Sheet::new(self, seq);
        let (forward, after) = sheet.block(layer)?;
        let mut lists: [Vec<wgpu::Buffer>; 6] = Default::default();
        let mut direct = Vec::new();
        let heads = sheet.heads(layer, &forward, &forward, what.baseline)?;
        if what.heads {
            for part in Intervention::each(heads.count, Baseline::Zero).chunks(self.chunk) {
                lists[0].push(sheet.under(&heads, part)?);
            }
            direct.push(sheet.at_the_end(&heads)?);
        }
        if what.mlps && self.config.has_mlp() {
            let mlp = sheet.mlp(layer, &forward, what.baseline)?;
            lists[1].push(sheet.under(&mlp, &Intervention::each(1, Baseline::Zero))?);
            direct.push(sheet.at_the_end(&mlp)?);
        }
        let sham = Intervention::one(0, heads.count, 0.0, Baseline::Zero);
        lists[2].push(sheet.under(&heads, &[sham])?);
        // The only head of a layer is all that it writes: there is nothing else to draw.
        if what.draws > 0 && heads.count > 1 {
            lists[3] = sheet.null(&heads)?;
        }
        if what.pairs {
            let together = |pair: [usize; 2]| Intervention {
                removed: (0..heads.count).map(|head| if pair.contains(&head) { 1.0 } else { 0.0 }).collect(),
                baseline: Baseline::Zero,
            };
            for part in pairs(heads.count).map(together).collect::<Vec<_>>().chunks(self.chunk) {
                lists[4].push(sheet.under(&heads, part)?);
            }
        }
        let mut places = Vec::new();
        if what.places && layer + 1 < self.config.n_layers {
            for first in (0..seq).step_by(self.chunk) {
                let some = first..seq.min(first + self.chunk);
                let slot = self.gpu.buffer(Class::Data, (some.len() * self.size * seq) as u64)?;
                lists[5].push(sheet.swapped(layer, after, &slot)?);
                places.push((some, slot));
            }
        }
        let rest = match layer == 0 && !direct.is_empty() {
            true => Some(sheet.embedded(&forward)?),
            false => None,
        };
        sheet.bindings.bind(after, Storage::whole(&self.slots.after, 0));
        Ok(Built { program: sheet.compile()?, lists, places, direct, rest })
    }

    /// Outcomes of the sets whose first layer is this.
    fn sets(&self, layer: usize, what: &Battery) -> Result<Vec<(usize, Vec<Outcome>)>> {
        let layers = |set: &Set| {
            let mut layers: Vec<usize> = set.iter().map(|head| head[0]).collect();
            layers.dedup();
            layers
        };
        let mut here: Vec<(usize, Vec<usize>)> =
            what.sets.iter().enumerate().map(|(at, set)| (at, layers(set))).filter(|(_, of)| of[0] == layer).collect();
        here.sort_by(|a, b| a.1.cmp(&b.1));
        let mut found: Vec<(usize, Vec<Outcome>)> =
            here.iter().map(|(at, _)| (*at, vec![MISSING; self.prompts()])).collect();
        let (h, mut first) = (self.config.n_heads, 0);
        for alike in here.chunk_by(|a, b| a.1 == b.1) {
            let layers = &alike[0].1;
            let removed = layers.iter().map(|_| self.gpu.buffer(Class::Data, h as u64)).collect::<Result<Vec<_>>>()?;
            for batches in self.batches.chunk_by(|a, b| a.seq == b.seq) {
                let mut sheet = Sheet::new(self, batches[0].seq);
                let (forward, _) = sheet.block(layer)?;
                let output = sheet.chain(layers, &forward, what.baseline, &removed)?;
                let program = sheet.compile()?;
                for ((at, _), found) in alike.iter().zip(&mut found[first..]) {
                    for (layer, slot) in layers.iter().zip(&removed) {
                        let share = |head: usize| f32::from(u8::from(what.sets[*at].contains(&[*layer, head])));
                        let shares: Vec<f32> = (0..h).map(share).collect();
                        self.gpu.queue().write_buffer(slot, 0, bytemuck::cast_slice(&shares));
                    }
                    for batch in batches {
                        let read = self.run(&program, batch, None, &[&output])?;
                        fill(&mut found.1, batch, &by_prompt(&read[0]), || {
                            "the model without a set of heads".to_owned()
                        })?;
                    }
                }
            }
            first += alike.len();
        }
        Ok(found)
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

    /// Means over all tokens of all prompts of what heads and MLP block of each layer write.
    fn find_means(&self) -> Result<Vec<[Vec<f32>; 2]>> {
        let count = self.batches.iter().flat_map(|batch| &batch.own).filter(|own| **own == 0).count() as f64;
        let of_layer = |layer: usize| {
            let mut sums: [Vec<f64>; 2] = Default::default();
            let sum_up = |sheet: &mut Sheet<'_>, forward: &Forward| {
                let rows = self.size * sheet.seq;
                let own = sheet.input("tokens of prompts", Shape::u32(&[rows]), &self.slots.own);
                let hooks = [Some(HEADS), self.config.has_mlp().then_some(MLP)];
                let sum = |hook: &str| {
                    let written = forward.hook(&format!("blocks.{layer}.{hook}"))?;
                    let width = sheet.tape.shape(written).len() / rows;
                    let written = sheet.tape.reshape(written, &[rows, width])?;
                    let sum = scatter_rows(&mut sheet.tape, written, own, 1)?;
                    sheet.output(sum)
                };
                hooks.into_iter().flatten().map(sum).collect()
            };
            self.advance(layer, sum_up, |read| {
                for (sum, words) in sums.iter_mut().zip(read) {
                    sum.resize(words.len(), 0.0);
                    sum.iter_mut().zip(words).for_each(|(sum, word)| *sum += f64::from(f32::from_bits(word)));
                }
            })?;
            Ok(sums.map(|sum| sum.into_iter().map(|sum| (sum / count) as f32).collect()))
        };
        (0..self.config.n_layers).map(of_layer).collect()
    }

    /// Runs a program over a batch; keeps what it leaves in `keep`'s first in its second, and reads `outputs`.
    pub(super) fn run(
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
            (&slots.other, &batch.other),
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

fn longest(prompts: &Prompts) -> usize {
    prompts.list.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0)
}

/// Prompts of a batch at most, so that a scan soon says how far it has come.
const TOGETHER: usize = 32;

/// The outcome of a prompt that an intervention does not reach.
pub(super) const MISSING: Outcome = [f32::NAN; OUTCOMES];

pub(super) fn by_prompt(words: &[u32]) -> Vec<Outcome> {
    words.chunks_exact(OUTCOMES).map(|words| std::array::from_fn(|column| f32::from_bits(words[column]))).collect()
}

/// Puts outcomes of a batch where its prompts are. What is no finite number has no mean and no place beside others.
pub(super) fn fill(
    list: &mut [Outcome],
    batch: &Batch,
    outcomes: &[Outcome],
    whose: impl Fn() -> String,
) -> Result<()> {
    for (at, outcome) in batch.numbers.iter().zip(outcomes) {
        if outcome.iter().any(|value| !value.is_finite()) {
            return Err(Error::Refused(format!(
                "{} gives prompt {} logits that are no finite numbers: its weights are damaged, or overflow f32; thermoscope measure shows where",
                whose(),
                at + 1
            )));
        }
        list[*at] = *outcome;
    }
    Ok(())
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
