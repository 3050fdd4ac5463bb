//! The device: our own, or the host's.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::kernel::Content;
use super::{Caps, Kernel, Pace, Shader, Tuning};
use crate::error::{Error, Result};

/// Which adapter to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterChoice {
    /// The first that [`adapters`] returns: a discrete GPU if there is one, software if there is nothing else.
    #[default]
    Best,
    /// Position in the list that [`adapters`] returns.
    Index(usize),
    /// Part of the adapter's name, in any case.
    Name(String),
}

impl std::str::FromStr for AdapterChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(index) => Self::Index(index),
            Err(_) => Self::Name(text.to_owned()),
        })
    }
}

/// How to open a device.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Compile kernels with bounds checks and loop limits. On by default in debug builds only.
    pub checked: bool,
    /// Ask for no optional feature and for wgpu's default limits only.
    pub plain: bool,
    /// Ask for cooperative matrices too, where the adapter has any that products can use; see [`Caps::COOPERATIVE`]. Off
    /// by default.
    pub cooperative: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { checked: cfg!(debug_assertions), plain: false, cooperative: false }
    }
}

/// A device, its queue, what it can do, and the kernels compiled for it. Cloning shares all of them.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    caps: Caps,
    checked: bool,
    /// The adapter of a device of our own, and how it was opened.
    opened: Option<(wgpu::Adapter, Options)>,
    kernels: Mutex<HashMap<Arc<Content>, Arc<Kernel>>>,
    failure: Arc<Mutex<Option<String>>>,
    tuning: Mutex<Tuning>,
    pace: Mutex<Pace>,
    /// Whether products may go through cooperative matrices.
    cooperative: AtomicBool,
}

impl Gpu {
    /// Opens a device of our own, with every optional feature and the full limits of the adapter.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where there is none; the message says how to get one. [`Error::UnknownAdapter`] where none matches.
    pub fn open(choice: &AdapterChoice, options: Options) -> Result<Self> {
        let found = adapters();
        Self::open_on(&found[pick(&found, choice)?], options)
    }

    /// A second device on the adapter of a device of our own, opened as that was; `None` on a host's device, and where the
    /// adapter gives no second one. The two share what the driver shares: its cache of kernels.
    pub(super) fn twin(&self) -> Option<Self> {
        let (adapter, options) = self.inner.opened.as_ref()?;
        Self::open_on(adapter, *options).ok()
    }

    fn open_on(adapter: &wgpu::Adapter, options: Options) -> Result<Self> {
        let cooperative = options.cooperative && !options.plain && Caps::of_adapter(adapter).cooperative_side.is_some();
        let (required_features, required_limits) = if options.plain {
            (wgpu::Features::empty(), wgpu::Limits::default())
        } else {
            let more = if cooperative { Caps::COOPERATIVE } else { wgpu::Features::empty() };
            (adapter.features() & Caps::PREFERRED | more, adapter.limits())
        };
        let experimental_features = if cooperative {
            // SAFETY: of experimental features only cooperative matrices are asked for. Kernels that use them are
            // recorded after a self-test on this very device has compared them with a reference, and with operations in
            // uniform control flow on workgroup memory that they have written.
            unsafe { wgpu::ExperimentalFeatures::enabled() }
        } else {
            wgpu::ExperimentalFeatures::disabled()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("thermoscope"),
            required_features,
            required_limits,
            experimental_features,
            ..Default::default()
        }))
        .map_err(|error| Error::NoAdapter(format!("{} cannot be opened: {error}", adapter.get_info().name)))?;

        let failure = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&failure);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| note(&slot, error.to_string())));
        let slot = Arc::clone(&failure);
        device.set_device_lost_callback(move |reason, message| {
            let why = if message.is_empty() { format!("{reason:?}") } else { message };
            note(&slot, format!("it was lost ({why})"));
        });
        let caps = Caps::read(&device, Some(adapter), queue.get_timestamp_period());
        Ok(Self::assemble(device, queue, caps, options.checked, Some((adapter.clone(), options)), failure))
    }

    /// Uses the host's device. Works with no optional feature and wgpu's default limits; features the
    /// device has are used (see [`Caps::PREFERRED`]). Nothing is submitted or polled behind the host's
    /// back. Without the adapter, cooperative-matrix shapes stay unknown.
    ///
    /// The device's handler of errors and its device-lost callback stay the host's: it is the host that learns first of a
    /// device that was lost. Here it shows where something is read back: commands that never ran leave rows whose stamp is
    /// not the expected one, and copies that fail, which is [`Error::Device`] as on a device of our own. Errors of
    /// what we create ourselves, kernels and memory, are caught before they reach the host.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue, adapter: Option<&wgpu::Adapter>) -> Self {
        let caps = Caps::read(&device, adapter, queue.get_timestamp_period());
        Self::assemble(device, queue, caps, Options::default().checked, None, Arc::default())
    }

    /// A device that accepts everything and computes nothing, for tests and for timing the encoder.
    pub fn noop() -> Self {
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let caps = Caps::read(&device, None, queue.get_timestamp_period());
        Self::assemble(device, queue, caps, false, None, Arc::default())
    }

    fn assemble(
        device: wgpu::Device,
        queue: wgpu::Queue,
        caps: Caps,
        checked: bool,
        opened: Option<(wgpu::Adapter, Options)>,
        failure: Arc<Mutex<Option<String>>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                device,
                queue,
                caps,
                checked,
                opened,
                kernels: Mutex::default(),
                failure,
                tuning: Mutex::default(),
                pace: Mutex::default(),
                cooperative: AtomicBool::new(false),
            }),
        }
    }

    /// The wgpu device.
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    /// The wgpu queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// What the device can do.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// How matrix products are cut; see [`Gpu::tune`].
    pub fn tuning(&self) -> Tuning {
        self.inner.tuning.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Sets how products recorded from now on are cut. Speed depends on it, no bit of any result does.
    pub fn tune(&self, tuning: Tuning) {
        *self.inner.tuning.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = tuning;
    }

    /// Side of the cooperative matrices that products recorded in f16 go through; `None` until they have proved to be
    /// right on this device (`autograd::verify_cooperative`).
    pub fn cooperative(&self) -> Option<u32> {
        self.inner.caps.cooperative_side.filter(|_| self.inner.cooperative.load(Ordering::Relaxed))
    }

    /// Lets products recorded in f16 from now on go through cooperative matrices, or no longer.
    pub(crate) fn trust_cooperative(&self, trust: bool) {
        self.inner.cooperative.store(trust, Ordering::Relaxed);
    }

    /// Whether kernels are compiled with bounds checks.
    pub fn checked(&self) -> bool {
        self.inner.checked
    }

    /// The compiled kernel for a shader and its knob values, from the cache where it was asked for before. Kernels of this
    /// crate are compiled as [`Options::checked`] says, all others with bounds checks.
    ///
    /// # Errors
    /// [`Error::Shader`] where it does not compile on this device.
    pub fn kernel(&self, shader: &Shader<'_>, knobs: &[u32]) -> Result<Arc<Kernel>> {
        self.kernel_of(&Arc::new(Content::of(self, shader, knobs)))
    }

    /// The compiled kernel of that content.
    pub(super) fn kernel_of(&self, content: &Arc<Content>) -> Result<Arc<Kernel>> {
        let mut kernels = self.inner.kernels.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(kernel) = kernels.get(content) {
            return Ok(Arc::clone(kernel));
        }
        let kernel = Arc::new(Kernel::compile(self, content)?);
        kernels.insert(Arc::clone(content), Arc::clone(&kernel));
        Ok(kernel)
    }

    /// Fails if the device has reported an error since it was opened.
    ///
    /// # Errors
    /// [`Error::Device`] with the device's words.
    pub fn check(&self) -> Result<()> {
        let failure = self.inner.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match failure.as_ref() {
            Some(message) => Err(Error::Device(message.clone())),
            None => Ok(()),
        }
    }

    /// Waits until everything submitted so far has run. Never called on a host's behalf.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost or has reported an error.
    pub fn wait(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    /// Waits until a submission has run.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost or has reported an error.
    pub fn wait_for(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })
    }

    /// The one way of waiting: wgpu panics where a device is lost while it is polled, and refuses to wait for commands
    /// that a lost device did not take.
    fn poll(&self, how: wgpu::PollType) -> Result<()> {
        match catch_unwind(AssertUnwindSafe(|| self.device().poll(how))) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => note(&self.inner.failure, format!("it took no more commands ({error})")),
            Err(panic) => match of_poll(&*panic) {
                Some(text) => note(&self.inner.failure, text.lines().map(str::trim).collect::<Vec<_>>().join(" ")),
                // A callback's, perhaps of the host.
                None => resume_unwind(panic),
            },
        }
        self.check()
    }

    /// What `build` makes, or the first error that the device reports meanwhile. On a host's device an error without a
    /// scope would reach the host's handler, or panic.
    pub(super) fn scoped<T>(&self, build: impl FnOnce() -> T) -> Result<T, wgpu::Error> {
        let filters = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation];
        let scopes = filters.map(|filter| self.device().push_error_scope(filter));
        let built = build();
        let errors: Vec<_> = scopes.into_iter().rev().map(|scope| pollster::block_on(scope.pop())).collect();
        errors.into_iter().flatten().next().map_or(Ok(built), Err)
    }

    /// How much work goes into one submission; see [`Pace`].
    pub(super) fn pace<T>(&self, with: impl FnOnce(&mut Pace) -> T) -> T {
        with(&mut self.inner.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// What a panic says where it is wgpu's way of saying that polling failed, which becomes an error; `None` for all others, those
/// of callbacks that a poll calls among them.
pub(crate) fn of_poll(panic: &dyn Any) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).filter(|text| text.starts_with("Error in Device::poll"))
}

/// Keeps the first failure: what follows it says less.
fn note(failure: &Mutex<Option<String>>, text: String) {
    failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(text);
}

/// Every adapter wgpu reaches through Vulkan, Metal or DirectX 12: discrete GPUs first, software last, and
/// among equals the wider subgroups first, so that positions stay the same whatever order drivers load in.
pub fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let mut found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    found.sort_by_cached_key(|adapter| {
        let info = adapter.get_info();
        let rank = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        };
        (rank, std::cmp::Reverse(info.subgroup_max_size), info.name, info.device_pci_bus_id)
    });
    found
}

/// Position of the adapter that is meant.
///
/// # Errors
/// [`Error::NoAdapter`] where there is none at all, [`Error::UnknownAdapter`] with those there are.
pub fn pick(found: &[wgpu::Adapter], choice: &AdapterChoice) -> Result<usize> {
    let hit = match choice {
        AdapterChoice::Best => (!found.is_empty()).then_some(0),
        AdapterChoice::Index(index) => (*index < found.len()).then_some(*index),
        AdapterChoice::Name(name) if name.is_empty() => None,
        AdapterChoice::Name(name) => {
            let name = name.to_lowercase();
            found.iter().position(|adapter| adapter.get_info().name.to_lowercase().contains(&name))
        }
    };
    hit.ok_or_else(|| {
        let asked = match choice {
            _ if found.is_empty() => return Error::NoAdapter(no_adapter_help()),
            AdapterChoice::Index(index) => format!("there is no adapter {index}"),
            AdapterChoice::Name(name) => format!("no adapter's name contains \"{name}\""),
            AdapterChoice::Best => "no adapter can be used".to_owned(),
        };
        Error::UnknownAdapter { asked, list: found.iter().map(|adapter| adapter.get_info().name).collect() }
    })
}

/// What to do where no adapter is found, for the system at hand.
pub fn no_adapter_help() -> String {
    let advice = if cfg!(target_os = "linux") {
        let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let has = |name: &str| {
            os.lines().any(|line| (line.starts_with("ID=") || line.starts_with("ID_LIKE=")) && line.contains(name))
        };
        if has("debian") || has("ubuntu") {
            "Install a Vulkan driver: sudo apt-get install mesa-vulkan-drivers libvulkan1"
        } else if has("fedora") || has("rhel") {
            "Install a Vulkan driver: sudo dnf install mesa-vulkan-drivers vulkan-loader"
        } else if has("arch") {
            "Install a Vulkan driver: sudo pacman -S vulkan-swrast vulkan-icd-loader"
        } else if has("alpine") {
            "Install a Vulkan driver: sudo apk add mesa-vulkan-swrast vulkan-loader"
        } else if has("suse") {
            "Install a Vulkan driver: sudo zypper install libvulkan_lvp libvulkan1"
        } else {
            "Install the Vulkan loader and a driver for your GPU, or Mesa's software driver (lavapipe)"
        }
    } else if cfg!(target_os = "macos") {
        "macOS 10.13 or later on a machine with Metal is needed"
    } else if cfg!(target_os = "windows") {
        "Install the vendor's graphics driver; DirectX 12 or Vulkan is needed"
    } else {
        "Install a Vulkan driver for this system"
    };
    let advice = missing_driver(|name| std::env::var(name).ok()).unwrap_or_else(|| advice.to_owned());
    format!("no GPU adapter found, not even a software one. {advice}")
}

/// Which variable of the Vulkan loader names driver files that do not exist, if one does: then no driver helps that is
/// installed elsewhere.
fn missing_driver(value: impl Fn(&str) -> Option<String>) -> Option<String> {
    // The loader looks at the second only where the first is not set.
    let found = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().find_map(|name| Some((name, value(name)?)));
    let (name, value) = found?;
    let missing = std::env::split_paths(&value).find(|path| !path.as_os_str().is_empty() && !path.exists())?;
    Some(format!(
        "The variable {name} names the driver file {}, which does not exist: correct it, or unset {name}",
        missing.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapter_choice_is_an_index_or_part_of_a_name() {
        assert_eq!("3".parse(), Ok(AdapterChoice::Index(3)));
        assert_eq!("radeon".parse(), Ok(AdapterChoice::Name("radeon".to_owned())));
    }

    #[test]
    fn a_panic_of_a_callback_goes_on_and_is_no_failure_of_the_device() {
        let gpu = Gpu::open(&AdapterChoice::Best, Options::default()).unwrap();
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let buffer = wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false };
        let buffer = gpu.device().create_buffer(&buffer);
        buffer.map_async(wgpu::MapMode::Read, .., |_| panic!("the host's own"));
        let panic = catch_unwind(AssertUnwindSafe(|| gpu.wait())).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the host's own"));
        assert_eq!(of_poll(&*panic), None, "and is printed as any other");
        gpu.wait().unwrap();
        let lost: Box<dyn Any> = Box::new("Error in Device::poll: it was lost".to_owned());
        assert!(of_poll(&*lost).is_some());
    }

    #[test]
    fn a_driver_file_that_is_missing_is_named_with_its_variable() {
        let with = |variable: &'static str, value: &str| {
            let value = value.to_owned();
            missing_driver(move |name| (name == variable).then(|| value.clone()))
        };
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            let text = with(variable, "/nowhere/lvp.json").unwrap();
            assert!(text.contains(variable) && text.contains("/nowhere/lvp.json"), "{text}");
        }
        assert_eq!(with("VK_DRIVER_FILES", env!("CARGO_MANIFEST_DIR")), None);
        assert_eq!(missing_driver(|_| None), None);
    }

    #[test]
    fn no_adapter_says_what_to_install() {
        assert!(
            matches!(pick(&[], &AdapterChoice::Best), Err(Error::NoAdapter(text)) if text.contains("nstall") || text.contains("Metal"))
        );
    }
}
