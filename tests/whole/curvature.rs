//! Eigenvalues, traces and spectra of a saved model, by the command.

use crate::place::{Place, table};

#[test]
fn a_checkpoint_has_a_spectrum_whose_numbers_agree_with_each_other() {
    let place = Place::new();
    place.good("run tiny.toml --out out --replicas 2");
    let model = "out/checkpoints/step-000004";
    let said = place.good(&format!("curvature {model} --out curved --top 2 --directions 6 --spectrum 6"));
    for word in ["loss ", "largest", "smallest", "residual", "trace", "embed.W_E", "replica 1", "curved/curvature.json"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    let text = std::fs::read_to_string(place.path("curved/curvature.json")).unwrap();
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    let replicas = found["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 2);
    assert_ne!(replicas[0]["loss"], replicas[1]["loss"], "each is its own model, over its own examples");
    for replica in replicas {
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let top = number(&replica["largest"][0]["value"]);
        assert!(replica["converged"].as_bool().unwrap() && top > 0.0, "{replica}");
        assert!(number(&replica["largest"][0]["residual"]) <= 1e-4 * top.abs());
        let total = number(&replica["trace"]["value"]);
        let tensors = replica["tensors"].as_array().unwrap();
        let sum: f64 = tensors.iter().map(|part| number(&part["trace"]["value"])).sum();
        assert!((sum - total).abs() < 1e-9 * total.abs(), "{sum} and {total}");
        // Along the same directions: their weighted values are what the trace is a mean of, to the rounding of f32.
        let spectrum = replica["spectrum"].as_array().unwrap();
        let of = |nodes: &serde_json::Value| -> f64 {
            nodes.as_array().unwrap().iter().map(|node| number(&node[0]) * number(&node[1])).sum()
        };
        let mean = spectrum.iter().map(of).sum::<f64>() / spectrum.len() as f64 * number(&replica["parameters"]);
        assert!((mean - total).abs() < 1e-4 * top * number(&replica["parameters"]).sqrt(), "{mean} and {total}");
        let highest = spectrum.iter().flat_map(|nodes| nodes.as_array().unwrap()).map(|node| number(&node[0]));
        assert!(highest.fold(f64::MIN, f64::max) <= top * (1.0 + 1e-4), "nothing lies beyond the largest");
    }
    place.bad(&format!("curvature {model} --out curved"), &["curved", "not empty"]);
    place.bad("curvature out --out other", &["is a run, not a model", "checkpoints/step-"]);
    place.bad(&format!("curvature {model} --out other --directions 1"), &["--directions", "2 or more"]);
    place.bad(&format!("curvature {model} --out other --top 0"), &["--top", "1 or more"]);
}

#[test]
fn a_run_looks_at_its_landscape_and_is_the_same_run() {
    let place = Place::new();
    let looking = "--set measure.landscape.every=2 --set measure.landscape.products=20";
    place.good(&format!("run tiny.toml --out looked --steps 6 --replicas 2 {looking}"));
    place.good("run tiny.toml --out plain --steps 6 --replicas 2");
    let of = |run: &str| table(&place.path(run));
    let (looks, others): (Vec<_>, Vec<_>) = of("looked").into_iter().partition(|(key, ..)| key.contains("curvature"));
    assert_eq!(others, of("plain"), "looking changes nothing");
    let model = |run: &str| std::fs::read(place.path(run).join("checkpoints/step-000006/model.safetensors")).unwrap();
    assert_eq!(model("looked"), model("plain"));
    let top = looks.iter().filter(|(key, ..)| key.contains("\"curvature.top\"") && key.contains("index: 0"));
    let steps: Vec<&Vec<i64>> = top.map(|(_, steps, _)| steps).collect();
    assert_eq!(steps, [&[0, 2, 4, 6]; 2], "{looks:?}");
    let page = std::fs::read_to_string(place.path("looked/report.html")).unwrap();
    assert!(page.contains("Loss landscape"));

    // As if it had been killed behind step 4: it looks again from there on, and sees the same.
    let manifest = std::fs::read_to_string(place.path("looked/run.json")).unwrap();
    std::fs::remove_dir_all(place.path("looked/checkpoints/step-000006")).unwrap();
    place.write("looked/run.json", manifest.replace("\"finished\"", "\"running\""));
    let before = of("looked");
    place.good("run --resume --out looked");
    assert_eq!(of("looked"), before);

    place.good("measure looked/checkpoints/step-000006 --out measured");
    assert!(!std::fs::read_to_string(place.path("measured/metrics.json")).unwrap().contains("curvature"));
    for (set, word) in [("top=0", "top must be 1"), ("directions=1", "2 or more"), ("evry=1", "evry")] {
        place.bad(&format!("run tiny.toml --out other --set measure.landscape.{set}"), &[word]);
    }
    assert!(place.good("instruments curvature.edge").contains("measure.landscape.every"));
}
