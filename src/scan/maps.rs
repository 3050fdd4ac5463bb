//! Maps of a scan's page: layers by heads, or by places; and of a series', heads by steps.

use std::collections::BTreeMap;

use minijinja::{Value, context};

use super::findings::{Effect, Findings};
use super::patch::{Patch, Site};
use super::paths::{Input, Mediated};
use super::words::plus_minus;

/// Width and height of a cell, and what stands beside the cells, in pixels.
const CELL: [usize; 2] = [38, 17];
const MARGIN: [usize; 2] = [40, 22];
/// Width of all cells of a series, if they can have it.
const WIDE: usize = 900;
/// Heads that the map of a series shows.
const SHOWN: usize = 64;

/// What a cell says beside its colour.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    /// It differs from 0.
    Differs,
    /// And is more than the null.
    Both,
}

impl Mark {
    fn of(effect: &Effect) -> Self {
        match effect.is_marked() {
            true => Self::Both,
            false if effect.differs() => Self::Differs,
            false => Self::None,
        }
    }
}

struct Cell {
    /// From above.
    row: usize,
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
            row: layers - 1 - effect.layer,
            column: effect.head.unwrap_or(0),
            value: effect.logit_difference().mean,
            mark: Mark::of(effect),
            title: title(effect),
        });
        Part { names, cells: cells.collect() }
    };
    let parts = vec![part(true, names("H", heads)), part(false, vec!["MLP".to_owned()])];
    draw(&upwards(layers), parts, CELL[0], None)
}

/// What stands under the mouse.
fn title(effect: &Effect) -> String {
    format!(
        "{}: {} logits{}{}; writes {} itself",
        effect.name(),
        plus_minus(effect.logit_difference(), true),
        effect.q.map_or_else(String::new, |q| format!(", q {}", p_value(q))),
        effect.null.map_or_else(String::new, |null| format!(", null p {}", p_value(null.p))),
        plus_minus(effect.direct, true),
    )
}

/// Heads, or MLP blocks, by steps, of scans in order of step: all, or those that are marked at most steps, and of these the ones of
/// the greatest effects. Second, whether that is all of them; nothing where there are none.
pub(super) fn over_steps(scans: &[(u64, &Findings)], heads: bool) -> Option<(Value, bool)> {
    let mut of_head: BTreeMap<[usize; 2], Vec<(usize, &Effect)>> = BTreeMap::new();
    for (column, (_, findings)) in scans.iter().enumerate() {
        for effect in findings.effects.iter().filter(|effect| effect.head.is_some() == heads) {
            of_head.entry([effect.layer, effect.head.unwrap_or(0)]).or_default().push((column, effect));
        }
    }
    if of_head.is_empty() {
        return None;
    }
    let weight = |effects: &[(usize, &Effect)]| {
        let marked = effects.iter().filter(|(_, effect)| effect.is_marked()).count();
        (marked, effects.iter().map(|(_, effect)| effect.logit_difference().mean.abs()).fold(0.0, f64::max))
    };
    let mut order: Vec<[usize; 2]> = of_head.keys().copied().collect();
    order.sort_by(|a, b| {
        let [a, b] = [a, b].map(|head| weight(&of_head[head]));
        b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    let all = order.len() <= SHOWN;
    order.truncate(SHOWN);
    order.sort_unstable();
    let rows: Vec<String> = order.iter().map(|head| of_head[head][0].1.name()).collect();
    let cell = |row: usize, (column, effect): &(usize, &Effect)| Cell {
        row,
        column: *column,
        value: effect.logit_difference().mean,
        mark: Mark::of(effect),
        title: format!("step {}, {}", scans[*column].0, title(effect)),
    };
    let of_row = |(row, head): (usize, &[usize; 2])| of_head[head].iter().map(move |effect| cell(row, effect));
    let cells = order.iter().enumerate().flat_map(of_row).collect();
    let width = (WIDE / scans.len().max(1)).clamp(8, CELL[0]);
    // Names need as much as a usual cell has.
    let apart = CELL[0].div_ceil(width);
    let named =
        |(at, (step, _)): (usize, &(u64, &Findings))| if at % apart == 0 { short(*step) } else { String::new() };
    let names = scans.iter().enumerate().map(named).collect();
    Some((draw(&rows, vec![Part { names, cells }], width, None), all))
}

/// A step in few characters: `143k`.
pub(super) fn short(step: u64) -> String {
    if step >= 10_000 && step.is_multiple_of(1000) { format!("{}k", step / 1000) } else { step.to_string() }
}

/// Names of layers from above, where the first is at the bottom.
fn upwards(layers: usize) -> Vec<String> {
    (0..layers).rev().map(|layer| format!("L{layer}")).collect()
}

/// Layers by places, and the place where prompts differ beside them; or layers by heads.
pub(super) fn patches(findings: &Findings, heads: bool) -> Value {
    let patches = findings.patching.iter().flat_map(|patching| &patching.patches);
    let all: Vec<&Patch> = patches.filter(|patch| matches!(patch.site, Site::Head(_)) == heads).collect();
    let places = all.iter().filter_map(|p| if let Site::Place(at) = p.site { Some(at + 1) } else { None }).max();
    let places = places.unwrap_or(0);
    let (layers, count) = (findings.setting.layers, findings.setting.size[1]);
    let part = |changed: bool, names: Vec<String>| {
        let of = all.iter().filter(|patch| (patch.site == Site::Changed) == changed);
        let cells = of.map(|patch| Cell {
            row: layers - 1 - patch.layer,
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
    let parts = if heads {
        vec![part(false, names("H", count))]
    } else {
        let back = (1..=places).rev().map(|place| format!("\u{2212}{place}")).collect();
        vec![part(false, back), part(true, vec!["differ".to_owned()])]
    };
    // Shares of the stream are of 1; those of heads are small.
    draw(&upwards(layers), parts, CELL[0], (!heads).then_some(1.0))
}

/// Layers by what reads a head: queries, keys and values of each head, and MLP blocks.
pub(super) fn readers(findings: &Findings, mediated: &Mediated) -> Value {
    let (layers, heads) = (findings.setting.size[0], findings.setting.size[1]);
    let part = |input: Input, names: Vec<String>| {
        let of = mediated.readers.iter().filter(|reader| reader.input == input);
        let cells = of.map(|reader| Cell {
            row: layers - 1 - reader.layer,
            column: reader.head.unwrap_or(0),
            value: reader.part.effect.mean,
            mark: if reader.differs() { Mark::Differs } else { Mark::None },
            title: format!(
                "{}: {} logits{}",
                reader.name(),
                plus_minus(reader.part.effect, true),
                reader.q.map_or_else(String::new, |q| format!(", q {}", p_value(q))),
            ),
        });
        Part { names, cells: cells.collect() }
    };
    // All on one scale, so that they can be compared.
    let mut sizes: Vec<f64> = mediated.readers.iter().map(|reader| reader.part.effect.mean.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let end = sizes.get(sizes.len().saturating_sub(1 + sizes.len() / 100)).copied();
    let parts = vec![
        part(Input::Q, names("q", heads)),
        part(Input::K, names("k", heads)),
        part(Input::V, names("v", heads)),
        part(Input::Mlp, vec!["MLP".to_owned()]),
    ];
    draw(&upwards(layers), parts, (WIDE / (3 * heads + 4)).clamp(12, CELL[0]), end)
}

pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
}

fn names(of: &str, count: usize) -> Vec<String> {
    (0..count).map(|at| format!("{of}{at}")).collect()
}

/// Rows by columns of some width; each part with a scale of its own, unless there is one for all.
fn draw(rows: &[String], mut parts: Vec<Part>, width: usize, scale: Option<f64>) -> Value {
    parts.retain(|part| !part.cells.is_empty());
    let margin = MARGIN[0].max(8 + 7 * rows.iter().map(String::len).max().unwrap_or(0));
    let (mut cells, mut columns, mut ends, mut first) = (Vec::new(), Vec::new(), Vec::new(), margin);
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
                x => first + cell.column * width,
                y => MARGIN[1] + cell.row * CELL[1],
                colour => colour(share),
                dark => share.abs() > 0.6,
                both => cell.mark == Mark::Both,
                differs => cell.mark == Mark::Differs,
                title => &cell.title,
            });
        }
        columns.extend(part.names.iter().enumerate().map(|(at, name)| {
            context! { name, x => first + at * width + width / 2 }
        }));
        first += part.names.len() * width + CELL[0] / 2;
    }
    let names = rows.iter().enumerate().map(|(row, name)| context! { name, y => MARGIN[1] + row * CELL[1] + 12 });
    context! {
        width => first + 8,
        height => MARGIN[1] + rows.len() * CELL[1] + 8,
        cell => [width, CELL[1]].to_vec(),
        margin => margin - 6,
        rows => names.collect::<Vec<_>>(),
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
