//! How every op and instrument is tested: in the middle of a graph, for two replicas, with poisoned
//! memory, against the f64 reference; and the reference's gradients against central differences. Tests do
//! so on every adapter at hand, with and without optional features; `thermoscope::self_check` on a user's own.

use super::ops::{
    ActFn, Activation, Add, AddBias, Attention, CrossEntropy, Dot, Gate, GatedActivation, GatherRows, HeadProduct,
    HeadResult, IGNORE, Linear, MeanRows, Norm, NormKind, Rotary, RotaryScaling, Scale, StreamedAttention,
    scatter_rows,
};
use super::{Array, Bindings, DType, Shape, Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::{
    AdapterChoice, Class, Gpu, Options, Philox, Select, Storage, Stream, adapters, no_adapter_help, read_now,
};

const REPLICAS: u32 = 2;

/// A graph under test with random inputs, for two replicas.
///
/// ```no_run
/// use thermoscope::autograd::check::{Case, SIZES};
/// use thermoscope::autograd::ops::Scale;
///
/// for n in SIZES {
///     let mut case = Case::new("scale");
///     let x = case.owned(&[n, 3]);
///     let y = case.tape.push1(Scale(2.0), &[x]).unwrap();
///     case.check(&[y], &[x], 1e-6);
/// }
/// ```
pub struct Case {
    /// Where ops are appended.
    pub tape: Tape,
    name: String,
    inputs: Vec<(Var, Vec<Vec<f32>>)>,
    draws: u64,
}

/// Where a value differs most from its reference.
#[derive(Clone, Debug)]
pub struct Worst {
    /// Difference relative to the largest element of the reference, or to the element itself.
    pub error: f64,
    /// Where, for people.
    pub place: String,
}

impl Case {
    /// An empty graph of that name.
    pub fn new(name: &str) -> Self {
        Self { tape: Tape::new(REPLICAS), name: name.to_owned(), inputs: Vec::new(), draws: 0 }
    }

    fn normal(&mut self) -> f32 {
        self.draws += 1;
        Philox::new(42, Stream::Weights, 0).normals(self.draws)[0] as f32
    }

    fn random(&mut self, dims: &[usize], owned: bool) -> Var {
        let len: usize = dims.iter().product();
        let copies = if owned { REPLICAS as usize } else { 1 };
        let data: Vec<Vec<f32>> = (0..copies).map(|_| (0..len).map(|_| self.normal()).collect()).collect();
        let shape = if owned { Shape::f32(dims) } else { Shape::f32(dims).shared() };
        let var = self.tape.input(&format!("input {}", self.inputs.len()), shape);
        self.inputs.push((var, data));
        var
    }

    /// Gives an input that was declared on the tape by others normal values of its own for each replica.
    pub fn fill(&mut self, var: Var, deviation: f32) {
        let len = self.tape.shape(var).len();
        let data = (0..REPLICAS).map(|_| (0..len).map(|_| deviation * self.normal()).collect()).collect();
        self.inputs.push((var, data));
    }

    /// Gives an input that was declared on the tape by others these values, in every replica.
    pub fn set(&mut self, var: Var, values: Vec<f32>) {
        self.inputs.push((var, vec![values; REPLICAS as usize]));
    }

    /// Gives an input that was declared on the tape by others these values, a list for each replica.
    pub fn set_each(&mut self, var: Var, values: Vec<Vec<f32>>) {
        self.inputs.push((var, values));
    }

    /// A normal input that each replica has its own copy of.
    pub fn owned(&mut self, dims: &[usize]) -> Var {
        self.random(dims, true)
    }

    /// A normal input all replicas share.
    pub fn shared(&mut self, dims: &[usize]) -> Var {
        self.random(dims, false)
    }

    /// Random indices below `below`: on the device, one set per replica, or constants that all share.
    pub fn indices(&mut self, dims: &[usize], below: u32, owned: bool) -> Var {
        let len: usize = dims.iter().product();
        let copies = if owned { REPLICAS as usize } else { 1 };
        self.draws += 1;
        let stream = Philox::new(43, Stream::Tokens, self.draws as u32);
        let data: Vec<u32> = (0..len * copies).map(|i| stream.below(i as u64, below)).collect();
        if !owned {
            return self.tape.constant_u32(dims, &data);
        }
        let var = self.tape.input(&format!("indices {}", self.inputs.len()), Shape::u32(dims));
        // Indices travel as bits of f32, which nothing on the way touches.
        let data = data.chunks(len).map(|c| c.iter().map(|i| f32::from_bits(*i)).collect()).collect();
        self.inputs.push((var, data));
        var
    }

    /// Targets `[rows]` below `classes`, a fifth of which does not count, and how many do, `[1]`.
    pub fn targets(&mut self, rows: usize, classes: usize) -> (Var, Var) {
        let target = |row: u32| if row % 5 == 3 { IGNORE } else { row * 7 % classes as u32 };
        let targets: Vec<u32> = (0..rows as u32).map(target).collect();
        let counted = targets.iter().filter(|target| **target != IGNORE).count();
        (self.tape.constant_u32(&[rows], &targets), self.tape.constant(&[1], &[counted as f32]))
    }

    /// Rounds every number drawn so far to f16.
    pub fn round_to_halves(&mut self) {
        for value in self.inputs.iter_mut().flat_map(|(_, data)| data).flatten() {
            *value = half::f16::from_f32(*value).to_f32();
        }
    }

    fn reference_inputs(&self, replica: usize) -> Vec<(Var, Array)> {
        self.inputs
            .iter()
            .map(|(var, data)| {
                let shape = self.tape.shape(*var);
                let values = data[replica.min(data.len() - 1)].iter();
                let value = |x: &f32| if shape.dtype == DType::U32 { f64::from(x.to_bits()) } else { f64::from(*x) };
                (*var, Array::new(&shape.dims, values.map(value).collect()))
            })
            .collect()
    }

    /// What `wanted` comes to by the reference, for one replica.
    ///
    /// # Errors
    /// As [`Tape::evaluate`].
    pub fn reference(&self, replica: usize, wanted: &[Var]) -> Result<Vec<Array>> {
        self.tape.evaluate(replica, &self.reference_inputs(replica), wanted)
    }

    /// Runs the tape on one device, all its memory filled with NaN before, and returns `wanted`, per
    /// replica.
    ///
    /// # Errors
    /// Where a kernel does not compile, writes past its end, or the device fails.
    pub fn run(&self, gpu: &Gpu, wanted: &[Var]) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut bindings = Bindings::new();
        for (var, data) in &self.inputs {
            let len = data[0].len() as u64;
            let buffer = gpu.upload(Class::Data, &data.concat())?;
            bindings.bind(*var, Storage::whole(&buffer, if data.len() == 1 { 0 } else { len }));
        }
        let mut outputs = Vec::new();
        for var in wanted {
            let shape = self.tape.shape(*var);
            let copies = if shape.owned { u64::from(REPLICAS) } else { 1 };
            // Results lie with a gap behind each replica, filled with a pattern nobody may touch.
            let stride = (shape.len() as u64 + 3).next_multiple_of(4);
            let buffer = gpu.upload(Class::Data, &vec![f32::NAN.to_bits(); (copies * stride) as usize])?;
            bindings.bind(*var, Storage::whole(&buffer, stride));
            outputs.push((buffer, copies as usize, stride as usize, shape.len()));
        }
        let program = self.tape.compile(gpu, &bindings)?;
        program.poison(gpu);
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            program.encode(&mut pass, Select { step: 0, update: true });
        }
        gpu.queue().submit([encoder.finish()]);
        gpu.check()?;
        let read = |(buffer, copies, stride, len): &(wgpu::Buffer, usize, usize, usize)| {
            let words = read_now(gpu, buffer, 0..buffer.size())?;
            (0..*copies)
                .map(|r| {
                    let row = &words[r * stride..][..*stride];
                    if row[*len..].iter().any(|word| *word != f32::NAN.to_bits()) {
                        return Err(Error::Device(format!("{} wrote past its end", self.name)));
                    }
                    Ok(row[..*len].iter().map(|word| f32::from_bits(*word)).collect())
                })
                .collect()
        };
        outputs.iter().map(read).collect()
    }

    /// The worst difference from the reference on one device, relative to the largest element of each
    /// value, or with `each` to every element itself.
    ///
    /// # Errors
    /// As [`Case::run`] and [`Case::reference`].
    pub fn worst(&self, gpu: &Gpu, wanted: &[Var], each: bool) -> Result<Worst> {
        let found = self.run(gpu, wanted)?;
        let mut worst = Worst { error: 0.0, place: String::new() };
        for replica in 0..REPLICAS as usize {
            for (which, (found, expected)) in found.iter().zip(self.reference(replica, wanted)?).enumerate() {
                let largest = expected.data.iter().fold(0.0f64, |m, x| m.max(x.abs())).max(1e-30);
                for (i, (f, e)) in found[replica.min(found.len() - 1)].iter().zip(&expected.data).enumerate() {
                    let scale = if each { e.abs().max(1e-45) } else { largest };
                    // A device may take what is smaller than the least normal number for 0.
                    let flushed = *f == 0.0 && e.abs() < f64::from(f32::MIN_POSITIVE);
                    let error = if flushed { 0.0 } else { (f64::from(*f) - e).abs() / scale };
                    // What is no number is worse than anything.
                    let error = if error.is_nan() { f64::INFINITY } else { error };
                    if error > worst.error {
                        let place = format!("value {which}, replica {replica}, element {i}: {f} instead of {e}");
                        worst = Worst { error, place };
                    }
                }
            }
        }
        Ok(worst)
    }

    /// Appends a scalar in which every element of `y` has a random coefficient, and its gradients.
    ///
    /// # Errors
    /// Where an op on the way has no gradient.
    pub fn gradients(&mut self, y: Var, wrt: &[Var]) -> Result<(Var, Vec<Var>)> {
        let dims = self.tape.shape(y).dims.clone();
        let coefficients = self.shared(&dims);
        let dot = self.tape.push1(Dot, &[y, coefficients])?;
        let more = self.tape.push1(Scale(1.5), &[dot])?;
        let loss = self.tape.push1(Add, &[more, dot])?;
        let grads = self.tape.backward(loss, wrt)?;
        let none = || Error::Unsupported(format!("{}: an output does not depend on its input", self.name));
        Ok((loss, grads.into_iter().map(|g| g.ok_or_else(none)).collect::<Result<_>>()?))
    }
}

/// How well a device computes one op.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Checked {
    /// The op, and its gradient where it has one.
    pub name: String,
    /// Worst difference from the f64 reference, relative to the largest element.
    pub worst: f64,
    /// What is expected of a sound device.
    pub tolerance: f64,
}

impl Checked {
    /// Whether the device can be trusted with this op.
    pub fn passed(&self) -> bool {
        self.worst <= self.tolerance
    }
}

/// Appends an op to a case; returns its outputs, of which the first carries the gradient, and the inputs to
/// differentiate by.
pub(crate) type Build = fn(&mut Case) -> Result<(Vec<Var>, Vec<Var>)>;

/// The ops that models are made of.
const CHECKS: &[(&str, Build)] = &[
    ("add", |c| {
        let (a, b) = (c.owned(&[257, 3]), c.shared(&[257, 3]));
        Ok((vec![c.tape.push1(Add, &[a, b])?], vec![a]))
    }),
    ("add bias", |c| {
        let (x, b) = (c.owned(&[257, 7]), c.owned(&[7]));
        Ok((vec![c.tape.push1(AddBias, &[x, b])?], vec![x, b]))
    }),
    ("linear", |c| {
        let (x, w, b, r) = (c.owned(&[257, 31]), c.owned(&[31, 65]), c.owned(&[65]), c.owned(&[257, 65]));
        let op = Linear { transposed: false, bias: true, residual: true };
        Ok((vec![c.tape.push1(op, &[x, w, b, r])?], vec![x, w, b, r]))
    }),
    ("linear, head blocks", |c| {
        let (x, w) = (c.owned(&[65, 64]), c.owned(&[4, 64, 16]));
        Ok((vec![c.tape.push1(Linear::default(), &[x, w])?], vec![x, w]))
    }),
    ("linear, transposed", |c| {
        let (x, w) = (c.owned(&[65, 64]), c.owned(&[128, 64]));
        Ok((vec![c.tape.push1(Linear { transposed: true, ..Linear::default() }, &[x, w])?], vec![x, w]))
    }),
    ("head result", |c| {
        let (z, w) = (c.owned(&[31, 4, 8]), c.owned(&[4, 8, 33]));
        Ok((vec![c.tape.push1(HeadResult, &[z, w])?], Vec::new()))
    }),
    ("head product", |c| {
        let (a, b, residual) = (c.owned(&[4, 31, 8]), c.owned(&[4, 33, 8]), c.owned(&[4, 31, 33]));
        let op = HeadProduct { residual: true, ..HeadProduct::default() };
        Ok((vec![c.tape.push1(op, &[a, b, residual])?], Vec::new()))
    }),
    ("gather rows", |c| {
        let (table, index) = (c.owned(&[7, 8]), c.indices(&[257], 7, true));
        Ok((vec![c.tape.push1(GatherRows, &[table, index])?], vec![table]))
    }),
    ("scatter rows", |c| {
        let (x, index) = (c.owned(&[257, 5]), c.indices(&[257], 3, true));
        Ok((vec![scatter_rows(&mut c.tape, x, index, 3)?], vec![x]))
    }),
    ("gate", |c| {
        let (x, base) = (c.owned(&[257, 4, 5]), c.owned(&[4, 5]));
        let dose = c.tape.constant(&[4], &[0.0, 0.3, 1.0, -2.0]);
        Ok((vec![c.tape.push1(Gate { inner: 5 }, &[x, dose, base])?], vec![x]))
    }),
    ("LayerNorm", |c| {
        let (x, w, b) = (c.owned(&[31, 64]), c.owned(&[64]), c.owned(&[64]));
        let op = Norm { kind: NormKind::Layer, weight: true, bias: true, eps: 1e-5 };
        Ok((c.tape.push(op, &[x, w, b])?, vec![x, w, b]))
    }),
    ("RMSNorm", |c| {
        let (x, w) = (c.owned(&[31, 64]), c.owned(&[64]));
        Ok((c.tape.push(Norm { kind: NormKind::Rms, weight: true, bias: false, eps: 1e-5 }, &[x, w])?, vec![x, w]))
    }),
    ("rotary", |c| {
        let (x, position) = (c.owned(&[31, 3, 8]), c.indices(&[31], 300, false));
        let (dims, table) = Rotary::table(300, 8, 10_000.0, RotaryScaling::None);
        let table = c.tape.constant(&dims, &table);
        Ok((vec![c.tape.push1(Rotary { forward: true }, &[x, position, table])?], vec![x]))
    }),
    ("attention, few keys", |c| {
        let (q, k, v) = (c.owned(&[31, 1, 4, 8]), c.owned(&[31, 3, 2, 8]), c.owned(&[31, 3, 2, 8]));
        Ok((c.tape.push(Attention { scale: 0.7 }, &[q, k, v])?, vec![q, k, v]))
    }),
    ("attention, many keys", |c| {
        let (q, k, v) = (c.owned(&[2, 65, 4, 8]), c.owned(&[2, 65, 2, 8]), c.owned(&[2, 65, 2, 8]));
        Ok((c.tape.push(Attention { scale: 0.7 }, &[q, k, v])?, vec![q, k, v]))
    }),
    ("attention, streamed", |c| {
        let (q, k, v) = (c.owned(&[2, 65, 4, 8]), c.owned(&[2, 65, 2, 8]), c.owned(&[2, 65, 2, 8]));
        let tokens = c.indices(&[2 * 65], 5, true);
        Ok((c.tape.push(StreamedAttention { scale: 0.7 }, &[q, k, v, tokens])?, vec![q, k, v]))
    }),
    ("ReLU", |c| activation(c, ActFn::Relu)),
    ("GELU (erf)", |c| activation(c, ActFn::Gelu)),
    ("GELU (tanh)", |c| activation(c, ActFn::GeluNew)),
    ("SiLU", |c| activation(c, ActFn::Silu)),
    ("gated SiLU", |c| {
        let (gate, up) = (c.owned(&[257, 4]), c.owned(&[257, 4]));
        Ok((vec![c.tape.push1(GatedActivation(ActFn::Silu), &[gate, up])?], vec![gate, up]))
    }),
    ("cross-entropy", |c| {
        let (z, y) = (c.owned(&[257, 113]), c.indices(&[257], 113, true));
        Ok((c.tape.push(CrossEntropy, &[z, y])?, vec![z]))
    }),
    ("mean of rows", |c| {
        let x = c.owned(&[257]);
        let count = c.tape.constant(&[1], &[5.0]);
        Ok((vec![c.tape.push1(MeanRows, &[x, count])?], vec![x]))
    }),
];

fn activation(case: &mut Case, act: ActFn) -> Result<(Vec<Var>, Vec<Var>)> {
    let x = case.owned(&[257, 4]);
    Ok((vec![case.tape.push1(Activation(act), &[x])?], vec![x]))
}

/// Runs every op, those of `more` too, and its gradient on a device and compares with the f64 reference.
///
/// # Errors
/// Where a kernel does not compile or the device fails.
pub(crate) fn self_check(gpu: &Gpu, more: &[&[(&str, Build)]]) -> Result<Vec<Checked>> {
    CHECKS
        .iter()
        .chain(more.iter().copied().flatten())
        .map(|(name, build)| {
            let mut case = Case::new(name);
            let (mut wanted, wrt) = build(&mut case)?;
            if !wrt.is_empty() {
                wanted.extend(case.gradients(wanted[0], &wrt)?.1);
            }
            // Sums of a few hundred terms of order 1, exp and division: some hundred roundings of 6e-8.
            Ok(Checked { name: (*name).to_owned(), worst: case.worst(gpu, &wanted, false)?.error, tolerance: 2e-5 })
        })
        .collect()
}

/// Awkward sizes every op is tried at: less than, equal to and just beyond vectors, subgroups, tiles.
pub const SIZES: [usize; 5] = [1, 3, 31, 64, 257];

/// Every adapter, with bounds checks; and the first once more with no optional feature and default limits, where it
/// takes the kernels that GPUs take. For tests.
///
/// # Panics
/// Where there is no adapter, or one does not open.
pub fn gpus() -> &'static [Gpu] {
    static GPUS: std::sync::OnceLock<Vec<Gpu>> = std::sync::OnceLock::new();
    GPUS.get_or_init(|| {
        let count = adapters().len();
        assert!(count > 0, "{}", no_adapter_help());
        let checked = Options { checked: true, plain: false, cooperative: true };
        let open = |index, options| Gpu::open(&AdapterChoice::Index(index), options).expect("the adapter opens");
        let mut gpus: Vec<Gpu> = (0..count).map(|index| open(index, checked)).collect();
        gpus.push(open(0, Options { plain: true, checked: true, cooperative: false }));
        gpus
    })
}

impl Case {
    fn demand(&self, wanted: &[Var], tolerance: f64, each: bool) {
        for gpu in gpus() {
            let worst = self.worst(gpu, wanted, each).unwrap_or_else(|error| panic!("{}: {error}", self.name));
            let plain = if gpu.caps().subgroup.is_none() { " (plain)" } else { "" };
            assert!(
                worst.error <= tolerance,
                "{} on {}{plain}: error {:.1e}, {}",
                self.name,
                gpu.caps().name,
                worst.error,
                worst.place
            );
        }
    }

    /// Values agree with the reference to `tolerance` of the largest element, on all of [`gpus`].
    ///
    /// # Panics
    /// Where they do not.
    pub fn agree(&self, wanted: &[Var], tolerance: f64) {
        self.demand(wanted, tolerance, false);
    }

    /// Each element agrees with the reference to `tolerance` of itself.
    ///
    /// # Panics
    /// Where they do not.
    pub fn agree_each(&self, wanted: &[Var], tolerance: f64) {
        self.demand(wanted, tolerance, true);
    }

    /// Integer values are those of the reference.
    ///
    /// # Panics
    /// Where they do not.
    pub fn agree_bits(&self, wanted: &[Var]) {
        for gpu in gpus() {
            let found = self.run(gpu, wanted).unwrap_or_else(|error| panic!("{}: {error}", self.name));
            for replica in 0..REPLICAS as usize {
                let expected = self.reference(replica, wanted).expect("the reference evaluates");
                for (found, expected) in found.iter().zip(&expected) {
                    let found = &found[replica.min(found.len() - 1)];
                    let found: Vec<f64> = found.iter().map(|x| f64::from(x.to_bits())).collect();
                    assert_eq!(found, expected.data, "{} on {}, replica {replica}", self.name, gpu.caps().name);
                }
            }
        }
    }

    /// Checks the values, and the gradients of the first output, with a random coefficient behind
    /// each element: device against reference, reference against central differences.
    ///
    /// # Panics
    /// Where they differ.
    pub fn check(&mut self, outputs: &[Var], wrt: &[Var], tolerance: f64) {
        self.agree(outputs, tolerance);
        if wrt.is_empty() {
            return;
        }
        let (loss, grads) = self.gradients(outputs[0], wrt).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        self.agree(&grads, tolerance);

        let inputs = self.reference_inputs(0);
        let exact = self.tape.evaluate(0, &inputs, &grads).expect("the reference evaluates");
        for (var, grad) in wrt.iter().zip(&exact) {
            let size = grad.data.iter().fold(0.0f64, |m, x| m.max(x.abs())).max(1.0);
            let stride = (grad.data.len() / 5).max(1);
            for i in (0..grad.data.len()).step_by(stride) {
                let at = |delta: f64| {
                    let mut moved = inputs.clone();
                    let (_, array) = moved.iter_mut().find(|(v, _)| v == var).expect("wrt is an input");
                    array.data[i] += delta;
                    self.tape.evaluate(0, &moved, &[loss]).expect("the reference evaluates")[0].data[0]
                };
                let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (numeric - grad.data[i]).abs() <= 1e-6 * size,
                    "{}: gradient of {} at {i}: reference {}, central difference {numeric}",
                    self.name,
                    self.tape.label(*var),
                    grad.data[i],
                );
            }
        }
    }
}

impl Case {
    /// Checks how `y` and the gradients of `wrt` move along a random direction of each replica's own: the device against the
    /// reference of the tangents, that against differences of the reference's gradients. `y` stands in the middle of a graph,
    /// with random coefficients behind it that move too. Inputs that are shared have two directions and one pass.
    ///
    /// # Panics
    /// Where they differ.
    pub fn check_tangents(&mut self, y: Var, wrt: &[Var], tolerance: f64) {
        let (tangents, values, directions) =
            self.tangents(y, wrt).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        // Not that of the scalar: terms of either sign leave as little of it as they like.
        let exact: Vec<Var> = tangents.iter().copied().filter(|var| self.tape.shape(*var).len() > 1).collect();
        self.agree(if exact.is_empty() { &tangents } else { &exact }, tolerance);
        for replica in 0..REPLICAS as usize {
            let inputs = self.reference_inputs(replica);
            let at = |delta: f64| {
                let mut moved = inputs.clone();
                for (var, direction) in &directions {
                    let along = &inputs.iter().find(|(v, _)| v == direction).expect("a direction is an input").1;
                    let (_, array) = moved.iter_mut().find(|(v, _)| v == var).expect("wrt is an input");
                    array.data.iter_mut().zip(&along.data).for_each(|(x, d)| *x += delta * d);
                }
                self.tape.evaluate(replica, &moved, &values).expect("the reference evaluates")
            };
            // Of fifth order: what is left is the rounding of f64 over the step, some 1e-11.
            const STEP: f64 = 1e-5;
            let steps = [at(STEP), at(-STEP), at(2.0 * STEP), at(-2.0 * STEP)];
            let exact = self.tape.evaluate(replica, &inputs, &tangents).expect("the reference evaluates");
            for (which, exact) in exact.iter().enumerate() {
                let size = exact.data.iter().fold(1.0f64, |m, x| m.max(x.abs()));
                for (i, exact) in exact.data.iter().enumerate() {
                    let [a, b, c, d] = [0, 1, 2, 3].map(|step| steps[step][which].data[i]);
                    let numeric = (8.0 * (a - b) - (c - d)) / (12.0 * STEP);
                    assert!(
                        (numeric - exact).abs() <= 1e-8 * size,
                        "{}: tangent {which} at {i}, replica {replica}: reference {exact}, difference {numeric}",
                        self.name,
                    );
                }
            }
        }
    }

    /// Appends a direction of each replica's own for each of `wrt` and for the coefficients behind `y`, and the tangents of `y`
    /// and of its gradients along them. Returns those that move with what they are tangents of, and the directions.
    fn tangents(&mut self, y: Var, wrt: &[Var]) -> Result<Tangents> {
        let (loss, grads) = self.gradients(y, wrt)?;
        let coefficients = self.inputs.last().map(|(var, _)| *var);
        let moving: Vec<Var> = wrt.iter().copied().chain(coefficients).collect();
        let mut directions = Vec::new();
        for var in moving {
            let dims = self.tape.shape(var).dims.clone();
            directions.push((var, self.owned(&dims)));
        }
        let values = [vec![y, loss], grads].concat();
        let found = self.tape.tangent(&directions, &values)?;
        let (tangents, values) = found.into_iter().zip(values).filter_map(|(t, value)| Some((t?, value))).unzip();
        Ok((tangents, values, directions))
    }
}

/// Tangents, what they are of, and the directions.
type Tangents = (Vec<Var>, Vec<Var>, Vec<(Var, Var)>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_adapter_passes_its_self_check() {
        for gpu in gpus() {
            for checked in crate::kernels::self_check(gpu).unwrap() {
                assert!(checked.passed(), "{} on {}: {:.1e}", checked.name, gpu.caps().name, checked.worst);
            }
        }
    }

    #[test]
    fn checked_and_unchecked_kernels_give_the_same_bits() {
        for (index, plain) in (0..adapters().len()).map(|index| (index, false)).chain([(0, true)]) {
            let run = |checked| {
                let options = Options { checked, plain, ..Options::default() };
                let gpu = Gpu::open(&AdapterChoice::Index(index), options).unwrap();
                let of_op = |(name, build): &(&str, Build)| {
                    let mut case = Case::new(name);
                    let (mut wanted, wrt) = build(&mut case).unwrap();
                    if !wrt.is_empty() {
                        wanted.extend(case.gradients(wanted[0], &wrt).unwrap().1);
                    }
                    let bits = |x: &f32| x.to_bits();
                    case.run(&gpu, &wanted).unwrap().concat().concat().iter().map(bits).collect::<Vec<u32>>()
                };
                CHECKS.iter().map(of_op).collect::<Vec<_>>()
            };
            assert_eq!(run(true), run(false));
        }
    }
}
