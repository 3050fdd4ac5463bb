//! Commands on their way to the device.

use std::time::Instant;

use super::{Gpu, Work};

/// An encoder with a compute pass in it that is submitted whenever it holds much work, and begun anew: systems with a
/// display take a device for lost whose commands run for seconds, and a step at which everything is measured may hold a
/// thousand times the work of another. How much is much, the device has shown: see [`Pace`].
pub(crate) struct Commands {
    gpu: Gpu,
    encoder: wgpu::CommandEncoder,
    pass: Option<wgpu::ComputePass<'static>>,
    /// Work encoded and not submitted.
    work: u64,
    /// Work that is submitted at once, where the device's pace shall not say.
    most: Option<u64>,
    /// The last submission: its index, its work, and when it was made.
    before: Option<(wgpu::SubmissionIndex, u64, Instant)>,
}

impl Commands {
    /// None yet; as much will be submitted together as the device has shown to do in a fraction of a second, or `most`,
    /// if no single kernel is more.
    pub(crate) fn new(gpu: &Gpu, most: Option<u64>) -> Self {
        Self { encoder: encoder(gpu), gpu: gpu.clone(), pass: None, work: 0, most, before: None }
    }

    /// The pass for a kernel of so much work, and whether it is a new one.
    pub(super) fn pass(&mut self, work: Work) -> (&mut wgpu::ComputePass<'static>, bool) {
        let work = weight(work);
        let most = self.most.unwrap_or_else(|| self.gpu.pace(|pace| pace.most));
        if self.work > 0 && self.work.saturating_add(work) > most {
            self.send();
        }
        self.work = self.work.saturating_add(work);
        let fresh = self.pass.is_none();
        let encoder = &mut self.encoder;
        let begin = || encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime();
        (self.pass.get_or_insert_with(begin), fresh)
    }

    /// The encoder, its pass ended.
    pub(crate) fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        &mut self.encoder
    }

    /// Submits what was not submitted yet.
    pub(crate) fn submit(mut self) -> wgpu::SubmissionIndex {
        self.pass = None;
        self.gpu.queue().submit([self.encoder.finish()])
    }

    /// Submits what there is, and waits for the submission before: two under way keep the device busy, and when one ends
    /// the other begins, so that the time between is what one took. Failures are kept by the device.
    fn send(&mut self) {
        self.pass = None;
        let full = std::mem::replace(&mut self.encoder, encoder(&self.gpu));
        let work = std::mem::take(&mut self.work);
        let index = self.gpu.queue().submit([full.finish()]);
        if let Some((before, done, began)) = self.before.take() {
            let waited = self.gpu.wait_for(before).is_ok();
            if waited && self.most.is_none() {
                self.gpu.pace(|pace| pace.learn(done, began.elapsed().as_secs_f64()));
            }
        }
        self.before = Some((index, work, Instant::now()));
    }
}

fn encoder(gpu: &Gpu) -> wgpu::CommandEncoder {
    gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
}

/// One number for both kinds of work: devices do about ten floating-point operations in the time of a byte.
fn weight(work: Work) -> u64 {
    work.flops.saturating_add(work.bytes.saturating_mul(10))
}

/// How much work a device is given at once: what it has shown to do in [`Pace::SECONDS`]. It begins low, where the slowest
/// device is far from too slow, and doubles with every submission that was done sooner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pace {
    most: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { most: 1 << 30 }
    }
}

impl Pace {
    /// What one submission shall take.
    const SECONDS: f64 = 0.1;

    /// Takes in that a submission of so much work took so long. What is far less than was allowed says nothing: it is
    /// the submission itself that takes the time.
    fn learn(&mut self, work: u64, seconds: f64) {
        if work < self.most / 2 {
            return;
        }
        let fitting = work as f64 * Self::SECONDS / seconds.max(1e-9);
        self.most = (fitting as u64).clamp(self.most / 4, self.most.saturating_mul(2)).max(1 << 20);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submissions_come_to_take_a_fraction_of_a_second_on_any_device() {
        // Work a second: a phone's, a laptop's, a data centre's; and a device that is suddenly shared.
        for speed in [2e9, 1e11, 1e12, 6e13, 1e11] {
            let mut pace = Pace::default();
            let mut slowest = 0.0f64;
            for _ in 0..30 {
                let seconds = pace.most as f64 / speed;
                slowest = slowest.max(seconds);
                pace.learn(pace.most, seconds);
            }
            assert!(slowest < 0.6, "{speed}: a submission took {slowest} s");
            let settled = pace.most as f64 / speed;
            assert!((0.05..=0.2).contains(&settled), "{speed}: {settled} s");
            for _ in 0..10 {
                pace.learn(pace.most, pace.most as f64 / (speed / 50.0));
            }
            assert!(pace.most as f64 / (speed / 50.0) <= 0.2);
        }
        let mut pace = Pace::default();
        pace.learn(pace.most / 3, 5.0);
        assert_eq!(pace, Pace::default(), "a small submission says nothing");
    }
}
