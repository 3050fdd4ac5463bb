//! A compiled kernel: pipeline, bind-group layout, and what reflection knows of it.

use super::shader::ParamsVia;
use super::{Caps, Gpu, Shader};
use crate::error::{Error, Result};

/// One variant of one shader, ready to be dispatched.
#[derive(Debug)]
pub struct Kernel {
    label: String,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    /// For each tensor binding, whether the kernel writes it.
    writes: Vec<bool>,
    params_bytes: usize,
    params_in_immediates: bool,
}

impl Kernel {
    pub(super) fn compile(gpu: &Gpu, shader: &'static Shader, knobs: &[u32]) -> Result<Self> {
        let caps = gpu.caps();
        let params_bytes = shader.params.last().map_or(0, |field| field.offset + 4);
        let params_in_immediates = params_bytes > 0 && caps.immediates >= Caps::IMMEDIATE_BYTES;
        let via = if params_in_immediates { ParamsVia::Immediates } else { ParamsVia::Uniform };
        let reflected = shader.reflect(knobs, via, false)?;
        let label = shader.label(knobs);
        let fail = |detail: String| Error::Shader { kernel: label.clone(), detail };
        if reflected.writes.len() > caps.max_storage_buffers as usize {
            return Err(fail(format!(
                "binds {} storage buffers, the device allows {}",
                reflected.writes.len(),
                caps.max_storage_buffers
            )));
        }
        if reflected.workgroup.iter().product::<u32>() > caps.max_invocations {
            return Err(fail(format!(
                "{:?} invocations, the device allows {}",
                reflected.workgroup, caps.max_invocations
            )));
        }

        let device = gpu.device();
        let checks =
            if gpu.checked() { wgpu::ShaderRuntimeChecks::checked() } else { wgpu::ShaderRuntimeChecks::unchecked() };
        let mut entries: Vec<wgpu::BindGroupLayoutEntry> = reflected
            .writes
            .iter()
            .map(|write| wgpu::BufferBindingType::Storage { read_only: !write })
            .chain((params_bytes > 0 && !params_in_immediates).then_some(wgpu::BufferBindingType::Uniform))
            .map(|ty| wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            })
            .collect();
        for (binding, entry) in entries.iter_mut().enumerate() {
            entry.binding = binding as u32;
        }
        // What the driver cannot compile is an internal error, or one of memory.
        let made = gpu.scoped(|| {
            // SAFETY: our own kernels, indexed within the lengths they are given: those that software adapters
            // and GPUs take run bounds-checked in tests, and a test compares checked with unchecked results. Loops have counted bounds.
            let module = unsafe {
                device.create_shader_module_trusted(
                    wgpu::ShaderModuleDescriptor {
                        label: Some(&label),
                        source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(reflected.module)),
                    },
                    checks,
                )
            };
            let layout = device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&label),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: if params_in_immediates { params_bytes as u32 } else { 0 },
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(shader.entry()),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Kernels write workgroup memory before they read it.
                    zero_initialize_workgroup_memory: gpu.checked(),
                    ..Default::default()
                },
                cache: None,
            });
            (pipeline, layout)
        });
        let (pipeline, layout) = made.map_err(|error| {
            fail(format!("{error}\n(line 1 of the assembled text is {})", reflected.text.origin(1)))
        })?;
        Ok(Self { label, pipeline, layout, writes: reflected.writes, params_bytes, params_in_immediates })
    }

    /// Name and knob values.
    pub fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn pipeline(&self) -> &wgpu::ComputePipeline {
        &self.pipeline
    }

    pub(super) fn layout(&self) -> &wgpu::BindGroupLayout {
        &self.layout
    }

    pub(super) fn writes(&self) -> &[bool] {
        &self.writes
    }

    pub(super) fn params_bytes(&self) -> usize {
        self.params_bytes
    }

    pub(super) fn params_in_immediates(&self) -> bool {
        self.params_in_immediates
    }
}
