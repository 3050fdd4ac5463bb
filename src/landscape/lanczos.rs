//! Lanczos's method: extreme eigenvalues with residuals, and spectra.

use super::{Symmetric, dot};
use crate::error::{Error, Result};
use crate::stats::{Eigen, tridiagonal};

/// What a [`Symmetric`] matrix does in the space that its powers span from one vector on, with every new vector put at right
/// angles to all before, twice: what other schemes leave of them shows up as copies of eigenvalues that are not there.
struct Lanczos {
    /// Vectors of length 1 at right angles to each other; the last was not multiplied yet.
    basis: Vec<Vec<f64>>,
    diagonal: Vec<f64>,
    /// Beside the diagonal; the last leads out of the space.
    beside: Vec<f64>,
    ended: bool,
}

/// An eigenvalue as the space knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// θ = vᵀ A v.
    pub value: f64,
    /// |A v - θ v|: an eigenvalue of the matrix lies no further from θ, but for the rounding of the products.
    pub residual: f64,
    /// v, of length 1.
    pub vector: Vec<f64>,
}

impl Lanczos {
    /// From a vector that is not 0.
    ///
    /// # Errors
    /// [`Error::Config`] where it is, or holds what is no number.
    fn new(mut start: Vec<f64>) -> Result<Self> {
        let length = dot(&start, &start).sqrt();
        if length == 0.0 || !length.is_finite() {
            return Err(Error::Config(
                "Lanczos's method begins with a vector of finite numbers that is not 0".to_owned(),
            ));
        }
        start.iter_mut().for_each(|x| *x /= length);
        Ok(Self { basis: vec![start], diagonal: Vec::new(), beside: Vec::new(), ended: false })
    }

    /// Vectors multiplied so far.
    fn steps(&self) -> usize {
        self.diagonal.len()
    }

    /// Multiplies the last vector of each space that does not hold all of its powers yet.
    ///
    /// # Errors
    /// Where the matrix fails, or a product is no finite number.
    fn advance(matrix: &mut dyn Symmetric, spaces: &mut [Self]) -> Result<()> {
        let mut open: Vec<&mut Self> = spaces.iter_mut().filter(|space| !space.ended).collect();
        let last: Vec<Vec<f64>> = open.iter().filter_map(|space| space.basis.last().cloned()).collect();
        let products = matrix.times(&last)?;
        open.iter_mut().zip(products).try_for_each(|(space, product)| space.take(product))
    }

    fn take(&mut self, mut product: Vec<f64>) -> Result<()> {
        let own = self.basis.last().map_or(0.0, |last| dot(last, &product));
        let size = dot(&product, &product).sqrt();
        if !size.is_finite() {
            let what = "a product with the second derivatives is no finite number; are the weights those of a run that diverged?";
            return Err(Error::Refused(what.to_owned()));
        }
        for _ in 0..2 {
            for vector in &self.basis {
                let along = dot(vector, &product);
                product.iter_mut().zip(vector).for_each(|(x, v)| *x -= along * v);
            }
        }
        let left = dot(&product, &product).sqrt();
        self.diagonal.push(own);
        self.beside.push(left);
        // What is left of rounding leads nowhere.
        if left <= 1e-13 * size || self.basis.len() == product.len() {
            self.ended = true;
        } else {
            product.iter_mut().for_each(|x| *x /= left);
            self.basis.push(product);
        }
        Ok(())
    }

    fn eigen(&self) -> Result<Eigen> {
        tridiagonal(&self.diagonal, &self.beside).map_err(|why| Error::Refused(why.to_string()))
    }

    /// How far from an eigenvector of the matrix one of the space lies, with these weights of the basis: |A v - θ v|.
    fn residual(&self, weights: &[f64]) -> f64 {
        let leads_out = self.beside.last().filter(|_| !self.ended).copied().unwrap_or(0.0);
        (leads_out * weights.last().copied().unwrap_or(0.0)).abs()
    }

    /// The eigenpairs of these places among the ascending values of the space.
    fn pairs(&self, found: &Eigen, places: impl Iterator<Item = usize>) -> Vec<Pair> {
        let pair = |at: usize| {
            let weights = &found.vectors[at];
            let mut vector = vec![0.0; self.basis[0].len()];
            for (weight, basis) in weights.iter().zip(&self.basis) {
                vector.iter_mut().zip(basis).for_each(|(x, b)| *x += weight * b);
            }
            Pair { value: found.values[at], residual: self.residual(weights), vector }
        };
        places.map(pair).collect()
    }
}

/// Both ends of a spectrum.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends {
    /// The largest eigenvalues, the largest first.
    pub top: Vec<Pair>,
    /// The smallest, the smallest first.
    pub bottom: Vec<Pair>,
    /// Products it took.
    pub steps: usize,
    /// Whether all residuals of `top` are within the tolerance.
    pub converged: bool,
}

/// The `count` largest eigenvalues of a matrix, and the smallest, from a vector on: until the residuals of the largest are
/// below `tolerance` of the largest in size, or `most` products were taken. `each` hears how many were, and whether to go on.
/// `None` where it said no.
///
/// An eigenvalue that the matrix has several times is found once: one vector leads to one eigenvector of each.
///
/// # Errors
/// Where the matrix fails.
pub fn ends(
    matrix: &mut dyn Symmetric,
    start: Vec<f64>,
    count: usize,
    (tolerance, most): (f64, usize),
    mut each: impl FnMut(usize) -> bool,
) -> Result<Option<Ends>> {
    let mut space = [Lanczos::new(start)?];
    loop {
        if !each(space[0].steps()) {
            return Ok(None);
        }
        Lanczos::advance(matrix, &mut space)?;
        let [space] = &space;
        let steps = space.steps();
        let found = space.eigen()?;
        let largest = found.values.iter().fold(0.0f64, |m, value| m.max(value.abs()));
        let mut top = found.vectors.iter().rev().take(count);
        let close = top.all(|weights| space.residual(weights) <= tolerance * largest);
        let converged = space.ended || (steps >= count && close);
        if converged || steps >= most {
            let count = count.min(steps);
            let (top, bottom) = (space.pairs(&found, (steps - count..steps).rev()), space.pairs(&found, 0..count));
            return Ok(Some(Ends { top, bottom, steps, converged }));
        }
    }
}

/// A spectrum by stochastic Lanczos quadrature: for each random direction, eigenvalues with weights that sum to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Density {
    /// Of each direction: values, ascending, with their weights.
    pub directions: Vec<Vec<(f64, f64)>>,
}

impl Density {
    /// The mean of a function over the spectrum, one number for each direction: the trace of that function of the matrix over
    /// its size, in expectation.
    pub fn means(&self, of: impl Fn(f64) -> f64) -> Vec<f64> {
        let mean = |nodes: &Vec<(f64, f64)>| nodes.iter().map(|(value, weight)| weight * of(*value)).sum();
        self.directions.iter().map(mean).collect()
    }
}

/// The spectrum of a matrix from these directions, each multiplied `steps` times; as many go side by side as the matrix takes
/// together. `each` hears how many products of directions were taken, and whether to go on. `None` where it said no.
///
/// # Errors
/// Where the matrix fails.
pub fn density(
    matrix: &mut dyn Symmetric,
    directions: &mut dyn Iterator<Item = Vec<f64>>,
    steps: usize,
    mut each: impl FnMut(usize) -> bool,
) -> Result<Option<Density>> {
    let (mut found, mut done) = (Vec::new(), 0);
    loop {
        let spaces = directions.take(matrix.together()).map(Lanczos::new);
        let mut spaces: Vec<Lanczos> = spaces.collect::<Result<_>>()?;
        if spaces.is_empty() {
            return Ok(Some(Density { directions: found }));
        }
        for _ in 0..steps {
            if !each(done) {
                return Ok(None);
            }
            Lanczos::advance(matrix, &mut spaces)?;
            done += spaces.len();
        }
        for space in &spaces {
            let eigen = space.eigen()?;
            let weight = |vector: &Vec<f64>| vector.first().map_or(0.0, |first| first * first);
            found.push(eigen.values.iter().copied().zip(eigen.vectors.iter().map(weight)).collect());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{signs, trace};
    use super::*;
    use crate::random::{Philox, Stream};

    /// Q diag(values) Qᵀ with a product Q of three random reflections.
    pub(in crate::landscape) struct Known {
        values: Vec<f64>,
        mirrors: Vec<Vec<f64>>,
        pub(in crate::landscape) products: usize,
    }

    impl Known {
        pub(in crate::landscape) fn new(values: Vec<f64>) -> Self {
            let n = values.len();
            let mirror = |of: u32| {
                let stream = Philox::new(5, Stream::Weights, of);
                let mut v: Vec<f64> = (0..n.div_ceil(2)).flat_map(|at| stream.normals(at as u64)).take(n).collect();
                let length = dot(&v, &v).sqrt();
                v.iter_mut().for_each(|x| *x /= length);
                v
            };
            Self { mirrors: (0..3).map(mirror).collect(), values, products: 0 }
        }
    }

    impl Symmetric for Known {
        fn size(&self) -> usize {
            self.values.len()
        }

        fn together(&self) -> usize {
            3
        }

        fn times(&mut self, vectors: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
            self.products += vectors.len();
            let reflect = |v: &mut Vec<f64>, mirror: &Vec<f64>| {
                let along = 2.0 * dot(v, mirror);
                v.iter_mut().zip(mirror).for_each(|(x, m)| *x -= along * m);
            };
            let of = |vector: &Vec<f64>| {
                let mut v = vector.clone();
                self.mirrors.iter().for_each(|mirror| reflect(&mut v, mirror));
                v.iter_mut().zip(&self.values).for_each(|(x, value)| *x *= value);
                self.mirrors.iter().rev().for_each(|mirror| reflect(&mut v, mirror));
                v
            };
            Ok(vectors.iter().map(of).collect())
        }
    }

    #[test]
    fn both_ends_of_a_known_spectrum_are_found_within_their_residuals() {
        // A bulk in [0, 1], outliers above and below it.
        let mut values: Vec<f64> = (0..500).map(|i| f64::from(i) / 500.0).collect();
        values.extend([27.5, 9.0, 8.9, -3.0, -2.5]);
        let mut matrix = Known::new(values);
        let found = ends(&mut matrix, signs(505, 1, 0), 3, (1e-8, 200), |_| true).unwrap().unwrap();
        assert!(found.converged && found.steps < 60, "{}", found.steps);
        for (pair, exact) in found.top.iter().chain(&found.bottom[..2]).zip([27.5, 9.0, 8.9, -3.0, -2.5]) {
            // For symmetric matrices the error is at most the residual, and of its square where others are far.
            assert!((pair.value - exact).abs() <= pair.residual.max(1e-12), "{} is {exact}", pair.value);
            let product = matrix.times(std::slice::from_ref(&pair.vector)).unwrap().remove(0);
            let rest: Vec<f64> = product.iter().zip(&pair.vector).map(|(a, v)| a - pair.value * v).collect();
            let residual = dot(&rest, &rest).sqrt();
            assert!((residual - pair.residual).abs() < 1e-10, "{residual} and not {}", pair.residual);
        }
        let asked = ends(&mut matrix, signs(505, 1, 0), 3, (1e-8, 200), |steps| steps < 4).unwrap();
        assert!(asked.is_none(), "who is told to stop stops");
        let few = ends(&mut matrix, signs(505, 1, 0), 3, (1e-8, 5), |_| true).unwrap().unwrap();
        assert!(!few.converged && few.steps == 5);
    }

    #[test]
    fn no_eigenvalue_is_found_twice_however_long_it_goes_on() {
        let mut values = vec![0.0; 100];
        values.iter_mut().enumerate().for_each(|(i, x)| *x = 0.9f64.powi(i as i32));
        values[0] = 50.0;
        let mut matrix = Known::new(values);
        let mut space = [Lanczos::new(signs(100, 2, 0)).unwrap()];
        (0..90).for_each(|_| Lanczos::advance(&mut matrix, &mut space).unwrap());
        let found = space[0].eigen().unwrap();
        assert_eq!(found.values.iter().filter(|value| **value > 1.0).count(), 1);
        // The space of all vectors ends it.
        (0..20).for_each(|_| Lanczos::advance(&mut matrix, &mut space).unwrap());
        assert!(space[0].ended && space[0].steps() <= 100);
        assert!(matches!(Lanczos::new(vec![0.0; 3]), Err(Error::Config(_))));
    }

    #[test]
    fn the_spectrum_of_a_known_matrix_has_its_moments_and_its_trace() {
        let values: Vec<f64> = (0..400).map(|i| if i < 40 { 5.0 } else { f64::from(i % 7) / 7.0 - 0.2 }).collect();
        let exact = |of: &dyn Fn(f64) -> f64| values.iter().map(|v| of(*v)).sum::<f64>() / 400.0;
        let mut matrix = Known::new(values.clone());
        let mut directions = (0..24).map(|at| signs(400, 3, at));
        let found = density(&mut matrix, &mut directions, 8, |_| true).unwrap().unwrap();
        assert_eq!(found.directions.len(), 24);
        for nodes in &found.directions {
            assert!((nodes.iter().map(|(_, weight)| weight).sum::<f64>() - 1.0).abs() < 1e-12);
        }
        let functions: [(&str, &dyn Fn(f64) -> f64); 3] =
            [("mean", &|v| v), ("square", &|v| v * v), ("share above 1", &|v| f64::from(v > 1.0))];
        for (what, of) in functions {
            let paired = crate::stats::Paired::of(&found.means(of));
            // Eight values there are in all: quadrature is exact, and what differs is the draw of 24 directions.
            let error = (paired.mean - exact(of)).abs();
            assert!(error < 4.0 * paired.standard_error, "{what}: {} ± {}", paired.mean, paired.standard_error);
        }
        // The first moment along a direction is what Hutchinson's estimate takes of it.
        let parts = [0..100, 100..400];
        let traces = trace(&mut matrix, &parts, 24, 3, |_| true).unwrap().unwrap();
        for (a, b) in traces.samples.iter().zip(found.means(|v| v)) {
            assert!((a - 400.0 * b).abs() < 1e-9 * a.abs().max(1.0), "{a} and {b}");
        }
        assert!((traces.total.value - 400.0 * exact(&|v| v)).abs() < 4.0 * traces.total.error);
        let sum: f64 = traces.parts.iter().map(|part| part.value).sum();
        assert!((sum - traces.total.value).abs() < 1e-9);
    }
}
