//! Numbers that other programs gave, for tests: `tests/golden/stats.json`, written by `tools/golden_stats.py`.

use serde_json::Value;

/// A part of the file.
pub(super) fn golden(name: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/stats.json");
    let mut all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all[name].take()
}

/// Everything in a list.
pub(super) fn each(list: &Value) -> &[Value] {
    list.as_array().unwrap()
}

pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

pub(super) fn numbers(list: &Value) -> Vec<f64> {
    each(list).iter().map(number).collect()
}

/// Fails unless two numbers are the same but for rounding.
pub(super) fn assert_same(own: f64, other: f64, what: &str) {
    assert!((own - other).abs() <= 1e-9 * other.abs().max(1e-3), "{what}: {own} for {other}");
}
