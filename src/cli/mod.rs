//! The command line: arguments, progress and exit codes, and nothing else.
//!
//! Exit codes: 0 done, 1 the device failed, 2 an error with a message that says what to do, 130, 143 and 129 stopped by
//! Ctrl-C, SIGTERM and SIGHUP after saving a checkpoint.

mod adapters;
mod bench;
mod compare;
mod curvature;
mod device;
mod export;
mod fork;
mod instruments;
mod measure;
mod presets;
mod progress;
mod report;
mod run;
mod runs;
mod scan;
mod series;
mod stop;
mod windows;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::error::{Error, Result};
use crate::record::{Manifest, RunDir, RunKind};

/// Trains small transformers and measures their circuits inside the training step, on the GPU.
#[derive(Parser)]
#[command(name = "thermoscope", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  thermoscope run grok-quick         train until it groks, and leave a report
  thermoscope run grok --set optimizer.weight_decay=0.3 --out runs/decay03
  thermoscope run --resume --out runs/decay03          go on after Ctrl-C
  thermoscope fork runs/decay03 --at 2000 --arms arms.toml --out runs/forked
  thermoscope windows STUDY.toml --out studies/mine    when does it matter?
  thermoscope compare runs/decay03 runs/forked
  thermoscope measure my-model --config task.toml --out measured
  thermoscope curvature runs/decay03/checkpoints/step-020000 --out curved
  thermoscope scan my-gpt2 --probes probes/facts.jsonl --out scans/facts
  thermoscope export runs/mine/checkpoints/step-020000 --out mine-hf
  thermoscope adapters --check       which GPUs compute right";

#[derive(Subcommand)]
enum Command {
    /// Train a preset or a configuration file, measuring as it goes
    Run(run::Args),
    /// Go on from a step of a run in several arms, bit for bit, each with interventions of its own
    Fork(fork::Args),
    /// Disturb a run at many times, and see when that matters
    Windows(windows::Args),
    /// Put runs beside each other: when what happened, in which arm, and what that supports
    Compare(compare::Args),
    /// Measure a saved model once, without training it
    Measure(measure::Args),
    /// Find eigenvalues, trace and spectrum of a saved model's loss, by exact products with its Hessian
    Curvature(curvature::Args),
    /// Write a model as Hugging Face's transformers or TransformerLens keeps it
    Export(export::Args),
    /// Ablate every head and MLP block of a pretrained model on a set of prompts, once or over its training
    Scan(scan::Args),
    /// Make the HTML report of a run
    Report(report::Args),
    /// List the runs in a folder: state, steps, last numbers
    Runs(runs::Args),
    /// List the GPUs and what they can do
    Adapters(adapters::Args),
    /// Time steps, kernels, replicas and the encoder on an adapter
    Bench(bench::Args),
    /// List what is measured: formulas, units, costs, sources
    Instruments(instruments::Args),
    /// List the presets, or print one as a configuration file to start from
    Presets(presets::Args),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line.
pub fn main() -> ExitCode {
    // wgpu panics where a device is lost while it is waited for. That becomes an error, and is told as one.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if crate::gpu::of_poll(info.payload()).is_none() {
            usual(info);
        }
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap prints them to standard output.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let goes_on = match cli.command {
        Command::Run(_) | Command::Fork(_) => going_on(RunKind::Run),
        Command::Windows(_) => going_on(RunKind::Study),
        Command::Scan(_) => going_on(RunKind::Scan),
        _ => None,
    };
    let done = match cli.command {
        Command::Run(args) => run::main(&args),
        Command::Fork(args) => fork::main(&args),
        Command::Windows(args) => windows::main(&args),
        Command::Compare(args) => compare::main(&args).map(|()| 0),
        Command::Measure(args) => measure::main(&args).map(|()| 0),
        Command::Curvature(args) => curvature::main(&args),
        Command::Export(args) => export::main(&args).map(|()| 0),
        Command::Scan(args) => scan::main(&args),
        Command::Report(args) => report::main(&args).map(|()| 0),
        Command::Runs(args) => runs::main(&args).map(|()| 0),
        Command::Adapters(args) => adapters::main(&args).map(|()| 0),
        Command::Bench(args) => bench::main(&args).map(|()| 0),
        Command::Instruments(args) => instruments::main(&args).map(|()| 0),
        Command::Presets(args) => presets::main(&args).map(|()| 0),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "thermoscope", &mut script);
            print(String::from_utf8_lossy(&script).trim_end());
            Ok(0)
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&format!("error: {error}"));
            advice(&error, goes_on).iter().for_each(|words| complain(words));
            // Where a device failed, nothing that was asked for is wrong.
            ExitCode::from(if matches!(error, Error::Device(_)) { 1 } else { 2 })
        }
    }
}

/// Tells of an event that is a warning.
fn warn(event: &crate::record::Event) {
    complain(&format!("warning: {}", event.text()));
}

/// The command that goes on with what was cut off in a directory, if one does.
fn going_on(kind: RunKind) -> Option<&'static str> {
    match kind {
        RunKind::Run => Some("run"),
        RunKind::Scan | RunKind::Series => Some("scan"),
        RunKind::Study => Some("windows"),
        RunKind::Measurement => None,
    }
}

/// How what was stopped goes on, by the program as it was called.
fn goes_on(command: &str, out: &std::path::Path) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "thermoscope".to_owned());
    format!("go on with: {program} {command} --resume --out '{}'", out.display())
}

/// Fails where a directory goes on by another command than that of a kind, and says which.
fn must_go_on_as(manifest: &Manifest, out: &std::path::Path, kind: RunKind) -> Result<()> {
    let own = going_on(manifest.kind);
    if own == going_on(kind) {
        return Ok(());
    }
    let what = own.map_or_else(
        || {
            "and there is nothing to go on with. To train a model on: thermoscope run PRESET|FILE.toml --from MODEL_DIR"
                .to_owned()
        },
        |command| format!("which goes on by `thermoscope {command} --resume --out DIR`"),
    );
    Err(Error::Refused(format!("{} holds {}, {what}", out.display(), manifest.kind.words())))
}

/// Numbers from 1 on.
fn at_least_one() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

/// What the command line can do about an error, where that is more than the library says; `command` is the one that goes on with
/// what was cut off.
fn advice(error: &Error, command: Option<&str>) -> Option<String> {
    let what = match error {
        Error::UnknownAdapter { .. } => {
            return Some("--adapter takes one of these indexes, or part of a name".to_owned());
        }
        Error::Device(_) => "`thermoscope adapters --check` shows whether this adapter works",
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => "Free some space",
        Error::Occupied { .. } => "Name another folder by --out",
        _ => return None,
    };
    let on =
        command.map(|command| format!("; what was not finished goes on by `thermoscope {command} --resume --out DIR`"));
    Some(what.to_owned() + &on.unwrap_or_default())
}

/// Prints to standard output. A reader that has gone away is no error; a full disk is.
fn print(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        complain(&format!("error: cannot write to standard output: {error}"));
        std::process::exit(2);
    }
}

/// An error that says that a configuration leaves nothing to measure.
fn nothing_measured(config: &crate::train::ResolvedRun) -> Error {
    let measure = &config.measure;
    let lists = [("measure.only", &measure.only), ("measure.off", &measure.off)];
    let lists: Vec<String> =
        lists.iter().filter(|(_, list)| !list.is_empty()).map(|(key, list)| format!("{key} = {list:?}")).collect();
    let with = if lists.is_empty() { String::new() } else { format!(", with {}", lists.join(" and ")) };
    Error::Config(format!("nothing is left to measure of what this model and task have{with}"))
}

/// Reads a model folder; of a run directory, says which of its folders is one.
fn read_model(path: &std::path::Path) -> Result<crate::model::ModelFolder> {
    read_replica(path, None)
}

/// The same of one replica alone, if it is said of which.
fn read_replica(path: &std::path::Path, replica: Option<u32>) -> Result<crate::model::ModelFolder> {
    if path.join("run.json").exists() {
        let (here, kind) = (path.display(), RunDir::read_manifest(path)?.kind);
        return Err(Error::Refused(match kind {
            RunKind::Run => {
                format!("{here} is a run, not a model; name one of its checkpoints, {here}/checkpoints/step-...")
            }
            kind => format!("{here} holds {}, not a model; name the folder of the model", kind.words()),
        }));
    }
    let mut folder = crate::model::ModelFolder::read(path)?;
    if let Some(replica) = replica {
        let there = folder.replicas.len();
        let alone = folder.replicas.into_iter().nth(replica as usize);
        folder.replicas = vec![alone.ok_or_else(|| {
            Error::Refused(format!("{}: there is no replica {replica} among {there}", path.display()))
        })?];
    }
    // Half of what is measured of such weights would look like numbers.
    match folder.not_finite() {
        Some(name) => Err(Error::Refused(format!(
            "{}: tensor {name} holds values that are no finite numbers; a run that diverged? Take an earlier checkpoint",
            path.display()
        ))),
        None => Ok(folder),
    }
}

/// Prints to standard error; a reader that has gone away is no error.
fn complain(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// `runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3`, ... that does not exist.
fn fresh_dir(name: &str) -> PathBuf {
    let name: String = name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let name = if name.is_empty() { "run".to_owned() } else { name };
    let numbered = |n: u32| PathBuf::from("runs").join(if n == 1 { name.clone() } else { format!("{name}-{n}") });
    (1..).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| numbered(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_the_examples_is_broken_on_a_usual_terminal() {
        let mut all = vec![Cli::command()];
        all.extend(all[0].clone().get_subcommands().cloned());
        for command in all {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn commands_that_open_no_device_take_none() {
        let takes =
            |words: &[&str]| Cli::try_parse_from([&["thermoscope"][..], words, &["--adapter", "0"]].concat()).is_ok();
        for words in [&["run", "grok"][..], &["adapters"], &["bench", "step"], &["instruments", "--measure", "grok"]] {
            assert!(takes(words), "{words:?}");
        }
        for words in [&["export", "m", "--out", "o"][..], &["report", "r"], &["presets"], &["completions", "bash"]] {
            assert!(!takes(words), "{words:?}");
        }
    }
}
