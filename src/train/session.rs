//! A run on a device: buffers, the recorded step, and its replay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::optimizer::{self, Hyper, State};
use super::{Precision, ResolvedRun, SessionBuilder};
use crate::autograd::ops::Copy;
use crate::autograd::{Bindings, Shape, Tape};
use crate::error::{Error, Result};
use crate::gpu::{Class, Commands, Gpu, Program, Readback, Recording, STEP, Select, Storage, read_now, read_together};
use crate::instrument::{self, Attach, CLOCK, Instrument, Label, Metric, MetricRow, Pieces, Presence, STAMP};
use crate::intervene::Pulses;
use crate::model::{Model, WeightTable};
use crate::task::{Asked, Feed, Pass, Task};

/// A run that can be stepped, measured, saved and restored.
///
/// Nothing here waits for the device except [`Session::snapshot`], [`Session::restore`] and [`Session::set_weights`] while
/// passes are under way or where weights are many, and [`Session::submit`] where there is much to do; nothing submits except `submit`, which is for
/// those who own the device, and what reads the state.
///
/// **Whose step it is.** The device counts: its clock goes on with every update that it makes, and each row of the ring bears
/// the step it showed. [`Session::step`] is how far the host has encoded. A host that encodes for itself may drop an encoder
/// that it did not submit: the session then knows that these steps never were, and the next is encoded for the step
/// that the device is at. Two things are up to the host: passes are submitted in the order in which they were encoded, and
/// where one is dropped, those encoded after it are dropped too, for they were made for later steps. A row that is not the
/// one expected is no number but [`Error::Device`].
pub struct Session {
    gpu: Gpu,
    config: ResolvedRun,
    table: WeightTable,
    program: Program,
    row: MetricRow,
    purpose: Purpose,
    predictions: Vec<[Asked; 2]>,
    weights: wgpu::Buffer,
    moments: Option<[wgpu::Buffer; 2]>,
    clock: wgpu::Buffer,
    /// Where gradients are scaled: by what, and its inverse, `[R]`.
    scale: Option<(wgpu::Buffer, wgpu::Buffer)>,
    state_bytes: u64,
    step: u64,
    /// Replays encoded so far, whatever they did; those that were dropped do not count.
    replays: u64,
    /// Which encoding comes next. Counts all.
    next: u64,
    /// Replays that a host encoded and dropped, and that were not taken back yet.
    dropped: Arc<Mutex<Vec<Replay>>>,
    /// Steps whose rows lie in the ring and were not copied yet.
    uncopied: Vec<Filed>,
    readback: Readback<Vec<Filed>>,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Steps train.
    Train,
    /// Every step is a measurement. Gradients and moments are there only where something that is measured reads them.
    Measure,
}

/// Parameters that are written to the device at once, 16 MiB: until they are there, a copy of them is kept.
const WRITTEN: usize = 4 << 20;

/// How often cadences are lengthened anew at most.
const LENGTHENED: usize = 4;

/// Measures everything, for every cadence divides 0, and leaves the model as it is.
const MEASUREMENT: Select = Select { step: 0, update: false };

/// A metric row and the replay it came from.
#[derive(Clone, Copy, Debug)]
struct Filed {
    /// What the device's clock shows when it runs.
    step: u64,
    /// How many replays the device has counted then.
    replay: u64,
    /// The how many-eth encoding it is.
    encoding: u64,
    select: Select,
    /// Its pass was dropped: it never ran.
    dropped: bool,
}

/// A replay in a host's pass.
#[derive(Clone, Copy, Debug)]
struct Replay {
    encoding: u64,
    update: bool,
}

/// Lives in a callback of the pass that a host encodes into: wgpu calls it when the work is done, and drops it uncalled with
/// an encoder that is not submitted.
struct Encoded {
    replay: Option<Replay>,
    dropped: Arc<Mutex<Vec<Replay>>>,
}

impl Encoded {
    fn ran(mut self) {
        self.replay = None;
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).extend(self.replay);
    }
}

/// One number of the metric table.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Row<'a> {
    /// Updates made before it was measured.
    pub step: u64,
    /// Replica.
    pub replica: u32,
    /// What it is, and at which site.
    pub metric: &'a Metric,
    /// Layer, head, index.
    pub label: Label,
    /// The number, with the bits the device computed.
    pub value: f32,
}

/// The numbers of one step, as they came from the device.
#[derive(Clone, Debug)]
pub struct StepRow {
    step: u64,
    select: Select,
    values: Vec<f32>,
}

/// Everything that decides how a run goes on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Updates made.
    pub step: u64,
    /// Parameters of each replica.
    pub weights: Vec<Vec<f32>>,
    /// First moments (SGD's velocities).
    pub first: Vec<Vec<f32>>,
    /// Second moments.
    pub second: Vec<Vec<f32>>,
    /// What each replica's loss is scaled by; empty where it is not.
    pub loss_scale: Vec<f32>,
}

impl Snapshot {
    /// The state of replicas side by side that are these of it, by number, each as often as it is named: one of a run stands
    /// beside itself, or alone.
    ///
    /// # Panics
    /// Where there is no replica of that number.
    #[must_use]
    pub fn select(&self, replicas: &[usize]) -> Self {
        let of = |all: &[Vec<f32>]| replicas.iter().map(|replica| all[*replica].clone()).collect();
        let scales = replicas.iter().filter_map(|replica| self.loss_scale.get(*replica).copied()).collect();
        Self {
            step: self.step,
            weights: of(&self.weights),
            first: of(&self.first),
            second: of(&self.second),
            loss_scale: scales,
        }
    }
}

/// A step as it was recorded, and the memory that outlives it.
struct Recorded {
    recording: Recording,
    row: MetricRow,
    table: WeightTable,
    weights: wgpu::Buffer,
    /// Of weights, gradients and moments.
    elements: u64,
    moments: Option<[wgpu::Buffer; 2]>,
    clock: wgpu::Buffer,
    scale: Option<(wgpu::Buffer, wgpu::Buffer)>,
}

impl Recorded {
    fn new(
        gpu: &Gpu,
        config: &ResolvedRun,
        feed: &Feed,
        instruments: &[&dyn Instrument],
        purpose: Purpose,
    ) -> Result<Self> {
        let replicas = config.replicas;
        let shape = config.task.shape();
        let mut tape = Tape::new(replicas);
        let mut bindings = Bindings::new();

        let clock_var = tape.input("clock", Shape::u32(&[CLOCK]).shared());
        let mut model = Model::new(&config.model, &mut tape);
        // First of all, so that what no device can hold is refused before tables for it are made on the host.
        let len = model.table.len();
        let elements = u64::from(replicas) * len as u64;
        let weights = gpu.buffer(Class::Weights, elements)?;
        let moving = || -> Result<[wgpu::Buffer; 3]> {
            let [gradients, first, second] = [Class::Gradients, Class::Optimizer, Class::Optimizer];
            Ok([gpu.buffer(gradients, elements)?, gpu.buffer(first, elements)?, gpu.buffer(second, elements)?])
        };
        let trains = purpose == Purpose::Train;
        let mut state_buffers = trains.then(moving).transpose()?;
        let mut flat = |name: &str, len: usize| tape.input(name, Shape::f32(&[len]));
        let mut state = State {
            weights: flat("weights", len),
            grads: flat("gradients", len),
            first: flat("first moment", len),
            second: flat("second moment", len),
            hyper: flat("hyper-parameters", Hyper::LEN),
            clock: clock_var,
            scale: None,
        };
        let hyper_var = state.hyper;
        let pulses = (0..replicas as usize).map(|r| (config.pulses_of(r), config.seed_of(r)));
        let pulses = if trains { Pulses::new(&mut tape, clock_var, &config.model, pulses)? } else { None };
        if let Some(pulses) = &pulses {
            // Before anything reads them.
            pulses.edit_weights(&mut tape, state.weights)?;
            pulses.edit_moments(&mut tape, [state.first, state.second])?;
        }
        let mut batch = feed.train_batch(&mut tape, config.batch.count(), clock_var, &config.batch_seeds())?;
        if let Some(pulses) = &pulses {
            batch = pulses.batch(&mut tape, batch, shape.classes)?;
            let examples = |r: usize| match config.batch.count() {
                None => feed.splits().get(r).map_or(batch.size, |split| split.train.len()),
                Some(_) => batch.size,
            };
            let examples: Vec<usize> = (0..replicas as usize).map(examples).collect();
            model.gate(pulses.gates(&mut tape, &examples, batch.size)?);
        }
        let (forward, backward) = (config.precision != Precision::F32, config.precision == Precision::F16);
        let mut train = tape.in_halves(forward, |tape| Pass::new(tape, &model, batch, shape.read))?;
        model.hold_means(&train.forward);
        let scale = backward.then(|| ["loss scale", "its inverse"].map(|name| tape.input(name, Shape::f32(&[1]))));
        state.scale = scale.map(|[scale, inverse]| (scale, inverse));
        let grads = tape.in_halves(backward, |tape| train.backward(tape, &model, state.scale))?;

        let pieces = Pieces::new(gpu.caps().room(), &config.model, shape, replicas);
        let (task, measure) = (config.task.as_ref(), &config.measure);
        // What is measured of the training set is measured in f32.
        let drawn = config.batch.count().is_some();
        let full = !drawn && config.precision == Precision::F32;
        let mut attach =
            Attach::new(&mut tape, &model, task, feed, &train, &grads, pieces, [drawn, full], measure, trains);
        for instrument in instruments {
            attach.tape.in_scope(instrument.name());
            instrument.attach(&mut attach)?;
        }
        attach.tape.in_scope(STEP);
        // What reads the weights stands above this line, what moves them below.
        let mut before = None;
        if let Some(pulses) = &pulses {
            pulses.edit_gradients(attach.tape, state.grads)?;
            state.hyper = pulses.hyper(attach.tape, state.hyper, Hyper::field)?;
            if pulses.holds() {
                before = Some(attach.tape.push1(Copy, &[state.weights])?);
            }
        }
        let decays = config.decays(&model.table);
        let step = optimizer::Step {
            table: &model.table,
            decays: &decays,
            kind: config.optimizer.kind,
            clip: config.optimizer.clip > 0.0,
            trains,
            binding: gpu.caps().max_binding,
        };
        let norms = step.append(attach.tape, state)?;
        if let (Some(pulses), Some(before)) = (&pulses, before) {
            pulses.hold(attach.tape, state.weights, before)?;
        }
        for instrument in instruments {
            attach.tape.in_scope(instrument.name());
            instrument.attach_to_update(&mut attach, &norms)?;
        }
        let row = attach.finish(gpu, clock_var, &mut bindings)?;
        if !trains && tape.reads(&bindings, state.grads) {
            state_buffers = Some(moving()?);
        }

        let clock = gpu.upload(Class::State, &[0u32; CLOCK])?;
        let hyper: Vec<Hyper> = (0..replicas as usize)
            .map(|r| Hyper::new(&config.optimizer_of(r), &config.schedule, config.steps))
            .collect();
        let hyper_words: &[f32] = bytemuck::cast_slice(&hyper);
        let hyper = gpu.upload(Class::State, hyper_words)?;
        model.table.bind(&mut bindings, &model.weights.iter().copied().map(Some).collect::<Vec<_>>(), &weights);
        if let Some([gradients, first, second]) = &state_buffers {
            // Bound, gradients of all weights are computed.
            model.table.bind(&mut bindings, &grads, gradients);
            for (var, buffer) in [(state.grads, gradients), (state.first, first), (state.second, second)] {
                bindings.bind(var, Storage::whole(buffer, len as u64));
            }
        }
        for (var, buffer, stride) in
            [(state.weights, &weights, len), (hyper_var, &hyper, Hyper::LEN), (state.clock, &clock, 0)]
        {
            bindings.bind(var, Storage::whole(buffer, stride as u64));
        }
        let scale = match state.scale {
            Some((scale, inverse)) => {
                let first = config.loss_scale as f32;
                let [of_scale, of_inverse] =
                    [first, 1.0 / first].map(|x| gpu.upload(Class::State, &vec![x; replicas as usize]));
                let buffers = (of_scale?, of_inverse?);
                bindings.bind(scale, Storage::whole(&buffers.0, 1)).bind(inverse, Storage::whole(&buffers.1, 1));
                Some(buffers)
            }
            None => None,
        };
        let recording = tape.record(gpu, &bindings)?;
        let elements = elements * if state_buffers.is_some() { 4 } else { 1 };
        let moments = state_buffers.map(|[_, first, second]| [first, second]);
        Ok(Self { recording, row, table: model.table, weights, elements, moments, clock, scale })
    }
}

impl Session {
    /// Records the step of a resolved configuration, with weights drawn from its seeds. A precision of f16 needs a
    /// device that [`verify_cooperative`](crate::autograd::verify_cooperative) has found able. Cadences that the
    /// configuration does not set are lengthened until measuring keeps within `measure.budget`; see
    /// `config().measure.cadences`.
    ///
    /// # Errors
    /// Where the configuration asks for what is not there, or the device is too small for it.
    pub fn new<T: Task + 'static>(gpu: &Gpu, run: ResolvedRun<T>) -> Result<Self> {
        Self::builder(gpu, run).build()
    }

    /// A session that is to have more than a device and a run.
    pub fn builder<T: Task + 'static>(gpu: &Gpu, run: ResolvedRun<T>) -> SessionBuilder {
        SessionBuilder::new(gpu, run)
    }

    pub(super) fn record(
        gpu: &Gpu,
        mut config: ResolvedRun,
        instruments: &[&dyn Instrument],
        purpose: Purpose,
    ) -> Result<Self> {
        instrument::check_names(&config.measure, instruments)?;
        if config.precision != Precision::F32 && gpu.cooperative().is_none() {
            return Err(Error::Unsupported(format!(
                "{}: products in f16 have not proved right on this device; call autograd::verify_cooperative first, or set precision = \"f32\"",
                gpu.caps().name
            )));
        }
        // Files are read and examples made once, however often the step is recorded.
        let feed = Feed::new(config.task.as_ref(), &config.data())?;
        let mut recorded = Recorded::new(gpu, &config, &feed, instruments, purpose)?;
        if config.measure.cadences.is_none() {
            let mut cadences = BTreeMap::new();
            // Work that two measures shared may become one's own when the other comes to be taken less often.
            for _ in 0..LENGTHENED {
                let parts = recorded.recording.parts();
                let found = instrument::lengthened(instruments, &config.measure, config.steps, &parts);
                if found.is_empty() {
                    break;
                }
                cadences.extend(found);
                config = config.with_cadences(cadences.clone());
                drop(recorded);
                recorded = Recorded::new(gpu, &config, &feed, instruments, purpose)?;
            }
            config = config.with_cadences(cadences);
        }
        let predictions = feed.predictions(config.replicas as usize, config.batch.count());
        let Recorded { recording, row, table, weights, elements, moments, clock, scale } = recorded;
        let program = recording.finish()?;
        gpu.check()?;
        let replicas = config.replicas as usize;
        let mut session = Self {
            gpu: gpu.clone(),
            readback: Readback::new(gpu),
            state_bytes: elements * 4,
            step: 0,
            replays: 0,
            next: 0,
            dropped: Arc::default(),
            uncopied: Vec::new(),
            config,
            table,
            program,
            row,
            purpose,
            predictions,
            weights,
            moments,
            clock,
            scale,
        };
        // What is measured brings its weights, of which there may be many.
        if purpose == Purpose::Train {
            let drawn: Vec<_> = (0..replicas).map(|r| session.table.draw(session.config.seed_of(r))).collect();
            session.set_weights(&drawn)?;
        }
        Ok(session)
    }

    /// The resolved configuration.
    pub fn config(&self) -> &ResolvedRun {
        &self.config
    }

    /// For each replica, the predictions that a measurement on the training batch and on the test set is a mean of; on
    /// drawn batches about as many.
    pub fn predictions(&self) -> &[[Asked; 2]] {
        &self.predictions
    }

    /// Names, shapes and places of the parameters.
    pub fn table(&self) -> &WeightTable {
        &self.table
    }

    /// Has the driver compile all kernels before the first step: see [`Program::compile`].
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub fn compile(&self, each: impl FnMut(usize, usize) -> bool) -> Result<()> {
        self.program.compile(&self.gpu, each)
    }

    /// The recorded step. Replays that are encoded past the session move the model and the clock behind its back: rows
    /// arrive again after a [`Session::restore`].
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What is measured, and where each number lies in a row of the ring.
    pub fn metrics(&self) -> &[Metric] {
        &self.row.metrics
    }

    /// The metric ring, `[slots, row_len]`: the row of step s lies in slot s modulo `slots`. A host may bind it in shaders of
    /// its own. Numbers are f32, but for the last two words of a row, u32: the step that the device's clock showed, and
    /// the number of the replay.
    pub fn ring(&self) -> (&wgpu::Buffer, usize, usize) {
        (&self.row.ring, self.row.slots, self.row.len)
    }

    /// The weights, `[R, table().len()]` f32.
    pub fn weights(&self) -> &wgpu::Buffer {
        &self.weights
    }

    /// Updates encoded so far, without those of encoders that were dropped. [`Session::snapshot`] knows how many the device
    /// has made.
    pub fn step(&self) -> u64 {
        let dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        self.step - dropped.iter().filter(|replay| replay.update).count() as u64
    }

    /// Takes back what was encoded and dropped. What was encoded after it comes earlier than it was made for.
    fn settle(&mut self) {
        let dropped = std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        for replay in dropped {
            let moved = u64::from(replay.update);
            self.step -= moved;
            self.replays -= 1;
            for filed in self.uncopied.iter_mut().chain(self.readback.tags_mut().flatten()) {
                if filed.encoding > replay.encoding {
                    (filed.step, filed.replay) = (filed.step - moved, filed.replay - 1);
                }
                filed.dropped |= filed.encoding == replay.encoding;
            }
        }
        self.uncopied.retain(|filed| !filed.dropped);
    }

    /// Fails while a host holds passes that it has not submitted. What is written to buffers now would act before them.
    fn check_submitted(&mut self) -> Result<()> {
        // Each pass that has not run, or that nobody has polled for, holds one.
        if Arc::strong_count(&self.dropped) > 1 {
            let counted = read_now(&self.gpu, &self.clock, 0..CLOCK as u64 * 4)?[2];
            self.settle();
            if counted != self.replays as u32 {
                return Err(Error::Refused(
                    "steps are encoded in a pass that is not submitted; submit its encoder or drop it before the state is changed"
                        .to_owned(),
                ));
            }
        }
        self.settle();
        Ok(())
    }

    /// Bytes of device memory: weights, gradients and moments; activations as planned; and the least any
    /// plan could do with for those.
    pub fn memory(&self) -> (u64, u64, u64) {
        (self.state_bytes, self.program.planned_bytes(), self.program.lower_bound_bytes())
    }

    /// Replaces the weights, behind all that was submitted: one set for each replica, or one for all.
    ///
    /// # Errors
    /// [`Error::Config`] where their number or size does not fit; [`Error::Refused`] while a host holds a pass with steps
    /// that it has not submitted.
    pub fn set_weights(&mut self, replicas: &[Vec<f32>]) -> Result<()> {
        self.check_submitted()?;
        let count = self.config.replicas as usize;
        if (replicas.len() != count && replicas.len() != 1) || replicas.iter().any(|w| w.len() != self.table.len()) {
            return Err(Error::Config(format!("weights of {} replicas for a run of {count}", replicas.len())));
        }
        for at in 0..count {
            let weights = &replicas[at % replicas.len()];
            let first = at * self.table.len();
            for (piece, values) in weights.chunks(WRITTEN).enumerate() {
                let offset = ((first + piece * WRITTEN) * 4) as u64;
                self.gpu.queue().write_buffer(&self.weights, offset, bytemuck::cast_slice(values));
                // A copy of what is written waits for the next submission.
                if values.len() == WRITTEN {
                    let written = self.gpu.queue().submit([]);
                    self.gpu.wait_for(written)?;
                }
            }
        }
        Ok(())
    }

    /// Encodes the next training step into a pass. The host submits; rows of more than `ring().1` steps
    /// must be copied with [`Session::copy_rows`] before they are overwritten.
    pub fn encode_step(&mut self, pass: &mut wgpu::ComputePass<'_>) {
        self.settle();
        self.encode(pass, self.training());
    }

    /// Encodes a measurement of everything at the current step, which leaves the model as it is. Its row
    /// takes the slot of the next step's: copy it before encoding that.
    pub fn encode_measure(&mut self, pass: &mut wgpu::ComputePass<'_>) {
        self.settle();
        self.encode(pass, MEASUREMENT);
    }

    fn encode(&mut self, pass: &mut wgpu::ComputePass<'_>, select: Select) {
        self.program.encode(pass, select);
        let replay = Some(Replay { encoding: self.next, update: select.update });
        let encoded = Encoded { replay, dropped: Arc::clone(&self.dropped) };
        pass.on_submitted_work_done(move || encoded.ran());
        self.filed(select);
    }

    /// What the next step replays.
    fn training(&self) -> Select {
        match self.purpose {
            Purpose::Train => Select { step: self.step, update: true },
            Purpose::Measure => MEASUREMENT,
        }
    }

    /// Notes the row of the replay just encoded, and goes on to the next step behind one that trains. The row whose slot
    /// it takes is gone.
    fn filed(&mut self, select: Select) {
        let slot = self.slot(self.step);
        let slots = self.row.slots as u64;
        self.uncopied.retain(|filed| filed.step % slots != slot);
        let (step, replay, encoding) = (self.step, self.replays, self.next);
        self.uncopied.push(Filed { step, replay, encoding, select, dropped: false });
        self.step += u64::from(select.update);
        self.replays += 1;
        self.next += 1;
    }

    fn slot(&self, step: u64) -> u64 {
        step % self.row.slots as u64
    }

    /// Encodes the copy of all rows since the last call towards the host. The pass must have ended.
    pub fn copy_rows(&mut self, encoder: &mut wgpu::CommandEncoder) {
        self.settle();
        let filed = std::mem::take(&mut self.uncopied);
        if filed.is_empty() {
            return;
        }
        let bytes = self.row.len as u64 * 4;
        let ranges: Vec<std::ops::Range<u64>> = filed
            .iter()
            .map(|f| {
                let slot = self.slot(f.step);
                slot * bytes..(slot + 1) * bytes
            })
            .collect();
        self.readback.record(encoder, &self.row.ring, &ranges, filed);
    }

    /// The rows of the oldest copy that has arrived, if any. Never waits.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed, or a row is not of the step and the replay that it should be of: then
    /// commands were lost, or submitted in another order than they were encoded in.
    pub fn take_rows(&mut self) -> Result<Option<Vec<StepRow>>> {
        self.settle();
        let Some((filed, words)) = self.readback.take()? else { return Ok(None) };
        let rows = words.chunks_exact(self.row.len).zip(filed).filter(|(_, filed)| !filed.dropped);
        let rows = rows.map(|(words, filed)| {
            let (numbers, stamp) = words.split_at(words.len() - STAMP);
            if *stamp != [filed.step as u32, filed.replay as u32] {
                return Err(Error::Device(format!(
                    "the row of step {} is not there: what lies in its place is of step {}. Commands were lost, or not submitted in the order of their encoding",
                    filed.step, stamp[0]
                )));
            }
            let values = numbers.iter().map(|w| f32::from_bits(*w)).collect();
            Ok(StepRow { step: filed.step, select: filed.select, values })
        });
        rows.collect::<Result<_>>().map(Some)
    }

    /// Copies on their way to the host.
    pub fn in_flight(&self) -> usize {
        self.readback.in_flight()
    }

    /// Encodes `steps` training steps, or a measurement for 0, and submits them, with copies of all their rows: together,
    /// or where they are much work in several submissions, of which all but two are waited for. For those who own the
    /// device; hosts encode for themselves.
    pub fn submit(&mut self, steps: u64) -> wgpu::SubmissionIndex {
        self.submit_in_parts(steps, None)
    }

    /// The same with at most so much work in a submission, where the device's pace shall not decide.
    fn submit_in_parts(&mut self, steps: u64, most: Option<u64>) -> wgpu::SubmissionIndex {
        self.settle();
        let mut commands = Commands::new(&self.gpu, most);
        for _ in 0..steps.max(1) {
            // Whatever lies in the slot of this step goes out before it is overwritten.
            if self.uncopied.iter().any(|filed| self.slot(filed.step) == self.slot(self.step)) {
                self.copy_rows(commands.encoder());
            }
            let select = if steps > 0 { self.training() } else { MEASUREMENT };
            self.program.encode_into(&mut commands, select);
            self.filed(select);
        }
        self.copy_rows(commands.encoder());
        commands.submit()
    }

    /// The metric table's rows of one step.
    pub fn rows<'a>(&'a self, step: &'a StepRow) -> impl Iterator<Item = Row<'a>> {
        self.row.metrics.iter().filter(|metric| step.has(metric)).flat_map(move |metric| {
            (0..self.config.replicas).flat_map(move |replica| {
                let at = metric.offset + replica as usize * metric.replica_stride;
                let values = metric.labels.iter().zip(&step.values[at..]);
                values.filter(|(_, value)| !metric.presence.hides(**value)).map(move |(label, value)| Row {
                    step: step.step,
                    replica,
                    metric,
                    label: *label,
                    value: *value,
                })
            })
        })
    }

    /// Reads the whole state, waiting for the device: weights, moments and step of one moment, behind all that was submitted.
    /// What a host has encoded and not submitted is no part of it.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let Some([first, second]) = &self.moments else {
            return Err(Error::Unsupported("a session that only measures has no state to go on from".to_owned()));
        };
        let bytes = u64::from(self.config.replicas) * self.table.len() as u64 * 4;
        let mut parts = vec![(&self.clock, 0..CLOCK as u64 * 4)];
        parts.extend([&self.weights, first, second].map(|buffer| (buffer, 0..bytes)));
        parts.extend(self.scale.iter().map(|(scale, _)| (scale, 0..scale.size())));
        let read = read_together(&self.gpu, &parts)?;
        let floats = |words: &[u32]| words.iter().map(|word| f32::from_bits(*word)).collect::<Vec<_>>();
        let replicas = |words: &[u32]| words.chunks_exact(self.table.len()).map(floats).collect();
        // The clock holds the low half of a step, of which the host knows the rest.
        let ahead = i64::from(read[0][1].wrapping_sub(self.step as u32) as i32);
        Ok(Snapshot {
            step: self.step.wrapping_add_signed(ahead),
            weights: replicas(&read[1]),
            first: replicas(&read[2]),
            second: replicas(&read[3]),
            loss_scale: read.get(4).map(|words| floats(words)).unwrap_or_default(),
        })
    }

    /// Continues from a state, behind all that was submitted. Rows of what was trained before and did not arrive yet will
    /// not arrive any more.
    ///
    /// # Errors
    /// [`Error::Config`] where it belongs to another model; [`Error::Refused`] while a host holds a pass with steps that it
    /// has not submitted.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let Some(buffers) = self.moments.clone() else {
            return Err(Error::Unsupported("a session that only measures cannot go on; set its weights".to_owned()));
        };
        let moments = [&snapshot.first, &snapshot.second].map(|moments| moments.concat());
        if moments.iter().any(|all| all.len() as u64 * 4 != buffers[0].size()) {
            return Err(Error::Config("the optimizer's state belongs to another model".to_owned()));
        }
        let scales = &snapshot.loss_scale;
        let sound = scales.len() == self.config.replicas as usize && scales.iter().all(|s| s.is_normal() && *s > 0.0);
        if self.scale.is_some() && !sound {
            return Err(Error::Config(
                "the state has no loss scale for each replica: it is of a run in f32, or damaged".to_owned(),
            ));
        }
        // Nothing is changed before all of it is known to fit.
        self.set_weights(&snapshot.weights)?;
        for (buffer, all) in buffers.iter().zip(&moments) {
            self.gpu.queue().write_buffer(buffer, 0, bytemuck::cast_slice(all));
        }
        if let Some((scale, inverse)) = &self.scale {
            let inverses: Vec<f32> = scales.iter().map(|scale| 1.0 / scale).collect();
            self.gpu.queue().write_buffer(scale, 0, bytemuck::cast_slice(scales));
            self.gpu.queue().write_buffer(inverse, 0, bytemuck::cast_slice(&inverses));
        }
        self.step = snapshot.step;
        let clock = [snapshot.step as u32, snapshot.step as u32, self.replays as u32];
        self.gpu.queue().write_buffer(&self.clock, 0, bytemuck::cast_slice(&clock));
        self.uncopied.clear();
        self.readback.forget();
        Ok(())
    }

    /// Labels of the kernels of a step at which everything is due, in order.
    pub fn kernels(&self) -> Vec<&str> {
        self.program.labels(Select { step: 0, update: true })
    }
}

impl StepRow {
    /// Updates made before it was measured.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether the metric was measured in this replay.
    fn has(&self, metric: &Metric) -> bool {
        self.select.step.is_multiple_of(metric.every) && (self.select.update || metric.presence != Presence::InUpdates)
    }

    /// Layer, head and index of what is in a set, a metric that has rows only where it is not 0.
    pub fn members(&self, metric: &Metric, replica: u32) -> BTreeSet<[i32; 3]> {
        let values = &self.values[metric.offset + replica as usize * metric.replica_stride..];
        let present = metric.labels.iter().zip(values).filter(|(_, value)| **value != 0.0);
        present.map(|(label, _)| [label.layer, label.head, label.index]).collect()
    }

    /// The first number of the metric of that name, for one replica, if it was measured.
    pub fn value(&self, metrics: &[Metric], name: &str, replica: u32) -> Option<f32> {
        let metric = metrics.iter().find(|m| m.card.name == name && self.has(m))?;
        self.values.get(metric.offset + replica as usize * metric.replica_stride).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::gpus;
    use crate::gpu::{AdapterChoice, Options, Philox, Stream, adapters};
    use crate::record::Setup;

    const RUN: &str = "steps = 400\n[task]\nkind = \"modular\"\np = 7\n[model]\nd_model = 8\nn_heads = 2\nd_mlp = 12\n";

    /// A run that measures little beside its losses, the test loss at every fifth step.
    fn session(gpu: &Gpu) -> Session {
        let names = instrument::registry().into_iter().map(|instrument| instrument.name());
        let off: Vec<&str> = names.filter(|name| !["train", "test"].contains(name)).collect();
        let text = format!("{RUN}[measure]\noff = {off:?}\n[measure.every]\ntest = 5\n");
        Session::new(gpu, Setup::from_toml(&text).unwrap().config).unwrap()
    }

    fn arrived(session: &mut Session) -> Vec<StepRow> {
        let mut rows = Vec::new();
        while session.in_flight() > 0 {
            session.gpu.clone().wait().unwrap();
            rows.extend(session.take_rows().unwrap().into_iter().flatten());
        }
        rows
    }

    /// Steps of rows, and of those in which the test loss was measured.
    fn steps(session: &Session, rows: &[StepRow]) -> (Vec<u64>, Vec<u64>) {
        let tested = rows.iter().filter(|row| row.value(session.metrics(), "loss.test", 0).is_some());
        (rows.iter().map(StepRow::step).collect(), tested.map(StepRow::step).collect())
    }

    /// What a host does: steps, or a measurement, and the copy of their rows in an encoder of its own.
    fn host(session: &mut Session, steps: u64) -> wgpu::CommandEncoder {
        let mut encoder = session.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for _ in 0..steps {
                session.encode_step(&mut pass);
            }
            if steps == 0 {
                session.encode_measure(&mut pass);
            }
        }
        session.copy_rows(&mut encoder);
        encoder
    }

    fn plain(range: std::ops::Range<u64>) -> (Vec<u64>, Vec<u64>) {
        (range.clone().collect(), range.filter(|step| step.is_multiple_of(5)).collect())
    }

    /// The tape refuses cadences that do not fit each other: none that a run may ask for comes to that.
    #[test]
    fn metrics_may_have_any_cadences_of_their_own() {
        let gpu = Gpu::noop();
        let tasks = [
            "kind = \"modular\"\np = 7\n",
            "kind = \"permutation\"\nn = 3\n",
            "kind = \"repeated\"\nd_vocab = 11\nseq = 18\n[batch]\nsize = 5\n",
        ];
        let all = instrument::registry();
        let names: Vec<&str> = all.iter().flat_map(|instrument| instrument.cards()).map(|card| card.name).collect();
        for (round, task) in (0..4).flat_map(|round| tasks.map(|task| (round, task))) {
            let draw = Philox::new(7, Stream::Split, round);
            let every = |at: usize| [1, 2, 3, 4, 6, 10, 15][draw.below(at as u64, 7) as usize];
            let every: Vec<String> =
                names.iter().enumerate().map(|(at, name)| format!("{name:?} = {}\n", every(at))).collect();
            let text = format!(
                "steps = 400\n[task]\n{task}[model]\nn_layers = 2\nd_model = 8\nn_heads = 2\nd_mlp = 12\n[measure.probe]\nsize = 4\ndraws = 20\n[measure.every]\n{}",
                every.concat()
            );
            Session::new(&gpu, Setup::from_toml(&text).unwrap().config).unwrap();
        }
    }

    #[test]
    fn steps_beyond_the_ring_lose_no_row() {
        for gpu in gpus() {
            let mut long = session(gpu);
            assert!(long.ring().1 < 150);
            long.submit(150);
            let rows = arrived(&mut long);
            assert_eq!(steps(&long, &rows), plain(0..150), "{}", gpu.caps().name);
            let mut short = session(gpu);
            let mut again = Vec::new();
            for _ in 0..15 {
                short.submit(10);
                again.extend(arrived(&mut short));
            }
            let bits =
                |rows: &[StepRow]| rows.iter().flat_map(|r| r.values.clone()).map(f32::to_bits).collect::<Vec<_>>();
            assert!(bits(&rows[149..]) == bits(&again[149..]));
        }
    }

    #[test]
    fn a_dropped_encoder_stalls_no_row_and_shifts_no_cadence() {
        for gpu in gpus() {
            let mut session = session(gpu);
            let first = host(&mut session, 3);
            gpu.queue().submit([first.finish()]);
            // Dropped unfinished, and as a finished buffer; one with a measurement too.
            drop(host(&mut session, 4));
            assert_eq!(session.step(), 3);
            drop(host(&mut session, 0).finish());
            drop(host(&mut session, 2).finish());
            assert_eq!(session.step(), 3);
            let second = host(&mut session, 9);
            gpu.queue().submit([second.finish()]);
            let measured = host(&mut session, 0);
            gpu.queue().submit([measured.finish()]);
            let rows = arrived(&mut session);
            let (mut all, mut tested) = plain(0..12);
            all.push(12);
            tested.push(12);
            assert_eq!(steps(&session, &rows), (all, tested), "{}", gpu.caps().name);
            assert_eq!(session.snapshot().unwrap().step, 12);
        }
    }

    #[test]
    fn passes_in_another_order_than_they_were_encoded_in_give_no_row() {
        let gpu = &gpus()[0];
        let mut session = session(gpu);
        let (first, second) = (host(&mut session, 3), host(&mut session, 3));
        // The second runs as steps 0 to 2, and its copies look where 3 to 5 would be.
        gpu.queue().submit([second.finish()]);
        gpu.queue().submit([first.finish()]);
        let mut failed = 0;
        while session.in_flight() > 0 {
            gpu.wait().unwrap();
            match session.take_rows() {
                Err(Error::Device(text)) => {
                    assert!(text.contains("order"), "{text}");
                    failed += 1;
                }
                other => assert!(other.unwrap().is_none_or(|rows| rows.iter().all(|row| row.step() < 3))),
            }
        }
        assert_eq!(failed, 1);
    }

    #[test]
    fn a_snapshot_is_of_the_steps_that_were_made() {
        for gpu in gpus() {
            let mut session = session(gpu);
            session.submit(4);
            let after_four = session.snapshot().unwrap();
            let held = host(&mut session, 3);
            assert_eq!(session.step(), 7);
            let now = session.snapshot().unwrap();
            assert_eq!((now.step, &now), (4, &after_four), "{}", gpu.caps().name);
            gpu.queue().submit([held.finish()]);
            assert_eq!(session.snapshot().unwrap().step, 7);
        }
    }

    #[test]
    fn a_state_is_restored_behind_what_was_submitted_and_not_under_what_was_not() {
        for gpu in gpus() {
            let mut session = session(gpu);
            session.submit(6);
            let six = session.snapshot().unwrap();
            // Under way, their rows not taken: they belong to what is left behind.
            session.submit(5);
            let held = host(&mut session, 2);
            for refused in [session.restore(&six), session.set_weights(&six.weights)] {
                assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
            }
            gpu.queue().submit([held.finish()]);
            session.restore(&six).unwrap();
            assert_eq!(session.snapshot().unwrap(), six);
            session.submit(7);
            let rows = arrived(&mut session);
            assert_eq!(steps(&session, &rows), plain(6..13), "{}", gpu.caps().name);
            // A pass that was dropped is in nobody's way.
            drop(host(&mut session, 2));
            session.restore(&six).unwrap();
            session.submit(1);
            let rows = arrived(&mut session);
            assert_eq!(steps(&session, &rows), plain(6..7), "{}", gpu.caps().name);
        }
    }

    #[test]
    fn compiling_ahead_runs_each_kernel_over_nothing() {
        for gpu in gpus() {
            let [mut ahead, mut plain] = [(); 2].map(|()| session(gpu));
            let before = ahead.snapshot().unwrap();
            let mut told = Vec::new();
            ahead
                .compile(|done, of| {
                    told.push((done, of));
                    true
                })
                .unwrap();
            let labels: BTreeSet<String> =
                ahead.program().labels(Select { step: 0, update: true }).into_iter().map(str::to_owned).collect();
            let of = told[0].1;
            assert!(of >= labels.len(), "{of} of {}", labels.len());
            // A second device counts too, and so the numbers may skip some.
            assert_eq!(told.len(), of + 1);
            assert!(told.is_sorted() && told.iter().all(|(_, all)| *all == of), "{told:?}");
            assert_eq!(told.last(), Some(&(of, of)));
            assert_eq!(ahead.snapshot().unwrap(), before, "{}", gpu.caps().name);
            for session in [&mut ahead, &mut plain] {
                session.submit(3);
            }
            assert_eq!(ahead.snapshot().unwrap(), plain.snapshot().unwrap());
            let mut once = 0;
            ahead
                .compile(|_, _| {
                    once += 1;
                    false
                })
                .unwrap();
            assert_eq!(once, 1);
        }
    }

    #[test]
    fn a_device_that_is_lost_gives_errors_and_no_rows() {
        for index in 0..adapters().len() {
            // As a device of our own, and as a host's, whose callbacks are not ours.
            for hosted in [false, true] {
                let own = Gpu::open(&AdapterChoice::Index(index), Options::default()).unwrap();
                let gpu = if hosted {
                    Gpu::from_device(own.device().clone(), own.queue().clone(), None)
                } else {
                    own.clone()
                };
                let mut session = session(&gpu);
                session.submit(3);
                assert_eq!(arrived(&mut session).len(), 3);
                // Two submissions under way, and two that are never taken.
                session.submit(2);
                gpu.device().destroy();
                let last = session.submit(2);
                let waited = gpu.wait_for(last);
                assert!(matches!(waited, Err(Error::Device(_))), "{waited:?}");
                let mut rows = Vec::new();
                let failed = loop {
                    match session.take_rows() {
                        Ok(Some(more)) => rows.extend(more),
                        Ok(None) => panic!("nothing failed"),
                        Err(error) => break error,
                    }
                };
                assert!(matches!(failed, Error::Device(_)), "{failed}");
                assert!(rows.iter().all(|row| row.step() < 5), "no row of what never ran");
                for error in [gpu.wait().err(), session.snapshot().err(), gpu.check().err()] {
                    assert!(matches!(error, Some(Error::Device(_))), "{error:?}");
                }
                assert!(Session::new(&gpu, Setup::from_toml(RUN).unwrap().config).is_err());
            }
        }
    }

    #[test]
    fn measuring_takes_no_memory_for_gradients_that_nobody_asks_for_and_measures_the_same() {
        let text = |only: &[&str]| {
            let only = if only.is_empty() { String::new() } else { format!("[measure]\nonly = {only:?}\n") };
            format!(
                "steps = 8\n[task]\nkind = \"modular\"\np = 7\n[model]\nd_model = 16\nn_heads = 2\nd_mlp = 64\n\
                 {only}[measure.probe]\nsize = 8\ndraws = 20\n"
            )
        };
        let cards = || instrument::registry().into_iter().flat_map(|instrument| instrument.cards());
        let all: Vec<&str> = cards().map(|card| card.name).collect();
        let of_gradients: BTreeSet<&str> = cards().filter(|card| card.gradients).map(|card| card.name).collect();
        let resolve = |only: &[&str]| Setup::from_toml(&text(only)).unwrap().config.with_cadences(BTreeMap::new());
        for gpu in gpus() {
            let measured = |mut session: Session| {
                session.set_weights(&[session.table().draw(session.config().seed_of(0))]).unwrap();
                session.submit(0);
                let mut found = BTreeMap::new();
                while session.in_flight() > 0 {
                    gpu.wait().unwrap();
                    for row in session.take_rows().unwrap().into_iter().flatten() {
                        for one in session.rows(&row) {
                            let place =
                                (one.metric.card.name, one.metric.site.clone(), one.label.layer, one.label.head);
                            found.insert((place, one.label.index), one.value.to_bits());
                        }
                    }
                }
                (found, session)
            };
            let (trains, training) = measured(Session::new(gpu, resolve(&[])).unwrap());
            let (all, with_gradients) = measured(Session::builder(gpu, resolve(&all)).measuring().build().unwrap());
            assert!(all == trains, "{}", gpu.caps().name);
            assert_eq!(with_gradients.memory().0, training.memory().0);
            // Asked for nothing in particular, it leaves out what needs gradients, and nothing else.
            let (some, alone) = measured(Session::builder(gpu, resolve(&[])).measuring().build().unwrap());
            let rest: BTreeMap<_, _> =
                all.into_iter().filter(|(((name, ..), _), _)| !of_gradients.contains(name)).collect();
            assert!(some.len() > 30 && some == rest, "{}", gpu.caps().name);
            assert!(trains.len() > some.len() && some.keys().any(|((name, ..), _)| *name == "weight_norm"));
            // The weights alone, no more for activations, and no kernel of the backward pass or of the optimizer's.
            assert_eq!(alone.memory().0, training.weights().size());
            assert!(alone.memory().1 <= training.memory().1);
            let backward = |label: &&str| label.contains("backward") || label.starts_with("optim/update");
            let kernels =
                |session: &Session| session.program().labels(MEASUREMENT).iter().filter(|l| backward(l)).count();
            assert!(kernels(&alone) == 0 && kernels(&training) > 0, "{:?}", alone.program().labels(MEASUREMENT));
        }
    }

    #[test]
    fn how_commands_are_submitted_changes_no_bit() {
        for gpu in gpus() {
            let run = |most: Option<u64>| {
                let mut session = Session::new(gpu, Setup::from_toml(RUN).unwrap().config).unwrap();
                // Every kernel alone, several together, all at once; the measurement leaves the model alone.
                for steps in [3, 0, 2] {
                    session.submit_in_parts(steps, most);
                }
                let mut rows = Vec::new();
                while session.in_flight() > 0 {
                    gpu.wait().unwrap();
                    rows.extend(session.take_rows().unwrap().into_iter().flatten());
                }
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                let rows: Vec<(u64, Vec<u32>)> = rows.iter().map(|row| (row.step, bits(&row.values))).collect();
                assert_eq!(rows.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 1, 2, 3, 3, 4]);
                (rows, bits(&session.snapshot().unwrap().weights[0]))
            };
            let whole = run(Some(u64::MAX));
            assert!([Some(0), Some(200_000), None].map(run).iter().all(|cut| *cut == whole), "{}", gpu.caps().name);
        }
    }
}
