//! Several heads ablated together, beside what each does alone.

use serde::{Deserialize, Serialize};

use super::engine::{Set, pairs};
use super::findings::{Findings, Groups, Mean, Measure, NullPoint, beside, discover};
use super::{LayerOutcomes, Outcome};
use crate::error::{Error, Result};
use crate::gpu::{Philox, Stream};
use crate::intervene::ROUNDING;
use crate::intervene::column::LOGIT_DIFFERENCE;
use crate::model::ModelConfig;
use crate::stats::Paired;

/// What ablating several heads together does to the logit difference. All of it is measured: the heads are ablated in one pass,
/// and synergy is what that does beyond the sum of what each does alone, prompt by prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joint {
    /// The heads, as layer and number.
    pub heads: Set,
    /// The change with all of them ablated.
    pub together: Mean,
    /// Sum of the changes with each ablated alone.
    pub alone: Mean,
    /// The first less the second; 0 where heads act independently.
    pub synergy: Mean,
    /// Two-sided p of no synergy; `None` of a single group.
    pub p: Option<f64>,
    /// The same among all pairs, or all sets, that were tried.
    pub q: Option<f64>,
    /// Where `together` stands among other sets, as many heads of the same layers, each ablated together too.
    pub null: Option<NullPoint>,
}

impl Joint {
    fn of(groups: &Groups, heads: Set, [together, alone]: [&[f64]; 2], size: f64) -> Self {
        let mean = |of: &dyn Fn(usize) -> f64| Paired::of(&groups.means(of)).rounded(ROUNDING * size);
        let synergy = mean(&|at| together[at] - alone[at]);
        let p = synergy.p();
        Self {
            heads,
            together: mean(&|at| together[at]).into(),
            alone: mean(&|at| alone[at]).into(),
            synergy: synergy.into(),
            p: p.is_finite().then_some(p),
            q: None,
            null: None,
        }
    }

    /// `L0H1 + L2H3`.
    pub fn name(&self) -> String {
        self.heads.iter().map(|[layer, head]| format!("L{layer}H{head}")).collect::<Vec<_>>().join(" + ")
    }

    /// Whether its synergy differs from 0 among all that were tried.
    pub fn differs(&self) -> bool {
        self.q.is_some_and(|q| q <= Findings::RATE)
    }
}

/// Changes of the logit difference, prompt by prompt.
fn changes(clean: &[Outcome], changed: &[Outcome]) -> Vec<f64> {
    let difference = |outcome: &Outcome| f64::from(outcome[LOGIT_DIFFERENCE]);
    clean.iter().zip(changed).map(|(clean, changed)| difference(changed) - difference(clean)).collect()
}

/// How large the logits differences are that changes are taken of, so that rounding is known.
fn size(clean: &[Outcome], outcomes: &[&Vec<Outcome>]) -> f64 {
    let mean = |all: &[Outcome]| {
        all.iter().map(|outcome| f64::from(outcome[LOGIT_DIFFERENCE].abs())).sum::<f64>() / all.len() as f64
    };
    outcomes.iter().map(|all| mean(all) + mean(clean)).sum()
}

/// Every two heads of a layer.
pub(super) fn of_layer(groups: &Groups, clean: &[Outcome], layer: usize, found: &LayerOutcomes) -> Vec<Joint> {
    let singles: Vec<Vec<f64>> = found.heads.iter().map(|outcomes| changes(clean, outcomes)).collect();
    let one = |([a, b], outcomes): ([usize; 2], &Vec<Outcome>)| {
        let together = changes(clean, outcomes);
        let alone: Vec<f64> = singles[a].iter().zip(&singles[b]).map(|(a, b)| a + b).collect();
        let size = size(clean, &[outcomes, &found.heads[a], &found.heads[b]]);
        Joint::of(groups, vec![[layer, a], [layer, b]], [&together, &alone], size)
    };
    pairs(found.heads.len()).zip(&found.pairs).map(one).collect()
}

/// What a pass with some heads ablated is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Together,
    Alone,
    Null,
}

/// Sets of heads that a user asks about, and what is known of them so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sets {
    /// What is known of each.
    pub known: Vec<Known>,
    /// Draws of the null for each, at most.
    draws: usize,
}

/// What is known of a set so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// The heads.
    pub heads: Set,
    /// Its findings, once every pass is done.
    pub joint: Option<Joint>,
    /// Changes of the logit difference with all ablated, prompt by prompt; and the sum of those with each alone.
    by_prompt: [Vec<f64>; 2],
    /// Size of what these are differences of.
    size: f64,
    /// Effects of the sets of the null.
    pub null: Vec<f64>,
    /// Passes that are still to come.
    waiting: usize,
}

impl Sets {
    /// Of sets as written, `L0H1,L2H3`, with as many sets of the same layers as draws, or all of them where there are fewer.
    ///
    /// # Errors
    /// [`Error::Config`] where a set is not at least two heads of the model.
    pub fn parse(sets: &[String], config: &ModelConfig, draws: usize) -> Result<Self> {
        let known = sets.iter().map(|text| {
            let heads = parse(text, config)?;
            let by_prompt = Default::default();
            Ok(Known { heads, joint: None, by_prompt, size: 0.0, null: Vec::new(), waiting: 0 })
        });
        let mut all = Self { known: known.collect::<Result<_>>()?, draws };
        for (at, text) in sets.iter().enumerate() {
            if all.known[..at].iter().any(|other| other.heads == all.known[at].heads) {
                return Err(Error::Config(format!("--set {text}: it is given twice")));
            }
            all.known[at].waiting = all.tried(at, config).len();
        }
        Ok(all)
    }

    /// The passes that a set needs.
    fn tried(&self, at: usize, config: &ModelConfig) -> Vec<(Role, Set)> {
        let heads = &self.known[at].heads;
        let alone = heads.iter().map(|head| (Role::Alone, vec![*head]));
        let null = matched(heads, config.n_heads, self.draws).into_iter().map(|set| (Role::Null, set));
        [(Role::Together, heads.clone())].into_iter().chain(alone).chain(null).collect()
    }

    fn all(&self, config: &ModelConfig) -> Vec<(usize, Role, Set)> {
        let of = |at: usize| self.tried(at, config).into_iter().map(move |(role, set)| (at, role, set));
        (0..self.known.len()).flat_map(of).collect()
    }

    /// Every set of heads that has to be ablated for these.
    pub fn passes(&self, config: &ModelConfig) -> Vec<Set> {
        self.all(config).into_iter().map(|(.., set)| set).collect()
    }

    /// Takes in what became of some of [`Sets::passes`].
    pub(super) fn add(
        &mut self,
        groups: &Groups,
        config: &ModelConfig,
        clean: &[Outcome],
        found: &[(usize, Vec<Outcome>)],
    ) {
        let all = self.all(config);
        for (number, outcomes) in found {
            let (at, role, _) = &all[*number];
            let known = &mut self.known[*at];
            known.waiting -= 1;
            match role {
                Role::Null => known.null.push(groups.change(clean, outcomes, Measure(LOGIT_DIFFERENCE)).mean),
                Role::Together | Role::Alone => {
                    let of = &mut known.by_prompt[usize::from(*role == Role::Alone)];
                    of.resize(clean.len(), 0.0);
                    of.iter_mut().zip(changes(clean, outcomes)).for_each(|(sum, change)| *sum += change);
                    known.size += size(clean, &[outcomes]);
                }
            }
            if known.waiting == 0 {
                let [together, alone] = &known.by_prompt;
                let mut joint = Joint::of(groups, known.heads.clone(), [together, alone], known.size);
                joint.null = (!known.null.is_empty()).then(|| beside(&known.null, joint.together.mean));
                known.joint = Some(joint);
            }
        }
        let done = self.known.iter_mut().filter_map(|known| known.joint.as_mut());
        discover(done.map(|joint| (joint.p, &mut joint.q)));
    }
}

/// `L0H1,L2H3` as heads, in order.
fn parse(text: &str, config: &ModelConfig) -> Result<Set> {
    let heads = heads("--set", text, config)?;
    if heads.len() < 2 {
        return Err(Error::Config(format!(
            "--set {text}: a set is two heads or more; --battery heads ablates each alone; write heads as in L0H1,L2H3"
        )));
    }
    Ok(heads)
}

/// The same of an option that takes one head, or more.
pub(super) fn heads(option: &str, text: &str, config: &ModelConfig) -> Result<Set> {
    let wrong = |what: String| Error::Config(format!("{option} {text}: {what}; write heads as in L0H1,L2H3"));
    let one = |part: &str| {
        let (layer, head) = part.trim().strip_prefix(['L', 'l'])?.split_once(['H', 'h'])?;
        Some([layer.parse().ok()?, head.parse().ok()?])
    };
    let mut heads = Vec::new();
    for part in text.split(',') {
        let [layer, head] = one(part).ok_or_else(|| wrong(format!("{part:?} is no head")))?;
        if layer >= config.n_layers || head >= config.n_heads {
            return Err(wrong(format!(
                "there is no {}; the model has {} layers, 0 to {}, of {} heads, 0 to {}",
                part.trim(),
                config.n_layers,
                config.n_layers - 1,
                config.n_heads,
                config.n_heads - 1
            )));
        }
        heads.push([layer, head]);
    }
    heads.sort_unstable();
    if heads.windows(2).any(|two| two[0] == two[1]) {
        return Err(wrong("a head stands there twice".to_owned()));
    }
    Ok(heads)
}

/// Other sets with as many heads in each of the layers: all of them, where they are no more than `draws`, or so many drawn ones,
/// no two the same.
fn matched(set: &Set, heads: usize, draws: usize) -> Vec<Set> {
    let of_layers: Vec<(usize, usize)> =
        set.chunk_by(|a, b| a[0] == b[0]).map(|some| (some[0][0], some.len())).collect();
    let ways = |count: usize| (0..count).fold(1.0, |all, at| all * (heads - at) as f64 / (at + 1) as f64);
    let all = of_layers.iter().map(|(_, count)| ways(*count)).product::<f64>() - 1.0;
    if all <= draws as f64 {
        let mut sets: Vec<Set> = vec![Vec::new()];
        for (layer, count) in of_layers {
            let choices = choices(heads, count);
            let with = |set: &Set, choice: &Vec<usize>| {
                set.iter().copied().chain(choice.iter().map(|head| [layer, *head])).collect::<Set>()
            };
            sets = sets.iter().flat_map(|set| choices.iter().map(|choice| with(set, choice))).collect();
        }
        sets.retain(|other| other != set);
        return sets;
    }
    let mut sets: Vec<Set> = Vec::new();
    for draw in (0u64..).take_while(|_| draws > 0) {
        let of_layer = |(layer, count): &(usize, usize)| {
            let order = Philox::new(draw, Stream::Sets, *layer as u32).permutation(heads as u32);
            let mut some: Set = order[..*count].iter().map(|head| [*layer, *head as usize]).collect();
            some.sort_unstable();
            some
        };
        let drawn: Set = of_layers.iter().flat_map(of_layer).collect();
        if drawn != *set && !sets.contains(&drawn) {
            sets.push(drawn);
        }
        if sets.len() == draws {
            break;
        }
    }
    sets
}

/// Every choice of `count` of `heads` heads.
fn choices(heads: usize, count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let with = |last: usize| choices(last, count - 1).into_iter().map(move |some| [some, vec![last]].concat());
    (count - 1..heads).flat_map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig { n_layers: 3, n_heads: 5, ..ModelConfig::default() }
    }

    #[test]
    fn sets_are_read_or_refused() {
        let read = |text: &str| parse(text, &config()).map_err(|error| error.to_string());
        assert_eq!(read("L2H4, L0H1").unwrap(), [[0, 1], [2, 4]]);
        for (text, words) in [
            ("L0H1", "two heads or more"),
            ("L0H1,L0H1", "twice"),
            ("L0H1,L3H0", "no L3H0"),
            ("L0H1,L0H5", "heads, 0 to 4"),
            ("L0H1,MLP3", "no head"),
            ("", "no head"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words) && error.contains("L0H1,L2H3"), "{text}: {error}");
        }
        let twice = ["L0H1,L0H2", "L0H2,L0H1"].map(str::to_owned);
        assert!(Sets::parse(&twice, &config(), 0).unwrap_err().to_string().contains("given twice"));
    }

    #[test]
    fn the_null_of_a_set_are_other_sets_of_its_layers() {
        // Two of layer 0 and one of layer 2: 10 times 5, less the set itself.
        let set: Set = vec![[0, 1], [0, 3], [2, 4]];
        for draws in [49, 60, 20, 0] {
            let mut found = matched(&set, 5, draws);
            assert_eq!(found.len(), draws.min(49));
            let layers = |set: &Set| set.iter().map(|head| head[0]).collect::<Vec<_>>();
            assert!(found.iter().all(|other| *other != set && layers(other) == [0, 0, 2] && other.is_sorted()));
            found.sort();
            found.dedup();
            assert_eq!(found.len(), draws.min(49), "no two are the same");
        }
        let sets = Sets::parse(&["L0H1,L0H3,L2H4".to_owned()], &config(), 20).unwrap();
        assert_eq!(sets.passes(&config()).len(), 1 + 3 + 20);
    }
}
