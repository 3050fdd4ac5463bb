//! `thermoscope run`

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::device::Device;
use super::progress::Progress;
use super::stop::Stop;
use super::{complain, fresh_dir, presets, print, report};
use crate::autograd::verify_cooperative;
use crate::bench::Costs;
use crate::error::{Error, Result};
use crate::gpu::{Bytes, Gpu};
use crate::instrument::ProbeConfig;
use crate::landscape::{Looked, look};
use crate::model::ModelFolder;
use crate::record::{
    Catalog, Event, Finding, GoesOn, Manifest, Roles, RunDir, RunKind, Sets, Setup, Status, TableRow, What,
    read_metrics, too_few,
};
use crate::train::{Precision, ResolvedRun, ScheduleKind, Session, StepRow};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope run grok-quick
  thermoscope run grok --steps 20000 --replicas 4 --out runs/four-seeds
  thermoscope run text --set task.path=book.txt
  thermoscope run mine.toml --set measure.every.loss.test=1
  thermoscope run grok --from other/checkpoints/step-010000 --out runs/more
  thermoscope run --resume --out runs/four-seeds
  thermoscope run --resume --out runs/four-seeds --steps 40000    go further

Ctrl-C saves and stops behind the step under way; a second one quits at once.")]
pub(super) struct Args {
    /// A preset (see `thermoscope presets`) or a TOML file. Not needed with --resume
    #[arg(value_name = "PRESET|FILE.toml", required_unless_present = "resume")]
    config: Option<String>,
    /// Run directory to write; must be new or empty. Default: runs/NAME, numbered if that exists
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Change one setting; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seed of the first replica, for those to which [[replica]] tables give none
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Copies that train side by side, with seeds counting up
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// Optimizer updates. With --resume: how many the run goes on to, finished or not
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Start from the weights of a model folder, ours or as TransformerLens or Hugging Face's transformers keep them (see
    /// `measure`), with a fresh optimizer. The folder says what the model is: a [model] is not needed, and must not
    /// contradict it
    #[arg(long, value_name = "MODEL_DIR", conflicts_with = "resume")]
    from: Option<PathBuf>,
    /// Go on with the run in --out, from its latest checkpoint, to the same bits
    #[arg(long, requires = "out")]
    resume: bool,
    #[command(flatten)]
    device: Device,
}

impl Args {
    /// The configuration that the arguments describe, if they name one, and what is to be said of it.
    fn setup(&self, from: Option<(&Path, &ModelFolder)>) -> Result<(Option<Setup>, Option<String>)> {
        let Some(config) = &self.config else { return Ok((None, None)) };
        if self.replicas == Some(0) {
            return Err(Error::Config("--replicas 0: at least one replica is trained".to_owned()));
        }
        let mut sets = self.set.clone();
        let numbers = [("seed", self.seed), ("replicas", self.replicas.map(u64::from)), ("steps", self.steps)];
        sets.extend(numbers.iter().filter_map(|(key, value)| value.map(|v| format!("{key}={v}"))));
        match from {
            Some((from, folder)) => {
                let (setup, warning) = presets::load_from(config, &sets, from, folder)?;
                Ok((Some(setup), warning))
            }
            None => Ok((Some(presets::load(config, &sets)?), None)),
        }
    }
}

/// The run in a folder, as it goes on: to its own number of steps, or to more. `None` where it is finished.
pub(super) fn resumed(out: &Path, asked: Option<Setup>, steps: Option<u64>) -> Result<Option<(Setup, Manifest)>> {
    let manifest = RunDir::read_manifest(out)?;
    super::must_go_on_as(&manifest, out, RunKind::Run)?;
    manifest.check_files()?;
    let before = manifest.config["steps"].as_u64().unwrap_or_default();
    let steps = steps.unwrap_or(before);
    let mut config = manifest.config.clone();
    config["steps"] = steps.into();
    let mut setup = Setup::from_json(&config)?;
    if asked.is_some_and(|asked| asked.resolved != setup.resolved) {
        return Err(Error::Refused(format!(
            "{} holds another run than asked for. Leave the configuration out to go on with it, or name another folder by --out",
            out.display()
        )));
    }
    if steps < before {
        return Err(Error::Refused(format!(
            "--steps {steps}: {} has {before} steps, and --resume can only add to them",
            out.display()
        )));
    }
    let schedule = &setup.config.schedule;
    if steps > before && schedule.kind == ScheduleKind::Cosine && schedule.steps == 0 {
        return Err(Error::Refused(format!(
            "{} cannot go on to {steps} steps: its learning rate comes down by the last step, and with more steps it would have been another at every step before. Begin anew with --steps {steps}; a run whose schedule.steps is set can be made longer later",
            out.display()
        )));
    }
    if manifest.status == Status::Finished && steps == before {
        print(&format!("{} is finished: {} steps", out.display(), manifest.steps_done));
        if !out.join("report.html").exists() {
            report::write(out)?;
        }
        return Ok(None);
    }
    // As it was decided where the run began, whatever this device makes of the work.
    setup.config = setup.config.with_cadences(manifest.cadences.clone());
    Ok(Some((setup, manifest)))
}

pub(super) fn main(args: &Args) -> Result<u8> {
    let from = args.from.as_ref().map(|from| std::path::absolute(from).map_err(Error::io("cannot find", from)));
    let from = from.transpose()?.map(|from| Ok((super::read_model(&from)?, from))).transpose()?;
    let (asked, about) = args.setup(from.as_ref().map(|(folder, from)| (from.as_path(), folder)))?;
    if asked.is_none() && !(args.set.is_empty() && args.seed.is_none() && args.replicas.is_none()) {
        return Err(Error::Config(
            "--resume goes on with the run as it is: leave out --set, --seed and --replicas".to_owned(),
        ));
    }
    let (setup, resumed) = match (&args.out, args.resume) {
        (Some(out), true) => match resumed(out, asked, args.steps)? {
            Some((setup, manifest)) => (setup, Some((out.clone(), manifest))),
            None => return Ok(0),
        },
        _ => (asked.ok_or_else(|| Error::Config("name a preset or file".to_owned()))?, None),
    };
    let gpu = open(&args.device, setup.config.precision)?;
    let stop = Stop::on_signals(STEP)?;
    let mut run = match &resumed {
        Some((out, manifest)) => go_on(gpu, stop, setup, out, manifest)?,
        None => {
            let out = args.out.clone().unwrap_or_else(|| fresh_dir(&setup.config.name));
            begin(gpu, stop, setup, &out, from)?
        }
    };
    if let Some(about) = about {
        run.warn(&Event::at(0, What::Warning { about }))?;
    }
    run.go()
}

/// A session of what was asked for.
fn session(gpu: &Gpu, config: ResolvedRun) -> Result<Session> {
    let session = Session::new(gpu, config)?;
    // Who switches everything off wants to train alone; a list of what to measure that leaves nothing is a mistake.
    if session.metrics().is_empty() && !session.config().measure.only.is_empty() {
        return Err(super::nothing_measured(session.config()));
    }
    Ok(session)
}

/// Begins a run in a folder, with the weights of a model where they are not drawn.
pub(super) fn begin(
    gpu: Gpu,
    stop: Stop,
    setup: Setup,
    out: &Path,
    from: Option<(ModelFolder, PathBuf)>,
) -> Result<Loop> {
    let files = setup.config.task.files();
    let mut session = session(&gpu, setup.config)?;
    if let Some((folder, _)) = &from {
        session.set_weights(&folder.replicas)?;
    }
    let cadences = session.config().measure.cadences.clone().unwrap_or_default();
    let manifest = Manifest::new(setup.resolved, cadences, gpu.caps(), from.map(|(_, from)| from)).knowing(&files)?;
    let dir = RunDir::create(out, manifest, &Catalog::of(&session)?)?;
    Loop::new(gpu, stop, session, dir)
}

/// Goes on with the run in a folder, as `setup` says.
pub(super) fn go_on(gpu: Gpu, stop: Stop, setup: Setup, out: &Path, manifest: &Manifest) -> Result<Loop> {
    let mut session = session(&gpu, setup.config)?;
    let GoesOn { dir, snapshot, unreadable, moved } =
        RunDir::go_on(out, &session.config().model, gpu.caps(), Some(setup.resolved))?;
    unreadable
        .iter()
        .for_each(|error| complain(&format!("warning: a checkpoint is passed over and set aside: {error}")));
    let from = snapshot.as_ref().map_or(0, |snapshot| snapshot.step);
    print(&format!("{} goes on from step {from}", out.display()));
    match (&snapshot, &manifest.from) {
        (Some(snapshot), _) => session.restore(snapshot)?,
        (None, Some(from)) => {
            manifest.check_weights()?;
            session.set_weights(&super::read_model(from)?.replicas)?;
        }
        (None, None) => {}
    }
    let run = Loop::new(gpu, stop, session, dir)?;
    moved.iter().for_each(|event| run.tell(event));
    Ok(run)
}

/// The device, which can do what a precision asks for.
pub(super) fn open(device: &Device, precision: Precision) -> Result<Gpu> {
    if precision == Precision::F32 {
        return device.open();
    }
    let gpu = device.open_cooperative()?;
    verify_cooperative(&gpu).map_err(|error| match error {
        Error::Unsupported(text) => Error::Unsupported(format!("{text}: `thermoscope adapters` says which have them")),
        other => other,
    })?;
    Ok(gpu)
}

/// What is measured less often than its card proposes, if anything is.
fn less_often(session: &Session) -> Option<String> {
    let longer = session.config().measure.cadences.as_ref()?;
    let found: BTreeSet<(&str, u64)> = session
        .metrics()
        .iter()
        .filter(|metric| longer.contains_key(metric.card.name))
        .map(|metric| (metric.instrument, metric.every))
        .collect();
    let list: Vec<String> = found.iter().map(|(name, every)| format!("{name} every {every} steps")).collect();
    (!list.is_empty()).then(|| {
        format!(
            "measured less often than proposed, for they cost much beside a step: {} (measure.budget and measure.every say otherwise)",
            list.join(", ")
        )
    })
}

/// What the null can tell, where it is not a single head.
fn small_null(session: &Session) -> Option<String> {
    session.metrics().iter().find(|metric| metric.card.name == "ablation.p")?;
    let config = session.config();
    let heads = config.model.n_layers * config.model.n_heads;
    let what = too_few(config.measure.probe.draws_for(heads), heads)?;
    let (enough, most) = (ProbeConfig::DRAWS_A_HEAD * heads, ProbeConfig::MOST_DRAWS);
    let more = if enough <= most { format!("{enough} tell single ones") } else { format!("{most} is the most") };
    Some(format!("{what} (measure.probe.draws: {more})"))
}

/// Events of interventions that begin or end from here on, the last first.
fn pulses(session: &Session) -> Vec<Event> {
    let config = session.config();
    let mut events = Vec::new();
    for replica in 0..config.replicas {
        for pulse in config.pulses_of(replica as usize) {
            let at = |step, what| Event { replica: Some(replica), ..Event::at(step, what) };
            events.push(at(pulse.from, What::PulseBegin { pulse: pulse.clone() }));
            // What happens once is over as it happens.
            let end = pulse.end().filter(|_| !pulse.is_once());
            events.extend(end.map(|end| at(end, What::PulseEnd { pulse: pulse.clone() })));
        }
    }
    events.retain(|event| event.step >= session.step());
    events.sort_by_key(|event| std::cmp::Reverse(event.step));
    events
}

/// The training loop of the command line.
pub(super) struct Loop {
    gpu: Gpu,
    session: Session,
    dir: RunDir,
    progress: Progress,
    /// Step at which the run began or went on.
    first: u64,
    /// Steps of which the numbers have arrived.
    arrived: u64,
    submitted: VecDeque<wgpu::SubmissionIndex>,
    stop: Stop,
    train: Option<f32>,
    test: Option<f32>,
    sets: Sets,
    roles: Roles,
    /// What begins and ends at which step, in order, the next one last.
    pulses: Vec<Event>,
    /// Replicas whose loss was seen to be no number, which people were told.
    diverged: Vec<bool>,
    last_flush: Instant,
}

/// Submissions under way at once: enough to keep the device busy, few enough to stop soon.
const IN_FLIGHT: usize = 2;
/// What one submission shall take, in seconds.
const SUBMISSION: f64 = 0.1;
/// Seconds of a submission from which on the device gets one at a time: it loses nothing by that, and stops sooner.
const LONG: f64 = 1.0;
/// What a run that is asked to stop waits for.
pub(super) const STEP: &str = "the step under way, then the state is saved";
/// Seconds after which waiting rows are written, so that a run can be watched.
const FLUSH: u64 = 60;
/// What a run must have taken, in seconds and in steps, for its instruments to be timed at its end.
const TIMED: (u64, u64) = (20, 100);
/// Seconds after which no further replay is timed.
const TIMING: u64 = 1;

impl Loop {
    pub(super) fn new(gpu: Gpu, stop: Stop, session: Session, dir: RunDir) -> Result<Self> {
        let progress = Progress::new(session.step(), session.config().steps);
        let replicas = session.config().replicas as usize;
        let mut sets = Sets::new(session.metrics(), session.config().replicas);
        let mut roles = Roles::new(session.config().replicas);
        let written = read_metrics(dir.path(), |metric| sets.wants(metric) || Roles::wants(metric))?;
        let first = dir.manifest().fork.as_ref().map_or(0, |origin| origin.step);
        sets.replay(&written, first..session.step());
        roles.replay(&written, session.step());
        let known = RunDir::read_events(dir.path())?;
        let told = |replica| move |event: &Event| event.what == What::Diverged && event.replica == Some(replica);
        let diverged = (0..replicas as u32).map(|replica| known.iter().any(told(replica)));
        let diverged = diverged.collect();
        let (state, planned, least) = session.memory();
        progress.say(&format!(
            "{} on {}, {} steps, {} replica{}, {} parameters each; device memory {} ({} state, {} activations, {} at least)",
            dir.path().display(),
            gpu.caps().called(),
            session.config().steps,
            replicas,
            if replicas == 1 { "" } else { "s" },
            session.table().parameters(),
            Bytes(state + planned),
            Bytes(state),
            Bytes(planned),
            Bytes(least),
        ));
        for text in [less_often(&session), small_null(&session)].into_iter().flatten() {
            progress.say(&text);
        }
        Ok(Self {
            first: session.step(),
            arrived: session.step(),
            pulses: pulses(&session),
            gpu,
            session,
            dir,
            progress,
            submitted: VecDeque::new(),
            stop,
            train: None,
            test: None,
            sets,
            roles,
            diverged,
            last_flush: Instant::now(),
        })
    }

    /// Trains to the end, and leaves a report; or says how to go on. Returns the exit code.
    pub(super) fn go(self) -> Result<u8> {
        let out = self.dir.path().to_owned();
        let (code, step) = self.train()?;
        if code == 0 {
            report::write(&out)?;
        } else {
            complain(&format!("stopped at step {step}; {}", super::goes_on("run", &out)));
        }
        Ok(code)
    }

    /// Trains to the end, or until a signal came. Returns the exit code, and the step.
    pub(super) fn train(mut self) -> Result<(u8, u64)> {
        if self.gpu.caps().is_software() {
            self.stop.behind("the kernels being compiled, then the state is saved");
            self.session.compile(|done, of| {
                self.progress.compiled(done, of);
                self.stop.code().is_none()
            })?;
            self.stop.behind(STEP);
        }
        let total = self.session.config().steps;
        let every = self.session.config().checkpoint.every;
        let slots = self.session.ring().1 as u64;
        let (mut chunk, mut left) = (1, IN_FLIGHT);
        while self.session.step() < total {
            if let Some(code) = self.stop.code() {
                return self.stop(code);
            }
            let step = self.session.step();
            if !self.look(step)? {
                continue;
            }
            let next_save = (step / every + 1) * every;
            let looked = self.session.config().measure.landscape.every;
            let next_look = step.checked_div(looked).map_or(total, |looks| (looks + 1) * looked);
            let steps = chunk.min(next_save.min(next_look).min(total) - step);
            let before = Instant::now();
            let at = self.session.submit(steps);
            self.submitted.push_back(at);
            self.drain(left)?;
            // While the queue is full, a submission takes as long as the device needs for one.
            let seconds = before.elapsed().as_secs_f64();
            left = if seconds < LONG { IN_FLIGHT } else { 0 };
            if self.submitted.len() >= IN_FLIGHT || seconds > SUBMISSION {
                let fitting = (steps as f64 * SUBMISSION / seconds.max(1e-6)) as u64;
                chunk = fitting.clamp((chunk / 2).max(1), chunk * 2).clamp(1, (slots / 2).max(1));
            }
            if self.session.step() == next_save && self.session.step() < total {
                self.save()?;
            } else if self.dir.waiting() >= crate::record::Segments::ROWS
                || self.last_flush.elapsed().as_secs() >= FLUSH
            {
                self.dir.flush()?;
                self.last_flush = Instant::now();
            }
        }
        self.stop.behind("the last measurement, with which the run ends");
        // Saved before the last measurement: a run killed in between measures again, and once.
        self.save()?;
        while !self.look(total)? {
            if let Some(code) = self.stop.code() {
                return self.stop(code);
            }
        }
        let last = self.session.submit(0);
        self.submitted.push_back(last);
        self.drain(0)?;
        let costs = self.costs()?;
        self.dir.end(false, total)?;
        self.progress.finish();
        let seconds = Duration::from_secs(self.progress.elapsed().as_secs());
        self.progress.say(&format!("{total} steps done in {}", humantime::format_duration(seconds)));
        if let Some(costs) = costs {
            self.progress.say(&costs);
        }
        Ok((0, total))
    }

    /// What measuring cost, in words, and into `run.json`. The replays train on weights that are saved and
    /// measured already, and nothing of them is kept.
    fn costs(&mut self) -> Result<Option<String>> {
        if self.progress.elapsed().as_secs() < TIMED.0 || self.session.step() - self.first < TIMED.1 {
            return Ok(None);
        }
        let costs = Costs::measure(&self.gpu, &self.session, 50, Duration::from_secs(TIMING))?;
        Ok(costs.map(|costs| {
            let summary = costs.summary();
            self.dir.set_measuring(serde_json::json!({ "summary": summary, "costs": costs }));
            summary
        }))
    }

    /// Files rows that have arrived, waiting until at most `left` submissions are under way.
    fn drain(&mut self, left: usize) -> Result<()> {
        while self.submitted.len() > left {
            let Some(submission_index) = self.submitted.pop_front() else { break };
            self.gpu.wait_for(submission_index)?;
        }
        self.gpu.check()?;
        while let Some(rows) = self.session.take_rows()? {
            for row in &rows {
                self.file(row)?;
            }
        }
        self.progress.update(self.arrived, self.train, self.test);
        Ok(())
    }

    fn file(&mut self, step: &StepRow) -> Result<()> {
        self.arrived = (step.step() + 1).min(self.session.config().steps);
        while let Some(event) = self.pulses.pop_if(|event| event.step <= step.step()) {
            self.dir.event(&event)?;
        }
        let mut findings = Vec::new();
        for row in self.session.rows(step) {
            self.dir.row(&row);
            findings.extend(Finding::of(&row));
        }
        let births = self.sets.measure(self.session.metrics(), step);
        for event in births.into_iter().chain(self.roles.measure(step.step(), &findings)) {
            self.dir.event(&event)?;
        }
        self.train = step.value(self.session.metrics(), "loss.train", 0).or(self.train);
        self.test = step.value(self.session.metrics(), "loss.test", 0).or(self.test);
        for replica in 0..self.diverged.len() {
            let loss = step.value(self.session.metrics(), "loss.train", replica as u32);
            if loss.is_some_and(|loss| !loss.is_finite()) && !self.diverged[replica] {
                self.diverged[replica] = true;
                self.warn(&Event { replica: Some(replica as u32), ..Event::at(step.step(), What::Diverged) })?;
            }
        }
        Ok(())
    }

    /// Tells people and `events.jsonl`.
    pub(super) fn warn(&mut self, event: &Event) -> Result<()> {
        self.tell(event);
        self.dir.event(event)
    }

    fn tell(&self, event: &Event) {
        self.progress.say(&format!("warning at step {}: {}", event.step, event.text()));
    }

    /// Looks at the landscape where that is due at a step. Whether it is done with that: not where somebody asked to stop, for then
    /// nothing of it is kept.
    fn look(&mut self, step: u64) -> Result<bool> {
        let every = self.session.config().measure.landscape.every;
        if every == 0 || !step.is_multiple_of(every) {
            return Ok(true);
        }
        self.drain(0)?;
        let state = self.session.snapshot()?;
        self.stop.behind("the product under way, then the state is saved");
        let (mut all, began) = (Vec::new(), Instant::now());
        for replica in 0..self.session.config().replicas {
            let mut go_on = || self.stop.code().is_none();
            match look(&self.gpu, self.session.config(), &state, replica as usize, &mut go_on)? {
                Some(found) => all.push((replica, found)),
                None => return Ok(false),
            }
        }
        self.stop.behind(STEP);
        if step < self.first + every {
            let seconds = began.elapsed().as_secs_f64();
            self.progress
                .say(&format!("a look at the loss landscape took {seconds:.1} s; one comes every {every} steps"));
        }
        for (replica, found) in &all {
            for Looked { metric, site, place, value } in found {
                let value = *value as f32;
                self.dir.table_row(&TableRow { step, replica: *replica, metric, site, place: *place, value });
            }
        }
        Ok(true)
    }

    /// Files all rows and saves the state.
    fn save(&mut self) -> Result<()> {
        self.drain(0)?;
        let snapshot = self.session.snapshot()?;
        // Commands that a driver gave up on and called done leave the clock behind, or nothing at all.
        if snapshot.step != self.session.step() {
            return Err(Error::Device(format!(
                "it is at step {} where {} steps were submitted, and its state is not saved",
                snapshot.step,
                self.session.step()
            )));
        }
        self.last_flush = Instant::now();
        let config = self.session.config();
        self.dir.checkpoint(&config.model, &snapshot, config.checkpoint.keep)
    }

    fn stop(mut self, code: u8) -> Result<(u8, u64)> {
        // What was measured before is seen before.
        self.drain(0)?;
        self.dir.event(&Event::at(self.session.step(), What::Stop))?;
        self.save()?;
        self.dir.close(Status::Interrupted, self.session.step())?;
        self.progress.finish();
        Ok((code, self.session.step()))
    }
}
