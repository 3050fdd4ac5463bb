//! `thermoscope scan`

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::device::Device;
use super::print;
use super::progress::Progress;
use super::stop::Stop;
use crate::error::{Error, Result};
use crate::intervene::Baseline;
use crate::record::{Event, Manifest, RunDir, RunKind, Segments, Status, TableRow, What};
use crate::scan::{
    BASELINES, Battery, Engine, Findings, LayerOutcomes, Measure, Outcome, Prompts, Setting, catalog, write_page,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope scan SmolLM2-135M --probes probes/facts.jsonl --out scans/facts
  thermoscope scan my-gpt2 --probes mine.jsonl --battery heads --null 199 \\
    --out scans/mine

A line of FILE.jsonl is a prompt with a right and a wrong answer of one token
each, with the space before them that they have in text; prompts of one group
are not independent, and errors are over groups. One line, here in two:
  {\"prompt\": \"The capital of France is\", \"target\": \" Paris\",
   \"foil\": \" Rome\", \"group\": \"France\", \"category\": \"facts\"}
Of a model without tokenizer.json:
  {\"tokens\": [3, 5], \"target_id\": 7, \"foil_id\": 8, \"group\": \"a\",
   \"category\": \"mine\"}

The null takes away random subspaces of what a layer's heads write, each as
wide as a head and as dear as one: --null 0 leaves it out, and then no head is
called a suppressor.")]
pub(super) struct Args {
    /// A folder with a model, as for `measure`
    #[arg(value_name = "MODEL_DIR")]
    model: PathBuf,
    /// The prompts, JSON lines
    #[arg(long, value_name = "FILE.jsonl")]
    probes: PathBuf,
    /// What is ablated, each alone; both if left out
    #[arg(long, value_enum)]
    battery: Option<Kind>,
    /// What takes the place of what is ablated
    #[arg(long, value_enum, default_value_t = Base::Zero)]
    baseline: Base,
    /// Random subspaces in each layer to compare heads with
    #[arg(long, value_name = "DRAWS", default_value_t = 39)]
    null: usize,
    /// Take the first prompts of the file only
    #[arg(long, value_name = "PROMPTS")]
    first: Option<usize>,
    /// Directory to write; must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: Device,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Every head
    Heads,
    /// Every MLP block
    Mlps,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Base {
    /// Nothing
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

pub(super) fn main(args: &Args) -> Result<u8> {
    if (1..LEAST).contains(&args.null) {
        return Err(Error::Config(format!(
            "--null {}: with fewer than {LEAST} draws no head can exceed the null at 5 %. Give {LEAST} or more, or 0 for none",
            args.null
        )));
    }
    let stop = Stop::on_signals("the prompts under way, then what was found is written")?;
    let folder = super::read_model(&args.model)?;
    let prompts = Prompts::read(&args.probes, &args.model, folder.config.d_vocab, args.first)?;
    let baseline = args.baseline.baseline();
    let what = Battery {
        heads: args.battery != Some(Kind::Mlps),
        mlps: args.battery != Some(Kind::Heads),
        baseline,
        draws: if args.battery == Some(Kind::Mlps) { 0 } else { args.null },
    };
    let config = folder.config.clone();
    let mut categories = BTreeMap::new();
    prompts.list.iter().for_each(|prompt| *categories.entry(prompt.category.clone()).or_default() += 1);
    let setting = Setting {
        model: args.model.display().to_string(),
        probes: args.probes.display().to_string(),
        baseline: BASELINES[baseline as usize].to_owned(),
        draws: what.draws,
        size: [config.n_layers, config.n_heads],
        count: [prompts.list.len(), prompts.groups()],
        categories,
        first: prompts.first.clone(),
        begin: prompts.begin.clone(),
    };
    let before = prompts.begin.as_ref().map_or_else(
        || "nothing stands before a prompt".to_owned(),
        |begin| format!("{begin:?} stands before each prompt, as tokenizer_config.json asks"),
    );
    print(&format!("{} prompts in {} groups; {before}; the first:", setting.count[0], setting.count[1]));
    print(&format!("  {:?} -> {:?} / {:?}", setting.first, prompts.list[0].answers[0], prompts.list[0].answers[1]));

    let gpu = args.device.open()?;
    let from = std::path::absolute(&args.model).map_err(Error::io("cannot find", &args.model))?;
    let probes = std::path::absolute(&args.probes).map_err(Error::io("cannot find", &args.probes))?;
    let described = serde_json::json!({ "scan": setting });
    let manifest = Manifest::new(described, BTreeMap::new(), gpu.caps(), Some(from));
    let manifest = manifest.of_kind(RunKind::Scan).knowing(&[probes])?;
    let mut dir = RunDir::create(&args.out, manifest, &catalog(config.d_vocab_out))?;
    let adapter = format!("{} ({})", gpu.caps().name, gpu.caps().backend);
    dir.event(&Event::at(0, What::Start { adapter }))?;
    let mut files = Files { dir, by_prompt: Segments::open(&args.out.join("probes"), 0)?, baseline: baseline as i32 };

    let mut engine = Engine::new(&gpu, folder, &prompts)?;
    let clean = engine.clean()?;
    files.clean(&clean);
    let mut findings = Findings::new(setting, &prompts, &clean);
    // Blocks that are computed again, of which an intervention at a lower layer takes more.
    let passes = usize::from(what.heads) * config.n_heads + usize::from(what.mlps) + 1 + what.draws;
    let cost = |layer: usize| (passes * (config.n_layers - layer)) as u64;
    let total = (0..config.n_layers).map(cost).sum();
    let mut progress = Progress::of("blocks", 0, total);
    let (mut done, total_prompts) = (0, prompts.list.len() as u64);
    for layer in 0..config.n_layers {
        let of = format!("layer {layer} of {}", config.n_layers);
        let found = engine.next_layer(&what, |prompts| {
            progress.reach(done + cost(layer) * prompts as u64 / total_prompts, &of);
            stop.code().is_none()
        })?;
        let Some(found) = found else { break };
        done += cost(layer);
        findings.add(&prompts, &clean, &found);
        files.layer(layer, &found)?;
    }
    progress.finish();
    files.findings(&findings)?;
    if !findings.uneven.is_empty() {
        let about = format!("the sham has other bits than the clean pass in layers {:?}", findings.uneven);
        files.dir.event(&Event::at(0, What::Warning { about }))?;
    }
    let stopped = findings.layers < config.n_layers;
    files.dir.event(&Event::at(0, if stopped { What::Stop } else { What::Finish }))?;
    findings.write(&args.out)?;
    files.dir.close(if stopped { Status::Interrupted } else { Status::Finished }, 0)?;
    let page = write_page(&args.out, &findings)?;
    print(&findings.sentence());
    print(&format!(
        "{} in {}",
        page.display(),
        humantime::format_duration(std::time::Duration::from_secs(progress.elapsed().as_secs()))
    ));
    Ok(stop.code().filter(|_| stopped).unwrap_or(0))
}

/// The run directory, and the table of what each prompt's prediction became.
struct Files {
    dir: RunDir,
    by_prompt: Segments,
    baseline: i32,
}

impl Files {
    fn prompts(&mut self, prefix: &str, site: &str, layer: i32, head: i32, outcomes: &[Outcome]) {
        for measure in Measure::all().filter(|measure| !prefix.ends_with("clean.") || measure.of_clean()) {
            let metric = format!("{prefix}{}", measure.name());
            for (at, outcome) in outcomes.iter().enumerate() {
                let place = [layer, head, at as i32];
                let value = outcome[measure.0];
                self.by_prompt.push(&TableRow { step: 0, replica: 0, metric: &metric, site, place, value });
            }
        }
    }

    fn clean(&mut self, outcomes: &[Outcome]) {
        self.prompts("clean.", "", -1, -1, outcomes);
    }

    /// Each prompt under each intervention of a layer, as it is, without the clean pass subtracted.
    fn layer(&mut self, layer: usize, found: &LayerOutcomes) -> Result<()> {
        let site = |of: &str| format!("blocks.{layer}.{of}");
        for (head, outcomes) in found.heads.iter().enumerate() {
            self.prompts("ablated.", &site("attn.hook_result"), layer as i32, head as i32, outcomes);
        }
        for outcomes in &found.mlp {
            self.prompts("ablated.", &site("hook_mlp_out"), layer as i32, -1, outcomes);
        }
        self.by_prompt.flush()
    }

    /// Means over groups with their errors.
    fn findings(&mut self, findings: &Findings) -> Result<()> {
        let mut add = |metric: &str, site: &str, place: [i32; 3], value: f64| {
            let value = value as f32;
            self.dir.table_row(&TableRow { step: 0, replica: 0, metric, site, place, value });
        };
        for measure in Measure::all().filter(|measure| measure.of_clean()) {
            let (name, level) = (measure.name(), findings.clean[measure.0]);
            add(&format!("scan.clean.{name}"), "", [-1; 3], level.mean);
            level.error.into_iter().for_each(|error| add(&format!("scan.clean.{name}.se"), "", [-1; 3], error));
        }
        for effect in &findings.effects {
            let of = if effect.head.is_some() { "attn.hook_result" } else { "hook_mlp_out" };
            let site = format!("blocks.{}.{of}", effect.layer);
            let place = [effect.layer as i32, effect.head.map_or(-1, |head| head as i32), self.baseline];
            for measure in Measure::all() {
                let (name, change) = (measure.name(), effect.changes[measure.0]);
                add(&format!("scan.{name}"), &site, place, change.mean);
                change.error.into_iter().for_each(|error| add(&format!("scan.{name}.se"), &site, place, error));
            }
            let known = [("scan.p", effect.p), ("scan.q", effect.q), ("scan.null.p", effect.null.map(|null| null.p))];
            for (name, value) in known {
                value.into_iter().for_each(|value| add(name, &site, place, value));
            }
        }
        for (layer, draws) in findings.null.iter().enumerate() {
            let site = format!("blocks.{layer}.attn.hook_result");
            draws.iter().zip(0..).for_each(|(value, draw)| add("scan.null", &site, [layer as i32, -1, draw], *value));
        }
        self.dir.flush()
    }
}
