//! A task: parity of n bits. Tokens b1 ... bn, =; whether the number of ones is odd is asked for at the last position.

use thermoscope::model::ReadOut;
use thermoscope::task::{Examples, Feed, ReplicaData, Split, Task, TaskShape, check_fraction};
use thermoscope::{Error, Result};

/// Parity of `n` bits, of whose 2^n strings a share is trained on.
pub struct Parity {
    pub n: u32,
    pub train_fraction: f64,
}

impl Task for Parity {
    fn shape(&self) -> TaskShape {
        TaskShape { d_vocab: 3, classes: 2, seq: self.n as usize + 1, read: ReadOut::Last }
    }

    fn feed(&self, replicas: &[ReplicaData]) -> Result<Feed> {
        if !(2..=16).contains(&self.n) {
            return Err(Error::Config(format!("n = {} must lie between 2 and 16", self.n)));
        }
        let count = 1u32 << self.n;
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for bits in 0..count {
            tokens.extend((0..self.n).map(|at| (bits >> at) & 1).chain([2]));
            targets.push(bits.count_ones() % 2);
        }
        let split = |replica: &ReplicaData| {
            let fraction = replica.train_fraction.unwrap_or(self.train_fraction);
            check_fraction("train_fraction", fraction)?;
            Split::random(count as usize, fraction, replica.seed)
        };
        let splits = replicas.iter().map(split).collect::<Result<_>>()?;
        Ok(Feed::Examples(Examples::new(tokens, self.n as usize + 1, targets, 1, splits)))
    }
}
