//! `thermoscope fork`

use std::path::{Path, PathBuf};

use super::device::Device;
use super::print;
use super::progress::Ticker;
use super::run::{Loop, STEP, open};
use super::stop::Stop;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::record::{Catalog, Event, Manifest, RunDir, Setup, Trunk, What};
use crate::train::{Session, Snapshot};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope fork runs/grok --at 2000 --arms arms.toml --out runs/forked
  thermoscope fork runs/grok --at 2000 --arms a.toml --seeds 8 --out runs/eight
  thermoscope fork runs/forked --at 2500 --replica 1 --arms b.toml --out again
  thermoscope run --resume --out runs/forked    go on, as with any run

arms.toml has a table for each arm, with what a [[replica]] of a run may have.
Steps count from the fork:
  [[arm]]
  name = \"no decay for 500 steps\"
  control_of = \"sham\"
  intervene = [{ what = \"weight_decay\", factor = 0, from = 0, until = 500 }]
  [[arm]]
  name = \"head drawn anew\"
  [[arm.intervene]]
  what = \"reinitialize\"
  weights = [\"q\", \"k\", \"v\", \"o\"]
  layer = 0
  head = 2
  from = 0                  # sham = \"head\" would take another head
  [[arm]]
  name = \"slower from now on\"
  learning_rate = 1e-4

Kinds of interventions, all with `from`, and where it makes sense `until` and
`dose` (1 all, 0 nothing), and what else they take:
  learning_rate, weight_decay    factor
  scale_logits                   factor
  reset_moments                  nothing: both, as those of a fresh optimizer
  freeze, hold_norm,             weights (q, k, v, o, mlp, embed, unembed, or
    reinitialize, noise          names), layer, head, seed, sham
  swap_heads                     weights, layer, head, with: another head
  rotate                         weights, layer, head, seed, sham: the basis of
                                 heads, which is no function of the model
  scale_head                     layer, head, factor, baseline, seed, sham
  uniform_attention              layer, head, seed, sham
  gradient_noise, _signs         weights, layer, head, seed
  label_noise                    seed
  leave_out                      class
  subset                         factor: the share that stays; seed
sham = \"head\" does the same to another head of the layer, that nothing in the
list is done to; sham = \"direction\" (of reinitialize) goes as far in a random
direction, and ends longer. Where no arm is the trunk itself, one is added,
\"sham\": it has the trunk's bits to the end.

With --seeds, seed 0 sees the batches that the trunk sees; the others see
others, and draw other interventions.")]
pub(super) struct Args {
    /// Directory of the run that is forked
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Step at which the arms leave it. The nearest checkpoint before is replayed to there
    #[arg(long, value_name = "STEP")]
    at: u64,
    /// File of the arms
    #[arg(long, value_name = "ARMS.toml")]
    arms: PathBuf,
    /// Which replica of the run goes on
    #[arg(long, value_name = "N", default_value_t = 0)]
    replica: u32,
    /// How often each arm is trained, with other batches and other draws
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    seeds: u32,
    /// Step to train to. Default: the trunk's last
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Run directory to write; must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Change a setting of measure or checkpoint; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: Device,
}

pub(super) fn main(args: &Args) -> Result<u8> {
    let trunk = Trunk::open(&args.run, args.replica, args.at)?;
    let text = std::fs::read_to_string(&args.arms).map_err(Error::io("cannot read", &args.arms))?;
    let name = args.arms.display().to_string();
    let setup = trunk.fork((&name, &text), args.seeds, args.steps, &args.set)?;
    let own = [args.replica as usize];
    let nearest = trunk.nearest(&own)?;
    RunDir::check_free(&args.out)?;
    let gpu = open(&args.device, setup.config.precision)?;
    // That nothing can be written there is told before a long replay.
    std::fs::create_dir_all(&args.out).map_err(Error::io("cannot create", &args.out))?;
    let stop = Stop::on_signals("steps under way")?;
    let at = match replay(&trunk, &own, nearest, &gpu, &stop)? {
        Ok(found) => found.select(&vec![0; setup.config.replicas as usize]),
        Err(code) => return Ok(code),
    };
    stop.behind(STEP);
    begin(gpu, stop, &trunk, setup, &at, &args.out)?.go()
}

/// Begins a fork in a folder, with the state that each of its replicas goes on from.
pub(super) fn begin(gpu: Gpu, stop: Stop, trunk: &Trunk, setup: Setup, at: &Snapshot, out: &Path) -> Result<Loop> {
    let files = setup.config.task.files();
    let mut session = Session::new(&gpu, setup.config)?;
    session.restore(at)?;
    let cadences = session.config().measure.cadences.clone().unwrap_or_default();
    let origin = trunk.origin.clone();
    let moved = trunk.manifest.moved(gpu.caps()).map(|before| Event::at(at.step, What::Moved { before }));
    let manifest = Manifest::new(setup.resolved, cadences, gpu.caps(), None).forked(origin).knowing(&files)?;
    let mut dir = RunDir::create(out, manifest, &Catalog::of(&session)?)?;
    // From here on the fork needs its trunk no more.
    dir.checkpoint(&session.config().model, &session.snapshot()?, 0)?;
    let mut run = Loop::new(gpu, stop, session, dir)?;
    if let Some(event) = moved {
        run.warn(&event)?;
    }
    Ok(run)
}

/// The state of some of the trunk's replicas at the step of the fork, replayed from an earlier one or from its beginning; or the
/// exit code of a signal that came before.
pub(super) fn replay(
    trunk: &Trunk,
    replicas: &[usize],
    from: Option<Snapshot>,
    gpu: &Gpu,
    stop: &Stop,
) -> Result<Result<Snapshot, u8>> {
    let at = trunk.origin.step;
    let from = match from {
        Some(found) if found.step == at => return Ok(Ok(found)),
        other => other,
    };
    let mut session = Session::new(gpu, trunk.alone(replicas)?.config)?;
    match (from, &trunk.manifest.from) {
        (Some(snapshot), _) => session.restore(&snapshot)?,
        (None, Some(from)) => {
            trunk.manifest.check_weights()?;
            let all = super::read_model(from)?.replicas;
            // One set of weights is that of all.
            let own = replicas.iter().map(|own| all.get(*own).unwrap_or(&all[0]).clone());
            session.set_weights(&own.collect::<Vec<_>>())?;
        }
        (None, None) => {}
    }
    if session.step() < at {
        print(&format!("replaying {} from step {} to step {at}", trunk.origin.run.display(), session.step()));
    }
    let ticker = Ticker::start("replaying");
    while session.step() < at {
        if let Some(code) = stop.code() {
            return Ok(Err(code));
        }
        let steps = (session.ring().1 as u64 / 2).clamp(1, at - session.step());
        let submitted = session.submit(steps);
        gpu.wait_for(submitted)?;
        while session.take_rows()?.is_some() {}
    }
    ticker.stop();
    let found = session.snapshot()?;
    if found.step != at {
        return Err(Error::Device(format!("it is at step {} where {at} steps were submitted", found.step)));
    }
    Ok(Ok(found))
}
