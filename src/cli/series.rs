//! `thermoscope scan` of one model at several steps of its training.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::progress::Ticker;
use super::scan::{Args, Asked, Done, Kind, absolute, finished, scan, stop};
use super::{complain, goes_on, print};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::{ModelConfig, ModelFolder};
use crate::record::{GoesOn, Manifest, RunDir, RunKind, Status};
use crate::scan::{Member, Prompts, Series, catalog, write_series_page};

/// Whether these models are a series: several, or a run.
pub(super) fn is_one(models: &[PathBuf]) -> Result<bool> {
    match models {
        [run] if run.join("run.json").exists() => Ok(RunDir::read_manifest(run)?.kind == RunKind::Run),
        _ => Ok(models.len() > 1),
    }
}

pub(super) fn main(args: &Args, before: Option<Manifest>) -> Result<u8> {
    let out = &args.out;
    let (asked, members, config) = match &before {
        Some(Manifest { status: Status::Finished, .. }) => {
            print(&format!("{} is finished", out.display()));
            let series = Series::read(out)?;
            if let (Some(series), false) = (&series, out.join("report.html").exists()) {
                write_series_page(out, series)?;
            }
            series.iter().flat_map(Series::sentences).for_each(|sentence| print(&sentence));
            return Ok(0);
        }
        Some(manifest) => {
            manifest.check_files()?;
            let (asked, members) = (Asked::again(out, manifest)?, Series::members(out, manifest)?);
            let first: &Member =
                members.first().ok_or_else(|| Error::format(out.join("run.json"), "names no model"))?;
            let config = ModelFolder::read(&first.model[0])?.config;
            (asked, members, config)
        }
        None => {
            RunDir::check_free(out)?;
            begin(args)?
        }
    };
    let stop = stop()?;
    let gpu = args.device.open()?;
    let mut dir = match before {
        None => create(out, &asked, &members, &config, &gpu)?,
        Some(_) => {
            let GoesOn { dir, moved, .. } = RunDir::go_on(out, &config, gpu.caps(), None)?;
            moved.iter().for_each(super::warn);
            dir
        }
    };
    let began = Instant::now();
    let wanted: Vec<&Member> = members.iter().filter(|member| member.left_out.is_none()).collect();
    let (mut stopped, mut scanned) = (false, 0);
    for (number, member) in wanted.iter().enumerate() {
        let place = out.join(member.folder());
        let manifest = if place.join("run.json").exists() { Some(RunDir::read_manifest(&place)?) } else { None };
        if finished(&place, manifest.as_ref())?.is_some() {
            continue;
        }
        let of = asked.at(&member.model, member.replica);
        let Done { findings, stopped: now, .. } = scan(of, &place, manifest, || Ok(gpu.clone()), &stop, Some(member))?;
        // Also where a signal came behind its last layer.
        stopped = now || stop.code().is_some() && number + 1 < wanted.len();
        scanned += 1;
        if !now {
            let left = (wanted.len() - number - 1) as f64 * began.elapsed().as_secs_f64() / f64::from(scanned);
            let left = humantime::format_duration(Duration::from_secs(left as u64));
            let marked = findings.marked().filter(|effect| effect.head.is_some()).count();
            complain(&format!("{} is scanned, {marked} heads marked; {left} left", member.name()));
        }
        if stopped {
            break;
        }
    }
    let series = Series::read(out)?.ok_or_else(|| Error::format(out.join("run.json"), "is no series any more"))?;
    series.write(&mut dir)?;
    let last = members.last().map_or(0, |member| member.step);
    dir.end(stopped, last)?;
    let page = write_series_page(out, &series)?;
    series.sentences().iter().for_each(|sentence| print(sentence));
    let seconds = Duration::from_secs(began.elapsed().as_secs());
    print(&format!("{} in {}", page.display(), humantime::format_duration(seconds)));
    if stopped {
        print(&goes_on("scan", out));
    }
    Ok(stop.code().filter(|_| stopped).unwrap_or(0))
}

fn create(out: &Path, asked: &Asked, members: &[Member], config: &ModelConfig, gpu: &Gpu) -> Result<RunDir> {
    let described = serde_json::json!({ "members": members, "asked": asked });
    let manifest = Manifest::new(described, BTreeMap::new(), gpu.caps(), None);
    let manifest = manifest.of_kind(RunKind::Series).knowing(&asked.files()?)?;
    RunDir::create(out, manifest, &catalog(config.d_vocab_out))
}

/// Reads every model once, so that what cannot be scanned is told before anything is.
fn begin(args: &Args) -> Result<(Asked, Vec<Member>, ModelConfig)> {
    let asked = Asked::of(args)?;
    if asked.has(Kind::Patch) || asked.has(Kind::Paths) {
        return Err(Error::Config(
            "--battery patch and paths are about what a model tells apart, and early in training it tells nothing apart: scan one model, or take heads, mlps, pairs or sets over training"
                .to_owned(),
        ));
    }
    let models = models(&args.models)?;
    let ticker = Ticker::start("reading the models");
    let mut first: Option<(PathBuf, ModelConfig, usize, Prompts)> = None;
    let mut members: Vec<Member> = Vec::new();
    for (step, path) in models {
        let folder = ModelFolder::read(&path)?;
        let prompts =
            Prompts::read(&asked.probes, &path, [folder.config.d_vocab, folder.config.d_vocab_out], args.first, false)?;
        let replicas = folder.replicas.len();
        let (other, config, count, read) =
            first.get_or_insert_with(|| (path.clone(), folder.config.clone(), replicas, prompts.clone()));
        let differs = match () {
            () if *config != folder.config => "its configuration",
            () if *count != replicas => "the number of its replicas",
            () if *read != prompts => "the tokens of the prompts",
            () => "",
        };
        if !differs.is_empty() {
            return Err(Error::Refused(format!(
                "{} and {} differ in more than their weights, in {differs}: a series is of one model at several steps",
                path.display(),
                other.display()
            )));
        }
        let place = [absolute(&path)?, path];
        for (replica, weights) in folder.replicas.into_iter().enumerate() {
            let mut member = Member::new([step, replica as u64], place.clone(), &weights, &members);
            let alone = ModelFolder { config: folder.config.clone(), replicas: vec![weights] };
            if let Some(name) = alone.not_finite() {
                member.left_out = Some(format!("{name} holds values that are no finite numbers"));
            }
            if let Some(why) = &member.left_out {
                complain(&format!("warning: {} is left out: {why}", member.name()));
            }
            members.push(member);
        }
    }
    ticker.stop();
    match first {
        Some((_, config, ..)) if members.iter().any(|member| member.left_out.is_none()) => {
            print(&format!("{} scans of {} steps", members.len(), members.chunk_by(|a, b| a.step == b.step).count()));
            Ok((asked.at(&members[0].model, 0), members, config))
        }
        _ => Err(Error::Refused("all models of the series are left out: there is nothing to scan".to_owned())),
    }
}

/// Model folders by step, in order.
fn models(given: &[PathBuf]) -> Result<Vec<(u64, PathBuf)>> {
    if let [run] = given {
        let found = RunDir::checkpoints(run)?;
        return match found.is_empty() {
            true => Err(Error::Refused(format!("{} has no checkpoint yet", run.display()))),
            false => Ok(found),
        };
    }
    let mut all = given.iter().map(|path| at_step(path)).collect::<Result<Vec<_>>>()?;
    all.sort();
    if let Some([(step, one), (_, other)]) = all.windows(2).find(|two| two[0].0 == two[1].0) {
        return Err(Error::Config(format!(
            "{} and {} are both of step {step}: name each step once",
            one.display(),
            other.display()
        )));
    }
    Ok(all)
}

/// A folder with the step that it is of: that before a `=`, or behind `step` at the end of its name.
fn at_step(path: &Path) -> Result<(u64, PathBuf)> {
    let text = path.to_string_lossy();
    if let Some((step, folder)) = text.split_once('=')
        && let Ok(step) = step.parse()
    {
        return Ok((step, folder.into()));
    }
    let name = text.trim_end_matches(['/', '\\']);
    let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let before = name[..digits].trim_end_matches(['-', '_']);
    match name[digits..].parse() {
        Ok(step) if before.ends_with("step") => Ok((step, path.to_owned())),
        _ => Err(Error::Config(format!(
            "{}: of which step is it? Its name does not end as step-1000 does; write 1000={}",
            path.display(),
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_its_step_or_is_told() {
        for (text, step, folder) in [
            ("pythia/step1000", 1000, "pythia/step1000"),
            ("run/checkpoints/step-000200/", 200, "run/checkpoints/step-000200/"),
            ("my_step_7", 7, "my_step_7"),
            ("12=a=b", 12, "a=b"),
        ] {
            assert_eq!(at_step(Path::new(text)).unwrap(), (step, PathBuf::from(folder)));
        }
        for text in ["gpt2", "v12", "step", "x=step", "step12b"] {
            let error = at_step(Path::new(text)).unwrap_err().to_string();
            assert!(error.contains("of which step"), "{text}: {error}");
        }
        let error = models(&["5=a", "b-step5"].map(PathBuf::from)).unwrap_err().to_string();
        assert!(error.contains("both of step 5"), "{error}");
    }
}
