//! One self-contained HTML file about a series of scans.

use std::path::{Path, PathBuf};

use minijinja::{Value, context};

use super::findings::{Effect, Findings, Mean};
use super::maps;
use super::page::render;
use super::series::{Member, Series};
use super::words::plus_minus;
use crate::error::Result;
use crate::intervene::column::{CORRECT, LOGIT_DIFFERENCE};
use crate::record::{Event, What};

const PAGE: &str = include_str!("series.html");
/// Lines of a chart of heads.
const LINES: usize = 8;
/// Width and height of a chart without its margins, and these: left, top, right and below.
const PLOT: [f64; 2] = [760.0, 240.0];
const MARGINS: [f64; 4] = [64.0, 12.0, 110.0, 26.0];
/// Colours that are told apart without red and green (Okabe and Ito).
const COLOURS: [&str; LINES] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#444444"];

/// Writes `report.html` of a series into its run directory.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) where it cannot be written.
pub fn write(run: &Path, series: &Series) -> Result<PathBuf> {
    let replicas: Vec<Value> =
        series.replicas().into_iter().filter_map(|replica| of_replica(series, replica)).collect();
    let setting = series.whole().next().map(|(_, findings)| &findings.setting);
    let content = context! {
        probes => setting.map(|setting| setting.probes.clone()),
        count => setting.map(|setting| setting.count.to_vec()),
        baseline => setting.map(|setting| setting.baseline.clone()),
        draws => setting.map(|setting| setting.draws),
        done => series.whole().count(),
        wanted => series.wanted(),
        sentences => series.sentences(),
        several => replicas.len() > 1,
        replicas,
        turns => series.turns().iter().map(turn).collect::<Vec<_>>(),
        members => series.members.iter().zip(&series.scans).map(|(m, found)| member(m, found.as_ref())).collect::<Vec<_>>(),
    };
    render(run, PAGE, &content)
}

/// The charts and maps of a replica, if any of its scans is whole.
fn of_replica(series: &Series, replica: u32) -> Option<Value> {
    let of: Vec<(u64, &Findings)> =
        series.whole().filter(|(m, _)| m.replica == replica).map(|(m, found)| (m.step, found)).collect();
    if of.is_empty() {
        return None;
    }
    let clean = of.iter().map(|(_, found)| Some(found.clean[LOGIT_DIFFERENCE])).collect();
    let map = |heads: bool| {
        let (map, all) = maps::over_steps(&of, heads)?;
        Some(context! { map, all })
    };
    Some(context! {
        number => replica,
        clean => chart(&of, vec![("clean".to_owned(), clean)]),
        lines => greatest(&of).map(|lines| chart(&of, lines)),
        heads => map(true),
        blocks => map(false),
    })
}

/// The heads, or where there are none the MLP blocks, of the greatest effects at any step, with their effect at every step.
fn greatest(scans: &[(u64, &Findings)]) -> Option<Vec<(String, Vec<Option<Mean>>)>> {
    let heads = scans.iter().any(|(_, found)| found.effects.iter().any(|effect| effect.head.is_some()));
    let mut names: Vec<(String, f64)> = Vec::new();
    for effect in scans.iter().flat_map(|(_, found)| &found.effects).filter(|effect| effect.head.is_some() == heads) {
        let (name, size) = (effect.name(), effect.logit_difference().mean.abs());
        match names.iter_mut().find(|(known, _)| *known == name) {
            Some((_, greatest)) => *greatest = greatest.max(size),
            None => names.push((name, size)),
        }
    }
    names.sort_by(|a, b| b.1.total_cmp(&a.1));
    names.truncate(LINES);
    let of = |name: &str, found: &Findings| {
        found.effects.iter().find(|effect| effect.name() == name).map(Effect::logit_difference)
    };
    let line = |(name, _): (String, f64)| {
        let values = scans.iter().map(|(_, found)| of(&name, found)).collect();
        (name, values)
    };
    (!names.is_empty()).then(|| names.into_iter().map(line).collect())
}

/// Numbers with their errors by step; steps stand side by side, as in the map.
fn chart(scans: &[(u64, &Findings)], lines: Vec<(String, Vec<Option<Mean>>)>) -> Value {
    let [left, top, right, below] = MARGINS;
    let ends = |mean: &Mean| [mean.mean - mean.error.unwrap_or(0.0), mean.mean + mean.error.unwrap_or(0.0)];
    let all = lines.iter().flat_map(|(_, values)| values.iter().flatten()).flat_map(ends);
    // Zero is always in sight: an effect is a change from it.
    let [low, high] = all.fold([0.0f64, 0.0f64], |[low, high], x| [low.min(x), high.max(x)]);
    let (low, high) = if high - low < 1e-12 { (-1.0, 1.0) } else { (low, high) };
    let x = |at: usize| left + PLOT[0] * (at as f64 + 0.5) / scans.len() as f64;
    let y = |value: f64| top + PLOT[1] * (high - value) / (high - low);
    let apart = (scans.len() as f64 * 46.0 / PLOT[0]).ceil().max(1.0) as usize;
    let line = |(number, (name, values)): (usize, (String, Vec<Option<Mean>>))| {
        let known = values.iter().enumerate().filter_map(|(at, mean)| Some((at, (*mean)?)));
        let points: Vec<Value> = known
            .map(|(at, mean)| {
                let [from, to] = ends(&mean).map(y);
                let title = format!("step {}, {name}: {}", scans[at].0, plus_minus(mean, true));
                context! { x => x(at), y => y(mean.mean), from, to, title }
            })
            .collect();
        context! { name, points, colour => COLOURS[number % LINES], label => top + 12.0 + 16.0 * number as f64 }
    };
    let ticks = ticks(low, high).into_iter().map(|value| {
        context! { y => y(value), name => format!("{value}").replace('-', "\u{2212}") }
    });
    let steps = scans.iter().enumerate().filter(|(at, _)| at % apart == 0);
    context! {
        width => left + PLOT[0] + right,
        height => top + PLOT[1] + below,
        left,
        end => left + PLOT[0],
        bottom => top + PLOT[1] + 18.0,
        zero => y(0.0),
        ticks => ticks.collect::<Vec<_>>(),
        steps => steps.map(|(at, (step, _))| context! { x => x(at), name => maps::short(*step) }).collect::<Vec<_>>(),
        lines => lines.into_iter().enumerate().map(line).collect::<Vec<_>>(),
    }
}

/// Four to ten round numbers between two.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let size = 10f64.powf((high - low).log10().floor());
    let apart =
        [0.2, 0.5, 1.0].iter().map(|part| part * size).find(|apart| (high - low) / apart <= 8.0).unwrap_or(size);
    let first = (low / apart).ceil() as i64;
    let last = (high / apart).floor() as i64;
    let digits = 10f64.powf(2.0 - size.log10());
    (first..=last).map(|at| (at as f64 * apart * digits).round() / digits).collect()
}

fn turn(event: &Event) -> Value {
    let numbers = match &event.what {
        What::Birth(turned) | What::Death(turned) | What::Flip(turned) => turned.numbers.clone(),
        _ => Default::default(),
    };
    let mean = numbers.get("effect").map(|mean| Mean { mean: *mean, error: numbers.get("standard_error").copied() });
    context! {
        when => event.onset().words(),
        seen => event.seen_at,
        text => event.text(),
        effect => mean.map(|mean| plus_minus(mean, true)),
        p => numbers.get("p").map(|p| maps::p_value(*p)),
    }
}

fn member(member: &Member, found: Option<&Findings>) -> Value {
    let marked = |raises: bool| {
        let of = found.into_iter().flat_map(Findings::marked);
        let of = of.filter(|effect| effect.head.is_some() && (effect.logit_difference().mean > 0.0) == raises);
        let names: Vec<String> = of.map(Effect::name).collect();
        if names.len() > LINES {
            format!("{} and {} more", names[..LINES].join(", "), names.len() - LINES)
        } else {
            names.join(", ")
        }
    };
    context! {
        name => member.name(),
        link => format!("{}/report.html", member.folder()),
        model => member.model[1].display().to_string(),
        left_out => &member.left_out,
        done => found.is_some(),
        clean => found.map(|found| plus_minus(found.clean[LOGIT_DIFFERENCE], true)),
        accuracy => found.map(|found| plus_minus(found.clean[CORRECT], false)),
        suppressors => marked(true),
        contributors => marked(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (low, high) in [(0.0, 1.0), (-0.013, 0.4), (-1234.0, 3.0), (0.0, 2.1e-5), (-7.0, 0.0)] {
            let found = ticks(low, high);
            assert!((3..=11).contains(&found.len()), "{found:?}");
            assert!(found.iter().all(|tick| (low..=high).contains(tick) && format!("{tick}").len() < 9), "{found:?}");
        }
        assert_eq!(ticks(-0.1, 0.35), [-0.1, 0.0, 0.1, 0.2, 0.3]);
    }
}
