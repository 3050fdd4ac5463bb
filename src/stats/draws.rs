//! Random numbers one after the other.

use crate::random::{Philox, Stream};

/// The random numbers of one draw: a stream of the crate's generator, read from its beginning.
pub(super) struct Draws {
    stream: Philox,
    at: u64,
    words: [u32; 4],
    left: usize,
}

impl Draws {
    pub(super) fn new(seed: u64, purpose: Stream, draw: usize) -> Self {
        Self { stream: Philox::new(seed, purpose, draw as u32), at: 0, words: [0; 4], left: 0 }
    }

    /// Thirty-two random bits.
    pub(super) fn word(&mut self) -> u32 {
        if self.left == 0 {
            self.words = self.stream.words(self.at);
            (self.at, self.left) = (self.at + 1, 4);
        }
        self.left -= 1;
        self.words[self.left]
    }

    /// A number in [0, n), unbiased to n 2^-32.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.word()) * n as u64) >> 32) as usize
    }

    /// Whether something of this probability happens.
    pub(super) fn happens(&mut self, probability: f64) -> bool {
        f64::from(self.word()) < probability * 4_294_967_296.0
    }

    /// Puts values in a random order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, values: &mut [T]) {
        for at in (1..values.len()).rev() {
            values.swap(at, self.below(at + 1));
        }
    }

    /// Rows of a series of n, n of them, drawn again in blocks of geometric length of this mean, from anywhere, the first
    /// behind the last: the stationary bootstrap of Politis and Romano (1994).
    pub(super) fn blocks(&mut self, n: usize, mean_length: f64, rows: &mut Vec<usize>) {
        rows.clear();
        let mut at = 0;
        for row in 0..n {
            at = if row == 0 || self.happens(1.0 / mean_length) { self.below(n) } else { (at + 1) % n };
            rows.push(at);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `count` standard normal numbers for a test.
    pub(in crate::stats) fn normals(seed: u64, count: usize) -> Vec<f64> {
        let stream = Philox::new(seed, Stream::Weights, 0);
        (0..count.div_ceil(2)).flat_map(|at| stream.normals(at as u64)).take(count).collect()
    }

    /// A first-order autoregression of variance 1.
    pub(in crate::stats) fn wandering(seed: u64, count: usize, correlation: f64) -> Vec<f64> {
        let fresh = (1.0 - correlation * correlation).sqrt();
        let mut at = 0.0;
        let steps = normals(seed, count).into_iter().enumerate();
        steps
            .map(|(step, noise)| {
                at = if step == 0 { noise } else { correlation * at + fresh * noise };
                at
            })
            .collect()
    }

    /// Fails unless `hits` of `trials` are what a probability gives, to four standard errors and half a hit. A test that
    /// counts a hundred such shares fails once in 150 for nothing, and seeds are fixed.
    pub(in crate::stats) fn assert_share(hits: usize, trials: usize, probability: f64, what: &str) {
        let (hits, trials) = (hits as f64, trials as f64);
        let error = 4.0 * (probability * (1.0 - probability) * trials).sqrt() + 0.5;
        assert!((hits - probability * trials).abs() <= error, "{what}: {hits} of {trials}, and {probability} expected");
    }

    /// Fails where `hits` of `trials` are more than a probability of at most so much gives, to four standard errors.
    pub(in crate::stats) fn assert_at_most(hits: usize, trials: usize, probability: f64, what: &str) {
        let (hits, trials) = (hits as f64, trials as f64);
        let error = 4.0 * (probability * (1.0 - probability) * trials).sqrt() + 0.5;
        assert!(hits <= probability * trials + error, "{what}: {hits} of {trials}, and at most {probability} allowed");
    }

    #[test]
    fn numbers_cover_their_range_and_orders_hold_everything() {
        let mut draws = Draws::new(1, Stream::Resample, 0);
        let mut counts = [0; 10];
        (0..10_000).for_each(|_| counts[draws.below(10)] += 1);
        counts.iter().for_each(|count| assert_share(*count, 10_000, 0.1, "a tenth"));
        let happened = (0..10_000).filter(|_| draws.happens(0.3)).count();
        assert_share(happened, 10_000, 0.3, "three tenths");
        // Each of three comes to each place as often, and stays in its own.
        let mut places = [0; 9];
        for _ in 0..3000 {
            let mut order = [0, 1, 2];
            draws.shuffle(&mut order);
            order.iter().enumerate().for_each(|(place, which)| places[3 * place + which] += 1);
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2]);
        }
        places.iter().for_each(|count| assert_share(*count, 3000, 1.0 / 3.0, "a third"));
    }

    #[test]
    fn blocks_are_as_long_as_said_and_take_every_row_alike() {
        let mut draws = Draws::new(2, Stream::Resample, 0);
        let (mut rows, mut breaks, mut first) = (Vec::new(), 0, 0);
        for _ in 0..200 {
            draws.blocks(100, 8.0, &mut rows);
            assert_eq!(rows.len(), 100);
            breaks += rows.windows(2).filter(|pair| pair[1] != (pair[0] + 1) % 100).count();
            first += rows.iter().filter(|row| **row < 10).count();
        }
        // A new block begins behind one row in eight, and one in a hundred of these goes on by chance.
        assert_share(breaks, 200 * 99, 0.99 / 8.0, "breaks");
        // Rows of a block come together: 2,500 blocks take a tenth of the series.
        assert!((first as f64 / 20_000.0 - 0.1).abs() < 4.0 * (0.1f64 * 0.9 * 2.0 / 2_500.0).sqrt(), "{first}");
    }
}
