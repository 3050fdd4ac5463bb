//! One self-contained HTML file about a study.

use std::path::{Path, PathBuf};

use minijinja::{Environment, Value, context};

use super::effects::{Asked, Curve};
use super::findings::{Behind, Findings};
use super::plot;
use crate::error::{Error, Result};
use crate::files;

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
    let seeds = plan.seeds.iter().filter(|seed| seed.trunk == 0).count();
    let notes = findings.notes();
    let (warnings, notes): (Vec<String>, Vec<String>) = notes.into_iter().partition(|note| note.starts_with("Warning"));
    let page = template
        .render(context! {
            name => if study.name.is_empty() { "Windows" } else { study.name.as_str() },
            description => &study.description,
            run => &study.run,
            seeds,
            times => plan.times.len(),
            first => plan.times.first(),
            last => plan.times.last(),
            steps => plan.steps,
            kinds => findings.curves.iter().filter(|curve| curve.trunk == 0).map(|curve| curve.kind).collect::<std::collections::BTreeSet<_>>().len(),
            runs => plan.batches.iter().map(|batch| batch.arms.len()).sum::<usize>(),
            whole => findings.is_whole(),
            rate => study.rate,
            verdict => findings.verdict(),
            warnings,
            notes,
            main => findings.main().map(|curve| panel(findings, curve)).collect::<Vec<_>>(),
            others => findings.others().map(|curve| panel(findings, curve)).collect::<Vec<_>>(),
            events => events(findings),
            left => left(findings),
            damage => &study.damage,
            legend => context! { window => "#f59e0b", effect => "#fde8c4", chance => "#e2e8f0" },
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
        let groups = came.groups.iter().zip(plot::colours(came)).map(|(left, colour)| {
            let mean = left.mean.map_or_else(
                || "not watched so long".to_owned(),
                |[mean, error]| match error.is_finite() {
                    true => format!("{mean:.0} ± {error:.0}"),
                    false => format!("{mean:.0}"),
                },
            );
            context! { name => &left.name, colour, runs => left.runs, came => left.came, mean }
        });
        context! {
            svg => Value::from_safe_string(plot::survival(came, curve.asked.name())),
            groups => groups.collect::<Vec<_>>(),
            until => came.until,
            log_rank => came.log_rank.map(|p| if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }),
        }
    });
    context! {
        kind => &findings.kinds[curve.kind],
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
    let own = findings.plan.seeds.iter().zip(&findings.trunks).filter(|(seed, _)| seed.trunk == curve.trunk);
    let own: Vec<_> = own.map(|(_, events)| events).collect();
    let names = findings.study.event_names();
    let middle = |at: usize| {
        let known: Vec<f64> = own.iter().filter_map(|events| events[at]?.began()).map(|step| step as f64).collect();
        // Of fewer than half of the seeds there is none.
        (2 * known.len() > own.len()).then(|| crate::stats::median(known))
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
            damage => plot::signed(&Asked::Last(String::new()), behind.damage.unwrap_or(0.0)),
            half_life => behind.half_life.map_or_else(|| if behind.damage.is_some() { "not" } else { "" }.to_owned(), |life| format!("{life:.0}")),
            permanent => number(behind.permanent, 2),
        }
    };
    findings.left.iter().filter(|behind| behind.trunk == 0).map(row).collect()
}
