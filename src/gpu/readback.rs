//! From the device to the host without waiting: copies are mapped when their submission is done, and
//! the host asks whether it is. A copy whose encoder was dropped is out of everyone's way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::Gpu;
use crate::error::{Error, Result};

/// What became of a copy.
#[derive(Clone, PartialEq)]
enum Fate {
    /// It is encoded, or under way.
    Waiting,
    /// It lies in its staging buffer, or could not be made.
    Done(Result<(), wgpu::BufferAsyncError>),
    /// Its encoder was dropped.
    Dropped,
}

type Status = Arc<Mutex<Fate>>;

fn lock(status: &Status) -> std::sync::MutexGuard<'_, Fate> {
    status.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Lives in the callback of a copy: wgpu drops it uncalled with an encoder that is not submitted.
struct Awaited(Status);

impl Awaited {
    fn done(self, result: Result<(), wgpu::BufferAsyncError>) {
        *lock(&self.0) = Fate::Done(result);
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut fate = lock(&self.0);
        if *fate == Fate::Waiting {
            *fate = Fate::Dropped;
        }
    }
}

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
        let status: Status = Arc::new(Mutex::new(Fate::Waiting));
        let awaited = Awaited(Arc::clone(&status));
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, 0..size, move |result| awaited.done(result));
        self.pending.push_back(Pending { tag, staging, size, status });
    }

    /// Copies not yet handed out, but for those whose encoder was dropped.
    pub fn in_flight(&self) -> usize {
        self.pending.iter().filter(|pending| *lock(&pending.status) != Fate::Dropped).count()
    }

    /// Tags of the copies not yet handed out.
    pub(crate) fn tags_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pending.iter_mut().map(|pending| &mut pending.tag)
    }

    /// Lets go of all copies; what still arrives of them is handed to nobody.
    pub(crate) fn forget(&mut self) {
        self.pending.clear();
    }

    /// The oldest copy, if it has arrived. Never waits; someone must poll the device.
    ///
    /// # Errors
    /// [`Error::Device`] where the copy failed, or none has arrived and the device has failed.
    pub fn take(&mut self) -> Result<Option<(T, Vec<u32>)>> {
        while self.pending.front().is_some_and(|front| *lock(&front.status) == Fate::Dropped) {
            self.idle.extend(self.pending.pop_front().map(|dropped| dropped.staging));
        }
        let done = self.pending.front().and_then(|front| match &*lock(&front.status) {
            Fate::Done(result) => Some(result.clone()),
            _ => None,
        });
        let Some(result) = done else {
            // What a device that failed was asked for may never arrive.
            self.gpu.check()?;
            return Ok(None);
        };
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
    Ok(read_together(gpu, &[(buffer, range)])?.swap_remove(0))
}

/// The same for several buffers, as they are at one moment between two submissions.
pub(crate) fn read_together(gpu: &Gpu, parts: &[(&wgpu::Buffer, std::ops::Range<u64>)]) -> Result<Vec<Vec<u32>>> {
    let mut readback = Readback::new(gpu);
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for (buffer, range) in parts {
        readback.record(&mut encoder, buffer, std::slice::from_ref(range), ());
    }
    gpu.queue().submit([encoder.finish()]);
    let mut found = Vec::with_capacity(parts.len());
    while found.len() < parts.len() {
        gpu.wait()?;
        match readback.take()? {
            Some(((), words)) => found.push(words),
            // Another thread polled the device and is about to report the copy.
            None => std::thread::yield_now(),
        }
    }
    Ok(found)
}
