//! How fast the engine is on a device: steps with and without instruments, single kernels, replicas side
//! by side, and the encoder. Times are the device's own where it has timestamps, wall clock otherwise;
//! what is compared is measured in turns, in one run.

mod cost;
mod tuning;

pub use cost::{Cost, Costs};
pub use tuning::tune;

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::autograd::gcd;
use crate::autograd::ops::{Copy, Linear};
use crate::autograd::{Bindings, Shape, Tape};
use crate::error::{Error, Result};
use crate::gpu::{Class, Gpu, Program, Select, Storage, Timer, Work};
use crate::instrument::{CostClass, registry};
use crate::record::Draft;
use crate::stats::median;
use crate::task::Task;
use crate::train::{ResolvedRun, Session};

/// A training set-up that is timed.
pub struct Workload {
    /// Name.
    pub name: &'static str,
    text: &'static str,
    /// What is set differently from the text.
    sets: &'static [&'static str],
}

const GROK: &str = include_str!("../cli/presets/grok.toml");

/// The workloads: two of modular addition, two of attention over long sequences.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "grok", text: GROK, sets: &[] },
    Workload { name: "grok-minibatch", text: GROK, sets: &["batch.size=512"] },
    Workload { name: "induction", text: include_str!("workloads/induction.toml"), sets: &[] },
    Workload { name: "small-lm", text: include_str!("workloads/small-lm.toml"), sets: &[] },
];

impl Workload {
    /// The workload of that name.
    ///
    /// # Errors
    /// [`Error::Config`] listing those there are.
    pub fn find(name: &str) -> Result<&'static Self> {
        WORKLOADS.iter().find(|workload| workload.name == name).ok_or_else(|| {
            let names: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
            Error::Config(format!("there is no workload {name}; there are {}", names.join(", ")))
        })
    }

    fn config(&self, replicas: u32) -> Result<ResolvedRun> {
        let mut sets = vec![format!("replicas={replicas}")];
        sets.extend(self.sets.iter().map(|set| (*set).to_owned()));
        Ok(Draft::new(self.text, &sets)?.setup()?.config)
    }

    /// A session of it, measured in that way.
    fn session(&self, gpu: &Gpu, replicas: u32, mode: &Mode) -> Result<Session> {
        let mut config = self.config(replicas)?.into_config();
        let cards = registry().into_iter().flat_map(|instrument| instrument.cards());
        let off = cards.filter(|card| !(mode.keep)(card.cost) && !mode.each_step.contains(&card.name));
        config.measure.off = off.map(|card| card.name.to_owned()).collect();
        config.measure.every.extend(mode.each_step.iter().map(|name| ((*name).to_owned(), 1)));
        Session::new(gpu, config.resolve()?)
    }

    /// The modes of these names, or all, that measure something of their own here: losses over a grid need a grid.
    fn modes(&self, names: &[String]) -> Result<Vec<&'static Mode>> {
        check_modes(names)?;
        let cyclic = self.config(1)?.task.cyclic().is_some();
        let asked = |mode: &&Mode| names.is_empty() || names.iter().any(|name| name == mode.name);
        Ok(MODES.iter().filter(asked).filter(|mode| cyclic || mode.each_step.is_empty()).collect())
    }
}

/// Which instruments run.
struct Mode {
    name: &'static str,
    /// At their own cadences.
    keep: fn(CostClass) -> bool,
    /// Metrics that are measured at every step besides.
    each_step: &'static [&'static str],
}

const CLASS_F: Mode = Mode { name: "class F", keep: |cost| cost == CostClass::F, each_step: &[] };
const EVERYTHING: Mode = Mode { name: "everything", keep: |_| true, each_step: &[] };
const MODES: &[Mode] = &[
    Mode { name: "no instruments", keep: |_| false, each_step: &[] },
    CLASS_F,
    Mode {
        name: "class F and full-grid losses",
        each_step: &["loss.test", "loss.restricted", "loss.excluded"],
        ..CLASS_F
    },
    Mode { name: "class F and L", keep: |cost| matches!(cost, CostClass::F | CostClass::L), each_step: &[] },
    EVERYTHING,
];

/// Fails where one of these is the name of no mode.
///
/// # Errors
/// [`Error::Config`] listing those there are.
pub fn check_modes(names: &[String]) -> Result<()> {
    match names.iter().find(|name| MODES.iter().all(|mode| mode.name != **name)) {
        Some(name) => {
            let known: Vec<&str> = MODES.iter().map(|mode| mode.name).collect();
            Err(Error::Config(format!("there is no mode {name:?}; there are {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

/// One timing.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was run.
    pub workload: String,
    /// In which way.
    pub mode: String,
    /// On which adapter.
    pub adapter: String,
    /// `device` (timestamps) or `wall`.
    pub timing: &'static str,
    /// Median over rounds, milliseconds for one step (or one run of a kernel).
    pub ms_per_step: f64,
    /// The same by the host's clock, from before the replays are encoded until the device is done: what a framework
    /// timed from outside is compared with. `None` where kernels are timed apart.
    pub wall_ms_per_step: Option<f64>,
    /// Fastest round.
    pub min: f64,
    /// Slowest round.
    pub max: f64,
    /// Floating-point operations of a step.
    pub flops: u64,
    /// Bytes a step touches, each tensor of each kernel once.
    pub bytes: u64,
    /// The larger of the shares of the peaks measured in the same run: operations by a large matrix
    /// product, bytes by a large copy.
    pub share_of_peak: f64,
    /// Kernels of a step.
    pub dispatches: f64,
    /// Bytes of device memory at the worst moment of the step: weights, gradients and moments, and
    /// activations as planned.
    pub memory: u64,
    /// Bytes planned for activations.
    pub activations: u64,
    /// Bytes of activations alive at the worst moment: no plan can need less.
    pub activations_least: u64,
    /// Replicas trained at once.
    pub replicas: u32,
}

/// What the device reached on one large product and one large copy.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Floating-point operations a second.
    pub flops: f64,
    /// Bytes a second, read and written.
    pub bytes: f64,
}

impl Peak {
    fn share(&self, work: Work, ms: f64) -> f64 {
        (work.flops as f64 / self.flops).max(work.bytes as f64 / self.bytes) / (ms * 1e-3)
    }
}

/// How long something took, in milliseconds.
#[derive(Clone, Copy)]
struct Took {
    /// By the device's clock, or else by the host's from submission on.
    ms: f64,
    /// By the host's clock, encoding included.
    wall: f64,
}

/// Times of one thing over the rounds, in milliseconds; by the host's clock as well, or not.
struct Times {
    ms: Vec<f64>,
    wall: Vec<f64>,
}

impl From<Vec<Took>> for Times {
    fn from(took: Vec<Took>) -> Self {
        Self { ms: took.iter().map(|took| took.ms).collect(), wall: took.iter().map(|took| took.wall).collect() }
    }
}

impl Times {
    fn line(self, gpu: &Gpu, workload: &str, mode: &str, work: Work, peak: &Peak) -> Line {
        let (min, max) = self.ms.iter().fold((f64::MAX, f64::MIN), |(min, max), ms| (min.min(*ms), max.max(*ms)));
        let median_ms = median(self.ms);
        Line {
            workload: workload.to_owned(),
            mode: mode.to_owned(),
            adapter: gpu.caps().name.clone(),
            timing: if gpu.caps().timestamp_period.is_some() { "device" } else { "wall" },
            ms_per_step: median_ms,
            wall_ms_per_step: (!self.wall.is_empty()).then(|| median(self.wall)),
            min,
            max,
            flops: work.flops,
            bytes: work.bytes,
            share_of_peak: peak.share(work, median_ms),
            dispatches: 0.0,
            memory: 0,
            activations: 0,
            activations_least: 0,
            replicas: 1,
        }
    }

    /// The line of a session's step.
    fn step(self, gpu: &Gpu, workload: &Workload, mode: &Mode, timed: (&Session, &Cadenced), peak: &Peak) -> Line {
        let (session, cadenced) = timed;
        let program = session.program();
        let (state, activations, activations_least) = session.memory();
        Line {
            dispatches: cadenced.mean(|select| program.dispatches(select) as f64),
            memory: state + activations,
            activations,
            activations_least,
            replicas: session.config().replicas,
            ..self.line(gpu, workload.name, mode.name, cadenced.work(program), peak)
        }
    }
}

fn replay(pass: &mut wgpu::ComputePass<'_>, program: &Program, select: Select, count: u32) {
    for _ in 0..count {
        program.encode(pass, select);
    }
}

/// Time of one replay, from `count` of them in one submission.
fn time(gpu: &Gpu, program: &Program, select: Select, count: u32) -> Result<Took> {
    gpu.wait()?;
    let began = Instant::now();
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let ms = match Timer::new(gpu, 1) {
        Some(mut timer) => {
            {
                let mut pass = timer.pass(&mut encoder, "replays");
                replay(&mut pass, program, select, count);
            }
            timer.submit(encoder)?.iter().map(|span| span.ms).sum()
        }
        None => {
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                replay(&mut pass, program, select, count);
            }
            let buffer = encoder.finish();
            let submitted = Instant::now();
            gpu.queue().submit([buffer]);
            gpu.wait()?;
            submitted.elapsed().as_secs_f64() * 1e3
        }
    };
    let wall = began.elapsed().as_secs_f64() * 1e3;
    gpu.check()?;
    Ok(Took { ms: ms / f64::from(count), wall: wall / f64::from(count) })
}

/// A replay this long, in milliseconds, is not repeated to see how many fit: its warm-up tells.
const LONG: f64 = 60_000.0;

/// Replays that take about `ms` together, after a warm-up.
fn fitting(gpu: &Gpu, program: &Program, select: Select, ms: f64) -> Result<u32> {
    if time(gpu, program, select, 1)?.ms > LONG.max(ms) {
        return Ok(1);
    }
    let one = time(gpu, program, select, 1)?.ms;
    Ok((ms / one.max(1e-3)).clamp(1.0, 1000.0) as u32)
}

/// Mean milliseconds of a step whose instruments run at their cadences: each set of kernels that is due
/// together is timed alone, and weighted by how often it is due.
struct Cadenced {
    /// A step that stands for its set, and the share of steps it stands for.
    sets: Vec<(Select, f64, u32)>,
}

impl Cadenced {
    fn new(gpu: &Gpu, program: &Program, ms: f64) -> Result<Self> {
        let cadences = program.cadences();
        let period = cadences.iter().fold(1, |all, every| all / gcd(all, *every) * every);
        let mut sets: Vec<(Vec<bool>, u64, u64)> = Vec::new();
        for step in 0..period.min(100_000) {
            let due: Vec<bool> = cadences.iter().map(|every| step % every == 0).collect();
            match sets.iter_mut().find(|(known, _, _)| *known == due) {
                Some((_, _, count)) => *count += 1,
                None => sets.push((due, step, 1)),
            }
        }
        let all: u64 = sets.iter().map(|(_, _, count)| count).sum();
        let sets = sets.into_iter().map(|(_, step, count)| {
            let select = Select { step, update: true };
            let share = count as f64 / all as f64;
            Ok((select, share, fitting(gpu, program, select, ms * share)?))
        });
        Ok(Self { sets: sets.collect::<Result<_>>()? })
    }

    fn time(&self, gpu: &Gpu, program: &Program) -> Result<Took> {
        self.sets.iter().try_fold(Took { ms: 0.0, wall: 0.0 }, |all, (select, share, count)| {
            let took = time(gpu, program, *select, *count)?;
            Ok(Took { ms: all.ms + share * took.ms, wall: all.wall + share * took.wall })
        })
    }

    fn mean(&self, of: impl Fn(Select) -> f64) -> f64 {
        self.sets.iter().map(|(select, share, _)| share * of(*select)).sum()
    }

    fn work(&self, program: &Program) -> Work {
        Work {
            flops: self.mean(|select| program.work(select).flops as f64) as u64,
            bytes: self.mean(|select| program.work(select).bytes as f64) as u64,
        }
    }
}

/// Milliseconds one round of one thing shall take.
const ROUND: f64 = 300.0;

/// A product of two matrices, as a program, in f32 or in f16.
fn product(gpu: &Gpu, [m, n, k]: [usize; 3], halves: bool) -> Result<Program> {
    let mut tape = Tape::new(1);
    let (x, w) = (tape.input("x", Shape::f32(&[m, k])), tape.input("w", Shape::f32(&[k, n])));
    let y = tape.in_halves(halves, |tape| tape.push1(Linear::default(), &[x, w]))?;
    let mut bindings = Bindings::new();
    for (var, len) in [(x, m * k), (w, k * n), (y, m * n)] {
        bindings.bind(var, Storage::whole(&gpu.buffer(Class::Data, len as u64)?, len as u64));
    }
    tape.compile(gpu, &bindings)
}

fn copy(gpu: &Gpu, len: usize) -> Result<Program> {
    let mut tape = Tape::new(1);
    let x = tape.input("x", Shape::f32(&[len]));
    let y = tape.push1(Copy, &[x])?;
    let mut bindings = Bindings::new();
    for var in [x, y] {
        bindings.bind(var, Storage::whole(&gpu.buffer(Class::Data, len as u64)?, len as u64));
    }
    tape.compile(gpu, &bindings)
}

const STEP: Select = Select { step: 0, update: true };

/// Side of the large product: what fills the device for a moment.
fn side(gpu: &Gpu) -> usize {
    if gpu.caps().is_software() { 1024 } else { 4096 }
}

fn large_copy(gpu: &Gpu) -> usize {
    let room = (gpu.caps().max_binding / 4) as usize;
    room.min(if gpu.caps().is_software() { 16 << 20 } else { 64 << 20 })
}

/// Measures the peaks.
///
/// # Errors
/// Where the device fails.
pub fn peak(gpu: &Gpu) -> Result<Peak> {
    let best = |program: &Program| -> Result<f64> {
        let count = fitting(gpu, program, STEP, ROUND / 3.0)?;
        (0..5).map(|_| time(gpu, program, STEP, count)).try_fold(f64::MAX, |best, took| Ok(best.min(took?.ms)))
    };
    let n = side(gpu);
    let (matrix, stream) = (product(gpu, [n, n, n], false)?, copy(gpu, large_copy(gpu))?);
    Ok(Peak {
        flops: matrix.work(STEP).flops as f64 / (best(&matrix)? * 1e-3),
        bytes: stream.work(STEP).bytes as f64 / (best(&stream)? * 1e-3),
    })
}

/// One workload's step with more and more instruments, in turns; of the modes of these names, or of all.
///
/// # Errors
/// Where the workload does not fit the device, or it fails.
pub fn steps(gpu: &Gpu, workload: &Workload, peak: &Peak, rounds: u32, modes: &[String]) -> Result<Vec<Line>> {
    let modes = workload.modes(modes)?;
    let sessions = modes.iter().map(|mode| workload.session(gpu, 1, mode)).collect::<Result<Vec<_>>>()?;
    let cadenced = sessions.iter().map(|s| Cadenced::new(gpu, s.program(), ROUND)).collect::<Result<Vec<_>>>()?;
    let mut times: Vec<Vec<Took>> = vec![Vec::new(); modes.len()];
    for _ in 0..rounds.max(1) {
        for ((session, cadenced), times) in sessions.iter().zip(&cadenced).zip(&mut times) {
            times.push(cadenced.time(gpu, session.program())?);
        }
    }
    let timed = modes.into_iter().zip(sessions.iter().zip(&cadenced)).zip(times);
    Ok(timed.map(|((mode, timed), times)| Times::from(times).step(gpu, workload, mode, timed, peak)).collect())
}

/// Shapes of products that matter: square ones, and those of the workloads.
const SHAPES: &[[usize; 3]] =
    &[[256, 256, 256], [1024, 1024, 1024], [12769, 128, 128], [3830, 512, 128], [128, 512, 3830], [4096, 256, 1024]];

/// Single kernels: products of several shapes, the large one in f16 too where the device has proved able
/// ([`verify_cooperative`](crate::autograd::verify_cooperative)), and a large copy. Shares are of the peak in f32.
///
/// # Errors
/// Where the device fails.
pub fn kernels(gpu: &Gpu, peak: &Peak, rounds: u32) -> Result<Vec<Line>> {
    let mut programs = Vec::new();
    let n = side(gpu);
    for shape in SHAPES.iter().copied().chain((n > 1024).then_some([n, n, n])) {
        programs.push((format!("product {}x{}x{}", shape[0], shape[1], shape[2]), product(gpu, shape, false)?));
    }
    if gpu.cooperative().is_some() {
        programs.push((format!("product {n}x{n}x{n} f16"), product(gpu, [n, n, n], true)?));
    }
    let len = large_copy(gpu);
    programs.push((format!("copy of {}", crate::gpu::Bytes(len as u64 * 4)), copy(gpu, len)?));
    let mut timed = Vec::new();
    for (name, program) in &programs {
        let count = fitting(gpu, program, STEP, ROUND / 3.0)?;
        let times = (0..rounds.max(1)).map(|_| time(gpu, program, STEP, count)).collect::<Result<Vec<_>>>()?;
        let label = program.labels(STEP).join(", ");
        timed.push(Line { dispatches: 1.0, ..Times::from(times).line(gpu, name, &label, program.work(STEP), peak) });
    }
    Ok(timed)
}

/// Where a workload's step spends its time: each kernel in a pass of its own, with everything due.
///
/// # Errors
/// Where the device fails; [`Error::Unsupported`] where it has no timestamps.
pub fn profile(gpu: &Gpu, workload: &Workload, peak: &Peak, rounds: u32) -> Result<Vec<Line>> {
    let session = workload.session(gpu, 1, &EVERYTHING)?;
    let program = session.program();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); program.dispatches(STEP)];
    for round in 0..=rounds.max(1) {
        let spans = program.time_kernels(gpu, STEP)?;
        let spans = spans.ok_or_else(|| Error::Unsupported("single kernels of a step need timestamps".to_owned()))?;
        // The first round warms up.
        for (times, span) in times.iter_mut().zip(&spans).filter(|_| round > 0) {
            times.push(span.ms);
        }
    }
    let labels = program.labels(STEP);
    let works = program.works(STEP);
    let lines = labels.iter().zip(times).zip(works);
    Ok(lines
        .map(|((label, times), work)| Times { ms: times, wall: Vec::new() }.line(gpu, workload.name, label, work, peak))
        .collect())
}

/// What each instrument costs in a workload's step: the median of `rounds` replays.
///
/// # Errors
/// Where the device fails; [`Error::Unsupported`] where it has no timestamps.
pub fn instruments(gpu: &Gpu, workload: &Workload, rounds: u32) -> Result<Costs> {
    costs(gpu, &workload.session(gpu, 1, &EVERYTHING)?, rounds)
}

/// What each instrument costs in a session's step: the median of `rounds` replays, which train it on.
///
/// # Errors
/// As [`instruments`].
pub fn costs(gpu: &Gpu, session: &Session, rounds: u32) -> Result<Costs> {
    Costs::measure(gpu, session, rounds, Duration::MAX)?
        .ok_or_else(|| Error::Unsupported("the cost of single instruments needs timestamps".to_owned()))
}

/// A workload with 1, 2, 4, ... replicas in one program, until `most` or until memory ends.
///
/// # Errors
/// Where the device fails.
pub fn replicas(gpu: &Gpu, workload: &Workload, peak: &Peak, rounds: u32, most: u32) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    let mut count = 1;
    while count <= most {
        let session = match workload.session(gpu, count, &CLASS_F) {
            Ok(session) => session,
            Err(Error::Limit(_)) if !lines.is_empty() => break,
            Err(error) => return Err(error),
        };
        let program = session.program();
        let cadenced = Cadenced::new(gpu, program, ROUND)?;
        let times = (0..rounds.max(1)).map(|_| cadenced.time(gpu, program)).collect::<Result<Vec<_>>>()?;
        lines.push(Times::from(times).step(gpu, workload, &CLASS_F, (&session, &cadenced), peak));
        count *= 2;
    }
    Ok(lines)
}

/// CPU time of encoding a workload's common step, in microseconds for each dispatch: median over rounds.
///
/// # Errors
/// Where the workload does not fit the device.
pub fn encode(gpu: &Gpu, workload: &Workload, rounds: u32) -> Result<Line> {
    let session = workload.session(gpu, 1, &EVERYTHING)?;
    let select = Select { step: 1, update: true };
    let program = session.program();
    let times = (0..=rounds.max(1)).map(|_| {
        let began = Instant::now();
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            replay(&mut pass, program, select, 16);
        }
        drop(encoder.finish());
        began.elapsed().as_secs_f64() * 1e3 / 16.0
    });
    let times: Vec<f64> = times.skip(1).collect();
    let none = Peak { flops: f64::INFINITY, bytes: f64::INFINITY };
    let line = Times { ms: times.clone(), wall: times }.line(gpu, workload.name, "encode", program.work(select), &none);
    Ok(Line { timing: "wall", dispatches: program.dispatches(select) as f64, ..line })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_steps_say_what_ran_and_what_memory_it_took() {
        let gpu = Gpu::noop();
        let peak = Peak { flops: 1e12, bytes: 1e11 };
        let lines = |name: &str| steps(&gpu, Workload::find(name).unwrap(), &peak, 1, &[]).unwrap();
        let modes = |lines: &[Line]| lines.iter().map(|line| line.mode.clone()).collect::<Vec<_>>();
        let grok = lines("grok-minibatch");
        let names = ["no instruments", "class F", "class F and full-grid losses", "class F and L", "everything"]
            .map(String::from);
        assert_eq!(modes(&grok), names);
        let induction = lines("induction");
        assert_eq!(modes(&induction), [&names[..2], &names[3..]].concat(), "sequences have no grid");
        for line in grok.iter().chain(&induction) {
            let line = serde_json::to_value(line).unwrap();
            for field in ["workload", "mode", "adapter", "timing"] {
                assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {line}");
            }
            let number = |field: &str| line[field].as_f64().unwrap_or_else(|| panic!("{field} of {line}"));
            for field in ["flops", "bytes", "share_of_peak", "dispatches"] {
                assert!(number(field) > 0.0, "{field} of {line}");
            }
            assert!(number("min") <= number("ms_per_step") && number("ms_per_step") <= number("max"), "{line}");
            let [least, planned, all] = ["activations_least", "activations", "memory"].map(number);
            assert!(0.0 < least && least <= planned && planned < all, "{line}");
        }
    }

    #[test]
    fn full_grid_losses_are_measured_at_every_step() {
        let mode = MODES.iter().find(|mode| mode.name == "class F and full-grid losses").unwrap();
        let session = Workload::find("grok-minibatch").unwrap().session(&Gpu::noop(), 1, mode).unwrap();
        let dear = session.metrics().iter().filter(|metric| metric.card.cost != CostClass::F);
        let mut dear: Vec<(&str, u64)> = dear.map(|metric| (metric.card.name, metric.every)).collect();
        dear.dedup();
        assert_eq!(dear, [("loss.test", 1), ("loss.restricted", 1), ("loss.excluded", 1)]);
    }

    #[test]
    fn the_step_of_grok_with_its_panel_takes_thirty_dispatches() {
        // All that is measured at every step, whatever its class.
        let panel = Mode { each_step: &["fourier_norm", "gini", "key_frequencies"], ..CLASS_F };
        let session = Workload::find("grok").unwrap().session(&Gpu::noop(), 1, &panel).unwrap();
        assert!(session.metrics().iter().any(|metric| metric.card.name == "gini" && metric.every == 1));
        let kernels = session.program().labels(Select { step: 1, update: true });
        assert!(kernels.len() <= 30, "{}: {kernels:#?}", kernels.len());
    }

    #[test]
    fn activations_fit_into_little_more_than_the_least() {
        for workload in WORKLOADS {
            let session = workload.session(&Gpu::noop(), 1, &EVERYTHING).unwrap();
            let (_, planned, least) = session.memory();
            let ratio = planned as f64 / least as f64;
            assert!(ratio <= 1.25, "{}: {planned} bytes planned, {least} alive at once: {ratio:.3}", workload.name);
        }
    }
}
