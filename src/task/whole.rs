//! Another task without its split.

use std::path::PathBuf;

use super::{Cyclic, Feed, Irreps, ReplicaData, Split, Task, TaskShape};
use crate::error::{Error, Result};

/// Every example of a task is trained on and tested on: for measuring models whose split is unknown or never was.
#[derive(Clone, Debug)]
pub struct Whole<T>(pub T);

impl<T: Task> Task for Whole<T> {
    fn shape(&self) -> TaskShape {
        self.0.shape()
    }

    fn feed(&self, replicas: &[ReplicaData]) -> Result<Feed> {
        match self.0.feed(replicas)? {
            Feed::Examples(mut examples) => {
                let all: Vec<u32> = (0..examples.len() as u32).collect();
                examples.splits = vec![Split { train: all.clone(), test: all, labels: None }; replicas.len()];
                Ok(Feed::Examples(examples))
            }
            _ => Err(Error::Config("this task has no finite set of examples, of which all could be taken".to_owned())),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        self.0.files()
    }

    fn cyclic(&self) -> Option<Cyclic> {
        self.0.cyclic()
    }

    fn irreps(&self) -> Option<Irreps> {
        self.0.irreps()
    }
}
