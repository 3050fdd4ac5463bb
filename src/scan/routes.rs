//! Path patching on the device: which later head, by its queries, keys or values, or which MLP block reads what a head wrote.
//!
//! A head's *change* is what takes the place of what it wrote, less that, at all positions. It is put where one reader takes its
//! input, and nowhere else: the reader writes something else then, and everything above is computed again. Everything starts from the
//! stream before the head's layer, so that nothing has to be kept from layer to layer.

use super::Outcome;
use super::engine::{Battery, Engine, MISSING, by_prompt, fill};
use super::sheet::{MLP, Sheet};
use crate::autograd::Shape;
use crate::autograd::ops::Scale;
use crate::error::Result;
use crate::gpu::Class;
use crate::intervene::{Baseline, Intervention};
use crate::model::Point;

/// What became of every prompt where one layer reads a head's change, a list of prompts for each reader.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// The head's number in [`Battery::senders`].
    pub sender: usize,
    /// The layer that reads it: the head's own, or one above.
    pub layer: usize,
    /// The change in the input of the queries of each head.
    pub queries: Vec<Vec<Outcome>>,
    /// The same of its keys.
    pub keys: Vec<Vec<Outcome>>,
    /// The same of its values.
    pub values: Vec<Vec<Outcome>>,
    /// The same of the MLP block, if there is one that can read the head.
    pub mlp: Vec<Vec<Outcome>>,
    /// The change where the stream ends, and nowhere before; in the head's own layer.
    pub direct: Vec<Vec<Outcome>>,
    /// The change in the stream up to and with this layer, and again where it ends. With the last layer, all that the head does.
    pub upto: Vec<Vec<Outcome>>,
}

impl Routes {
    fn lists(&mut self) -> [&mut Vec<Vec<Outcome>>; 6] {
        [&mut self.queries, &mut self.keys, &mut self.values, &mut self.mlp, &mut self.direct, &mut self.upto]
    }
}

impl Engine {
    /// Every path from the senders of a layer, reader by reader. `each` is told behind every batch what share is done, and says whether
    /// to go on; where it does not, there are none.
    pub(super) fn routes(
        &self,
        layer: usize,
        what: &Battery,
        mut each: impl FnMut(f64) -> bool,
    ) -> Result<Option<Vec<Routes>>> {
        let senders: Vec<usize> = (0..what.senders.len()).filter(|at| what.senders[*at][0] == layer).collect();
        if senders.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let (h, count) = (self.config.n_heads, self.prompts());
        let removed = self.gpu.buffer(Class::Data, h as u64)?;
        let (mut found, mut done) = (Vec::new(), 0);
        let all = (self.config.n_layers - layer) * senders.len() * self.batches.len();
        for reader in layer..self.config.n_layers {
            let routes = |sender: &usize| Routes { sender: *sender, layer: reader, ..Routes::default() };
            let mut here: Vec<Routes> = senders.iter().map(routes).collect();
            for batches in self.batches.chunk_by(|a, b| a.seq == b.seq) {
                let mut sheet = Sheet::new(self, batches[0].seq);
                let outputs = sheet.readers(layer, reader, what.baseline, &removed)?;
                let program = sheet.compile()?;
                let buffers: Vec<&wgpu::Buffer> = outputs.iter().flatten().collect();
                for routes in &mut here {
                    let share = |head: usize| f32::from(u8::from(what.senders[routes.sender][1] == head));
                    let shares: Vec<f32> = (0..h).map(share).collect();
                    self.gpu.queue().write_buffer(&removed, 0, bytemuck::cast_slice(&shares));
                    for batch in batches {
                        let mut read = self.run(&program, batch, None, &buffers)?.into_iter();
                        for (list, buffers) in routes.lists().into_iter().zip(&outputs) {
                            let words = read.by_ref().take(buffers.len()).flatten().collect::<Vec<u32>>();
                            let outcomes = by_prompt(&words);
                            list.resize_with(outcomes.len() / self.size, || vec![MISSING; count]);
                            for (list, outcomes) in list.iter_mut().zip(outcomes.chunks(self.size)) {
                                fill(list, batch, outcomes, || {
                                    format!("a path from layer {layer} through layer {reader}")
                                })?;
                            }
                        }
                        done += 1;
                        if !each(f64::from(done) / all as f64) {
                            return Ok(None);
                        }
                    }
                }
            }
            found.append(&mut here);
        }
        Ok(Some(found))
    }
}

impl Sheet<'_> {
    /// Outcomes of one layer's readers of a head of a layer, in the order of [`Routes::lists`].
    fn readers(
        &mut self,
        layer: usize,
        reader: usize,
        baseline: Baseline,
        removed: &wgpu::Buffer,
    ) -> Result<[Vec<wgpu::Buffer>; 6]> {
        let engine = self.engine;
        let beside = engine.config.parallel_attn_mlp;
        // As every pass that goes on from a stream, this one has the hooks of all layers above.
        let (clean, _) = self.block(layer)?;
        let on = self.heads(layer, &clean, &clean, baseline)?;
        let removed = self.input("removed", Shape::f32(&[1, on.count]), removed);
        let change = self.change(&on, removed)?;

        let mut lists: [Vec<wgpu::Buffer>; 6] = Default::default();
        let reads = engine.config.has_mlp() && (reader > layer || !beside);
        if reader == layer {
            let stream = clean.hook(&format!("blocks.{reader}.hook_resid_post"))?;
            lists[4].push(self.ending(reader, stream, change)?);
        } else {
            let before = clean.hook(&format!("blocks.{reader}.hook_resid_pre"))?;
            let from = self.onwards(reader - 1, Point::Post, before, change)?;
            let heads = self.heads(reader, &clean, &clean, Baseline::Zero)?;
            for (number, list) in lists[..3].iter_mut().enumerate() {
                let passes = std::array::from_fn(|part| if part == number { &from } else { &clean });
                let instead = self.model.attend(&mut self.tape, reader, passes)?;
                let written = self.instead(&heads, instead)?;
                for part in Intervention::each(heads.count, Baseline::Zero).chunks(engine.chunk) {
                    list.push(self.under(&written, part)?);
                }
            }
        }
        if reads {
            let (place, layer, point) = match beside {
                true => ("hook_resid_pre", reader - 1, Point::Post),
                false => ("hook_resid_mid", reader, Point::Mid),
            };
            let before = clean.hook(&format!("blocks.{reader}.{place}"))?;
            let from = self.onwards(layer, point, before, change)?;
            let mlp = self.mlp(reader, &clean, Baseline::Zero)?;
            let written = self.instead(&mlp, from.hook(&format!("blocks.{reader}.{MLP}"))?)?;
            lists[3].push(self.under(&written, &Intervention::each(1, Baseline::Zero))?);
        }
        if reads || reader > layer {
            let changed = self.with_change(&on, change)?;
            let stream = changed.hook(&format!("blocks.{reader}.hook_resid_post"))?;
            let back = self.tape.push1(Scale(-1.0), &[change])?;
            let stream = self.sum(stream, back)?;
            lists[5].push(self.ending(reader, stream, change)?);
        }
        Ok(lists)
    }
}
