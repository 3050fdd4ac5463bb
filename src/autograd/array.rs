//! Values of one replica in f64, for the reference interpreter.

use super::{Shape, Tape, Var};
use crate::error::{Error, Result};

/// A dense row-major array. Integers are held exactly as f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Dimensions.
    pub dims: Vec<usize>,
    /// Elements, last dimension fastest.
    pub data: Vec<f64>,
}

impl Array {
    /// An array of these elements.
    ///
    /// # Panics
    /// If the number of elements is not the product of the dimensions.
    pub fn new(dims: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(dims.iter().product::<usize>(), data.len(), "an array of {dims:?} holds {} elements", data.len());
        Self { dims: dims.to_vec(), data }
    }

    /// Zeros.
    pub fn zeros(dims: &[usize]) -> Self {
        Self::new(dims, vec![0.0; dims.iter().product()])
    }

    /// An array computed element by element from its flat index.
    pub fn from_fn(dims: &[usize], f: impl FnMut(usize) -> f64) -> Self {
        Self::new(dims, (0..dims.iter().product()).map(f).collect())
    }

    /// Product of the leading dimensions and size of the last: the array seen as rows.
    pub fn rows(&self) -> (usize, usize) {
        let columns = self.dims.last().copied().unwrap_or(1);
        (self.data.len() / columns.max(1), columns)
    }

    /// Element as an index.
    pub fn index(&self, at: usize) -> usize {
        self.data[at] as usize
    }
}

impl Tape {
    /// Interprets the tape for one replica in f64: every op by its reference formula. `inputs` gives
    /// the replica's values of the tape's inputs.
    ///
    /// # Errors
    /// [`Error::Shape`] where an input has other dimensions than declared, or is missing for `wanted`.
    pub fn evaluate(&self, replica: usize, inputs: &[(Var, Array)], wanted: &[Var]) -> Result<Vec<Array>> {
        let mut values: Vec<Option<Array>> = self.constants(replica);
        for (var, array) in inputs {
            let Shape { dims, .. } = self.shape(*var);
            if *dims != array.dims {
                return Err(Error::Shape {
                    op: "evaluate",
                    detail: format!("{dims:?} expected, {:?} given", array.dims),
                });
            }
            values[self.root(*var).index()] = Some(array.clone());
        }
        let needed = self.needed(wanted);
        for (at, node) in self.nodes().iter().enumerate() {
            if !needed[at] {
                continue;
            }
            let operands: Option<Vec<Array>> = node
                .inputs
                .iter()
                .map(|var| {
                    values[self.root(*var).index()]
                        .as_ref()
                        .map(|a| Array { dims: self.shape(*var).dims.clone(), data: a.data.clone() })
                })
                .collect();
            let Some(operands) = operands else { continue };
            let results = node.op.reference(&operands.iter().collect::<Vec<_>>());
            for (var, result) in node.outputs.iter().zip(results) {
                debug_assert_eq!(self.shape(*var).dims, result.dims, "reference of {}", node.op.name());
                values[var.index()] = Some(result);
            }
        }
        wanted
            .iter()
            .map(|var| {
                let dims = self.shape(*var).dims.clone();
                values[self.root(*var).index()].as_ref().map(|a| Array { dims, data: a.data.clone() }).ok_or_else(
                    || Error::Shape {
                        op: "evaluate",
                        detail: format!("{} depends on an input without value", self.label(*var)),
                    },
                )
            })
            .collect()
    }
}

/// Euclidean length of a vector.
pub(crate) fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|x| x * x).sum::<f64>().sqrt()
}
