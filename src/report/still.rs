//! Charts of a model that was measured once: there are no steps to draw over, so places stand one below the other.

use serde_json::{Value, json};

use super::charts::{source, whole_row};
use super::layout::{WIDTH, legend};

/// Pixels of a row with a name.
const ROW: usize = 15;
/// Pixels that names may take.
const NAMES: u32 = 330;

/// The axis of names. The plot is as much narrower as names are wider than a number.
fn names_axis(names: &[String]) -> (Value, u32) {
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) as u32;
    let wide = (6 * longest + 12).clamp(52, NAMES);
    let axis = json!({ "labelLimit": NAMES, "minExtent": wide, "maxExtent": wide, "grid": true });
    (json!({ "field": "series", "type": "nominal", "title": null, "sort": names, "axis": axis }), WIDTH + 52 - wide)
}

fn framed(title: &Value, width: u32, height: usize, layers: &[Value]) -> Value {
    json!({ "title": title, "width": width, "height": height, "layer": layers })
}

/// The height of so many rows.
fn rows(count: usize) -> usize {
    (count * ROW).max(2 * ROW)
}

/// A dot for each number at the place it has, in the colour of a field if there are several of each.
pub(super) fn dots(
    title: &Value,
    table: &str,
    (unit, chance, log): (&str, &[f64], bool),
    names: &[String],
    colours: Option<(&str, &[String])>,
) -> Value {
    let (y, width) = names_axis(names);
    let scale = if log { json!({ "type": "log" }) } else { json!({ "zero": false }) };
    let x = |field: &str| json!({ "field": field, "type": "quantitative", "title": unit, "scale": scale });
    let mut encoding = json!({ "x": x("value"), "y": y });
    if let Some((field, of)) = colours {
        let short: Vec<&str> = of.iter().map(String::as_str).collect();
        encoding["color"] = json!({
            "field": field, "type": "nominal", "title": null, "scale": { "domain": of }, "legend": legend(&short),
        });
    }
    let mut layers = vec![json!({
        "data": source(table),
        "mark": { "type": "point", "filled": true, "size": 38, "opacity": 0.85, "tooltip": whole_row() },
        "encoding": encoding,
    })];
    layers.extend(chance.iter().filter(|chance| !log || **chance > 0.0).map(|chance| {
        json!({
            "data": { "values": [{ "value": chance, "what": "chance" }] },
            "mark": { "type": "rule", "color": "#888", "strokeDash": [2, 3], "tooltip": whole_row() },
            "encoding": { "x": x("value") },
        })
    }));
    framed(title, width, rows(names.len()), &layers)
}

fn index_axis(index: &str) -> Value {
    json!({ "field": "low", "type": "quantitative", "title": index, "scale": { "nice": false, "zero": false } })
}

/// A bar for each index.
pub(super) fn bars(title: &Value, table: &str, unit: &str, index: &str) -> Value {
    let layer = json!({
        "data": source(table),
        "mark": { "type": "rect", "color": "#4c78a8", "tooltip": whole_row() },
        "encoding": {
            "x": index_axis(index), "x2": { "field": "high" },
            "y": { "field": "value", "type": "quantitative", "title": unit }, "y2": { "datum": 0 },
        },
    });
    framed(title, WIDTH, 120, &[layer])
}

/// A mark at each index that is in a set.
pub(super) fn flags(title: &Value, table: &str, index: &str, names: &[String]) -> Value {
    let (y, width) = names_axis(names);
    let layer = json!({
        "data": source(table),
        "mark": { "type": "rect", "color": "#4c78a8", "tooltip": whole_row() },
        "encoding": { "x": index_axis(index), "x2": { "field": "high" }, "y": y },
    });
    framed(title, width, rows(names.len()), &[layer])
}
