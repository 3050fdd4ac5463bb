//! CPU time of encoding replayed steps, per dispatch: on the no-op device, and on the best adapter at hand.
//!
//!     cargo bench --bench encode

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use thermoscope::gpu::{AdapterChoice, Gpu, Options, Select};
use thermoscope::record::Setup;
use thermoscope::train::Session;

/// Steps of one pass, as a run submits them.
const STEPS: u64 = 16;

fn encode(criterion: &mut Criterion) {
    let mut gpus = vec![("noop".to_owned(), Gpu::noop())];
    let options = Options { checked: false, ..Options::default() };
    gpus.extend(Gpu::open(&AdapterChoice::Best, options).ok().map(|gpu| (gpu.caps().name.clone(), gpu)));
    for (name, gpu) in gpus {
        let mut group = criterion.benchmark_group(format!("encode on {name}"));
        for (preset, text) in [
            ("grok", include_str!("../src/cli/presets/grok.toml")),
            ("induction", include_str!("../src/cli/presets/induction.toml")),
        ] {
            let setup = Setup::from_toml(text).expect("presets are valid");
            let session = Session::new(&gpu, setup.config).expect("the preset fits the device");
            let program = session.program();
            // A step at which nothing with a cadence is due, and one at which everything is.
            for (case, first) in [("common step", 1), ("full step", 0)] {
                let select = Select { step: first, update: true };
                group.throughput(Throughput::Elements(program.dispatches(select) as u64 * STEPS));
                group.bench_function(format!("{preset}, {case}"), |bencher| {
                    bencher.iter(|| {
                        let mut encoder =
                            gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                        {
                            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                            for _ in 0..STEPS {
                                program.encode(&mut pass, select);
                            }
                        }
                        encoder.finish()
                    });
                });
            }
        }
    }
}

criterion_group!(benches, encode);
criterion_main!(benches);
