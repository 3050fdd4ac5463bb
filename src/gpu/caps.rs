//! What the device can do, read once. Kernel variants are chosen from this and from nothing else.

use serde::Serialize;

/// One cooperative-matrix shape the adapter multiplies in hardware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoopMatrix {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Element type of A and B.
    pub input: String,
    /// Element type of C and of the accumulator.
    pub accumulate: String,
}

impl CoopMatrix {
    /// Whether this is a square of f16 with f32 sums, of that side.
    fn multiplies_halves(&self, side: u32) -> bool {
        [self.m, self.n, self.k] == [side; 3] && self.input == "f16" && self.accumulate == "f32"
    }
}

/// The capabilities of one device.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Caps {
    /// The adapter's name.
    pub name: String,
    /// Vulkan, Metal, Dx12 or Noop.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// Discrete GPU, integrated GPU, virtual GPU, CPU or other.
    pub kind: String,
    /// Smallest and largest subgroup size, where subgroup operations may be used.
    pub subgroup: Option<(u32, u32)>,
    /// 16-bit floats in shaders.
    pub f16: bool,
    /// 64-bit integers in shaders.
    pub int64: bool,
    /// Bytes of immediates a kernel may take; 0 where there are none.
    pub immediates: u32,
    /// Nanoseconds a timestamp tick, where compute passes can be timed.
    #[serde(rename = "timestamps", serialize_with = "whether")]
    pub timestamp_period: Option<f32>,
    /// Cooperative-matrix shapes, whether or not the device was opened with them.
    pub cooperative: Vec<CoopMatrix>,
    /// Side of the square cooperative matrices of f16 with f32 sums that kernels may use: 16, or else 8. `None` where
    /// the adapter has neither, or the device was opened without them.
    pub cooperative_side: Option<u32>,
    /// Storage buffers one kernel may bind.
    pub max_storage_buffers: u32,
    /// Bytes of one storage binding.
    pub max_binding: u64,
    /// Bytes of one buffer.
    pub max_buffer: u64,
    /// Bytes of workgroup memory.
    pub max_workgroup_memory: u32,
    /// Invocations of one workgroup.
    pub max_invocations: u32,
    /// Workgroups along one axis of a grid.
    pub max_grid: u32,
    /// Storage bindings must start at a multiple of this many bytes.
    pub storage_alignment: u32,
    /// Uniform bindings must start at a multiple of this many bytes.
    pub uniform_alignment: u32,
    #[serde(skip)]
    pub(super) software: bool,
}

/// How long a tick is only an open device says.
fn whether<S: serde::Serializer>(period: &Option<f32>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bool(period.is_some())
}

impl Caps {
    /// Name and backend: `llvmpipe (Vulkan)`.
    pub fn called(&self) -> String {
        format!("{} ({})", self.name, self.backend)
    }

    /// Features this crate can use. A host that creates the device itself may add those its adapter
    /// has; none is required.
    pub const PREFERRED: wgpu::Features = wgpu::Features::SUBGROUP
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::IMMEDIATES)
        .union(wgpu::Features::SHADER_INT64)
        .union(wgpu::Features::TIMESTAMP_QUERY);

    /// Features that products through cooperative matrices need. wgpu calls the first of them experimental: a host that
    /// wants them allows experimental features, and names them where it creates the device.
    pub const COOPERATIVE: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::SUBGROUP);

    /// Immediates no kernel exceeds, in bytes. Every native backend that has them allows this many.
    pub const IMMEDIATE_BYTES: u32 = 128;

    /// Reads the capabilities of an open device. Cooperative-matrix shapes are known to the adapter only.
    pub(super) fn read(device: &wgpu::Device, adapter: Option<&wgpu::Adapter>, timestamp_period: f32) -> Self {
        Self::from_parts(
            &device.adapter_info(),
            device.features(),
            &device.limits(),
            adapter.map(wgpu::Adapter::cooperative_matrix_properties).unwrap_or_default(),
            timestamp_period,
        )
    }

    /// The capabilities an adapter would give a device that asks for all of them.
    pub fn of_adapter(adapter: &wgpu::Adapter) -> Self {
        Self::from_parts(
            &adapter.get_info(),
            adapter.features(),
            &adapter.limits(),
            adapter.cooperative_matrix_properties(),
            f32::NAN,
        )
    }

    fn from_parts(
        info: &wgpu::AdapterInfo,
        features: wgpu::Features,
        limits: &wgpu::Limits,
        cooperative: Vec<wgpu::CooperativeMatrixProperties>,
        timestamp_period: f32,
    ) -> Self {
        let has = |feature| features.contains(feature);
        let cooperative: Vec<CoopMatrix> = cooperative
            .into_iter()
            .map(|p| CoopMatrix {
                m: p.m_size,
                n: p.n_size,
                k: p.k_size,
                input: format!("{:?}", p.ab_type).to_lowercase(),
                accumulate: format!("{:?}", p.cr_type).to_lowercase(),
            })
            .collect();
        let offers = |side: u32| cooperative.iter().any(|c| c.multiplies_halves(side));
        Self {
            name: info.name.clone(),
            backend: format!("{:?}", info.backend),
            driver: [info.driver.as_str(), info.driver_info.as_str()]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(" "),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete GPU",
                wgpu::DeviceType::IntegratedGpu => "integrated GPU",
                wgpu::DeviceType::VirtualGpu => "virtual GPU",
                wgpu::DeviceType::Cpu => "software (CPU)",
                wgpu::DeviceType::Other => "other",
            }
            .to_owned(),
            subgroup: has(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size)),
            f16: has(wgpu::Features::SHADER_F16),
            int64: has(wgpu::Features::SHADER_INT64),
            immediates: if has(wgpu::Features::IMMEDIATES) { limits.max_immediate_size } else { 0 },
            timestamp_period: has(wgpu::Features::TIMESTAMP_QUERY).then_some(timestamp_period),
            cooperative_side: [16, 8].into_iter().find(|side| has(Self::COOPERATIVE) && offers(*side)),
            cooperative,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            max_workgroup_memory: limits.max_compute_workgroup_storage_size,
            max_invocations: limits.max_compute_invocations_per_workgroup,
            max_grid: limits.max_compute_workgroups_per_dimension,
            storage_alignment: limits.min_storage_buffer_offset_alignment,
            uniform_alignment: limits.min_uniform_buffer_offset_alignment,
            software: info.device_type == wgpu::DeviceType::Cpu,
        }
    }

    /// Whether the "GPU" is a driver that runs shaders on the CPU.
    pub fn is_software(&self) -> bool {
        self.software
    }

    /// Whether this is a lavapipe that loads by a loop over lanes, with each element put where a variable says: Mesa 22.3
    /// does, 25.0 writes the loop out. Loads are then several times as dear.
    pub(crate) fn loads_by_loops(&self) -> bool {
        let version =
            self.driver.split_once("llvmpipe Mesa ").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
        version.is_some_and(|major: u32| major < 24)
    }

    /// Elements that the widest activation of a large pass should have at most: half of what can be bound, and 256 MiB.
    pub(crate) fn room(&self) -> u64 {
        (self.max_binding / 2).min(256 << 20) / 4
    }

    /// Whether the driver keeps the kernels that one device compiled for the others: lavapipe does, SwiftShader does not.
    pub(crate) fn shares_kernels(&self) -> bool {
        self.driver.contains("llvmpipe")
    }

    /// The subgroup size, where it is the same for every kernel.
    pub fn fixed_subgroup(&self) -> Option<u32> {
        self.subgroup.and_then(|(min, max)| (min == max && min > 0).then_some(min))
    }
}
