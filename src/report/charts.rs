//! The charts: one Vega-Lite specification with a shared step axis.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::dataset::{Dataset, number};
use super::phases::Phase;
use crate::record::{Key, Series};

/// Points of all series of one chart together.
const CHART_POINTS: usize = 24_000;
/// Points of one series at most.
const SERIES_POINTS: usize = 600;
/// Series of a chart that strokes can tell apart.
const DASHES: usize = 4;
/// Columns of a heat map.
const HEAT_COLUMNS: usize = 200;
/// Width of the plots in pixels.
const WIDTH: u32 = 820;

/// A chart: rows of one topic.
struct Chart {
    title: &'static str,
    name: &'static str,
    kind: Kind,
    /// Title of the value axis.
    unit: &'static str,
    /// Metrics, or the start of a metric and site.
    select: fn(&Key) -> Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Lines,
    LogLines,
    /// Colour by value over step and index.
    Heat,
    /// A mark where a flag is set, over step and index.
    Flags,
}

fn own_name(key: &Key, metrics: &[&str]) -> Option<String> {
    (metrics.contains(&key.metric.as_str()) && key.index <= 0).then(|| key.metric.clone())
}

fn by_tensor(key: &Key, metric: &str) -> Option<String> {
    (key.metric == metric).then(|| key.site.clone())
}

fn by_head(key: &Key) -> Option<String> {
    (key.metric == "attention_entropy").then(|| format!("layer {} head {}", key.layer, key.head))
}

const CHARTS: &[Chart] = &[
    Chart {
        title: "Loss",
        name: "loss",
        kind: Kind::LogLines,
        unit: "nats",
        select: |key| own_name(key, &["loss.train", "loss.test", "loss.restricted", "loss.excluded"]),
    },
    Chart {
        title: "Accuracy",
        name: "accuracy",
        kind: Kind::Lines,
        unit: "share right",
        select: |key| own_name(key, &["accuracy.train", "accuracy.test"]),
    },
    Chart {
        title: "Margin on the test set: how far the right logit exceeds the best other",
        name: "margin",
        kind: Kind::Lines,
        unit: "logits",
        select: |key| {
            let names = ["min", "mean", "max"];
            (key.metric == "margin.test")
                .then(|| names.get(key.index as usize).map_or_else(String::new, |n| (*n).to_owned()))
        },
    },
    Chart {
        title: "Frequencies in the embedding W_E",
        name: "fourier_w_e",
        kind: Kind::Heat,
        unit: "norm",
        select: |key| (key.metric == "fourier_norm" && key.site == "embed.W_E").then(String::new),
    },
    Chart {
        title: "Frequencies in W_L = W_out W_U",
        name: "fourier_w_l",
        kind: Kind::Heat,
        unit: "norm",
        select: |key| (key.metric == "fourier_norm" && key.site == "W_L").then(String::new),
    },
    Chart {
        title: "Key frequencies being born",
        name: "keys",
        kind: Kind::Flags,
        unit: "frequency k",
        select: |key| match key.metric.as_str() {
            "key_frequencies" => Some("W_E: norm above a quarter of the largest".to_owned()),
            "key_frequencies.logits" => Some("logits: more than 1 % of the power".to_owned()),
            _ => None,
        },
    },
    Chart {
        title: "Sparsity of the spectra",
        name: "gini",
        kind: Kind::Lines,
        unit: "Gini coefficient",
        select: |key| by_tensor(key, "gini"),
    },
    Chart {
        title: "Weight norms",
        name: "weight_norm",
        kind: Kind::Lines,
        unit: "norm",
        select: |key| by_tensor(key, "weight_norm"),
    },
    Chart {
        title: "Gradient norms",
        name: "grad_norm",
        kind: Kind::LogLines,
        unit: "norm",
        select: |key| by_tensor(key, "grad_norm"),
    },
    Chart {
        title: "Update norms, decay included",
        name: "update_norm",
        kind: Kind::LogLines,
        unit: "norm",
        select: |key| by_tensor(key, "update_norm"),
    },
    Chart { title: "Attention entropy", name: "entropy", kind: Kind::Lines, unit: "nats", select: by_head },
    Chart {
        title: "Likeness of heads: cosine of attention patterns, as they are",
        name: "similarity",
        kind: Kind::Lines,
        unit: "cosine",
        select: |key| (key.metric == "head_similarity").then(|| format!("layer {} pair {}", key.layer, key.index)),
    },
    Chart {
        title: "Likeness of heads, each head's mean pattern removed",
        name: "similarity_centered",
        kind: Kind::Lines,
        unit: "cosine",
        select: |key| {
            (key.metric == "head_similarity.centered").then(|| format!("layer {} pair {}", key.layer, key.index))
        },
    },
];

/// What the charts show.
pub(super) struct Charts {
    shown: Vec<(&'static Chart, Value)>,
    last_step: i64,
    phases: Vec<Phase>,
    thinned: bool,
    replicas: bool,
    /// Names of the replicas, where they have any.
    arms: Vec<String>,
}

impl Charts {
    /// Picks, thins and lays out the series of a run.
    pub(super) fn new(series: &BTreeMap<Key, Series>, phases: &[Phase], arms: Vec<String>) -> Self {
        let mut thinned = false;
        let mut shown = Vec::new();
        for chart in CHARTS {
            let chosen: Vec<(String, &Key, &Series)> =
                series.iter().filter_map(|(key, s)| (chart.select)(key).map(|name| (name, key, s))).collect();
            let data = match chart.kind {
                Kind::Heat => heat(&chosen, &mut thinned),
                Kind::Flags => flags(&chosen, &mut thinned),
                Kind::Lines | Kind::LogLines => {
                    let limit = (CHART_POINTS / chosen.len().max(1)).clamp(40, SERIES_POINTS);
                    let mut data = Dataset::default();
                    for (name, key, series) in &chosen {
                        data.add(name, key.replica, series, limit);
                    }
                    thinned |= data.is_thinned();
                    (!data.is_empty()).then(|| data.columns())
                }
            };
            shown.extend(data.map(|data| (chart, data)));
        }
        let last_step = series.values().filter_map(|s| s.steps.last()).max().copied().unwrap_or(0);
        let replicas = series.keys().any(|key| key.replica > 0);
        Self { shown, last_step, phases: phases.to_vec(), thinned, replicas, arms }
    }

    /// The last step measured.
    pub(super) fn last_step(&self) -> i64 {
        self.last_step
    }

    /// Names of the replicas, where they have any.
    pub(super) fn arms(&self) -> &[String] {
        &self.arms
    }

    /// What the reader must know of the pictures.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            "Drag over the strip above the charts to zoom all of them; double-click it to see everything again."
                .to_owned(),
        ];
        if self.thinned {
            notes.push(format!(
                "Long series are thinned: of each stretch of steps the smallest and the largest value are drawn, at most {SERIES_POINTS} points a line; heat maps have {HEAT_COLUMNS} columns. The Parquet files hold every number."
            ));
        }
        if self.replicas {
            notes.push(
                "Lines are drawn for every replica; heat maps, key frequencies and dashed marks are those of replica 0."
                    .to_owned(),
            );
        }
        notes
    }

    /// The tables, by the names the specification uses.
    pub(super) fn data(&self) -> Value {
        let mut tables: serde_json::Map<String, Value> =
            self.shown.iter().map(|(chart, data)| (chart.name.to_owned(), data.clone())).collect();
        // Neighbours are written on different lines, so that they do not cover each other.
        let row = |(at, phase): (usize, &Phase)| json!({ "step": phase.step, "phase": phase.name, "line": at % 3 });
        let phases: Vec<Value> = self.phases.iter().enumerate().map(row).collect();
        tables.insert("phases".to_owned(), json!({ "rows": phases }));
        Value::Object(tables)
    }

    /// The Vega-Lite specification.
    pub(super) fn specification(&self) -> Value {
        let mut parts = Vec::new();
        if let Some((chart, _)) = self.shown.iter().find(|(chart, _)| chart.name == "loss") {
            parts.push(self.overview(chart));
        }
        parts.extend(self.shown.iter().map(|(chart, data)| {
            let count = data["names"].as_array().map_or(0, Vec::len);
            self.chart(chart, count)
        }));
        json!({
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "vconcat": parts,
            "spacing": 14,
            "resolve": { "scale": { "color": "independent" } },
            "config": {
                "view": { "stroke": "#ddd" },
                "axis": { "gridColor": "#eee", "labelColor": "#444", "titleColor": "#444", "titleFontWeight": "normal" },
                "title": { "anchor": "start", "fontSize": 13, "fontWeight": 600, "color": "#222" },
                "legend": { "labelLimit": 260, "titleColor": "#444", "titleFontWeight": "normal", "symbolLimit": 40 },
                "font": "system-ui, sans-serif",
            },
        })
    }

    /// The strip that is dragged over.
    fn overview(&self, chart: &Chart) -> Value {
        json!({
            "data": { "name": chart.name },
            "width": WIDTH,
            "height": 46,
            "title": "Drag here to zoom all charts",
            "params": [{ "name": "brush", "select": { "type": "interval", "encodings": ["x"] } }],
            "mark": { "type": "line", "strokeWidth": 1 },
            "transform": [{ "filter": "datum.value > 0" }],
            "encoding": {
                "x": { "field": "step", "type": "quantitative", "title": null, "scale": { "domain": [0, self.last_step.max(1)], "nice": false } },
                "y": { "field": "value", "type": "quantitative", "title": null, "axis": null, "scale": { "type": "log" } },
                "color": { "field": if self.arms.is_empty() { "series" } else { "arm" }, "type": "nominal", "legend": null, "sort": null },
                "detail": [{ "field": "replica" }, { "field": "series" }],
            },
        })
    }

    fn step_axis(&self) -> Value {
        let scale = if self.shown.iter().any(|(chart, _)| chart.name == "loss") {
            json!({ "domain": { "param": "brush" }, "nice": false })
        } else {
            json!({ "domain": [0, self.last_step.max(1)], "nice": false })
        };
        json!({ "field": "step", "type": "quantitative", "title": "step", "scale": scale })
    }

    /// One chart, with `count` series.
    fn chart(&self, chart: &Chart, count: usize) -> Value {
        let x = self.step_axis();
        // Cells of a frequency between two steps.
        let cells = |y: Value, color: Value, tooltip: Value| {
            json!({
                "data": { "name": chart.name },
                "mark": { "type": "rect", "clip": true, "tooltip": true },
                "encoding": {
                    "x": x.clone(), "x2": { "field": "until" }, "y": y, "y2": { "field": "high" },
                    "color": color, "tooltip": tooltip,
                },
            })
        };
        let layer = match chart.kind {
            Kind::Lines | Kind::LogLines => {
                let log = chart.kind == Kind::LogLines;
                let scale = if log { json!({ "type": "log" }) } else { json!({ "zero": false }) };
                let axis = if log { json!({ "format": ".0e", "tickCount": 6 }) } else { json!({ "tickCount": 6 }) };
                // Few series of named replicas: one colour for each replica, one stroke for each series.
                let by_arm = !self.arms.is_empty() && count <= DASHES;
                let colours = if by_arm { self.arms.len() } else { count };
                let mut tooltip = vec![
                    json!({ "field": "series", "title": "series" }),
                    json!({ "field": "step" }),
                    json!({ "field": "value", "format": ".4g" }),
                    json!({ "field": "replica" }),
                ];
                tooltip.extend((!self.arms.is_empty()).then(|| json!({ "field": "arm", "title": "name" })));
                let mut encoding = json!({
                    "x": x,
                    "y": { "field": "value", "type": "quantitative", "title": chart.unit, "scale": scale, "axis": axis },
                    "color": {
                        "field": if by_arm { "arm" } else { "series" }, "type": "nominal", "title": null,
                        "scale": { "scheme": if colours > 10 { "tableau20" } else { "category10" } },
                    },
                    "detail": { "field": "replica" },
                    "tooltip": tooltip,
                });
                if by_arm && count > 1 {
                    encoding["strokeDash"] = json!({ "field": "series", "type": "nominal", "title": null });
                }
                json!({
                    "data": { "name": chart.name },
                    "transform": if log { json!([{ "filter": "datum.value > 0" }]) } else { json!([]) },
                    "mark": { "type": "line", "clip": true, "point": self.last_step == 0, "strokeWidth": 1.3, "opacity": if self.replicas { 0.55 } else { 0.95 }, "tooltip": true },
                    "encoding": encoding,
                })
            }
            Kind::Heat => cells(
                json!({ "field": "low", "type": "quantitative", "title": "frequency k", "scale": { "nice": false, "zero": false } }),
                json!({ "field": "value", "type": "quantitative", "title": chart.unit, "scale": { "scheme": "viridis" } }),
                json!([{ "field": "index", "title": "k" }, { "field": "step" }, { "field": "value", "format": ".4g" }]),
            ),
            Kind::Flags => cells(
                json!({ "field": "low", "type": "quantitative", "title": chart.unit, "scale": { "zero": true } }),
                json!({ "field": "series", "type": "nominal", "title": null }),
                json!([{ "field": "index", "title": "k" }, { "field": "step", "title": "from" }, { "field": "until" }, { "field": "series" }]),
            ),
        };
        let height = match chart.kind {
            Kind::Heat | Kind::Flags => 200,
            _ if chart.name == "loss" => 240,
            _ => 150,
        };
        // Heat maps are dark.
        let ink = if chart.kind == Kind::Heat { "white" } else { "#333" };
        let rule = json!({
            "data": { "name": "phases" },
            "mark": { "type": "rule", "strokeDash": [4, 3], "color": ink, "clip": true },
            "encoding": { "x": x.clone(), "tooltip": [{ "field": "phase" }, { "field": "step" }] },
        });
        let words = |line: u32| {
            json!({
                "data": { "name": "phases" },
                "transform": [{ "filter": format!("datum.line == {line}") }],
                "mark": {
                    "type": "text", "align": "left", "dx": 3, "dy": 3 + 11 * line, "fontSize": 10, "color": ink, "clip": true, "baseline": "top",
                },
                "encoding": { "x": x.clone(), "y": { "value": 0 }, "text": { "field": "phase" } },
            })
        };
        json!({
            "title": chart.title,
            "width": WIDTH,
            "height": height,
            "layer": [layer, rule, words(0), words(1), words(2)],
        })
    }
}

/// Step, end, index and value of the cells of a heat map, of replica 0.
fn heat(chosen: &[(String, &Key, &Series)], thinned: &mut bool) -> Option<Value> {
    let rows: Vec<&(String, &Key, &Series)> = chosen.iter().filter(|(_, key, _)| key.replica == 0).collect();
    let steps = &rows.first()?.2.steps;
    let last = *steps.last()?;
    let columns: Vec<usize> = if steps.len() <= HEAT_COLUMNS {
        (0..steps.len()).collect()
    } else {
        *thinned = true;
        (0..HEAT_COLUMNS).map(|c| c * steps.len() / HEAT_COLUMNS).collect()
    };
    let spacing = if columns.len() > 1 { (steps[columns[1]] - steps[columns[0]]).max(1) } else { 1 };
    let (mut step, mut until, mut index, mut value) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (at, column) in columns.iter().enumerate() {
        for (_, key, series) in &rows {
            let Some(v) = series.values.get(*column) else { continue };
            step.push(steps[*column]);
            let next = columns.get(at + 1).map_or(last.max(steps[*column]) + spacing, |next| steps[*next]);
            // Cells overlap a little: neighbours that only touch leave a seam on the screen.
            until.push(next as f64 + 0.15 * spacing as f64);
            index.push(key.index);
            value.push(number(*v));
        }
    }
    Some(json!({ "step": step, "until": until, "index": index, "value": value }))
}

/// Stretches of steps over which a flag stands, of replica 0. Steps at which it was looked for are those
/// at which any flag of the same rule stands.
fn flags(chosen: &[(String, &Key, &Series)], thinned: &mut bool) -> Option<Value> {
    let rows: Vec<&(String, &Key, &Series)> = chosen.iter().filter(|(_, key, _)| key.replica == 0).collect();
    let mut names: Vec<&str> = rows.iter().map(|(name, _, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let (mut series, mut step, mut until, mut index) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, name) in names.iter().enumerate() {
        let of_rule: Vec<_> = rows.iter().filter(|(n, _, _)| n == name).collect();
        let mut looked: Vec<i64> = of_rule.iter().flat_map(|(_, _, s)| s.steps.iter().copied()).collect();
        looked.sort_unstable();
        looked.dedup();
        let spacing = looked.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(1);
        // Gaps shorter than a pixel are not drawn.
        let gap = spacing.max(looked.last().unwrap_or(&0) / i64::from(WIDTH));
        *thinned |= gap > spacing;
        for (_, key, s) in of_rule {
            let mut from: Option<(i64, i64)> = None;
            for at in s.steps.iter().copied().chain([i64::MAX]) {
                match from {
                    Some((first, last)) if at == i64::MAX || at - last > gap => {
                        series.push(number);
                        step.push(first);
                        until.push(last + spacing);
                        index.push(key.index);
                        from = (at != i64::MAX).then_some((at, at));
                    }
                    Some((first, _)) => from = Some((first, at)),
                    None => from = (at != i64::MAX).then_some((at, at)),
                }
            }
        }
    }
    (!step.is_empty())
        .then(|| json!({ "names": names, "series": series, "step": step, "until": until, "index": index }))
}
