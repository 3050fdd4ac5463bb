//! Maps of a scan's page: layers by heads, or by places.

use minijinja::{Value, context};

use super::findings::Findings;
use super::patch::{Patch, Site};
use super::words::plus_minus;

/// Width and height of a cell, and what stands beside the cells, in pixels.
const CELL: [usize; 2] = [38, 17];
const MARGIN: [usize; 2] = [40, 22];

/// What a cell says beside its colour.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    /// It differs from 0.
    Differs,
    /// And is more than the null.
    Both,
}

struct Cell {
    layer: usize,
    column: usize,
    value: f64,
    mark: Mark,
    title: String,
}

/// Columns that share a scale of colours.
struct Part {
    names: Vec<String>,
    cells: Vec<Cell>,
}

/// Layers by heads, and the MLP blocks beside them.
pub(super) fn effects(findings: &Findings) -> Value {
    let (layers, heads) = (findings.setting.layers, findings.setting.size[1]);
    let part = |of_heads: bool, names: Vec<String>| {
        let of = findings.effects.iter().filter(|effect| effect.head.is_some() == of_heads);
        let cells = of.map(|effect| Cell {
            layer: effect.layer,
            column: effect.head.unwrap_or(0),
            value: effect.logit_difference().mean,
            mark: match effect.is_marked() {
                true => Mark::Both,
                false if effect.differs() => Mark::Differs,
                false => Mark::None,
            },
            title: format!(
                "{}: {} logits{}{}; writes {} itself",
                effect.name(),
                plus_minus(effect.logit_difference(), true),
                effect.q.map_or_else(String::new, |q| format!(", q {}", p_value(q))),
                effect.null.map_or_else(String::new, |null| format!(", null p {}", p_value(null.p))),
                plus_minus(effect.direct, true),
            ),
        });
        Part { names, cells: cells.collect() }
    };
    draw(layers, vec![part(true, names("H", heads)), part(false, vec!["MLP".to_owned()])], None)
}

/// Layers by places, and the place where prompts differ beside them; or layers by heads.
pub(super) fn patches(findings: &Findings, heads: bool) -> Value {
    let patches = findings.patching.iter().flat_map(|patching| &patching.patches);
    let all: Vec<&Patch> = patches.filter(|patch| matches!(patch.site, Site::Head(_)) == heads).collect();
    let places = all.iter().filter_map(|p| if let Site::Place(at) = p.site { Some(at + 1) } else { None }).max();
    let places = places.unwrap_or(0);
    let part = |changed: bool, names: Vec<String>| {
        let of = all.iter().filter(|patch| (patch.site == Site::Changed) == changed);
        let cells = of.map(|patch| Cell {
            layer: patch.layer,
            column: match patch.site {
                // The last token stands on the right, as one reads.
                Site::Place(place) => places - 1 - place,
                Site::Changed => 0,
                Site::Head(head) => head,
            },
            value: patch.restored.share.mean,
            mark: if patch.restored.q.is_some_and(|q| q <= Findings::RATE) { Mark::Differs } else { Mark::None },
            title: format!(
                "{}: {} brought back{}, {} taken away, {} pairs",
                patch.name(),
                plus_minus(patch.restored.share, true),
                patch.restored.q.map_or_else(String::new, |q| format!(", q {}", p_value(q))),
                plus_minus(patch.lost.share, true),
                patch.pairs,
            ),
        });
        Part { names, cells: cells.collect() }
    };
    let (layers, count) = (findings.setting.layers, findings.setting.size[1]);
    let parts = if heads {
        vec![part(false, names("H", count))]
    } else {
        let back = (1..=places).rev().map(|place| format!("\u{2212}{place}")).collect();
        vec![part(false, back), part(true, vec!["differ".to_owned()])]
    };
    // Shares of the stream are of 1; those of heads are small.
    draw(layers, parts, (!heads).then_some(1.0))
}

pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
}

fn names(of: &str, count: usize) -> Vec<String> {
    (0..count).map(|at| format!("{of}{at}")).collect()
}

/// The first layer below; each part with a scale of its own, unless there is one for all.
fn draw(layers: usize, mut parts: Vec<Part>, scale: Option<f64>) -> Value {
    parts.retain(|part| !part.cells.is_empty());
    let (mut cells, mut columns, mut ends, mut first) = (Vec::new(), Vec::new(), Vec::new(), MARGIN[0]);
    for part in &parts {
        // A few may be far beyond the others; they have the last colour.
        let mut sizes: Vec<f64> = part.cells.iter().map(|cell| cell.value.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let greatest = sizes.get(sizes.len().saturating_sub(1 + sizes.len() / 100)).copied().unwrap_or(1.0);
        let end = scale.unwrap_or(greatest).max(1e-9);
        ends.push(format!("{end:.2}"));
        for cell in &part.cells {
            let share = cell.value / end;
            cells.push(context! {
                x => first + cell.column * CELL[0],
                y => MARGIN[1] + (layers - 1 - cell.layer) * CELL[1],
                colour => colour(share),
                dark => share.abs() > 0.6,
                both => cell.mark == Mark::Both,
                differs => cell.mark == Mark::Differs,
                title => &cell.title,
            });
        }
        columns.extend(part.names.iter().enumerate().map(|(at, name)| {
            context! { name, x => first + at * CELL[0] + CELL[0] / 2 }
        }));
        first += part.names.len() * CELL[0] + CELL[0] / 2;
    }
    let rows = (0..layers).map(|layer| {
        context! { name => format!("L{layer}"), y => MARGIN[1] + (layers - 1 - layer) * CELL[1] + 12 }
    });
    context! {
        width => first + 8,
        height => MARGIN[1] + layers * CELL[1] + 8,
        cell => CELL.to_vec(),
        rows => rows.collect::<Vec<_>>(),
        legend => (-4..=4).map(|step| context! { colour => colour(f64::from(step) / 4.0) }).collect::<Vec<_>>(),
        cells,
        columns,
        ends,
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
