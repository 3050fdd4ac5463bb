//! One self-contained HTML file about a scan.

use std::path::{Path, PathBuf};

use minijinja::{Environment, Value, context};

use super::findings::{Effect, Example, Findings, Measure};
use super::joint::Joint;
use super::maps::{self, p_value};
use super::patch::{Patch, Site};
use super::paths::{Direction, Layer, Mediated, Part, Reader, Sender};
use super::words::plus_minus;
use super::{Calibration, Repeated};
use crate::error::{Error, Result};
use crate::files;

const PAGE: &str = include_str!("page.html");
const PARTS: &str = include_str!("parts.html");
/// Rows that a table shows.
const LISTED: usize = 10;

/// Writes `report.html` of a scan into its run directory.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn write(run: &Path, findings: &Findings) -> Result<PathBuf> {
    let heads = findings.heads();
    let of_repeated = findings.repeated.as_ref();
    let rows = |of: &mut dyn Iterator<Item = &Effect>| -> Vec<Value> {
        of.take(LISTED).map(|effect| row(effect, of_repeated)).collect()
    };
    let suppressors = rows(&mut heads.iter().copied().filter(|effect| effect.logit_difference().mean > 0.0));
    let contributors = rows(&mut heads.iter().copied().rev().filter(|effect| effect.logit_difference().mean < 0.0));
    let blocks = findings.effects.iter().filter(|effect| effect.head.is_none());
    let setting = &findings.setting;
    let patching = findings.patching.as_ref();
    let of_pairs = findings.paths.iter().flat_map(|paths| &paths.senders).any(|sender| sender.directions.len() > 1);
    let content = context! {
            setting => context! {
                model => &setting.model,
                probes => &setting.probes,
                baseline => &setting.baseline,
                draws => setting.draws,
                layers => setting.layers,
                prompts => setting.count[0],
                groups => setting.count[1],
                categories => setting.categories.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>(),
                first => setting.first.clone(),
                begin => setting.begin.clone(),
                paired => of_pairs,
            },
            sentences => findings.sentences(),
            map => (!findings.effects.is_empty()).then(|| maps::effects(findings)),
            suppressors,
            contributors,
            blocks => blocks.map(|effect| row(effect, None)).collect::<Vec<_>>(),
            calibration => (!findings.effects.is_empty()).then(|| calibrations(findings)),
            pairs => joints(findings.pairs.iter(), true),
            sets => joints(findings.sets.known.iter().filter_map(|known| known.joint.as_ref()), false),
            places => patching.map(|_| maps::patches(findings, false)),
            patched_heads => patching.map(|_| maps::patches(findings, true)),
            patched => patched(findings),
            paths => findings.paths.iter().flat_map(|paths| &paths.senders).flat_map(|sender| of_sender(findings, sender)).collect::<Vec<_>>(),
            repeated => of_repeated.map(of_tokens),
            clean => Measure::all().filter(|measure| measure.of_clean()).map(|measure| {
                context! { name => measure.name().replace('_', " "), value => plus_minus(findings.clean[measure.0], false) }
            }).chain(findings.rest.map(|rest| {
                context! { name => "of its logit difference, embeddings and biases themselves", value => plus_minus(rest, true) }
            })).collect::<Vec<_>>(),
            uneven => findings.uneven.clone(),
            layers => findings.layers,
    };
    render(run, PAGE, &content)
}

/// Writes `report.html` from a template.
pub(super) fn render(run: &Path, page: &str, content: &Value) -> Result<PathBuf> {
    let fail = |error: minijinja::Error| Error::Unsupported(format!("the page's template: {error}"));
    let mut environment = Environment::new();
    environment.add_template("parts.html", PARTS).map_err(fail)?;
    environment.add_template("page.html", page).map_err(fail)?;
    let page = environment.get_template("page.html").and_then(|page| page.render(content)).map_err(fail)?;
    let path = run.join("report.html");
    files::write_whole(&path, page.as_bytes())?;
    Ok(path)
}

/// A line of a table, with the prompt that the effect is greatest on.
fn row(effect: &Effect, repeated: Option<&Repeated>) -> Value {
    let up = effect.logit_difference().mean > 0.0;
    let Example { text, answers: [target, foil], logit_differences: [clean, ablated] } =
        &effect.extremes[usize::from(!up)];
    let of = |name: &str| {
        let at = Measure::NAMES.iter().position(|known| *known == name).unwrap_or(0);
        plus_minus(effect.changes[at], true)
    };
    let looks = effect.head.and_then(|head| Some(repeated?.scores[effect.layer][head]));
    context! {
        name => effect.name(),
        effect => plus_minus(effect.logit_difference(), true),
        direct => plus_minus(effect.direct, true),
        q => effect.q.map(p_value),
        null => effect.null.map(|null| p_value(null.p)),
        both => effect.is_marked(),
        differs => effect.differs(),
        loss => of("loss"),
        kl => of("kl").trim_start_matches('+').to_owned(),
        looks => looks.map(|s| format!("{:.2} / {:.2} / {:.2}", s.induction, s.previous, s.duplicate)),
        text => text,
        target => target.trim(),
        foil => foil.trim(),
        clean => format!("{clean:+.2}").replace('-', "\u{2212}"),
        ablated => format!("{ablated:+.2}").replace('-', "\u{2212}"),
    }
}

/// Calibration of the clean pass, and what the heads change that change the loss at the best temperature most.
fn calibrations(findings: &Findings) -> Value {
    let values = |of: &Calibration, sign: bool| -> Vec<String> {
        let names = Calibration::NAMES.iter();
        names.map(|name| of.get(name).map_or_else(String::new, |mean| plus_minus(mean, sign))).collect()
    };
    let matched = |effect: &Effect| effect.calibration.get("matched.nll").map_or(0.0, |mean| mean.mean.abs());
    let mut effects: Vec<&Effect> = findings.effects.iter().collect();
    effects.sort_by(|a, b| matched(b).total_cmp(&matched(a)));
    let rows = effects.iter().take(LISTED).map(|effect| {
        context! { name => effect.name(), values => values(&effect.calibration, true) }
    });
    context! {
        names => Calibration::NAMES.map(|name| name.replace('.', " ")).to_vec(),
        clean => values(&findings.calibration, false),
        rows => rows.collect::<Vec<_>>(),
    }
}

fn joints<'a>(all: impl Iterator<Item = &'a Joint>, few: bool) -> Vec<Value> {
    let mut all: Vec<&Joint> = all.collect();
    if few {
        all.sort_by(|a, b| b.synergy.mean.abs().total_cmp(&a.synergy.mean.abs()));
        all.truncate(LISTED);
    }
    let row = |joint: &&Joint| {
        context! {
            name => joint.name(),
            differs => joint.differs(),
            together => plus_minus(joint.together, true),
            alone => plus_minus(joint.alone, true),
            synergy => plus_minus(joint.synergy, true),
            q => joint.q.map(p_value),
            null => joint.null.map(|null| p_value(null.p)),
        }
    };
    all.iter().map(row).collect()
}

/// The heads that bring back or take away most.
fn patched(findings: &Findings) -> Vec<Value> {
    let patches = findings.patching.iter().flat_map(|patching| &patching.patches);
    let mut heads: Vec<&Patch> = patches.filter(|patch| matches!(patch.site, Site::Head(_))).collect();
    heads.sort_by(|a, b| b.restored.share.mean.abs().total_cmp(&a.restored.share.mean.abs()));
    let row = |patch: &&Patch| {
        context! {
            name => patch.name(),
            differs => patch.restored.q.is_some_and(|q| q <= Findings::RATE),
            restored => plus_minus(patch.restored.share, true),
            q => patch.restored.q.map(p_value),
            lost => plus_minus(patch.lost.share, true),
            lost_q => patch.lost.q.map(p_value),
        }
    };
    heads.iter().take(LISTED).map(row).collect()
}

/// What a head does by which path, in each direction.
fn of_sender(findings: &Findings, sender: &Sender) -> Vec<Value> {
    let share = |part: &Part| part.share.map(|share| plus_minus(share, false));
    let of = |mediated: &Mediated| {
        let layer = |layer: &Layer| {
            context! {
                name => format!("layer {}", layer.layer),
                effect => plus_minus(layer.part.effect, true),
                share => share(&layer.part),
                alone => plus_minus(layer.alone, true),
            }
        };
        let mut readers: Vec<&Reader> = mediated.readers.iter().collect();
        readers.sort_by(|a, b| b.part.effect.mean.abs().total_cmp(&a.part.effect.mean.abs()));
        let reader = |reader: &&Reader| {
            context! {
                name => reader.name(),
                differs => reader.differs(),
                effect => plus_minus(reader.part.effect, true),
                share => share(&reader.part),
                q => reader.q.map(p_value),
            }
        };
        context! {
            name => sender.name(),
            how => Direction::NAMES[mediated.direction as usize],
            total => plus_minus(mediated.total, true),
            direct => plus_minus(mediated.direct.effect, true),
            direct_share => share(&mediated.direct),
            rest => plus_minus(mediated.rest.effect, true),
            rest_share => share(&mediated.rest),
            layers => mediated.layers.iter().map(layer).collect::<Vec<_>>(),
            readers => readers.iter().take(LISTED).map(reader).collect::<Vec<_>>(),
            map => maps::readers(findings, mediated),
        }
    };
    sender.directions.iter().map(of).collect()
}

/// The heads that attend most to what is repeated.
fn of_tokens(repeated: &Repeated) -> Value {
    let layers = repeated.scores.iter().enumerate();
    let mut heads: Vec<_> =
        layers.flat_map(|(layer, heads)| heads.iter().enumerate().map(move |(head, s)| (layer, head, s))).collect();
    let mut most = |of: fn(&super::Scores) -> f32| -> Vec<String> {
        heads.sort_by(|a, b| of(b.2).total_cmp(&of(a.2)));
        heads.iter().take(LISTED).map(|(layer, head, s)| format!("L{layer}H{head} {:.3}", of(s))).collect()
    };
    let columns = [most(|s| s.induction), most(|s| s.previous), most(|s| s.duplicate)];
    let rows = columns[0].len();
    context! {
        rows => (0..rows).map(|row| columns.each_ref().map(|column| column[row].clone()).to_vec()).collect::<Vec<_>>(),
        uniform => [repeated.uniform.induction, repeated.uniform.previous, repeated.uniform.duplicate].map(|x| format!("{x:.3}")).to_vec(),
    }
}
