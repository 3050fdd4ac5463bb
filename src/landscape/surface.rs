//! A model's loss over fixed examples, on the device: its value, its gradient, and products with its second derivatives.

use std::ops::Range;

use super::Symmetric;
use crate::autograd::ops::{Add, CrossEntropy, CrossEntropyCurve, MeanRows};
use crate::autograd::{Bindings, Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::{Class, Commands, Gpu, Program, Select, Storage, read_now, read_together};
use crate::instrument::Pieces;
use crate::model::{Model, ModelConfig, ReadOut, WeightSpec, WeightTable};
use crate::task::{Batch, Feed};
use crate::train::ResolvedRun;

/// Which second derivatives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matrix {
    /// All of them.
    #[default]
    Hessian,
    /// Jᵀ (diag p - p pᵀ) J with the Jacobian J of the logits, a mean over predictions. For cross-entropy it is Fisher's
    /// information, the mean over what the model itself predicts, and it has no negative eigenvalue.
    GaussNewton,
}

/// Examples that the loss is a mean over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Examples {
    /// All that a replica is trained on.
    All,
    /// So many sequences, as its training draws them.
    Drawn(usize),
    /// All, or so many drawn where those have no end.
    AllOr(usize),
}

/// A parameter tensor in the vectors that a [`Surface`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// TransformerLens name, as in `blocks.0.attn.W_Q`.
    pub name: String,
    /// Dimensions.
    pub dims: Vec<usize>,
    /// Where it lies.
    pub range: Range<usize>,
}

/// A tensor, or what one head has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name of the tensor.
    pub tensor: String,
    /// The head, if it is one's.
    pub head: Option<usize>,
    /// Where it lies in a vector of all parameters. The axis of heads comes first.
    pub range: Range<usize>,
}

/// The mean loss of one set of weights, nats, as a function of all parameters, one tensor behind the other without gaps.
///
/// Directions are replicas: weights, examples, forward and backward pass are shared, tangents alone are each direction's own.
/// So several products cost one gradient and their tangents.
pub struct Surface {
    gpu: Gpu,
    table: WeightTable,
    program: Program,
    weights: wgpu::Buffer,
    directions: wgpu::Buffer,
    products: wgpu::Buffer,
    gradient: wgpu::Buffer,
    loss: wgpu::Buffer,
    together: usize,
}

/// A loss on a tape, its gradient by each weight, and the products with each replica's direction.
pub(super) struct Recorded {
    pub(super) loss: Var,
    pub(super) gradient: Vec<Option<Var>>,
    pub(super) products: Vec<Option<Var>>,
}

/// Appends all that, the sums over the batches. `directions` are laid out like the weights.
pub(super) fn record(
    tape: &mut Tape,
    model: &Model,
    directions: &[Var],
    batches: &[Batch],
    read: ReadOut,
    matrix: Matrix,
) -> Result<Recorded> {
    let count = model.weights.len();
    let moving: Vec<(Var, Var)> = model.weights.iter().copied().zip(directions.iter().copied()).collect();
    let mut sum: Vec<Option<Var>> = vec![None; 1 + 2 * count];
    for batch in batches {
        let logits = model.forward(tape, &batch.rows, batch.size, batch.seq, read)?.logits;
        let rows = tape.push(CrossEntropy, &[logits, batch.targets])?;
        let loss = tape.push1(MeanRows, &[rows[0], batch.count])?;
        let mut gradient = tape.backward(loss, &[&model.weights[..], &rows[..1]].concat())?;
        let each = gradient.pop().flatten();
        let products = match matrix {
            Matrix::Hessian => {
                let there: Vec<Var> = gradient.iter().copied().flatten().collect();
                let mut moved = tape.tangent(&moving, &there)?.into_iter();
                gradient.iter().map(|gradient| gradient.and_then(|_| moved.next().flatten())).collect()
            }
            Matrix::GaussNewton => match (tape.tangent(&moving, &[logits])?[0], each) {
                (Some(moved), Some(each)) => {
                    let seed = tape.push1(CrossEntropyCurve, &[logits, batch.targets, rows[3], each, moved])?;
                    tape.backward_from(logits, seed, &model.weights)?
                }
                _ => vec![None; count],
            },
        };
        let parts = [Some(loss)].into_iter().chain(gradient).chain(products);
        for (sum, part) in sum.iter_mut().zip(parts) {
            *sum = match (*sum, part) {
                (Some(sum), Some(part)) => Some(tape.push1(Add, &[sum, part])?),
                (sum, part) => sum.or(part),
            };
        }
    }
    let products = sum.split_off(1 + count);
    let gradient = sum.split_off(1);
    let loss = sum[0].ok_or_else(|| Error::Config("there are no examples to take a loss over".to_owned()))?;
    Ok(Recorded { loss, gradient, products })
}

impl Surface {
    /// The loss of a replica of a run over its examples; weights are zero until they are set. `together` products are worked
    /// out at once, or fewer where a binding holds no more. Long attention keeps patterns of all its heads here.
    ///
    /// # Errors
    /// Where the examples are not there, an op of the model has no forward derivative, or the device is too small.
    pub fn new(
        gpu: &Gpu,
        run: &ResolvedRun,
        replica: usize,
        examples: Examples,
        matrix: Matrix,
        together: usize,
    ) -> Result<Self> {
        let shape = run.task.shape();
        let len = WeightTable::new(&run.model).len();
        let most = (gpu.caps().max_binding / (4 * len as u64)) as usize;
        let together = together.clamp(1, most.max(1));
        let sequences = Pieces::new(gpu.caps().room(), &run.model, shape, together as u32).most;
        let feed = Feed::new(run.task.as_ref(), &run.data()[replica..=replica])?;
        let drawn = match examples {
            Examples::AllOr(count) if matches!(feed, Feed::Endless(_)) => Some(count),
            Examples::All | Examples::AllOr(_) => None,
            Examples::Drawn(count) => Some(count),
        };
        let seed = run.batch_seeds()[replica];
        let batches = |tape: &mut Tape| feed.trained_on(tape, seed, drawn, sequences);
        Self::over(gpu, &run.model, batches, shape.read, matrix, together)
    }

    fn over(
        gpu: &Gpu,
        config: &ModelConfig,
        batches: impl FnOnce(&mut Tape) -> Result<Vec<Batch>>,
        read: ReadOut,
        matrix: Matrix,
        together: usize,
    ) -> Result<Self> {
        let mut tape = Tape::new(together as u32);
        let model = Model::shared(config, &mut tape);
        let along = model.table.declare(&mut tape, true);
        let batches = batches(&mut tape)?;
        let Recorded { loss, gradient, products } = record(&mut tape, &model, &along, &batches, read, matrix)?;
        let len = model.table.len() as u64;
        let many = together as u64 * len;
        let weights = gpu.buffer(Class::Weights, len)?;
        let directions = gpu.buffer(Class::Weights, many)?;
        let of_products = gpu.buffer(Class::Gradients, many)?;
        let of_gradient = gpu.buffer(Class::Gradients, len)?;
        let of_loss = gpu.buffer(Class::Metrics, 1)?;
        let mut bindings = Bindings::new();
        let all = |vars: &[Var]| vars.iter().copied().map(Some).collect::<Vec<_>>();
        for (vars, buffer) in [
            (&all(&model.weights), &weights),
            (&all(&along), &directions),
            (&products, &of_products),
            (&gradient, &of_gradient),
        ] {
            model.table.bind(&mut bindings, vars, buffer);
        }
        bindings.bind(loss, Storage::whole(&of_loss, 1));
        let program = tape.compile(gpu, &bindings)?;
        gpu.check()?;
        Ok(Self {
            gpu: gpu.clone(),
            table: model.table,
            program,
            weights,
            directions,
            products: of_products,
            gradient: of_gradient,
            loss: of_loss,
            together,
        })
    }

    /// The parameter tensors, in order.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut first = 0;
        let place = |spec: &WeightSpec| {
            let range = first..first + spec.len();
            first = range.end;
            Tensor { name: spec.name.clone(), dims: spec.dims.clone(), range }
        };
        self.table.specs().iter().map(place).collect()
    }

    /// What a vector of all parameters is made of: every tensor, and of those of attention every head.
    pub fn parts(&self, heads: usize) -> Vec<Part> {
        let mut found = Vec::new();
        for Tensor { name, dims, range } in self.tensors() {
            // Keys and values that several query heads share are no head's own.
            let own = name.contains(".attn.") && dims[0] == heads && dims.len() > 1;
            let each = range.len() / dims[0].max(1);
            found.push(Part { tensor: name.clone(), head: None, range: range.clone() });
            found.extend((0..heads).filter(|_| own).map(|head| {
                let first = range.start + head * each;
                Part { tensor: name.clone(), head: Some(head), range: first..first + each }
            }));
        }
        found
    }

    /// Has the driver compile all kernels: see [`Program::compile`].
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub fn compile(&self, each: impl FnMut(usize, usize) -> bool) -> Result<()> {
        self.program.compile(&self.gpu, each)
    }

    /// Sets the weights, as a model folder or a session holds them: `WeightTable::len` numbers.
    ///
    /// # Errors
    /// [`Error::Config`] where there are more or fewer.
    pub fn set_weights(&mut self, weights: &[f32]) -> Result<()> {
        if weights.len() != self.table.len() {
            return Err(Error::Config(format!("{} weights for a model of {}", weights.len(), self.table.len())));
        }
        self.gpu.queue().write_buffer(&self.weights, 0, bytemuck::cast_slice(weights));
        Ok(())
    }

    fn run(&self) {
        let mut commands = Commands::new(&self.gpu, None);
        self.program.encode_into(&mut commands, Select { step: 0, update: true });
        commands.submit();
    }

    /// The loss, nats, and its gradient.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub fn gradient(&mut self) -> Result<(f64, Vec<f64>)> {
        self.run();
        let parts = [(&self.loss, 0..4), (&self.gradient, 0..self.gradient.size())];
        let found = read_together(&self.gpu, &parts)?;
        Ok((f64::from(f32::from_bits(found[0][0])), self.gather(&found[1][..self.table.len()])))
    }

    /// Parameters without the gaps between tensors.
    fn gather(&self, words: &[u32]) -> Vec<f64> {
        self.vector(bytemuck::cast_slice(words))
    }

    /// The vector of what is laid out like the weights that [`Surface::set_weights`] takes.
    pub fn vector(&self, laid_out: &[f32]) -> Vec<f64> {
        let of = |spec: &WeightSpec| laid_out[spec.offset..][..spec.len()].iter();
        self.table.specs().iter().flat_map(of).map(|x| f64::from(*x)).collect()
    }

    /// The same with gaps, of zeros.
    pub(super) fn spread(&self, vector: &[f64], to: &mut [f32]) {
        let mut from = vector.iter();
        for spec in self.table.specs() {
            to[spec.offset..][..spec.len()].iter_mut().zip(&mut from).for_each(|(to, from)| *to = *from as f32);
        }
    }
}

impl Symmetric for Surface {
    fn size(&self) -> usize {
        self.table.parameters()
    }

    fn together(&self) -> usize {
        self.together
    }

    fn times(&mut self, vectors: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
        let len = self.table.len();
        let mut found = Vec::with_capacity(vectors.len());
        for some in vectors.chunks(self.together) {
            let mut along = vec![0.0; self.together * len];
            for (vector, along) in some.iter().zip(along.chunks_exact_mut(len)) {
                self.spread(vector, along);
            }
            self.gpu.queue().write_buffer(&self.directions, 0, bytemuck::cast_slice(&along));
            self.run();
            let words = read_now(&self.gpu, &self.products, 0..4 * (some.len() * len) as u64)?;
            found.extend(words.chunks_exact(len).map(|words| self.gather(words)));
        }
        Ok(found)
    }
}
