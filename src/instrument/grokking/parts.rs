//! The parts that functions on a finite group fall into: frequencies of a cyclic group, irreducible
//! representations of any other.

use crate::autograd::{Tape, Var};
use crate::task::{Cyclic, Irreps, Task};

/// Orthonormal components of functions on a group, and which of them make up each part. Part 0 are the
/// constants, component 0.
pub(crate) struct Parts {
    /// Number of elements n of the group, and of components.
    pub(crate) order: usize,
    /// Element of each operand token and of each answer class; `None` outside of the group.
    pub(crate) tokens: Vec<Option<usize>>,
    /// See `tokens`.
    pub(crate) classes: Vec<Option<usize>>,
    /// Part k from 1 is components `starts[k - 1]` to `starts[k]`.
    pub(crate) starts: Vec<u32>,
    /// One over the size of each part: 1 for a frequency, 1/d² for an irrep of dimension d.
    pub(crate) weights: Vec<f32>,
    /// Components by elements, [n, n].
    components: Vec<f64>,
}

impl Parts {
    /// The parts of the group a task has, if it has one.
    pub(crate) fn of(task: &dyn Task) -> Option<Self> {
        task.cyclic().map(Self::cyclic).or_else(|| task.irreps().map(|group| Self::irreps(&group)))
    }

    /// Constant, then cosine and sine of each frequency; for an even order the last has a cosine only.
    pub(crate) fn cyclic(group: Cyclic) -> Self {
        let n = group.order;
        let component = |at: usize| {
            let (component, element) = (at / n, at % n);
            let k = component.div_ceil(2);
            // Reduced before it becomes an angle, so that large products lose nothing.
            let angle = std::f64::consts::TAU * (k * element % n) as f64 / n as f64;
            let wave = if component % 2 == 1 { libm::cos(angle) } else { libm::sin(angle) };
            let (value, share) = match component {
                0 => (1.0, 1.0),
                _ if 2 * k == n => (wave, 1.0),
                _ => (wave, 2.0),
            };
            value * libm::sqrt(share / n as f64)
        };
        Self {
            order: n,
            tokens: group.tokens,
            classes: group.classes,
            starts: (1..n as u32).step_by(2).chain([n as u32]).collect(),
            weights: vec![1.0; n / 2],
            components: (0..n * n).map(component).collect(),
        }
    }

    /// An orthonormal basis of the matrix entries of each irrep, d² of them. They span the image of the
    /// projection P\[x, y\] = d/n χ(x⁻¹ y), whose rows are picked and made orthogonal one after the other,
    /// always the longest that is left.
    pub(crate) fn irreps(group: &Irreps) -> Self {
        let n = group.characters[0].len();
        let (mut components, mut starts, mut weights): (Vec<f64>, _, _) = (Vec::new(), Vec::new(), Vec::new());
        for characters in &group.characters {
            let degree = characters[0];
            let entry = |at: usize| degree / n as f64 * characters[group.quotients[at]];
            let mut rows: Vec<Vec<f64>> = (0..n).map(|x| (0..n).map(|y| entry(x * n + y)).collect()).collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let size = (degree * degree) as usize;
            for _ in 0..size {
                let longest = (0..n).max_by(|i, j| dot(&rows[*i], &rows[*i]).total_cmp(&dot(&rows[*j], &rows[*j])));
                let row = rows[longest.unwrap_or(0)].clone();
                let length = libm::sqrt(dot(&row, &row));
                let unit: Vec<f64> = row.iter().map(|x| x / length).collect();
                for row in &mut rows {
                    let along = dot(row, &unit);
                    row.iter_mut().zip(&unit).for_each(|(x, u)| *x -= along * u);
                }
                components.extend(unit);
            }
            starts.push((components.len() / n) as u32);
            weights.push(1.0 / size as f32);
        }
        let all: Vec<Option<usize>> = (0..n).map(Some).collect();
        weights.remove(0);
        Self { order: n, tokens: all.clone(), classes: all, starts, weights, components }
    }

    /// For each component (row) 1 in the column of its part, constants left out. [n, K].
    pub(crate) fn membership(&self, tape: &mut Tape) -> Var {
        let count = self.count();
        let inside = |at: usize| {
            let (component, part) = ((at / count) as u32, at % count);
            f32::from(u8::from((self.starts[part]..self.starts[part + 1]).contains(&component)))
        };
        let data: Vec<f32> = (0..self.order * count).map(inside).collect();
        tape.constant(&[self.order, count], &data)
    }

    /// Number of parts without the constants.
    pub(crate) fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Components as rows over tokens or classes; those outside of the group have zeros. [n, `columns`].
    pub(crate) fn over(&self, tape: &mut Tape, elements: &[Option<usize>], columns: usize) -> Var {
        let mut data = vec![0.0; self.order * columns];
        for (token, element) in elements.iter().enumerate() {
            let Some(element) = element else { continue };
            for component in 0..self.order {
                data[component * columns + token] = self.components[component * self.order + element] as f32;
            }
        }
        tape.constant(&[self.order, columns], &data)
    }

    /// Components as rows over the elements. [n, n].
    pub(crate) fn over_elements(&self, tape: &mut Tape) -> Var {
        let all: Vec<Option<usize>> = (0..self.order).map(Some).collect();
        self.over(tape, &all, self.order)
    }

    /// The same for differences a - b of a cyclic group, beside which sums a + b are looked at: for an even
    /// order the last cosine of both is the same function, which then is 0 here.
    pub(crate) fn without_last_cosine(&self, tape: &mut Tape) -> Var {
        let last = if self.order.is_multiple_of(2) { self.order - 1 } else { self.order };
        let kept = |at: usize| if at / self.order == last { 0.0 } else { self.components[at] as f32 };
        let data: Vec<f32> = (0..self.order * self.order).map(kept).collect();
        tape.constant(&[self.order, self.order], &data)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::autograd::check::Case;
    use crate::autograd::ops::Linear;
    use crate::task::Permutation;

    pub(crate) fn cyclic(order: usize) -> Parts {
        let all: Vec<Option<usize>> = (0..order).map(Some).collect();
        Parts::cyclic(Cyclic { order, tokens: all.clone(), classes: all })
    }

    pub(crate) fn symmetric(n: u32) -> Parts {
        Parts::of(&Permutation::new(n)).unwrap()
    }

    #[test]
    fn components_are_orthonormal() {
        for group in [cyclic(7), cyclic(10), cyclic(113), symmetric(3), symmetric(4), symmetric(5)] {
            let (mut case, order) = (Case::new("components"), group.order);
            assert_eq!(group.starts[group.count()] as usize, order);
            let basis = group.over_elements(&mut case.tape);
            let product = case.tape.push1(Linear { transposed: true, ..Linear::default() }, &[basis, basis]).unwrap();
            let values = case.tape.evaluate(0, &[], &[product]).unwrap().remove(0);
            for (at, value) in values.data.iter().enumerate() {
                let expected = f64::from(at / order == at % order);
                assert!((value - expected).abs() < 1e-6, "{order}: {at} is {value}");
            }
        }
    }

    #[test]
    fn parts_of_permutations_are_the_matrix_entries_of_irreps() {
        let group = symmetric(5);
        assert_eq!(group.starts, [1, 2, 18, 34, 59, 84, 120]);
        // Fixed points less one are the trace of the standard representation, part 2; signs are part 1.
        let elements = Permutation::new(5).irreps().unwrap();
        for (part, irrep) in [(1, 1), (2, 2), (6, 6)] {
            let function = &elements.characters[irrep];
            let along = |c: usize| (0..120).map(|g| group.components[c * 120 + g] * function[g]).sum::<f64>();
            let energy: f64 = (group.starts[part - 1]..group.starts[part]).map(|c| along(c as usize).powi(2)).sum();
            assert!((energy - 120.0).abs() < 1e-9, "{part}: {energy}");
        }
    }

    #[test]
    fn frequencies_have_a_cosine_and_a_sine() {
        assert_eq!(cyclic(7).starts, [1, 3, 5, 7]);
        assert_eq!(cyclic(10).starts, [1, 3, 5, 7, 9, 10]);
        assert_eq!(cyclic(3).count(), 1);
    }
}
