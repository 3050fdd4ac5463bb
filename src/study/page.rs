//! One self-contained HTML file about a study.

use std::path::{Path, PathBuf};

use minijinja::{Environment, Value, context};

use super::effects::Curve;
use super::findings::{Behind, Findings};
use super::plot;
use crate::error::{Error, Result};
use crate::files;
use crate::stats::{Survival, Time};

const PAGE: &str = include_str!("page.html");

/// Writes `report.html` of a study into its directory.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn write(dir: &Path, findings: &Findings) -> Result<PathBuf> {
    let fail = |error: minijinja::Error| Error::Unsupported(format!("the page's template: {error}"));
    let mut environment = Environment::new();
    environment.add_template("page.html", PAGE).map_err(fail)?;
    let template = environment.get_template("page.html").map_err(fail)?;
    let (study, plan) = (&findings.study, &findings.plan);
    let notes = findings.notes();
    let (warnings, notes): (Vec<String>, Vec<String>) = notes.into_iter().partition(|note| note.starts_with("Warning"));
    let page = template
        .render(context! {
            name => if study.name.is_empty() { "Windows" } else { study.name.as_str() },
            description => &study.description,
            run => &study.run,
            seeds => plan.of_trunk(0).len(),
            times => plan.times.len(),
            first => plan.times.first(),
            last => plan.times.last(),
            steps => plan.steps,
            kinds => findings.curves.iter().filter(|curve| curve.trunk == 0).map(|curve| curve.kind).collect::<std::collections::BTreeSet<_>>().len(),
            runs => plan.batches.iter().map(|batch| batch.arms.len()).sum::<usize>(),
            rate => study.rate,
            verdict => findings.verdict(),
            warnings,
            notes,
            main => findings.main().map(|curve| panel(findings, curve)).collect::<Vec<_>>(),
            others => findings.others().map(|curve| panel(findings, curve)).collect::<Vec<_>>(),
            events => events(findings),
            left => left(findings),
            damage => &study.damage,
            legend => context! { window => plot::WINDOW, effect => plot::EFFECT, chance => plot::CHANCE },
        })
        .map_err(fail)?;
    let path = dir.join("report.html");
    files::write_whole(&path, page.as_bytes())?;
    Ok(path)
}

/// A curve with its words, and how its runs came to the event.
fn panel(findings: &Findings, curve: &Curve) -> Value {
    let trunk = match curve.trunk {
        0 => String::new(),
        other => format!(" in {}", findings.plan.trunks[other]),
    };
    let title = format!("{}: {}{trunk}", findings.kinds[curve.kind], curve.asked.name());
    let survival = curve.survival.as_ref().map(|came| {
        let groups = came.groups.iter().map(|left| {
            let mean = left.mean.map_or_else(
                || "not watched so long".to_owned(),
                |[mean, error]| match error.is_finite() {
                    true => format!("{mean:.0} ± {error:.0}"),
                    false => format!("{mean:.0}"),
                },
            );
            context! { name => &left.name, colour => plot::GROUPS[left.whose], runs => left.runs, came => left.came, mean }
        });
        context! {
            svg => Value::from_safe_string(plot::survival(came, curve.asked.name())),
            groups => groups.collect::<Vec<_>>(),
            until => came.until,
            log_rank => came.log_rank.map(|p| if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }),
        }
    });
    context! {
        title => &title,
        window => !curve.windows.is_empty(),
        effect => !curve.effective.is_empty(),
        svg => Value::from_safe_string(plot::curve(curve, &title, findings.study.rate, &marks(findings, curve))),
        says => findings.says(curve),
        against => findings.against(curve),
        survival,
    }
}

/// The middle of the steps at which the trunk's seeds came to each event.
fn marks(findings: &Findings, curve: &Curve) -> Vec<(String, f64)> {
    let own = findings.plan.of_trunk(curve.trunk);
    let names = findings.study.event_names();
    let middle = |at: usize| {
        let times: Vec<Time> = own.iter().filter_map(|seed| findings.trunks[*seed][at]).map(Time::from).collect();
        // Of fewer than half of the seeds there is none.
        Survival::of(&times).ok()?.median()
    };
    names.iter().enumerate().filter_map(|(at, name)| Some((name.clone(), middle(at)?))).collect()
}

/// When each event came in each undisturbed seed.
fn events(findings: &Findings) -> Value {
    let rows = findings.plan.seeds.iter().zip(&findings.trunks).map(|(seed, events)| {
        let words =
            |onset: &Option<crate::stats::Onset>| onset.map_or_else(|| "not seen".to_owned(), |onset| onset.words());
        context! {
            trunk => &findings.plan.trunks[seed.trunk],
            seed => seed.number,
            events => events.iter().map(words).collect::<Vec<_>>(),
        }
    });
    context! { names => findings.study.event_names(), rows => rows.collect::<Vec<_>>() }
}

/// What pulses left behind, in the plain trunk.
fn left(findings: &Findings) -> Vec<Value> {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}").replace('-', "\u{2212}"))
    };
    let row = |behind: &Behind| {
        context! {
            kind => &findings.kinds[behind.kind],
            time => behind.time,
            distance => number(Some(behind.distance), 3),
            keys => number(behind.keys, 2),
            damage => behind.damage.map_or_else(String::new, |damage| format!("{damage:+.3}").replace('-', "\u{2212}")),
            half_life => behind.half_life.map_or_else(|| if behind.damage.is_some() { "not" } else { "" }.to_owned(), |life| format!("{life:.0}")),
            permanent => number(behind.permanent, 2),
        }
    };
    findings.left.iter().filter(|behind| behind.trunk == 0).map(row).collect()
}
