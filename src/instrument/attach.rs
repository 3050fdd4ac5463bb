//! What an instrument sees while it attaches itself to a step.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::config::{MeasureConfig, every};
use super::optimization::health::Health;
use super::optimization::losses;
use super::row::{Label, Metric, MetricRow, Presence};
use super::{Card, Instrument};
use crate::autograd::ops::Copy;
use crate::autograd::{Bindings, Tape, Var, gcd};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::model::{Model, ModelConfig, ReadOut};
use crate::task::{Batch, Feed, Pass, Task, TaskShape};

/// A step under construction.
pub struct Attach<'a> {
    /// Where kernels are appended.
    pub tape: &'a mut Tape,
    /// The model.
    pub model: &'a Model,
    /// The task.
    pub task: &'a dyn Task,
    /// Its examples.
    pub feed: &'a Feed,
    /// The training step's forward pass.
    pub train: &'a Pass,
    /// Gradient of its mean loss by each weight, in the order of the model's.
    pub grads: &'a [Option<Var>],
    /// How many sequences a forward pass takes.
    pub pieces: Pieces,
    /// Whether every step draws its batch; else each sees the whole training set.
    pub drawn: bool,
    /// Whether the training step's forward pass is that over the whole training set.
    pub full_batch: bool,
    /// Forward passes over the test set that were appended, and their cadence: see [`Attach::test_passes`].
    tested: Option<(u64, Rc<[Pass]>)>,
    config: &'a MeasureConfig,
    /// Whether there are updates to measure.
    trains: bool,
    kept: BTreeMap<Var, Var>,
    /// Products of patterns that were appended, and their cadence: see [`Attach::pattern_products`].
    pub(super) products: BTreeMap<Var, (u64, Var)>,
    /// Summary of the training batch that was appended, and its cadence.
    trained: Option<(u64, Var)>,
    metrics: Vec<Metric>,
}

/// How many sequences a forward pass takes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Pieces {
    /// At most, for all replicas together: how finely a set is cut, on which no number may depend.
    pub most: usize,
    /// What a replica alone could take at most where what every head of a layer wrote is kept, as in a probe. Numbers may depend
    /// on it: company does not change it.
    pub alone_in_probe: usize,
    /// Elements that the widest activation should have at most.
    room: u64,
    replicas: u32,
}

impl Pieces {
    pub(crate) fn new(room: u64, model: &ModelConfig, shape: TaskShape, replicas: u32) -> Self {
        let piece = |replicas: u32, probe: bool| piece(room, model, shape.seq, shape.read, replicas, probe);
        Self { most: piece(replicas, false), alone_in_probe: piece(1, true), room, replicas }
    }

    /// Whether all replicas have room for so many elements each.
    pub(crate) fn hold(&self, elements: usize) -> bool {
        elements as u64 * u64::from(self.replicas) <= self.room
    }

    /// The same as `most`, of sequences of so many tokens, each of which predicts.
    pub(crate) fn most_of(&self, model: &ModelConfig, seq: usize) -> usize {
        piece(self.room, model, seq, ReadOut::All, self.replicas, false)
    }
}

/// Sequences of one piece of a large forward pass, so that its widest activation can be bound; in a probe, what every
/// head of a layer wrote is one too.
fn piece(room: u64, model: &ModelConfig, seq: usize, read: ReadOut, replicas: u32, probe: bool) -> usize {
    let rows = |all: bool| if all { seq } else { 1 };
    let all = read == ReadOut::All;
    let widest = [
        seq * model.d_model.max(model.n_heads * model.d_head),
        rows(all || model.n_layers > 1) * model.d_mlp,
        rows(all) * model.d_vocab_out,
        rows(all || model.n_layers > 1) * model.n_heads * seq,
        if probe { rows(all || model.n_layers > 1) * model.n_heads * model.d_model } else { 0 },
    ]
    .into_iter()
    .max()
    .unwrap_or(1);
    // Multiples of 256 sequences keep the pieces' kernels evenly filled.
    // Long attention has a workgroup layer for each head of each sequence, of which there may be 65,535.
    let layers = 65_535 / (model.n_heads * replicas as usize);
    let count = ((room / (u64::from(replicas) * widest as u64)) as usize).min(layers);
    if count > 256 { count / 256 * 256 } else { count.max(1) }
}

/// Predictions of a probe at most: software drivers end loops after 65,535 rounds.
const RANKED: usize = 32_768;

impl<'a> Attach<'a> {
    #[expect(clippy::too_many_arguments, reason = "a step has these parts")]
    pub(crate) fn new(
        tape: &'a mut Tape,
        model: &'a Model,
        task: &'a dyn Task,
        feed: &'a Feed,
        train: &'a Pass,
        grads: &'a [Option<Var>],
        pieces: Pieces,
        [drawn, full_batch]: [bool; 2],
        config: &'a MeasureConfig,
        trains: bool,
    ) -> Self {
        let (kept, products) = (BTreeMap::new(), BTreeMap::new());
        Self {
            tape,
            model,
            task,
            feed,
            train,
            grads,
            pieces,
            drawn,
            full_batch,
            tested: None,
            config,
            trains,
            kept,
            products,
            trained: None,
            metrics: Vec::new(),
        }
    }

    /// How often a metric is measured in this run; `None` where it is switched off.
    pub fn every(&self, instrument: &dyn Instrument, card: &Card) -> Option<u64> {
        every(self.config, self.trains, instrument, card)
    }

    /// Forward passes over the test set, in pieces, at the steps that `every` divides; those of an instrument that
    /// asked before and is due at all of these steps.
    ///
    /// # Errors
    /// Where model and task do not fit.
    pub fn test_passes(&mut self, every: u64) -> Result<Rc<[Pass]>> {
        if let Some((_, passes)) = self.tested.as_ref().filter(|(before, _)| every.is_multiple_of(*before)) {
            return Ok(Rc::clone(passes));
        }
        let (feed, piece) = (self.feed, self.pieces.most);
        let batches = self.tape.at_cadence(every, |tape| feed.test_batches(tape, piece))?;
        let passes = self.passes(every, batches)?;
        self.tested = Some((every, Rc::clone(&passes)));
        Ok(passes)
    }

    /// Forward passes over the training set, in pieces: the step's own where it sees the whole set.
    ///
    /// # Errors
    /// Where the task's examples are no finite set.
    pub fn train_passes(&mut self, every: u64) -> Result<Rc<[Pass]>> {
        if self.full_batch {
            return Ok(Rc::new([self.train.clone()]));
        }
        let (feed, piece) = (self.feed, self.pieces.most);
        let batches = self.tape.at_cadence(every, |tape| feed.train_batches(tape, piece))?;
        self.passes(every, batches)
    }

    fn passes(&mut self, every: u64, batches: Vec<Batch>) -> Result<Rc<[Pass]>> {
        let (model, read) = (self.model, self.task.shape().read);
        self.tape
            .at_cadence(every, |tape| batches.into_iter().map(|batch| Pass::new(tape, model, batch, read)).collect())
    }

    /// What the rows of the training batch come to, for those who read it: see `losses::train_summary`.
    pub(super) fn train_summary(&mut self, every: u64) -> Result<Var> {
        let every = gcd(every, self.trained.map_or(every, |(before, _)| before));
        match self.trained {
            Some((before, found)) if before == every => Ok(found),
            _ => {
                let (train, with_health) = (self.train, self.cadence(&Health).is_some());
                let found = self.tape.at_cadence(every, |tape| losses::train_summary(tape, train, with_health))?;
                self.trained = Some((every, found));
                Ok(found)
            }
        }
    }

    /// The held batch that interventions are tried on, and which of its sequences are examples.
    ///
    /// # Errors
    /// See [`Feed::probe`].
    pub fn probe_batch(&mut self) -> Result<(Batch, Var)> {
        let shape = self.task.shape();
        let usual = if shape.read == ReadOut::Last { 256 } else { (1024 / shape.seq).max(4) };
        // Predictions are ranked by confidence, each against all.
        let predictions = if shape.read == ReadOut::Last { 1 } else { shape.seq };
        let most = self.pieces.alone_in_probe.min((RANKED / predictions).max(1));
        let size = self.config.probe.size.unwrap_or(usual).min(most);
        self.feed.probe(self.tape, self.config.probe.set, size)
    }

    /// Random subspaces that heads are compared with.
    pub fn null_draws(&self) -> usize {
        self.config.probe.draws_for(self.model.config.n_layers * self.model.config.n_heads)
    }

    /// The greatest cadence that divides those of an instrument's metrics that are on; `None` where none is.
    pub fn cadence(&self, instrument: &dyn Instrument) -> Option<u64> {
        instrument.cards().iter().filter_map(|card| self.every(instrument, card)).reduce(gcd)
    }

    /// The same of those of its metrics that have these names.
    pub fn cadence_of(&self, instrument: &dyn Instrument, names: &[&str]) -> Option<u64> {
        let cards = instrument.cards().iter().filter(|card| names.contains(&card.name));
        cards.filter_map(|card| self.every(instrument, card)).reduce(gcd)
    }

    /// Appends a copy of a weight as it is before the update, for what is measured after it.
    ///
    /// # Errors
    /// Never for a weight of the model.
    pub fn keep(&mut self, every: u64, weight: Var) -> Result<()> {
        let copy = self.tape.at_cadence(every, |tape| tape.push1(Copy, &[weight]))?;
        self.kept.insert(weight, copy);
        Ok(())
    }

    /// The copy of a weight that [`Attach::keep`] made.
    pub fn kept(&self, weight: Var) -> Option<Var> {
        self.kept.get(&weight).copied()
    }

    /// Declares that `labels.len()` elements of `var`, from element `first`, are the metric of that name.
    /// Does nothing where the metric is switched off.
    pub fn record(
        &mut self,
        instrument: &dyn Instrument,
        name: &str,
        site: &str,
        var: Var,
        first: usize,
        labels: Vec<Label>,
    ) {
        self.record_where(Presence::Always, instrument, name, site, var, first, labels);
    }

    /// Like [`Attach::record`], for a metric that has rows in the table only where `presence` says.
    #[expect(clippy::too_many_arguments, reason = "a metric has these parts")]
    pub fn record_where(
        &mut self,
        presence: Presence,
        instrument: &dyn Instrument,
        name: &str,
        site: &str,
        var: Var,
        first: usize,
        labels: Vec<Label>,
    ) {
        let Some(card) = instrument.cards().iter().find(|card| card.name == name) else { return };
        let Some(every) = self.every(instrument, card) else { return };
        if !self.trains && presence == Presence::InUpdates {
            return;
        }
        debug_assert!(first + labels.len() <= self.tape.shape(var).len(), "{name} reads beyond its value");
        let site = site.to_owned();
        self.metrics.push(Metric {
            card,
            instrument: instrument.name(),
            site,
            labels,
            every,
            presence,
            offset: 0,
            replica_stride: 0,
            var,
            first,
        });
    }

    /// Places every recorded value in the metric row, and appends the kernel that files it.
    pub(crate) fn finish(self, gpu: &Gpu, clock: Var, bindings: &mut Bindings) -> Result<MetricRow> {
        MetricRow::new(gpu, self.tape, self.metrics, clock, bindings)
    }
}
