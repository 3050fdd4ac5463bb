//! `thermoscope report`

use std::path::{Path, PathBuf};

use super::print;
use crate::error::{Error, Result};
use crate::record::{RunDir, RunKind};
use crate::scan::{Findings, Series, write_page, write_series_page};
use crate::study::Kept;

#[derive(clap::Args)]
pub(super) struct Args {
    /// A run directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Open it in the browser
    #[arg(long)]
    open: bool,
}

/// Writes `report.html` into a run directory, and says what happened and where the page is.
pub(super) fn write(dir: &Path) -> Result<PathBuf> {
    let report = crate::report::write(dir)?;
    for arm in &report.arms {
        if report.replicas > 1 {
            let none = arm.none();
            print(&format!("{}{}{none}", arm.name, if none.is_empty() { "" } else { ": " }));
        }
        for phase in &arm.phases {
            print(&format!("{:14} {:18} {}", phase.name, phase.onset.words(), phase.meaning));
        }
    }
    print(&format!("report: {}", report.page.display()));
    Ok(report.page)
}

fn of_scan(sentences: &[String], page: PathBuf) -> PathBuf {
    sentences.iter().for_each(|sentence| print(sentence));
    print(&format!("report: {}", page.display()));
    page
}

pub(super) fn main(args: &Args) -> Result<()> {
    let dir = &args.dir;
    let nothing = || {
        Error::Refused(format!("{}: the scan was stopped before its first layer; nothing is found yet", dir.display()))
    };
    let page = match RunDir::read_manifest(dir)?.kind {
        RunKind::Study => super::windows::tell(dir, &Kept::read(dir)?.0.findings(dir)?)?,
        RunKind::Scan => {
            let findings = Findings::read(dir)?.ok_or_else(nothing)?;
            of_scan(&findings.sentences(), write_page(dir, &findings)?)
        }
        RunKind::Series => {
            let series = Series::read(dir)?.ok_or_else(nothing)?;
            of_scan(&series.sentences(), write_series_page(dir, &series)?)
        }
        RunKind::Run | RunKind::Measurement => write(dir)?,
    };
    if args.open {
        let full = std::path::absolute(&page).map_err(Error::io("cannot find", &page))?;
        webbrowser::open(&format!("file://{}", full.display())).map_err(|error| {
            Error::Unsupported(format!("no browser could be opened ({error}); open {} yourself", page.display()))
        })?;
    }
    Ok(())
}
