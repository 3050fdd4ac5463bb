//! Recorded once, replayed for every step: dispatches with ready bind groups over planned buffers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::{Request, Rules, plan};
use super::{Class, Commands, Gpu, Kernel, Params, Shader, Span, Timer};
use crate::error::{Error, Result};

/// Where a value outside the plan lives, in 32-bit elements.
#[derive(Clone, Debug)]
pub struct Storage {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    /// First element of replica 0.
    pub offset: u64,
    /// Elements from one replica to the next; 0 where all share one copy.
    pub replica_stride: u64,
}

impl Storage {
    /// A whole buffer holding `[R, stride]`, or one shared copy where `stride` is 0.
    pub fn whole(buffer: &wgpu::Buffer, stride: u64) -> Self {
        Self { buffer: buffer.clone(), offset: 0, replica_stride: stride }
    }
}

/// A place in memory, as a kernel binds it.
#[derive(Clone, Debug)]
pub enum Slot {
    /// A planned tensor; the planner decides which buffer it shares with others of other lifetimes.
    Planned(usize),
    /// A range of a buffer that exists.
    Fixed {
        /// The buffer.
        buffer: wgpu::Buffer,
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        size: u64,
    },
}

/// A value as ops see it while they record kernels.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Where it lives.
    pub slot: Slot,
    /// Dimensions of one replica.
    pub dims: Vec<usize>,
    /// Elements from one replica to the next; 0 for a shared value.
    pub replica_stride: u32,
}

impl Tensor {
    /// Elements of one replica.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether a replica holds no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// When a dispatch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// In every replay.
    Always,
    /// Only where the model moves on.
    Update,
    /// Only where it is measured and left as it is.
    Still,
}

/// Which dispatches one replay encodes.
#[derive(Clone, Copy, Debug)]
pub struct Select {
    /// The step: dispatches with a cadence run where it divides the step.
    pub step: u64,
    /// Whether the model moves on: [`Phase::Update`] is included, or else [`Phase::Still`].
    pub update: bool,
}

/// What a kernel, or a whole replay, has to do at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations: those of matrix products and attention, and one for each element that
    /// other kernels write.
    pub flops: u64,
    /// Bytes of the tensors that are read or written, each once.
    pub bytes: u64,
}

impl std::ops::Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

/// Scope of what trains and measures nothing.
pub const STEP: &str = "step";

/// Neighbouring dispatches of one replay that were recorded in one scope, at one cadence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// Who recorded them: [`STEP`], or the name of an instrument.
    pub scope: &'static str,
    /// They run at steps that it divides.
    pub every: u64,
    /// How many they are.
    pub dispatches: usize,
    /// What they have to do.
    pub work: Work,
}

impl Part {
    fn of(dispatches: impl Iterator<Item = (&'static str, u64, Work)>) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::new();
        for (scope, every, work) in dispatches {
            match parts.last_mut().filter(|part| (part.scope, part.every) == (scope, every)) {
                Some(part) => (part.dispatches, part.work) = (part.dispatches + 1, part.work + work),
                None => parts.push(Self { scope, every, dispatches: 1, work }),
            }
        }
        parts
    }
}

struct Recorded {
    work: Work,
    scope: &'static str,
    kernel: Arc<Kernel>,
    params: Vec<u8>,
    slots: Vec<Slot>,
    grid: [u32; 3],
    every: u64,
    phase: Phase,
}

/// Dispatches over proxies: nothing is allocated before [`Recording::finish`].
pub struct Recording {
    gpu: Gpu,
    tensors: Vec<u64>,
    dispatches: Vec<Recorded>,
    scope: &'static str,
    every: u64,
    phase: Phase,
}

impl Recording {
    /// An empty recording.
    pub fn new(gpu: &Gpu) -> Self {
        Self {
            gpu: gpu.clone(),
            tensors: Vec::new(),
            dispatches: Vec::new(),
            scope: STEP,
            every: 1,
            phase: Phase::Always,
        }
    }

    /// The device the program will run on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Sets the cadence of the dispatches that follow: they run at steps that it divides.
    pub fn at_cadence(&mut self, every: u64) {
        self.every = every.max(1);
    }

    /// Sets who records the dispatches that follow.
    pub fn in_scope(&mut self, scope: &'static str) {
        self.scope = scope;
    }

    /// Sets the phase of the dispatches that follow, and returns the one before.
    pub fn in_phase(&mut self, phase: Phase) -> Phase {
        std::mem::replace(&mut self.phase, phase)
    }

    /// A new planned tensor of `elements` 32-bit values.
    pub fn plan(&mut self, elements: u64) -> Slot {
        self.tensors.push(elements.max(1) * 4);
        Slot::Planned(self.tensors.len() - 1)
    }

    /// Scratch of one op, `[R, dims]`.
    pub fn scratch(&mut self, replicas: u32, dims: &[usize]) -> Tensor {
        let len: usize = dims.iter().product();
        let slot = self.plan(u64::from(replicas) * len as u64);
        Tensor { slot, dims: dims.to_vec(), replica_stride: len as u32 }
    }

    /// Records one kernel. `tensors` follow the order of its bindings.
    ///
    /// # Errors
    /// Where the kernel does not compile, or the grid or a binding exceeds the device's limits.
    pub fn dispatch<P: Params>(
        &mut self,
        shader: &Shader<'_>,
        knobs: &[u32],
        params: &P,
        tensors: &[&Tensor],
        grid: [u32; 3],
    ) -> Result<()> {
        let kernel = self.gpu.kernel(shader, knobs)?;
        let fail = |detail: String| Error::Shader { kernel: kernel.label().to_owned(), detail };
        if tensors.len() != kernel.writes().len() {
            return Err(fail(format!("binds {} tensors, was given {}", kernel.writes().len(), tensors.len())));
        }
        let max = self.gpu.caps().max_grid;
        if grid.contains(&0) || grid.iter().any(|axis| *axis > max) {
            return Err(Error::Limit(format!(
                "{} needs a grid of {grid:?} workgroups, the device allows {max} along an axis. \
                 Use fewer replicas or a smaller batch",
                kernel.label()
            )));
        }
        let params = params.bytes();
        debug_assert_eq!(params.len(), kernel.params_bytes(), "{}", kernel.label());
        let bytes = |tensor: &Tensor| match &tensor.slot {
            Slot::Planned(at) => self.tensors[*at],
            Slot::Fixed { size, .. } => *size,
        };
        let written = tensors.iter().zip(kernel.writes()).filter(|(_, writes)| **writes);
        let work = Work {
            flops: written.map(|(tensor, _)| bytes(tensor) / 4).sum(),
            bytes: tensors.iter().map(|tensor| bytes(tensor)).sum(),
        };
        self.dispatches.push(Recorded {
            work,
            scope: self.scope,
            slots: tensors.iter().map(|tensor| tensor.slot.clone()).collect(),
            kernel,
            params,
            grid,
            every: self.every,
            phase: self.phase,
        });
        Ok(())
    }

    /// States the floating-point operations of the kernel recorded last.
    pub fn count_flops(&mut self, flops: u64) {
        if let Some(last) = self.dispatches.last_mut() {
            last.work.flops = flops;
        }
    }

    /// What was recorded so far, at a step at which everything is due and that updates the weights.
    pub fn parts(&self) -> Vec<Part> {
        let due = self.dispatches.iter().filter(|dispatch| dispatch.phase != Phase::Still);
        Part::of(due.map(|dispatch| (dispatch.scope, dispatch.every, dispatch.work)))
    }

    /// Plans memory, allocates it, and makes the program ready to replay.
    ///
    /// # Errors
    /// [`Error::Limit`] where a tensor exceeds what the device can bind.
    pub fn finish(self) -> Result<Program> {
        let caps = self.gpu.caps().clone();
        if let Some(bytes) = self.tensors.iter().find(|bytes| **bytes > caps.max_binding) {
            return Err(Error::too_large(format_args!(
                "one activation needs {}, but {} binds at most {} at once",
                super::Bytes(*bytes),
                caps.name,
                super::Bytes(caps.max_binding),
            )));
        }
        let rules = Rules { align: u64::from(caps.storage_alignment), largest: caps.max_buffer };
        let plan = plan(&requests(&self.tensors, &self.dispatches), rules);
        let buffers: Result<Vec<_>> =
            plan.buffers.iter().map(|bytes| self.gpu.buffer(Class::Activations, bytes / 4)).collect();
        let buffers = buffers?;

        let device = self.gpu.device();
        let align = u64::from(caps.uniform_alignment.max(4));
        let mut uniform_bytes: Vec<u8> = Vec::new();
        let uniform_offsets: Vec<u64> = self
            .dispatches
            .iter()
            .map(|dispatch| {
                let offset = (uniform_bytes.len() as u64).next_multiple_of(align);
                if dispatch.kernel.params_bytes() > 0 && !dispatch.kernel.params_in_immediates() {
                    uniform_bytes.resize(offset as usize, 0);
                    uniform_bytes.extend_from_slice(&dispatch.params);
                }
                offset
            })
            .collect();
        let failed = |error: wgpu::Error| Error::Device(error.to_string());
        let uniforms = self.gpu.scoped(|| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("parameters"),
                size: (uniform_bytes.len() as u64).next_multiple_of(16).max(16),
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        let uniforms = uniforms.map_err(failed)?;
        if !uniform_bytes.is_empty() {
            uniform_bytes.resize(uniform_bytes.len().next_multiple_of(4), 0);
            self.gpu.queue().write_buffer(&uniforms, 0, &uniform_bytes);
        }

        let mut stretches: Vec<Stretch> = Vec::new();
        for (dispatch, uniform_offset) in self.dispatches.into_iter().zip(uniform_offsets) {
            let mut entries = Vec::with_capacity(dispatch.slots.len() + 1);
            for (binding, slot) in dispatch.slots.iter().enumerate() {
                let (buffer, offset, size) = match slot {
                    Slot::Planned(tensor) => {
                        let place = plan.places[*tensor];
                        (&buffers[place.buffer], place.offset, self.tensors[*tensor])
                    }
                    Slot::Fixed { buffer, offset, size } => (buffer, *offset, *size),
                };
                if size > caps.max_binding {
                    return Err(Error::too_large(format_args!(
                        "{} binds {} at once, {} allows {}",
                        dispatch.kernel.label(),
                        super::Bytes(size),
                        caps.name,
                        super::Bytes(caps.max_binding),
                    )));
                }
                entries.push(entry(binding, buffer, offset, size));
            }
            let immediates = if dispatch.kernel.params_in_immediates() {
                dispatch.params
            } else {
                if dispatch.kernel.params_bytes() > 0 {
                    let size = dispatch.kernel.params_bytes() as u64;
                    entries.push(entry(entries.len(), &uniforms, uniform_offset, size));
                }
                Vec::new()
            };
            let bind_group = self.gpu.scoped(|| {
                device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(dispatch.kernel.label()),
                    layout: dispatch.kernel.layout(),
                    entries: &entries,
                })
            });
            let bind_group = bind_group.map_err(failed)?;
            let step = Step {
                work: dispatch.work,
                scope: dispatch.scope,
                kernel: dispatch.kernel,
                bind_group,
                immediates,
                grid: dispatch.grid,
            };
            let (every, phase) = (dispatch.every, dispatch.phase);
            match stretches.last_mut().filter(|last| (last.every, last.phase) == (every, phase)) {
                Some(last) => last.steps.push(step),
                None => stretches.push(Stretch { every, phase, steps: vec![step] }),
            }
        }
        Ok(Program { stretches, buffers, planned: plan.buffers.iter().sum(), lower_bound: plan.lower_bound })
    }
}

fn entry(binding: usize, buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindGroupEntry<'_> {
    wgpu::BindGroupEntry {
        binding: binding as u32,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer,
            offset,
            size: std::num::NonZeroU64::new(size),
        }),
    }
}

/// What the planner has to know of each tensor.
fn requests(tensors: &[u64], dispatches: &[Recorded]) -> Vec<Request> {
    let mut requests: Vec<Request> =
        tensors.iter().map(|bytes| Request { bytes: *bytes, life: None, apart: BTreeSet::new() }).collect();
    for (at, dispatch) in dispatches.iter().enumerate() {
        let planned = |(slot, writes): (&Slot, &bool)| match slot {
            Slot::Planned(tensor) => Some((*tensor, *writes)),
            Slot::Fixed { .. } => None,
        };
        let bound: Vec<(usize, bool)> =
            dispatch.slots.iter().zip(dispatch.kernel.writes()).filter_map(planned).collect();
        for &(tensor, writes) in &bound {
            requests[tensor].life.get_or_insert((at, at)).1 = at;
            // wgpu tracks whole buffers: within a dispatch one is either read or written.
            let other = bound.iter().filter(|(other, reads)| *other != tensor && *reads != writes);
            requests[tensor].apart.extend(other.map(|(other, _)| *other));
        }
    }
    requests
}

struct Step {
    work: Work,
    scope: &'static str,
    kernel: Arc<Kernel>,
    bind_group: wgpu::BindGroup,
    immediates: Vec<u8>,
    grid: [u32; 3],
}

/// Neighbours that run at the same steps: what is not due is passed over at once.
struct Stretch {
    every: u64,
    phase: Phase,
    steps: Vec<Step>,
}

/// A recorded step, ready to be replayed into anyone's compute pass.
pub struct Program {
    stretches: Vec<Stretch>,
    buffers: Vec<wgpu::Buffer>,
    planned: u64,
    lower_bound: u64,
}

impl Program {
    /// Replays the program into `pass`; returns how many kernels were dispatched. Nothing is submitted.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>, select: Select) -> usize {
        let mut count = 0;
        let mut current: Option<&Arc<Kernel>> = None;
        for step in self.selected(select) {
            step.encode(pass, &mut current);
            count += 1;
        }
        count
    }

    /// Has the driver compile every kernel by running it over nothing: software drivers put it off until a kernel first
    /// runs, need a second for some, and compile one at a time on a device. So where a driver keeps them, a second device
    /// compiles the list from its end, and this one reads that from the driver's cache. `each` is told how many are compiled and how many there are,
    /// and says whether to go on.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub fn compile(&self, gpu: &Gpu, mut each: impl FnMut(usize, usize) -> bool) -> Result<()> {
        let mut seen = std::collections::HashSet::new();
        let all = self.stretches.iter().flat_map(|stretch| &stretch.steps);
        let steps: Vec<&Step> = all.filter(|step| seen.insert(Arc::as_ptr(&step.kernel))).collect();
        // How many kernels the twin has begun, and how many it shall leave alone.
        let (behind, ahead) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            if gpu.caps().shares_kernels()
                && let Some(twin) = gpu.twin()
            {
                let steps = &steps;
                let (behind, ahead) = (&behind, &ahead);
                scope.spawn(move || {
                    for (done, step) in steps.iter().rev().enumerate() {
                        if done + ahead.load(Ordering::Relaxed) >= steps.len() {
                            break;
                        }
                        behind.store(done + 1, Ordering::Relaxed);
                        // What does not compile there fails here too, with a message.
                        if twin
                            .kernel_of(step.kernel.content())
                            .and_then(|kernel| kernel.run_over_nothing(&twin))
                            .is_err()
                        {
                            break;
                        }
                    }
                });
            }
            let mut go = || {
                for (done, step) in steps.iter().enumerate() {
                    ahead.store(done + 1, Ordering::Relaxed);
                    if !each((done + behind.load(Ordering::Relaxed)).min(steps.len()), steps.len()) {
                        return Ok(());
                    }
                    step.kernel.run_over_nothing(gpu)?;
                }
                each(steps.len(), steps.len());
                Ok(())
            };
            let done = go();
            ahead.store(steps.len(), Ordering::Relaxed);
            done
        })
    }

    /// Like [`Program::encode`], submitting what becomes too much for one submission.
    pub(crate) fn encode_into(&self, commands: &mut Commands, select: Select) {
        let mut current = None;
        for step in self.selected(select) {
            let (pass, fresh) = commands.pass(step.work);
            if fresh {
                current = None;
            }
            step.encode(pass, &mut current);
        }
    }

    /// Replays the program with every kernel in a compute pass of its own, and says how long each took. Submits and
    /// waits. `None` where the device has no timestamps.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub fn time_kernels(&self, gpu: &Gpu, select: Select) -> Result<Option<Vec<Span>>> {
        let steps: Vec<&Step> = self.selected(select).collect();
        timed(gpu, steps.chunks(1).map(|step| (step[0].kernel.label(), step)))
    }

    /// Like [`Program::time_kernels`], with one compute pass for each of [`Program::parts`].
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub fn time_parts(&self, gpu: &Gpu, select: Select) -> Result<Option<Vec<Span>>> {
        let steps: Vec<&Step> = self.selected(select).collect();
        let mut rest = steps.as_slice();
        let passes = self.parts(select).into_iter().map(|part| {
            let (of_part, others) = rest.split_at(part.dispatches);
            rest = others;
            (part.scope, of_part)
        });
        timed(gpu, passes)
    }

    /// What one replay consists of, in order.
    pub fn parts(&self, select: Select) -> Vec<Part> {
        let steps = self.due(select).flat_map(|stretch| stretch.steps.iter().map(|step| (stretch.every, step)));
        Part::of(steps.map(|(every, step)| (step.scope, every, step.work)))
    }

    fn due(&self, select: Select) -> impl Iterator<Item = &Stretch> {
        let phase = if select.update { Phase::Update } else { Phase::Still };
        let due = move |stretch: &&Stretch| {
            select.step.is_multiple_of(stretch.every) && (stretch.phase == Phase::Always || stretch.phase == phase)
        };
        self.stretches.iter().filter(due)
    }

    fn selected(&self, select: Select) -> impl Iterator<Item = &Step> {
        self.due(select).flat_map(|stretch| &stretch.steps)
    }

    /// Dispatches of one replay.
    pub fn dispatches(&self, select: Select) -> usize {
        self.selected(select).count()
    }

    /// What each kernel of one replay has to do, in order.
    pub fn works(&self, select: Select) -> Vec<Work> {
        self.selected(select).map(|step| step.work).collect()
    }

    /// What one replay has to do.
    pub fn work(&self, select: Select) -> Work {
        self.works(select).into_iter().fold(Work::default(), std::ops::Add::add)
    }

    /// The cadences that dispatches have, in order.
    pub fn cadences(&self) -> Vec<u64> {
        let mut found: Vec<u64> = self.stretches.iter().map(|stretch| stretch.every).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Labels of the kernels of one replay, in order.
    pub fn labels(&self, select: Select) -> Vec<&str> {
        self.selected(select).map(|step| step.kernel.label()).collect()
    }

    /// Bytes the plan allocated for activations.
    pub fn planned_bytes(&self) -> u64 {
        self.planned
    }

    /// Bytes alive at the worst moment of the step: no plan can need less.
    pub fn lower_bound_bytes(&self) -> u64 {
        self.lower_bound
    }

    /// Fills every planned buffer with NaN, so that a value a kernel forgot to write shows.
    pub fn poison(&self, gpu: &Gpu) {
        for buffer in &self.buffers {
            let words = vec![f32::NAN.to_bits(); (buffer.size() / 4) as usize];
            gpu.queue().write_buffer(buffer, 0, bytemuck::cast_slice(&words));
        }
    }
}

impl Step {
    fn encode<'a>(&'a self, pass: &mut wgpu::ComputePass<'_>, current: &mut Option<&'a Arc<Kernel>>) {
        if !current.is_some_and(|kernel| Arc::ptr_eq(kernel, &self.kernel)) {
            pass.set_pipeline(self.kernel.pipeline());
            *current = Some(&self.kernel);
        }
        pass.set_bind_group(0, &self.bind_group, &[]);
        if !self.immediates.is_empty() {
            pass.set_immediates(0, &self.immediates);
        }
        let [x, y, z] = self.grid;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Runs these passes, each with its label and its kernels, and says how long each took.
fn timed<'a>(gpu: &Gpu, passes: impl Iterator<Item = (&'a str, &'a [&'a Step])>) -> Result<Option<Vec<Span>>> {
    let passes: Vec<_> = passes.collect();
    let mut spans = Vec::with_capacity(passes.len());
    for passes in passes.chunks(Timer::MOST as usize) {
        let Some(mut timer) = Timer::new(gpu, passes.len() as u32) else { return Ok(None) };
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (label, steps) in passes {
            let mut pass = timer.pass(&mut encoder, label);
            let mut current = None;
            steps.iter().for_each(|step| step.encode(&mut pass, &mut current));
        }
        spans.extend(timer.submit(encoder)?);
    }
    Ok(Some(spans))
}

/// Folds `groups` workgroups into x and y, since one axis may be limited to 65,535. Kernels undo it as
/// `workgroup_id.y * num_workgroups.x + workgroup_id.x` and skip what lies beyond the end.
pub fn grid_1d(groups: u64, replicas: u32) -> [u32; 3] {
    const AXIS: u64 = 65_535;
    let groups = groups.max(1);
    let y = groups.div_ceil(AXIS);
    [groups.div_ceil(y) as u32, y as u32, replicas]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_fold_beyond_one_axis_and_cover_everything() {
        for groups in [1, 2, 65_535, 65_536, 200_000, 5_000_000_000 / 256] {
            let [x, y, z] = grid_1d(groups, 3);
            assert!(u64::from(x) * u64::from(y) >= groups && x <= 65_535 && y <= 65_535 && z == 3);
        }
    }
}
