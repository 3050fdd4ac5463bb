//! One self-contained HTML file about a scan.

use std::path::{Path, PathBuf};

use minijinja::{Environment, context};

use crate::error::{Error, Result};
use crate::files;

use super::findings::{Effect, Example, Findings, Mean, Measure};

const PAGE: &str = include_str!("page.html");
/// Heads that a table shows.
const LISTED: usize = 10;

/// Writes `report.html` of a scan into its run directory.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn write(run: &Path, findings: &Findings) -> Result<PathBuf> {
    let fail = |error: minijinja::Error| Error::Unsupported(format!("the page's template: {error}"));
    let mut environment = Environment::new();
    environment.add_template("page.html", PAGE).map_err(fail)?;
    let template = environment.get_template("page.html").map_err(fail)?;
    let heads = findings.heads();
    let raises = |effect: &&&Effect| effect.logit_difference().mean > 0.0;
    let suppressors: Vec<_> = heads.iter().filter(raises).take(LISTED).map(|effect| row(effect)).collect();
    let lowers = |effect: &&&Effect| effect.logit_difference().mean < 0.0;
    let contributors: Vec<_> = heads.iter().rev().filter(lowers).take(LISTED).map(|effect| row(effect)).collect();
    let blocks = findings.effects.iter().filter(|effect| effect.head.is_none());
    let setting = &findings.setting;
    let page = template
        .render(context! {
            setting => context! {
                model => &setting.model,
                probes => &setting.probes,
                baseline => &setting.baseline,
                draws => setting.draws,
                layers => setting.size[0],
                prompts => setting.count[0],
                groups => setting.count[1],
                categories => setting.categories.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>(),
                first => setting.first.clone(),
                begin => setting.begin.clone(),
            },
            sentence => findings.sentence(),
            map => map(findings),
            suppressors,
            contributors,
            blocks => blocks.map(row).collect::<Vec<_>>(),
            clean => Measure::all().filter(|measure| measure.of_clean()).map(|measure| {
                context! { name => measure.name().replace('_', " "), value => plus_minus(findings.clean[measure.0], false) }
            }).collect::<Vec<_>>(),
            uneven => findings.uneven.clone(),
            layers => findings.layers,
        })
        .map_err(fail)?;
    let path = run.join("report.html");
    files::write_whole(&path, page.as_bytes())?;
    Ok(path)
}

/// `+0.123 ± 0.045`.
fn plus_minus(mean: Mean, sign: bool) -> String {
    let digits = |x: f64| if x.abs() >= 99.95 { format!("{x:.1}") } else { format!("{x:.3}") };
    let value = if sign && mean.mean > 0.0 { format!("+{}", digits(mean.mean)) } else { digits(mean.mean) };
    // A true minus sign, as wide as the plus.
    let value = value.replace('-', "\u{2212}");
    mean.error.map_or_else(|| value.clone(), |error| format!("{value} ± {}", digits(error)))
}

fn p_value(p: f64) -> String {
    if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
}

/// A line of a table, with the prompt that the effect is greatest on.
fn row(effect: &Effect) -> minijinja::Value {
    let up = effect.logit_difference().mean > 0.0;
    let Example { text, answers: [target, foil], logit_differences: [clean, ablated] } =
        &effect.extremes[usize::from(!up)];
    let of = |name: &str| {
        let at = Measure::NAMES.iter().position(|known| *known == name).unwrap_or(0);
        plus_minus(effect.changes[at], true)
    };
    context! {
        name => effect.name(),
        effect => plus_minus(effect.logit_difference(), true),
        q => effect.q.map(p_value),
        null => effect.null.map(|null| p_value(null.p)),
        both => effect.is_marked(),
        differs => effect.differs(),
        loss => of("loss"),
        kl => of("kl").trim_start_matches('+').to_owned(),
        text => text,
        target => target.trim(),
        foil => foil.trim(),
        clean => format!("{clean:+.2}").replace('-', "\u{2212}"),
        ablated => format!("{ablated:+.2}").replace('-', "\u{2212}"),
    }
}

/// Width and height of a cell, and what stands beside the cells, in pixels.
const CELL: [usize; 2] = [38, 17];
const MARGIN: [usize; 2] = [40, 22];

/// Layers by heads, and the MLP blocks beside them, the first layer below.
fn map(findings: &Findings) -> minijinja::Value {
    let [layers, heads] = findings.setting.size;
    let any = |heads: bool| findings.effects.iter().any(|effect| effect.head.is_some() == heads);
    let columns = if any(true) { heads } else { 0 };
    let blocks = any(false);
    // A few effects may be far beyond the others; they have the last colour.
    let scale_of = |is_head: bool| {
        let of = findings.effects.iter().filter(|effect| effect.head.is_some() == is_head);
        let mut sizes: Vec<f64> = of.map(|effect| effect.logit_difference().mean.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.get(sizes.len().saturating_sub(1 + sizes.len() / 100)).copied().unwrap_or(1.0).max(1e-9)
    };
    let scales = [scale_of(true), scale_of(false)];
    let cells = findings.effects.iter().map(|effect| {
        let column = effect.head.map_or(columns, |head| head);
        let gap = if effect.head.is_none() && columns > 0 { CELL[0] / 2 } else { 0 };
        let share = effect.logit_difference().mean / scales[usize::from(effect.head.is_none())];
        context! {
            x => MARGIN[0] + column * CELL[0] + gap,
            y => MARGIN[1] + (layers - 1 - effect.layer) * CELL[1],
            colour => colour(share),
            dark => share.abs() > 0.6,
            both => effect.is_marked(),
            differs => effect.differs(),
            title => format!(
                "{}: {} logits{}{}",
                effect.name(),
                plus_minus(effect.logit_difference(), true),
                effect.q.map_or_else(String::new, |q| format!(", q {}", p_value(q))),
                effect.null.map_or_else(String::new, |null| format!(", null p {}", p_value(null.p))),
            ),
        }
    });
    let last = columns * CELL[0] + if blocks { CELL[0] + CELL[0] / 2 } else { 0 };
    context! {
        width => MARGIN[0] + last + 8,
        height => MARGIN[1] + layers * CELL[1] + 8,
        cell => CELL.to_vec(),
        cells => cells.collect::<Vec<_>>(),
        rows => (0..layers).map(|layer| context! {
            name => format!("L{layer}"), y => MARGIN[1] + (layers - 1 - layer) * CELL[1] + 12,
        }).collect::<Vec<_>>(),
        columns => (0..columns).map(|head| (format!("H{head}"), head * CELL[0])).chain(blocks.then(|| {
            ("MLP".to_owned(), columns * CELL[0] + if columns > 0 { CELL[0] / 2 } else { 0 })
        })).map(|(name, x)| context! { name, x => MARGIN[0] + x + CELL[0] / 2 }).collect::<Vec<_>>(),
        legend => (-4..=4).map(|step| context! { colour => colour(f64::from(step) / 4.0) }).collect::<Vec<_>>(),
        ends => scales.iter().zip([columns > 0, blocks]).filter(|(_, there)| *there).map(|(scale, _)| format!("{scale:.2}")).collect::<Vec<_>>(),
    }
}

/// From blue over white to orange, for -1 to 1.
fn colour(share: f64) -> String {
    let share = share.clamp(-1.0, 1.0);
    let end = if share > 0.0 { [196.0, 84.0, 16.0] } else { [24.0, 92.0, 170.0] };
    // Small effects stay to be seen.
    let depth = share.abs().sqrt();
    let [r, g, b] = end.map(|end| (255.0 + (end - 255.0) * depth).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}
