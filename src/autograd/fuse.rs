//! What one kernel can do together, found when a tape is compiled: ops are recorded one by one, with a gradient and a
//! reference each, and run with fewer dispatches. Every value that anybody else reads is still written.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use super::ops::{
    Activation, ActivationGrad, Add, ColumnSum, CrossEntropy, CrossEntropyGrad, Follow, GatherRows, Join, Linear,
    LogitRows, Loss, Product, ScatterRows, Split, SpreadMean, TransposedProduct,
};
use super::tape::{Node, When};
use super::{Lower, Op, Tape, Var};
use crate::error::Result;
use crate::gpu::{STEP, Storage, Tensor};

/// What is recorded as one.
pub(super) enum What {
    /// An op as it stands on the tape.
    Op(Arc<dyn Op>),
    /// A product with weights, and what follows it.
    Product(Product),
    /// The gradients of a weight and of the bias beside it.
    WeightGrads(TransposedProduct),
    /// A loss, and what else is taken of its logits.
    Loss(Loss),
    /// Two sums of the same rows by different numbers: gradients of tokens and positions.
    Scatters,
}

/// A part of the program, with the variables it reads and writes.
pub(super) struct Step {
    pub(super) what: What,
    pub(super) inputs: Vec<Var>,
    pub(super) outputs: Vec<Var>,
    pub(super) when: When,
    /// Whether its products may be of f16. What only instruments read is f32, wherever it was recorded.
    pub(super) halves: bool,
    /// Whether it changes memory that others read.
    effect: bool,
}

impl Step {
    pub(super) fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        match &self.what {
            What::Op(op) => op.lower(cx, inputs, outputs),
            What::Product(product) => product.lower(cx, inputs, outputs),
            What::WeightGrads(product) => product.lower_with_sums(cx, inputs, outputs),
            What::Loss(loss) => loss.lower(cx, inputs, outputs),
            What::Scatters => ScatterRows::lower_both(cx, inputs, outputs),
        }
    }
}

/// The op of a node, if it is a `T`.
fn is<T: Op>(node: &Node) -> Option<&T> {
    (&*node.op as &dyn Any).downcast_ref()
}

/// The steps of a program while they are put together; a node that another took in is gone.
struct Fusion<'a> {
    tape: &'a Tape,
    steps: Vec<Option<Step>>,
    /// The step that makes each variable.
    maker: Vec<Option<usize>>,
    /// How many steps read each variable; one that is bound has a reader more.
    readers: Vec<usize>,
    /// Number of steps with side effects before each.
    effects: Vec<usize>,
}

impl Tape {
    /// The needed nodes in order, fused where they can be.
    pub(super) fn fused(&self, needed: &[bool], times: &[When], wanted: &[Var]) -> Vec<Step> {
        let count = self.vars().count();
        let mut fusion = Fusion {
            tape: self,
            steps: Vec::new(),
            maker: vec![None; count],
            readers: vec![0; count],
            effects: Vec::new(),
        };
        for var in wanted {
            fusion.readers[self.root(*var).index()] += 1;
        }
        let mut effects = 0;
        for (at, node) in self.nodes().iter().enumerate() {
            fusion.effects.push(effects);
            effects += usize::from(needed[at] && node.effect);
            fusion.steps.push(needed[at].then(|| Step {
                what: if let Some(linear) = is::<Linear>(node) {
                    What::Product(Product::from(*linear))
                } else if let Some(entropy) = is::<CrossEntropy>(node) {
                    What::Loss(Loss::from(*entropy))
                } else {
                    What::Op(Arc::clone(&node.op))
                },
                inputs: node.inputs.clone(),
                outputs: node.outputs.clone(),
                when: times[at],
                halves: node.halves && times[at].scope == STEP,
                effect: node.effect,
            }));
            if needed[at] {
                node.outputs.iter().for_each(|var| fusion.maker[var.index()] = Some(at));
                node.inputs.iter().for_each(|var| fusion.readers[self.root(*var).index()] += 1);
            }
        }
        for at in (0..self.len()).filter(|at| needed[*at]) {
            fusion.look(at);
        }
        fusion.steps.into_iter().flatten().collect()
    }
}

/// The memory of variables that lie one behind the other, as one.
fn side_by_side(tape: &Tape, vars: &[Var], places: &HashMap<Var, Storage>) -> Option<Storage> {
    let mut whole: Option<(Storage, u64)> = None;
    for var in vars {
        let (storage, len) = (places.get(&tape.root(*var))?, tape.shape(*var).len() as u64);
        whole = match whole {
            None => Some((storage.clone(), len)),
            Some((first, so_far)) => {
                let next = first.buffer == storage.buffer
                    && first.replica_stride == storage.replica_stride
                    && first.offset + so_far == storage.offset;
                if !next {
                    return None;
                }
                Some((first, so_far + len))
            }
        };
    }
    whole.map(|(storage, _)| storage)
}

/// Drops what joins values that lie side by side, and what takes values apart that shall lie so: the whole is where
/// its parts are. `places` knows where bound variables lie, and learns where the wholes do.
pub(super) fn join_in_place(tape: &Tape, steps: &mut Vec<Step>, places: &mut HashMap<Var, Storage>) {
    let is_read = |step: &Step, var: Var| step.inputs.iter().any(|input| tape.root(*input) == var);
    let mut at = 0;
    while at < steps.len() {
        let step = &steps[at];
        let What::Op(op) = &step.what else {
            at += 1;
            continue;
        };
        let op = &**op as &dyn Any;
        let (whole, parts, safe) = if op.is::<Join>() {
            let whole = step.outputs[0];
            // Those who read it later than memory changes would see the change.
            let late = steps[at..].iter().skip_while(|step| !step.effect).any(|step| is_read(step, whole));
            (whole, &step.inputs, !late)
        } else if op.is::<Split>() {
            let whole = tape.root(step.inputs[0]);
            (whole, &step.outputs, steps[..at].iter().any(|step| step.outputs.contains(&whole)))
        } else {
            at += 1;
            continue;
        };
        let free = safe && !places.contains_key(&whole);
        match side_by_side(tape, parts, places).filter(|_| free) {
            Some(storage) => {
                places.insert(whole, storage);
                steps.remove(at);
            }
            None => at += 1,
        }
    }
}

impl Fusion<'_> {
    /// Fuses a node with those before it, where it fits.
    fn look(&mut self, at: usize) {
        let node = &self.tape.nodes()[at];
        if let Some(Activation(act)) = is(node) {
            self.activation(at, *act);
        } else if let Some(ActivationGrad(act)) = is(node) {
            if let Some((from, mut product)) = self.product(at, node.inputs[0]) {
                product.follow = Follow::Slope(*act);
                self.take_in(from, at, product, &[node.inputs[1]]);
            }
        } else if is::<Add>(node).is_some() {
            for (mine, other) in [(1, 0), (0, 1)] {
                let found = self.product(at, node.inputs[mine]).filter(|(_, product)| !product.linear.residual);
                if let Some((from, mut product)) = found {
                    product.linear.residual = true;
                    self.take_in(from, at, product, &[node.inputs[other]]);
                    return;
                }
            }
        } else if is::<Linear>(node).is_some_and(|linear| linear.residual) {
            self.picked_residual(at);
        } else if is::<ColumnSum>(node).is_some() {
            self.bias_gradient(at, node.inputs[0]);
        } else if is::<ScatterRows>(node).is_some() {
            self.second_scatter(at);
        } else if is::<CrossEntropyGrad>(node).is_some() {
            self.loss_gradient(at);
        } else if is::<LogitRows>(node).is_some() {
            self.logit_rows(at, node.inputs[0]);
        } else if is::<CrossEntropy>(node).is_some() {
            let kept = self.tape.root(node.outputs[3]).index();
            if let (0, Some(Step { what: What::Loss(loss), outputs, .. })) = (self.readers[kept], &mut self.steps[at]) {
                loss.save = false;
                outputs.truncate(3);
            }
        }
    }

    /// The step that makes a variable, if it runs when node `at` does and nothing changes memory in between.
    fn made_by(&self, at: usize, var: Var) -> Option<usize> {
        let from = self.maker[self.tape.root(var).index()]?;
        self.together(from, at).then_some(from)
    }

    /// Whether two nodes run at the same steps, for the same reader, and nothing changes memory between them.
    fn together(&self, from: usize, at: usize) -> bool {
        let when = |at: usize| self.steps[at].as_ref().map(|step| step.when);
        when(from).is_some() && when(from) == when(at) && self.effects[from] == self.effects[at]
    }

    /// Whether one step alone reads a variable.
    fn read_once(&self, var: Var) -> bool {
        self.readers[self.tape.root(var).index()] == 1
    }

    /// Whether a variable is made behind node `at`.
    fn made_after(&self, var: Var, at: usize) -> bool {
        self.maker[self.tape.root(var).index()].is_some_and(|made| made > at)
    }

    /// The product that makes a variable for node `at` alone, if nothing follows it yet.
    fn product(&self, at: usize, var: Var) -> Option<(usize, Product)> {
        let from = self.made_by(at, var)?;
        match self.steps[from].as_ref()?.what {
            What::Product(product) if product.follow == Follow::Nothing => {
                self.read_once(var).then_some((from, product))
            }
            _ => None,
        }
    }

    /// Step `from` becomes part of node `at`, whose place it takes with more inputs.
    fn take_in(&mut self, from: usize, at: usize, product: Product, more: &[Var]) {
        let Some(mut step) = self.steps[from].take() else { return };
        step.inputs.extend(more);
        step.outputs.clone_from(&self.tape.nodes()[at].outputs);
        step.what = What::Product(product);
        self.steps[at] = Some(step);
    }

    /// An activation is taken where the product that it is of is stored.
    fn activation(&mut self, at: usize, act: super::ops::ActFn) {
        let node = &self.tape.nodes()[at];
        let Some(from) = self.made_by(at, node.inputs[0]) else { return };
        let read_elsewhere = self.readers[self.tape.root(node.inputs[0]).index()] > 1;
        let Some(step) = &mut self.steps[from] else { return };
        let What::Product(product) = &mut step.what else { return };
        if product.follow != Follow::Nothing {
            return;
        }
        product.follow = Follow::Activation(act);
        step.outputs.insert(0, node.outputs[0]);
        step.outputs.truncate(1 + usize::from(read_elsewhere));
        self.maker[node.outputs[0].index()] = Some(from);
        self.steps[at] = None;
    }

    /// Rows that are picked for nothing but to be added are picked where they are added.
    fn picked_residual(&mut self, at: usize) {
        let node = &self.tape.nodes()[at];
        let Some(residual) = node.inputs.last().copied() else { return };
        let Some(from) = self.made_by(at, residual) else { return };
        let gather = &self.tape.nodes()[from];
        if is::<GatherRows>(gather).is_none() || gather.inputs.len() != 2 || !self.read_once(residual) {
            return;
        }
        let Some(Step { what: What::Product(product), inputs, .. }) = &mut self.steps[at] else { return };
        product.picked = true;
        inputs.pop();
        inputs.extend(&gather.inputs);
        self.steps[from] = None;
    }

    /// The sums of a gradient's columns come with its product with the input: a bias beside a weight.
    fn bias_gradient(&mut self, at: usize, dy: Var) {
        let tape = self.tape;
        let beside = (0..at).rev().take(2).find(|from| {
            let node = &tape.nodes()[*from];
            is::<TransposedProduct>(node).is_some() && tape.same(node.inputs[1], dy)
        });
        let Some(from) = beside.filter(|from| self.together(*from, at)) else { return };
        let Some(product) = is::<TransposedProduct>(&tape.nodes()[from]) else { return };
        let Some(step) = &mut self.steps[from] else { return };
        if matches!(step.what, What::Op(_)) {
            step.what = What::WeightGrads(product.clone());
            step.outputs.extend(&tape.nodes()[at].outputs);
            self.steps[at] = None;
        }
    }

    /// The sum of the same rows by other numbers comes with the first.
    fn second_scatter(&mut self, at: usize) {
        let tape = self.tape;
        let (x, node) = (tape.nodes()[at].inputs[0], &tape.nodes()[at]);
        let first = (0..at).rev().find(|from| {
            let earlier = &tape.nodes()[*from];
            is::<ScatterRows>(earlier).is_some() && tape.same(earlier.inputs[0], x)
        });
        let Some(from) = first.filter(|from| self.together(*from, at)) else { return };
        // The lists of the second must be there when the first is computed.
        if node.inputs[1..].iter().any(|var| self.made_after(*var, from)) {
            return;
        }
        let Some(step) = &mut self.steps[from] else { return };
        if matches!(step.what, What::Op(_)) {
            step.what = What::Scatters;
            step.inputs.extend(&node.inputs[1..]);
            step.outputs.extend(&node.outputs);
            self.steps[at] = None;
        }
    }

    /// The gradient of a mean loss is written with the losses, where its factor is known before.
    fn loss_gradient(&mut self, at: usize) {
        let tape = self.tape;
        let node = &tape.nodes()[at];
        let [z, targets, kept, d] = node.inputs[..] else { return };
        let (Some(from), Some(spread)) = (self.made_by(at, kept), self.made_by(at, d)) else { return };
        let (loss, mean) = (&tape.nodes()[from], &tape.nodes()[spread]);
        if is::<SpreadMean>(mean).is_none()
            || loss.inputs[..2] != [z, targets]
            || !(self.read_once(kept) && self.read_once(d))
            || self.made_after(mean.inputs[1], from)
        {
            return;
        }
        let Some(factor) = tape.constant_number(mean.inputs[0]) else { return };
        let Some(Step { what: What::Loss(fused), inputs, outputs, .. }) = &mut self.steps[from] else { return };
        fused.save = false;
        fused.gradient = Some(factor);
        inputs.push(mean.inputs[1]);
        outputs[3] = node.outputs[0];
        self.maker[node.outputs[0].index()] = Some(from);
        self.steps[at] = None;
        self.steps[spread] = None;
    }

    /// What is measured of the rows of logits is taken with the loss, whoever asks for it at the same steps.
    fn logit_rows(&mut self, at: usize, z: Var) {
        let tape = self.tape;
        let (every, effects) = (self.steps[at].as_ref().map(|step| step.when.every), &self.effects);
        let mut earlier = self.steps[..at].iter_mut().enumerate();
        let found = earlier.find_map(|(from, step)| match step {
            Some(Step { what: What::Loss(loss), inputs, outputs, when, .. }) if !loss.logits => {
                let fits = tape.same(inputs[0], z) && Some(when.every) == every && effects[from] == effects[at];
                fits.then_some((loss, outputs))
            }
            _ => None,
        });
        let Some((loss, outputs)) = found else { return };
        loss.logits = true;
        outputs.extend(&tape.nodes()[at].outputs);
        self.steps[at] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Case;
    use super::super::ops::{ActFn, Copy, IGNORE, MeanRows};
    use super::*;
    use crate::gpu::{Class, Gpu};

    /// Ten roundings or so of sums of a few dozen terms.
    const TOLERANCE: f64 = 5e-6;

    fn count(case: &Case, wanted: &[Var]) -> usize {
        let needed = case.tape.needed(wanted);
        case.tape.fused(&needed, &case.tape.timetable(&needed, wanted), wanted).len()
    }

    fn product(case: &mut Case) -> Var {
        let (x, w) = (case.owned(&[31, 12]), case.owned(&[12, 20]));
        case.tape.push1(Linear::default(), &[x, w]).unwrap()
    }

    #[test]
    fn a_product_takes_in_what_follows_and_still_writes_what_others_read() {
        let mut case = Case::new("product, sum, activation");
        let y = product(&mut case);
        let r = case.owned(&[31, 20]);
        let sum = case.tape.push1(Add, &[r, y]).unwrap();
        let active = case.tape.push1(Activation(ActFn::Gelu), &[sum]).unwrap();
        assert_eq!(count(&case, &[active]), 1);
        assert_eq!(count(&case, &[sum, active]), 1, "the sum is kept beside its activation");
        assert_eq!(count(&case, &[y, active]), 3, "whoever reads the product gets it, and nothing is taken in");
        for wanted in [vec![active], vec![sum, active], vec![y, sum, active]] {
            case.agree(&wanted, TOLERANCE);
        }
        // The way back: the slope within one product, the bias's gradient within another.
        let (w2, b) = (case.owned(&[20, 8]), case.owned(&[8]));
        let out = case.tape.push1(Linear { bias: true, ..Linear::default() }, &[active, w2, b]).unwrap();
        let grads = case.gradients(out, &[r, w2, b]).unwrap().1;
        let before = count(&case, &grads[1..]);
        assert_eq!(count(&case, &grads), before + 1, "the slope costs no kernel of its own");
        assert_eq!(count(&case, &[grads[1]]), before, "nor does the bias");
        case.agree(&grads, TOLERANCE);
    }

    #[test]
    fn rows_are_picked_where_they_are_added() {
        let mut case = Case::new("picked residual");
        let (x, w, table) = (case.owned(&[31, 12]), case.owned(&[12, 20]), case.owned(&[5, 20]));
        let index = case.indices(&[31], 5, true);
        let rows = case.tape.push1(GatherRows, &[table, index]).unwrap();
        let y = case.tape.push1(Linear { residual: true, ..Linear::default() }, &[x, w, rows]).unwrap();
        assert_eq!((count(&case, &[y]), count(&case, &[rows, y])), (1, 2));
        case.agree(&[y], TOLERANCE);
        case.agree(&[rows, y], TOLERANCE);
    }

    #[test]
    fn other_steps_and_changed_memory_keep_ops_apart() {
        let mut case = Case::new("apart");
        let y = product(&mut case);
        let rare = case.tape.at_cadence(10, |tape| tape.push1(Activation(ActFn::Relu), &[y])).unwrap();
        let often = case.tape.push1(Activation(ActFn::Silu), &[y]).unwrap();
        assert_eq!(count(&case, &[rare, often]), 2, "the rare one alone");
        let mut case = Case::new("effect");
        let y = product(&mut case);
        let other = case.owned(&[31, 20]);
        case.tape.effect(Copy, &[other]).unwrap();
        let sum = case.tape.push1(Add, &[y, other]).unwrap();
        assert_eq!(count(&case, &[sum]), 3, "what the effect changes may be what the sum reads");
    }

    #[test]
    fn a_loss_brings_its_gradient_and_what_is_measured_of_logits() {
        let mut case = Case::new("loss and gradient");
        let z = case.owned(&[64, 9]);
        let targets: Vec<u32> = (0..64).map(|i| if i % 7 == 3 { IGNORE } else { i % 9 }).collect();
        let targets = case.tape.constant_u32(&[64], &targets);
        let number = case.tape.constant(&[1], &[55.0]);
        let rows = case.tape.push(CrossEntropy, &[z, targets]).unwrap();
        let loss = case.tape.push1(MeanRows, &[rows[0], number]).unwrap();
        let gradient = case.tape.backward(loss, &[z]).unwrap()[0].unwrap();
        let logits = case.tape.push1(LogitRows, &[z]).unwrap();
        assert_eq!(count(&case, &[gradient, logits]), 1);
        assert_eq!(count(&case, &[gradient, rows[3]]), 3, "who reads what is kept for the gradient gets it");
        case.agree(&[loss, gradient, logits], TOLERANCE);
        case.agree(&[rows[0], gradient, rows[3]], TOLERANCE);
    }

    #[test]
    fn two_sums_of_the_same_rows_are_one() {
        let mut case = Case::new("two sums");
        let (tokens, positions) = (case.owned(&[7, 8]), case.owned(&[5, 8]));
        let (token, position) = (case.indices(&[257], 7, false), case.indices(&[257], 5, false));
        let x = case.tape.push1(GatherRows, &[tokens, token, positions, position]).unwrap();
        let grads = case.gradients(x, &[tokens, positions]).unwrap().1;
        assert_eq!(count(&case, &grads), count(&case, &grads[..1]));
        // Sums of some fifty terms.
        case.agree(&grads, 1e-5);
    }

    #[test]
    fn what_lies_side_by_side_is_joined_in_place() {
        let gpu = Gpu::noop();
        let buffer = gpu.buffer(Class::Weights, 256).unwrap();
        for (gap, left) in [(0, 1), (64, 2)] {
            let mut case = Case::new("side by side");
            let parts = [(); 3].map(|()| case.owned(&[4, 16]));
            let whole = case.tape.push1(Join { dims: vec![12, 16] }, &parts).unwrap();
            let double = case.tape.push1(super::super::ops::Scale(2.0), &[whole]).unwrap();
            let needed = case.tape.needed(&[double]);
            let mut steps = case.tape.fused(&needed, &case.tape.timetable(&needed, &[double]), &[double]);
            let place = |offset| Storage { buffer: buffer.clone(), offset, replica_stride: 256 };
            let mut places: HashMap<Var, Storage> =
                parts.into_iter().zip([0, 64, 128 + gap]).map(|(var, offset)| (var, place(offset))).collect();
            join_in_place(&case.tape, &mut steps, &mut places);
            assert_eq!((steps.len(), places.contains_key(&whole)), (left, gap == 0));
            case.agree(&[double], TOLERANCE);
        }
    }
}
