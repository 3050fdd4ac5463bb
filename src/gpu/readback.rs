//! From the device to the host without waiting: copies are mapped when their submission is done, and
//! the host asks whether it is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::Gpu;
use crate::error::{Error, Result};

type Status = Arc<Mutex<Option<Result<(), wgpu::BufferAsyncError>>>>;

struct Pending<T> {
    tag: T,
    staging: wgpu::Buffer,
    size: u64,
    status: Status,
}

/// A queue of copies on their way to the host, in the order in which they were recorded. Staging
/// buffers are reused.
pub struct Readback<T> {
    gpu: Gpu,
    pending: VecDeque<Pending<T>>,
    idle: Vec<wgpu::Buffer>,
}

impl<T> Readback<T> {
    /// An empty queue.
    pub fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), pending: VecDeque::new(), idle: Vec::new() }
    }

    /// Records the copy of byte ranges of `source`, one behind the other, into `encoder`; they arrive
    /// after the encoder was submitted and polled, under `tag`.
    pub fn record(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        source: &wgpu::Buffer,
        ranges: &[std::ops::Range<u64>],
        tag: T,
    ) {
        let size: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let fits = self.idle.iter().position(|buffer| buffer.size() >= size);
        let staging = fits.map(|at| self.idle.swap_remove(at)).unwrap_or_else(|| {
            self.gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("read-back"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        let mut at = 0;
        for range in ranges {
            encoder.copy_buffer_to_buffer(source, range.start, &staging, at, range.end - range.start);
            at += range.end - range.start;
        }
        let status: Status = Arc::default();
        let done = Arc::clone(&status);
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, 0..size, move |result| {
            *done.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
        });
        self.pending.push_back(Pending { tag, staging, size, status });
    }

    /// Copies not yet handed out.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// The oldest copy, if it has arrived. Never waits; someone must poll the device.
    ///
    /// # Errors
    /// [`Error::Device`] where the copy failed.
    pub fn take(&mut self) -> Result<Option<(T, Vec<u32>)>> {
        let arrived = self
            .pending
            .front()
            .and_then(|pending| pending.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone());
        let Some(result) = arrived else { return Ok(None) };
        let Some(pending) = self.pending.pop_front() else { return Ok(None) };
        result.map_err(|error| Error::Device(error.to_string()))?;
        let words = {
            let view = pending
                .staging
                .slice(0..pending.size)
                .get_mapped_range()
                .map_err(|error| Error::Device(error.to_string()))?;
            bytemuck::pod_collect_to_vec(&view)
        };
        pending.staging.unmap();
        self.idle.push(pending.staging);
        Ok(Some((pending.tag, words)))
    }
}

/// Reads a buffer range now, waiting for the device. For set-up, checkpoints and tests.
///
/// # Errors
/// [`Error::Device`] where the copy failed.
pub fn read_now(gpu: &Gpu, buffer: &wgpu::Buffer, range: std::ops::Range<u64>) -> Result<Vec<u32>> {
    let mut readback = Readback::new(gpu);
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    readback.record(&mut encoder, buffer, &[range], ());
    gpu.queue().submit([encoder.finish()]);
    loop {
        gpu.wait()?;
        if let Some(((), words)) = readback.take()? {
            return Ok(words);
        }
        // Another thread polled the device and is about to report the copy.
        std::thread::yield_now();
    }
}
