//! What a run measures, and how often.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::row::FILING;
use super::{Card, Instrument};
use crate::error::{Error, Result};
use crate::gpu::STEP;
use crate::task::ProbeSet;

/// What is measured, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MeasureConfig {
    /// Steps between two measurements, by metric or instrument; see `thermoscope instruments` for the
    /// defaults.
    pub every: BTreeMap<String, u64>,
    /// What measuring may take, class F aside and instruments of which `every` sets a cadence, as a share of the
    /// step's own work, by operations, bytes and dispatches counted: costly measures are taken less often than
    /// their cards propose until it fits, but ten times a run at least.
    pub budget: f64,
    /// By metric, the cadences that are longer than proposed; `None` where that is still to be found out.
    #[serde(skip)]
    pub cadences: Option<BTreeMap<String, u64>>,
    /// Metrics or instruments left out.
    pub off: Vec<String>,
    /// The only metrics or instruments measured; empty for all, but for those that need gradients where nothing is trained
    /// (see [`Card::gradients`]). What `off` names is left out of these too.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    pub only: Vec<String>,
    /// The held batch that interventions are tried on.
    pub probe: ProbeConfig,
    /// Looks at the loss's second derivatives; by default none.
    #[serde(skip_serializing_if = "LandscapeConfig::is_off")]
    pub landscape: LandscapeConfig,
}

/// Looks at the loss around the weights, between steps: its curvature, over what each replica is trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LandscapeConfig {
    /// Steps between two looks; 0 for none. A look takes some three gradients for each product, and up to
    /// 2 `products` + `directions` + 1 of these for each replica. Default 0.
    pub every: u64,
    /// Largest eigenvalues that are looked for. Default 3.
    pub top: usize,
    /// Products at most that the ends of a spectrum are found with. Default 60.
    pub products: usize,
    /// Random directions of the trace; 0 for no trace. Default 8.
    pub directions: u32,
    /// Sequences that the loss is taken over, drawn as training draws them; 0 for all that a replica is trained on, or 64 where
    /// those have no end. Default 0.
    pub sequences: usize,
}

impl LandscapeConfig {
    fn is_off(&self) -> bool {
        self.every == 0
    }

    fn check(&self) -> Result<()> {
        if self.top == 0 || self.products < self.top {
            return Err(Error::Config(
                "measure.landscape: top must be 1 or more, and products no less: each eigenvalue takes a product at least"
                    .to_owned(),
            ));
        }
        if self.directions == 1 {
            return Err(Error::Config(
                "measure.landscape.directions = 1 has no standard error; take 2 or more, or 0 for no trace".to_owned(),
            ));
        }
        Ok(())
    }
}

impl Default for LandscapeConfig {
    fn default() -> Self {
        Self { every: 0, top: 3, products: 60, directions: 8, sequences: 0 }
    }
}

/// A list that a file gives: an empty one stands for one that it does not give.
fn some<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    let list = Vec::deserialize(from)?;
    if list.is_empty() {
        return Err(serde::de::Error::custom(
            "measure.only = [] names nothing. Leave it out to measure everything, or name metrics or instruments",
        ));
    }
    Ok(list)
}

impl Default for MeasureConfig {
    fn default() -> Self {
        let (every, off, only, probe, landscape) = Default::default();
        Self { every, budget: 0.075, cadences: None, off, only, probe, landscape }
    }
}

/// The held batch that interventions are tried on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProbeConfig {
    /// Examples of each replica, or all that it has, or as many as one pass can hold, where those are fewer. By
    /// default 256, or as many sequences as hold some 1,024 predictions and at least 4; `thermoscope measure` takes all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Where they are from.
    pub set: ProbeSet,
    /// Random subspaces that heads are compared with. By default 40 for each head of the model, and
    /// between 200 and 640; 2,000 at most. With n heads, m of them can only clear a false discovery rate of 0.05
    /// together, each p-value doubled for its two sides, if there are 40 n / m draws: above 16 heads a single one cannot,
    /// unless more are drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draws: Option<usize>,
}

impl ProbeConfig {
    /// Random subspaces that a model's heads are compared with.
    pub(crate) fn draws_for(&self, heads: usize) -> usize {
        self.draws.unwrap_or((Self::DRAWS_A_HEAD * heads).clamp(200, USUAL_DRAWS))
    }

    /// With so many for each head of the model, a single one can clear the null.
    pub(crate) const DRAWS_A_HEAD: usize = 40;
    /// Draws at most, for software drivers end loops after 65,535 rounds and each is ranked among all.
    pub(crate) const MOST_DRAWS: usize = 2000;
}

/// Draws of a null at most where the run does not say: each is a pass over the probe.
const USUAL_DRAWS: usize = 640;

/// How often a metric is measured in a session that trains or does not; `None` where it is switched off, or needs gradients that
/// nobody asked for.
pub(super) fn every(config: &MeasureConfig, trains: bool, instrument: &dyn Instrument, card: &Card) -> Option<u64> {
    let names = [card.name, instrument.name()];
    let named = |list: &[String]| list.iter().any(|name| names.contains(&name.as_str()));
    let asked = named(&config.only) || config.only.is_empty() && (trains || !card.gradients);
    if named(&config.off) || !asked {
        return None;
    }
    let longer = || config.cadences.as_ref()?.get(card.name).copied();
    Some(names.iter().find_map(|name| config.every.get(*name).copied()).or_else(longer).unwrap_or(card.every))
}

/// Fails, naming what there is, where none of these names of metrics and instruments is this one.
pub(crate) fn check_name(name: &str, known: &[&str]) -> Result<()> {
    if known.contains(&name) {
        return Ok(());
    }
    // Of the same family, or with the same beginning.
    let family = |name: &str| name.split(['.', '_']).next().unwrap_or_default().to_owned();
    let near = |other: &&&str| family(other) == family(name) || other.contains(name) || name.contains(**other);
    let found: Vec<&str> = known.iter().filter(near).copied().collect();
    let (which, names) = if found.is_empty() { ("there are", known) } else { ("near it are", found.as_slice()) };
    Err(Error::Config(format!("no metric or instrument is called {name}; {which} {}", names.join(", "))))
}

/// Names of instruments and of their metrics. A family may be called like its only metric.
pub(crate) fn names_of(instruments: &[&dyn Instrument]) -> Vec<&'static str> {
    let of = |i: &&dyn Instrument| {
        let cards: Vec<&'static str> =
            i.cards().iter().map(|card| card.name).filter(|name| *name != i.name()).collect();
        std::iter::once(i.name()).chain(cards)
    };
    instruments.iter().flat_map(of).collect()
}

/// Fails where the configuration names something that no instrument measures, or one name stands for two things.
pub(crate) fn check_names(config: &MeasureConfig, instruments: &[&dyn Instrument]) -> Result<()> {
    let known = names_of(instruments);
    if let Some((_, twice)) =
        known.iter().enumerate().find(|(at, name)| known[..*at].contains(name) || [STEP, FILING].contains(name))
    {
        return Err(Error::Config(format!(
            "two instruments or metrics are called {twice}; give one of them another name"
        )));
    }
    let probe = &config.probe;
    if probe.size == Some(0) || probe.draws.is_some_and(|draws| !(1..=ProbeConfig::MOST_DRAWS).contains(&draws)) {
        return Err(Error::Config(format!(
            "measure.probe: size must be 1 at least, and draws lie between 1 and {}",
            ProbeConfig::MOST_DRAWS
        )));
    }
    config.landscape.check()?;
    if !(config.budget.is_finite() && config.budget > 0.0) {
        return Err(Error::Config(format!(
            "measure.budget = {} must be a number above 0: the share of a step's work that measuring may take",
            config.budget
        )));
    }
    let every = config.every.keys().map(|name| ("every", name));
    let lists = [("off", &config.off), ("only", &config.only)];
    let named = every.chain(lists.into_iter().flat_map(|(key, names)| names.iter().map(move |name| (key, name))));
    for (key, name) in named {
        check_name(name, &known).map_err(|error| Error::Config(format!("measure.{key}: {error}")))?;
    }
    Ok(())
}
