//! `thermoscope adapters`

use super::print;
use crate::autograd::ops::trial;
use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, Bytes, Caps, Gpu, Options, adapters, no_adapter_help};
use crate::kernels::self_check;

#[derive(clap::Args)]
pub(super) struct Args {
    /// One JSON object for each adapter
    #[arg(long)]
    json: bool,
    /// Run every op, forward and backward, against its f64 reference and print the worst relative error of
    /// each
    #[arg(long)]
    check: bool,
    /// One adapter only: its index or part of its name
    #[arg(long = "adapter", value_name = "INDEX|NAME")]
    choice: Option<AdapterChoice>,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let found = adapters();
    if found.is_empty() {
        return Err(Error::NoAdapter(no_adapter_help()));
    }
    let chosen: Vec<usize> = match &args.choice {
        Some(choice) => vec![crate::gpu::pick(&found, choice)?],
        None => (0..found.len()).collect(),
    };
    let mut sound = true;
    for index in chosen {
        let caps = Caps::of_adapter(&found[index]);
        let checks = if args.check {
            let options = Options { cooperative: true, ..Options::default() };
            let gpu = Gpu::open(&AdapterChoice::Index(index), options)?;
            let mut checks = self_check(&gpu)?;
            if gpu.caps().cooperative_side.is_some() {
                checks.push(trial(&gpu)?);
            }
            Some(checks)
        } else {
            None
        };
        sound &= checks.iter().flatten().all(crate::autograd::Checked::passed);
        if args.json {
            let mut value = serde_json::to_value(&caps).map_err(|error| Error::Unsupported(error.to_string()))?;
            value["index"] = index.into();
            if let Some(checks) = &checks {
                let row = |c: &crate::autograd::Checked| serde_json::json!({ "op": c.name, "worst_relative_error": c.worst, "tolerance": c.tolerance, "passed": c.passed() });
                value["checks"] = checks.iter().map(row).collect();
            }
            print(&value.to_string());
            continue;
        }
        print(&describe(index, &caps));
        for check in checks.iter().flatten() {
            let verdict = if check.passed() { "ok" } else { "WRONG" };
            print(&format!("     {:24} worst relative error {:8.1e}  {verdict}", check.name, check.worst));
        }
    }
    if sound {
        Ok(())
    } else {
        Err(Error::Device(
            "an op differs from its reference by more than its tolerance; do not trust this adapter".to_owned(),
        ))
    }
}

fn describe(index: usize, caps: &Caps) -> String {
    let subgroup = match caps.subgroup {
        Some((min, max)) if min == max => format!("of {min}"),
        Some((min, max)) => format!("of {min} to {max}"),
        None => "none".to_owned(),
    };
    let yes = |has: bool| if has { "yes" } else { "no" };
    let cooperative: Vec<String> =
        caps.cooperative.iter().map(|c| format!("{}x{}x{} {} to {}", c.m, c.n, c.k, c.input, c.accumulate)).collect();
    format!(
        "{index}  {name}
     {kind}, {backend}, driver {driver}
     subgroups {subgroup}, f16 {f16}, timestamps {timestamps}, immediates {immediates} B
     cooperative matrix {cooperative}; for products in f16 {products}
     limits: buffer {buffer}, binding {binding}, {buffers} storage buffers, workgroup {memory} and {invocations} invocations",
        name = caps.name,
        kind = caps.kind,
        backend = caps.backend,
        driver = if caps.driver.is_empty() { "unknown" } else { &caps.driver },
        f16 = yes(caps.f16),
        timestamps = yes(caps.timestamp_period.is_some()),
        immediates = caps.immediates,
        cooperative = if cooperative.is_empty() { "none".to_owned() } else { cooperative.join(", ") },
        products = caps.cooperative_side.map_or("none".to_owned(), |side| format!("{side}x{side}")),
        buffer = Bytes(caps.max_buffer),
        binding = Bytes(caps.max_binding),
        buffers = caps.max_storage_buffers,
        memory = Bytes(u64::from(caps.max_workgroup_memory)),
        invocations = caps.max_invocations,
    )
}
