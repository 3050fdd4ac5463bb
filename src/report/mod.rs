//! One self-contained HTML file from a run directory: no network, no server. Charts are Vega-Lite specifications;
//! Vega itself is part of the page.

mod arms;
mod charts;
mod claims;
mod compare;
mod dataset;
mod derived;
mod gather;
mod heads;
mod layout;
mod marks;
mod phases;
mod stages;
mod still;
mod topics;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use compare::{Asked, Comparison, compare};
use gather::Gathered;
use marks::Turn;
pub use phases::Phase;

use minijinja::{Environment, Value, context};
use serde_json::json;

use crate::error::{Error, Result};
use crate::record::{Catalog, Event, Manifest, RunDir, RunKind, Status};
use crate::stats::Onset;
use crate::train::{ArmRole, ReplicaConfig};

const PAGE: &str = include_str!("page.html");
const VEGA: &str = include_str!("vendor/vega.min.js");
const VEGA_LITE: &str = include_str!("vendor/vega-lite.min.js");
const VEGA_EMBED: &str = include_str!("vendor/vega-embed.min.js");

/// A written report.
#[derive(Clone, Debug)]
pub struct Report {
    /// The page.
    pub page: PathBuf,
    /// What happened when in each replica that has a name, or in the first where none has.
    pub arms: Vec<Arm>,
    /// Replicas of the run.
    pub replicas: usize,
}

/// What happened in one replica.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its name, or its number.
    pub name: String,
    /// Events in order of step.
    pub phases: Vec<Phase>,
    /// What was looked for and had not come by the last measurement, and until when that is known.
    pub missing: Vec<(&'static str, Onset)>,
}

impl Arm {
    /// Of one in which nothing happened: what was looked for. Empty of others.
    pub fn none(&self) -> String {
        let all: Vec<String> = self.missing.iter().map(|(name, onset)| format!("{name} ({})", onset.words())).collect();
        match (self.phases.is_empty(), all.is_empty()) {
            (false, _) => String::new(),
            (true, false) => format!("nothing yet of {}", all.join(", ")),
            (true, true) => "nothing was measured that has a date".to_owned(),
        }
    }
}

/// Writes `report.html` into a run directory.
///
/// # Errors
/// Where the folder holds no run, or a file cannot be read or written.
pub fn write(run: &Path) -> Result<Report> {
    let manifest = RunDir::read_manifest(run)?;
    let catalog = Catalog::read(run)?;
    let names = names(&manifest);
    let Gathered { series, watched, last_step } = Gathered::read(run, &manifest, &catalog, &|_| true)?;
    let replicas = watched.len();
    let phases: Vec<Vec<Phase>> = watched.iter().map(phases::Watched::phases).collect();
    let called = |replica: usize| names.get(replica).cloned().unwrap_or_else(|| format!("replica {replica}"));
    // What was measured once has no history.
    let measured = manifest.kind == RunKind::Measurement;
    let shown = match names.is_empty() {
        _ if measured => 0,
        true => 1,
        false => replicas,
    };
    let arms: Vec<Arm> = (0..shown)
        .map(|at| Arm { name: called(at), phases: phases[at].clone(), missing: watched[at].missing() })
        .collect();
    let events = RunDir::read_events(run)?;
    let warnings = events.iter().filter(|event| event.is_warning());
    let when = |event: &Event| if measured { String::new() } else { format!("{}: ", event.onset().words()) };
    let warnings: Vec<String> = warnings.map(|event| when(event) + &event.text()).collect();
    let turns: Vec<Turn> = events.iter().filter_map(Turn::of).collect();
    let (listed, left) = marks::list(&turns);
    let configs: Vec<ReplicaConfig> =
        serde_json::from_value(manifest.config["replica"].clone()).unwrap_or_else(|_| Vec::new());
    let groups = if measured { Vec::new() } else { arms::Arm::all(&manifest, &names, &configs) };
    let stages = stages::tables(run, &catalog, &watched, &groups)?;
    let judged = if names.len() > 1 && !measured { judge(&manifest, &names, &configs, &watched) } else { Vec::new() };
    let charts = {
        let names = charts::Names { arms: names.clone(), own: Vec::new() };
        charts::Charts::new(&series, &catalog, &phases, &turns, names, measured)
    };
    let page = render(context! {
        name => title(&manifest),
        description => manifest.config["description"].as_str().unwrap_or_default(),
        status => status(&manifest, last_step),
        trunk => manifest.fork.as_ref().map(|origin| origin.words()),
        arms => arms.iter().map(|arm| context! {
            name => if replicas > 1 { arm.name.as_str() } else { "" },
            none => arm.none(),
            phases => arm.phases.iter().map(|p| context! { name => p.name, when => p.onset.words(), meaning => &p.meaning }).collect::<Vec<_>>(),
        }).collect::<Vec<_>>(),
        happened => arms.len() > 1 || arms.iter().any(|arm| !arm.phases.is_empty()),
        turns => listed.iter().map(|turn| {
            let (when, kind, text) = turn.words();
            context! { when, kind, text, name => if replicas > 1 { called(turn.replica()) } else { String::new() } }
        }).collect::<Vec<_>>(),
        left => left.iter().map(|(lane, count)| format!("{lane} {count}")).collect::<Vec<_>>().join(", "),
        groups => judged,
        stages,
        apart => apart(&groups, &configs),
        warnings => warnings,
        facts => facts(&manifest),
        config => serde_json::to_string_pretty(&configuration(&manifest)).unwrap_or_default(),
        notes => charts.notes(),
        empty => series.is_empty(),
        topics => charts.headings().into_iter().map(|(id, title, note, tall)| context! { id, title, note, tall }).collect::<Vec<_>>(),
        strip => !measured,
        choices => charts.choices(),
        library => Value::from_safe_string(library()),
        data => Value::from_safe_string(data(&charts)),
    })?;
    let path = run.join("report.html");
    crate::files::write_whole(&path, page.as_bytes())?;
    Ok(Report { page: path, arms, replicas })
}

/// What sets the arms of a run apart, as rows of a table, the names of its columns first; nothing of a run that has one.
fn apart(arms: &[arms::Arm], configs: &[ReplicaConfig]) -> Vec<Vec<String>> {
    let settings = arms::Arm::apart(arms);
    let Some(first) = settings.first().filter(|_| arms.len() > 1) else { return Vec::new() };
    let head = ["arm", "replicas"].into_iter().map(str::to_owned).chain(first.keys().cloned()).collect();
    let row = |(arm, own): (&arms::Arm, &BTreeMap<String, String>)| {
        let role = match configs[arm.replicas[0]].role {
            Some(ArmRole::Main) => " (main)",
            Some(ArmRole::Control) => " (control)",
            Some(ArmRole::Sham) => " (sham)",
            None => "",
        };
        let called = if arm.name.is_empty() { format!("replica {}", arm.replicas[0]) } else { arm.name.clone() };
        [called + role, arm.replicas.len().to_string()].into_iter().chain(own.values().cloned()).collect()
    };
    [head].into_iter().chain(arms.iter().zip(&settings).map(row)).collect()
}

/// The page with what is to be shown on it.
fn render(shown: Value) -> Result<String> {
    let fail = |error: minijinja::Error| Error::Unsupported(format!("the report's template: {error}"));
    let mut environment = Environment::new();
    environment.add_filter("number", told);
    environment.add_template("page.html", PAGE).map_err(fail)?;
    environment.get_template("page.html").and_then(|template| template.render(shown)).map_err(fail)
}

/// A number for the page, with its error if it has one, or why there is none.
fn told(said: Value) -> String {
    let of = |name: &str| said.get_attr(name).ok().filter(|value| !value.is_undefined());
    let digits = |value: f64, beside: f64| match beside.abs().max(value.abs()) {
        size if size >= 100.0 || (value.fract() == 0.0 && size >= 1.0) => format!("{value:.0}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    };
    let number = |value: &Value| f64::try_from(value.clone()).ok();
    if let Some(missing) = of("missing") {
        return format!("none: {missing}");
    }
    match (of("value").as_ref().and_then(number), of("error").as_ref().and_then(number)) {
        (Some(value), Some(error)) => format!("{} ± {}", digits(value, error), digits(error, value)),
        _ => number(&said).map_or_else(String::new, |value| digits(value, value)),
    }
}

/// What JSON holds, for the page.
fn of_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => Value::from(whole),
            None => number.as_f64().map_or_else(|| Value::from(()), Value::from),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(list) => list.iter().map(of_json).collect(),
        serde_json::Value::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), of_json(value))))
        }
    }
}

/// Tables of claims, one for each group of arms.
fn judge(manifest: &Manifest, names: &[String], configs: &[ReplicaConfig], watched: &[phases::Watched]) -> Vec<Value> {
    let arms = names.iter().zip(configs).zip(watched);
    let arms = arms.map(|((name, own), watched)| claims::Arm::of(name, own, &manifest.config, watched));
    judged(&arms.collect::<Vec<_>>())
}

/// The same of arms.
fn judged(arms: &[claims::Arm<'_>]) -> Vec<Value> {
    let table = |group: &claims::Group<'_>| {
        context! {
            name => group.name.unwrap_or_default(),
            arms => group.arms.iter().map(|at| arms[*at].name.to_owned()).collect::<Vec<_>>(),
            claims => claims::judge(arms, group).iter().map(claim).collect::<Vec<_>>(),
        }
    };
    claims::groups(arms).iter().map(table).collect()
}

/// A row of a table of claims.
fn claim(verdict: &claims::Verdict) -> Value {
    let cell = |(outcome, control): &(Option<claims::Outcome>, bool)| {
        context! {
            mark => outcome.as_ref().map_or("not measured", |outcome| match outcome.found {
                claims::Found::Holds => "holds",
                claims::Found::Fails => "fails",
                claims::Found::Open => "open",
            }),
            why => outcome.as_ref().map_or("", |outcome| outcome.why.as_str()),
            control => control,
        }
    };
    context! {
        name => verdict.name,
        rule => verdict.rule,
        cells => verdict.outcomes.iter().map(cell).collect::<Vec<_>>(),
        class => match verdict.survives { Some(true) => "yes", Some(false) => "no", None => "open" },
        words => verdict.words.as_str(),
    }
}

/// Names of the replicas where any has one; those without are called by their number.
fn names(manifest: &Manifest) -> Vec<String> {
    let replicas = manifest.config["replica"].as_array().map_or(&[][..], Vec::as_slice);
    let named = |(at, replica): (usize, &serde_json::Value)| {
        replica["name"].as_str().map_or_else(|| format!("replica {at}"), str::to_owned)
    };
    if replicas.iter().all(|replica| replica["name"].is_null()) {
        return Vec::new();
    }
    replicas.iter().enumerate().map(named).collect()
}

/// What the charts are drawn with.
fn library() -> String {
    let code = [VEGA, VEGA_LITE, VEGA_EMBED].into_iter().flat_map(str::lines);
    let code: Vec<&str> = code.filter(|line| !line.starts_with("//# sourceMappingURL")).collect();
    code.join("\n").replace("</script", "<\\/script")
}

/// What the charts are drawn of: JSON without a character that could end the element it stands in.
fn data(charts: &charts::Charts) -> String {
    charts.payload().to_string().replace('<', "\\u003c")
}

/// What the page is called: by the run, or by the folder of the model that was measured.
fn title(manifest: &Manifest) -> String {
    let name = manifest.config["name"].as_str().unwrap_or_default();
    let folder = manifest.from.as_ref().filter(|_| manifest.kind == RunKind::Measurement);
    match folder.and_then(|folder| folder.file_name()) {
        Some(folder) if name.is_empty() => folder.to_string_lossy().into_owned(),
        _ if name.is_empty() => "run".to_owned(),
        _ => name.to_owned(),
    }
}

/// The configuration without what a measurement has no use for.
fn configuration(manifest: &Manifest) -> serde_json::Value {
    let mut config = manifest.config.clone();
    if let (RunKind::Measurement, Some(keys)) = (manifest.kind, config.as_object_mut()) {
        ["steps", "optimizer", "schedule", "precision", "loss_scale", "checkpoint"].iter().for_each(|key| {
            keys.remove(*key);
        });
    }
    config
}

fn status(manifest: &Manifest, last_step: i64) -> String {
    if manifest.kind == RunKind::Measurement {
        let from = manifest.from.as_ref().map(|from| format!(": {}", from.display())).unwrap_or_default();
        let state = if manifest.status == Status::Finished { "" } else { ", not to the end" };
        return format!("a model as it stands, measured once{state}{from}");
    }
    let status = match manifest.status {
        Status::Finished => "finished",
        Status::Interrupted => "interrupted",
        Status::Running => "under way (or killed)",
    };
    format!("{status}, measured up to step {last_step} of {}", manifest.config["steps"])
}

/// What was run on what, as rows of a table.
fn facts(manifest: &Manifest) -> Vec<(String, String)> {
    let config = &manifest.config;
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let task = config["task"].as_object().map_or_else(String::new, |task| {
        task.iter().map(|(key, value)| format!("{key} {}", text(value))).collect::<Vec<_>>().join(", ")
    });
    let model = &config["model"];
    let mlp = if model["attn_only"] == json!(true) {
        "attention only".to_owned()
    } else {
        format!("d_mlp {}, {}", model["d_mlp"], text(&model["act_fn"]))
    };
    let architecture = format!(
        "{} layer(s), d_model {}, {} heads of {}, {mlp}, norm {}, positions {}",
        model["n_layers"],
        model["d_model"],
        model["n_heads"],
        model["d_head"],
        text(&model["normalization_type"]),
        text(&model["positional_embedding_type"]),
    );
    let optimizer = &config["optimizer"];
    let training = format!(
        "{}, learning rate {}, weight decay {}, betas {}, batch {}, warm-up {} steps, {} schedule",
        text(&optimizer["kind"]),
        optimizer["learning_rate"],
        optimizer["weight_decay"],
        optimizer["betas"],
        text(&config["batch"]["size"]),
        config["schedule"]["warmup"],
        text(&config["schedule"]["kind"]),
    );
    let adapter = &manifest.adapter;
    let measured = manifest.kind == RunKind::Measurement;
    let seed = text(&config["seed"]);
    let rows = [
        (if measured { "Measured on" } else { "Task" }, task),
        ("Model", architecture),
        ("Training", if measured { String::new() } else { training }),
        (
            if measured { "Models in the folder, seed of the split" } else { "Replicas and seed" },
            format!("{}, {}{seed}", config["replicas"], if measured { "" } else { "from seed " }),
        ),
        ("Replicas by name", names(manifest).join(", ")),
        (
            if measured { "Model from" } else { "Weights from" },
            manifest.from.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        ),
        (
            "Adapter",
            format!(
                "{} ({}), {}, {}",
                text(&adapter["name"]),
                text(&adapter["backend"]),
                text(&adapter["kind"]),
                text(&adapter["driver"])
            ),
        ),
        (
            "Time",
            format!(
                "{} to {}, {:.0} s",
                manifest.started,
                manifest.stopped.as_deref().unwrap_or("now"),
                manifest.seconds
            ),
        ),
        ("Measuring", manifest.measuring.as_ref().map_or_else(String::new, |measuring| text(&measuring["summary"]))),
        ("Program", format!("thermoscope {}", manifest.version)),
        ("Configuration hash", manifest.hash.clone()),
    ];
    rows.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), value)).collect()
}
