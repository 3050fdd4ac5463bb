//! What outcomes say: effects with errors over groups of prompts, discoveries among all that were tried, and the null.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::intervene::ROUNDING;
use crate::intervene::column::{ARGMAX_CHANGED, KL, LOGIT_DIFFERENCE};
use crate::model::ModelConfig;
use crate::stats::{Bootstrap, Drawn, Missing, Paired, add_one, adjusted, two_sided};

use super::calibration::{Calibration, Choices};
use super::joint::{self, Joint, Sets};
use super::patch::Patching;
use super::paths::Paths;
use super::repeated::Repeated;
use super::{LayerOutcomes, Outcome, Prompts};

/// A column of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure(pub usize);

impl Measure {
    /// How many there are; what is behind them serves calibration only.
    pub const COUNT: usize = 7;
    /// Their names, in the order of [`crate::intervene::column`].
    pub const NAMES: [&str; Self::COUNT] =
        ["loss", "logit_difference", "accuracy", "kl", "argmax_changed", "entropy", "brier"];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.0]
    }

    /// Whether the clean pass has one; others compare with it already, so that nothing is subtracted.
    pub fn of_clean(self) -> bool {
        ![KL, ARGMAX_CHANGED].contains(&self.0)
    }
}

/// A mean over groups and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error; `None` of a single group.
    pub error: Option<f64>,
}

impl From<Paired> for Mean {
    fn from(paired: Paired) -> Self {
        let error = paired.standard_error;
        Self { mean: paired.mean, error: error.is_finite().then_some(error) }
    }
}

/// What the null says of a head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NullPoint {
    /// Two-sided p of its effect on the logit difference.
    pub p: f64,
    /// Least and greatest effect of a draw in its layer.
    pub range: [f64; 2],
}

/// What ablating one head or MLP block does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Layer.
    pub layer: usize,
    /// Head; `None` for the MLP block.
    pub head: Option<usize>,
    /// Changes, ablated minus clean, in the order of [`Measure::NAMES`].
    pub changes: Vec<Mean>,
    /// Where the change of the logit difference lies with 95 % confidence, over groups drawn again ([`Bootstrap::bca`]), and at least
    /// as far apart as f32 can tell: of groups that differ much it is lopsided, as a mean with an error cannot be. Of fewer than
    /// ten groups it is Student's ([`Paired::interval`]); `None` of a single group.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// Two-sided p of no change of the logit difference; `None` of a single group.
    pub p: Option<f64>,
    /// The same among all that were tried, after Benjamini and Hochberg.
    pub q: Option<f64>,
    /// Beside random subspaces of its layer.
    pub null: Option<NullPoint>,
    /// What it writes towards the logit difference in the clean pass, under the final norm's clean scale, so that with
    /// [`Findings::rest`] all heads and MLP blocks add up to the clean one. Ablating it takes that away, and moves what reads it.
    pub direct: Mean,
    /// What ablating it does to how sure and how right the choice between both answers is.
    pub calibration: Calibration,
    /// The prompts whose logit difference rises most and falls most.
    pub extremes: [Example; 2],
}

/// A prompt under an intervention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The prompt in words.
    pub text: String,
    /// Right and wrong answer.
    pub answers: [String; 2],
    /// Logit difference of the clean and of the changed pass.
    pub logit_differences: [f32; 2],
}

impl Effect {
    /// The change of the logit difference.
    pub fn logit_difference(&self) -> Mean {
        self.changes[LOGIT_DIFFERENCE]
    }

    /// `L18H6`, or `L18 MLP`.
    pub fn name(&self) -> String {
        self.head.map_or_else(|| format!("L{} MLP", self.layer), |head| format!("L{}H{head}", self.layer))
    }

    /// Whether it differs from 0 among all that were tried.
    pub fn differs(&self) -> bool {
        self.q.is_some_and(|q| q <= Findings::RATE)
    }

    /// Whether it is more than the null, where there is one.
    pub fn exceeds_null(&self) -> bool {
        self.null.is_some_and(|null| null.p <= Findings::RATE)
    }

    /// Whether both answers hold: it differs from 0, among all that were tried, and is more than the null.
    pub fn is_marked(&self) -> bool {
        self.differs() && self.exceeds_null()
    }
}

/// What was scanned, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The model's folder, as given.
    pub model: String,
    /// The file of prompts, as given.
    pub probes: String,
    /// What was done: `heads`, `mlps`, `pairs`, `sets`, `patch`, `paths`.
    pub battery: Vec<String>,
    /// What takes the place of what is ablated: `zero`, `mean`, `resample`.
    pub baseline: String,
    /// Draws of the null in each layer.
    pub draws: usize,
    /// Layers and heads of the model.
    pub size: [usize; 2],
    /// How many layers are scanned, from the first on.
    pub layers: usize,
    /// Prompts (of patching: pairs of them), and groups of prompts.
    pub count: [usize; 2],
    /// How many prompts each category has.
    pub categories: BTreeMap<String, usize>,
    /// The first prompt as the model reads it, token by token.
    pub first: Vec<String>,
    /// What stands before each prompt.
    pub begin: Option<String>,
}

/// What a scan found. `scan.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// What was scanned, and how.
    pub setting: Setting,
    /// The clean pass, in the order of [`Measure::NAMES`].
    pub clean: Vec<Mean>,
    /// Layers scanned so far.
    pub layers: usize,
    /// Layers whose sham had other bits than the clean pass.
    pub uneven: Vec<usize>,
    /// All effects, layer by layer, heads before the MLP block.
    pub effects: Vec<Effect>,
    /// Effects of the draws of the null on the logit difference, layer by layer.
    pub null: Vec<Vec<f64>>,
    /// What embeddings and biases write towards the logit difference, where heads or MLP blocks are scanned.
    pub rest: Option<Mean>,
    /// How far the choice between both answers can be trusted in the clean pass.
    pub calibration: Calibration,
    /// Every two heads of a layer, layer by layer.
    pub pairs: Vec<Joint>,
    /// The sets that were asked for.
    pub sets: Sets,
    /// What patching moves.
    pub patching: Option<Patching>,
    /// By which paths heads act.
    #[serde(default)]
    pub paths: Option<Paths>,
    /// What heads do on repeated random tokens.
    pub repeated: Option<Repeated>,
    /// Segments of the table of prompts that belong to the layers so far.
    pub segments: u32,
}

const FILE: &str = "scan.json";
/// How often groups are drawn for an interval: its ends are within a tenth of its width then.
const DRAWS: usize = 2000;
/// Heads that the sentence names.
const NAMED: usize = 5;

/// Counts discoveries among all that were tried: the q of each that has a p.
pub(super) fn discover<'a>(all: impl Iterator<Item = (Option<f64>, &'a mut Option<f64>)>) {
    let (p, q): (Vec<f64>, Vec<_>) = all.filter_map(|(p, q)| Some((p?, q))).unzip();
    q.into_iter().zip(adjusted(&p)).for_each(|(q, found)| *q = Some(found));
}

/// Prompts by group.
pub(super) struct Groups(pub(super) Vec<Vec<usize>>);

impl Groups {
    pub(super) fn of(prompts: &Prompts) -> Self {
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, prompt) in prompts.list.iter().enumerate() {
            groups.entry(&prompt.group).or_default().push(at);
        }
        Self(groups.into_values().collect())
    }

    pub(super) fn means(&self, value: impl Fn(usize) -> f64) -> Vec<f64> {
        self.0.iter().map(|group| group.iter().map(|at| value(*at)).sum::<f64>() / group.len() as f64).collect()
    }

    /// Changes of groups from the clean pass, and what f32 can tell of their mean where they are all alike: what logits are rounded
    /// by differs between prompts, and is part of what groups differ by.
    fn changes(&self, clean: &[Outcome], changed: &[Outcome], measure: Measure) -> (Vec<f64>, f64) {
        let column = measure.0;
        let before = |at: usize| if measure.of_clean() { f64::from(clean[at][column]) } else { 0.0 };
        let after = |at: usize| f64::from(changed[at][column]);
        let size = self.means(|at| after(at).abs() + before(at).abs()).iter().sum::<f64>() / self.0.len() as f64;
        (self.means(|at| after(at) - before(at)), ROUNDING * size)
    }

    /// Changes from the clean pass, paired by group; an error of at least what f32 can tell.
    pub(super) fn change(&self, clean: &[Outcome], changed: &[Outcome], measure: Measure) -> Paired {
        let (changes, rounding) = self.changes(clean, changed, measure);
        Paired::of(&changes).rounded(rounding)
    }

    /// Where a change lies with 95 % confidence. The same groups are drawn for all, so that heads can be compared.
    fn interval(&self, clean: &[Outcome], changed: &[Outcome], measure: Measure) -> Option<[f64; 2]> {
        let (changes, rounding) = self.changes(clean, changed, measure);
        let mean = |rows: &[usize]| rows.iter().map(|row| changes[*row]).sum::<f64>() / rows.len() as f64;
        let drawn = Bootstrap::of(changes.len(), Drawn::Rows, DRAWS, 0, mean).ok()?;
        let [low, high] = match drawn.bca(0.95) {
            Err(Missing::TooFew { .. }) => Paired::of(&changes).interval(0.95),
            found => found.ok()?,
        };
        Some([low - rounding, high + rounding])
    }
}

impl Findings {
    /// Rate of false discoveries, and the level at which a head is more than the null.
    pub const RATE: f64 = 0.05;

    /// Of the clean pass alone.
    pub fn new(setting: Setting, prompts: &Prompts, clean: &[Outcome]) -> Self {
        let groups = Groups::of(prompts);
        let level = |measure: Measure| Paired::of(&groups.means(|at| f64::from(clean[at][measure.0]))).into();
        Self {
            setting,
            clean: Measure::all().map(level).collect(),
            layers: 0,
            uneven: Vec::new(),
            effects: Vec::new(),
            null: Vec::new(),
            rest: None,
            calibration: Calibration::of(&Choices::of(&groups, clean)),
            pairs: Vec::new(),
            sets: Sets::default(),
            patching: None,
            paths: None,
            repeated: None,
            segments: 0,
        }
    }

    /// Reads `scan.json` of a run directory; `None` where there is none, and the run is no scan.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::Format`](crate::Error::Format) where it cannot be read.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(FILE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => crate::files::json(&path, &read.map_err(Error::io("cannot read", &path))?, "what a scan found")
                .map(Some),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where it cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        crate::files::write_whole(&run.join(FILE), text.as_bytes())
    }

    /// Takes in the next layer; discoveries are counted anew.
    pub fn add(&mut self, prompts: &Prompts, config: &ModelConfig, clean: &[Outcome], found: &LayerOutcomes) {
        let groups = Groups::of(prompts);
        let layer = self.layers;
        self.layers += 1;
        let bits = |outcomes: &[Outcome]| outcomes.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        if found.sham.iter().any(|sham| bits(sham) != bits(clean)) {
            self.uneven.push(layer);
        }
        if let Some(patching) = &mut self.patching {
            return patching.add(prompts, clean, layer, found);
        }
        if let Some(paths) = &mut self.paths {
            return paths.add(prompts, clean, found);
        }
        self.sets.add(&groups, config, clean, &found.sets);
        self.pairs.extend(joint::of_layer(&groups, clean, layer, found));
        discover(self.pairs.iter_mut().map(|joint| (joint.p, &mut joint.q)));
        if !found.rest.is_empty() {
            self.rest = Some(Paired::of(&groups.means(|at| found.rest[at])).into());
        }
        let (difference, choices) = (Measure(LOGIT_DIFFERENCE), Choices::of(&groups, clean));
        let null: Vec<f64> = found.null.iter().map(|draw| groups.change(clean, draw, difference).mean).collect();
        let heads = found.heads.iter().enumerate().map(|(head, outcomes)| (Some(head), outcomes));
        let all = heads.chain(found.mlp.iter().map(|outcomes| (None, outcomes)));
        for ((head, changed), direct) in all.zip(&found.direct) {
            let changes: Vec<Paired> = Measure::all().map(|measure| groups.change(clean, changed, measure)).collect();
            let paired = changes[LOGIT_DIFFERENCE];
            let p = paired.p();
            let by_prompt = |at: usize| changed[at][LOGIT_DIFFERENCE] - clean[at][LOGIT_DIFFERENCE];
            let mut order: Vec<usize> = (0..clean.len()).collect();
            order.sort_by(|a, b| by_prompt(*b).total_cmp(&by_prompt(*a)));
            let extreme = |at: usize| Example {
                text: prompts.list[at].text.clone(),
                answers: prompts.list[at].answers.clone(),
                logit_differences: [clean[at][LOGIT_DIFFERENCE], changed[at][LOGIT_DIFFERENCE]],
            };
            self.effects.push(Effect {
                layer,
                head,
                changes: changes.into_iter().map(Mean::from).collect(),
                interval: groups.interval(clean, changed, difference),
                p: p.is_finite().then_some(p),
                q: None,
                null: head.filter(|_| !null.is_empty()).map(|_| beside(&null, paired.mean)),
                direct: Paired::of(&groups.means(|at| direct[at])).into(),
                calibration: Calibration::change(&choices, &Choices::of(&groups, changed)),
                extremes: [extreme(order[0]), extreme(order[order.len() - 1])],
            });
        }
        self.null.push(null);
        for heads in [true, false] {
            let of_kind = self.effects.iter_mut().filter(|effect| effect.head.is_some() == heads);
            discover(of_kind.map(|effect| (effect.p, &mut effect.q)));
        }
    }

    /// Heads for which both answers hold.
    pub fn marked(&self) -> impl Iterator<Item = &Effect> {
        self.effects.iter().filter(|effect| effect.is_marked())
    }

    /// Heads, those whose removal raises the logit difference most first.
    pub fn heads(&self) -> Vec<&Effect> {
        let mut heads: Vec<&Effect> = self.effects.iter().filter(|effect| effect.head.is_some()).collect();
        heads.sort_by(|a, b| b.logit_difference().mean.total_cmp(&a.logit_difference().mean));
        heads
    }

    /// What the data support, in a sentence or two.
    pub fn sentence(&self) -> String {
        let Setting { baseline, count: [prompts, groups], draws, size, .. } = &self.setting;
        let heads = self.heads();
        if self.effects.is_empty() {
            return "The scan was stopped before its first layer was done: nothing was found out.".to_owned();
        }
        if heads.is_empty() {
            let differing = self.effects.iter().filter(|effect| effect.differs()).count();
            return format!(
                "Of {} MLP blocks, ablating {differing} changes the logit difference on these {prompts} prompts ({groups} groups, {baseline} ablation, false discoveries at 5 %).",
                self.effects.len()
            );
        }
        let side = |effects: &mut dyn Iterator<Item = &Effect>| {
            effects.fold([0, 0], |[up, down], effect| match effect.logit_difference().mean > 0.0 {
                true => [up + 1, down],
                false => [up, down + 1],
            })
        };
        let [up, down] = side(&mut heads.iter().copied().filter(|effect| effect.differs()));
        let so_far = if self.layers < self.setting.layers {
            format!("; {} of {} layers so far", self.layers, self.setting.layers)
        } else if self.layers < size[0] {
            format!("; the first {} of {} layers", self.layers, size[0])
        } else {
            String::new()
        };
        let first = format!(
            "On these {prompts} prompts ({groups} groups, {baseline} ablation{so_far}), removing {up} of {} heads raises the logit difference and removing {down} lowers it, beyond their errors, with false discoveries among all heads kept at 5 %.",
            heads.len(),
        );
        if *draws == 0 || size[1] < 2 {
            return format!(
                "{first} Nothing was compared with random subspaces, so no head is called a suppressor or a contributor."
            );
        }
        let null = format!("the null of {draws} random subspaces of their layer, at 5 % each");
        let named = |raises: bool| {
            let mut of: Vec<&Effect> =
                self.marked().filter(|effect| (effect.logit_difference().mean > 0.0) == raises).collect();
            of.sort_by(|a, b| b.logit_difference().mean.abs().total_cmp(&a.logit_difference().mean.abs()));
            let first: Vec<String> = of.iter().take(NAMED).map(|effect| effect.name()).collect();
            let more = of.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            if of.is_empty() { "none".to_owned() } else { format!("{}{more}", first.join(", ")) }
        };
        if self.marked().next().is_none() {
            return format!(
                "{first} None of these was told from {null}, so that no head is called a suppressor or a contributor."
            );
        }
        format!("{first} Those that also exceed {null}: suppressors {}; contributors {}.", named(true), named(false))
    }
}

/// Where an effect stands among draws of the null. What is no number is as far out as every effect, and no effect is further out
/// than it.
pub(super) fn beside(null: &[f64], effect: f64) -> NullPoint {
    let count = |less: &dyn Fn(&f64) -> bool| add_one(null.iter().filter(|draw| !less(draw)).count(), null.len());
    let p = two_sided(effect, count(&|draw| *draw < effect), count(&|draw| *draw > effect));
    let ends =
        null.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], draw| [low.min(*draw), high.max(*draw)]);
    NullPoint { p, range: ends }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Philox, Stream};

    #[test]
    fn intervals_are_over_groups_and_as_wide_as_rounding() {
        let measure = Measure(LOGIT_DIFFERENCE);
        let outcomes = |of: &dyn Fn(usize) -> f32| -> Vec<Outcome> {
            let outcome = |at| {
                let mut outcome = Outcome::default();
                outcome[LOGIT_DIFFERENCE] = of(at);
                outcome
            };
            (0..40).map(outcome).collect()
        };
        let clean = outcomes(&|_| 1.0);
        // Ten groups of four prompts: what differs between prompts differs between groups, and one group by much.
        let group = |at: usize| if at / 4 == 9 { 4.0 } else { (at / 4) as f32 * 0.1 };
        let changed = outcomes(&|at| 1.0 + group(at));
        let groups = Groups((0..10).map(|group| (4 * group..4 * group + 4).collect()).collect());
        let each = Groups((0..40).map(|at| vec![at]).collect());
        let width = |[low, high]: [f64; 2]| high - low;
        let found = groups.interval(&clean, &changed, measure).unwrap();
        let prompts = each.interval(&clean, &changed, measure).unwrap();
        assert!(width(found) > 1.5 * width(prompts), "{found:?} and {prompts:?}");
        let Paired { mean, standard_error, .. } = groups.change(&clean, &changed, measure);
        assert!(
            found[1] - mean > 1.5 * (mean - found[0]),
            "the group that stands out is above: {found:?} about {mean}"
        );
        assert!(width(found) > 2.5 * standard_error && width(found) < 6.0 * standard_error);
        // All the same: what f32 can tell of numbers of such size.
        let all = groups.interval(&clean, &outcomes(&|_| 3.0), measure).unwrap();
        assert!((all[0] - (2.0 - 4.0 * ROUNDING)).abs() < 1e-12 && (all[1] - (2.0 + 4.0 * ROUNDING)).abs() < 1e-12);
        assert_eq!(Groups(vec![(0..40).collect()]).interval(&clean, &changed, measure), None);
    }

    #[test]
    fn intervals_of_few_groups_hold_the_change_as_often_as_they_say() {
        // Four groups, whose changes are normal with mean 0.
        let groups = Groups((0..4).map(|at| vec![at]).collect());
        let outcomes = |of: &dyn Fn(usize) -> f32| -> Vec<Outcome> {
            (0..4)
                .map(|at| {
                    let mut outcome = Outcome::default();
                    outcome[LOGIT_DIFFERENCE] = of(at);
                    outcome
                })
                .collect()
        };
        let clean = outcomes(&|_| 0.0);
        let held = (0..400).filter(|seed| {
            let drawn = Philox::new(*seed, Stream::Weights, 0).normals(0);
            let more = Philox::new(*seed, Stream::Weights, 0).normals(1);
            let all: Vec<f32> = drawn.into_iter().chain(more).map(|x| x as f32).collect();
            let [low, high] = groups.interval(&clean, &outcomes(&|at| all[at]), Measure(LOGIT_DIFFERENCE)).unwrap();
            low <= 0.0 && 0.0 <= high
        });
        let held = held.count() as f64;
        // To four binomial errors.
        assert!((held - 380.0).abs() < 4.0 * (400.0f64 * 0.95 * 0.05).sqrt(), "{held} of 400");
    }

    #[test]
    fn what_is_no_number_clears_no_null() {
        let draws = [-1.0, 0.5, 0.2, -0.3];
        assert_eq!(beside(&draws, 2.0).p, 2.0 / 5.0);
        assert_eq!(beside(&draws, -2.0).p, 2.0 / 5.0);
        assert_eq!(beside(&draws, 0.2).p, 1.0);
        assert_eq!(beside(&draws, f64::NAN).p, 1.0);
        // A draw that is none reaches whatever it is held against.
        assert_eq!(beside(&[-1.0, f64::NAN, f64::NAN, -0.3], 2.0).p, 1.0);
    }
}
