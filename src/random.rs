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
    /// What an intervention in training puts in the place of weights; the step is as for weights. At step 0 which head is
    /// taken in the place of another; rotations have an index for each head.
    Pulse = 10,
    /// Noise on weights while they train.
    WeightNoise = 11,
    /// Noise on gradients.
    GradientNoise = 12,
    /// Wrong labels.
    Labels = 13,
    /// Which observations are drawn again where an estimate's error is asked for; the step is the draw.
    Resample = 14,
    /// Orders that observations are put in where chance is asked for; the step is the draw.
    Shuffle = 15,
    /// Signs of the directions along which curvature is asked for; the step is the direction.
    Directions = 16,
}

/// A standard normal number of one random word, of which 24 bits count: the formula of `shaders/shared/normal.wgsl` in f64
/// (Wichura 1988, AS 241, PPND7; 4e-7 from the inverse of the distribution function).
pub fn normal(word: u32) -> f64 {
    let q = (f64::from(word >> 8) - 8_388_607.5) / f64::from(1 << 24);
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * (((59.10937472 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179)
            / (((67.1875636 * r + 78.757757664) * r + 17.895169469) * r + 1.0);
    }
    let s = (-(0.5 - q.abs()).ln()).sqrt() - 1.6;
    let tail = (((0.17023821103 * s + 1.3067284816) * s + 2.75681539) * s + 1.4234372777)
        / ((0.12021132975 * s + 0.7370016425) * s + 1.0);
    tail.copysign(q)
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
    fn the_inverse_of_the_normal_distribution_has_its_quantiles() {
        // Quantiles of the standard normal distribution, to ten digits, at the nearest of 2^24 midpoints.
        for (p, expected) in
            [(0.5, 0.0), (0.841_344_746, 1.0), (0.05, -1.644_853_627), (0.975, 1.959_963_985), (0.999, 3.090_232_306)]
        {
            let found = normal(((p * f64::from(1 << 24)) as u32) << 8);
            // Half a midpoint is 3e-8 of p, and at 3.1 the density is 3.4e-3.
            assert!((found - expected).abs() < 2e-5, "{p}: {found} instead of {expected}");
        }
        assert_eq!(normal(0), -normal(u32::MAX));
        assert!((normal(u32::MAX) - 5.42).abs() < 0.01);
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
