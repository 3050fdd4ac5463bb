//! Traces by random signs.

use std::ops::Range;

use super::{Symmetric, dot};
use crate::error::Result;
use crate::random::{Philox, Stream};
use crate::stats::{Estimate, Paired};

/// A random direction: 1 or -1 for each of `size` parameters.
pub fn signs(size: usize, seed: u64, direction: u32) -> Vec<f64> {
    let stream = Philox::new(seed, Stream::Directions, direction);
    let of_word = |word: u32| (0..32).map(move |bit| if word >> bit & 1 == 0 { 1.0 } else { -1.0 });
    let words = (0..size.div_ceil(128) as u64).flat_map(|at| stream.words(at));
    words.flat_map(of_word).take(size).collect()
}

/// A trace with its standard error, in total and by parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// Of the matrix.
    pub total: Estimate,
    /// Of the diagonal's parts that were asked for.
    pub parts: Vec<Estimate>,
    /// vᵀ A v of each direction.
    pub samples: Vec<f64>,
}

/// Hutchinson's estimate from random signs v, of which E vᵀ A v is the trace, and E v_lᵀ (A v)_l that of the diagonal's part l.
/// All parts come from the same products. `each` hears how many were taken, and whether to go on. `None` where it said no.
///
/// # Errors
/// Where the matrix fails.
pub fn trace(
    matrix: &mut dyn Symmetric,
    parts: &[Range<usize>],
    directions: u32,
    seed: u64,
    mut each: impl FnMut(usize) -> bool,
) -> Result<Option<Traces>> {
    let mut samples = Vec::new();
    let mut of_parts: Vec<Vec<f64>> = vec![Vec::new(); parts.len()];
    let all: Vec<u32> = (0..directions).collect();
    for some in all.chunks(matrix.together()) {
        if !each(samples.len()) {
            return Ok(None);
        }
        let vectors: Vec<Vec<f64>> = some.iter().map(|at| signs(matrix.size(), seed, *at)).collect();
        for (vector, product) in vectors.iter().zip(matrix.times(&vectors)?) {
            samples.push(dot(vector, &product));
            for (part, samples) in parts.iter().zip(&mut of_parts) {
                samples.push(dot(&vector[part.clone()], &product[part.clone()]));
            }
        }
    }
    let estimate = |samples: &[f64]| {
        let found = Paired::of(samples);
        Estimate { value: found.mean, error: found.standard_error }
    };
    let parts = of_parts.iter().map(|samples| estimate(samples)).collect();
    Ok(Some(Traces { total: estimate(&samples), parts, samples }))
}
