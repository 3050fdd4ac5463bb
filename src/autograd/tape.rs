//! The tape: variables with shapes, ops in the order in which they were recorded.

use std::sync::Arc;

use super::Array;
use super::op::Op;
use crate::error::{Error, Result};
use crate::gpu::STEP;

/// Element type. Both are 32 bits wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DType {
    /// Numbers that are computed with.
    F32,
    /// Token ids, row numbers, classes.
    U32,
}

/// Dimensions of one replica's copy, and whether each replica has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Dimensions, outermost first.
    pub dims: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// `true`: one copy per replica. `false`: one copy shared by all.
    pub owned: bool,
}

impl Shape {
    /// Floats, owned per replica.
    pub fn f32(dims: &[usize]) -> Self {
        Self { dims: dims.to_vec(), dtype: DType::F32, owned: true }
    }

    /// Indices, owned per replica.
    pub fn u32(dims: &[usize]) -> Self {
        Self { dims: dims.to_vec(), dtype: DType::U32, owned: true }
    }

    /// The same, shared by all replicas.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.owned = false;
        self
    }

    /// The same dimensions and ownership as `self`, with other dimensions.
    #[must_use]
    pub fn with_dims(&self, dims: &[usize]) -> Self {
        Self { dims: dims.to_vec(), ..self.clone() }
    }

    /// Elements of one copy.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether a copy holds no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Product of the leading dimensions and size of the last.
    pub fn rows(&self) -> (usize, usize) {
        let columns = self.dims.last().copied().unwrap_or(1);
        (self.len() / columns.max(1), columns)
    }
}

/// Floats of these dimensions, owned where any input is.
pub(crate) fn like(inputs: &[&Shape], dims: &[usize]) -> Shape {
    Shape { owned: inputs.iter().any(|s| s.owned), ..Shape::f32(dims) }
}

/// Indices of these dimensions, owned where any input is.
pub(crate) fn like_u32(inputs: &[&Shape], dims: &[usize]) -> Shape {
    Shape { owned: inputs.iter().any(|s| s.owned), ..Shape::u32(dims) }
}

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(u32);

impl Var {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone)]
pub(super) enum Source {
    /// Given by whoever compiles or evaluates the tape.
    Input,
    /// Known now: uploaded once.
    Constant(Arc<[u32]>),
    /// Output of a node.
    Op,
    /// The same memory as another variable, with other dimensions.
    Alias(Var),
}

struct VarInfo {
    shape: Shape,
    source: Source,
    name: Option<String>,
}

pub(super) struct Node {
    pub(super) op: Arc<dyn Op>,
    pub(super) inputs: Vec<Var>,
    pub(super) outputs: Vec<Var>,
    pub(super) every: u64,
    /// Who appended it.
    pub(super) scope: &'static str,
    /// Its products may be of f16.
    pub(super) halves: bool,
    /// Runs even if nobody reads its outputs.
    pub(super) effect: bool,
}

/// When an op runs, and who it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct When {
    /// It runs at steps that this divides.
    pub(super) every: u64,
    /// [`STEP`], or an instrument.
    pub(super) scope: &'static str,
}

impl When {
    /// Whenever one of two readers does; for the step where one is the step, else for the first.
    fn and(self, later: Self) -> Self {
        let scope = if later.scope == STEP { STEP } else { self.scope };
        Self { every: gcd(self.every, later.every), scope }
    }
}

/// The greatest common divisor.
pub(crate) fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Ops in order. Pure data: nothing touches a device before [`Tape::compile`].
pub struct Tape {
    replicas: u32,
    vars: Vec<VarInfo>,
    nodes: Vec<Node>,
    every: u64,
    scope: &'static str,
    halves: bool,
}

impl Tape {
    /// An empty tape for `replicas` copies of a model.
    pub fn new(replicas: u32) -> Self {
        Self { replicas: replicas.max(1), vars: Vec::new(), nodes: Vec::new(), every: 1, scope: STEP, halves: false }
    }

    /// Number of replicas R.
    pub fn replicas(&self) -> u32 {
        self.replicas
    }

    fn var(&mut self, shape: Shape, source: Source) -> Var {
        self.vars.push(VarInfo { shape, source, name: None });
        Var((self.vars.len() - 1) as u32)
    }

    /// A value that is bound when the tape is compiled.
    pub fn input(&mut self, name: &str, shape: Shape) -> Var {
        let var = self.var(shape, Source::Input);
        self.vars[var.index()].name = Some(name.to_owned());
        var
    }

    /// Shared floats that never change.
    pub fn constant(&mut self, dims: &[usize], data: &[f32]) -> Var {
        let bits: Vec<u32> = data.iter().map(|x| x.to_bits()).collect();
        self.var(Shape::f32(dims).shared(), Source::Constant(bits.into()))
    }

    /// Indices that never change: one copy shared by all, or one per replica, replica by replica.
    pub fn constant_u32(&mut self, dims: &[usize], data: &[u32]) -> Var {
        let len: usize = dims.iter().product();
        let owned = data.len() != len;
        debug_assert!(!owned || data.len() == len * self.replicas as usize, "constant of the wrong length");
        let shape = Shape { owned, ..Shape::u32(dims) };
        self.var(shape, Source::Constant(data.into()))
    }

    /// Floats that never change, one copy per replica, replica by replica.
    pub fn constant_owned(&mut self, dims: &[usize], data: &[f32]) -> Var {
        debug_assert_eq!(data.len(), dims.iter().product::<usize>() * self.replicas as usize);
        let bits: Vec<u32> = data.iter().map(|x| x.to_bits()).collect();
        self.var(Shape::f32(dims), Source::Constant(bits.into()))
    }

    /// The same memory with other dimensions.
    ///
    /// # Errors
    /// [`Error::Shape`] where the number of elements differs.
    pub fn reshape(&mut self, var: Var, dims: &[usize]) -> Result<Var> {
        let shape = self.shape(var).with_dims(dims);
        if shape.len() != self.shape(var).len() {
            return Err(Error::Shape { op: "reshape", detail: format!("{:?} to {dims:?}", self.shape(var).dims) });
        }
        Ok(if shape == *self.shape(var) { var } else { self.var(shape, Source::Alias(var)) })
    }

    /// Appends an op and returns its outputs. Some ops on constants are worked out at once.
    ///
    /// # Errors
    /// [`Error::Shape`] from the op's shape rule.
    pub fn push(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Vec<Var>> {
        self.append(op, inputs, false)
    }

    /// Appends an op that has one output.
    ///
    /// # Errors
    /// [`Error::Shape`] from the op's shape rule.
    pub fn push1(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Var> {
        Ok(self.append(op, inputs, false)?[0])
    }

    /// Appends an op that runs whether or not its outputs are read.
    ///
    /// # Errors
    /// [`Error::Shape`] from the op's shape rule.
    pub fn effect(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Vec<Var>> {
        self.append(op, inputs, true)
    }

    fn append(&mut self, op: impl Op + 'static, inputs: &[Var], effect: bool) -> Result<Vec<Var>> {
        let shapes = op.shapes(&inputs.iter().map(|var| self.shape(*var)).collect::<Vec<_>>())?;
        if op.folds() && inputs.iter().all(|var| matches!(self.source(*var), Source::Constant(_))) {
            return Ok(self.fold(&op, inputs, shapes));
        }
        let outputs: Vec<Var> = shapes.into_iter().map(|shape| self.var(shape, Source::Op)).collect();
        self.nodes.push(Node {
            op: Arc::new(op),
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            every: self.every,
            scope: self.scope,
            halves: self.halves,
            effect,
        });
        Ok(outputs)
    }

    /// The outputs of an op on constants, as constants.
    fn fold(&mut self, op: &dyn Op, inputs: &[Var], shapes: Vec<Shape>) -> Vec<Var> {
        let owned = shapes.iter().any(|shape| shape.owned);
        let copies = if owned { self.replicas as usize } else { 1 };
        let mut words: Vec<Vec<u32>> = vec![Vec::new(); shapes.len()];
        for replica in 0..copies {
            let operands: Vec<Array> = inputs.iter().filter_map(|var| self.constant_of(*var, replica)).collect();
            let results = op.reference(&operands.iter().collect::<Vec<_>>());
            for ((words, result), shape) in words.iter_mut().zip(results).zip(&shapes) {
                words.extend(result.data.iter().map(|x| match shape.dtype {
                    DType::F32 => (*x as f32).to_bits(),
                    DType::U32 => *x as u32,
                }));
            }
        }
        shapes.into_iter().zip(words).map(|(shape, words)| self.var(shape, Source::Constant(words.into()))).collect()
    }

    /// A constant as one replica sees it.
    fn constant_of(&self, var: Var, replica: usize) -> Option<Array> {
        let info = &self.vars[var.index()];
        let Source::Constant(bits) = &info.source else { return None };
        let first = if info.shape.owned { replica * info.shape.len() } else { 0 };
        Some(Array::from_fn(&info.shape.dims, |i| match info.shape.dtype {
            DType::F32 => f64::from(f32::from_bits(bits[first + i])),
            DType::U32 => f64::from(bits[first + i]),
        }))
    }

    /// Whether two variables are the same memory with rows of the same length.
    pub(super) fn same(&self, a: Var, b: Var) -> bool {
        self.root(a) == self.root(b) && self.shape(a).rows() == self.shape(b).rows()
    }

    /// A constant of one number that all replicas share.
    pub(super) fn constant_number(&self, var: Var) -> Option<f32> {
        match self.source(self.root(var)) {
            Source::Constant(bits) if bits.len() == 1 && self.shape(var).dtype == DType::F32 => {
                Some(f32::from_bits(bits[0]))
            }
            _ => None,
        }
    }

    /// Records what `build` appends with a cadence: it runs at steps that `every` divides.
    ///
    /// # Errors
    /// Whatever `build` returns.
    pub fn at_cadence<T>(&mut self, every: u64, build: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::replace(&mut self.every, every.max(1));
        let result = build(self);
        self.every = before;
        result
    }

    /// Records what `build` appends with products of f16 numbers, summed in f32, where `halves` says so, the products are
    /// large enough and the device has proved able ([`verify_cooperative`](super::verify_cooperative)). Ops that only
    /// instruments read keep f32.
    ///
    /// # Errors
    /// Whatever `build` returns.
    pub fn in_halves<T>(&mut self, halves: bool, build: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::replace(&mut self.halves, halves);
        let result = build(self);
        self.halves = before;
        result
    }

    /// Sets who appends the ops that follow, and returns who did before. An op belongs to who appended it,
    /// whoever reads it later.
    pub fn in_scope(&mut self, scope: &'static str) -> &'static str {
        std::mem::replace(&mut self.scope, scope)
    }

    /// Says what a constant is, for messages.
    pub(crate) fn describe(&mut self, var: Var, what: &str) {
        self.vars[var.index()].name = Some(what.to_owned());
    }

    pub(super) fn name(&self, var: Var) -> Option<&str> {
        self.vars[var.index()].name.as_deref()
    }

    /// A variable's name, or its number.
    pub fn label(&self, var: Var) -> String {
        self.name(var).map_or_else(|| format!("value {}", var.0), ToOwned::to_owned)
    }

    /// A variable's shape.
    pub fn shape(&self, var: Var) -> &Shape {
        &self.vars[var.index()].shape
    }

    /// Number of ops recorded so far.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no op was recorded.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn source(&self, var: Var) -> &Source {
        &self.vars[var.index()].source
    }

    pub(super) fn vars(&self) -> impl Iterator<Item = Var> {
        (0..self.vars.len() as u32).map(Var)
    }

    /// The variable whose memory this one is.
    pub(super) fn root(&self, mut var: Var) -> Var {
        while let Source::Alias(of) = self.source(var) {
            var = *of;
        }
        var
    }

    /// For each node, whether `wanted` or an effect depends on it.
    pub(super) fn needed(&self, wanted: &[Var]) -> Vec<bool> {
        let mut live = vec![false; self.vars.len()];
        for var in wanted {
            live[self.root(*var).index()] = true;
        }
        let mut needed = vec![false; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate().rev() {
            if node.effect || node.outputs.iter().any(|var| live[var.index()]) {
                needed[at] = true;
                for var in &node.inputs {
                    live[self.root(*var).index()] = true;
                }
            }
        }
        needed
    }

    /// What the needed nodes read.
    pub(super) fn inputs_of<'a>(&'a self, needed: &'a [bool]) -> impl Iterator<Item = Var> + 'a {
        self.nodes.iter().zip(needed).filter(|(_, needed)| **needed).flat_map(|(node, _)| node.inputs.iter().copied())
    }

    /// When each needed node runs, and who it belongs to. What the step itself recorded, and only instruments read,
    /// runs when they do: at the steps that the greatest common divisor of their cadences divides. It belongs to
    /// the first of them.
    pub(super) fn timetable(&self, needed: &[bool], wanted: &[Var]) -> Vec<When> {
        let mut read: Vec<Option<When>> = vec![None; self.vars.len()];
        for var in wanted {
            read[self.root(*var).index()] = Some(When { every: 1, scope: STEP });
        }
        let mut times: Vec<When> =
            self.nodes.iter().map(|node| When { every: node.every, scope: node.scope }).collect();
        // From the last to the first: who reads a value is known before who makes it.
        for (at, node) in self.nodes.iter().enumerate().rev().filter(|(at, _)| needed[*at]) {
            let readers = node.outputs.iter().filter_map(|var| read[var.index()]).reduce(When::and);
            if let (Some(readers), STEP, false) = (readers, node.scope, node.effect) {
                let every = if node.every == 1 { readers.every } else { node.every };
                times[at] = When { every, ..readers };
            }
            for var in &node.inputs {
                let before = &mut read[self.root(*var).index()];
                *before = Some(before.map_or(times[at], |later| times[at].and(later)));
            }
        }
        times
    }

    /// How many recorded ops read a variable.
    pub(crate) fn readers(&self, var: Var) -> usize {
        let root = self.root(var);
        self.nodes.iter().flat_map(|node| &node.inputs).filter(|input| self.root(**input) == root).count()
    }

    /// Whether the variable is the output of an op.
    pub(crate) fn is_computed(&self, var: Var) -> bool {
        matches!(self.source(self.root(var)), Source::Op)
    }

    /// Values of the constants as one replica sees them, for the interpreter.
    pub(super) fn constants(&self, replica: usize) -> Vec<Option<Array>> {
        self.vars().map(|var| self.constant_of(var, replica)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ops::Scale;
    use super::*;

    #[test]
    fn what_only_instruments_read_runs_when_they_do() {
        let mut tape = Tape::new(1);
        let x = tape.input("x", Shape::f32(&[4]));
        let double = |tape: &mut Tape, x| tape.push1(Scale(2.0), &[x]).unwrap();
        let (first, shared, chain) = (double(&mut tape, x), double(&mut tape, x), double(&mut tape, x));
        let link = double(&mut tape, chain);
        let trained = double(&mut tape, first);
        let mut at = |scope, every, x| {
            tape.in_scope(scope);
            tape.at_cadence(every, |tape| tape.push1(Scale(3.0), &[x])).unwrap()
        };
        let wanted = [at("a", 10, first), at("a", 20, shared), at("b", 15, shared), at("b", 100, link), trained];
        let needed = tape.needed(&wanted);
        let when = |every, scope| When { every, scope };
        let expected = [
            when(1, STEP),
            when(5, "a"),
            when(100, "b"),
            when(100, "b"),
            when(1, STEP),
            when(10, "a"),
            when(20, "a"),
            when(15, "b"),
            when(100, "b"),
        ];
        assert_eq!(tape.timetable(&needed, &wanted), expected);
    }
}
