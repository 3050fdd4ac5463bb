//! The clean pass over a probe, and the same under interventions.

use std::ops::Range;

use super::contrast::{Contrasts, ExampleSums};
use super::ops::{Ablate, AblateEach, GroupMeans, Outcomes};
use super::{Intervention, OUTCOMES};
use crate::autograd::op::misfit;
use crate::autograd::ops::{GatherColumns, scatter_rows};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::model::{Model, Point, ReadOut, Resume};
use crate::task::{Batch, Pass, count_targets};

/// What wrote to the residual stream at one place: the heads of a layer, or its MLP block.
pub struct Writers {
    /// Hook of what they wrote.
    pub site: String,
    /// Block.
    pub layer: usize,
    /// Where the stream behind them enters the rest of the pass.
    pub point: Point,
    /// How many they are; an MLP block is one.
    pub count: usize,
    /// Whether they are heads.
    pub heads: bool,
    /// The stream behind them, [N, D].
    pub stream: Var,
    /// What each wrote, [N, H, D].
    pub result: Var,
    /// The sum of that over examples, [Tq, H, D].
    pub sum: Var,
}

/// A batch with its clean pass, and what interventions are compared with.
pub struct Probe<'a> {
    /// The model.
    pub model: &'a Model,
    /// The clean pass.
    pub pass: Pass,
    /// 0 for each sequence that is an example, `IGNORE` for those that fill up: `[B]`.
    pub own: Var,
    /// How many examples there are, `[1]`.
    pub held: Var,
    /// Which positions are read out.
    pub read: ReadOut,
    /// Interventions computed at once.
    pub chunk: usize,
    /// Outcomes of the clean pass, [N, 8].
    pub rows: Var,
    /// The same by example, [1, E, 8].
    pub clean: Var,
    /// Their means, [1, 8].
    pub levels: Var,
}

/// Logits [I * N, V] under interventions, and the last residual streams [I * N, D] that gave them.
pub struct Changed {
    /// Logits.
    pub logits: Var,
    /// The residual stream behind the last block.
    pub last: Var,
}

impl<'a> Probe<'a> {
    /// Appends the clean pass over a batch, as [`Feed::probe`](crate::task::Feed::probe) gives it. Passes above interventions
    /// are computed for at most `piece` sequences at once.
    ///
    /// # Errors
    /// Where model and batch do not fit.
    pub fn new(
        tape: &mut Tape,
        model: &'a Model,
        (batch, own): (Batch, Var),
        read: ReadOut,
        piece: usize,
    ) -> Result<Self> {
        let held = count_targets(tape, own, 1)?;
        let pass = Pass::new(tape, model, batch, read)?;
        let logits = pass.forward.logits;
        let chunk = (piece / batch.size).max(1);
        let mut probe = Self { model, pass, own, held, read, chunk, rows: logits, clean: logits, levels: logits };
        probe.rows = probe.rows_of(tape, logits)?;
        probe.clean = probe.examples(tape, probe.rows, None)?;
        probe.levels = probe.means(tape, probe.clean, None)?;
        Ok(probe)
    }

    /// The heads of a layer, and the stream behind them.
    ///
    /// # Errors
    /// Where there is no such layer.
    pub fn heads(&self, tape: &mut Tape, layer: usize) -> Result<Writers> {
        let config = &self.model.config;
        // An MLP beside attention does not see what heads write.
        let beside = config.parallel_attn_mlp && config.has_mlp();
        self.writers(tape, layer, true, if beside { Point::Post } else { Point::Mid })
    }

    /// The MLP block of a layer, and the stream behind it.
    ///
    /// # Errors
    /// Where there is no such block.
    pub fn mlp(&self, tape: &mut Tape, layer: usize) -> Result<Writers> {
        self.writers(tape, layer, false, Point::Post)
    }

    fn writers(&self, tape: &mut Tape, layer: usize, heads: bool, point: Point) -> Result<Writers> {
        let config = &self.model.config;
        let (hook, count) = if heads { ("attn.hook_result", config.n_heads) } else { ("hook_mlp_out", 1) };
        let stream = match point {
            Point::Mid => "hook_resid_mid",
            Point::Post => "hook_resid_post",
        };
        let hook_at = |name: &str| self.pass.forward.hook(&format!("blocks.{layer}.{name}"));
        let (stream, result, d) = (hook_at(stream)?, hook_at(hook)?, config.d_model);
        let rows = tape.shape(stream).len() / d;
        let batch = self.pass.batch.size;
        let stream = tape.reshape(stream, &[rows, d])?;
        let result = tape.reshape(result, &[rows, count, d])?;
        let by_example = tape.reshape(result, &[batch, rows / batch * count * d])?;
        let sum = scatter_rows(tape, by_example, self.own, 1)?;
        let site = format!("blocks.{layer}.{hook}");
        Ok(Writers { site, layer, point, count, heads, stream, result, sum })
    }

    /// Outcomes of each prediction [I * N, 8] of logits [I * N, V].
    ///
    /// # Errors
    /// Where the logits are not those of this batch.
    pub fn rows_of(&self, tape: &mut Tape, logits: Var) -> Result<Var> {
        tape.push1(Outcomes, &[logits, self.pass.forward.logits, self.pass.batch.targets])
    }

    /// Outcomes by example [F + I, E, 8], sums over its predictions, of outcomes [I * N, 8]; behind the F of an earlier result.
    ///
    /// # Errors
    /// Where the outcomes are not those of this batch.
    pub fn examples(&self, tape: &mut Tape, rows: Var, before: Option<Var>) -> Result<Var> {
        let examples = self.pass.batch.size;
        let predictions = tape.shape(self.pass.batch.targets).len() / examples;
        if predictions == 1 && before.is_none() {
            let interventions = tape.shape(rows).rows().0 / examples;
            return tape.reshape(rows, &[interventions, examples, OUTCOMES]);
        }
        let inputs: Vec<Var> = [rows].into_iter().chain(before).collect();
        tape.push1(ExampleSums { examples, predictions }, &inputs)
    }

    /// Means over predictions [F + I, 8] of outcomes by example [I, E, 8], behind the F rows of an earlier result.
    ///
    /// # Errors
    /// Where the outcomes are not those of this batch.
    pub fn means(&self, tape: &mut Tape, examples: Var, before: Option<Var>) -> Result<Var> {
        let inputs: Vec<Var> = [examples, self.pass.batch.count].into_iter().chain(before).collect();
        tape.push1(GroupMeans { rows: self.pass.batch.size }, &inputs)
    }

    /// What is changed in the mean, and the standard error of that over examples: [16 I + 1], see [`Contrasts`]. Of each
    /// intervention i of x [I, E, 8], with `terms(i)` of against [J, E, 8], times their factors, added.
    ///
    /// # Errors
    /// Where the outcomes are not those of this batch, or interventions differ in how many terms they have.
    pub fn contrast(
        &self,
        tape: &mut Tape,
        x: Var,
        against: Var,
        terms: impl Fn(usize) -> Vec<(usize, f32)>,
    ) -> Result<Var> {
        let interventions = tape.shape(x).dims[0];
        let (term, factor): (Vec<u32>, Vec<f32>) =
            (0..interventions).flat_map(terms).map(|(term, factor)| (term as u32, factor)).unzip();
        if !term.len().is_multiple_of(interventions) {
            return Err(misfit("contrast", format!("{} terms of {interventions} interventions", term.len())));
        }
        let dims = [interventions, term.len() / interventions];
        let (term, factor) = (tape.constant_u32(&dims, &term), tape.constant(&dims, &factor));
        let (targets, count) = (self.pass.batch.targets, self.pass.batch.count);
        tape.push1(Contrasts, &[x, against, targets, count, term, factor])
    }

    /// The same against the clean pass: effects, changed minus clean.
    ///
    /// # Errors
    /// Where the outcomes are not those of this batch.
    pub fn effects(&self, tape: &mut Tape, x: Var) -> Result<Var> {
        self.contrast(tape, x, self.clean, |_| vec![(0, -1.0)])
    }

    /// The rest of the pass above a changed stream [I * N, D], with `frozen` under the clean pass's attention patterns.
    ///
    /// # Errors
    /// Where the stream is not that behind these writers.
    pub fn above(&self, tape: &mut Tape, writers: &Writers, stream: Var, frozen: bool) -> Result<Changed> {
        let rows = tape.shape(writers.stream).rows().0;
        let (interventions, d) = (tape.shape(stream).rows().0 / rows, self.model.config.d_model);
        let batch = interventions * self.pass.batch.size;
        let x = tape.reshape(stream, &[batch, rows / self.pass.batch.size, d])?;
        let patterns = frozen.then_some(&self.pass.forward);
        let (layer, point, seq, read) = (writers.layer, writers.point, self.pass.batch.seq, self.read);
        let forward = self.model.resume(tape, &Resume { layer, point, x, batch, seq, read, patterns })?;
        let last = forward.hook(&format!("blocks.{}.hook_resid_post", self.model.config.n_layers - 1))?;
        let rows = tape.shape(last).rows().0;
        Ok(Changed { logits: forward.logits, last: tape.reshape(last, &[rows, d])? })
    }

    /// The pass under interventions, of which there are at most [`Probe::chunk`].
    ///
    /// # Errors
    /// Where an intervention is not on as many writers as there are.
    pub fn under(&self, tape: &mut Tape, on: &Writers, what: &[Intervention], frozen: bool) -> Result<Changed> {
        let removed: Vec<f32> = what.iter().flat_map(|i| i.removed.iter().copied()).collect();
        if removed.len() != what.len() * on.count {
            return Err(misfit("interventions", format!("{} shares for {} writers", removed.len(), on.count)));
        }
        let removed = tape.constant(&[what.len(), on.count], &removed);
        let base: Vec<u32> = what.iter().map(|i| i.baseline as u32).collect();
        let base = tape.constant_u32(&[what.len()], &base);
        let stream = tape.push1(Ablate, &[on.stream, on.result, on.sum, self.held, removed, base])?;
        self.above(tape, on, stream, frozen)
    }

    /// Outcomes by example [F + I, E, 8] under interventions, behind the F of an earlier result.
    ///
    /// # Errors
    /// As [`Probe::under`], and where there is nothing to do.
    pub fn outcomes(
        &self,
        tape: &mut Tape,
        on: &Writers,
        what: &[Intervention],
        frozen: bool,
        mut examples: Option<Var>,
    ) -> Result<Var> {
        for part in what.chunks(self.chunk) {
            let logits = self.under(tape, on, part, frozen)?.logits;
            let rows = self.rows_of(tape, logits)?;
            examples = Some(self.examples(tape, rows, examples)?);
        }
        examples.ok_or_else(|| misfit("interventions", "nothing to intervene on"))
    }

    /// Outcomes by example [I, E, 8] where what each of some writers wrote is missing from the last residual stream only,
    /// under the final norm's clean scale.
    ///
    /// # Errors
    /// Where there are no such writers.
    pub fn direct(&self, tape: &mut Tape, on: &Writers, some: Range<usize>) -> Result<Var> {
        let (config, forward) = (&self.model.config, &self.pass.forward);
        let last = forward.hook(&format!("blocks.{}.hook_resid_post", config.n_layers - 1))?;
        let rows = tape.shape(last).len() / config.d_model;
        let last = tape.reshape(last, &[rows, config.d_model])?;
        let written = tape.shape(on.stream).rows().0;
        let mut result = on.result;
        if rows != written || some.len() < on.count {
            // All rows, or that of the last position of each example, where no other is read out.
            let step = (written / rows) as u32;
            let at: Vec<u32> = (1..=rows as u32).map(|row| row * step - 1).collect();
            let at = tape.constant_u32(&[rows], &at);
            let flat = tape.reshape(result, &[written, on.count * config.d_model])?;
            let (first, width) = (some.start * config.d_model, some.len() * config.d_model);
            let picked = tape.push1(GatherColumns { first, width }, &[flat, at])?;
            result = tape.reshape(picked, &[rows, some.len(), config.d_model])?;
        }
        let stream = tape.push1(AblateEach, &[last, result])?;
        let logits = self.model.logits_at_scale_of(tape, stream, forward)?;
        let rows = self.rows_of(tape, logits)?;
        self.examples(tape, rows, None)
    }
}
