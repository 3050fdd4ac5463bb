//! Why there is no number.

/// What keeps a statistic from being a number: too little, nothing that varies, or nothing of what was asked for. It is shown
/// in the number's place.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// Too few of what is counted.
    #[error("{have} {of} are too few: at least {need} are needed")]
    TooFew {
        /// What is counted.
        of: &'static str,
        /// How many there are.
        have: usize,
        /// How many there must be.
        need: usize,
    },
    /// Two lists that belong together and are not equally long.
    #[error("{0} and {1} values do not belong together: give one of each for every measurement")]
    Lengths(usize, usize),
    /// A value that is no finite number, by its place.
    #[error("value {0} is no finite number: leave out what was not measured")]
    NotFinite(usize),
    /// A series that does not vary, by its place among those given, from 0.
    #[error("series {0} does not vary, so that nothing can vary with it")]
    Constant(usize),
    /// Anything else, in words.
    #[error("{0}")]
    Because(&'static str),
}

impl Missing {
    /// Fails where a value is no finite number.
    pub(super) fn unless_finite(values: &[f64]) -> Result<(), Self> {
        values.iter().position(|value| !value.is_finite()).map_or(Ok(()), |at| Err(Self::NotFinite(at)))
    }

    /// Fails where there are fewer than are needed.
    pub(super) fn unless_enough(of: &'static str, have: usize, need: usize) -> Result<(), Self> {
        if have < need { Err(Self::TooFew { of, have, need }) } else { Ok(()) }
    }
}
