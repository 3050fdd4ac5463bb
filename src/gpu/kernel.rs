//! A compiled kernel: pipeline, bind-group layout, and what reflection knows of it.

use std::sync::Arc;

use super::shader::Dialect;
use super::{Caps, Field, Gpu, Knob, Shader};
use crate::error::{Error, Result};

/// All that a kernel is made of. Its name alone would not do: two crates may call different kernels alike.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Content {
    name: String,
    source: String,
    knobs: Vec<(String, Vec<u32>)>,
    values: Vec<u32>,
    params: Vec<Field>,
    checked: bool,
}

impl Content {
    pub(super) fn of(gpu: &Gpu, shader: &Shader<'_>, knobs: &[u32]) -> Self {
        Self {
            name: shader.name.to_owned(),
            source: shader.source.to_owned(),
            knobs: shader.knobs.iter().map(|knob| (knob.name.to_owned(), knob.values.to_vec())).collect(),
            values: knobs.to_vec(),
            params: shader.params.to_vec(),
            checked: is_checked(gpu, shader),
        }
    }

    /// What `with` makes of the shader.
    fn shader<T>(&self, with: impl FnOnce(&Shader<'_>) -> T) -> T {
        let knobs: Vec<Knob<'_>> = self.knobs.iter().map(|(name, values)| Knob { name, values }).collect();
        with(&Shader { name: &self.name, source: &self.source, knobs: &knobs, params: &self.params })
    }
}

/// Whether a kernel is compiled with bounds checks and loop limits: those of other crates always are.
fn is_checked(gpu: &Gpu, shader: &Shader<'_>) -> bool {
    gpu.checked() || !crate::kernels::is_own(shader)
}

/// One variant of one shader, ready to be dispatched.
#[derive(Debug)]
pub struct Kernel {
    label: String,
    content: Arc<Content>,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    /// For each tensor binding, whether the kernel writes it.
    writes: Vec<bool>,
    params_bytes: usize,
    params_in_immediates: bool,
}

impl Kernel {
    pub(super) fn compile(gpu: &Gpu, content: &Arc<Content>) -> Result<Self> {
        content.shader(|shader| Self::compile_shader(gpu, content, shader))
    }

    fn compile_shader(gpu: &Gpu, content: &Arc<Content>, shader: &Shader<'_>) -> Result<Self> {
        let (caps, knobs, checked) = (gpu.caps(), &content.values, content.checked);
        let params_bytes = shader.params.last().map_or(0, |field| field.offset + 4);
        let params_in_immediates = params_bytes > 0 && caps.immediates >= Caps::IMMEDIATE_BYTES;
        let dialect = Dialect { immediates: params_in_immediates, long: caps.is_software() && caps.int64 };
        let reflected = shader.reflect(knobs, dialect, false)?;
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
            if checked { wgpu::ShaderRuntimeChecks::checked() } else { wgpu::ShaderRuntimeChecks::unchecked() };
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
                    zero_initialize_workgroup_memory: checked,
                    ..Default::default()
                },
                cache: None,
            });
            (pipeline, layout)
        });
        let (pipeline, layout) = made.map_err(|error| {
            fail(format!("{error}\n(line 1 of the assembled text is {})", reflected.text.origin(1)))
        })?;
        let content = Arc::clone(content);
        Ok(Self { label, content, pipeline, layout, writes: reflected.writes, params_bytes, params_in_immediates })
    }

    /// Name and knob values.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What it is made of, to be compiled on another device.
    pub(super) fn content(&self) -> &Arc<Content> {
        &self.content
    }

    /// Dispatches no workgroup: what a software driver compiles late, it compiles then.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    pub(super) fn run_over_nothing(&self, gpu: &Gpu) -> Result<()> {
        let device = gpu.device();
        // A buffer is not read and written at once, so each binding has one of its own.
        let uniform = (self.params_bytes > 0 && !self.params_in_immediates).then_some(wgpu::BufferUsages::UNIFORM);
        let usages = self.writes.iter().map(|_| wgpu::BufferUsages::STORAGE).chain(uniform);
        let size = (self.params_bytes as u64).max(256);
        let buffers: Vec<wgpu::Buffer> = usages
            .map(|usage| {
                device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
            })
            .collect();
        let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
            .zip(&buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.layout,
            entries: &entries,
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        if self.params_in_immediates {
            pass.set_immediates(0, &vec![0; self.params_bytes]);
        }
        pass.dispatch_workgroups(0, 0, 0);
        drop(pass);
        gpu.wait_for(gpu.queue().submit([encoder.finish()]))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Knob;

    #[test]
    fn kernels_of_one_name_are_told_apart_by_what_they_hold() {
        let gpu = Gpu::noop();
        let text = |body: &str| {
            format!(
                "@tensor var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1) fn one() {{ y[0] = {body}; }}"
            )
        };
        let kernel = |source: &str, knobs: &[Knob<'_>], values: &[u32]| {
            gpu.kernel(&Shader { name: "mine/one", source, knobs, params: &[] }, values).unwrap()
        };
        let (first, second) = (text("1.0"), text("f32(SIZE)"));
        let size = [Knob { name: "SIZE", values: &[2, 3] }];
        let kernels = [kernel(&first, &[], &[]), kernel(&second, &size, &[2]), kernel(&second, &size, &[3])];
        for (at, kernel) in kernels.iter().enumerate() {
            assert!(kernels[..at].iter().all(|other| !std::sync::Arc::ptr_eq(kernel, other)));
        }
        assert!(
            std::sync::Arc::ptr_eq(&kernels[1], &kernel(&text("f32(SIZE)"), &size, &[2])),
            "the same text is the same kernel"
        );
        // Its Params are compared with those of the text, whatever was compiled before.
        let params = <Named as crate::gpu::Params>::FIELDS;
        assert!(gpu.kernel(&Shader { name: "mine/one", source: &first, knobs: &[], params }, &[]).is_err());
    }

    crate::params! { struct Named { n: u32 } }

    #[test]
    fn kernels_of_others_are_checked() {
        let gpu = Gpu::noop();
        assert!(!gpu.checked());
        let own = crate::autograd::ops::shaders()[0];
        assert!(!is_checked(&gpu, own) && is_checked(&gpu, &own.clone()));
    }
}
