//! A Vulkan layer between a program and its driver that loses the device, as a driver does that was reset: from one call on,
//! submitting or waiting, all of them answer VK_ERROR_DEVICE_LOST. `LOSE_AT` says which call, as in `wait 40`.
//! Compiled by `tests/whole/lost.rs`; after the loader's LoaderLayerInterface.md, version 2.

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

type Proc = Option<unsafe extern "system" fn()>;
type Get = unsafe extern "system" fn(*mut c_void, *const c_char) -> Proc;
type Create = unsafe extern "system" fn(*const CreateInfo, *const c_void, *mut *mut c_void) -> i32;
type CreateOn = unsafe extern "system" fn(*mut c_void, *const CreateInfo, *const c_void, *mut *mut c_void) -> i32;
type Submit = unsafe extern "system" fn(*mut c_void, u32, *const c_void, u64) -> i32;
type WaitSemaphores = unsafe extern "system" fn(*mut c_void, *const c_void, u64) -> i32;
type WaitFences = unsafe extern "system" fn(*mut c_void, u32, *const c_void, u32, u64) -> i32;

const DEVICE_LOST: i32 = -4;
const LOADER_INSTANCE: i32 = 47;
const LOADER_DEVICE: i32 = 48;

/// The head of every structure that Vulkan chains.
#[repr(C)]
struct CreateInfo {
    kind: i32,
    next: *const Link,
}

/// VkLayerInstanceCreateInfo and VkLayerDeviceCreateInfo, as far as they are alike.
#[repr(C)]
struct Link {
    kind: i32,
    next: *const Link,
    function: i32,
    layers: *mut Below,
}

/// VkLayerInstanceLink and VkLayerDeviceLink.
#[repr(C)]
struct Below {
    next: *mut Below,
    instance: Get,
    device: Option<Get>,
}

/// VkNegotiateLayerInterface.
#[repr(C)]
pub struct Negotiate {
    kind: i32,
    next: *mut c_void,
    version: u32,
    instance: Option<Get>,
    device: Option<Get>,
    physical: *const c_void,
}

static INSTANCE: OnceLock<Get> = OnceLock::new();
static DEVICE: OnceLock<Get> = OnceLock::new();
static LOST: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// Whether this is the thread that the program began with, on which it trains. Others compile ahead on devices of their
/// own, which stay.
fn trains() -> bool {
    let place = std::fs::read_link("/proc/thread-self").expect("Linux says which thread this is");
    place.ends_with(std::process::id().to_string())
}

/// Whether the device is lost at this call.
fn lost(call: &str) -> bool {
    if !trains() {
        return false;
    }
    let text = std::env::var("LOSE_AT").unwrap_or_default();
    if text.split(' ').next() == Some(call) {
        let at: usize = text.split(' ').nth(1).and_then(|number| number.parse().ok()).expect("LOSE_AT: a call and a number");
        if CALLS.fetch_add(1, Ordering::SeqCst) + 1 == at {
            LOST.store(true, Ordering::SeqCst);
        }
    }
    LOST.load(Ordering::SeqCst)
}

/// What lies below this layer; the layer below is told what lies below it.
unsafe fn below(info: *const CreateInfo, kind: i32) -> (Get, Option<Get>) {
    unsafe {
        let mut link = (*info).next.cast_mut();
        while (*link).kind != kind || (*link).function != 0 {
            link = (*link).next.cast_mut();
        }
        let found = (*link).layers;
        (*link).layers = (*found).next;
        ((*found).instance, (*found).device)
    }
}

/// A function of the layer below, of the type that is asked for.
unsafe fn call<F: Copy>(get: Get, of: *mut c_void, name: &CStr) -> F {
    unsafe {
        let found = get(of, name.as_ptr());
        assert!(found.is_some(), "{name:?} is not there");
        std::mem::transmute_copy(&found)
    }
}

unsafe extern "system" fn create_instance(info: *const CreateInfo, memory: *const c_void, out: *mut *mut c_void) -> i32 {
    unsafe {
        let (get, _) = below(info, LOADER_INSTANCE);
        let _ = INSTANCE.set(get);
        call::<Create>(get, std::ptr::null_mut(), c"vkCreateInstance")(info, memory, out)
    }
}

unsafe extern "system" fn create_device(
    physical: *mut c_void,
    info: *const CreateInfo,
    memory: *const c_void,
    out: *mut *mut c_void,
) -> i32 {
    unsafe {
        let (get, device) = below(info, LOADER_DEVICE);
        let _ = DEVICE.set(device.expect("the next layer's functions"));
        call::<CreateOn>(get, std::ptr::null_mut(), c"vkCreateDevice")(physical, info, memory, out)
    }
}

static QUEUE_SUBMIT: OnceLock<Submit> = OnceLock::new();
static WAIT_SEMAPHORES: OnceLock<WaitSemaphores> = OnceLock::new();
static WAIT_FENCES: OnceLock<WaitFences> = OnceLock::new();

unsafe extern "system" fn submit(queue: *mut c_void, count: u32, infos: *const c_void, fence: u64) -> i32 {
    if lost("submit") { DEVICE_LOST } else { unsafe { QUEUE_SUBMIT.get().expect("asked for")(queue, count, infos, fence) } }
}

unsafe extern "system" fn wait_semaphores(device: *mut c_void, info: *const c_void, timeout: u64) -> i32 {
    if lost("wait") { DEVICE_LOST } else { unsafe { WAIT_SEMAPHORES.get().expect("asked for")(device, info, timeout) } }
}

unsafe extern "system" fn wait_fences(device: *mut c_void, count: u32, fences: *const c_void, all: u32, timeout: u64) -> i32 {
    if lost("wait") {
        DEVICE_LOST
    } else {
        unsafe { WAIT_FENCES.get().expect("asked for")(device, count, fences, all, timeout) }
    }
}

/// A function of ours as the loader takes it.
macro_rules! ours {
    ($function:expr, $type:ty) => {
        std::mem::transmute::<$type, Proc>($function)
    };
}

unsafe extern "system" fn device_proc(device: *mut c_void, name: *const c_char) -> Proc {
    unsafe {
        let Some(get) = DEVICE.get() else { return None };
        let found = get(device, name);
        found?;
        match CStr::from_ptr(name).to_bytes() {
            b"vkGetDeviceProcAddr" => ours!(device_proc, Get),
            b"vkQueueSubmit" => {
                let _ = QUEUE_SUBMIT.set(std::mem::transmute::<Proc, Submit>(found));
                ours!(submit, Submit)
            }
            b"vkWaitSemaphores" | b"vkWaitSemaphoresKHR" => {
                let _ = WAIT_SEMAPHORES.set(std::mem::transmute::<Proc, WaitSemaphores>(found));
                ours!(wait_semaphores, WaitSemaphores)
            }
            b"vkWaitForFences" => {
                let _ = WAIT_FENCES.set(std::mem::transmute::<Proc, WaitFences>(found));
                ours!(wait_fences, WaitFences)
            }
            _ => found,
        }
    }
}

unsafe extern "system" fn instance_proc(instance: *mut c_void, name: *const c_char) -> Proc {
    unsafe {
        match CStr::from_ptr(name).to_bytes() {
            b"vkGetInstanceProcAddr" => ours!(instance_proc, Get),
            b"vkGetDeviceProcAddr" => ours!(device_proc, Get),
            b"vkCreateInstance" => ours!(create_instance, Create),
            b"vkCreateDevice" => ours!(create_device, CreateOn),
            _ => INSTANCE.get().and_then(|get| get(instance, name)),
        }
    }
}

/// Where the loader begins.
///
/// # Safety
/// `with` is the loader's.
#[no_mangle]
pub unsafe extern "system" fn vkNegotiateLoaderLayerInterfaceVersion(with: *mut Negotiate) -> i32 {
    unsafe {
        (*with).version = (*with).version.min(2);
        (*with).instance = Some(instance_proc);
        (*with).device = Some(device_proc);
        (*with).physical = std::ptr::null();
    }
    0
}
