//! A wgpu program of its own that trains a transformer on its own device: no feature, default limits,
//! its own encoder, and a shader of its own that reads the metric ring where it lies.
//!
//!     cargo run --release --no-default-features --example embed

use thermoscope::gpu::Gpu;
use thermoscope::task::{Modular, Operation};
use thermoscope::train::{RunConfig, Session};

/// Training steps between the host's two passes.
pub(crate) const STEPS: u64 = 10;

/// The host's shader. Before training it writes what the ring holds, after it the losses: entry i is the
/// train loss of step i.
const HOST_SHADER: &str = "
struct Place { slots: u32, row_len: u32, loss_at: u32, steps: u32 }
@group(0) @binding(0) var<storage, read> ring: array<f32>;
@group(0) @binding(1) var<storage, read_write> seen: array<f32>;
@group(0) @binding(2) var<uniform> place: Place;
@compute @workgroup_size(32)
fn look(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < place.steps) { seen[id.x] = ring[id.x % place.slots * place.row_len + place.loss_at]; }
}";

/// Trains and returns what the host's shader saw before and after.
pub(crate) fn run() -> Result<[Vec<f32>; 2], Box<dyn std::error::Error>> {
    // The host's own device, as any wgpu program makes it.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;

    // Thermoscope borrows it.
    let gpu = Gpu::from_device(device.clone(), queue.clone(), Some(&adapter));
    let mut task = Modular::new(Operation::Add, 31);
    task.train_fraction = 0.5;
    let mut run = RunConfig::new(STEPS, task);
    run.model.d_model = 32;
    let mut session = Session::new(&gpu, run.resolve()?)?;

    // Where the train loss lies in a row of the ring.
    let loss = session.metrics().iter().find(|m| m.card.name == "loss.train").ok_or("no train loss")?;
    let (ring, slots, row_len) = session.ring();
    let place = [slots as u32, row_len as u32, loss.offset as u32, STEPS as u32];
    let buffer = |size: u64, usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let uniform = buffer(16, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
    queue.write_buffer(&uniform, 0, bytemuck::cast_slice(&place));
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let seen = [buffer(STEPS * 4, storage), buffer(STEPS * 4, storage)];

    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("host"),
        source: wgpu::ShaderSource::Wgsl(HOST_SHADER.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("host"),
        layout: None,
        module: &module,
        entry_point: Some("look"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let groups = seen.each_ref().map(|seen| {
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: ring.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: seen.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 2, resource: uniform.as_entire_binding() },
            ],
        })
    });

    // One encoder of the host: a pass of its own, ten training steps, another pass of its own.
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let look = |encoder: &mut wgpu::CommandEncoder, group: &wgpu::BindGroup| {
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("host"), ..Default::default() });
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    };
    look(&mut encoder, &groups[0]);
    {
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("train"), ..Default::default() });
        for _ in 0..STEPS {
            session.encode_step(&mut pass);
        }
    }
    look(&mut encoder, &groups[1]);

    // The host submits, and reads back what its shader saw.
    let staging = buffer(STEPS * 8, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    for (seen, at) in seen.iter().zip([0, STEPS * 4]) {
        encoder.copy_buffer_to_buffer(seen, 0, &staging, at, STEPS * 4);
    }
    queue.submit([encoder.finish()]);
    staging.slice(..).map_async(wgpu::MapMode::Read, |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&staging.slice(..).get_mapped_range()?);
    let (before, after) = values.split_at(STEPS as usize);
    Ok([before.to_vec(), after.to_vec()])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, losses] = run()?;
    for (step, loss) in losses.iter().enumerate() {
        println!("step {step}  train loss {loss:.4}");
    }
    Ok(())
}
