//! Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy
//! as 1, 2, 3"), bit for bit as in `shaders/shared/philox.wgsl`. A number is addressed by (seed,
//! replica, stream, step, index), so resuming and forking need no stored state.

/// What random numbers are for; keeps uses apart that share a seed. 0 is left to callers of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Stream {
    /// Initial weights; the step is a hash of the tensor's name.
    Weights = 1,
    /// The order of examples from which train and test are split.
    Split = 2,
    /// Which examples a batch takes.
    Batch = 3,
    /// Tokens of generated sequences.
    Tokens = 4,
    /// Which examples a probe takes.
    Probe = 5,
    /// Random subspaces that heads are compared with; the step is the draw.
    Subspace = 6,
    /// Sequences made to be repeated; the step is 0 for their tokens, 1 for the orders they are put in.
    Repeats = 7,
    /// Weights of heads that nothing trains; the step is as for weights.
    Strangers = 8,
    /// Sets of heads that a set is compared with; the seed is the draw, the step the layer.
    Sets = 9,
    /// Which observations are drawn again where an estimate's error is asked for; the step is the draw.
    Resample = 14,
    /// Orders that observations are put in where chance is asked for; the step is the draw.
    Shuffle = 15,
}

/// A stream of random numbers for one seed and purpose.
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: u32,
    step: u32,
}

impl Philox {
    /// The stream of `seed` for one purpose at one step. The seed is all 64 bits of the key.
    pub fn new(seed: u64, stream: Stream, step: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream: stream as u32, step }
    }

    /// Four random words at `index`.
    pub fn words(&self, index: u64) -> [u32; 4] {
        philox4x32_10([index as u32, (index >> 32) as u32, self.step, self.stream], self.key)
    }

    /// A number in [0, n), unbiased to 2^-32.
    pub fn below(&self, index: u64, n: u32) -> u32 {
        ((u64::from(self.words(index)[0]) * u64::from(n)) >> 32) as u32
    }

    /// Two independent standard normal numbers, by Box and Muller in f64 with a portable libm, so that
    /// every platform draws the same bits.
    pub fn normals(&self, index: u64) -> [f64; 2] {
        let [a, b, c, d] = self.words(index);
        // 53-bit uniforms; the first in (0, 1], so that its logarithm is finite.
        let unit = |hi: u32, lo: u32| ((u64::from(hi) << 21) ^ (u64::from(lo) >> 11)) as f64;
        let scale = 1.0 / (1u64 << 53) as f64;
        let radius = libm::sqrt(-2.0 * libm::log((unit(a, b) + 1.0) * scale));
        let angle = std::f64::consts::TAU * unit(c, d) * scale;
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    }

    /// A permutation of 0..n by Fisher and Yates.
    pub fn permutation(&self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i as usize, self.below(u64::from(i), i + 1) as usize);
        }
        order
    }
}

/// Ten rounds on a 128-bit counter with a 64-bit key.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(0xD251_1F53_u32) * u64::from(counter[0]);
        let b = u64::from(0xCD9E_8D57_u32) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the Random123 library (kat_vectors, philox4x32 10 rounds).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let stream = Philox::new(7, Stream::Weights, 3);
        let draws: Vec<f64> = (0..20_000).flat_map(|i| stream.normals(i)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        // Five standard errors at 40,000 draws.
        assert!(mean.abs() < 5.0 / 200.0, "{mean}");
        assert!((variance - 1.0).abs() < 5.0 * (2.0f64).sqrt() / 200.0, "{variance}");
    }

    #[test]
    fn permutations_hold_every_element_and_differ_by_seed() {
        let a = Philox::new(1, Stream::Split, 0).permutation(1000);
        let b = Philox::new(2, Stream::Split, 0).permutation(1000);
        let mut sorted = a.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_ne!(a, b);
    }
}
