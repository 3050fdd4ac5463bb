//! `thermoscope compare`, as people use it and as they misuse it.

use serde_json::Value;

use crate::place::{Place, TINY};

#[test]
fn a_trunk_and_its_fork_become_a_page_numbers_and_two_sentences() {
    let place = Place::new();
    let long = TINY.replace("steps = 4", "steps = 60").replace("every = 2", "every = 10\nkeep = 0");
    place.write("trunk.toml", format!("{long}[batch]\nsize = 9\n"));
    place.good("run trunk.toml --out runs/trunk");
    place.write(
        "arms.toml",
        "[[arm]]\nname = \"drawn anew\"\nintervene = [{ what = \"reinitialize\", weights = [\"q\"], from = 0 }]\n",
    );
    place.good("fork runs/trunk --at 20 --arms arms.toml --seeds 2 --out runs/fork");
    let said = place.good("compare runs/trunk runs/fork --out page.html");
    assert!(said.contains("It does not show") && said.ends_with("page: page.html\n"), "{said}");
    let page = std::fs::read_to_string(place.path("page.html")).unwrap();
    for words in ["Supported.", "Not supported.", "drawn anew", "What is compared", "Rises and jumps"] {
        assert!(page.contains(words), "{words} is missing");
    }
    // Numbers alone, and the page beside them; the trunk, the sham and the arm, each of its replicas.
    let said = place.good("compare runs/trunk runs/fork --json --metric loss.train --lag loss.train loss.test");
    let numbers: Value = serde_json::from_str(&said).unwrap();
    let arms = numbers["arms"].as_array().unwrap();
    let count = |at: usize| arms[at]["replicas"].as_array().unwrap().len();
    assert_eq!([count(0), count(1), count(2)], [1, 2, 2], "{said}");
    assert_eq!(arms[1]["from"], 20);
    assert_eq!(numbers["curves"].as_array().unwrap().len(), 3, "one curve in three arms: {said}");
    assert!(numbers["lags"][0]["replicas"][0]["lag"]["missing"].is_string(), "60 steps are few: {said}");
    assert!(place.path("compare.html").exists());
    // Arms of one run are compared too.
    assert!(place.good("compare runs/fork").contains("one trunk at one state (step 20)"));
}

#[test]
fn what_is_no_run_is_refused_before_anything_is_written() {
    let place = Place::new();
    place.good("run tiny.toml --out one");
    place.good("run tiny.toml --seed 3 --out two");
    place.bad("compare one", &["name another"]);
    place.bad("compare one nowhere", &["nowhere"]);
    place.bad("compare one one/.", &["named twice"]);
    place.bad("compare one two --metric los.test", &["no run measured los.test", "loss.test"]);
    place.bad("compare one two --lag loss.test weight_norm", &["which of its series", "embed.W_E"]);
    place.good("measure one/checkpoints/step-000004 --out measured");
    place.bad("compare one measured", &["the measurement of a model", "folders of runs"]);
    place.bad("compare one two --out tiny.toml", &["tiny.toml", "is no page"]);
    assert!(!place.path("compare.html").exists());
    assert!(std::fs::read_to_string(place.path("tiny.toml")).unwrap().starts_with("name = \"tiny\""));
    place.good("compare one two");
    let error = place.run("compare").status.code();
    assert_eq!(error, Some(2), "folders are needed");
}
