//! `thermoscope compare`

use std::path::PathBuf;

use super::print;
use crate::error::Result;
use crate::report::{Asked, compare};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope compare runs/grok runs/forked          a trunk and its fork
  thermoscope compare runs/arms                      the arms of one run
  thermoscope compare runs/a runs/b --metric loss.test --metric fsd@L0
  thermoscope compare runs/a runs/b --lag fsd@L0 accuracy.test
  thermoscope compare runs/a runs/b --json | jq .events

Replicas that differ in nothing but their seeds are one arm. Arms are tested
against each other where they began together: at the same step of a fork, or at
the beginning. The first is that of a sham, or the main one.

The page has the dates of events in each replica, survival curves with
restricted means and log-rank tests, which event comes first with sign tests
and a null within runs, rises and change points of curves with intervals, lags
of the pairs asked for, and the curves of all arms over each other.")]
pub(super) struct Args {
    /// Run directories
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// A curve to draw and to look for rises and jumps in: METRIC, or METRIC@PLACE where it has several, as the report calls
    /// them; may be given many times. Default: a few that all runs have
    #[arg(long = "metric", value_name = "METRIC")]
    metrics: Vec<String>,
    /// Two curves of which to say which moves first; may be given many times
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"], action = clap::ArgAction::Append)]
    lag: Vec<String>,
    /// Print the numbers as JSON, instead of words
    #[arg(long)]
    json: bool,
    /// The page to write
    #[arg(long, value_name = "PAGE.html", default_value = "compare.html")]
    out: PathBuf,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let lags = args.lag.chunks_exact(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect();
    let comparison = compare(&args.dirs, &Asked { metrics: args.metrics.clone(), lags })?;
    comparison.write(&args.out)?;
    if args.json {
        print(&comparison.json()?);
    } else {
        comparison.sentences().into_iter().for_each(print);
        print(&format!("page: {}", args.out.display()));
    }
    Ok(())
}
