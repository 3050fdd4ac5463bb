//! Tables for the page: columns of numbers, thinned so that the page stays small.

use serde_json::{Value, json};

use crate::record::Series;

/// One table of the page: the same columns for every point.
#[derive(Default)]
pub(super) struct Dataset {
    names: Vec<String>,
    /// For each point: number of its series' name, replica, step, value.
    points: Vec<(usize, i32, i64, f32)>,
    thinned: bool,
}

impl Dataset {
    /// Adds a series under a name, with at most `limit` points.
    pub(super) fn add(&mut self, name: &str, replica: i32, series: &Series, limit: usize) {
        let number = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        let kept = thin(series, limit);
        self.thinned |= kept.len() < series.values.len();
        self.points.extend(kept.into_iter().map(|at| (number, replica, series.steps[at], series.values[at])));
    }

    /// Whether points were left out.
    pub(super) fn is_thinned(&self) -> bool {
        self.thinned
    }

    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Columns, which the page turns into rows.
    pub(super) fn columns(&self) -> Value {
        json!({
            "names": self.names,
            "series": self.points.iter().map(|p| p.0).collect::<Vec<_>>(),
            "replica": self.points.iter().map(|p| p.1).collect::<Vec<_>>(),
            "step": self.points.iter().map(|p| p.2).collect::<Vec<_>>(),
            "value": self.points.iter().map(|p| number(p.3)).collect::<Vec<_>>(),
        })
    }
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
    text.parse::<f64>().map_or(Value::Null, |rounded| json!(rounded))
}

/// Positions of at most `limit` points: all, or from each of equal stretches of the series the smallest
/// and the largest value, so that spikes stay visible, and the last point.
pub(super) fn thin(series: &Series, limit: usize) -> Vec<usize> {
    let count = series.values.len();
    if count <= limit {
        return (0..count).collect();
    }
    let stretches = (limit / 2).max(1);
    let mut kept: Vec<usize> = (0..stretches)
        .flat_map(|s| {
            let range = s * count / stretches..(s + 1) * count / stretches;
            let key = |at: &usize| series.values[*at];
            let low = range.clone().min_by(|a, b| key(a).total_cmp(&key(b)));
            let high = range.max_by(|a, b| key(a).total_cmp(&key(b)));
            [low, high]
        })
        .flatten()
        .chain([count - 1])
        .collect();
    kept.sort_unstable();
    kept.dedup();
    kept
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
    }
}
