//! How every op and instrument is tested: in the middle of a graph, for two replicas, with poisoned
//! memory, on every adapter at hand with and without optional features, against the f64 reference; and
//! the reference's gradients against central differences.

use super::ops::{Add, Dot, Scale};
use super::{Array, Bindings, DType, Shape, Tape, Var};
use crate::gpu::{Class, Gpu, Philox, Select, Storage, Stream, adapters, read_now};

/// Awkward sizes every op is tried at: less than, equal to and just beyond vectors, subgroups, tiles.
pub(crate) const SIZES: [usize; 5] = [1, 3, 31, 64, 257];

const REPLICAS: u32 = 2;

/// Every adapter, and once more the first with no optional feature and default limits.
pub(crate) fn gpus() -> &'static [Gpu] {
    static GPUS: std::sync::OnceLock<Vec<Gpu>> = std::sync::OnceLock::new();
    GPUS.get_or_init(|| {
        use crate::gpu::{AdapterChoice, Options};
        let count = adapters().len();
        assert!(count > 0, "{}", crate::gpu::no_adapter_help());
        let checked = Options { checked: true, plain: false };
        let mut gpus: Vec<Gpu> =
            (0..count).map(|i| Gpu::open(&AdapterChoice::Index(i), checked).expect("the adapter opens")).collect();
        gpus.push(Gpu::open(&AdapterChoice::Index(0), Options { checked: true, plain: true }).expect("the adapter opens"));
        gpus
    })
}

/// A graph under test with random inputs.
pub(crate) struct Case {
    pub(crate) tape: Tape,
    name: String,
    inputs: Vec<(Var, Vec<Vec<f32>>)>,
    draws: u64,
}

impl Case {
    pub(crate) fn new(name: &str) -> Self {
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

    /// A normal input that each replica has its own copy of.
    pub(crate) fn owned(&mut self, dims: &[usize]) -> Var {
        self.random(dims, true)
    }

    /// A normal input all replicas share.
    pub(crate) fn shared(&mut self, dims: &[usize]) -> Var {
        self.random(dims, false)
    }

    /// Random indices below `below`, one set per replica or shared.
    pub(crate) fn indices(&mut self, dims: &[usize], below: u32, owned: bool) -> Var {
        let len = dims.iter().product::<usize>() * if owned { REPLICAS as usize } else { 1 };
        self.draws += 1;
        let stream = Philox::new(43, Stream::Tokens, self.draws as u32);
        let data: Vec<u32> = (0..len).map(|i| stream.below(i as u64, below)).collect();
        if owned {
            let shape = Shape::u32(dims);
            let var = self.tape.input(&format!("indices {}", self.inputs.len()), shape);
            let per = dims.iter().product();
            // Indices travel as bits of f32, which nothing on the way touches.
            let data = data.chunks(per).map(|c| c.iter().map(|i| f32::from_bits(*i)).collect()).collect();
            self.inputs.push((var, data));
            var
        } else {
            self.tape.constant_u32(dims, &data)
        }
    }

    fn reference_inputs(&self, replica: usize) -> Vec<(Var, Array)> {
        let copy = |data: &[Vec<f32>]| if data.len() == 1 { data[0].clone() } else { data[replica].clone() };
        self.inputs
            .iter()
            .map(|(var, data)| {
                let shape = self.tape.shape(*var);
                let values = copy(data)
                    .into_iter()
                    .map(|x| if shape.dtype == DType::U32 { f64::from(x.to_bits()) } else { f64::from(x) })
                    .collect();
                (*var, Array::new(&shape.dims, values))
            })
            .collect()
    }

    /// Runs the tape on one device and returns `wanted`, per replica.
    pub(crate) fn run(&self, gpu: &Gpu, wanted: &[Var]) -> Vec<Vec<Vec<f32>>> {
        let mut bindings = Bindings::new();
        for (var, data) in &self.inputs {
            let len = data[0].len() as u64;
            let buffer = gpu.upload(Class::Data, &data.concat()).expect("inputs fit");
            bindings.bind(*var, Storage::whole(&buffer, if data.len() == 1 { 0 } else { len }));
        }
        let mut tape_outputs = Vec::new();
        for var in wanted {
            let shape = self.tape.shape(*var);
            let copies = if shape.owned { REPLICAS as u64 } else { 1 };
            // Results lie with a gap behind each replica, filled with a pattern nobody may touch.
            let stride = (shape.len() as u64 + 3).next_multiple_of(4);
            let buffer = gpu.upload(Class::Data, &vec![f32::NAN.to_bits(); (copies * stride) as usize]).expect("outputs fit");
            bindings.bind(*var, Storage::whole(&buffer, stride));
            tape_outputs.push((buffer, copies, stride, shape.len()));
        }
        let program = self.tape.compile(gpu, &bindings).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        program.poison(gpu);
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            program.encode(&mut pass, Select { step: 0, update: true });
        }
        gpu.queue().submit([encoder.finish()]);
        gpu.check().unwrap_or_else(|e| panic!("{}: {e}", self.name));
        tape_outputs
            .iter()
            .map(|(buffer, copies, stride, len)| {
                let words = read_now(gpu, buffer, 0..buffer.size()).expect("read-back");
                let all: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
                (0..*copies as usize)
                    .map(|r| {
                        let row = &all[r * *stride as usize..][..*stride as usize];
                        assert!(row[*len..].iter().all(|x| x.to_bits() == f32::NAN.to_bits()), "{}: wrote past its end", self.name);
                        row[..*len].to_vec()
                    })
                    .collect()
            })
            .collect()
    }

    fn reference(&self, replica: usize, wanted: &[Var]) -> Vec<Array> {
        self.tape.evaluate(replica, &self.reference_inputs(replica), wanted).expect("the reference evaluates")
    }

    fn compare(&self, wanted: &[Var], tolerance: f64, each: bool) {
        for gpu in gpus() {
            let found = self.run(gpu, wanted);
            for replica in 0..REPLICAS as usize {
                if replica > 0 && wanted.iter().all(|var| !self.tape.shape(*var).owned) {
                    continue;
                }
                let expected = self.reference(replica, wanted);
                for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let found = &found[replica.min(found.len() - 1)];
                    let size = expected.data.iter().fold(0.0f64, |m, x| m.max(x.abs())).max(1e-30);
                    for (i, (f, e)) in found.iter().zip(&expected.data).enumerate() {
                        let f = f64::from(*f);
                        let scale = if each { e.abs().max(1e-45) } else { size };
                        assert!(
                            (f - e).abs() <= tolerance * scale,
                            "{} on {}{}: value {which}, replica {replica}, element {i}: {f} instead of {e}",
                            self.name,
                            gpu.caps().name,
                            if gpu.caps().subgroup.is_none() { " (plain)" } else { "" },
                        );
                    }
                }
            }
        }
    }

    /// Values agree with the reference to `tolerance` of the largest element.
    pub(crate) fn agree(&self, wanted: &[Var], tolerance: f64) {
        self.compare(wanted, tolerance, false);
    }

    /// Each element agrees with the reference to `tolerance` of itself.
    pub(crate) fn agree_each(&self, wanted: &[Var], tolerance: f64) {
        self.compare(wanted, tolerance, true);
    }

    /// Integer values are those of the reference.
    pub(crate) fn agree_bits(&self, wanted: &[Var]) {
        for gpu in gpus() {
            let found = self.run(gpu, wanted);
            for replica in 0..REPLICAS as usize {
                let expected = self.reference(replica, wanted);
                for (found, expected) in found.iter().zip(&expected) {
                    let found: Vec<f64> =
                        found[replica.min(found.len() - 1)].iter().map(|x| f64::from(x.to_bits())).collect();
                    assert_eq!(found, expected.data, "{} on {}, replica {replica}", self.name, gpu.caps().name);
                }
            }
        }
    }

    /// Checks values and, with a random coefficient for every element of every output behind it, the
    /// gradients with respect to `wrt`: device against reference, reference against central differences.
    pub(crate) fn check(&mut self, outputs: &[Var], wrt: &[Var], tolerance: f64) {
        self.agree(outputs, tolerance);
        if wrt.is_empty() {
            return;
        }
        // Only outputs that carry a gradient: those that ops declare differentiable come first.
        let y = outputs[0];
        let dims = self.tape.shape(y).dims.clone();
        let coefficients = self.shared(&dims);
        let dot = self.tape.push1(Dot, &[y, coefficients]).expect("dot");
        let twice = self.tape.push1(Scale(1.5), &[dot]).expect("scale");
        let loss = self.tape.push1(Add, &[twice, dot]).expect("add");
        let grads = self.tape.backward(loss, wrt).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let grads: Vec<Var> = grads.into_iter().map(|g| g.expect("the output depends on the input")).collect();
        self.agree(&grads, tolerance);

        let inputs = self.reference_inputs(0);
        let exact = self.tape.evaluate(0, &inputs, &grads).expect("the reference evaluates");
        for (var, grad) in wrt.iter().zip(&exact) {
            let size = grad.data.iter().fold(0.0f64, |m, x| m.max(x.abs())).max(1e-12);
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
                    (numeric - grad.data[i]).abs() <= 1e-6 * size.max(1.0),
                    "{}: gradient of {} at {i}: reference {}, central difference {numeric}",
                    self.name,
                    self.tape.label(*var),
                    grad.data[i],
                );
            }
        }
    }
}
