//! From a tape to a program: inputs are bound, constants uploaded, dead ops dropped, kernels recorded.

use std::collections::HashMap;

use super::fuse::join_in_place;
use super::op::Lower;
use super::tape::{Source, When};
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
    /// Whether what an effect or a bound output depends on reads an input.
    pub(crate) fn reads(&self, bindings: &Bindings, input: Var) -> bool {
        let wanted: Vec<Var> = bindings.places.keys().copied().collect();
        self.inputs_of(&self.needed(&wanted)).any(|var| self.root(var) == self.root(input))
    }

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
        self.check_cadences(&needed, &times)?;
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
                    // Kernels count from the first replica's first element.
                    self.narrow(span)?;
                    let stride = if shape.owned { storage.replica_stride } else { 0 };
                    (slot, self.narrow(stride)?)
                }
                (None, Source::Constant(bits)) if read[var.index()] => {
                    let (bytes, caps) = (4 * bits.len() as u64, gpu.caps());
                    if bytes > caps.max_binding {
                        let what = self.name(var).unwrap_or("a table made from the examples");
                        return Err(Error::Limit(format!(
                            "{what} has {bytes} bytes, and {} binds at most {}. Use less data, or a device that binds more",
                            caps.name, caps.max_binding
                        )));
                    }
                    self.narrow(bits.len() as u64)?;
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

    /// Fails where an op reads what was last written at another step: its cadence must be a multiple of its source's.
    fn check_cadences(&self, needed: &[bool], times: &[When]) -> Result<()> {
        let mut makers: HashMap<Var, usize> = HashMap::new();
        for (at, node) in self.nodes().iter().enumerate().filter(|(at, _)| needed[*at]) {
            for source in node.inputs.iter().filter_map(|var| makers.get(&self.root(*var))) {
                let (source, of, every) = (&self.nodes()[*source], times[*source].every, times[at].every);
                if !every.is_multiple_of(of) {
                    return Err(Error::Unsupported(format!(
                        "\"{}\" at every {every} steps reads what \"{}\" makes at every {of}: at other steps it would read what is old. Give it a cadence that is a multiple of {of}",
                        node.op.name(),
                        source.op.name(),
                    )));
                }
            }
            makers.extend(node.outputs.iter().map(|var| (*var, at)));
        }
        Ok(())
    }

    fn narrow(&self, elements: u64) -> Result<u32> {
        u32::try_from(elements)
            .map_err(|_| Error::too_large(format_args!("a tensor of {elements} elements is beyond 32-bit indices")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::super::ops::Scale;
    use super::*;

    fn bound(gpu: &Gpu, tape: &Tape, vars: &[Var], replica_stride: u64) -> Result<Recording> {
        let mut bindings = Bindings::new();
        for var in vars {
            let buffer = gpu.buffer(Class::Data, 64)?;
            bindings.bind(*var, Storage { buffer, offset: 0, replica_stride });
        }
        tape.record(gpu, &bindings)
    }

    #[test]
    fn a_cadence_that_its_sources_does_not_divide_is_refused_by_name() {
        let gpu = Gpu::noop();
        let record = |source: u64, reader: u64, reshaped: bool| {
            let mut tape = Tape::new(1);
            let x = tape.input("x", Shape::f32(&[4]));
            let y = tape.at_cadence(source, |tape| tape.push1(Scale(2.0), &[x])).unwrap();
            let y = if reshaped { tape.reshape(y, &[2, 2]).unwrap() } else { y };
            tape.in_scope("an instrument");
            let z = tape.at_cadence(reader, |tape| tape.push1(crate::autograd::ops::Add, &[y, y])).unwrap();
            bound(&gpu, &tape, &[x, z], 4).map(|_| ())
        };
        for (source, reader) in [(1, 1), (1, 7), (5, 5), (5, 20), (3, 9)] {
            record(source, reader, false).unwrap();
        }
        for (source, reader) in [(5, 1), (5, 7), (20, 5), (4, 6)] {
            for reshaped in [false, true] {
                let error = record(source, reader, reshaped).unwrap_err().to_string();
                let named = ["\"add\"", "\"scale\"", &format!("every {reader} "), &format!("every {source}:")];
                assert!(named.iter().all(|words| error.contains(words)), "{error}");
            }
        }
    }

    #[test]
    fn a_span_beyond_32_bit_indices_is_refused() {
        let gpu = Gpu::noop();
        let record = |replicas: u32, stride: u64| {
            let mut tape = Tape::new(replicas);
            let x = tape.input("x", Shape::f32(&[4]));
            let y = tape.push1(Scale(2.0), &[x]).unwrap();
            bound(&gpu, &tape, &[x, y], stride).map(|_| ())
        };
        // Two copies end just below 2^32, where each stride alone fits; three do not.
        record(2, (1 << 32) - 8).unwrap();
        let error = record(3, (1 << 31) + 64).unwrap_err();
        assert!(matches!(&error, Error::Limit(text) if text.contains("32-bit")), "{error}");
    }
}
