//! Which way of cutting a matrix product is fastest on a device, by the size of the result. Measured elsewhere; kept here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A way of cutting C into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tiling {
    /// Through workgroup memory, `side` x `side` to a workgroup.
    Workgroup {
        /// Rows and columns.
        side: u32,
    },
    /// In registers, `rows` x `columns` to a lane.
    Registers {
        /// Lanes of a subgroup.
        subgroup: u32,
        /// Rows of a lane.
        rows: u32,
        /// Columns of a lane.
        columns: u32,
    },
}

/// The fastest tilings found on a device; empty where none was looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// By form of the product and the classes of its rows and columns.
    tilings: BTreeMap<String, Tiling>,
}

/// Largest sizes of the classes but the last.
const CLASSES: [usize; 3] = [32, 128, 1024];

impl Tuning {
    /// A size that stands for each class.
    pub const SIZES: [usize; 4] = [32, 128, 512, 2048];

    fn key(form: u32, m: usize, n: usize) -> String {
        let class = |size: usize| CLASSES.iter().filter(|largest| size > **largest).count();
        let form = ["NN", "NT", "TN"][form as usize % 3];
        format!("{form} {}x{}", Self::SIZES[class(m)], Self::SIZES[class(n)])
    }

    /// The tiling for a product of a form (0: NN, 1: NT, 2: TN) with an m x n result.
    pub fn get(&self, form: u32, m: usize, n: usize) -> Option<Tiling> {
        self.tilings.get(&Self::key(form, m, n)).copied()
    }

    /// Sets the tiling of all products of that form and class.
    pub fn set(&mut self, form: u32, m: usize, n: usize, tiling: Tiling) {
        self.tilings.insert(Self::key(form, m, n), tiling);
    }

    /// Forms and sizes, and their tilings.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Tiling)> {
        self.tilings.iter().map(|(key, tiling)| (key.as_str(), *tiling))
    }
}
