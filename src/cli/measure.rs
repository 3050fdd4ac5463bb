//! `thermoscope measure`

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::device::Device;
use super::progress::Ticker;
use super::{complain, presets, print, report};
use crate::error::{Error, Result};
use crate::instrument::Label;
use crate::record::{Catalog, Event, Manifest, RunDir, RunKind, Setup, What};
use crate::task::{Task, Whole};
use crate::train::Session;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope measure runs/grok/checkpoints/step-020000 --out measured
  thermoscope measure my-model --config task.toml --out measured
  thermoscope measure my-model --config task.toml --all --out measured \\
    --set 'measure.only=[\"loss.test\"]'

task.toml needs a [task] only; the model is read from the folder:
  [task]
  kind = \"modular\"
  p = 113
  train_pairs = \"train.json\"

What needs gradients (grad_norm, sync.gradient, noise) is left out unless
measure.only names it: that would take the memory of a training step.

A checkpoint of a run is measured on that run's task, with its own split and
seeds; only --set, or a --config with another task, says otherwise, and then a
warning is printed. Of a model from elsewhere the split must be given by [task]
(train_pairs, train_sequences, or train_fraction and seed), or there is none:
--all.")]
pub(super) struct Args {
    /// A folder with config.json and model.safetensors or shards, as TransformerLens names weights or as Hugging Face's
    /// transformers writes GPT-2, GPT-NeoX, Llama, Mistral and Qwen2; or the Hub's cache of one
    #[arg(value_name = "MODEL_DIR")]
    model: PathBuf,
    /// What the model is measured on: a configuration file or preset of which [task], [batch], [measure]
    /// and seed count. Not needed for a checkpoint of a run
    #[arg(long, value_name = "PRESET|FILE.toml")]
    config: Option<String>,
    /// Measure on every example there is, without a split: those trained on and those held out are the same
    #[arg(long)]
    all: bool,
    /// Directory to write; must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Change one setting; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: Device,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let folder = super::read_model(&args.model)?;
    let (setup, said) = presets::load_for_model(args.config.as_deref(), &args.set, &args.model, &folder)?;
    let Setup { mut config, resolved } = setup;
    let (task, model) = (config.task.shape().d_vocab, folder.config.d_vocab);
    if task < model {
        complain(&format!(
            "warning: the task has {task} tokens, the model knows {model}; is it the task it was trained on?"
        ));
    }
    if args.all {
        let whole = config.into_config().with_task(|task| Box::new(Whole(task)) as Box<dyn Task>);
        config = whole.resolve()?;
    } else {
        said.iter().for_each(|text| complain(text));
    }
    RunDir::check_free(&args.out)?;
    let files = config.task.files();
    let ticker = Ticker::start("getting ready to measure");
    let gpu = args.device.open()?;
    let mut session = Session::builder(&gpu, config).measuring().build()?;
    session.set_weights(&folder.replicas)?;
    drop(folder);
    if session.metrics().is_empty() {
        return Err(super::nothing_measured(session.config()));
    }
    let from = std::path::absolute(&args.model).map_err(Error::io("cannot find", &args.model))?;
    let manifest = Manifest::new(resolved, BTreeMap::new(), gpu.caps(), Some(from));
    let manifest = manifest.of_kind(RunKind::Measurement).knowing(&files)?;
    let mut catalog = Catalog::of(&session)?;
    // Those are of runs; `thermoscope curvature` looks at a model.
    catalog.metrics.retain(|_, metric| metric.instrument != crate::landscape::INSTRUMENT);
    ticker.now("measuring");
    session.submit(0);
    gpu.wait()?;
    ticker.stop();
    let mut measured = Vec::new();
    while let Some(steps) = session.take_rows()? {
        measured.push(steps);
    }
    let rows = || measured.iter().flatten().flat_map(|step| session.rows(step));
    if rows().next().is_none() {
        return Err(super::nothing_measured(session.config()));
    }
    let mut dir = RunDir::create(&args.out, manifest, &catalog)?;
    if args.all {
        let about = "measured on all examples: those trained on and those held out are the same".to_owned();
        dir.event(&Event::at(0, What::Warning { about }))?;
    }
    let (mut shown, mut not_finite) = (Vec::new(), std::collections::BTreeSet::new());
    for row in rows() {
        let Label { layer, head, index } = row.label;
        let (metric, site) = (row.metric.card.name, row.metric.site.as_str());
        dir.row(&row);
        if !row.value.is_finite() {
            not_finite.insert(metric);
        }
        // Single numbers and short lists are worth a line; spectra are in the table.
        if row.metric.labels.len() <= 16 {
            let number = |name: &str, value: i32| (value >= 0).then(|| format!("{name} {value}"));
            let called = usize::try_from(index).ok().and_then(|at| catalog.metrics.get(metric)?.index.get(at));
            let index = called.cloned().or_else(|| number("index", index));
            let place: Vec<String> =
                [number("layer", layer), number("head", head), index].into_iter().flatten().collect();
            let replica =
                if session.config().replicas > 1 { format!("replica {} ", row.replica) } else { String::new() };
            shown.push(format!("{metric:26} {:42} {:>14e}", format!("{replica}{site} {}", place.join(" ")), row.value));
        }
    }
    if !not_finite.is_empty() {
        let metrics = not_finite.into_iter().map(str::to_owned).collect();
        let event = Event::at(0, What::NotFinite { metrics });
        dir.event(&event)?;
        complain(&format!("warning: {}", event.text()));
    }
    dir.end(false, 0)?;
    shown.iter().for_each(|line| print(line));
    report::write(dir.path())?;
    Ok(())
}
