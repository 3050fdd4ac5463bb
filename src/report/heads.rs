//! What ablating each head does: small charts beside the null, and a map of the last effects.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::dataset::{Lines, number, thin};
use super::marks::Turn;
use crate::record::{HeadRole, Key, Series, p_of_head, threshold};

/// Small charts at most.
const CHARTS: usize = 16;
/// Small charts in a row.
pub(super) const IN_A_ROW: usize = 4;
/// Points of all small charts together, and of one series.
const POINTS: usize = 16_000;
const SERIES_POINTS: usize = 300;

const EFFECT: &str = "ablation.logit_difference";
pub(super) const BASELINES: [&str; 3] = ["zero", "mean", "resample"];

/// Tables of a run's ablations.
pub(super) struct Heads {
    /// Names of the parts shown, such as `L0 H3` and `L0 MLP`, in order.
    pub(super) parts: Vec<String>,
    /// How many there are.
    pub(super) count: usize,
    /// Largest sizes of the last effects on logit difference and loss.
    pub(super) ends: [f32; 2],
    pub(super) effects: Value,
    pub(super) null: Value,
    pub(super) map: Value,
    pub(super) layers: usize,
    /// Heads of a layer.
    pub(super) heads: usize,
    pub(super) thinned: bool,
}

/// A head or MLP in short; `None` for all heads together.
fn part(key: &Key) -> Option<String> {
    let mlp = key.site.ends_with("hook_mlp_out");
    match (key.head, mlp) {
        (_, true) => Some(format!("L{} MLP", key.layer)),
        (0.., false) => Some(format!("L{} H{}", key.layer, key.head)),
        _ => None,
    }
}

impl Heads {
    /// `None` where nothing was ablated. `series` are those of the replicas shown.
    pub(super) fn new(series: &BTreeMap<Key, Series>, shown: impl Fn(i32) -> bool, turns: &[Turn]) -> Option<Self> {
        let mut effects: Vec<(String, &Key, &Series)> = series
            .iter()
            .filter(|(key, _)| key.metric == EFFECT && (0..3).contains(&key.index) && shown(key.replica))
            .filter_map(|(key, series)| Some((part(key)?, key, series)))
            .collect();
        let mut sizes: BTreeMap<(i32, i32), (String, f32)> = BTreeMap::new();
        for (name, key, series) in effects.iter().filter(|(_, key, _)| key.index == 0) {
            let place = (key.layer, if key.head < 0 { i32::MAX } else { key.head });
            let size = &mut sizes.entry(place).or_insert_with(|| (name.clone(), 0.0)).1;
            *size = size.max(series.values.last().map_or(0.0, |value| value.abs()));
        }
        let count = sizes.len();
        // Of many, those that matter most at the end.
        let mut by_size: Vec<f32> = sizes.values().map(|(_, size)| *size).collect();
        by_size.sort_by(|a, b| b.total_cmp(a));
        let least = by_size.get(CHARTS - 1).copied().unwrap_or(0.0);
        let parts: Vec<String> =
            sizes.into_values().filter(|(_, size)| *size >= least).map(|(name, _)| name).take(CHARTS).collect();
        effects.retain(|(name, ..)| parts.contains(name));

        let limit = (POINTS / effects.len().max(1)).clamp(20, SERIES_POINTS);
        let mut lines = Lines::default();
        for (name, key, series) in &effects {
            lines.add(&format!("{name}|{}", BASELINES[key.index as usize]), key.replica, series, limit, false);
        }
        let map = map(series, &shown, turns);
        let end = |field: &str| {
            let rows = map["rows"].as_array().map_or(&[][..], Vec::as_slice);
            rows.iter().filter_map(|row| row[field].as_f64()).map(|v| v.abs() as f32).fold(f32::MIN_POSITIVE, f32::max)
        };
        let ends = ["effect", "loss"].map(end);
        let layers = effects.iter().map(|(_, key, _)| key.layer + 1).max()?;
        let heads = series.keys().filter(|key| key.metric == EFFECT).map(|key| key.head + 1).max().unwrap_or(0);
        Some(Self {
            parts,
            count,
            ends,
            effects: lines.table(),
            null: null(series, &shown, limit),
            map,
            layers: layers as usize,
            heads: heads as usize,
            thinned: lines.is_thinned(),
        })
    }
}

/// The band of each layer: the points that 2.5 % and 97.5 % of the null's effects on the logit difference do not exceed.
fn null(series: &BTreeMap<Key, Series>, shown: &impl Fn(i32) -> bool, limit: usize) -> Value {
    let (mut layer, mut replica, mut step, mut low, mut high) = (vec![], vec![], vec![], vec![], vec![]);
    let lower = series.iter().filter(|(key, _)| key.metric == "ablation.null" && key.index == 3 && shown(key.replica));
    for (key, lower) in lower {
        let Some(upper) = series.get(&Key { index: 5, ..key.clone() }) else { continue };
        // Both ends at the same steps: those that keep the spikes of the upper one.
        for at in thin(upper, limit).into_iter().filter(|at| *at < lower.values.len()) {
            layer.push(key.layer);
            replica.push(key.replica);
            step.push(upper.steps[at]);
            low.push(number(lower.values[at]));
            high.push(number(upper.values[at]));
        }
    }
    json!({ "layer": layer, "replica": replica, "step": step, "low": low, "high": high })
}

/// The last effect of every head: a row each, with whether it clears the null.
fn map(series: &BTreeMap<Key, Series>, shown: &impl Fn(i32) -> bool, turns: &[Turn]) -> Value {
    let last = |key: &Key, metric: &str, index: i32| {
        series.get(&Key { metric: metric.to_owned(), index, ..key.clone() }).and_then(|s| s.values.last()).copied()
    };
    let heads: Vec<(&Key, &Series)> = series
        .iter()
        .filter(|(key, _)| key.metric == EFFECT && key.index == 0 && key.head >= 0 && shown(key.replica))
        .collect();
    let p_of = |key: &Key, effect: &Series| {
        let [raised, lowered] = [1, 3].map(|side| last(key, "ablation.p", side).map(f64::from));
        // Of one example there is no error, and nothing differs.
        let error = last(key, "ablation.logit_difference.se", 0).unwrap_or(f32::NAN);
        let probe = Key { site: String::new(), layer: -1, head: -1, index: -1, ..key.clone() };
        let examples = last(&probe, "probe.n", -1)?;
        let effect = f64::from(*effect.values.last()?);
        Some(p_of_head(effect, f64::from(error), f64::from(examples), [raised?, lowered?]))
    };
    // The rule of births: what clears is decided among all heads of a replica.
    let mut found: BTreeMap<i32, Vec<f64>> = BTreeMap::new();
    for (key, effect) in &heads {
        found.entry(key.replica).or_default().extend(p_of(key, effect).filter(|p| p.is_finite()));
    }
    let least: BTreeMap<i32, f64> =
        found.into_iter().filter_map(|(replica, p)| Some((replica, threshold(&p)?))).collect();
    let row = |(key, effect): &(&Key, &Series)| {
        let p = p_of(key, effect);
        let role = Turn::role(turns, key.replica as usize, key.layer, key.head);
        let clears = role.is_some() && p.zip(least.get(&key.replica)).is_some_and(|(p, least)| p <= *least);
        let letter = |role| if role == HeadRole::Suppressor { " S" } else { " C" };
        json!({
            "replica": key.replica,
            "layer": format!("L{}", key.layer),
            "head": format!("H{}", key.head),
            "effect": effect.values.last().map(|value| number(*value)),
            "loss": last(key, "ablation.loss", 0).map(number),
            "p": p.map(|p| number(p as f32)),
            "clears": clears,
            "role": role.map_or_else(String::new, |(role, onset)| format!("{} since {}", role.word(), onset.words())),
            "letter": role.filter(|_| clears).map_or("", |(role, _)| letter(role)),
        })
    };
    json!({ "rows": heads.iter().map(row).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Event, Subject, Turned, What};

    #[test]
    fn a_head_is_marked_where_it_clears_the_null_and_was_born() {
        let mut series = BTreeMap::new();
        let mut add = |metric: &str, head: i32, index: i32, values: [f32; 2]| {
            let site = "blocks.0.attn.hook_result".to_owned();
            let key = Key { metric: metric.to_owned(), site, layer: 0, head, index, replica: 0 };
            series.insert(key, Series { steps: vec![0, 100], values: values.to_vec() });
        };
        for (head, p) in [(0, 0.004), (1, 0.3), (2, 0.024), (3, 0.3)] {
            add(EFFECT, head, 0, [0.0, 2.0 + head as f32]);
            add("ablation.loss", head, 0, [0.0, -1.0]);
            add("ablation.p", head, 1, [0.9, p]);
            add("ablation.p", head, 3, [0.1, 1.0 - p]);
        }
        // All effects but that of head 5 differ from 0.
        for (head, error) in [(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.1), (4, 0.1), (5, 4.0)] {
            add("ablation.logit_difference.se", head, 0, [0.0, error]);
        }
        add(EFFECT, 5, 0, [0.0, 1.0]);
        add("ablation.p", 5, 1, [0.9, 0.005]);
        add("ablation.p", 5, 3, [0.9, 0.995]);
        // Zeroing head 4 lowers the logit difference.
        add(EFFECT, 4, 0, [0.0, -1.0]);
        add("ablation.p", 4, 1, [0.9, 0.99]);
        add("ablation.p", 4, 3, [0.9, 0.008]);
        add("ablation.null", -1, 3, [-1.0, -2.0]);
        add("ablation.null", -1, 5, [1.0, 3.0]);
        let probe =
            Key { metric: "probe.n".to_owned(), site: String::new(), layer: -1, head: -1, index: -1, replica: 0 };
        series.insert(probe, Series { steps: vec![0, 100], values: vec![64.0, 64.0] });
        let turned = |head, role| Turned {
            subject: Subject {
                metric: EFFECT.to_owned(),
                site: "blocks.0.attn.hook_result".to_owned(),
                layer: 0,
                head,
                index: -1,
                role: Some(role),
            },
            numbers: BTreeMap::new(),
        };
        let event = |step, what| Event { replica: Some(0), ..Event::at(step, what) };
        let born = |head| event(40, What::Birth(turned(head, HeadRole::Suppressor)));
        // Head 0 lives, 1 was never born, 2 has no low p now, 3 died, 4 contributes, and 5 may do nothing at all.
        let events = [
            born(0),
            born(2),
            born(3),
            born(5),
            event(50, What::Birth(turned(4, HeadRole::Contributor))),
            event(70, What::Death(turned(3, HeadRole::Suppressor))),
        ];
        let turns: Vec<Turn> = events.iter().filter_map(Turn::of).collect();
        let heads = Heads::new(&series, |_| true, &turns).unwrap();
        let clears: Vec<bool> =
            heads.map["rows"].as_array().unwrap().iter().map(|row| row["clears"].as_bool().unwrap()).collect();
        assert_eq!(clears, [true, false, false, false, true, false]);
        let letters = [0, 4].map(|head| heads.map["rows"][head]["letter"].as_str().unwrap().to_owned());
        assert_eq!(letters, [" S", " C"]);
        assert_eq!(heads.map["rows"][0]["role"], "suppressor since step 40");
        assert_eq!(heads.parts, ["L0 H0", "L0 H1", "L0 H2", "L0 H3", "L0 H4", "L0 H5"]);
        assert_eq!((heads.ends, heads.null["high"].clone()), ([5.0, 1.0], json!([1, 3])));
        assert!(Heads::new(&BTreeMap::new(), |_| true, &[]).is_none());
    }
}
