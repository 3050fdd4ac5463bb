//! What an instrument sees while it attaches itself to a step, and the metric row it writes to.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::health::Health;
use super::{Card, Instrument, losses};
use crate::autograd::ops::{Copy, CrossEntropy, MeanRows, attention_gradients};
use crate::autograd::{Bindings, Lower, Op, Shape, Tape, Var, gcd};
use crate::error::{Error, Result};
use crate::gpu::{Class, Gpu, Params, Phase, Shader, Storage, Tensor, grid_1d};
use crate::model::{Forward, Model, ReadOut};
use crate::task::{Batch, Feed, ProbeSet, Task};

/// What is measured, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeasureConfig {
    /// Steps between two measurements, by metric or instrument; see `thermoscope instruments` for the
    /// defaults.
    pub every: BTreeMap<String, u64>,
    /// What measuring may take, class F aside and instruments of which `every` sets a cadence, as a share of the
    /// step's own work, by operations, bytes and dispatches counted: costly measures are taken less often than
    /// their cards propose until it fits, but ten times a run at least.
    pub budget: f64,
    /// By metric, the cadences that are longer than proposed; `None` where that is still to be found out.
    #[serde(skip)]
    pub cadences: Option<BTreeMap<String, u64>>,
    /// Metrics or instruments left out.
    pub off: Vec<String>,
    /// The held batch that interventions are tried on.
    pub probe: ProbeConfig,
}

impl Default for MeasureConfig {
    fn default() -> Self {
        let (every, off, probe) = Default::default();
        Self { every, budget: 0.075, cadences: None, off, probe }
    }
}

/// The held batch that interventions are tried on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeConfig {
    /// Examples, or as many as every replica has, or as many as one pass can hold, where those are fewer. By
    /// default 256, or as many sequences as hold some 1,024 predictions and at least 4; `thermoscope measure` takes all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Where they are from.
    pub set: ProbeSet,
    /// Random subspaces that heads are compared with. By default 40 for each head of the model, and
    /// between 200 and 640; 2,000 at most. With n heads, m of them can only clear a false discovery rate of 0.05
    /// together, each p-value doubled for its two sides, if there are 40 n / m draws: above 16 heads a single one cannot,
    /// unless more are drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draws: Option<usize>,
}

impl ProbeConfig {
    /// Random subspaces that a model's heads are compared with.
    pub(crate) fn draws_for(&self, heads: usize) -> usize {
        self.draws.unwrap_or((Self::DRAWS_A_HEAD * heads).clamp(200, USUAL_DRAWS))
    }

    /// With so many for each head of the model, a single one can clear the null.
    pub(crate) const DRAWS_A_HEAD: usize = 40;
    /// Draws at most, for software drivers end loops after 65,535 rounds and each is ranked among all.
    pub(crate) const MOST_DRAWS: usize = 2000;
}

/// A forward pass and the losses of its rows.
#[derive(Clone)]
pub struct Pass {
    /// What was read.
    pub batch: Batch,
    /// What the model made of it.
    pub forward: Forward,
    /// Cross-entropy of each row, nats.
    pub loss: Var,
    /// 1 for each row predicted right.
    pub correct: Var,
    /// Logit of the target above the best other.
    pub margin: Var,
    /// Gradients of the mean loss by the name of a weight or hook, or "logits"; empty before
    /// [`Pass::backward`]. What nobody reads is never computed.
    pub gradients: BTreeMap<String, Var>,
}

impl Pass {
    /// Appends the forward pass of a batch and its losses.
    ///
    /// # Errors
    /// Where model and batch do not fit.
    pub fn new(tape: &mut Tape, model: &Model, batch: Batch, read: ReadOut) -> Result<Self> {
        let forward = model.forward(tape, &batch.rows, batch.size, batch.seq, read)?;
        let out = tape.push(CrossEntropy::default(), &[forward.logits, batch.targets])?;
        let gradients = BTreeMap::new();
        Ok(Self { batch, forward, loss: out[0], correct: out[1], margin: out[2], gradients })
    }

    /// Appends the mean loss and its gradients with respect to weights, hooks and logits. Returns those of
    /// the weights; `None` where the loss does not depend on one. `scale` is a factor and its inverse, if gradients shall be
    /// multiplied on the way: see [`Tape::backward_scaled`].
    ///
    /// # Errors
    /// Where an op on the way has no gradient.
    pub fn backward(&mut self, tape: &mut Tape, model: &Model, scale: Option<(Var, Var)>) -> Result<Vec<Option<Var>>> {
        let loss = tape.push1(MeanRows, &[self.loss, self.batch.count])?;
        let weights = model.table.specs().iter().map(|spec| spec.name.clone()).zip(model.weights.iter().copied());
        let hooks = self.forward.hooks.iter().map(|(name, var)| (name.clone(), *var));
        let logits = ("logits".to_owned(), self.forward.logits);
        let (names, vars): (Vec<String>, Vec<Var>) = weights.chain(hooks).chain([logits]).unzip();
        let mut gradients = match scale {
            Some(scale) => tape.backward_scaled(loss, scale, &vars)?,
            None => tape.backward(loss, &vars)?,
        };
        self.gradients = names.into_iter().zip(&gradients).filter_map(|(name, var)| Some((name, (*var)?))).collect();
        gradients.truncate(model.weights.len());
        self.side_gradients(tape, model)?;
        Ok(gradients)
    }

    /// Gradients of q, k and v at each place of the batch, where attention took them from a table of rows.
    fn side_gradients(&mut self, tape: &mut Tape, model: &Model) -> Result<()> {
        for layer in 0..model.config.n_layers {
            let name = |hook: &str| format!("blocks.{layer}.attn.{hook}");
            let parts = ["hook_q", "hook_k", "hook_v"].map(name);
            let Some(dz) = self.gradients.get(&name("hook_z")).copied() else { continue };
            if self.gradients.contains_key(&parts[0]) {
                continue;
            }
            let [q, k, v] = [&parts[0], &parts[1], &parts[2]].map(|hook| self.forward.hook(hook));
            let inputs = [q?, k?, v?, self.forward.hook(&name("hook_pattern"))?, dz];
            let found = attention_gradients(tape, model.config.score_scale(), inputs)?;
            self.gradients.extend(parts.into_iter().zip(found));
        }
        Ok(())
    }
}

/// Where in the model a number belongs; -1 where a column does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Layer.
    pub layer: i32,
    /// Head.
    pub head: i32,
    /// Whatever the metric counts: frequency, pair, statistic.
    pub index: i32,
}

impl Label {
    /// No layer, no head, no index.
    pub const NONE: Self = Self { layer: -1, head: -1, index: -1 };

    /// 0, 1, 2, ... in the index column.
    pub fn indices(range: std::ops::Range<i32>) -> Vec<Self> {
        range.map(|index| Self { index, ..Self::NONE }).collect()
    }
}

/// When a metric has rows in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Whenever it is due.
    Always,
    /// Only where the model moved on.
    InUpdates,
    /// Only where its value is not 0: a set, whose members are born and die.
    WhereNotZero,
    /// Only where its value is not 0, which says who belongs to a set: births and deaths of members are events.
    InSet,
}

impl Presence {
    /// Whether a value of 0 has no row.
    pub(crate) fn hides_zero(self) -> bool {
        matches!(self, Self::WhereNotZero | Self::InSet)
    }
}

/// Numbers of one metric at one site, neighbours in the metric row.
#[derive(Clone, Debug)]
pub struct Metric {
    /// What it is.
    pub card: &'static Card,
    /// Name of the instrument that measures it.
    pub instrument: &'static str,
    /// Tensor or hook name, empty where none applies.
    pub site: String,
    /// One for each number.
    pub labels: Vec<Label>,
    /// It is measured at steps that this divides.
    pub every: u64,
    /// When it has rows in the table.
    pub presence: Presence,
    /// First element within a step's row, of replica 0.
    pub offset: usize,
    /// Elements from one replica to the next.
    pub replica_stride: usize,
    var: Var,
    first: usize,
}

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
    /// Sequences of one piece of a large forward pass.
    pub piece: usize,
    /// Sequences of a probe at most.
    probe_piece: usize,
    /// Whether a training step sees the whole training set.
    pub(super) full_batch: bool,
    /// Forward passes over the test set that were appended, and their cadence: see [`Attach::test_passes`].
    tested: Option<(u64, Rc<[Pass]>)>,
    config: &'a MeasureConfig,
    kept: BTreeMap<Var, Var>,
    /// Products of patterns that were appended, and their cadence: see [`Attach::pattern_products`].
    pub(super) products: BTreeMap<Var, (u64, Var)>,
    /// Summary of the training batch that was appended, and its cadence.
    trained: Option<(u64, Var)>,
    metrics: Vec<Metric>,
}

/// The metric row: what is measured, and how a step's numbers lie in memory.
pub(crate) struct MetricRow {
    /// What is measured.
    pub(crate) metrics: Vec<Metric>,
    /// Elements of one step's row.
    pub(crate) len: usize,
    /// The rows of past steps, step modulo `slots`.
    pub(crate) ring: wgpu::Buffer,
    /// Rows of the ring.
    pub(crate) slots: usize,
}

/// Scope of what files the numbers of all instruments.
pub(crate) const FILING: &str = "filing";

/// Predictions of a probe at most: software drivers end loops after 65,535 rounds.
const RANKED: usize = 32_768;
/// Draws of a null at most where the run does not say: each is a pass over the probe.
const USUAL_DRAWS: usize = 640;
/// Rows the ring holds at most.
const SLOTS: usize = 64;

impl<'a> Attach<'a> {
    #[expect(clippy::too_many_arguments, reason = "a step has these parts")]
    pub(crate) fn new(
        tape: &'a mut Tape,
        model: &'a Model,
        task: &'a dyn Task,
        feed: &'a Feed,
        train: &'a Pass,
        grads: &'a [Option<Var>],
        [piece, probe_piece]: [usize; 2],
        full_batch: bool,
        config: &'a MeasureConfig,
    ) -> Self {
        let (kept, products) = (BTreeMap::new(), BTreeMap::new());
        Self {
            tape,
            model,
            task,
            feed,
            train,
            grads,
            piece,
            probe_piece,
            full_batch,
            tested: None,
            config,
            kept,
            products,
            trained: None,
            metrics: Vec::new(),
        }
    }

    /// How often a metric is measured in this run; `None` where it is switched off.
    pub fn every(&self, instrument: &dyn Instrument, card: &Card) -> Option<u64> {
        every(self.config, instrument, card)
    }

    /// Forward passes over the test set, in pieces, at the steps that `every` divides; those of an instrument that
    /// asked before and is due at all of these steps.
    pub(super) fn test_passes(&mut self, every: u64) -> Result<Rc<[Pass]>> {
        if let Some((_, passes)) = self.tested.as_ref().filter(|(before, _)| every.is_multiple_of(*before)) {
            return Ok(Rc::clone(passes));
        }
        let (feed, piece) = (self.feed, self.piece);
        let batches = self.tape.at_cadence(every, |tape| feed.test_batches(tape, piece))?;
        let passes = self.passes(every, batches)?;
        self.tested = Some((every, Rc::clone(&passes)));
        Ok(passes)
    }

    /// Forward passes over the training set, in pieces: the step's own where it sees the whole set.
    pub(super) fn train_passes(&mut self, every: u64) -> Result<Rc<[Pass]>> {
        if self.full_batch {
            return Ok(Rc::new([self.train.clone()]));
        }
        let (feed, piece) = (self.feed, self.piece);
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

    /// The held batch that interventions are tried on.
    ///
    /// # Errors
    /// See [`Feed::probe`].
    pub(super) fn probe_batch(&mut self) -> Result<Batch> {
        let shape = self.task.shape();
        let usual = if shape.read == ReadOut::Last { 256 } else { (1024 / shape.seq).max(4) };
        // Predictions are ranked by confidence, each against all.
        let predictions = if shape.read == ReadOut::Last { 1 } else { shape.seq };
        let most = self.probe_piece.min((RANKED / predictions).max(1));
        let size = self.config.probe.size.unwrap_or(usual).min(most);
        self.feed.probe(self.tape, self.config.probe.set, size)
    }

    /// Random subspaces that heads are compared with.
    pub(super) fn null_draws(&self) -> usize {
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

    /// Places every recorded value in the metric row, and appends the kernel that files the row.
    pub(crate) fn finish(self, gpu: &Gpu, clock: Var, bindings: &mut Bindings) -> Result<MetricRow> {
        let Self { tape, mut metrics, .. } = self;
        let replicas = tape.replicas() as usize;
        // A value is written straight into the row unless something else reads it too, which would need
        // the row as input and output of one kernel.
        let mut places: BTreeMap<Var, (Var, usize)> = BTreeMap::new();
        let mut len = 0;
        for metric in &metrics {
            if places.contains_key(&metric.var) {
                continue;
            }
            let size = tape.shape(metric.var).len();
            let direct = tape.is_computed(metric.var) && tape.readers(metric.var) == 0 && tape.shape(metric.var).owned;
            let cadence = metrics.iter().filter(|m| m.var == metric.var).map(|m| m.every).reduce(gcd).unwrap_or(1);
            tape.in_scope(metric.instrument);
            let placed =
                if direct { metric.var } else { tape.at_cadence(cadence, |tape| tape.push1(Copy, &[metric.var]))? };
            places.insert(metric.var, (placed, len));
            len += (replicas * size).next_multiple_of(64);
        }
        let len = len.max(64);
        let slots = SLOTS.min(gpu.caps().max_binding as usize / 4 / len).max(1);
        let row = gpu.buffer(Class::Metrics, len as u64)?;
        let ring = gpu.buffer(Class::Metrics, (len * slots) as u64)?;
        for (placed, offset) in places.values() {
            let stride = tape.shape(*placed).len() as u64;
            bindings.bind(*placed, Storage { buffer: row.clone(), offset: *offset as u64, replica_stride: stride });
        }
        for metric in &mut metrics {
            let (placed, offset) = places[&metric.var];
            metric.offset = offset + metric.first;
            metric.replica_stride = tape.shape(placed).len();
        }
        let row_var = tape.input("metric row", Shape::f32(&[len]).shared());
        let ring_var = tape.input("metric ring", Shape::f32(&[slots, len]).shared());
        bindings.bind(row_var, Storage::whole(&row, 0)).bind(ring_var, Storage::whole(&ring, 0));
        tape.in_scope(FILING);
        tape.effect(FileRow { slots }, &[row_var, ring_var, clock])?;
        Ok(MetricRow { metrics, len, ring, slots })
    }
}

/// How often a metric is measured; `None` where it is switched off.
pub(super) fn every(config: &MeasureConfig, instrument: &dyn Instrument, card: &Card) -> Option<u64> {
    let names = [card.name, instrument.name()];
    if config.off.iter().any(|off| names.contains(&off.as_str())) {
        return None;
    }
    let longer = || config.cadences.as_ref()?.get(card.name).copied();
    Some(names.iter().find_map(|name| config.every.get(*name).copied()).or_else(longer).unwrap_or(card.every))
}

/// Fails where the configuration names something that no instrument measures.
pub(crate) fn check_names(config: &MeasureConfig) -> Result<()> {
    let known: Vec<&str> = super::registry()
        .into_iter()
        .flat_map(|i| std::iter::once(i.name()).chain(i.cards().iter().map(|c| c.name)))
        .collect();
    let probe = &config.probe;
    if probe.size == Some(0) || probe.draws.is_some_and(|draws| !(1..=ProbeConfig::MOST_DRAWS).contains(&draws)) {
        return Err(Error::Config(format!(
            "measure.probe: size must be 1 at least, and draws lie between 1 and {}",
            ProbeConfig::MOST_DRAWS
        )));
    }
    if !(config.budget.is_finite() && config.budget > 0.0) {
        return Err(Error::Config(format!(
            "measure.budget = {} must be a number above 0: the share of a step's work that measuring may take",
            config.budget
        )));
    }
    match config.every.keys().chain(&config.off).find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Error::Config(format!(
            "measure: no metric or instrument is called {name}; there are {}",
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

crate::gpu::params! {
    struct FileParams { len: u32, slots: u32, moves: u32 }
}
static FILE_ROW: Shader = Shader {
    name: "instrument/file_row",
    source: include_str!("../../shaders/instrument/file_row.wgsl"),
    knobs: &[],
    params: FileParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader] = &[&FILE_ROW];

/// The step's end: ring[step mod slots] = row, and the clock goes on where the model did. Inputs: row, ring, clock.
pub(crate) struct FileRow {
    /// Rows of the ring.
    pub(crate) slots: usize,
}

impl Op for FileRow {
    fn name(&self) -> &'static str {
        "file metric row"
    }

    fn shapes(&self, _inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(Vec::new())
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], _outputs: &[Tensor]) -> Result<()> {
        let tensors: Vec<&Tensor> = inputs.iter().collect();
        let len = inputs[0].len() as u32;
        for (phase, moves) in [(Phase::Update, 1), (Phase::Still, 0)] {
            let params = FileParams { len, slots: self.slots as u32, moves };
            let grid = grid_1d(u64::from(len).div_ceil(64), 1);
            cx.in_phase(phase, |cx| cx.dispatch(&FILE_ROW, &[], &params, &tensors, grid))?;
        }
        Ok(())
    }

    fn reference(&self, _inputs: &[&crate::autograd::Array]) -> Vec<crate::autograd::Array> {
        Vec::new()
    }
}
