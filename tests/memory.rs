//! A run takes as much memory at its end as at its beginning, on the device and on the host.
#![cfg(target_os = "linux")]

mod common;

use common::gpus;
use thermoscope::gpu::Gpu;
use thermoscope::record::Setup;
use thermoscope::train::Session;

const SMALL: &str = r#"
    steps = 100000
    [task]
    kind = "modular"
    p = 7
    [model]
    d_model = 8
    n_heads = 2
    d_mlp = 8
    [batch]
    size = 8
    [measure.probe]
    size = 7
    draws = 20
"#;

/// Bytes of this process that are in memory, and bytes of device memory that are allocated.
fn held(gpu: &Gpu) -> (u64, u64) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    let report = gpu.device().generate_allocator_report().expect("Vulkan reports what is allocated");
    (pages * 4096, report.total_allocated_bytes)
}

#[test]
fn memory_does_not_grow_with_steps() {
    let gpu = &gpus()[0];
    let mut session = Session::new(gpu, Setup::from_toml(SMALL).unwrap().config).unwrap();
    let mut go = |steps: u64| {
        for _ in 0..steps / 20 {
            session.submit(20);
            gpu.wait().unwrap();
            while session.take_rows().unwrap().is_some() {}
        }
        held(gpu)
    };
    // Buffers of readbacks, a driver's pools and the allocator's arenas fill up once, some of them late: what leaks grows
    // in every stretch of steps.
    let mut before = go(1000);
    let mut grown = u64::MAX;
    for _ in 0..3 {
        let now = go(2000);
        assert_eq!(before.1, now.1);
        grown = grown.min(now.0.saturating_sub(before.0));
        before = now;
    }
    // A leak of one row (some 4 KiB) or of one command buffer a step would come to more than 8 MiB in 2,000 steps.
    assert!(grown < 2 << 20, "{grown} bytes more in each 2,000 steps, of {}", before.0);
}
