//! `thermoscope scan`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::device::Device;
use super::progress::Progress;
use super::stop::Stop;
use super::{goes_on, print, series};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::intervene::Baseline;
use crate::model::{ModelConfig, ModelFolder};
use crate::record::{Event, GoesOn, Manifest, RunDir, RunKind, Status, What};
use crate::scan::{
    BASELINES, Battery, Engine, Findings, Member, Outcome, Patching, Paths, Prompts, Sets, Setting, Tables, catalog,
    hash, write_page,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope scan SmolLM2-135M --probes probes/facts.jsonl --out scans/facts
  thermoscope scan my-gpt2 --probes mine.jsonl --battery heads --null 199 \\
    --out scans/mine
  thermoscope scan my-gpt2 --probes probes/ioi.jsonl --battery patch \\
    --out scans/patched
  thermoscope scan my-gpt2 --probes probes/ioi.jsonl --battery paths \\
    --from L0H1,L7H3 --out scans/paths
  thermoscope scan my-gpt2 --probes probes/ioi.jsonl --set L9H6,L9H9 \\
    --set L0H1,L10H7 --null 99 --out scans/sets
  thermoscope scan runs/mine --probes mine.jsonl --out scans/over-training
  thermoscope scan pythia/step1000 pythia/step2000 pythia/step4000 \\
    --probes probes/ioi.jsonl --out scans/pythia
  thermoscope scan --resume --out scans/facts

A line of FILE.jsonl is a prompt with a right and a wrong answer of one token
each, with the space before them that they have in text; prompts of one group
are not independent, and errors are over groups. One line, here in two:
  {\"prompt\": \"The capital of France is\", \"target\": \" Paris\",
   \"foil\": \" Rome\", \"group\": \"France\", \"category\": \"facts\"}
Of a model without tokenizer.json:
  {\"tokens\": [3, 5], \"target_id\": 7, \"foil_id\": 8, \"group\": \"a\",
   \"category\": \"mine\"}
For --battery patch and paths also \"corrupted\" (or \"corrupted_tokens\"), the
same prompt about something else, of as many tokens, asked for the same
answers; lines without it are left out. Paths with --baseline need none.

A series is a scan of each model, with a table and a page of all: of a run,
its checkpoints (checkpoint.keep = 0 keeps them) and replicas; of folders, as
their names end in a step, as step1000 does, or as written: 1000=FOLDER. The
models must differ in their weights only. One whose weights were there at a
step before is told and left out. A step of a model of the Hub is fetched by
  hf download EleutherAI/pythia-70m --revision step1000 \\
    --local-dir pythia/step1000

The null takes away random subspaces of what a layer's heads write, each as
wide as a head and as dear as one: --null 0 leaves it out, and then no head is
called a suppressor. The null of a set are other sets, as many heads of the
same layers.")]
pub(super) struct Args {
    /// A folder with a model, as for `measure`. Several, or a run, are a series over training
    #[arg(value_name = "MODEL_DIR", required_unless_present = "resume")]
    pub(super) models: Vec<PathBuf>,
    /// The prompts, JSON lines
    #[arg(long, value_name = "FILE.jsonl", required_unless_present = "resume")]
    probes: Option<PathBuf>,
    /// What is done, one or several with commas between them. If left out, heads,mlps; and nothing but the sets where there
    /// are some
    #[arg(long, value_enum, value_delimiter = ',')]
    battery: Vec<Kind>,
    /// Heads to ablate together, as L0H1,L2H3; may be given many times
    #[arg(long, value_name = "HEADS")]
    set: Vec<String>,
    /// The same from a file, a set a line
    #[arg(long, value_name = "FILE")]
    sets: Option<PathBuf>,
    /// Heads to follow with --battery paths, as L0H1,L2H3; may be given many times
    #[arg(long, value_name = "HEADS")]
    from: Vec<String>,
    /// What takes the place of what is ablated. Default: zero
    #[arg(long, value_enum)]
    baseline: Option<Base>,
    /// Random subspaces in each layer to compare heads with, and other sets to compare each set with. Default: 39
    #[arg(long, value_name = "DRAWS")]
    null: Option<usize>,
    /// Take the first prompts of the file only
    #[arg(long, value_name = "PROMPTS", value_parser = super::at_least_one())]
    pub(super) first: Option<usize>,
    /// Scan the first layers only, which take most of the time
    #[arg(long, value_name = "LAYERS", value_parser = super::at_least_one())]
    layers: Option<usize>,
    /// Directory to write; must be new or empty
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Go on with the scan in --out, behind the last layer that was done
    #[arg(long, conflicts_with_all = ["models", "probes", "battery", "set", "sets", "from", "baseline", "null", "first", "layers"])]
    resume: bool,
    #[command(flatten)]
    pub(super) device: Device,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Every head, alone; and what each attends to on random tokens that come twice
    Heads,
    /// Every MLP block, alone
    Mlps,
    /// Every two heads of a layer together, beside each alone (so with heads)
    Pairs,
    /// The prompt's activations in its corrupted prompt and the other way round: the residual stream at one place, and each
    /// head. With nothing else
    Patch,
    /// By which paths the heads of --from act: straight, or through which later head's queries, keys or values, or which MLP
    /// block. Their writing is replaced by that in the corrupted prompt and the other way round, or, with --baseline, ablated. With
    /// nothing else
    Paths,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Heads => "heads",
            Self::Mlps => "mlps",
            Self::Pairs => "pairs",
            Self::Patch => "patch",
            Self::Paths => "paths",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Base {
    /// Nothing
    #[default]
    Zero,
    /// What it writes in the mean over all tokens of all prompts
    Mean,
    /// What it wrote in the next prompt
    Resample,
}

impl Base {
    fn baseline(self) -> Baseline {
        match self {
            Self::Zero => Baseline::Zero,
            Self::Mean => Baseline::Mean,
            Self::Resample => Baseline::Resample,
        }
    }
}

/// Draws below which none can be beyond the null at 5 %.
const LEAST: usize = 39;
/// Draws that tell a share of one in ten thousand.
const MOST: usize = 100_000;

/// What was asked for, so that a scan can go on with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    /// The model's folder and the file of prompts, wherever one stands.
    model: PathBuf,
    /// Which of its replicas, where it is one of a series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replica: Option<u32>,
    pub(super) probes: PathBuf,
    /// The same as they were given.
    named: [String; 2],
    battery: Vec<Kind>,
    sets: Vec<String>,
    #[serde(default)]
    from: Vec<String>,
    baseline: Option<Base>,
    null: usize,
    first: Option<usize>,
    layers: Option<usize>,
}

impl Asked {
    /// Of the first model, if there are several.
    pub(super) fn of(args: &Args) -> Result<Self> {
        let need =
            |path: Option<&PathBuf>, what: &str| path.cloned().ok_or_else(|| Error::Config(format!("name {what}")));
        let (model, probes) =
            (need(args.models.first(), "a model's folder")?, need(args.probes.as_ref(), "a file by --probes")?);
        let mut sets = args.set.clone();
        if let Some(path) = &args.sets {
            let text = std::fs::read_to_string(path).map_err(Error::io("cannot read", path))?;
            sets.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
            if sets.is_empty() {
                return Err(Error::format(path, "holds no set: write heads as in L0H1,L2H3, a set a line"));
            }
        }
        let mut battery = args.battery.clone();
        if battery.is_empty() && sets.is_empty() {
            battery = vec![Kind::Heads, Kind::Mlps];
        }
        // Pairs are beside what each head does alone.
        if battery.contains(&Kind::Pairs) && !battery.contains(&Kind::Heads) {
            battery.insert(0, Kind::Heads);
        }
        let alone = battery.iter().find(|kind| [Kind::Patch, Kind::Paths].contains(kind)).copied();
        if let Some(kind) = alone.filter(|_| battery.len() > 1 || !sets.is_empty()) {
            return Err(Error::Config(format!(
                "--battery {} puts one prompt's activations into another, and goes with nothing else: scan twice, into two folders",
                kind.name()
            )));
        }
        if alone == Some(Kind::Patch) && (args.null.is_some() || args.baseline.is_some()) {
            return Err(Error::Config(
                "--battery patch has neither a baseline nor a null: leave out --baseline and --null. What takes an activation's place is the other prompt's, and places before the two prompts differ are its control"
                    .to_owned(),
            ));
        }
        let paths = alone == Some(Kind::Paths);
        if paths && (args.null.is_some() || args.layers.is_some()) {
            return Err(Error::Config(
                "--battery paths has no null, and goes through all layers: leave out --null and --layers. Name other heads of the same layer by --from as its control"
                    .to_owned(),
            ));
        }
        if paths == args.from.is_empty() {
            return Err(Error::Config(
                "--battery paths follows the heads that --from names, as in --from L0H1,L2H3, and nothing else does: give both or neither"
                    .to_owned(),
            ));
        }
        let compared = battery.contains(&Kind::Heads) || !sets.is_empty();
        if let (false, Some(null)) = (compared, args.null.filter(|null| *null > 0)) {
            return Err(Error::Config(format!(
                "--null {null}: a null is drawn for heads and for sets of heads; leave it out, or add heads to --battery"
            )));
        }
        let null = if compared { args.null.unwrap_or(LEAST) } else { 0 };
        if null > MOST {
            return Err(Error::Config(format!(
                "--null {null}: at most {MOST} draws are taken; each costs as much as a head"
            )));
        }
        if (1..LEAST).contains(&null) {
            return Err(Error::Config(format!(
                "--null {null}: with fewer than {LEAST} draws nothing can exceed the null at 5 %. Give {LEAST} or more, or 0 for none"
            )));
        }
        Ok(Self {
            named: [&model, &probes].map(|path| path.display().to_string()),
            model: absolute(&model)?,
            replica: None,
            probes: absolute(&probes)?,
            battery,
            sets,
            from: args.from.clone(),
            baseline: args.baseline,
            null,
            first: args.first,
            layers: args.layers,
        })
    }

    /// What the scan in a folder was asked for.
    pub(super) fn again(out: &Path, manifest: &Manifest) -> Result<Self> {
        let asked = serde_json::from_value(manifest.config["asked"].clone());
        asked.map_err(|_| {
            Error::Refused(format!("{} was asked for in words that this version does not know", out.display()))
        })
    }

    /// The same of a replica of another model.
    pub(super) fn at(&self, [model, named]: &[PathBuf; 2], replica: u32) -> Self {
        let named = [named.display().to_string(), self.named[1].clone()];
        Self { model: model.clone(), replica: Some(replica), named, ..self.clone() }
    }

    pub(super) fn has(&self, kind: Kind) -> bool {
        self.battery.contains(&kind)
    }

    /// Whether prompts are taken with their corrupted ones.
    fn pairs(&self) -> bool {
        self.has(Kind::Patch) || self.has(Kind::Paths) && self.baseline.is_none()
    }

    fn layers(&self, config: &ModelConfig) -> usize {
        self.layers.unwrap_or(config.n_layers)
    }

    fn battery(&self, config: &ModelConfig, sets: &Sets, paths: Option<&Paths>) -> Battery {
        let patch = self.has(Kind::Patch);
        Battery {
            heads: self.has(Kind::Heads) || patch,
            mlps: self.has(Kind::Mlps),
            pairs: self.has(Kind::Pairs),
            places: patch,
            sets: sets.passes(config),
            senders: paths.map(|paths| paths.wanted.clone()).unwrap_or_default(),
            // Of prompts in pairs, what a head wrote in the other one.
            baseline: if self.pairs() { Baseline::Resample } else { self.baseline.unwrap_or_default().baseline() },
            draws: if self.has(Kind::Heads) { self.null } else { 0 },
        }
    }

    fn setting(&self, config: &ModelConfig, prompts: &Prompts) -> Setting {
        let mut categories = BTreeMap::new();
        prompts.list.iter().for_each(|prompt| *categories.entry(prompt.category.clone()).or_default() += 1);
        if prompts.paired {
            categories.values_mut().for_each(|count| *count /= 2);
        }
        let sets = (!self.sets.is_empty()).then_some("sets");
        let [model, probes] = self.named.clone();
        Setting {
            model,
            probes,
            battery: self.battery.iter().map(|kind| kind.name()).chain(sets).map(str::to_owned).collect(),
            baseline: BASELINES[self.baseline.unwrap_or_default() as usize].to_owned(),
            // The only head of a layer is all that it writes: there is nothing else to draw.
            draws: if config.n_heads > 1 || !self.sets.is_empty() { self.null } else { 0 },
            size: [config.n_layers, config.n_heads],
            layers: self.layers(config),
            count: [prompts.list.len() / if prompts.paired { 2 } else { 1 }, prompts.groups()],
            categories,
            first: prompts.first.clone(),
            begin: prompts.begin.clone(),
        }
    }

    /// The files that decide what is found, but for the weights.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>> {
        let place = ModelFolder::place(&self.model)?;
        let beside = ["tokenizer.json", "tokenizer_config.json"].map(|name| place.join(name));
        Ok([self.probes.clone()].into_iter().chain(beside.into_iter().filter(|path| path.exists())).collect())
    }
}

/// What is scanned.
struct Scan {
    asked: Asked,
    config: ModelConfig,
    prompts: Prompts,
    sets: Sets,
    paths: Option<Paths>,
    what: Battery,
    /// Before what is told of its progress.
    called: String,
}

pub(super) fn main(args: &Args) -> Result<u8> {
    let out = &args.out;
    let before = args.resume.then(|| RunDir::read_manifest(out)).transpose()?;
    before.iter().try_for_each(|manifest| super::must_go_on_as(manifest, out, RunKind::Scan))?;
    if before.as_ref().is_some_and(|manifest| manifest.kind == RunKind::Series) || series::is_one(&args.models)? {
        return series::main(args, before);
    }
    let asked = before.as_ref().map_or_else(|| Asked::of(args), |manifest| Asked::again(out, manifest))?;
    if let Some(findings) = finished(out, before.as_ref())? {
        print(&format!("{} is finished", out.display()));
        if !out.join("report.html").exists() {
            write_page(out, &findings)?;
        }
        findings.sentences().iter().for_each(|sentence| print(sentence));
        return Ok(0);
    }
    let stop = stop()?;
    let Done { findings, stopped, seconds } = scan(asked, out, before, || args.device.open(), &stop, None)?;
    findings.sentences().iter().for_each(|sentence| print(sentence));
    let page = out.join("report.html");
    print(&format!("{} in {}", page.display(), humantime::format_duration(Duration::from_secs(seconds))));
    if stopped {
        print(&goes_on("scan", out));
    }
    Ok(stop.code().filter(|_| stopped).unwrap_or(0))
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::io("cannot find", path))
}

pub(super) fn stop() -> Result<Stop> {
    Stop::on_signals("the prompts under way, then what was found is written")
}

/// What a scan found that is finished.
pub(super) fn finished(out: &Path, manifest: Option<&Manifest>) -> Result<Option<Findings>> {
    match manifest {
        Some(Manifest { status: Status::Finished, .. }) => Findings::read(out),
        _ => Ok(None),
    }
}

/// What came of a scan.
pub(super) struct Done {
    pub(super) findings: Findings,
    pub(super) stopped: bool,
    pub(super) seconds: u64,
}

/// Scans a model into a folder, or goes on with that, and leaves a page; a model of a series has a name there.
pub(super) fn scan(
    asked: Asked,
    out: &Path,
    before: Option<Manifest>,
    device: impl FnOnce() -> Result<Gpu>,
    stop: &Stop,
    member: Option<&Member>,
) -> Result<Done> {
    let resume = before.is_some();
    let known = if resume { Findings::read(out)? } else { None };
    if let Some(manifest) = &before {
        manifest.check_files()?;
        manifest.check_weights()?;
    } else {
        RunDir::check_free(out)?;
    }
    let folder = super::read_replica(&asked.model, asked.replica)?;
    if let Some(Member { weights, .. }) = member
        && hash(&folder.replicas[0]) != *weights
    {
        return Err(Error::format(
            &asked.model,
            "has other weights than when the series began. Put those back, or begin anew in another folder",
        ));
    }
    let config = folder.config.clone();
    let sizes = [config.d_vocab, config.d_vocab_out];
    let prompts = Prompts::read(&asked.probes, &asked.model, sizes, asked.first, asked.pairs())?;
    let paths = asked.has(Kind::Paths).then(|| Paths::parse(&asked.from, &config)).transpose()?;
    let sets = Sets::parse(&asked.sets, &config, asked.null)?;
    if let Some(layers) = asked.layers.filter(|layers| *layers > config.n_layers) {
        return Err(Error::Refused(format!("--layers {layers}: {} has {}", asked.model.display(), config.n_layers)));
    }
    let layers = asked.layers(&config);
    if sets.known.iter().any(|known| known.heads.iter().any(|[layer, _]| *layer >= layers)) {
        return Err(Error::Config(format!(
            "--layers {layers} leaves out a layer of a set: give more, or leave --layers out"
        )));
    }
    let what = asked.battery(&config, &sets, paths.as_ref());
    let setting = asked.setting(&config, &prompts);
    if member.is_none() {
        tell(&setting, &prompts);
    }

    let gpu = device()?;
    let mut engine = Engine::new(&gpu, folder, &prompts)?;
    let clean = engine.clean()?;
    let called = member.map_or_else(String::new, |member| format!("{}, ", member.name()));
    let scan = Scan { asked, config, prompts, sets, paths, what, called };
    let (mut tables, mut findings) = match known {
        Some(findings) => {
            (0..findings.layers).try_for_each(|_| engine.skip_layer())?;
            (scan.reopen(out, &gpu, Some(&findings))?, findings)
        }
        // It ended before its first layer.
        None if resume => (scan.reopen(out, &gpu, None)?, scan.begin(setting, &clean)?),
        None => {
            let findings = scan.begin(setting, &clean)?;
            (scan.create(out, &gpu, &findings)?, findings)
        }
    };
    if findings.layers == 0 {
        findings.segments = tables.clean(&clean)?;
        if scan.what.heads && !scan.prompts.paired {
            findings.repeated = engine.repeated()?;
        }
        findings.write(out)?;
    }
    let (stopped, seconds) = scan.layers(&mut engine, &mut tables, &mut findings, &clean, || stop.code().is_none())?;
    tables.findings(&findings)?;
    if !findings.uneven.is_empty() {
        let about = format!("the sham has other bits than the clean pass in layers {:?}", findings.uneven);
        let event = Event::at(0, What::Warning { about });
        super::warn(&event);
        tables.dir.event(&event)?;
    }
    tables.dir.end(stopped, 0)?;
    write_page(out, &findings)?;
    Ok(Done { findings, stopped, seconds })
}

/// Tokens of the first prompt that are printed at most.
const TOLD: usize = 60;

/// Says what is scanned.
fn tell(setting: &Setting, prompts: &Prompts) {
    let before = prompts.begin.as_ref().map_or_else(
        || "nothing stands before a prompt".to_owned(),
        |begin| format!("{begin:?} stands before each prompt, as tokenizer_config.json asks"),
    );
    let count = |number: usize, of: &str| format!("{number} {of}{}", if number == 1 { "" } else { "s" });
    let of = if prompts.paired { " with a corrupted one" } else { "" };
    let [listed, groups] = [(setting.count[0], "prompt"), (setting.count[1], "group")].map(|(n, of)| count(n, of));
    print(&format!("{listed}{of} in {groups}; {before}; the first:"));
    // Of a long one its end.
    let tokens = &setting.first[setting.first.len().saturating_sub(TOLD)..];
    let cut = if tokens.len() < setting.first.len() { "... " } else { "" };
    print(&format!("  {cut}{tokens:?} -> {:?} / {:?}", prompts.list[0].answers[0], prompts.list[0].answers[1]));
}

impl Scan {
    /// What is found before the first layer.
    fn begin(&self, setting: Setting, clean: &[Outcome]) -> Result<Findings> {
        let paths = self.paths.clone();
        if self.prompts.paired {
            let patching = self.what.places.then(|| Patching::new(&self.prompts, clean)).transpose()?;
            // What is said of the clean pass is about the prompts.
            let list = self.prompts.list.iter().step_by(2).cloned().collect();
            let clean: Vec<Outcome> = clean.iter().step_by(2).copied().collect();
            let prompts = Prompts { list, ..self.prompts.clone() };
            return Ok(Findings { patching, paths, ..Findings::new(setting, &prompts, &clean) });
        }
        Ok(Findings { sets: self.sets.clone(), paths, ..Findings::new(setting, &self.prompts, clean) })
    }

    fn baseline(&self) -> Option<usize> {
        (!self.prompts.paired).then_some(self.what.baseline as usize)
    }

    fn create(&self, out: &Path, gpu: &Gpu, findings: &Findings) -> Result<Tables> {
        let described = serde_json::json!({ "scan": findings.setting, "asked": self.asked });
        let from = Some(self.asked.model.clone());
        let manifest = Manifest::new(described, BTreeMap::new(), gpu.caps(), from);
        let manifest = manifest.of_kind(RunKind::Scan).knowing(&self.asked.files()?)?;
        let dir = RunDir::create(out, manifest, &catalog(self.config.d_vocab_out))?;
        Tables::new(dir, 0, self.baseline())
    }

    fn reopen(&self, out: &Path, gpu: &Gpu, findings: Option<&Findings>) -> Result<Tables> {
        let GoesOn { dir, moved, .. } = RunDir::go_on(out, &self.config, gpu.caps(), None)?;
        moved.iter().for_each(super::warn);
        // Before its first layer nothing of it is kept.
        let kept = findings.filter(|findings| findings.layers > 0).map_or(0, |findings| findings.segments);
        Tables::new(dir, kept, self.baseline())
    }

    /// Every layer that is still to come, and what is known is kept behind each. Whether it was stopped, and seconds it took.
    fn layers(
        &self,
        engine: &mut Engine,
        tables: &mut Tables,
        findings: &mut Findings,
        clean: &[Outcome],
        go_on: impl Fn() -> bool,
    ) -> Result<(bool, u64)> {
        let (layers, first) = (findings.setting.layers, findings.layers);
        let longest = self.prompts.list.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(1);
        // Blocks that are computed again, of which an intervention at a lower layer takes more.
        let cost = |layer: usize| {
            let passes = self.what.passes(&self.config, longest, layer);
            (passes * (self.config.n_layers - layer)) as u64
        };
        let mut done: u64 = (0..first).map(cost).sum();
        let mut progress = Progress::of("blocks", done, (0..layers).map(cost).sum());
        for layer in first..layers {
            let of = format!("{}layer {layer} of {layers}", self.called);
            let found = engine.next_layer(&self.what, |share| {
                progress.reach(done + (cost(layer) as f64 * share) as u64, &of);
                go_on()
            })?;
            let Some(found) = found else { break };
            done += cost(layer);
            findings.add(&self.prompts, &self.config, clean, &found);
            findings.segments = tables.layer(layer, self.config.n_heads, &self.what.senders, &found)?;
            // Last, so that what it says is there.
            findings.write(tables.dir.path())?;
        }
        progress.finish();
        Ok((findings.layers < layers, progress.elapsed().as_secs()))
    }
}
