//! `thermoscope curvature`

use std::path::PathBuf;

use serde::Serialize;

use super::device::Device;
use super::progress::Progress;
use super::stop::Stop;
use super::{complain, presets, print};
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::Gpu;
use crate::landscape::{self, Examples, Matrix, Pair, Surface, Symmetric, Traces, density, ends, signs, trace};
use crate::record::{RunDir, Setup};
use crate::stats::Estimate;
use crate::task::{Task, Whole};
use crate::train::ResolvedRun;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope curvature runs/grok/checkpoints/step-020000 --out curved
  thermoscope curvature my-model --config task.toml --all --out curved
  thermoscope curvature runs/text/checkpoints/step-001000 --sequences 64 \\
    --matrix gauss-newton --spectrum 0 --out curved

The loss is that of the training examples, without weight decay; --set and
--config say what the task is, as for `thermoscope measure`. Products with the
matrix are exact but for rounding in f32, some 1e-6 of the largest eigenvalue,
which no residual knows of. Each eigenvalue stands beside its residual: one of
the matrix lies no further from it. An eigenvalue that is there several times is
found once. Traces stand beside their standard errors over random directions.
DIR/curvature.json has everything in full, with the spectrum as values and
weights for each direction.")]
pub(super) struct Args {
    /// A checkpoint of a run, or a model folder in any layout that `thermoscope measure` reads
    #[arg(value_name = "MODEL_DIR")]
    model: PathBuf,
    /// What the loss is taken over: a configuration file or preset of which [task], [batch] and seed count. Not
    /// needed for a checkpoint of a run
    #[arg(long, value_name = "PRESET|FILE.toml")]
    config: Option<String>,
    /// Take the loss over every example there is, trained on or held out
    #[arg(long, conflicts_with = "sequences")]
    all: bool,
    /// Take the loss over so many sequences, drawn as training draws them; by default over all that is trained on
    #[arg(long, value_name = "N")]
    sequences: Option<usize>,
    /// Directory to write; must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which second derivatives: all, or those of the loss by the logits, which for cross-entropy are Fisher's
    #[arg(long, value_enum, default_value_t = Which::Hessian)]
    matrix: Which,
    /// How many of the largest and of the smallest eigenvalues to find
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Residuals of the largest are to be below this share of the largest in size
    #[arg(long, value_name = "SHARE", default_value_t = 1e-4)]
    tolerance: f64,
    /// Products to find eigenvalues with at most; each keeps a vector of all parameters in memory
    #[arg(long, value_name = "N", default_value_t = 100)]
    steps: usize,
    /// Random directions for the trace; the standard error falls as the root of their number. 0: no trace
    #[arg(long, value_name = "N", default_value_t = 16)]
    directions: u32,
    /// Random directions for the spectrum, of 40 products each. 0: no spectrum
    #[arg(long, value_name = "N", default_value_t = 4)]
    spectrum: u32,
    /// Seed of the random directions
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Change one setting of the task; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: Device,
}

#[derive(Clone, Copy, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Which {
    /// All second derivatives
    Hessian,
    /// Gauss and Newton's, which has no negative eigenvalue
    GaussNewton,
}

/// Products of each direction of a spectrum.
const SPECTRUM_STEPS: usize = 40;

/// Directions that are worked out side by side.
const TOGETHER: usize = 4;

/// `curvature.json`.
#[derive(Serialize)]
struct Found {
    version: &'static str,
    model: PathBuf,
    matrix: Which,
    examples: String,
    seed: u64,
    adapter: String,
    replicas: Vec<OfReplica>,
}

#[derive(Default, Serialize)]
struct OfReplica {
    loss: f64,
    gradient_norm: f64,
    parameters: usize,
    products: usize,
    converged: bool,
    /// Whether trace and spectrum, where they were asked for, are all there: not where somebody asked to stop.
    whole: bool,
    largest: Vec<Eigenvalue>,
    smallest: Vec<Eigenvalue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Number>,
    tensors: Vec<Part>,
    heads: Vec<Part>,
    /// Of each direction, eigenvalues with weights that sum to 1.
    spectrum: Vec<Vec<(f64, f64)>>,
}

#[derive(Clone, Copy, Serialize)]
struct Eigenvalue {
    value: f64,
    residual: f64,
}

#[derive(Clone, Copy, Serialize)]
struct Number {
    value: f64,
    standard_error: f64,
}

impl From<Estimate> for Number {
    fn from(found: Estimate) -> Self {
        Self { value: found.value, standard_error: found.error }
    }
}

/// The trace of a part of the diagonal.
#[derive(Serialize)]
struct Part {
    site: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<usize>,
    trace: Number,
}

pub(super) fn main(args: &Args) -> Result<u8> {
    check(args)?;
    let folder = super::read_model(&args.model)?;
    let (setup, said) = presets::load_for_model(args.config.as_deref(), &args.set, &args.model, &folder)?;
    let Setup { mut config, .. } = setup;
    if args.all {
        config = config.into_config().with_task(|task| Box::new(Whole(task)) as Box<dyn Task>).resolve()?;
    } else {
        said.iter().for_each(|text| complain(text));
    }
    RunDir::check_free(&args.out)?;
    let stop = Stop::on_signals("the product under way")?;
    let gpu = args.device.open()?;
    let examples = match (args.sequences, args.all) {
        (Some(count), _) => format!("{count} sequences as training draws them"),
        (None, true) => "all examples, trained on or held out".to_owned(),
        (None, false) => "all examples that are trained on".to_owned(),
    };
    let mut found = Found {
        version: env!("CARGO_PKG_VERSION"),
        model: std::path::absolute(&args.model).map_err(Error::io("cannot find", &args.model))?,
        matrix: args.matrix,
        examples,
        seed: args.seed,
        adapter: gpu.caps().name.clone(),
        replicas: Vec::new(),
    };
    // That nothing can be written there is told before the work.
    std::fs::create_dir_all(&args.out).map_err(Error::io("cannot create", &args.out))?;
    let place = args.out.join("curvature.json");
    for (replica, weights) in folder.replicas.iter().enumerate() {
        if folder.replicas.len() > 1 {
            print(&format!("replica {replica}"));
        }
        let Some(one) = look(args, &gpu, &config, replica, weights, &stop)? else { break };
        let whole = one.whole;
        found.replicas.push(one);
        // What is found of one is not lost with a later one.
        files::write_whole(&place, serde_json::to_string_pretty(&found).unwrap_or_default().as_bytes())?;
        if !whole {
            break;
        }
    }
    if !found.replicas.is_empty() {
        print(&format!("written: {}", place.display()));
    }
    Ok(stop.code().unwrap_or(0))
}

fn check(args: &Args) -> Result<()> {
    let wrong = |what: &str| Err(Error::Config(what.to_owned()));
    if args.top == 0 || args.steps < args.top {
        return wrong("--top must be 1 or more, and --steps no less: each eigenvalue takes a product at least");
    }
    if !(args.tolerance > 0.0 && args.tolerance < 1.0) {
        return wrong("--tolerance must lie between 0 and 1, both excluded");
    }
    if args.directions == 1 {
        return wrong("--directions 1 has no standard error; take 2 or more, or 0 for no trace");
    }
    Ok(())
}

/// Everything about one set of weights, as far as somebody did not ask to stop; nothing where that was before its eigenvalues.
fn look(
    args: &Args,
    gpu: &Gpu,
    config: &ResolvedRun,
    replica: usize,
    weights: &[f32],
    stop: &Stop,
) -> Result<Option<OfReplica>> {
    let examples = args.sequences.map_or(Examples::All, Examples::Drawn);
    let matrix = match args.matrix {
        Which::Hessian => Matrix::Hessian,
        Which::GaussNewton => Matrix::GaussNewton,
    };
    let surface = |together: usize| {
        let mut surface = Surface::new(gpu, config, replica, examples, matrix, together)?;
        surface.set_weights(weights)?;
        Ok::<_, Error>(surface)
    };
    let total = args.steps + args.directions as usize + args.spectrum as usize * SPECTRUM_STEPS;
    let mut progress = Progress::of("products", 0, total as u64);
    let mut one = surface(1)?;
    one.compile(|done, of| {
        progress.compiled(done, of);
        stop.code().is_none()
    })?;
    if stop.code().is_some() {
        return Ok(None);
    }
    let mut go_on = |done: usize, what: &str| {
        progress.reach(done as u64, what);
        stop.code().is_none()
    };
    let mut found = match at_ends(args, &mut one, &mut go_on)? {
        Some(found) => found,
        None => return Ok(None),
    };
    drop(one);
    found.whole = args.directions == 0 && args.spectrum == 0
        || over_directions(args, &mut surface(TOGETHER)?, config.model.n_heads, &mut found, &mut go_on)?;
    progress.finish();
    Ok(Some(found))
}

/// Hears how many products were taken, and of what; says whether to go on.
type GoOn<'a> = dyn FnMut(usize, &str) -> bool + 'a;

/// The loss, its gradient's length, and both ends of the spectrum; nothing where somebody asked to stop.
fn at_ends(args: &Args, surface: &mut Surface, go_on: &mut GoOn<'_>) -> Result<Option<OfReplica>> {
    let (loss, gradient) = surface.gradient()?;
    let gradient_norm = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
    let parameters = surface.size();
    print(&format!("loss {loss:.7} nats, gradient of length {gradient_norm:.4e}, {parameters} parameters"));
    // None of the directions of the trace.
    let start = signs(parameters, args.seed, u32::MAX);
    let limits = (args.tolerance, args.steps);
    let Some(at_ends) = ends(surface, start, args.top, limits, |done| go_on(done, "eigenvalues"))? else {
        return Ok(None);
    };
    let bare = |pairs: &[Pair]| {
        pairs.iter().map(|pair| Eigenvalue { value: pair.value, residual: pair.residual }).collect::<Vec<_>>()
    };
    let (largest, smallest) = (bare(&at_ends.top), bare(&at_ends.bottom));
    for (name, values) in [("largest", &largest), ("smallest", &smallest)] {
        for Eigenvalue { value, residual } in values {
            print(&format!("{name:9} {value:>14.7e}  residual {residual:.1e}"));
        }
    }
    if !at_ends.converged {
        complain(&format!(
            "warning: after {} products the largest are not all within --tolerance {}; give more --steps",
            at_ends.steps, args.tolerance
        ));
    }
    let (products, converged) = (at_ends.steps, at_ends.converged);
    Ok(Some(OfReplica {
        loss,
        gradient_norm,
        parameters,
        products,
        converged,
        largest,
        smallest,
        ..OfReplica::default()
    }))
}

/// The trace and the spectrum, over random directions, as they are asked for. Whether that went to its end.
fn over_directions(
    args: &Args,
    surface: &mut Surface,
    heads: usize,
    found: &mut OfReplica,
    go_on: &mut GoOn<'_>,
) -> Result<bool> {
    if args.directions > 0 {
        let places = surface.parts(heads);
        let ranges: Vec<_> = places.iter().map(|part| part.range.clone()).collect();
        let of_trace = |done| go_on(args.steps + done, "trace");
        let Some(Traces { total, parts, .. }) = trace(surface, &ranges, args.directions, args.seed, of_trace)? else {
            return Ok(false);
        };
        print(&format!("trace     {:>14.7e}  ± {:.1e} over {} directions", total.value, total.error, args.directions));
        found.trace = Some(total.into());
        for (landscape::Part { tensor: site, head, .. }, part) in places.into_iter().zip(parts) {
            if head.is_none() {
                print(&format!("  {site:30} {:>14.7e}  ± {:.1e}", part.value, part.error));
            }
            let list = if head.is_some() { &mut found.heads } else { &mut found.tensors };
            list.push(Part { site, head, trace: part.into() });
        }
    }
    let size = surface.size();
    let mut directions = (0..args.spectrum).map(|at| signs(size, args.seed, at));
    let before = args.steps + args.directions as usize;
    let spectrum = density(surface, &mut directions, SPECTRUM_STEPS, |done| go_on(before + done, "spectrum"))?;
    let whole = spectrum.is_some();
    found.spectrum = spectrum.map(|spectrum| spectrum.directions).unwrap_or_default();
    Ok(whole)
}
