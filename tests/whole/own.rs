//! The example crate that lies outside: its own tests train with a task, an op and an instrument of its own.

use std::path::Path;
use std::process::Command;

#[test]
fn a_crate_outside_adds_a_task_an_op_and_an_instrument() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The folder of this very test is a build's: dependencies that both have are built once.
    let here = std::env::current_exe().unwrap();
    let target = here.ancestors().nth(3).unwrap();
    let done = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--locked", "--manifest-path"])
        .arg(root.join("examples/own/Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .output()
        .unwrap();
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    // Versions that the crate above does not have may not be at hand.
    assert!(
        done.status.success(),
        "{}{}\n(copy Cargo.lock to examples/own if its dependencies moved on)",
        said[0],
        said[1]
    );
    assert!(said[0].contains("it_trains_and_measures ... ok"), "{}", said[0]);
}
