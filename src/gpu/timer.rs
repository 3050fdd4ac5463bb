//! Device timestamps: how long compute passes took on the GPU's own clock.

use super::{Gpu, readback};
use crate::error::Result;

/// A timed compute pass.
#[derive(Clone, Debug)]
pub struct Span {
    /// What ran.
    pub label: String,
    /// Duration on the device, in milliseconds.
    pub ms: f64,
}

/// Times compute passes of one encoder. Made by [`Timer::new`] where the device has timestamps.
pub struct Timer {
    gpu: Gpu,
    set: wgpu::QuerySet,
    capacity: u32,
    labels: Vec<String>,
    ns_per_tick: f32,
}

impl Timer {
    /// Passes that one timer takes at most.
    pub const MOST: u32 = wgpu::QUERY_SET_MAX_QUERIES / 2;

    /// A timer for up to `passes` passes, and not more than [`Timer::MOST`]; `None` where the device has no timestamps.
    pub fn new(gpu: &Gpu, passes: u32) -> Option<Self> {
        let ns_per_tick = gpu.caps().timestamp_period?;
        let capacity = passes.min(Self::MOST);
        let set = gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timer"),
            ty: wgpu::QueryType::Timestamp,
            count: capacity * 2,
        });
        Some(Self { gpu: gpu.clone(), set, capacity, labels: Vec::new(), ns_per_tick })
    }

    /// Begins a compute pass that is timed, or merely begun once the timer is full.
    pub fn pass<'e>(&mut self, encoder: &'e mut wgpu::CommandEncoder, label: &str) -> wgpu::ComputePass<'e> {
        let at = self.labels.len() as u32;
        let timestamp_writes = (at < self.capacity).then(|| wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(at * 2),
            end_of_pass_write_index: Some(at * 2 + 1),
        });
        if timestamp_writes.is_some() {
            self.labels.push(label.to_owned());
        }
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes })
    }

    /// Submits `encoder`, waits, and returns the spans in the order of the passes.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the device failed.
    pub fn submit(&mut self, mut encoder: wgpu::CommandEncoder) -> Result<Vec<Span>> {
        let count = self.labels.len() as u32 * 2;
        let bytes = u64::from(count.max(2)) * 8;
        let resolved = self.gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: bytes,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        if count > 0 {
            encoder.resolve_query_set(&self.set, 0..count, &resolved, 0);
        }
        self.gpu.queue().submit([encoder.finish()]);
        let words = readback::read_now(&self.gpu, &resolved, 0..bytes)?;
        let ticks: Vec<u64> = words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
        let ns_per_tick = f64::from(self.ns_per_tick);
        let spans = self.labels.drain(..).zip(ticks.chunks_exact(2));
        Ok(spans.map(|(label, t)| Span { label, ms: t[1].saturating_sub(t[0]) as f64 * ns_per_tick * 1e-6 }).collect())
    }
}
