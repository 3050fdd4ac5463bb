//! The page of a comparison: that of a report, with what is compared before it.

use minijinja::{Value, context};
use serde_json::json;

use super::super::charts::{Charts, Names, source, step_axis, whole_row};
use super::super::layout::WIDTH;
use super::super::{claims, data, judged, library, of_json, phases, render};
use super::Numbers;
use super::events::Event;
use super::members::{Date, Party};
use crate::error::Result;
use crate::train::ReplicaConfig;

/// Survival curves that are drawn at most, and replicas of which claims are judged.
const CURVES: usize = 8;
const JUDGED: usize = 12;

/// The page as HTML.
pub(super) fn page(party: &Party, numbers: &Numbers) -> Result<String> {
    let (series, catalog) = (party.series(), party.catalog());
    let phases: Vec<_> = party.runs.iter().flat_map(super::members::Run::phases).collect();
    let arms = party.members.iter().map(|member| party.arms[member.arm].name.clone()).collect();
    let own = party.members.iter().map(|member| member.name.clone()).collect();
    let mut charts = Charts::new(&series, &catalog, &phases, &[], Names { arms, own }, false);
    let (drawn, tables) = when(party, &numbers.events, &charts);
    if !drawn.is_empty() {
        charts.lead("When what happened", NOTE, drawn, tables);
    }
    let labels: Vec<&str> = party.runs.iter().map(|run| run.label.as_str()).collect();
    let keys: Vec<String> = numbers.arms[0].settings.keys().cloned().collect();
    render(context! {
        name => labels.join(", "),
        description => format!("{} compared: {} replicas in {}.", count(party.runs.len(), "run"), party.members.len(), count(party.arms.len(), "arm")),
        status => "",
        compared => of_json(&serde_json::to_value(numbers).unwrap_or_default()),
        keys,
        groups => judge(party),
        warnings => numbers.notes.clone(),
        facts => party.runs.iter().map(|run| (run.label.clone(), super::super::status(&run.manifest, run.last_step) + ": " + &run.dir.display().to_string())).collect::<Vec<_>>(),
        notes => charts.notes(),
        empty => series.is_empty(),
        topics => charts.headings().into_iter().map(|(id, title, note, tall)| context! { id, title, note, tall }).collect::<Vec<_>>(),
        strip => true,
        choices => charts.choices(),
        library => Value::from_safe_string(library()),
        data => Value::from_safe_string(data(&charts)),
    })
}

fn count(number: usize, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

const NOTE: &str = "Each mark is a date in one replica, with the steps back to the measurement before; a triangle is the end of a replica in which it had not come. Below, the share of an arm's replicas to which it has not come, with its 95 % interval (Kaplan and Meier).";

/// Dates of events by replica, and the share of each arm to which they have not come.
fn when(
    party: &Party,
    events: &[Event],
    charts: &Charts,
) -> (Vec<serde_json::Value>, Vec<(String, serde_json::Value)>) {
    let mut rows = Vec::new();
    for member in party.members.iter().filter(|member| member.copy_of.is_none()) {
        for (event, date) in member.dates.iter().filter(|(name, _)| events.iter().any(|event| event.event == *name)) {
            let Date::Known(onset) = date else { continue };
            rows.push(json!({
                "event": event, "replica": party.arms[member.arm].name, "member": member.name, "step": onset.step,
                "after": onset.step - onset.resolution, "came": onset.began().is_some(), "when": onset.words(),
            }));
        }
    }
    if rows.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let arms: Vec<&String> = party.arms.iter().map(|arm| &arm.name).collect();
    let mut names: Vec<&str> = events.iter().map(|event| event.event).collect();
    names.dedup();
    let mark = |mark: serde_json::Value, came: bool, x2: bool| {
        let mut encoding = json!({
            "x": step_axis(),
            "y": { "field": "event", "type": "nominal", "title": null, "sort": names, "axis": { "grid": true, "minExtent": 52, "labelLimit": 160 } },
            "yOffset": { "field": "replica", "sort": arms },
            "color": charts.by_arm(),
        });
        if x2 {
            encoding["x2"] = json!({ "field": "after" });
        }
        json!({ "data": source("dates"), "transform": [{ "filter": format!("datum.came === {came}") }], "mark": mark, "encoding": encoding })
    };
    let height = names.len() * (16 + 7 * arms.len());
    let dates = json!({
        "title": "Dates of events, by replica", "width": WIDTH - 110, "height": height,
        "layer": [
            mark(json!({ "type": "rule", "clip": true, "tooltip": whole_row() }), true, true),
            mark(json!({ "type": "point", "shape": "circle", "filled": true, "size": 34, "clip": true, "opacity": 0.8, "tooltip": whole_row() }), true, false),
            mark(json!({ "type": "point", "shape": "triangle-right", "size": 34, "clip": true, "opacity": 0.6, "tooltip": whole_row() }), false, false),
        ],
    });
    let (mut drawn, mut left) = (vec![dates], Vec::new());
    // A curve of one replica is its date.
    let several = |event: &&Event| event.arms.iter().any(|arm| arm.replicas > 1);
    for (at, event) in events.iter().filter(several).take(CURVES).enumerate() {
        for arm in &event.arms {
            left.extend(steps(at, event, arm));
        }
        drawn.push(survival(at, event, charts));
    }
    let mut tables = vec![("dates".to_owned(), json!({ "rows": rows }))];
    tables.extend((drawn.len() > 1).then(|| ("survival".to_owned(), json!({ "rows": left }))));
    (drawn, tables)
}

/// The corners of a curve, from the beginning to where its arm was last watched.
fn steps(at: usize, event: &Event, arm: &super::events::OfArm) -> Vec<serde_json::Value> {
    let falls = arm.left.falls.iter().map(|fall| fall.at);
    let begin = event.from.unwrap_or(0) as f64;
    let corners = [begin].into_iter().chain(falls).chain([arm.left.last]);
    let row = |step: f64| {
        let [low, high] = arm.left.interval(step, 0.95).unwrap_or([arm.left.at(step); 2]);
        json!({ "curve": at, "replica": arm.arm, "step": step, "left": arm.left.at(step), "low": low, "high": high })
    };
    corners.map(row).collect()
}

fn survival(at: usize, event: &Event, charts: &Charts) -> serde_json::Value {
    let since = event.from.map_or_else(String::new, |from| format!(", arms that began at step {from}"));
    let filter = json!([{ "filter": format!("datum.curve === {at}") }]);
    let y = |field: &str| json!({ "field": field, "type": "quantitative", "title": "share left", "scale": { "domain": [0, 1] }, "axis": { "tickCount": 4 } });
    json!({
        "title": format!("Share of replicas to which \u{201c}{}\u{201d} has not come{since}", event.event),
        "width": WIDTH - 110, "height": 90,
        "layer": [
            {
                "data": source("survival"), "transform": filter,
                "mark": { "type": "area", "interpolate": "step-after", "opacity": 0.12, "clip": true },
                "encoding": { "x": step_axis(), "y": y("low"), "y2": { "field": "high" }, "color": charts.by_arm() },
            },
            {
                "data": source("survival"), "transform": filter,
                "mark": { "type": "line", "interpolate": "step-after", "clip": true, "tooltip": whole_row() },
                "encoding": { "x": step_axis(), "y": y("left"), "color": charts.by_arm() },
            },
        ],
    })
}

/// Claims about what is declared a control of what, over all runs; of many replicas each run's own report judges them.
fn judge(party: &Party) -> Vec<Value> {
    let declared = party.runs.iter().flat_map(|run| &run.replicas).any(ReplicaConfig::is_control);
    if !declared || party.members.len() > JUDGED {
        return Vec::new();
    }
    let of_run = |run: usize| party.members.iter().filter(move |member| member.run == run);
    let configs: Vec<ReplicaConfig> = party
        .members
        .iter()
        .map(|member| {
            let run = &party.runs[member.run];
            let own = run.replicas[member.replica].clone();
            let called = |name: String| {
                let named = of_run(member.run).find(|other| run.replicas[other.replica].name.as_ref() == Some(&name));
                named.map_or(name, |other| other.name.clone())
            };
            let group = match (&own.group, party.runs.len()) {
                (group, 1) => group.clone(),
                (Some(group), _) => Some(format!("{}, {group}", run.label)),
                (None, _) => Some(run.label.clone()),
            };
            ReplicaConfig {
                name: Some(member.name.clone()),
                control_of: own.control_of.clone().map(called),
                group,
                ..own
            }
        })
        .collect();
    let watched: Vec<&phases::Watched> =
        party.members.iter().map(|member| &party.runs[member.run].watched[member.replica]).collect();
    let names: Vec<String> = party.members.iter().map(|member| member.name.clone()).collect();
    let settings = |at: usize| &party.runs[party.members[at].run].manifest.config;
    let arms: Vec<claims::Arm<'_>> =
        (0..names.len()).map(|at| claims::Arm::of(&names[at], &configs[at], settings(at), watched[at])).collect();
    judged(&arms)
}
