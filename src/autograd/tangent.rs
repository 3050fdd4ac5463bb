//! Forward differentiation: appends tangents to the tape, of a forward pass and of its gradients alike. The tangent of a
//! gradient along v is the Hessian times v, exact but for rounding.
//!
//! Directions are replicas. Weights that all replicas share have one pass and one gradient; what moves along a direction of
//! each replica's own is owned, and so are the tangents alone. Nothing of the pass is computed twice, and no op knows.
//!
//! The rule every `jvp` keeps: what it returns is linear in the tangents it is given, and an output that is kept for the
//! gradient (`Op::keeps`) has none. A gradient op that reads one reads what it was made of too, and states its own tangent
//! from that. An op is checked like its gradient: in the middle of a graph, against f64, and that against differences of
//! gradients (`Case::check_tangents`).

use super::op::Links;
use super::ops::{Add, AddBias, GatherRows, Scale};
use super::{Op, Tape, Var};
use crate::error::{Error, Result};

impl Tape {
    /// Appends ops that compute how each variable of `of` moves where others move along `directions`: pairs of a variable and
    /// its tangent, of equal dimensions. `None` for one that does not move.
    ///
    /// # Errors
    /// [`Error::Shape`] where a direction has other dimensions than its variable; [`Error::Unsupported`] where an op on the
    /// way has no forward derivative.
    pub fn tangent(&mut self, directions: &[(Var, Var)], of: &[Var]) -> Result<Vec<Option<Var>>> {
        let leads = self.leads_to(of);
        // By the variable's number: its tangent; and for what is only kept, the node that moves it.
        let mut tangents: Vec<Option<Var>> = vec![None; self.vars().count()];
        let mut kept: Vec<Option<usize>> = vec![None; self.vars().count()];
        for (var, direction) in directions {
            let (root, dims) = (self.root(*var), self.shape(*var).dims.clone());
            if self.shape(*direction).dims != dims {
                let detail = format!("{dims:?} along {:?}", self.shape(*direction).dims);
                return Err(Error::Shape { op: "tangent", detail });
            }
            let dims = self.shape(root).dims.clone();
            tangents[root.index()] = Some(self.reshape(*direction, &dims)?);
        }
        let unknown = |tape: &Self, maker: usize, var: Var| {
            let (what, op) = (tape.label(var), tape.nodes()[maker].op.name());
            Error::Unsupported(format!("{what} of {op} is measured or kept for a gradient, and has no tangent"))
        };
        for (at, leads) in leads.into_iter().enumerate() {
            if !leads {
                continue;
            }
            let node = &self.nodes()[at];
            let op = std::sync::Arc::clone(&node.op);
            let (inputs, outputs) = (node.inputs.clone(), node.outputs.clone());
            let roots: Vec<Var> = inputs.iter().map(|var| self.root(*var)).collect();
            if roots.iter().all(|root| tangents[root.index()].is_none() && kept[root.index()].is_none()) {
                continue;
            }
            for root in &roots {
                let Some(maker) = kept[root.index()] else { continue };
                let beside = self.nodes()[maker].inputs.iter().any(|var| roots.contains(&self.root(*var)));
                if !beside {
                    return Err(unknown(self, maker, *root));
                }
            }
            let incoming: Vec<Option<Var>> = inputs
                .iter()
                .zip(&roots)
                .map(|(var, root)| {
                    let dims = self.shape(*var).dims.clone();
                    tangents[root.index()].map(|tangent| self.reshape(tangent, &dims)).transpose()
                })
                .collect::<Result<_>>()?;
            if incoming.iter().all(Option::is_none) {
                continue;
            }
            let found = op.jvp(self, &Links { inputs: &inputs, outputs: &outputs }, &incoming)?;
            debug_assert_eq!(found.len(), outputs.len(), "jvp of {}", op.name());
            for (output, (var, tangent)) in outputs.iter().zip(found).enumerate() {
                let dims = self.shape(*var).dims.clone();
                tangents[var.index()] = tangent.map(|tangent| self.reshape(tangent, &dims)).transpose()?;
                kept[var.index()] = op.keeps(output).then_some(at);
            }
        }
        of.iter()
            .map(|var| {
                let (root, dims) = (self.root(*var), self.shape(*var).dims.clone());
                match kept[root.index()] {
                    Some(maker) => Err(unknown(self, maker, root)),
                    None => tangents[root.index()].map(|tangent| self.reshape(tangent, &dims)).transpose(),
                }
            })
            .collect()
    }

    /// For each node, whether one of `of` depends on it.
    fn leads_to(&self, of: &[Var]) -> Vec<bool> {
        let mut live = vec![false; self.vars().count()];
        of.iter().for_each(|var| live[self.root(*var).index()] = true);
        let mut leads = vec![false; self.len()];
        for (at, node) in self.nodes().iter().enumerate().rev() {
            if node.outputs.iter().any(|var| live[var.index()]) {
                leads[at] = true;
                node.inputs.iter().for_each(|var| live[self.root(*var).index()] = true);
            }
        }
        leads
    }

    /// The sum of those terms that are there.
    pub(super) fn total(&mut self, terms: &[Option<Var>]) -> Result<Option<Var>> {
        let mut there = terms.iter().copied().flatten();
        let Some(mut sum) = there.next() else { return Ok(None) };
        for term in there {
            let dims = self.shape(sum).dims.clone();
            let term = self.reshape(term, &dims)?;
            sum = self.push1(Add, &[sum, term])?;
        }
        Ok(Some(sum))
    }

    /// Tangents of the outputs of an op by those inputs in each of which alone it is linear: the sum of the op with one of
    /// them replaced by its tangent.
    pub(super) fn by_linear(
        &mut self,
        op: &(impl Op + Clone + 'static),
        node: &Links<'_>,
        tangents: &[Option<Var>],
        linear: &[usize],
    ) -> Result<Vec<Option<Var>>> {
        let mut sums: Vec<Option<Var>> = vec![None; node.outputs.len()];
        for at in linear {
            let Some(tangent) = tangents.get(*at).copied().flatten() else { continue };
            let mut inputs = node.inputs.to_vec();
            inputs[*at] = tangent;
            for (sum, term) in sums.iter_mut().zip(self.push(op.clone(), &inputs)?) {
                *sum = self.total(&[*sum, Some(term)])?;
            }
        }
        Ok(sums)
    }

    /// The same of an op that is linear in nothing else.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where another of its inputs moves.
    pub(super) fn linear_tangent(
        &mut self,
        op: &(impl Op + Clone + 'static),
        node: &Links<'_>,
        tangents: &[Option<Var>],
        linear: &[usize],
    ) -> Result<Vec<Option<Var>>> {
        let other = (0..tangents.len()).find(|at| tangents[*at].is_some() && !linear.contains(at));
        if let Some(at) = other {
            return Err(Error::Unsupported(format!("{} has no forward derivative by its input {at}", op.name())));
        }
        self.by_linear(op, node, tangents, linear)
    }

    /// `factor` times a term, if it is there.
    pub(super) fn scaled(&mut self, factor: f32, term: Option<Var>) -> Result<Option<Var>> {
        term.map(|term| self.push1(Scale(factor), &[term])).transpose()
    }

    /// A sum [N, C] with a bias [C] in each of its N rows, of what is there.
    pub(super) fn biased(&mut self, sum: Option<Var>, bias: Option<Var>, rows: usize) -> Result<Option<Var>> {
        let Some(bias) = bias else { return Ok(sum) };
        if let Some(sum) = sum {
            return self.push1(AddBias, &[sum, bias]).map(Some);
        }
        let columns = self.shape(bias).len();
        let table = self.reshape(bias, &[1, columns])?;
        let first = self.constant_u32(&[rows], &vec![0; rows]);
        self.push1(GatherRows, &[table, first]).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Case;
    use super::super::ops::{CrossEntropy, MultiplyScalar, Norm, NormKind};
    use super::*;

    #[test]
    fn directions_share_what_does_not_move() {
        let mut case = Case::new("shared");
        let (x, along) = (case.shared(&[3, 4]), case.owned(&[3, 4]));
        let factor = case.shared(&[1]);
        let y = case.tape.push1(MultiplyScalar, &[x, factor]).unwrap();
        let moved = case.tape.tangent(&[(x, along)], &[y, factor]).unwrap();
        assert_eq!(moved[1], None, "nothing moves it");
        let owned = |var: Var| case.tape.shape(var).owned;
        assert_eq!((owned(y), owned(moved[0].unwrap())), (false, true));
        case.agree(&[moved[0].unwrap()], 1e-6);
    }

    #[test]
    fn what_is_kept_for_a_gradient_has_no_tangent_that_anybody_could_take_for_one() {
        let mut case = Case::new("kept");
        let (x, along) = (case.owned(&[3, 8]), case.owned(&[3, 8]));
        let norm = Norm { kind: NormKind::Layer, weight: false, bias: false, eps: 1e-5 };
        let out = case.tape.push(norm, &[x]).unwrap();
        let double = case.tape.push1(Scale(2.0), &[out[2]]).unwrap();
        let targets = case.indices(&[3], 8, false);
        let rows = case.tape.push(CrossEntropy, &[out[0], targets]).unwrap();
        for of in [out[1], out[2], double, rows[2], rows[3]] {
            let error = case.tape.tangent(&[(x, along)], &[of]).unwrap_err().to_string();
            assert!(error.contains("has no tangent"), "{error}");
        }
        assert!(case.tape.tangent(&[(x, along)], &[out[0], rows[0]]).unwrap().iter().all(Option::is_some));
        // Of what is right the derivative is 0, wherever there is one.
        assert_eq!(case.tape.tangent(&[(x, along)], &[rows[1]]).unwrap(), [None]);
        let error = case.tape.tangent(&[(x, out[2])], &[out[0]]).unwrap_err().to_string();
        assert!(error.contains("[3, 8] along [3]"), "{error}");
    }
}
