//! A run on a device: buffers, the recorded step, and its replay.

use std::collections::{BTreeMap, BTreeSet};

use super::optimizer::{self, Hyper, State};
use super::{Precision, RunConfig};
use crate::autograd::{Bindings, Shape, Tape};
use crate::error::{Error, Result};
use crate::gpu::{Class, Commands, Gpu, Program, Readback, Recording, STEP, Select, Storage, read_now};
use crate::instrument::{self, Attach, Label, Metric, MetricRow, Presence};
use crate::model::{Model, ModelConfig, ReadOut, WeightTable};
use crate::task::{Feed, Pass, Task};

/// A run that can be stepped, measured, saved and restored.
///
/// Nothing here waits for the device except [`Session::snapshot`]; nothing
/// submits except [`Session::submit`], which is for those who own the device.
pub struct Session {
    gpu: Gpu,
    config: RunConfig<Box<dyn Task>>,
    table: WeightTable,
    program: Program,
    row: MetricRow,
    weights: wgpu::Buffer,
    first: wgpu::Buffer,
    second: wgpu::Buffer,
    clock: wgpu::Buffer,
    /// Where gradients are scaled: by what, and its inverse, `[R]`.
    scale: Option<(wgpu::Buffer, wgpu::Buffer)>,
    state_bytes: u64,
    step: u64,
    /// Steps whose rows lie in the ring and were not copied yet.
    uncopied: Vec<Filed>,
    readback: Readback<Vec<Filed>>,
}

/// How often cadences are lengthened anew at most.
const LENGTHENED: usize = 4;

/// Measures everything, for every cadence divides 0, and leaves the model as it is.
const MEASUREMENT: Select = Select { step: 0, update: false };

/// A metric row and the replay it came from.
#[derive(Clone, Copy, Debug)]
struct Filed {
    step: u64,
    select: Select,
}

/// One number of the metric table.
#[derive(Clone, Copy, Debug)]
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

/// A step as it was recorded, and the memory that outlives it.
struct Recorded {
    recording: Recording,
    row: MetricRow,
    table: WeightTable,
    weights: wgpu::Buffer,
    first: wgpu::Buffer,
    second: wgpu::Buffer,
    clock: wgpu::Buffer,
    scale: Option<(wgpu::Buffer, wgpu::Buffer)>,
}

impl Recorded {
    fn new(gpu: &Gpu, config: &RunConfig<Box<dyn Task>>) -> Result<Self> {
        let replicas = config.replicas;
        let feed = Feed::new(config.task.as_ref(), &config.data())?;
        let shape = config.task.shape();
        let mut tape = Tape::new(replicas);
        let mut bindings = Bindings::new();

        let clock_var = tape.input("clock", Shape::u32(&[2]).shared());
        let model = Model::new(&config.model, &mut tape);
        // First of all, so that what no device can hold is refused before tables for it are made on the host.
        let len = model.table.len();
        let elements = u64::from(replicas) * len as u64;
        let weights = gpu.buffer(Class::Weights, elements)?;
        let gradients = gpu.buffer(Class::Gradients, elements)?;
        let first = gpu.buffer(Class::Optimizer, elements)?;
        let second = gpu.buffer(Class::Optimizer, elements)?;
        let seeds: Vec<u64> = config.data().iter().map(|data| data.seed).collect();
        let batch = feed.train_batch(&mut tape, config.batch.count(), clock_var, &seeds)?;
        let (forward, backward) = (config.precision != Precision::F32, config.precision == Precision::F16);
        let mut train = tape.in_halves(forward, |tape| Pass::new(tape, &model, batch, shape.read))?;
        let scale = backward.then(|| ["loss scale", "its inverse"].map(|name| tape.input(name, Shape::f32(&[1]))));
        let scale = scale.map(|[scale, inverse]| (scale, inverse));
        let grads = tape.in_halves(backward, |tape| train.backward(tape, &model, scale))?;

        let pieces = [false, true].map(|probe| piece(gpu, &config.model, shape.seq, shape.read, replicas, probe));
        let (task, measure) = (config.task.as_ref(), &config.measure);
        // What is measured of the training set is measured in f32.
        let full = config.batch.count().is_none() && config.precision == Precision::F32;
        let mut attach = Attach::new(&mut tape, &model, task, &feed, &train, &grads, pieces, full, measure);
        for instrument in instrument::registry() {
            attach.tape.in_scope(instrument.name());
            instrument.attach(&mut attach)?;
        }
        attach.tape.in_scope(STEP);
        // What reads the weights stands above this line, what moves them below.
        let flat = |tape: &mut Tape, name: &str, len: usize| tape.input(name, Shape::f32(&[len]));
        let state = State {
            weights: flat(attach.tape, "weights", len),
            grads: flat(attach.tape, "gradients", len),
            first: flat(attach.tape, "first moment", len),
            second: flat(attach.tape, "second moment", len),
            hyper: flat(attach.tape, "hyper-parameters", Hyper::LEN),
            clock: clock_var,
            scale,
        };
        let decays = config.decays(&model.table);
        let clip = config.optimizer.clip > 0.0;
        let norms = optimizer::append(attach.tape, &model.table, &decays, config.optimizer.kind, clip, state)?;
        for instrument in instrument::registry() {
            attach.tape.in_scope(instrument.name());
            instrument.attach_to_update(&mut attach, &norms)?;
        }
        let row = attach.finish(gpu, clock_var, &mut bindings)?;

        let clock = gpu.upload(Class::State, &[0u32; 2])?;
        let hyper: Vec<Hyper> = (0..replicas as usize)
            .map(|r| Hyper::new(&config.optimizer_of(r), &config.schedule, config.steps))
            .collect();
        let hyper_words: &[f32] = bytemuck::cast_slice(&hyper);
        let hyper = gpu.upload(Class::State, hyper_words)?;
        model.table.bind(&mut bindings, &model.weights.iter().copied().map(Some).collect::<Vec<_>>(), &weights);
        model.table.bind(&mut bindings, &grads, &gradients);
        for (var, buffer, stride) in [
            (state.weights, &weights, len),
            (state.grads, &gradients, len),
            (state.first, &first, len),
            (state.second, &second, len),
            (state.hyper, &hyper, Hyper::LEN),
            (state.clock, &clock, 0),
        ] {
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
        Ok(Self { recording, row, table: model.table, weights, first, second, clock, scale })
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
    pub fn new(gpu: &Gpu, mut config: RunConfig<Box<dyn Task>>) -> Result<Self> {
        instrument::check_names(&config.measure)?;
        if config.precision != Precision::F32 && gpu.cooperative().is_none() {
            return Err(Error::Unsupported(format!(
                "{}: products in f16 have not proved right on this device; call autograd::verify_cooperative first, or set precision = \"f32\"",
                gpu.caps().name
            )));
        }
        let mut recorded = Recorded::new(gpu, &config)?;
        if config.measure.cadences.is_none() {
            let mut cadences = BTreeMap::new();
            // Work that two measures shared may become one's own when the other comes to be taken less often.
            for _ in 0..LENGTHENED {
                let found = instrument::lengthened(&config.measure, config.steps, &recorded.recording.parts());
                if found.is_empty() {
                    break;
                }
                cadences.extend(found);
                config.measure.cadences = Some(cadences.clone());
                drop(recorded);
                recorded = Recorded::new(gpu, &config)?;
            }
            config.measure.cadences = Some(cadences);
        }
        let Recorded { recording, row, table, weights, first, second, clock, scale } = recorded;
        let program = recording.finish()?;
        gpu.check()?;
        let replicas = config.replicas as usize;
        let drawn: Vec<Vec<f32>> = (0..replicas).map(|r| table.draw(config.seed_of(r))).collect();
        let mut session = Self {
            gpu: gpu.clone(),
            readback: Readback::new(gpu),
            state_bytes: (replicas * table.len() * 16) as u64,
            step: 0,
            uncopied: Vec::new(),
            config,
            table,
            program,
            row,
            weights,
            first,
            second,
            clock,
            scale,
        };
        session.set_weights(&drawn)?;
        Ok(session)
    }

    /// The resolved configuration.
    pub fn config(&self) -> &RunConfig<Box<dyn Task>> {
        &self.config
    }

    /// Names, shapes and places of the parameters.
    pub fn table(&self) -> &WeightTable {
        &self.table
    }

    /// The recorded step.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What is measured, and where each number lies in a row of the ring.
    pub fn metrics(&self) -> &[Metric] {
        &self.row.metrics
    }

    /// The metric ring, `[slots, row_len]` f32: the row of step s lies in slot s modulo `slots`. A host
    /// may bind it in shaders of its own.
    pub fn ring(&self) -> (&wgpu::Buffer, usize, usize) {
        (&self.row.ring, self.row.slots, self.row.len)
    }

    /// The weights, `[R, table().len()]` f32.
    pub fn weights(&self) -> &wgpu::Buffer {
        &self.weights
    }

    /// Updates encoded so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Bytes of device memory: weights, gradients and moments; activations as planned; and the least any
    /// plan could do with for those.
    pub fn memory(&self) -> (u64, u64, u64) {
        (self.state_bytes, self.program.planned_bytes(), self.program.lower_bound_bytes())
    }

    /// Replaces the weights: one set for each replica, or one for all.
    ///
    /// # Errors
    /// [`Error::Config`] where their number or size does not fit.
    pub fn set_weights(&mut self, replicas: &[Vec<f32>]) -> Result<()> {
        let count = self.config.replicas as usize;
        if (replicas.len() != count && replicas.len() != 1) || replicas.iter().any(|w| w.len() != self.table.len()) {
            return Err(Error::Config(format!("weights of {} replicas for a run of {count}", replicas.len())));
        }
        for at in 0..count {
            let weights = &replicas[at % replicas.len()];
            let offset = (at * self.table.len() * 4) as u64;
            self.gpu.queue().write_buffer(&self.weights, offset, bytemuck::cast_slice(weights));
        }
        Ok(())
    }

    /// Encodes the next training step into a pass. The host submits; rows of more than `ring().1` steps
    /// must be copied with [`Session::copy_rows`] before they are overwritten.
    pub fn encode_step(&mut self, pass: &mut wgpu::ComputePass<'_>) {
        let select = self.training();
        self.program.encode(pass, select);
        self.filed(select);
    }

    /// Encodes a measurement of everything at the current step, which leaves the model as it is. Its row
    /// takes the slot of the next step's: copy it before encoding that.
    pub fn encode_measure(&mut self, pass: &mut wgpu::ComputePass<'_>) {
        self.program.encode(pass, MEASUREMENT);
        self.filed(MEASUREMENT);
    }

    /// What the next training step replays.
    fn training(&self) -> Select {
        Select { step: self.step, update: true }
    }

    /// Notes the row of the replay just encoded, and goes on to the next step behind one that trains. The row whose slot
    /// it takes is gone.
    fn filed(&mut self, select: Select) {
        let slots = self.row.slots as u64;
        let slot = self.step % slots;
        self.uncopied.retain(|filed| filed.step % slots != slot);
        self.uncopied.push(Filed { step: self.step, select });
        self.step += u64::from(select.update);
    }

    /// Encodes the copy of all rows since the last call towards the host. The pass must have ended.
    pub fn copy_rows(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let filed = std::mem::take(&mut self.uncopied);
        if filed.is_empty() {
            return;
        }
        let bytes = self.row.len as u64 * 4;
        let ranges: Vec<std::ops::Range<u64>> = filed
            .iter()
            .map(|f| {
                let slot = f.step % self.row.slots as u64;
                slot * bytes..(slot + 1) * bytes
            })
            .collect();
        self.readback.record(encoder, &self.row.ring, &ranges, filed);
    }

    /// The rows of the oldest copy that has arrived, if any. Never waits.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub fn take_rows(&mut self) -> Result<Option<Vec<StepRow>>> {
        let Some((filed, words)) = self.readback.take()? else { return Ok(None) };
        let rows = words.chunks_exact(self.row.len).zip(filed).map(|(words, filed)| StepRow {
            step: filed.step,
            select: filed.select,
            values: words.iter().map(|w| f32::from_bits(*w)).collect(),
        });
        Ok(Some(rows.collect()))
    }

    /// Copies on their way to the host.
    pub fn in_flight(&self) -> usize {
        self.readback.in_flight()
    }

    /// Encodes `steps` training steps, or a measurement for 0, and submits them: together, or in several submissions
    /// where they are much work. For those who own the device; hosts encode for themselves.
    pub fn submit(&mut self, steps: u64) -> wgpu::SubmissionIndex {
        self.submit_in_parts(steps, Commands::MOST)
    }

    /// The same with at most so many floating-point operations in a submission.
    fn submit_in_parts(&mut self, steps: u64, most: u64) -> wgpu::SubmissionIndex {
        let mut commands = Commands::new(&self.gpu, most);
        for _ in 0..steps.max(1) {
            let select = if steps > 0 { self.training() } else { MEASUREMENT };
            self.program.encode_into(&mut commands, select);
            self.filed(select);
        }
        let mut encoder = commands.finish();
        self.copy_rows(&mut encoder);
        self.gpu.queue().submit([encoder.finish()])
    }

    /// The metric table's rows of one step.
    pub fn rows<'a>(&'a self, step: &'a StepRow) -> impl Iterator<Item = Row<'a>> {
        self.row.metrics.iter().filter(|metric| step.has(metric)).flat_map(move |metric| {
            (0..self.config.replicas).flat_map(move |replica| {
                let at = metric.offset + replica as usize * metric.replica_stride;
                let values = metric.labels.iter().zip(&step.values[at..]);
                values
                    .filter(|(_, value)| !metric.presence.hides_zero() || **value != 0.0)
                    .map(move |(label, value)| Row { step: step.step, replica, metric, label: *label, value: *value })
            })
        })
    }

    /// Reads the whole state, waiting for the device.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let read = |buffer: &wgpu::Buffer| -> Result<Vec<Vec<f32>>> {
            let bytes = u64::from(self.config.replicas) * self.table.len() as u64 * 4;
            let words = read_now(&self.gpu, buffer, 0..bytes)?;
            Ok(words.chunks_exact(self.table.len()).map(|r| r.iter().map(|w| f32::from_bits(*w)).collect()).collect())
        };
        let loss_scale = match &self.scale {
            Some((scale, _)) => read_now(&self.gpu, scale, 0..scale.size())?.into_iter().map(f32::from_bits).collect(),
            None => Vec::new(),
        };
        Ok(Snapshot {
            loss_scale,
            step: self.step,
            weights: read(&self.weights)?,
            first: read(&self.first)?,
            second: read(&self.second)?,
        })
    }

    /// Continues from a state.
    ///
    /// # Errors
    /// [`Error::Config`] where it belongs to another model.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let moments = [&snapshot.first, &snapshot.second].map(|moments| moments.concat());
        if moments.iter().any(|all| all.len() as u64 * 4 != self.first.size()) {
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
        for (buffer, all) in [&self.first, &self.second].into_iter().zip(&moments) {
            self.gpu.queue().write_buffer(buffer, 0, bytemuck::cast_slice(all));
        }
        if let Some((scale, inverse)) = &self.scale {
            let inverses: Vec<f32> = scales.iter().map(|scale| 1.0 / scale).collect();
            self.gpu.queue().write_buffer(scale, 0, bytemuck::cast_slice(scales));
            self.gpu.queue().write_buffer(inverse, 0, bytemuck::cast_slice(&inverses));
        }
        self.step = snapshot.step;
        self.gpu.queue().write_buffer(&self.clock, 0, bytemuck::cast_slice(&[snapshot.step as u32; 2]));
        self.uncopied.clear();
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

/// Sequences of one piece of a large forward pass, so that its widest activation can be bound; in a probe, what every
/// head of a layer wrote is one too.
fn piece(gpu: &Gpu, model: &ModelConfig, seq: usize, read: ReadOut, replicas: u32, probe: bool) -> usize {
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
    let room = (gpu.caps().max_binding / 2).min(256 << 20) / 4;
    // Multiples of 256 sequences keep the pieces' kernels evenly filled.
    // Long attention has a workgroup layer for each head of each sequence, of which there may be 65,535.
    let layers = 65_535 / (model.n_heads * replicas as usize);
    let count = ((room / (u64::from(replicas) * widest as u64)) as usize).min(layers);
    if count > 256 { count / 256 * 256 } else { count.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::gpus;
    use crate::record::Setup;

    #[test]
    fn how_commands_are_submitted_changes_no_bit() {
        let text = "steps = 8\n[task]\nkind = \"modular\"\np = 7\n[model]\nd_model = 8\nn_heads = 2\nd_mlp = 12\n";
        for gpu in gpus() {
            let run = |most: u64| {
                let mut session = Session::new(gpu, Setup::from_toml(text).unwrap().config).unwrap();
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
            let whole = run(u64::MAX);
            assert!(run(0) == whole && run(200_000) == whole, "{}", gpu.caps().name);
        }
    }
}
