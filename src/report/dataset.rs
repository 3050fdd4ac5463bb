//! Tables for the page: columns of numbers, thinned so that the page stays small.

use serde_json::{Value, json};

use super::gather::extremes;
use crate::record::{Key, Series};

/// Columns of a heat map at most, and cells of all replicas together.
const HEAT_COLUMNS: usize = 160;
const HEAT_CELLS: usize = 16_000;
/// Pixels of the widest plot: shorter stretches are not told apart.
const PIXELS: i64 = 820;

/// A series that a chart shows, under a name.
pub(super) type Chosen<'a> = (String, &'a Key, &'a Series);

/// Lines of one chart: the same columns for every point.
#[derive(Default)]
pub(super) struct Lines {
    names: Vec<String>,
    /// For each stretch of points: number of the series' name, replica, points.
    stretches: Vec<(usize, i32, usize)>,
    steps: Vec<i64>,
    values: Vec<f32>,
    thinned: bool,
}

impl Lines {
    /// Adds a series under a name, with at most `limit` points. What is no number, and on a logarithmic axis what is not
    /// above 0, is a gap.
    pub(super) fn add(&mut self, name: &str, replica: i32, series: &Series, limit: usize, log: bool) {
        let number = position(&mut self.names, name);
        let kept = thin(series, limit);
        self.thinned |= kept.len() < series.values.len();
        self.stretches.push((number, replica, kept.len()));
        self.steps.extend(kept.iter().map(|at| series.steps[*at]));
        let shown = |value: f32| if log && value <= 0.0 { f32::NAN } else { value };
        self.values.extend(kept.iter().map(|at| shown(series.values[*at])));
    }

    /// Whether points were left out.
    pub(super) fn is_thinned(&self) -> bool {
        self.thinned
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// What the page turns into rows.
    pub(super) fn table(&self) -> Value {
        json!({
            "names": self.names,
            "stretches": self.stretches,
            "step": self.steps,
            "value": self.values.iter().map(|value| number(*value)).collect::<Vec<_>>(),
        })
    }
}

fn position(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}

/// A number with four digits, which is more than a picture shows; `null` for what is no finite number.
pub(super) fn number(value: f32) -> Value {
    if !value.is_finite() {
        return Value::Null;
    }
    if value == 0.0 {
        return json!(0);
    }
    let text = format!("{value:.3e}");
    let rounded: Option<f64> = text.parse().ok();
    // Whole numbers are shorter without their point.
    rounded.map_or(Value::Null, |r| if r.fract() == 0.0 && r.abs() < 1e6 { json!(r as i64) } else { json!(r) })
}

/// Positions of at most `limit` points: all, or from each of equal stretches of the series the smallest
/// and the largest value and the first gap, so that spikes stay visible, and the last point.
pub(super) fn thin(series: &Series, limit: usize) -> Vec<usize> {
    let count = series.values.len();
    if count <= limit {
        return (0..count).collect();
    }
    let each = if series.values.iter().any(|value| value.is_nan()) { 3 } else { 2 };
    let stretches = (limit / each).max(1);
    let mut kept: Vec<usize> = (0..stretches)
        .flat_map(|s| {
            let range = s * count / stretches..(s + 1) * count / stretches;
            let first = range.start;
            extremes(&series.values[range]).into_iter().map(move |at| first + at)
        })
        .chain([count - 1])
        .collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

/// Cells of a heat map: columns from step to end, rows of an index and a replica, and values column by column.
pub(super) fn heat(chosen: &[Chosen<'_>], thinned: &mut bool) -> Option<Value> {
    let steps = &chosen.first()?.2.steps;
    let last = *steps.last()?;
    let limit = (HEAT_CELLS / chosen.len()).clamp(30, HEAT_COLUMNS);
    let columns: Vec<usize> = if steps.len() <= limit {
        (0..steps.len()).collect()
    } else {
        *thinned = true;
        (0..limit).map(|c| c * steps.len() / limit).collect()
    };
    let spacing = if columns.len() > 1 { (steps[columns[1]] - steps[columns[0]]).max(1) } else { 1 };
    // Cells overlap a little: neighbours that only touch leave a seam on the screen.
    let end = |at: usize| {
        let next = columns.get(at + 1).map_or(last + spacing, |next| steps[*next]);
        next as f64 + 0.15 * spacing as f64
    };
    let value = |column: &usize, series: &Series| series.values.get(*column).map_or(Value::Null, |v| number(*v));
    Some(json!({
        "cells": {
            "step": columns.iter().map(|column| steps[*column]).collect::<Vec<_>>(),
            "until": (0..columns.len()).map(end).collect::<Vec<_>>(),
            "places": chosen.iter().map(|(_, key, _)| [key.index, key.replica]).collect::<Vec<_>>(),
        },
        "value": columns.iter().flat_map(|c| chosen.iter().map(move |(_, _, s)| value(c, s))).collect::<Vec<_>>(),
    }))
}

/// Stretches of steps over which a flag stands, of series that hold the first and the last step of each.
pub(super) fn flags(chosen: &[Chosen<'_>], thinned: &mut bool) -> Option<Value> {
    let mut names = Vec::new();
    let mut stretches: Vec<(usize, i32, i32, i64, i64)> = Vec::new();
    let last = chosen.iter().filter_map(|(_, _, series)| series.steps.last()).max().copied().unwrap_or(0);
    // Gaps shorter than a pixel are not drawn.
    let gap = last / PIXELS;
    for (name, key, series) in chosen {
        let number = position(&mut names, name);
        let own = stretches.len();
        for ends in series.steps.chunks_exact(2) {
            match stretches[own..].last_mut() {
                Some(before) if ends[0] - before.4 <= gap => {
                    *thinned |= ends[0] > before.4;
                    before.4 = ends[1];
                }
                _ => stretches.push((number, key.replica, key.index, ends[0], ends[1])),
            }
        }
    }
    (!stretches.is_empty()).then(|| {
        json!({
            "series": stretches.iter().map(|s| &names[s.0]).collect::<Vec<_>>(),
            "replica": stretches.iter().map(|s| s.1).collect::<Vec<_>>(),
            "index": stretches.iter().map(|s| s.2).collect::<Vec<_>>(),
            "step": stretches.iter().map(|s| s.3).collect::<Vec<_>>(),
            "until": stretches.iter().map(|s| s.4).collect::<Vec<_>>(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_spikes_and_the_end() {
        let mut values: Vec<f32> = (0..10_000).map(|i| (i as f32 * 0.01).sin()).collect();
        values[4321] = 50.0;
        values[8765] = -50.0;
        let series = Series { steps: (0..10_000).collect(), values };
        let kept = thin(&series, 400);
        assert!(kept.len() <= 401, "{}", kept.len());
        assert!(kept.contains(&4321) && kept.contains(&8765) && kept.contains(&9999));
        assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn numbers_keep_four_digits_at_any_size() {
        assert_eq!(number(1.234_567e-9), json!(1.235e-9));
        assert_eq!(number(f32::NAN), Value::Null);
        assert_eq!(number(12.0).to_string(), "12");
    }
}
