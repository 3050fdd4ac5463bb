//! From a tape to a program: inputs are bound, constants uploaded, dead ops dropped, kernels recorded.

use std::collections::HashMap;

use super::fuse::join_in_place;
use super::op::Lower;
use super::tape::Source;
use super::{Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::{Class, Gpu, Program, Recording, Slot, Storage, Tensor};

/// Where inputs lie, and where outputs that someone reads shall be written.
#[derive(Default)]
pub struct Bindings {
    places: HashMap<Var, Storage>,
}

impl Bindings {
    /// No bindings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds an input to the memory it is read from, or an op's output to the memory it is written to.
    /// A bound output is computed even if no op reads it.
    pub fn bind(&mut self, var: Var, storage: Storage) -> &mut Self {
        self.places.insert(var, storage);
        self
    }
}

impl Tape {
    /// Records the tape for a device. What neither an effect nor a bound output depends on is dropped.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an input without binding; otherwise see [`Recording`].
    pub fn compile(&self, gpu: &Gpu, bindings: &Bindings) -> Result<Program> {
        self.record(gpu, bindings)?.finish()
    }

    /// What [`Tape::compile`] makes a program of: all kernels, but no memory for what they compute.
    ///
    /// # Errors
    /// As there.
    pub fn record(&self, gpu: &Gpu, bindings: &Bindings) -> Result<Recording> {
        let wanted: Vec<Var> = bindings.places.keys().copied().collect();
        let needed = self.needed(&wanted);
        let times = self.timetable(&needed, &wanted);
        let mut places: HashMap<Var, Storage> = HashMap::new();
        for (var, storage) in &bindings.places {
            let root = self.root(*var);
            let constant = matches!(self.source(root), Source::Constant(_));
            if constant || places.insert(root, storage.clone()).is_some() {
                let why = if constant { "is a constant" } else { "is bound twice, under two names" };
                return Err(Error::Unsupported(format!("{} {why}; bind a copy of it", self.label(*var))));
            }
        }

        let mut steps = self.fused(&needed, &times, &wanted);
        join_in_place(self, &mut steps, &mut places);
        let (mut read, mut made) = (vec![false; self.vars().count()], vec![false; self.vars().count()]);
        for step in &steps {
            step.inputs.iter().for_each(|var| read[self.root(*var).index()] = true);
            step.outputs.iter().for_each(|var| made[var.index()] = true);
        }

        let mut recording = Recording::new(gpu);
        let mut slots: Vec<Option<(Slot, u32)>> = vec![None; read.len()];
        for var in self.vars() {
            let shape = self.shape(var);
            let len = shape.len() as u64;
            let copies = if shape.owned { u64::from(self.replicas()) } else { 1 };
            let stride = if shape.owned { len } else { 0 };
            let slot = match (places.get(&var), self.source(var)) {
                (_, Source::Alias(_)) => continue,
                (Some(storage), _) => {
                    let span = if shape.owned { (copies - 1) * storage.replica_stride + len } else { len };
                    let slot = Slot::Fixed {
                        buffer: storage.buffer.clone(),
                        offset: storage.offset * 4,
                        size: span.max(1) * 4,
                    };
                    let stride = if shape.owned { storage.replica_stride } else { 0 };
                    (slot, self.narrow(stride)?)
                }
                (None, Source::Constant(bits)) if read[var.index()] => {
                    let buffer = gpu.upload(Class::Data, bits)?;
                    let size = buffer.size();
                    (Slot::Fixed { buffer, offset: 0, size }, self.narrow(stride)?)
                }
                (None, Source::Input) if read[var.index()] => {
                    return Err(Error::Unsupported(format!("input {} was not bound", self.label(var))));
                }
                (None, Source::Op) if made[var.index()] => {
                    // Offsets within a tensor are 32-bit in the kernels.
                    self.narrow(copies * len)?;
                    (recording.plan(copies * len), self.narrow(stride)?)
                }
                _ => continue,
            };
            slots[var.index()] = Some(slot);
        }
        let tensor = |var: Var| -> Result<Tensor> {
            let root = self.root(var);
            let (slot, replica_stride) = slots[root.index()]
                .clone()
                .ok_or_else(|| Error::Unsupported(format!("{} has no place in memory", self.label(var))))?;
            Ok(Tensor { slot, dims: self.shape(var).dims.clone(), replica_stride })
        };

        for step in &steps {
            let inputs = step.inputs.iter().map(|var| tensor(*var)).collect::<Result<Vec<_>>>()?;
            let outputs = step.outputs.iter().map(|var| tensor(*var)).collect::<Result<Vec<_>>>()?;
            let owned = step.inputs.iter().chain(&step.outputs).any(|var| self.shape(*var).owned);
            recording.at_cadence(step.when.every);
            recording.in_scope(step.when.scope);
            let replicas = if owned { self.replicas() } else { 1 };
            let halves = step.halves;
            step.lower(&mut Lower { recording: &mut recording, replicas, halves }, &inputs, &outputs)?;
        }
        Ok(recording)
    }

    fn narrow(&self, elements: u64) -> Result<u32> {
        u32::try_from(elements)
            .map_err(|_| Error::too_large(format_args!("a tensor of {elements} elements is beyond 32-bit indices")))
    }
}
