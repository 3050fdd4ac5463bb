//! Buffers by lifetime class. wgpu tracks hazards per whole buffer, so what is written at different
//! moments of a step must not share one.

use super::Gpu;
use crate::error::{Error, Result};

/// What a buffer is for; also its debug label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Parameters of the model, all replicas.
    Weights,
    /// Their gradients.
    Gradients,
    /// Moments of the optimizer.
    Optimizer,
    /// Values that live for part of a step; planned, and shared where lifetimes allow.
    Activations,
    /// Examples, token tables, constants.
    Data,
    /// The metric row of the current step and the ring of past rows.
    Metrics,
    /// Step counter and hyper-parameters.
    State,
}

impl Class {
    fn label(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Activations => "activations",
            Self::Data => "data",
            Self::Metrics => "metrics",
            Self::State => "state",
        }
    }
}

/// A size in bytes, printed for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        if unit == "B" { write!(f, "{} B", self.0) } else { write!(f, "{value:.1} {unit}") }
    }
}

impl Gpu {
    /// A storage buffer of `elements` 32-bit values (at least one), zeroed.
    ///
    /// # Errors
    /// [`Error::Limit`] where the device allows no buffer of that size.
    pub fn buffer(&self, class: Class, elements: u64) -> Result<wgpu::Buffer> {
        let size = elements.max(1) * 4;
        let caps = self.caps();
        if size > caps.max_buffer {
            return Err(Error::too_large(format_args!(
                "{} need {} in one buffer, but {} allows {}",
                class.label(),
                Bytes(size),
                caps.name,
                Bytes(caps.max_buffer),
            )));
        }
        let made = self.scoped(|| {
            self.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some(class.label()),
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        made.map_err(|error| match error {
            wgpu::Error::OutOfMemory { .. } => {
                Error::too_large(format_args!("{} has no room for {} of {}", caps.name, Bytes(size), class.label(),))
            }
            error => Error::Device(error.to_string()),
        })
    }

    /// A storage buffer holding `data`, uploaded with the next submission.
    ///
    /// # Errors
    /// [`Error::Limit`] where the device allows no buffer of that size.
    pub fn upload<T: bytemuck::NoUninit>(&self, class: Class, data: &[T]) -> Result<wgpu::Buffer> {
        const { assert!(size_of::<T>() == 4, "buffers hold 32-bit values") };
        let buffer = self.buffer(class, data.len() as u64)?;
        self.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(data));
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_for_people() {
        assert_eq!(Bytes(12).to_string(), "12 B");
        assert_eq!(Bytes(128 << 20).to_string(), "128.0 MiB");
    }

    #[test]
    fn a_buffer_beyond_the_limit_is_refused_with_advice() {
        let gpu = Gpu::noop();
        let error = gpu.buffer(Class::Activations, gpu.caps().max_buffer).unwrap_err();
        assert!(error.to_string().contains("fewer replicas"), "{error}");
    }
}
