//! Vega-Lite specifications, one for each topic, with step axes that the page zooms together.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::dataset::{Chosen, Lines, flags, heat};
use super::derived::{FOLLOWED, KEY_COUNT, NOISE_SCALE};
use super::heads::{self, Heads, IN_A_ROW};
use super::layout::{AXIS, BESIDE, WIDTH, legend, tall, title};
use super::marks::{self, Turn};
use super::phases::Phase;
use super::still;
use super::topics::{Kind, TOPICS, is_level};
use crate::record::{Catalog, Described, Key, Series};

/// Points of all series of one chart together, and where the lines of several replicas lie over each other.
const CHART_POINTS: usize = 5_000;
const TOGETHER_POINTS: usize = 3_000;
/// The same where they are those of arms with several replicas each.
const ARMS_POINTS: usize = 16_000;
/// Points of one series at most.
const SERIES_POINTS: usize = 500;
/// Series of a chart that strokes can tell apart, and lines that one can follow; a chart of more shows one replica at
/// a time.
const DASHES: usize = 4;
const LINES: usize = 18;
/// Points of a chart that is made from a card.
const CARD_POINTS: usize = 2_000;
/// Indices from which on they are drawn as a heat map.
pub(super) const MANY: usize = 12;
/// Pixels right of the charts, for the menu that saves them.
const MENU: u32 = 40;
/// Replicas that the page can show.
const REPLICAS: i32 = 8;

/// What replicas are called.
pub(super) struct Names {
    /// The arm of each, in whose colour it is drawn; empty where none has a name.
    pub(super) arms: Vec<String>,
    /// Their own names, where arms have several replicas.
    pub(super) own: Vec<String>,
}

/// A topic with something to show.
struct Shown {
    title: &'static str,
    note: String,
    charts: Vec<Value>,
    /// Names of the tables it needs.
    tables: Vec<String>,
}

/// A chart to be drawn: one of those put together by hand, or one made from a card.
struct Chart<'a> {
    title: &'a str,
    /// What is to be said in smaller letters.
    below: &'a str,
    /// Name of its table.
    name: &'a str,
    kind: Kind,
    /// Points of all its series together.
    points: usize,
    chosen: Vec<Chosen<'a>>,
}

/// What cards say of the values of a chart.
struct Scale {
    unit: String,
    /// Values that say nothing.
    chance: Vec<f64>,
    /// Ends of the value axis, where the values come near them.
    ends: [Option<f64>; 2],
    /// What the index axis counts.
    index: String,
}

/// What the charts show.
pub(super) struct Charts {
    topics: Vec<Shown>,
    tables: serde_json::Map<String, Value>,
    /// Tables of charts that draw all replicas at once.
    together: Vec<String>,
    /// Metrics that some chart shows.
    charted: BTreeSet<String>,
    last_step: i64,
    /// Whether a model was measured once: there are no steps to draw over.
    still: bool,
    thinned: bool,
    replicas: i32,
    /// The arm of each replica, where they have any, and the arms.
    arms: Vec<String>,
    domain: Vec<String>,
    /// What each replica is called: by its name, its arm, or its number.
    called: Vec<String>,
}

impl Charts {
    /// Picks, thins and lays out the series of a run; `phases` are those of each replica.
    pub(super) fn new(
        series: &BTreeMap<Key, Series>,
        catalog: &Catalog,
        phases: &[Vec<Phase>],
        turns: &[Turn],
        Names { arms, own }: Names,
        still: bool,
    ) -> Self {
        let last_step = series.values().filter_map(|s| s.steps.last()).max().copied().unwrap_or(0);
        let replicas = series.keys().map(|key| key.replica + 1).max().unwrap_or(1);
        let mut charts = Self {
            topics: Vec::new(),
            tables: serde_json::Map::new(),
            together: Vec::new(),
            charted: BTreeSet::new(),
            last_step,
            still,
            thinned: false,
            replicas,
            called: (0..replicas as usize)
                .map(|at| own.get(at).or(arms.get(at)).cloned().unwrap_or_else(|| at.to_string()))
                .collect(),
            domain: different(&arms),
            arms,
        };
        // Neighbours are written on different lines, so that they do not cover each other.
        let row = |replica: usize, at: usize, phase: &Phase| {
            let late = 3 * phase.onset.step > 2 * last_step as u64;
            json!({ "step": phase.onset.step, "when": phase.onset.words(), "phase": phase.name, "line": at % 4, "replica": replica, "late": late })
        };
        let rows = phases.iter().enumerate().flat_map(|(r, p)| p.iter().enumerate().map(move |(at, p)| row(r, at, p)));
        charts.tables.insert("phases".to_owned(), json!({ "rows": rows.collect::<Vec<_>>() }));
        let mut topic_of: BTreeMap<&str, usize> = BTreeMap::new();
        let mut topics = Vec::new();
        for (at, topic) in TOPICS.iter().enumerate() {
            let note = if still && !topic.once.is_empty() { topic.once } else { topic.note };
            let mut shown = Shown::new(topic.title, note);
            for chart in topic.charts {
                let select = |(key, s)| (chart.select)(key, &index_name(key, catalog)).map(|name| (name, key, s));
                let chosen: Vec<Chosen<'_>> = series.iter().filter_map(select).collect();
                for (_, key, _) in &chosen {
                    if let Some(metric) = catalog.metrics.get(&key.metric) {
                        topic_of.entry(&metric.instrument).or_insert(at);
                    }
                }
                let chart = Chart {
                    title: chart.title,
                    below: "",
                    name: chart.name,
                    kind: chart.kind,
                    points: CHART_POINTS,
                    chosen,
                };
                charts.add(&mut shown, &chart, series, catalog, turns);
            }
            topics.push(shown);
        }
        topics.push(Shown::new("More measures", "From their cards: definition, unit, chance level."));
        for (name, metric) in &catalog.metrics {
            if charts.charted.contains(name) {
                continue;
            }
            let chosen = by_card(name, metric, series);
            if chosen.is_empty() {
                continue;
            }
            let at = topic_of.get(metric.instrument.as_str()).copied().unwrap_or(TOPICS.len());
            let table = format!("card {name}");
            let kind = kind_by_card(metric, &chosen);
            let chart = Chart { title: name, below: &metric.formula, name: &table, kind, points: CARD_POINTS, chosen };
            charts.add(&mut topics[at], &chart, series, catalog, turns);
        }
        charts.topics = topics.into_iter().filter(|topic| !topic.charts.is_empty()).collect();
        charts
    }

    /// Adds one chart, if there is anything for it.
    fn add(
        &mut self,
        shown: &mut Shown,
        chart: &Chart<'_>,
        series: &BTreeMap<Key, Series>,
        catalog: &Catalog,
        turns: &[Turn],
    ) {
        let chosen = &chart.chosen;
        let few: Vec<Chosen<'_>> = chosen.iter().filter(|(_, key, _)| key.replica < REPLICAS).cloned().collect();
        let scale = Scale::new(chosen, catalog, index_of(chart, catalog));
        let (table, drawn) = match chart.kind {
            Kind::Lines | Kind::LogLines => {
                let mut names: Vec<&str> = chosen.iter().map(|(name, ..)| name.as_str()).collect();
                names.sort_unstable();
                names.dedup();
                let many = names.len() > 1 && chosen.len() > LINES && !self.in_arms();
                let crowded = self.replicas > 1 && (names.len() > DASHES || many);
                let together = self.replicas > 1 && !crowded;
                let points = match together {
                    true if self.in_arms() => ARMS_POINTS,
                    true => chart.points.min(TOGETHER_POINTS),
                    false => chart.points,
                };
                let log = chart.kind == Kind::LogLines;
                let lines = self.lines(if crowded { &few } else { chosen }, points, log);
                // What stands beside others is not shown alone.
                let alone = chart.name != "loss" && chosen.iter().all(|(_, key, _)| key.metric == "loss.train");
                if lines.is_empty() || alone {
                    return;
                }
                self.together.extend(together.then(|| chart.name.to_owned()));
                let drawn = if self.still {
                    let values = || chosen.iter().flat_map(|(_, _, series)| &series.values);
                    let log = values().all(|value| *value > 0.0) && wide(values());
                    let several = Some(("replica", self.called.as_slice())).filter(|_| together);
                    still::dots(
                        &title(chart.title, chart.below),
                        chart.name,
                        (&scale.unit, &scale.chance, log),
                        lines.names(),
                        several,
                    )
                } else {
                    self.line_chart(chart, &scale, lines.names(), crowded)
                };
                (lines.table(), drawn)
            }
            Kind::Heat => {
                let Some(table) = heat(&few, &mut self.thinned) else { return };
                let drawn = if self.still {
                    still::bars(&title(chart.title, chart.below), chart.name, &scale.unit, &scale.index)
                } else {
                    self.cells(chart, &scale)
                };
                (table, drawn)
            }
            Kind::Flags => {
                let Some(table) = flags(&few, &mut self.thinned) else { return };
                let drawn = if self.still {
                    let names: BTreeSet<&String> = few.iter().map(|(name, ..)| name).collect();
                    let names: Vec<String> = names.into_iter().cloned().collect();
                    still::flags(&title(chart.title, chart.below), chart.name, &scale.index, &names)
                } else {
                    self.cells(chart, &scale)
                };
                (table, drawn)
            }
            Kind::Marks => {
                if turns.is_empty() {
                    return;
                }
                (json!({ "rows": marks::rows(turns, self.last_step) }), self.marks(chart))
            }
            Kind::Heads => {
                let Some(heads) = Heads::new(series, |replica| replica < REPLICAS, turns) else { return };
                self.thinned |= heads.thinned;
                if heads.count > heads.parts.len() {
                    shown.note += &format!(
                        " Of {} heads and MLPs the {} with the largest effects at the end are drawn by themselves.",
                        heads.count,
                        heads.parts.len()
                    );
                }
                if !self.still {
                    shown.note += " In the map, S marks suppressors and C contributors: heads named in a birth record of which both questions are answered yes at the last probe too: their effect differs from 0, by its error over the probe's examples, and is more than an average share of their layer. Heads that share their layer's work alike have no letter, however much they matter.";
                }
                let mut drawn = vec![map(&heads)];
                let (mlps, own): (Vec<&String>, Vec<&String>) = heads.parts.iter().partition(|p| p.ends_with("MLP"));
                if self.still {
                    let title = json!("Change of the logit difference when one head or the MLP is removed");
                    let baselines = heads::BASELINES.map(str::to_owned);
                    let colours = Some(("baseline", baselines.as_slice()));
                    drawn.push(still::dots(&title, chart.name, ("logits", &[0.0], false), &heads.parts, colours));
                } else {
                    for (title, parts) in [("one head", own), ("the MLP", mlps)] {
                        drawn.extend((!parts.is_empty()).then(|| self.small(title, &parts)));
                    }
                }
                let drawn = json!({ "vconcat": drawn, "spacing": 18 });
                self.tables.insert("null".to_owned(), heads.null);
                self.tables.insert("map".to_owned(), heads.map);
                shown.tables.extend(["null".to_owned(), "map".to_owned()]);
                self.charted.extend(["ablation.logit_difference", "ablation.p", "ablation.null"].map(str::to_owned));
                (heads.effects, drawn)
            }
        };
        self.charted.extend(chosen.iter().map(|(_, key, _)| key.metric.clone()));
        self.tables.insert(chart.name.to_owned(), table);
        shown.tables.push(chart.name.to_owned());
        shown.charts.push(drawn);
    }

    /// Whether arms have several replicas.
    fn in_arms(&self) -> bool {
        self.domain.len() < self.arms.len()
    }

    /// The column by which lines are told apart that have one colour.
    fn detail(&self) -> &'static str {
        if self.in_arms() { "member" } else { "replica" }
    }

    /// The colour of arms.
    pub(super) fn by_arm(&self) -> Value {
        let arms: Vec<&str> = self.domain.iter().map(String::as_str).collect();
        let scale = json!({ "domain": self.domain });
        json!({ "field": "replica", "type": "nominal", "title": null, "scale": scale, "legend": legend(&arms) })
    }

    /// Puts a topic before the others, of charts with their tables, which show all replicas.
    pub(super) fn lead(&mut self, title: &'static str, note: &str, charts: Vec<Value>, tables: Vec<(String, Value)>) {
        let mut shown = Shown { charts, ..Shown::new(title, note) };
        for (name, table) in tables {
            self.together.push(name.clone());
            shown.tables.push(name.clone());
            self.tables.insert(name, table);
        }
        self.topics.insert(0, shown);
    }

    fn lines(&mut self, chosen: &[Chosen<'_>], points: usize, log: bool) -> Lines {
        let limit = (points / chosen.len().max(1)).clamp(30, SERIES_POINTS);
        let mut lines = Lines::default();
        for (name, key, series) in chosen {
            lines.add(name, key.replica, series, limit, log);
        }
        self.thinned |= lines.is_thinned();
        lines
    }

    /// What the reader must know of the pictures.
    pub(super) fn notes(&self) -> Vec<String> {
        if self.still {
            return vec![
                "A dot is a number at its place; dotted lines are chance. The Parquet files hold every number."
                    .to_owned(),
            ];
        }
        let mut notes = vec![
            "Drag over the strip at the top to zoom all charts; double-click it to see everything again. Dashed lines are what happened when."
                .to_owned(),
        ];
        if self.replicas > 1 {
            notes.push(format!(
                "Charts of few series draw every replica. Dashed lines, heat maps, marks and charts of many series are those of the replica chosen beside the strip{}.",
                if self.replicas > REPLICAS { format!(", one of the first {REPLICAS}") } else { String::new() },
            ));
        }
        if self.thinned {
            notes.push(format!(
                "Long series are thinned: of each stretch of steps the smallest and the largest value are drawn, at most {SERIES_POINTS} points a line, fewer where lines are many; heat maps show some of the steps. The Parquet files hold every number."
            ));
        }
        notes
    }

    /// Everything the page's script needs.
    pub(super) fn payload(&self) -> Value {
        let topics = self.topics.iter().enumerate().map(|(at, topic)| {
            json!({ "id": format!("topic-{at}"), "spec": self.topic(&topic.charts), "tables": topic.tables })
        });
        let several = match self.replicas > 1 {
            true if self.in_arms() => self.arms.as_slice(),
            true => self.called.as_slice(),
            false => &[],
        };
        json!({
            "strip": (self.tables.contains_key("loss") && !self.still).then(|| self.strip()),
            "topics": topics.collect::<Vec<_>>(),
            "tables": self.tables,
            "together": self.together,
            "replicas": several,
            "members": self.in_arms().then_some(&self.called),
            "last": self.last_step.max(1),
            "width": WIDTH,
            "beside": AXIS + BESIDE + MENU,
        })
    }

    /// Names of the places that the page leaves for the topics, titles, notes, and pixels from top to bottom.
    pub(super) fn headings(&self) -> Vec<(String, &'static str, &str, u64)> {
        let height = |topic: &Shown| topic.charts.iter().map(|chart| tall(chart, IN_A_ROW)).sum();
        let topics = self.topics.iter().enumerate();
        topics.map(|(at, t)| (format!("topic-{at}"), t.title, t.note.as_str(), height(t))).collect()
    }

    /// The replicas that can be chosen.
    pub(super) fn choices(&self) -> Vec<String> {
        let name = |at: usize| if self.arms.is_empty() { format!("replica {at}") } else { self.called[at].clone() };
        if self.replicas > 1 { (0..self.replicas.min(REPLICAS) as usize).map(name).collect() } else { Vec::new() }
    }

    fn config() -> Value {
        json!({
            "view": { "stroke": "#ddd" },
            "axis": { "gridColor": "#eee", "labelColor": "#444", "titleColor": "#444", "titleFontWeight": "normal" },
            "axisY": { "minExtent": AXIS, "maxExtent": AXIS },
            "title": {
                "anchor": "start", "fontSize": 12, "fontWeight": 600, "color": "#222", "offset": 6,
                "subtitleFontSize": 11, "subtitleColor": "#666", "subtitlePadding": 2,
            },
            "legend": { "titleColor": "#444", "titleFontWeight": "normal", "symbolLimit": 60, "offset": 8 },
            "font": "system-ui, sans-serif",
            // A canvas has no use for the description that every point would get in words.
            "aria": false,
        })
    }

    /// The specification of one topic.
    fn topic(&self, charts: &[Value]) -> Value {
        json!({
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "params": [
                { "name": "from", "value": 0 },
                { "name": "to", "value": self.last_step.max(1) },
            ],
            "vconcat": charts,
            "spacing": 14,
            "resolve": { "scale": { "color": "independent", "strokeDash": "independent", "shape": "independent" } },
            "config": Self::config(),
        })
    }

    /// The strip that is dragged over.
    fn strip(&self) -> Value {
        json!({
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "data": source("loss"),
            "width": WIDTH,
            "height": 40,
            "title": "Drag here to zoom all charts",
            "params": [{ "name": "brush", "select": { "type": "interval", "encodings": ["x"] } }],
            "mark": { "type": "line", "strokeWidth": 1 },
            "encoding": {
                "x": {
                    "field": "step", "type": "quantitative", "title": null,
                    "scale": { "domain": [0, self.last_step.max(1)], "nice": false },
                },
                "y": {
                    "field": "value", "type": "quantitative", "title": "loss", "scale": { "type": "log" },
                    "axis": { "labels": false, "ticks": false, "grid": false },
                },
                "color": {
                    "field": if self.arms.is_empty() { "series" } else { "replica" },
                    "type": "nominal", "legend": null, "sort": null,
                },
                "detail": [{ "field": self.detail() }, { "field": "series" }],
            },
            "config": Self::config(),
        })
    }

    /// A chart's title and size around its layers, with the phases on top.
    fn framed(&self, chart: &Chart<'_>, height: Value, layers: Vec<Value>, ink: &str) -> Value {
        let mut all = layers;
        all.extend(phase_marks(ink, true));
        json!({ "title": title(chart.title, chart.below), "width": WIDTH, "height": height, "layer": all })
    }

    fn line_chart(&self, chart: &Chart<'_>, values: &Scale, names: &[String], crowded: bool) -> Value {
        let log = chart.kind == Kind::LogLines;
        let levels: Vec<&String> = names.iter().filter(|name| is_level(name)).collect();
        let count = names.len() - levels.len();
        let mut scale = if log { json!({ "type": "log" }) } else { json!({ "zero": false }) };
        for (end, value) in ["domainMin", "domainMax"].iter().zip(values.ends).filter(|_| !log) {
            if let Some(value) = value {
                scale[*end] = json!(value);
            }
        }
        let axis = if log { json!({ "format": ".0e", "tickCount": 6 }) } else { json!({ "tickCount": 6 }) };
        let y = json!({ "field": "value", "type": "quantitative", "title": values.unit, "scale": scale, "axis": axis });
        // Few series of named replicas: one colour for each replica, one stroke for each series.
        let by_arm = !self.arms.is_empty() && !crowded;
        let shown: Vec<&str> = names.iter().filter(|name| !is_level(name)).map(String::as_str).collect();
        let colour = if by_arm {
            self.by_arm()
        } else {
            json!({
                "field": "series", "type": "nominal", "title": null, "legend": legend(&shown),
                "scale": { "scheme": if count > 10 { "tableau20" } else { "category10" } },
            })
        };
        let mut encoding = json!({ "x": step_axis(), "y": y, "color": colour, "detail": { "field": self.detail() } });
        if by_arm && count > 1 {
            let legend = legend(&shown);
            encoding["strokeDash"] = json!({ "field": "series", "type": "nominal", "title": null, "legend": legend });
        }
        let filter = json!({ "field": "series", "oneOf": levels });
        let is_others = (!levels.is_empty()).then(|| json!({ "filter": { "not": filter } }));
        let several = self.replicas > 1 && !crowded;
        let mut layers = vec![json!({
            "data": source(chart.name),
            "transform": Vec::from_iter(is_others),
            "mark": {
                "type": "line", "clip": true, "point": self.last_step == 0, "strokeWidth": 1.3,
                "opacity": if several { 0.7 } else { 0.95 }, "tooltip": whole_row(),
            },
            "encoding": encoding,
        })];
        layers.extend((!levels.is_empty()).then(|| {
            json!({
                "data": source(chart.name),
                "transform": [{ "filter": filter }],
                "mark": {
                    "type": "line", "clip": true, "color": "#888", "strokeDash": [6, 4], "tooltip": whole_row(),
                },
                "encoding": { "x": step_axis(), "y": y, "detail": [{ "field": self.detail() }, { "field": "series" }] },
            })
        }));
        layers.extend(values.chance.iter().filter(|chance| !log || **chance > 0.0).map(|chance| {
            json!({
                "data": { "values": [{ "value": chance, "what": "chance" }] },
                "mark": { "type": "rule", "color": "#888", "strokeDash": [2, 3], "clip": true, "tooltip": whole_row() },
                "encoding": { "y": y },
            })
        }));
        let height = if chart.name == "loss" { 220 } else { 140 };
        self.framed(chart, json!(height), layers, "#333")
    }

    /// Cells of a frequency between two steps.
    fn cells(&self, chart: &Chart<'_>, values: &Scale) -> Value {
        let heat = chart.kind == Kind::Heat;
        let colour = if heat {
            json!({ "field": "value", "type": "quantitative", "title": values.unit, "scale": { "scheme": "viridis" } })
        } else {
            let names: BTreeSet<&str> = chart.chosen.iter().map(|(name, ..)| name.as_str()).collect();
            json!({ "field": "series", "type": "nominal", "title": null, "legend": legend(&Vec::from_iter(names)) })
        };
        let layer = json!({
            "data": source(chart.name),
            "mark": { "type": "rect", "clip": true, "opacity": if heat { 1.0 } else { 0.7 } },
            "encoding": {
                "x": step_axis(), "x2": { "field": "until" },
                "y": {
                    "field": "low", "type": "quantitative", "title": values.index,
                    "scale": { "nice": false, "zero": false },
                },
                "y2": { "field": "high" },
                "color": colour,
                "tooltip": [
                    { "field": "index", "title": "k" }, { "field": "step" }, { "field": "until" },
                    { "field": if heat { "value" } else { "series" } },
                ],
            },
        });
        // Heat maps are dark, and grey where there is nothing to show.
        let label = if heat { "white" } else { "#333" };
        let mut framed = self.framed(chart, json!(if heat { 180 } else { 160 }), vec![layer], label);
        if heat {
            framed["view"] = json!({ "fill": "#999" });
        }
        framed
    }

    /// Births, deaths and flips, a lane for each kind of circuit.
    fn marks(&self, chart: &Chart<'_>) -> Value {
        let layer = json!({
            "data": source(chart.name),
            "mark": { "type": "point", "filled": true, "clip": true, "size": 55, "opacity": 0.75 },
            "encoding": {
                "x": step_axis(),
                "y": {
                    "field": "lane", "type": "nominal", "title": null,
                    "axis": { "grid": true, "labelLimit": AXIS * 2, "minExtent": AXIS, "labelFontSize": 9 },
                },
                "yOffset": { "field": "kind", "sort": ["birth", "flip", "death"] },
                "shape": {
                    "field": "kind", "type": "nominal", "title": null,
                    "scale": { "domain": ["birth", "flip", "death"], "range": ["triangle-up", "diamond", "triangle-down"] },
                },
                "color": {
                    "field": "kind", "type": "nominal", "title": null,
                    "scale": { "domain": ["birth", "flip", "death"], "range": ["#2a9d4a", "#e07b00", "#9a3b3b"] },
                },
                "tooltip": [{ "field": "kind" }, { "field": "what" }, { "field": "when" }, { "field": "lane" }],
            },
        });
        self.framed(chart, json!(120), vec![layer], "#333")
    }

    /// One small chart for each part, heads or MLPs, with the same value axis.
    fn small(&self, title: &str, parts: &[&String]) -> Value {
        let width = WIDTH / IN_A_ROW as u32 - AXIS;
        let panel = |(at, part): (usize, &&String)| {
            let mlp = part.ends_with("MLP");
            let layer = part[1..].split(' ').next().unwrap_or_default();
            let title = if at % IN_A_ROW == 0 { json!("logits") } else { Value::Null };
            let y = json!({ "type": "quantitative", "title": title, "scale": { "zero": true }, "axis": { "tickCount": 4, "minExtent": 30, "maxExtent": 30 } });
            let field = |field: &str| {
                let mut y = y.clone();
                y["field"] = json!(field);
                y
            };
            let mut x = step_axis();
            x["title"] = Value::Null;
            x["axis"] = json!({ "tickCount": 3 });
            let band = json!({
                "data": source("null"),
                "transform": [{ "filter": format!("datum.layer === {layer}") }],
                "mark": { "type": "area", "color": "#999", "opacity": 0.3, "clip": true },
                "encoding": { "x": x, "y": field("low"), "y2": { "field": "high" } },
            });
            let line = json!({
                "data": source("heads"),
                "transform": [{ "filter": format!("datum.series === '{part}'") }],
                "mark": {
                    "type": "line", "clip": true, "strokeWidth": 1.3, "point": self.last_step == 0,
                    "tooltip": whole_row(),
                },
                "encoding": {
                    "x": x, "y": field("value"),
                    "color": {
                        "field": "baseline", "type": "nominal", "title": "ablation",
                        "scale": { "domain": ["zero", "mean", "resample"], "range": ["#d62728", "#1f77b4", "#8fb8de"] },
                        "legend": { "orient": "bottom", "columns": 3, "rows": 1 },
                    },
                },
            });
            let mut layers: Vec<Value> = Vec::new();
            layers.extend((!mlp).then_some(band));
            layers.push(line);
            layers.extend(phase_marks("#333", false));
            json!({ "title": part, "width": width, "height": 100, "layer": layers })
        };
        let panels: Vec<Value> = parts.iter().enumerate().map(panel).collect();
        json!({
            "title": format!("Change of the logit difference when {title} is removed"),
            "concat": panels, "columns": IN_A_ROW, "spacing": 12,
            "resolve": { "scale": { "color": "shared", "y": "shared" } },
        })
    }
}

impl Shown {
    fn new(title: &'static str, note: &str) -> Self {
        Self { title, note: note.to_owned(), charts: Vec::new(), tables: vec!["phases".to_owned()] }
    }
}

impl Scale {
    /// Share of the way to a bound that the values must come for it to end the axis.
    const NEAR: f64 = 0.75;

    fn new(chosen: &[Chosen<'_>], catalog: &Catalog, index: &str) -> Self {
        let metrics: BTreeSet<&str> = chosen.iter().map(|(_, key, _)| key.metric.as_str()).collect();
        let cards: Vec<&Described> = metrics.iter().filter_map(|name| catalog.metrics.get(*name)).collect();
        let derived = metrics.iter().find_map(|name| match *name {
            KEY_COUNT => Some("keys"),
            NOISE_SCALE => Some("examples"),
            FOLLOWED => Some("synchrony"),
            _ => None,
        });
        let share = |card: &&Described| card.unit == "1" && card.bounds == [Some(0.0), Some(1.0)];
        let unit = match (derived, cards.first()) {
            (Some(unit), _) => unit.to_owned(),
            (None, Some(card)) if share(card) => "share".to_owned(),
            (None, Some(card)) => card.unit.clone(),
            (None, None) => "1".to_owned(),
        };
        let mut chance: Vec<f64> = cards.iter().filter_map(|card| card.chance).collect();
        chance.sort_by(f64::total_cmp);
        chance.dedup();
        let values = chosen.iter().flat_map(|(_, _, series)| &series.values).filter(|value| value.is_finite());
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(f64::from(*value)), high.max(f64::from(*value)))
        });
        // Only where all that is drawn is bounded alike.
        let bound = |end: usize| {
            let first = cards.first()?.bounds[end]?;
            (metrics.len() == cards.len() && cards.iter().all(|card| card.bounds[end] == Some(first))).then_some(first)
        };
        // What lies beyond a bound by rounding is seen.
        let least = bound(0).filter(|least| low >= *least && high - low >= Self::NEAR * (high - least));
        let most = bound(1).filter(|most| high <= *most && most - low <= (high - low) / Self::NEAR);
        Self { unit, chance, ends: [least, most], index: index.to_owned() }
    }
}

/// Names in their order, each once.
fn different(names: &[String]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    names.iter().for_each(|name| {
        if !all.contains(name) {
            all.push(name.clone())
        }
    });
    all
}

/// The series of a metric under names made of their places.
pub(super) fn by_card<'a>(name: &str, metric: &Described, series: &'a BTreeMap<Key, Series>) -> Vec<Chosen<'a>> {
    let of_metric: Vec<(&Key, &Series)> = series.iter().filter(|(key, _)| key.metric == name).collect();
    let sites: BTreeSet<&str> = of_metric.iter().map(|(key, _)| key.site.as_str()).collect();
    let indices: BTreeSet<i32> = of_metric.iter().map(|(key, _)| key.index).collect();
    // Of what is counted, the first place alone: frequencies of several cannot lie over each other.
    let counted = indices.len() > MANY;
    let place = |key: &Key| (key.site.clone(), key.layer, key.head);
    let first = of_metric.first().map(|(key, _)| place(key));
    let shown = of_metric.into_iter().filter(|(key, _)| !counted || Some(place(key)) == first);
    let named = |(key, series): (&'a Key, &'a Series)| {
        let mut words = Vec::new();
        let site = key.site.strip_prefix("blocks.").unwrap_or(&key.site);
        // The layer stands for itself.
        let site = site.strip_prefix(&format!("{}.", key.layer)).unwrap_or(site);
        words.extend((sites.len() > 1).then(|| site.to_owned()));
        words.extend((key.layer >= 0).then(|| format!("L{}", key.layer)));
        words.extend((key.head >= 0).then(|| format!("H{}", key.head)));
        let index = usize::try_from(key.index).ok().filter(|_| !counted);
        let number = |at: usize| format!("{} {at}", metric.counts.split([' ', ',']).next().unwrap_or_default());
        words.extend(index.map(|at| metric.index.get(at).cloned().unwrap_or_else(|| number(at).trim().to_owned())));
        (if words.is_empty() { name.to_owned() } else { words.join(" ") }, key, series)
    };
    shown.map(named).collect()
}

/// Whether positive values need a logarithmic axis.
fn wide<'a>(values: impl Iterator<Item = &'a f32>) -> bool {
    /// Largest by smallest from which they do.
    const RANGE: f32 = 100.0;
    let values = values.filter(|value| value.is_finite());
    let (low, high) = values.fold((f32::INFINITY, 0.0f32), |(low, high), v| (low.min(*v), high.max(*v)));
    low > 0.0 && high > RANGE * low
}

/// What the index of a series is called.
fn index_name(key: &Key, catalog: &Catalog) -> String {
    let name = || catalog.metrics.get(&key.metric)?.index.get(usize::try_from(key.index).ok()?).cloned();
    name().unwrap_or_else(|| key.index.to_string())
}

/// What the index axis of a chart counts.
fn index_of<'a>(chart: &Chart<'_>, catalog: &'a Catalog) -> &'a str {
    /// Letters that the axis has room for.
    const ROOM: usize = 24;
    let counts = || catalog.metrics.get(chart.name.strip_prefix("card ")?).map(|metric| metric.counts.as_str());
    match counts() {
        None => "frequency k",
        Some("") => "index",
        Some(long) if long.chars().count() > ROOM => long.split([' ', ',']).next().unwrap_or("index"),
        Some(counts) => counts,
    }
}

/// How a metric is drawn of which only the card is known.
fn kind_by_card(metric: &Described, chosen: &[Chosen<'_>]) -> Kind {
    let indices: BTreeSet<i32> = chosen.iter().map(|(_, key, _)| key.index).collect();
    let values = || chosen.iter().flat_map(|(_, _, series)| &series.values).filter(|value| value.is_finite());
    match () {
        _ if metric.set => Kind::Flags,
        _ if indices.len() > MANY => Kind::Heat,
        _ if wide(values()) => Kind::LogLines,
        _ => Kind::Lines,
    }
}

/// A table of the page by its name. Its numbers are numbers: rows need no copies to make sure of that.
pub(super) fn source(name: &str) -> Value {
    json!({ "name": name, "format": { "parse": null } })
}

/// A tooltip of all columns: unlike one of chosen columns, it puts no words together before anybody asks.
pub(super) fn whole_row() -> Value {
    json!({ "content": "data" })
}

/// The axis of steps that the page zooms.
pub(super) fn step_axis() -> Value {
    let scale = json!({ "domain": [{ "expr": "from" }, { "expr": "to" }], "nice": false, "zero": false });
    json!({ "field": "step", "type": "quantitative", "title": "step", "scale": scale })
}

/// Dashed lines at the phases of the replica shown, with their names where there is room.
fn phase_marks(ink: &str, named: bool) -> Vec<Value> {
    let mut marks = vec![json!({
        "data": source("phases"),
        "mark": { "type": "rule", "strokeDash": [4, 3], "color": ink, "clip": true, "opacity": if named { 1.0 } else { 0.5 } },
        "encoding": { "x": step_axis(), "tooltip": [{ "field": "phase" }, { "field": "when" }] },
    })];
    marks.extend(named.then(|| {
        json!({
            "data": source("phases"),
            "mark": {
                // At the right end names stand left of their line.
                "type": "text", "align": { "expr": "datum.late ? 'right' : 'left'" }, "dx": { "expr": "datum.late ? -3 : 3" },
                "dy": { "expr": "3 + 11 * datum.line" }, "fontSize": 10, "color": ink, "clip": true, "baseline": "top",
            },
            "encoding": { "x": step_axis(), "y": { "value": 0 }, "text": { "field": "phase" } },
        })
    }));
    marks
}

/// Layer by head: the last effects on logit difference and loss.
fn map(heads: &Heads) -> Value {
    /// Pixels of a column: with a number and a letter in it, and where there is no room for them.
    const COLUMN: usize = 58;
    const NARROW: usize = 44;
    /// Names of layers, and the gap between both sides.
    const GAP: usize = 64;
    let all = (WIDTH + BESIDE) as usize;
    let beside = 2 * (heads.heads * COLUMN + GAP) <= all;
    let column = if beside { COLUMN } else { COLUMN.min((all - GAP) / heads.heads.max(1)) };
    let side = |field: &str, title: &str, marks: bool, end: f32| {
        let cell = |mark: Value, encoding: Value| {
            let mut encoding = encoding;
            encoding["x"] = json!({ "field": "head", "type": "nominal", "title": null, "axis": { "labelAngle": 0, "orient": "top" }, "sort": null });
            encoding["y"] = json!({ "field": "layer", "type": "nominal", "title": null, "axis": { "minExtent": 24, "maxExtent": 24 }, "sort": null });
            json!({
                "data": source("map"), "mark": mark, "encoding": encoding,
                "transform": [
                    { "calculate": format!("format(datum.{field}, '+.2~f'){}", if marks { " + datum.letter" } else { "" }), "as": "words" },
                ],
            })
        };
        let tooltip = json!([
            { "field": "layer" }, { "field": "head" }, { "field": "effect", "title": "logit difference" },
            { "field": "loss" }, { "field": "p" }, { "field": "role" },
        ]);
        let rect = cell(
            json!({ "type": "rect", "strokeWidth": 2.5 }),
            json!({
                "color": {
                    "field": field, "type": "quantitative", "title": null,
                    "scale": { "domain": [-end, 0, end], "range": ["#7fb0dc", "#fafafa", "#f3b071"] }, "legend": null,
                },
                "stroke": { "condition": { "test": "datum.clears", "value": "black" }, "value": "white" },
                "tooltip": tooltip,
            }),
        );
        let words = cell(json!({ "type": "text", "fontSize": 10 }), json!({ "text": { "field": "words" } }));
        let row = if heads.layers > 4 { 22 } else { 34 };
        json!({
            "title": title, "width": heads.heads * column, "height": heads.layers * row,
            "layer": if column < NARROW { vec![rect] } else { vec![rect, words] },
        })
    };
    json!({
        (if beside { "hconcat" } else { "vconcat" }): [
            side("effect", "Last change of the logit difference", true, heads.ends[0]),
            side("loss", "Last change of the loss, nats", false, heads.ends[1]),
        ],
        "spacing": if beside { 40 } else { 14 },
        "resolve": { "scale": { "color": "independent" } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instrument::registry;

    /// A catalog of every metric of every instrument, and a series of each: a layer, two heads, the indices of its card.
    fn everything() -> (Catalog, BTreeMap<Key, Series>) {
        let mut catalog = Catalog { classes: 7, ..Catalog::default() };
        let mut series = BTreeMap::new();
        for instrument in registry() {
            for card in instrument.cards() {
                let set = card.name.starts_with("key_frequencies");
                let metric = Described::new(instrument.name(), card, card.every, [7, 7], set);
                catalog.metrics.insert(card.name.to_owned(), metric);
                for (head, index) in [(0, 0), (1, 1), (-1, -1)] {
                    let site = "blocks.0.somewhere".to_owned();
                    let key = Key { metric: card.name.to_owned(), site, layer: 0, head, index, replica: 0 };
                    series.insert(key, Series { steps: vec![0, 10, 20, 30], values: vec![0.1, 0.5, 0.9, 0.7] });
                }
            }
        }
        (catalog, series)
    }

    fn nameless() -> Names {
        Names { arms: Vec::new(), own: Vec::new() }
    }

    #[test]
    fn no_metric_is_without_a_chart() {
        let (catalog, series) = everything();
        let charts = Charts::new(&series, &catalog, &[Vec::new()], &[], nameless(), false);
        let missing: Vec<&String> = catalog.metrics.keys().filter(|name| !charts.charted.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        // A chart is a table that the page has, and a specification that names it.
        let payload = charts.payload();
        let specs = payload["topics"].to_string();
        for (name, _) in payload["tables"].as_object().unwrap() {
            assert!(name == "loss" || specs.contains(&format!("\"name\":\"{name}\"")), "{name}");
        }
        assert!(
            specs.contains("\"ablation.path\"") && specs.contains("zero ablation's change"),
            "a card's chart has its definition"
        );
    }

    #[test]
    fn a_model_measured_once_is_shown_without_steps() {
        let (catalog, mut series) = everything();
        for (key, series) in &mut series {
            // Members of a set have a stretch of steps.
            let steps = if catalog.metrics[&key.metric].set { vec![0, 1] } else { vec![0] };
            *series = Series { values: vec![0.5; steps.len()], steps };
        }
        let charts = Charts::new(&series, &catalog, &[Vec::new()], &[], nameless(), true);
        let missing: Vec<&String> = catalog.metrics.keys().filter(|name| !charts.charted.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let payload = charts.payload();
        let specs = payload["topics"].to_string();
        assert!(payload["strip"].is_null() && !specs.contains("\"field\":\"step\""), "{specs}");
    }

    #[test]
    fn chance_and_bounds_are_those_of_the_cards() {
        let (catalog, series) = everything();
        let chosen: Vec<Chosen<'_>> = series
            .iter()
            .filter(|(key, _)| key.metric == "accuracy.test")
            .map(|(key, series)| (String::new(), key, series))
            .collect();
        let scale = Scale::new(&chosen, &catalog, "");
        assert_eq!((scale.unit.as_str(), scale.chance, scale.ends), ("share", vec![1.0 / 7.0], [Some(0.0), Some(1.0)]));
        let payload = Charts::new(&series, &catalog, &[Vec::new()], &[], nameless(), false).payload().to_string();
        assert!(payload.contains(&format!("\"value\":{}", (7f64).ln())), "ln 7, the loss of knowing nothing, is drawn");
    }

    #[test]
    fn lines_have_gaps_where_there_is_no_number() {
        let mut lines = Lines::default();
        let series = Series { steps: vec![0, 10, 20, 30], values: vec![2.0, f32::NAN, -1.0, 4.0] };
        lines.add("a", 0, &series, 100, true);
        assert_eq!(lines.table()["value"], json!([2, null, null, 4]));
        let mut lines = Lines::default();
        lines.add("a", 0, &series, 100, false);
        assert_eq!(lines.table()["value"], json!([2, null, -1, 4]));
    }
}
