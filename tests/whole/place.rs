//! A folder in which the command runs, as people use it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assert_cmd::cargo::CommandCargoExt as _;
use thermoscope::record::read_metrics;

/// A run of a second.
pub(crate) const TINY: &str = "\
name = \"tiny\"
steps = 4
[task]
kind = \"modular\"
p = 7
[model]
d_model = 8
n_heads = 2
[checkpoint]
every = 2
";

/// What is measured, its steps, and the bits of its values.
pub(crate) type Table = Vec<(String, Vec<i64>, Vec<u32>)>;

/// Every number of a run's table as bits, by what it is and when.
pub(crate) fn table(run: &Path) -> Table {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    let series = read_metrics(run, |_| true).unwrap();
    series.into_iter().map(|(key, s)| (format!("{key:?}"), s.steps, bits(&s.values))).collect()
}

/// A folder with `tiny.toml`.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.write("tiny.toml", TINY);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs the command in this folder; words are separated by spaces.
    pub(crate) fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// The command to be run.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::cargo_bin("thermoscope").unwrap();
        command.current_dir(self.dir.path()).args(line.split(' ').filter(|word| !word.is_empty()));
        command
    }

    pub(crate) fn good(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The command fails as it should: exit code 2, one message with these words, no panic.
    pub(crate) fn bad(&self, line: &str, words: &[&str]) {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        assert!(!error.contains("panicked"), "{line}: {error}");
        assert_eq!(error.matches("error: ").count(), 1, "{line}: {error}");
        for word in words {
            assert!(error.contains(word), "{line} should speak of {word}: {error}");
        }
    }

    /// Every file below a folder and its bytes.
    pub(crate) fn files(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(dir: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, into);
                } else {
                    into.push((path.clone(), std::fs::read(&path).unwrap()));
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.path(name), &mut files);
        files.sort();
        files
    }
}
