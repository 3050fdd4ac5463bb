//! The optimizers on the device against their textbooks, and what is measured of them against closed forms.

use super::config::{OptimizerConfig, OptimizerKind, ScheduleConfig, ScheduleKind};
use super::optimizer::{Hyper, State, Step};
use crate::autograd::{Bindings, Shape, Tape};
use crate::gpu::{Class, Gpu, Philox, Program, Select, Storage, Stream, read_now};
use crate::instrument::{CLOCK, FileRow, STAMP, UNKNOWN, UpdateSummary};
use crate::model::{ModelConfig, WeightTable};

const REPLICAS: usize = 2;
const STEPS: u64 = 8;

/// One parameter as PyTorch's documentation writes AdamW, Adam (decay as L2) and SGD with momentum.
struct Textbook {
    w: f64,
    m: f64,
    v: f64,
}

impl Textbook {
    fn step(&mut self, config: &OptimizerConfig, rate: f64, decay: f64, g: f64, t: i32) {
        let [b1, b2] = config.betas;
        if config.kind == OptimizerKind::Sgd {
            self.m = config.momentum * self.m + g + decay * self.w;
            self.w -= rate * self.m;
            return;
        }
        let l2 = if config.kind == OptimizerKind::Adam { decay * self.w } else { 0.0 };
        if config.kind == OptimizerKind::Adamw {
            self.w -= rate * decay * self.w;
        }
        self.m = b1 * self.m + (1.0 - b1) * (g + l2);
        self.v = b2 * self.v + (1.0 - b2) * (g + l2) * (g + l2);
        let (m, v) = (self.m / (1.0 - b1.powi(t)), self.v / (1.0 - b2.powi(t)));
        self.w -= rate * m / (v.sqrt() + config.eps);
    }
}

fn rate(config: &OptimizerConfig, schedule: &ScheduleConfig, step: u64) -> f64 {
    config.learning_rate * schedule.share(step, 0)
}

fn floats(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f32> {
    read_now(gpu, buffer, 0..buffer.size()).unwrap().into_iter().map(f32::from_bits).collect()
}

/// An optimizer alone on a device: weights and gradients are whatever a test says.
struct Rig {
    gpu: Gpu,
    table: WeightTable,
    decays: Vec<bool>,
    program: Program,
    weights: wgpu::Buffer,
    grads: wgpu::Buffer,
    moments: [wgpu::Buffer; 2],
    summary: wgpu::Buffer,
    /// What the loss is scaled by, and its inverse, where it is.
    scale: Vec<wgpu::Buffer>,
}

impl Rig {
    fn new(gpu: &Gpu, configs: &[OptimizerConfig; REPLICAS], schedule: &ScheduleConfig) -> Self {
        Self::scaled(gpu, configs, schedule, None, None)
    }

    /// With a loss that is scaled by so much in each replica, on a device that binds so many elements of the last one.
    fn scaled(
        gpu: &Gpu,
        configs: &[OptimizerConfig; REPLICAS],
        schedule: &ScheduleConfig,
        scale: Option<[f32; REPLICAS]>,
        room: Option<usize>,
    ) -> Self {
        let model = ModelConfig { d_model: 6, n_heads: 2, d_vocab: 5, d_vocab_out: 7, n_ctx: 3, ..Default::default() };
        let table = WeightTable::new(&model.resolve().unwrap());
        let decays: Vec<bool> = (0..table.specs().len()).map(|tensor| tensor % 3 != 1).collect();
        let len = table.len();
        let mut tape = Tape::new(REPLICAS as u32);
        let state = State {
            weights: tape.input("weights", Shape::f32(&[len])),
            grads: tape.input("gradients", Shape::f32(&[len])),
            first: tape.input("first", Shape::f32(&[len])),
            second: tape.input("second", Shape::f32(&[len])),
            hyper: tape.input("hyper", Shape::f32(&[Hyper::LEN])),
            clock: tape.input("clock", Shape::u32(&[CLOCK]).shared()),
            scale: scale.map(|_| {
                let mut input = |name| tape.input(name, Shape::f32(&[1]));
                (input("scale"), input("inverse"))
            }),
        };
        let (kind, clip) = (configs[0].kind, configs[0].clip > 0.0);
        let binding = room.map_or(u64::MAX, |room| 4 * ((REPLICAS - 1) * len + room) as u64);
        let step = Step { table: &table, decays: &decays, kind, clip, trains: true, binding };
        let out = step.append(&mut tape, state).unwrap();
        let row = tape.constant(&[1], &[0.0]);
        let ring = tape.input("ring", Shape::f32(&[1, 1 + STAMP]).shared());
        tape.effect(FileRow { slots: 1 }, &[row, ring, state.clock]).unwrap();
        let hyper: Vec<Hyper> = configs.iter().map(|config| Hyper::new(config, schedule, 1)).collect();
        let zeros = |class| gpu.upload(class, &vec![0.0f32; REPLICAS * len]).unwrap();
        let [weights, grads, first, second] =
            [Class::Weights, Class::Gradients, Class::Optimizer, Class::Optimizer].map(zeros);
        let numbers = table.specs().len() * UpdateSummary::COLUMNS;
        let summary = gpu.buffer(Class::Metrics, (REPLICAS * numbers) as u64).unwrap();
        let mut bindings = Bindings::new();
        for (var, buffer, stride) in [
            (state.weights, &weights, len),
            (state.grads, &grads, len),
            (state.first, &first, len),
            (state.second, &second, len),
            (state.hyper, &gpu.upload(Class::State, bytemuck::cast_slice::<Hyper, f32>(&hyper)).unwrap(), Hyper::LEN),
            (state.clock, &gpu.upload(Class::State, &[0u32; CLOCK]).unwrap(), 0),
            (ring, &gpu.buffer(Class::Metrics, (1 + STAMP) as u64).unwrap(), 0),
            (out.tensors, &summary, numbers),
        ] {
            bindings.bind(var, Storage::whole(buffer, stride as u64));
        }
        let mut scale_buffers = Vec::new();
        if let (Some((scale, inverse)), Some(values)) = (state.scale, scale) {
            for (var, values) in [(scale, values), (inverse, values.map(|x| 1.0 / x))] {
                let buffer = gpu.upload(Class::State, &values).unwrap();
                bindings.bind(var, Storage::whole(&buffer, 1));
                scale_buffers.push(buffer);
            }
        }
        let program = tape.compile(gpu, &bindings).unwrap();
        program.poison(gpu);
        let moments = [first, second];
        Self { gpu: gpu.clone(), table, decays, program, weights, grads, moments, summary, scale: scale_buffers }
    }

    /// Numbers for every parameter of every replica, from its replica, tensor and place in the tensor; gaps
    /// between tensors are zero, as a session has them.
    fn fill(&self, mut value: impl FnMut(usize, usize, usize) -> f32) -> Vec<f32> {
        let mut data = vec![0.0f32; REPLICAS * self.table.len()];
        for (r, replica) in data.chunks_exact_mut(self.table.len()).enumerate() {
            for (t, spec) in self.table.specs().iter().enumerate() {
                for (i, x) in replica[spec.offset..][..spec.len()].iter_mut().enumerate() {
                    *x = value(r, t, i);
                }
            }
        }
        data
    }

    fn write(&self, buffer: &wgpu::Buffer, data: &[f32]) {
        self.gpu.queue().write_buffer(buffer, 0, bytemuck::cast_slice(data));
    }

    /// Replays step `step` alone.
    fn replay(&self, step: u64, update: bool) {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.program.encode(&mut encoder.begin_compute_pass(&Default::default()), Select { step, update });
        self.gpu.queue().submit([encoder.finish()]);
    }

    /// The last summary of each replica and tensor.
    fn summary(&self) -> Vec<Vec<Vec<f32>>> {
        let numbers = floats(&self.gpu, &self.summary);
        let tensors: Vec<Vec<f32>> = numbers.chunks_exact(UpdateSummary::COLUMNS).map(<[f32]>::to_vec).collect();
        tensors.chunks_exact(self.table.specs().len()).map(<[Vec<f32>]>::to_vec).collect()
    }
}

/// What a tensor's summary should be, from one parameter after the other.
#[derive(Default)]
struct Expected {
    sums: [f64; 8],
    elements: f64,
    decay: f64,
}

impl Expected {
    /// A parameter's weight and gradient before, what was added to it, what the gradient pushed, and
    /// whether its second moment is tiny. `decay` is rate times decay.
    fn add(&mut self, [w, g, delta, push]: [f64; 4], tiny: bool, decay: f64) {
        let terms = [w * w, g * g, delta * delta, w * push, push * push, g * delta, f64::from(tiny), w * delta];
        for (sum, term) in self.sums.iter_mut().zip(terms) {
            *sum += term;
        }
        self.elements += 1.0;
        self.decay = decay;
    }

    fn columns(&self, kind: OptimizerKind) -> [f64; UpdateSummary::COLUMNS] {
        let [ww, gg, dd, wp, pp, gd, tiny, wd] = self.sums;
        let decay = self.decay * ww.sqrt();
        let step = if kind == OptimizerKind::Adamw { pp } else { dd };
        [
            ww.sqrt(),
            gg.sqrt(),
            dd.sqrt(),
            (dd / ww).sqrt(),
            (step / self.elements).sqrt(),
            decay / (decay + pp.sqrt()),
            -wp / (ww * pp).sqrt(),
            gd,
            tiny / self.elements,
            wd / ww,
            wp / ww,
            ((dd - wd * wd / ww).max(0.0) / ww).sqrt(),
        ]
    }
}

fn close(got: f32, want: f64, tolerance: f64, what: &str) {
    assert!((f64::from(got) - want).abs() <= tolerance * want.abs().max(1.0), "{what}: {got} for {want}");
}

/// A summary whose right angles are numbers: where one is unknown it must be small beside the step, and is taken to be none.
fn known(found: &[f32], right_angle: f64) -> Vec<f32> {
    let mut found = found.to_vec();
    let step = found[UpdateSummary::UPDATE_RATIO];
    if found[UpdateSummary::ORTHOGONAL] == UNKNOWN {
        assert!(right_angle < 1.2e-3 * f64::from(step), "{right_angle} of {step} is known");
        found[UpdateSummary::ORTHOGONAL] = 0.0;
    }
    found
}

fn follow(gpu: &Gpu, configs: &[OptimizerConfig; REPLICAS], schedule: &ScheduleConfig) {
    let rig = Rig::new(gpu, configs, schedule);
    let (kind, len) = (configs[0].kind, rig.table.len());
    let apart = Rig::scaled(gpu, configs, schedule, None, Some(len / 3));
    let updates = |rig: &Rig| {
        rig.program.labels(Select { step: 0, update: true }).iter().filter(|l| l.starts_with("update")).count()
    };
    assert!(updates(&rig) == 1 && updates(&apart) >= 3, "{}", updates(&apart));
    let mut draws = 0;
    let mut normal = |scale: f64| {
        draws += 1;
        (scale * Philox::new(7, Stream::Weights, 0).normals(draws)[0]) as f32
    };
    let before = rig.fill(|_, _, _| normal(0.5));
    rig.write(&rig.weights, &before);
    apart.write(&apart.weights, &before);
    let mut truth: Vec<Textbook> = before.iter().map(|w| Textbook { w: f64::from(*w), m: 0.0, v: 0.0 }).collect();
    let (mut expected, mut left) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let gradient = rig.fill(|_, _, _| normal(0.1 + step as f64));
        rig.write(&rig.grads, &gradient);
        left = floats(gpu, &rig.weights);
        rig.replay(step, true);
        apart.write(&apart.grads, &gradient);
        apart.replay(step, true);
        expected.clear();
        for (replica, config) in configs.iter().enumerate() {
            let rate = rate(config, schedule, step);
            let own = &gradient[replica * len..][..len];
            let norm = own.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let factor = if config.clip > 0.0 { (config.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
            for (spec, decays) in rig.table.specs().iter().zip(&rig.decays) {
                let decay = if *decays { config.weight_decay } else { 0.0 };
                let mut tensor = Expected::default();
                for i in spec.offset..spec.offset + spec.len() {
                    let (g, at) = (f64::from(own[i]), &mut truth[replica * len + i]);
                    let w = at.w;
                    at.step(config, rate, decay, g * factor, step as i32 + 1);
                    let delta = at.w - w;
                    let push = match kind {
                        OptimizerKind::Adamw => delta + rate * decay * w,
                        _ => -rate * g * factor,
                    };
                    tensor.add([w, g, delta, push], false, rate * decay);
                }
                expected.push(tensor.columns(kind));
            }
        }
    }
    // Eight steps of rounding to 24 bits, each at most a few units in the last place of numbers near 1.
    let moved = floats(gpu, &rig.weights);
    for (at, truth) in truth.iter().enumerate() {
        close(moved[at], truth.w, 3e-6, &format!("{kind:?} weight {at}"));
    }
    // Weights that are walked in parts get the same bits.
    let state =
        |rig: &Rig| [&rig.weights, &rig.moments[0], &rig.moments[1], &rig.summary].map(|buffer| floats(gpu, buffer));
    assert_eq!(state(&apart), state(&rig));
    // The gradient is as it came, the weights are those before the last update. Differences of 0.01 between
    // weights near 1 that round at 6e-8, times gradients near 10.
    for (found, expected) in rig.summary().concat().iter().zip(&expected) {
        let found = known(found, expected[UpdateSummary::ORTHOGONAL]);
        for (column, (found, expected)) in found.iter().zip(expected).enumerate() {
            close(*found, *expected, 2e-5, &format!("{kind:?} summary column {column}"));
        }
    }
    // A step along the weights and one at right angles to them account for what became of the norm. Moves of
    // 0.01 of the weights; their shares are known to 1e-5, the sums to 1e-6.
    for (replica, tensors) in rig.summary().iter().enumerate() {
        for (found, spec) in tensors.iter().zip(rig.table.specs()) {
            let squares = |data: &[f32]| {
                let own = &data[replica * len + spec.offset..][..spec.len()];
                own.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>()
            };
            let found = known(found, 0.0);
            let [r, o] = [UpdateSummary::RADIAL, UpdateSummary::ORTHOGONAL].map(|column| f64::from(found[column]));
            let growth = (1.0 + r).powi(2) + o * o - 1.0;
            close(growth as f32, squares(&moved) / squares(&left) - 1.0, 1e-6, &format!("{kind:?} {}", spec.name));
        }
    }
    // Measuring moves nothing.
    rig.replay(0, false);
    assert_eq!(floats(gpu, &rig.weights), moved);
}

#[test]
fn every_optimizer_follows_its_textbook() {
    let schedules = [
        ScheduleConfig { warmup: 3, steps: 1, ..Default::default() },
        ScheduleConfig { kind: ScheduleKind::Cosine, warmup: 2, steps: 6, floor: 0.1 },
    ];
    for gpu in crate::autograd::check::gpus() {
        for kind in [OptimizerKind::Adamw, OptimizerKind::Adam, OptimizerKind::Sgd] {
            for (schedule, clip) in schedules.iter().zip([0.0, 2.5]) {
                let config = OptimizerConfig { kind, clip, learning_rate: 0.01, ..Default::default() };
                let other =
                    OptimizerConfig { learning_rate: 0.003, weight_decay: 0.2, betas: [0.8, 0.95], ..config.clone() };
                follow(gpu, &[config, other], schedule);
            }
        }
    }
}

/// AdamW at a rate of 0.001, and the same with a decay of its own in replica 1.
fn adamw(decays: [f64; 2]) -> [OptimizerConfig; REPLICAS] {
    decays.map(|weight_decay| OptimizerConfig {
        kind: OptimizerKind::Adamw,
        learning_rate: 1e-3,
        weight_decay,
        ..Default::default()
    })
}

#[test]
fn decay_alone_halves_the_weights_in_693_steps() {
    for gpu in crate::autograd::check::gpus() {
        let rig = Rig::new(gpu, &adamw([1.0, 0.0]), &ScheduleConfig::default());
        rig.write(&rig.weights, &rig.fill(|_, _, i| 1.0 + i as f32));
        for step in 0..694 {
            rig.replay(step, true);
        }
        let norm = |n: usize| (1..=n).map(|i| (i * i) as f64).sum::<f64>().sqrt();
        for (replica, tensors) in rig.summary().iter().enumerate() {
            for ((found, spec), decays) in tensors.iter().zip(rig.table.specs()).zip(&rig.decays) {
                let decayed = replica == 0 && *decays;
                // 693 updates were made before the last; each rounds by up to half a unit of 6e-8.
                let left = if decayed { (1.0f64 - 1e-3).powi(693) } else { 1.0 };
                assert!(!decayed || (left - 0.5).abs() < 2e-4);
                close(found[UpdateSummary::WEIGHT_NORM] / norm(spec.len()) as f32, left, 4e-5, &spec.name);
                let decayed = f32::from(u8::from(decayed));
                assert_eq!(found[UpdateSummary::DECAY_SHARE], decayed, "{}", spec.name);
                // A change of 1e-3 of a weight is known to 6e-5 of itself.
                close(found[UpdateSummary::UPDATE_RATIO] * 1e3, f64::from(decayed), 1e-4, &spec.name);
                close(found[UpdateSummary::RADIAL] * 1e3, f64::from(-decayed), 1e-4, &spec.name);
                // Nothing pushes, no moment was ever filled.
                for column in [
                    UpdateSummary::STEP_SIZE,
                    UpdateSummary::DECAY_COSINE,
                    UpdateSummary::LOSS_CHANGE,
                    UpdateSummary::RADIAL_GRADIENT,
                    UpdateSummary::ORTHOGONAL,
                ] {
                    assert_eq!(found[column], 0.0);
                }
                assert_eq!(found[UpdateSummary::EPSILON_SHARE], 1.0);
            }
        }
    }
}

#[test]
fn a_constant_gradient_moves_adam_by_the_learning_rate() {
    for gpu in crate::autograd::check::gpus() {
        let rig = Rig::new(gpu, &adamw([0.5, 0.25]), &ScheduleConfig::default());
        // Weights of one size and their gradients have the same sign, so both forces point to the origin; every
        // third gradient is far below eps = 1e-8, where the step is g / (|g| + eps) of the rate.
        let sign = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
        let size = |i: usize| if i.is_multiple_of(3) { 1e-10 } else { 0.3 };
        rig.write(&rig.weights, &rig.fill(|_, _, i| sign(i) * 2.0));
        rig.write(&rig.grads, &rig.fill(|_, t, i| sign(i) * if t == 0 { size(i) } else { 0.3 }));
        for step in 0..20 {
            // The same weights every time: only the moments go on.
            rig.write(&rig.weights, &rig.fill(|_, _, i| sign(i) * 2.0));
            rig.replay(step, true);
        }
        for (replica, tensors) in rig.summary().iter().enumerate() {
            let decay = [0.5, 0.25][replica];
            for (t, ((found, spec), decays)) in tensors.iter().zip(rig.table.specs()).zip(&rig.decays).enumerate() {
                let mut expected = Expected::default();
                let decay = if *decays { 1e-3 * decay } else { 0.0 };
                for i in 0..spec.len() {
                    let g = f64::from(if t == 0 { size(i) } else { 0.3 });
                    let push = -1e-3 * g / (g + 1e-8);
                    expected.add([2.0, g, push - decay * 2.0, push], g < 1e-8, decay);
                }
                let expected = expected.columns(OptimizerKind::Adamw);
                // Equal pushes on equal weights: no right angle can be told.
                assert_eq!(found[UpdateSummary::ORTHOGONAL] == UNKNOWN, t > 0, "{}", spec.name);
                let found = known(found, expected[UpdateSummary::ORTHOGONAL]);
                // Updates of 1e-3 of weights near 2, which round at 1.2e-7.
                for (column, want) in expected.into_iter().enumerate() {
                    // The step is 5e-4 of the weights and nearly radial: the rest is known to 1e-3 of it, 2e-4 of 2.5e-3.
                    let scale = match column {
                        UpdateSummary::ORTHOGONAL => 2.5e-3,
                        _ if want == 0.0 => 1.0,
                        _ => want,
                    };
                    close(found[column] / scale as f32, want / scale, 2e-4, &format!("column {column}, {}", spec.name));
                }
                if t > 0 {
                    close(found[UpdateSummary::STEP_SIZE] * 1e3, 1.0, 1e-5, &spec.name);
                    close(found[UpdateSummary::DECAY_COSINE], 1.0, 1e-5, &spec.name);
                }
            }
        }
    }
}

#[test]
fn planted_updates_drift_as_they_were_planted() {
    const RATE: f64 = 0.01;
    const DECAY: f64 = 0.5;
    let config = |kind, weight_decay| OptimizerConfig {
        kind,
        learning_rate: RATE,
        weight_decay,
        momentum: 0.0,
        ..Default::default()
    };
    // The gradient points along the weights, at right angles to them, and both ways.
    let cases = [(OptimizerKind::Sgd, 0.0, 1.0), (OptimizerKind::Sgd, 0.3, 0.0), (OptimizerKind::Sgd, -0.3, 1.0)];
    // Adam's first step is that of the signs, which of weights of one size is as planted too.
    let cases = cases.into_iter().chain([(OptimizerKind::Adamw, 0.0, 1.0), (OptimizerKind::Adamw, 1.0, 0.0)]);
    for ((kind, along, across), gpu) in
        cases.flat_map(|case| crate::autograd::check::gpus().iter().map(move |gpu| (case, gpu)))
    {
        let rig = Rig::new(gpu, &[config(kind, DECAY), config(kind, 0.0)], &ScheduleConfig::default());
        let weight = |i: usize| match kind {
            OptimizerKind::Sgd => 1.0 + i as f32 * 0.25,
            _ => 1.0,
        };
        rig.write(&rig.weights, &rig.fill(|_, _, i| weight(i)));
        // Each pair of weights (a, b) gets the gradient (-b, a); a last one alone gets none.
        let paired = |spec_len: usize, i: usize| i / 2 * 2 + 1 < spec_len;
        let turned = |i: usize| if i.is_multiple_of(2) { -weight(i + 1) } else { weight(i - 1) };
        let gradient = |len: usize, i: usize| {
            along as f32 * weight(i) + if paired(len, i) { across as f32 * turned(i) } else { 0.0 }
        };
        rig.write(&rig.grads, &rig.fill(|_, t, i| gradient(rig.table.specs()[t].len(), i)));
        rig.replay(0, true);
        for (replica, tensors) in rig.summary().iter().enumerate() {
            for ((found, spec), decays) in tensors.iter().zip(rig.table.specs()).zip(&rig.decays) {
                let decay = if *decays && replica == 0 { DECAY } else { 0.0 };
                let squares = |keep: &dyn Fn(usize) -> bool| {
                    (0..spec.len()).filter(|i| keep(*i)).map(|i| f64::from(weight(i)).powi(2)).sum::<f64>()
                };
                let turns = across * (squares(&|i| paired(spec.len(), i)) / squares(&|_| true)).sqrt();
                // Weights round at 6e-8 of themselves and move by 1e-2 of themselves. A right angle is the root of a
                // difference of squares that are known to 1e-7 and some; of none it is unknown.
                if turns == 0.0 {
                    let steps = found[UpdateSummary::STEP_SIZE] > 0.0;
                    assert_eq!(found[UpdateSummary::ORTHOGONAL] == UNKNOWN, steps, "{kind:?} {}", spec.name);
                }
                let found = known(found, turns);
                for (column, want, tolerance) in [
                    (UpdateSummary::RADIAL, -along - decay, 5e-5),
                    (UpdateSummary::RADIAL_GRADIENT, -along, 5e-6),
                    (UpdateSummary::ORTHOGONAL, turns, 5e-5),
                ] {
                    let what = format!("{kind:?} column {column}, {}", spec.name);
                    close(found[column] / RATE as f32, want, tolerance, &what);
                }
            }
        }
        // What lies between tensors is nobody's weight.
        let mut gaps = floats(gpu, &rig.weights);
        for replica in gaps.chunks_exact_mut(rig.table.len()) {
            for spec in rig.table.specs() {
                replica[spec.offset..][..spec.len()].fill(0.0);
            }
        }
        assert!(gaps.iter().all(|w| *w == 0.0));
    }
}

#[test]
fn a_step_whose_gradients_are_not_finite_moves_nothing_and_halves_the_scale() {
    for gpu in crate::autograd::check::gpus() {
        for kind in [OptimizerKind::Adamw, OptimizerKind::Adam, OptimizerKind::Sgd] {
            let config = OptimizerConfig { kind, ..Default::default() };
            let rig =
                Rig::scaled(gpu, &[config.clone(), config], &ScheduleConfig::default(), Some([8.0, 1024.0]), None);
            let start = rig.fill(|r, t, i| 0.5 + 0.01 * (r + t + i) as f32);
            rig.write(&rig.weights, &start);
            let len = rig.table.len();
            let state = || [&rig.weights, &rig.moments[0], &rig.moments[1]].map(|buffer| floats(gpu, buffer));
            let scale = || [floats(gpu, &rig.scale[0]), floats(gpu, &rig.scale[1])];
            // The last element of the second replica, in one tensor of many.
            let last = |bad: f32| rig.fill(|r, t, i| if (r, t, i) == (1, 2, 3) { bad } else { 0.1 });
            for (step, bad) in [f32::INFINITY, f32::NAN, f32::NEG_INFINITY].into_iter().enumerate() {
                let before = state();
                rig.write(&rig.grads, &last(bad));
                rig.replay(step as u64, false);
                assert_eq!(scale()[0], [8.0, 1024.0 / (1 << step) as f32], "a measurement changes no scale");
                rig.replay(step as u64, true);
                let after = state();
                for (before, after) in before.iter().zip(&after) {
                    assert_eq!(before[len..], after[len..], "{kind:?}: the replica stays as it was");
                }
                assert!(before[0][..len] != after[0][..len], "{kind:?}: the other one goes on");
                assert!(after.iter().flatten().all(|x| x.is_finite()));
                let halved = 512.0 / (1 << step) as f32;
                assert_eq!(scale(), [[8.0, halved], [0.125, 1.0 / halved]]);
            }
            let before = state();
            rig.write(&rig.grads, &last(0.1));
            rig.replay(3, true);
            let after = state();
            assert!(before[0][len..] != after[0][len..], "{kind:?}: it goes on with the next finite gradient");
            assert_eq!(scale()[0], [8.0, 128.0], "and the scale stays");
        }
    }
}
