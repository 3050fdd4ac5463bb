//! How a session is put together.

use std::collections::BTreeMap;

use super::session::Purpose;
use super::{ResolvedRun, Session};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::instrument::{Instrument, registry};
use crate::task::Task;

/// A session to be: a device, a run, and instruments beside those of the crate.
pub struct SessionBuilder {
    gpu: Gpu,
    run: ResolvedRun,
    own: Vec<Box<dyn Instrument>>,
    purpose: Purpose,
}

impl SessionBuilder {
    pub(super) fn new<T: Task + 'static>(gpu: &Gpu, run: ResolvedRun<T>) -> Self {
        Self { gpu: gpu.clone(), run: run.boxed(), own: Vec::new(), purpose: Purpose::Train }
    }

    /// Measures with an instrument of the caller's own too. `measure.every` and `measure.off` know its names.
    #[must_use]
    pub fn instrument(mut self, instrument: impl Instrument + 'static) -> Self {
        self.own.push(Box::new(instrument));
        self
    }

    /// Measures and never trains: every step is a measurement at which everything is due. What is measured of an update only
    /// is left out, and gradients, moments and the backward pass are there only where something that is measured reads them.
    /// Weights are zero until they are set.
    #[must_use]
    pub fn measuring(mut self) -> Self {
        self.run = self.run.with_cadences(BTreeMap::new());
        self.purpose = Purpose::Measure;
        self
    }

    /// Records the step.
    ///
    /// # Errors
    /// As [`Session::new`]; [`Error::Config`](crate::Error::Config) where two instruments or metrics have one name.
    pub fn build(self) -> Result<Session> {
        let own = self.own.iter().map(|instrument| instrument.as_ref() as &dyn Instrument);
        let instruments: Vec<&dyn Instrument> =
            registry().into_iter().map(|known| known as &dyn Instrument).chain(own).collect();
        Session::record(&self.gpu, self.run, &instruments, self.purpose)
    }
}
