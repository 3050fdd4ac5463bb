//! Patching: what one place of the residual stream, or one head, carries from a prompt to a corrupted one and back.

use serde::{Deserialize, Serialize};

use super::findings::{Findings, Groups, Mean, discover};
use super::{LayerOutcomes, Outcome, Prompts};
use crate::error::{Error, Result};
use crate::intervene::ROUNDING;
use crate::intervene::column::LOGIT_DIFFERENCE;
use crate::stats::{Paired, Ratio};

/// A share of what lies between prompts and corrupted prompts, z_target - z_foil of the ones less that of the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Means of what is moved over groups by means of what lies between: 0 nothing, 1 all of it.
    pub share: Mean,
    /// Two-sided p of nothing moved; `None` of a single group.
    pub p: Option<f64>,
    /// The same among all places, or all heads, in this direction.
    pub q: Option<f64>,
}

/// Where a patch is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// The stream behind the layer at one place, counted back from the last token, which is 0.
    Place(usize),
    /// The stream behind the layer at the last of the places at which the prompts of a pair differ.
    Changed,
    /// What a head writes, at all places.
    Head(usize),
}

/// What one patch moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// Layer.
    pub layer: usize,
    /// Where.
    pub site: Site,
    /// Pairs of prompts that have such a place.
    pub pairs: usize,
    /// The prompt's activation in the corrupted prompt: how much of the difference that brings back.
    pub restored: Share,
    /// The corrupted prompt's in the prompt: how much of it that takes away.
    pub lost: Share,
}

impl Patch {
    /// `L3 -2` for the last place but one, `L3 changed`, `L3H5`.
    pub fn name(&self) -> String {
        match self.site {
            Site::Place(place) => format!("L{} -{}", self.layer, place + 1),
            Site::Changed => format!("L{} changed", self.layer),
            Site::Head(head) => format!("L{}H{head}", self.layer),
        }
    }
}

/// Whether prompts are told from their corrupted prompts, beyond the error of what lies between.
fn told_apart(between: Paired) -> bool {
    between.p() <= Findings::RATE && between.mean > 0.0
}

/// What patching found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patching {
    /// Logit difference of prompts, of corrupted prompts, and of the first less the second.
    pub levels: [Mean; 3],
    /// All patches, layer by layer, but for places that only prompts reach which the model does not tell apart.
    pub patches: Vec<Patch>,
}

impl Patching {
    /// Of clean outcomes of prompts, each with its corrupted one behind it.
    ///
    /// # Errors
    /// [`Error::Refused`] where the two do not differ beyond their error: a share of nothing is no number.
    pub fn new(prompts: &Prompts, clean: &[Outcome]) -> Result<Self> {
        let pairs = Pairs::of(prompts, clean);
        let of = |which: usize| Paired::of(&pairs.means(&pairs.all, |pair| pairs.clean[pair][which]));
        let between = Paired::of(&pairs.means(&pairs.all, |pair| pairs.between(pair)));
        if !told_apart(between) {
            return Err(Error::Refused(format!(
                "the logit difference of the prompts is {:.3} above that of the corrupted prompts, ± {:.3}, so that there is nothing to be moved from one to the other: take prompts that the model tells apart, or more of them",
                between.mean, between.standard_error
            )));
        }
        Ok(Self { levels: [of(0).into(), of(1).into(), between.into()], patches: Vec::new() })
    }

    /// Takes in a layer.
    pub(super) fn add(&mut self, prompts: &Prompts, clean: &[Outcome], layer: usize, found: &LayerOutcomes) {
        let pairs = Pairs::of(prompts, clean);
        let difference = |outcomes: &[Outcome], at: usize| f64::from(outcomes[at][LOGIT_DIFFERENCE]);
        let mut push = |site: Site, some: &[usize], changed: &dyn Fn(usize) -> f64| {
            // At places that few prompts reach: a share of what is not there is no number, nor may it be told from one group.
            let wholes = pairs.means(some, |pair| pairs.between(pair));
            if !told_apart(Paired::of(&wholes)) {
                return;
            }
            let share = |moved: &dyn Fn(usize) -> f64| {
                let parts = pairs.means(some, moved);
                let Ratio { ratio, standard_error } = Ratio::of(&parts, &wholes);
                let size = pairs.means(some, |pair| pairs.clean[pair].iter().map(|d| d.abs()).sum());
                let size = size.iter().sum::<f64>() / size.len() as f64;
                let p = Paired::of(&parts).rounded(ROUNDING * size).p();
                let error = standard_error.is_finite().then_some(standard_error);
                Share { share: Mean { mean: ratio, error }, p: p.is_finite().then_some(p), q: None }
            };
            self.patches.push(Patch {
                layer,
                site,
                pairs: some.len(),
                restored: share(&|pair| changed(2 * pair + 1) - pairs.clean[pair][1]),
                lost: share(&|pair| pairs.clean[pair][0] - changed(2 * pair)),
            });
        };
        for (place, outcomes) in found.places.iter().enumerate() {
            let some: Vec<usize> =
                pairs.all.iter().copied().filter(|pair| prompts.list[2 * pair].tokens.len() > place).collect();
            // The first token of some prompts may be the same in all: it says nothing, but is no mistake.
            push(Site::Place(place), &some, &|at| difference(outcomes, at));
        }
        if !found.places.is_empty() {
            push(Site::Changed, &pairs.all, &|at| difference(&found.places[pairs.changed[at / 2]], at));
        }
        for (head, outcomes) in found.heads.iter().enumerate() {
            push(Site::Head(head), &pairs.all, &|at| difference(outcomes, at));
        }
        self.discover();
    }

    /// Counts discoveries among all patches of a kind and a direction.
    fn discover(&mut self) {
        let kind = |site: &Site| match site {
            Site::Place(_) => 0,
            Site::Changed => 1,
            Site::Head(_) => 2,
        };
        for which in 0..3 {
            for of in [|patch: &mut Patch| &mut patch.restored, |patch: &mut Patch| &mut patch.lost]
                as [fn(&mut Patch) -> &mut Share; 2]
            {
                let of_kind = self.patches.iter_mut().filter(|patch| kind(&patch.site) == which).map(of);
                discover(of_kind.map(|share| (share.p, &mut share.q)));
            }
        }
    }

    /// The patch of a kind that brings back most.
    pub fn greatest(&self, of: impl Fn(&Site) -> bool) -> Option<&Patch> {
        let some = self.patches.iter().filter(|patch| of(&patch.site));
        some.max_by(|a, b| a.restored.share.mean.total_cmp(&b.restored.share.mean))
    }
}

/// Prompts and corrupted prompts by pair.
struct Pairs {
    /// Every pair.
    all: Vec<usize>,
    /// Clean logit differences of both.
    clean: Vec<[f64; 2]>,
    /// The last place, from the end, at which the tokens of both differ.
    changed: Vec<usize>,
    /// Groups, as numbers of prompts.
    groups: Groups,
}

impl Pairs {
    fn of(prompts: &Prompts, clean: &[Outcome]) -> Self {
        let two = prompts.list.chunks_exact(2);
        let changed = two.map(|two| {
            let apart = two[0].tokens.iter().rev().zip(two[1].tokens.iter().rev()).position(|(a, b)| a != b);
            apart.unwrap_or(0)
        });
        let clean: Vec<[f64; 2]> =
            clean.chunks_exact(2).map(|two| [0, 1].map(|at: usize| f64::from(two[at][LOGIT_DIFFERENCE]))).collect();
        Self { all: (0..clean.len()).collect(), clean, changed: changed.collect(), groups: Groups::of(prompts) }
    }

    fn between(&self, pair: usize) -> f64 {
        self.clean[pair][0] - self.clean[pair][1]
    }

    /// Means over the groups that have some of these pairs.
    fn means(&self, some: &[usize], value: impl Fn(usize) -> f64) -> Vec<f64> {
        let of_group = |group: &Vec<usize>| {
            let mut pairs: Vec<usize> = group.iter().map(|prompt| prompt / 2).filter(|p| some.contains(p)).collect();
            pairs.dedup();
            (!pairs.is_empty()).then(|| pairs.iter().map(|pair| value(*pair)).sum::<f64>() / pairs.len() as f64)
        };
        self.groups.0.iter().filter_map(of_group).collect()
    }
}
