//! `thermoscope bench`

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::device::Device;
use super::{complain, print};
use crate::autograd::verify_cooperative;
use crate::bench::{self, Costs, Line, WORKLOADS, Workload};
use crate::error::{Error, Result};
use crate::gpu::{Bytes, Gpu};
use crate::instrument::CostClass;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope bench step                        all workloads
  thermoscope bench step --preset grok --json
  thermoscope bench kernels                     products and a copy
  thermoscope bench profile --preset induction  every kernel of one step
  thermoscope bench instruments --preset grok   what each instrument costs
  thermoscope bench replicas --most 64          many copies in one program
  thermoscope bench all --json > card.jsonl     all of these
  thermoscope bench all --json --peers tools/peers/peers.py
                     and PyTorch, TransformerLens and burn in turns with it

What is compared is measured in turns in one run. Times on a busy machine are
worth little; ratios keep.")]
pub(super) struct Args {
    /// What is timed
    #[arg(value_enum)]
    what: What,
    /// One workload only: grok, grok-minibatch, induction or small-lm
    #[arg(long, value_name = "WORKLOAD")]
    preset: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Rounds of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..1000))]
    rounds: u32,
    /// Of a step only this: "no instruments", "class F", "class F and full-grid losses", "class F and L" or
    /// "everything"; may be given many times
    #[arg(long, value_name = "MODE")]
    mode: Vec<String>,
    /// Replicas to go up to, where memory does not end before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    most: Option<u32>,
    /// Of all: this script of the repository times the steps, in turns with those of other frameworks
    #[arg(long, value_name = "SCRIPT")]
    peers: Option<PathBuf>,
    #[command(flatten)]
    device: Device,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum What {
    /// A training step with no instruments, with the free ones, with all: time and memory
    Step,
    /// Single kernels at several shapes
    Kernels,
    /// Each kernel of a step, on the device's clock
    Profile,
    /// What each instrument of a step costs, on the device's clock
    Instruments,
    /// CPU time of encoding a step
    Encode,
    /// 1, 2, 4, ... replicas in one program
    Replicas,
    /// Ways of cutting matrix products: searches for the fastest and keeps it for later runs
    Tune,
    /// Everything but single kernels of a step: minutes on a GPU
    All,
}

/// What `all` is made of.
const ALL: [What; 5] = [What::Kernels, What::Step, What::Instruments, What::Replicas, What::Encode];
/// Replicas that `all` goes up to, and others.
const MOST: [u32; 2] = [64, 4096];

pub(super) fn main(args: &Args) -> Result<()> {
    let wrong = |what: &str| Err(Error::Config(what.to_owned()));
    if !matches!(args.what, What::Step | What::All) && !args.mode.is_empty() {
        return wrong("--mode is for `bench step` and `bench all` only");
    }
    if args.what != What::All && args.peers.is_some() {
        return wrong("--peers is for `bench all` only");
    }
    bench::check_modes(&args.mode)?;
    let cooperative = matches!(args.what, What::Kernels | What::All);
    let gpu = if cooperative { args.device.open_cooperative()? } else { args.device.open()? };
    complain(&format!("on {}", gpu.caps().called()));
    if args.what == What::All {
        let began = Instant::now();
        ALL.into_iter().try_for_each(|what| match (&args.peers, what) {
            (Some(script), What::Step) => peers(args, script),
            _ => one(what, args, &gpu),
        })?;
        complain(&format!(
            "all done in {}",
            humantime::format_duration(Duration::from_secs(began.elapsed().as_secs()))
        ));
        return Ok(());
    }
    one(args.what, args, &gpu)
}

/// The steps of all workloads, timed in turns with other frameworks by the script that knows these.
fn peers(args: &Args, script: &Path) -> Result<()> {
    let mut command = Command::new("python3");
    command.arg(script).args(["--rounds", &args.rounds.to_string()]);
    command.args(args.json.then_some("--json"));
    command.args(args.preset.iter().flat_map(|name| ["--workload", name.as_str()]));
    command.args(args.mode.iter().flat_map(|mode| ["--mode", mode.as_str()]));
    let done = command.status().map_err(Error::io("cannot run python3 with", script))?;
    if done.success() { Ok(()) } else { Err(Error::Config(format!("{} failed ({done})", script.display()))) }
}

fn one(what: What, args: &Args, gpu: &Gpu) -> Result<()> {
    let workloads: Vec<&Workload> = match &args.preset {
        Some(name) => vec![Workload::find(name)?],
        None if args.what == What::Instruments => vec![Workload::find("grok")?],
        None if matches!(what, What::Profile | What::Replicas) => vec![Workload::find("grok-minibatch")?],
        None => WORKLOADS.iter().collect(),
    };
    match what {
        What::Encode => {
            for workload in workloads {
                for gpu in [&Gpu::noop(), gpu] {
                    show(args, what, &[bench::encode(gpu, workload, 20 * args.rounds)?])?;
                }
            }
            return Ok(());
        }
        What::Tune => {
            let (tuning, path) = super::device::search(gpu)?;
            tuning.iter().for_each(|(products, tiling)| print(&format!("{products:14} {tiling:?}")));
            path.iter().for_each(|path| complain(&format!("kept in {}", path.display())));
            return Ok(());
        }
        What::Instruments => {
            for workload in workloads {
                show_costs(workload.name, &bench::instruments(gpu, workload, args.rounds)?, args.json)?;
            }
            return Ok(());
        }
        _ => {}
    }
    let peak = bench::peak(gpu)?;
    let clock = if gpu.caps().timestamp_period.is_some() { "the device's clock" } else { "the wall clock" };
    complain(&format!(
        "times by {clock}; peak in this run: {:.1} GFLOP/s in a large product, {:.1} GB/s in a large copy",
        peak.flops * 1e-9,
        peak.bytes * 1e-9
    ));
    if !args.json {
        print(&format!(
            "{:22} {:44} {:>10} {:>21} {:>7} {:>9} {:>9} {:>10} {:>6} {:>7} {:>10} {:>11} {:>10}",
            "workload",
            "mode",
            "ms",
            "(min to max)",
            "ratio",
            "floor ms",
            "GFLOP",
            "bytes",
            "peak",
            "kernels",
            "memory",
            "activations",
            "at least"
        ));
    }
    if what == What::Kernels {
        if let Err(why) = verify_cooperative(gpu) {
            complain(&format!("no product in f16: {why}"));
        }
        return show(args, what, &bench::kernels(gpu, &peak, args.rounds)?);
    }
    let most = args.most.unwrap_or(MOST[usize::from(args.what != What::All)]);
    for workload in workloads {
        let lines = match what {
            What::Step => bench::steps(gpu, workload, &peak, args.rounds, &args.mode),
            What::Profile => bench::profile(gpu, workload, &peak, args.rounds),
            _ => bench::replicas(gpu, workload, &peak, args.rounds, most),
        };
        match lines {
            Ok(lines) => show(args, what, &lines)?,
            // One that is too large for the device does not end the others.
            Err(Error::Limit(why)) if args.preset.is_none() => complain(&format!("{} skipped: {why}", workload.name)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Prints what instruments cost, and where that is more than their cards claim.
pub(super) fn show_costs(name: &str, costs: &Costs, json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string(&serde_json::json!({ "workload": name, "costs": costs }));
        print(&text.map_err(|error| Error::Unsupported(error.to_string()))?);
        return Ok(());
    }
    print(&format!(
        "\n{name}: a step that measures nothing takes {:.3} ms (device, median of {})\n{:18} {:>5} {:>6} {:>7} {:>9} {:>10} {:>12} {:>9}",
        costs.step_ms,
        costs.replays,
        "instrument",
        "class",
        "every",
        "kernels",
        "GFLOP",
        "bytes",
        "ms each time",
        "of a step"
    ));
    for cost in &costs.costs {
        let broken = cost.broken().map(|limit| format!("  its class allows {} %", limit * 100.0));
        print(&format!(
            "{:18} {:>5} {:6} {:7} {:9.4} {:>10} {:12.3} {:8.2}%{}",
            cost.instrument,
            format!("{:?}", cost.class),
            cost.every,
            cost.dispatches,
            cost.flops as f64 * 1e-9,
            Bytes(cost.bytes).to_string(),
            cost.ms,
            cost.share * 100.0,
            broken.unwrap_or_default(),
        ));
    }
    let free = costs.share(|cost| cost.class == CostClass::F);
    print(&format!(
        "class F together {:.2} % of a step{}, everything {:.2} %",
        free * 100.0,
        if free > FREE { ", more than its 3 %" } else { "" },
        costs.share(|_| true) * 100.0
    ));
    Ok(())
}

/// What all instruments of class F may take of a step.
const FREE: f64 = 0.03;

/// Prints lines of one workload; the first is what the others are compared with.
fn show(args: &Args, what: What, lines: &[Line]) -> Result<()> {
    if args.json {
        for line in lines {
            let text = serde_json::to_string(line).map_err(|error| Error::Unsupported(error.to_string()))?;
            print(&text);
        }
        return Ok(());
    }
    let Some(first) = lines.first() else { return Ok(()) };
    if what == What::Encode {
        print(&format!(
            "{:16} {:32} {:6.0} dispatches  {:6.3} us each",
            first.workload,
            first.adapter,
            first.dispatches,
            first.ms_per_step * 1e3 / first.dispatches
        ));
        return Ok(());
    }
    for line in lines {
        let mode = if what == What::Replicas { format!("{} replicas", line.replicas) } else { line.mode.clone() };
        // Of the first line: for replicas, the time of one replica's step.
        let ratio = line.ms_per_step / f64::from(line.replicas) / first.ms_per_step;
        let same = matches!(what, What::Step | What::Replicas);
        let of_step = |text: String| if same { text } else { String::new() };
        print(&format!(
            "{:22} {:44} {:10.3} {:>21} {:>7} {:9.3} {:9.3} {:>10} {:>5.0}% {:>7.0} {:>10} {:>11} {:>10}",
            line.workload,
            mode,
            line.ms_per_step,
            format!("({:.3} to {:.3})", line.min, line.max),
            of_step(format!("{ratio:.3}")),
            // The share of the peak is this by the time it took.
            line.share_of_peak * line.ms_per_step,
            line.flops as f64 * 1e-9,
            Bytes(line.bytes).to_string(),
            line.share_of_peak * 100.0,
            line.dispatches,
            of_step(Bytes(line.memory).to_string()),
            of_step(Bytes(line.activations).to_string()),
            of_step(Bytes(line.activations_least).to_string()),
        ));
    }
    Ok(())
}
