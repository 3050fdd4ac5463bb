//! Commands on their way to the device.

use super::Gpu;

/// An encoder with a compute pass in it that is submitted whenever it holds much work, and begun anew: systems with a
/// display take a device for lost whose commands run for seconds, and a step at which everything is measured may hold a
/// thousand times the work of another.
pub(crate) struct Commands {
    gpu: Gpu,
    encoder: wgpu::CommandEncoder,
    pass: Option<wgpu::ComputePass<'static>>,
    flops: u64,
    most: u64,
}

impl Commands {
    /// Floating-point operations of one submission: a fraction of a second on a small GPU, seconds on a CPU.
    pub(crate) const MOST: u64 = 1 << 38;

    /// None yet; at most `most` operations will be submitted together, if no single kernel has more.
    pub(crate) fn new(gpu: &Gpu, most: u64) -> Self {
        Self { encoder: encoder(gpu), gpu: gpu.clone(), pass: None, flops: 0, most }
    }

    /// The pass for a kernel of so many operations, and whether it is a new one.
    pub(super) fn pass(&mut self, flops: u64) -> (&mut wgpu::ComputePass<'static>, bool) {
        if self.flops > 0 && self.flops.saturating_add(flops) > self.most {
            self.pass = None;
            let full = std::mem::replace(&mut self.encoder, encoder(&self.gpu));
            self.gpu.queue().submit([full.finish()]);
            self.flops = 0;
        }
        self.flops = self.flops.saturating_add(flops);
        let fresh = self.pass.is_none();
        let encoder = &mut self.encoder;
        let begin = || encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime();
        (self.pass.get_or_insert_with(begin), fresh)
    }

    /// The encoder with what was not submitted yet, its pass ended.
    pub(crate) fn finish(self) -> wgpu::CommandEncoder {
        drop(self.pass);
        self.encoder
    }
}

fn encoder(gpu: &Gpu) -> wgpu::CommandEncoder {
    gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
}
