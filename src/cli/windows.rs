//! `thermoscope windows`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::device::Device;
use super::run::{STEP, open, resumed};
use super::stop::Stop;
use super::{fork, fresh_dir, goes_on, presets, print, run};
use crate::autograd::gcd;
use crate::error::{Error, Result};
use crate::gpu::{Bytes, Gpu};
use crate::model::ModelConfig;
use crate::record::{Catalog, GoesOn, Manifest, Origin, RunDir, RunKind, Setup, Status, Trunk, parse};
use crate::study::{
    Batch, Findings, Kept, Kind, Plan, Seed, StudyConfig, catalog, file, least, times_together, write_page,
};
use crate::train::{ArmRole, ReplicaConfig, Session, Snapshot};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope windows STUDY.toml --plan        what it trains, costs, can see
  thermoscope windows STUDY.toml --out studies/mine
  thermoscope windows --resume --out studies/mine    after Ctrl-C or kill -9
  thermoscope report studies/mine              its page again

A STUDY.toml, here with all that most need:
  run = \"grok-quick\"        # a preset, a file, or the directory of a run
  set = [\"steps=3000\"]
  seeds = 8                 # six can tell at a rate of 5 %, fewer cannot
  times = { from = 0, until = 1500, points = 11 }    # or a list of steps
  events = [\"grokked\"]      # also memorized, generalizing, first key
  final = [\"accuracy.test\"]
  [[pulse]]
  name = \"no decay\"
  intervene = [{ what = \"weight_decay\", factor = 0, from = 0, until = 100 }]
  [[pulse]]
  name = \"head 2 off\"
  sham = \"head\"             # beside it another head of the layer
  widths = [50, 200]        # in the place of until
  doses = [0.5, 1.0]
  intervene = [{ what = \"scale_head\", head = 2, from = 0, until = 50 }]
  [[pulse]]
  name = \"data reordered\"   # where batches are drawn
  batch_seed = 1
  [[trunk]]                 # controls, disturbed likewise
  name = \"random labels\"
  shuffle_labels = true
  [[event]]
  name = \"induction\"
  metric = \"prefix_matching_score.probe\"
  at_least = 0.5

Interventions are those of `thermoscope fork --help`; their steps count from the
time of the pulse. `against = \"another pulse\"` compares two pulses, as one with
the learning rate restarted behind it and one without.

An effect is the difference to the same seed's run without the pulse. A window
is where it is beyond the sham, and beyond what the same pulse does at a random
time; `rate` (5 %) is the chance of any in a curve that has none.")]
pub(super) struct Args {
    /// The study. Not needed with --resume
    #[arg(value_name = "STUDY.toml", required_unless_present = "resume", conflicts_with = "resume")]
    study: Option<PathBuf>,
    /// Directory to write; must be new or empty. Default: runs/NAME, numbered if that exists
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Say what would be trained, how long that takes and what effect so many seeds can see, and train nothing
    #[arg(long, conflicts_with_all = ["resume", "out"])]
    plan: bool,
    /// Go on with the study in --out, behind the last checkpoint
    #[arg(long, requires = "out")]
    resume: bool,
    #[command(flatten)]
    device: Device,
}

/// What is disturbed: a run that is there, in its folder, or one that is trained first.
struct Source {
    dir: Option<PathBuf>,
    setup: Setup,
}

pub(super) fn main(args: &Args) -> Result<u8> {
    if let (true, Some(out)) = (args.resume, &args.out) {
        super::must_go_on_as(&RunDir::read_manifest(out)?, out, RunKind::Study)?;
        let (kept, manifest) = Kept::read(out)?;
        if manifest.status == Status::Finished {
            print(&format!("{} is finished", out.display()));
            tell(out, &kept.findings(out)?)?;
            return Ok(0);
        }
        let gpu = open(&args.device, trunk_of(&kept)?.config.precision)?;
        let GoesOn { dir, moved, .. } = RunDir::go_on(out, &ModelConfig::default(), gpu.caps(), None)?;
        moved.iter().for_each(super::warn);
        return Study { gpu, stop: Stop::on_signals(STEP)?, kept, out: out.clone(), dir }.go();
    }
    let path = args.study.clone().ok_or_else(|| Error::Config("name a study".to_owned()))?;
    let text = std::fs::read_to_string(&path).map_err(Error::io("cannot read", &path))?;
    let named = |error: Error| match error {
        Error::Config(message) => Error::Config(format!("{}: {message}", path.display())),
        other => other,
    };
    let study: StudyConfig = parse(&text).map_err(named)?;
    study.check().map_err(named)?;
    let (source, seeds) = source(&study, &path).map_err(named)?;
    let out = args.out.clone().unwrap_or_else(|| fresh_dir(&study.name));
    RunDir::check_free(&out)?;
    let config = &source.setup.config;
    // What does not fit the run is said before a device is opened.
    Plan::new(&study, config, seeds.clone(), usize::MAX).map_err(named)?;
    let gpu = open(&args.device, config.precision)?;
    let stop = Stop::on_signals("kernels being compiled and steps being timed")?;
    let kinds = study.kinds()?;
    let sizing = Sizing { gpu: &gpu, study: &study, kinds: &kinds, source: &source };
    let most = sizing.most(config, &seeds)?;
    let plan = Plan::new(&study, config, seeds, most).map_err(named)?;
    // Whatever batch cannot be is refused now, and not when it is its turn.
    plan.batches.iter().try_for_each(|batch| sizing.setup(&plan, batch).map(|_| ())).map_err(named)?;
    if args.plan {
        return sizing.tell(&plan, &stop);
    }
    stop.behind(STEP);
    let train = source.dir.is_none().then_some(source.setup.resolved);
    let kept = Kept { study, plan, trunk: source.dir, train };
    let described = serde_json::to_value(&kept).map_err(|error| Error::Config(error.to_string()))?;
    let manifest = Manifest::new(described, BTreeMap::new(), gpu.caps(), None).of_kind(RunKind::Study);
    let names: Vec<String> = kinds.iter().map(|kind| kind.name.clone()).collect();
    let dir = RunDir::create(&out, manifest, &catalog(&names))?;
    Study { gpu, stop, kept, out, dir }.go()
}

/// The trunk of a study, whether or not it is trained already.
fn trunk_of(kept: &Kept) -> Result<Setup> {
    match (&kept.trunk, &kept.train) {
        (Some(run), _) => Setup::from_json(&RunDir::read_manifest(run)?.config),
        (None, Some(resolved)) => Setup::from_json(resolved),
        (None, None) => Err(Error::Refused("the study in run.json has no trunk: begin it anew".to_owned())),
    }
}

/// What a study disturbs, as it is found from here or beside the study; and its seeds.
fn source(study: &StudyConfig, path: &Path) -> Result<(Source, Vec<Seed>)> {
    let beside = path.parent().unwrap_or(Path::new("")).join(&study.run);
    let places = [PathBuf::from(&study.run), beside];
    let found = places.into_iter().find(|place| place.exists()).filter(|_| !presets::is_preset(&study.run));
    if let Some(run) = found.iter().find(|place| place.is_dir()) {
        if study.seeds.is_some() || !study.set.is_empty() || !study.trunk.is_empty() {
            return Err(Error::Config(format!(
                "run = \"{}\" is a directory, whose replicas are the seeds: leave out seeds, set and [[trunk]]",
                study.run
            )));
        }
        let run = std::path::absolute(run).map_err(Error::io("cannot find", run))?;
        let trunk = Trunk::open(&run, 0, 0)?;
        let config = &trunk.setup.config;
        if trunk.manifest.steps_done < config.steps {
            return Err(Error::Refused(format!(
                "{} has come to step {} of {}: finish it first, by thermoscope run --resume --out '{0}'",
                run.display(),
                trunk.manifest.steps_done,
                config.steps
            )));
        }
        let measured = Catalog::read(&run)?;
        if let Some(metric) = study.needed().into_iter().find(|metric| !measured.metrics.contains_key(metric)) {
            return Err(Error::Refused(format!("{} has not measured {metric}, which the study needs", run.display())));
        }
        let own = |(_, replica): &(usize, &ReplicaConfig)| !replica.is_control() && replica.role != Some(ArmRole::Sham);
        let seeds = config.replica.iter().enumerate().filter(own).enumerate();
        let seeds = seeds.map(|(number, (replica, _))| Seed { replica, trunk: 0, number }).collect();
        return Ok((Source { dir: Some(run), setup: trunk.setup }, seeds));
    }
    let name = found.map_or_else(|| study.run.clone(), |place| place.display().to_string());
    let base = presets::load(&name, &study.set)?;
    let setup = trunk(study, base)?;
    let count = study.seeds.unwrap_or(SEEDS) as usize;
    let seed = |replica| Seed { replica, trunk: replica / count, number: replica % count };
    let seeds = (0..setup.config.replicas as usize).map(seed).collect();
    Ok((Source { dir: None, setup }, seeds))
}

/// Seeds where the study names none.
const SEEDS: u32 = 8;
/// Checkpoints of a trunk at most, that arms go on from.
const CHECKPOINTS: u64 = 64;

/// The run that is disturbed, with a replica for each seed of each trunk, measured as the study needs it.
fn trunk(study: &StudyConfig, base: Setup) -> Result<Setup> {
    let Setup { config, mut resolved } = base;
    if config.replicas > 1 {
        return Err(Error::Config(format!(
            "run = \"{}\" has {} replicas of its own, and a study makes its seeds itself: train it, and name the directory; or set replicas=1",
            study.run, config.replicas
        )));
    }
    let seeds = study.seeds.unwrap_or(SEEDS);
    if seeds == 0 {
        return Err(Error::Config("seeds = 0: at least one is trained".to_owned()));
    }
    let own = &config.replica[0];
    let first = config.seed_of(0);
    let plain = ReplicaConfig::default();
    let replicas: Vec<ReplicaConfig> = [&plain]
        .into_iter()
        .chain(&study.trunk)
        .flat_map(|trunk| (0..seeds).map(move |seed| (trunk, seed)))
        .map(|(trunk, seed)| ReplicaConfig {
            name: Some(match &trunk.name {
                Some(name) => format!("{name}, seed {seed}"),
                None => format!("seed {seed}"),
            }),
            role: trunk.name.as_ref().map(|_| trunk.role.unwrap_or(ArmRole::Control)),
            control_of: None,
            group: Some(format!("seed {seed}")),
            seed: Some(first.wrapping_add(u64::from(seed))),
            data_seed: trunk.data_seed.or(own.data_seed),
            batch_seed: trunk.batch_seed.or(own.batch_seed),
            learning_rate: trunk.learning_rate.or(own.learning_rate),
            weight_decay: trunk.weight_decay.or(own.weight_decay),
            betas: trunk.betas.or(own.betas),
            train_fraction: trunk.train_fraction.or(own.train_fraction),
            shuffle_labels: trunk.shuffle_labels || own.shuffle_labels,
            intervene: trunk.intervene.clone().or_else(|| own.intervene.clone()),
        })
        .collect();
    resolved["replicas"] = replicas.len().into();
    resolved["replica"] = serde_json::to_value(replicas).map_err(|error| Error::Config(error.to_string()))?;
    resolved["measure"]["only"] = study.metrics().into_iter().collect();
    let apart = study.times.steps()?.into_iter().fold(0, gcd).max(config.steps.div_ceil(CHECKPOINTS));
    resolved["checkpoint"] = serde_json::json!({ "every": apart.max(1), "keep": 0 });
    Setup::from_json(&resolved)
}

/// Settings of a batch: what is looked at is measured, and little is kept.
fn settings(study: &StudyConfig, steps: u64) -> Vec<String> {
    let metrics: Vec<String> = study.metrics().into_iter().collect();
    vec![
        format!("measure.only={metrics:?}"),
        format!("checkpoint.every={}", steps.div_ceil(10).max(1)),
        "checkpoint.keep=1".to_owned(),
    ]
}

/// How large a batch may be, and what it takes.
struct Sizing<'a> {
    gpu: &'a Gpu,
    study: &'a StudyConfig,
    kinds: &'a [Kind],
    source: &'a Source,
}

impl Sizing<'_> {
    /// The trunk, whether or not it is trained.
    fn trunk(&self, step: u64) -> Result<Trunk> {
        let Source { dir, setup } = self.source;
        if let Some(run) = dir {
            return Trunk::open(run, 0, step);
        }
        let manifest = Manifest::new(setup.resolved.clone(), BTreeMap::new(), self.gpu.caps(), None);
        let hash = manifest.hash.clone();
        let origin = Origin { run: PathBuf::from("trunk"), hash, replica: 0, each: Vec::new(), step };
        Ok(Trunk { manifest, setup: Setup::from_json(&setup.resolved)?, origin })
    }

    /// A batch as a run.
    fn setup(&self, plan: &Plan, batch: &Batch) -> Result<Setup> {
        let mut trunk = self.trunk(plan.times[batch.time])?;
        let arms = plan.replicas(batch, self.kinds, &trunk);
        trunk.branch(&arms, &settings(self.study, plan.steps))
    }

    fn session(&self, plan: &Plan, batch: &Batch) -> Result<Session> {
        let session = Session::new(self.gpu, self.setup(plan, batch)?.config)?;
        let known = |metric: &String| session.metrics().iter().any(|known| known.card.name == metric);
        match self.study.needed().into_iter().find(|metric| !known(metric)) {
            None => Ok(session),
            Some(metric) => Err(Error::Config(format!(
                "{metric}, which the study looks at, is not measured in this run: its task or its measure.off leave it out"
            ))),
        }
    }

    /// Arms of a batch at most, by what memory they take and what the device can bind.
    fn most(&self, config: &crate::train::ResolvedRun, seeds: &[Seed]) -> Result<usize> {
        const FEW: usize = 4;
        let all = 1 + seeds.len() * self.kinds.len();
        let first = |most: usize| -> Result<Session> {
            let plan = Plan::new(self.study, config, seeds.to_vec(), most)?;
            self.session(&plan, &plan.batches[0])
        };
        let few = first(all.min(FEW))?;
        let (state, planned, _) = few.memory();
        let one = (state + planned).div_ceil(u64::from(few.config().replicas)).max(1);
        drop(few);
        let mut most = all.min((self.study.memory * f64::from(1 << 30) / one as f64) as usize).max(2);
        loop {
            match first(most) {
                Err(Error::Limit(_)) if most > 2 => most = (most * 3 / 4).max(2),
                Err(error) => return Err(error),
                Ok(_) => return Ok(most),
            }
        }
    }

    /// What would be trained, how long that takes on this device, and what could be seen.
    fn tell(&self, plan: &Plan, stop: &Stop) -> Result<u8> {
        let Some(largest) = plan.batches.iter().max_by_key(|batch| batch.arms.len()) else { return Ok(0) };
        let of_plain = plan.of_trunk(0).len();
        let (times, steps) = (&plan.times, plan.steps);
        print(&format!(
            "{}: {of_plain} seeds{}, {steps} steps; {} times from step {} to {}",
            self.study.run,
            if plan.trunks.len() > 1 {
                format!(" in each of {} trunks", plan.trunks.join(", "))
            } else {
                String::new()
            },
            times.len(),
            times.first().unwrap_or(&0),
            times.last().unwrap_or(&0),
        ));
        for kind in self.kinds {
            let against = kind.against.map_or_else(
                || if kind.is_sham { "sham" } else { "against no pulse" }.to_owned(),
                |other| format!("against {}", self.kinds[other].name),
            );
            let words: Vec<String> = kind.intervene.iter().map(crate::intervene::Pulse::words).collect();
            print(&format!("  {:32} {against}: {}", kind.name, words.join(" and ")));
        }
        let mut session = self.session(plan, largest)?;
        let (state, planned, _) = session.memory();
        let arms: usize = plan.batches.iter().map(|batch| batch.arms.len()).sum();
        print(&format!(
            "{arms} arms in {} batches of at most {}, which take {} of device memory",
            plan.batches.len(),
            largest.arms.len(),
            Bytes(state + planned)
        ));
        let Some(step) = self.seconds(&mut session, stop)? else { return Ok(stop.code().unwrap_or(0)) };
        let Source { dir, setup } = self.source;
        let trunk = if dir.is_none() { u64::from(setup.config.replicas) * steps } else { 0 };
        let whole = Duration::from_secs_f64(step * (plan.costs() + trunk) as f64);
        print(&format!(
            "on {} a step takes {:.2} ms for each arm: all of it about {}{}",
            self.gpu.caps().called(),
            1e3 * step,
            humantime::format_duration(Duration::from_secs(whole.as_secs())),
            if trunk > 0 { ", the trunk included" } else { "" }
        ));
        print(&match least(of_plain, times.len(), self.study.rate) {
            Err(missing) => format!("no window can be told at a rate of {}: {missing}", self.study.rate),
            Ok(least) => {
                let size = match self.study.spread {
                    Some(spread) => format!("{:.3} (spread {spread})", least * spread),
                    None => format!("{least:.2} standard deviations of the effect between seeds"),
                };
                format!(
                    "at a rate of {} for each curve, an effect at {} is found in four of five such studies where it is {size}",
                    self.study.rate,
                    times_together(times.len()),
                )
            }
        });
        Ok(0)
    }

    /// Seconds of a step for each arm of a batch, its measurements with it; `None` where a signal came.
    fn seconds(&self, session: &mut Session, stop: &Stop) -> Result<Option<f64>> {
        const LEAST: Duration = Duration::from_secs(3);
        session.compile(|_, _| stop.code().is_none())?;
        let mut go = |steps: u64| -> Result<()> {
            let submitted = session.submit(steps);
            self.gpu.wait_for(submitted)?;
            while session.take_rows()?.is_some() {}
            Ok(())
        };
        // The first measures everything.
        go(1)?;
        let (before, mut steps) = (Instant::now(), 0);
        while steps < 10 || before.elapsed() < LEAST {
            if stop.code().is_some() {
                return Ok(None);
            }
            go(10)?;
            steps += 10;
        }
        Ok(Some(before.elapsed().as_secs_f64() / steps as f64 / f64::from(session.config().replicas)))
    }
}

/// A study under way.
struct Study {
    gpu: Gpu,
    stop: Stop,
    kept: Kept,
    out: PathBuf,
    /// Held to the end, so that nobody else writes.
    dir: RunDir,
}

impl Study {
    fn go(self) -> Result<u8> {
        let trained = self.trunk()?;
        let code = if trained == 0 { self.batches()? } else { trained };
        self.end(code, trained == 0)?;
        Ok(code)
    }

    /// Trains the trunk, unless that is done. Returns the exit code.
    fn trunk(&self) -> Result<u8> {
        if self.kept.trunk.is_some() {
            return Ok(0);
        }
        let path = self.kept.trunk(&self.out);
        let (gpu, stop) = (self.gpu.clone(), self.stop.clone());
        let run = match RunDir::read_manifest(&path) {
            Ok(manifest) if manifest.status == Status::Finished => return Ok(0),
            Ok(_) => match resumed(&path, None, None)? {
                Some((setup, manifest)) => run::go_on(gpu, stop, setup, &path, &manifest)?,
                None => return Ok(0),
            },
            Err(Error::Refused(_)) => run::begin(gpu, stop, trunk_of(&self.kept)?, &path, None)?,
            Err(error) => return Err(error),
        };
        Ok(run.train()?.0)
    }

    /// Trains all batches that are not done. Returns the exit code.
    fn batches(&self) -> Result<u8> {
        let plan = &self.kept.plan;
        let kinds = self.kept.study.kinds()?;
        let trunk_at = self.kept.trunk(&self.out);
        let replicas: Vec<usize> = plan.seeds.iter().map(|seed| seed.replica).collect();
        let done = self.kept.done(&self.out);
        let mut left: u64 =
            plan.batches.iter().zip(&done).filter(|(_, done)| done.is_none()).map(|(b, _)| plan.cost(b)).sum();
        let (began, whole) = (Instant::now(), left);
        // All seeds at a time, for the batches of that time.
        let mut state: Option<Snapshot> = None;
        for (number, batch) in plan.batches.iter().enumerate().filter(|(number, _)| done[*number].is_none()) {
            if let Some(code) = self.stop.code() {
                return Ok(code);
            }
            let at = plan.times[batch.time];
            let rate = (whole - left) as f64 / began.elapsed().as_secs_f64();
            let time = match whole == left {
                true => String::new(),
                false => format!(
                    "; about {} left",
                    humantime::format_duration(Duration::from_secs((left as f64 / rate) as u64))
                ),
            };
            let (count, arms) = (plan.batches.len(), batch.arms.len());
            print(&format!("batch {} of {count}: {arms} arms from step {at}{time}", number + 1));
            let path = Kept::batch(&self.out, number);
            let (gpu, stop) = (self.gpu.clone(), self.stop.clone());
            let run = match self.half_done(&path)? {
                Some((setup, manifest)) => run::go_on(gpu, stop, setup, &path, &manifest)?,
                None => {
                    let mut trunk = Trunk::open(&trunk_at, 0, at)?;
                    let seeds = match state.take().filter(|state| state.step == at) {
                        Some(found) => found,
                        None => match fork::replay(&trunk, &replicas, trunk.nearest(&replicas)?, &gpu, &stop)? {
                            Ok(found) => found,
                            Err(code) => return Ok(code),
                        },
                    };
                    let own: Vec<usize> = batch.arms.iter().map(|arm| arm.seed).collect();
                    let begun = seeds.select(&own);
                    state = Some(seeds);
                    let arms = plan.replicas(batch, &kinds, &trunk);
                    let mut setup = trunk.branch(&arms, &settings(&self.kept.study, plan.steps))?;
                    // Measured as often as the trunk was, whatever this many arms would have come to.
                    setup.config = setup.config.with_cadences(trunk.manifest.cadences.clone());
                    fork::begin(gpu, stop, &trunk, setup, &begun, &path)?
                }
            };
            let (code, _) = run.train()?;
            if code != 0 {
                return Ok(code);
            }
            left -= plan.cost(batch);
        }
        Ok(0)
    }

    /// A batch that began and goes on from a checkpoint. What was killed before its first one is begun anew.
    fn half_done(&self, path: &Path) -> Result<Option<(Setup, Manifest)>> {
        if RunDir::read_manifest(path).is_err() {
            return Ok(None);
        }
        if RunDir::checkpoints(path).is_ok_and(|steps| steps.is_empty()) {
            std::fs::remove_dir_all(path).map_err(Error::io("cannot remove", path))?;
            return Ok(None);
        }
        resumed(path, None, None)
    }

    /// Writes what was found, as far as the study has come.
    fn end(mut self, code: u8, found: bool) -> Result<()> {
        let whole = code == 0;
        let findings = if found { Some(self.kept.findings(&self.out)?) } else { None };
        if let Some(findings) = &findings {
            file(&mut self.dir, findings)?;
        }
        self.dir.end(!whole, 0)?;
        if let Some(findings) = &findings {
            tell(&self.out, findings)?;
        }
        if !whole {
            print(&goes_on("windows", &self.out));
        }
        Ok(())
    }
}

/// Writes the page, and says what was found.
pub(super) fn tell(out: &Path, findings: &Findings) -> Result<PathBuf> {
    print(&findings.verdict());
    findings.notes().iter().for_each(|note| print(note));
    let page = write_page(out, findings)?;
    print(&format!("report: {}", page.display()));
    Ok(page)
}
