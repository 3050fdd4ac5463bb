//! The pulses of one replica together: which heads their shams take, and what adds up.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Baseline, Pulse, PulseKind, Sham};
use crate::error::{Error, Result};
use crate::gpu::{Philox, Stream};
use crate::model::ModelConfig;

/// Doses are f32 on the device, and sums of them round.
const ROUNDED: f64 = 1e-6;

impl Pulse {
    /// Checks all pulses of a replica, with its seed, for a resolved model, a run of so many steps and so many classes: each by
    /// itself, and that together they leave heads for their shams and take no more of anything than there is.
    ///
    /// # Errors
    /// [`Error::Config`] naming the pulse by its place in the list, and saying what must be otherwise.
    pub fn check_all(pulses: &[Self], model: &ModelConfig, seed: u64, steps: u64, classes: usize) -> Result<()> {
        let named = |at: usize, what: String| Error::Config(format!("intervene[{at}]: {what}"));
        for (at, pulse) in pulses.iter().enumerate() {
            pulse.check(model, steps, classes).map_err(|error| match error {
                Error::Config(what) => named(at, what),
                other => other,
            })?;
        }
        for what in [PulseKind::LabelNoise, PulseKind::Subset] {
            let mut of_kind = (0..pulses.len()).filter(|at| pulses[*at].what == what && pulses[*at].dose != 0.0);
            let Some(first) = of_kind.next() else { continue };
            if let Some(other) = of_kind.find(|at| pulses[*at].seed != pulses[first].seed) {
                return Err(named(
                    other,
                    format!(
                        "{} draws with the seed of intervene[{first}], the first of its kind in the list: give both the same seed",
                        what.word()
                    ),
                ));
            }
        }
        let heads = Self::heads(pulses, model, seed)?;
        for at in 0..pulses.len() {
            if let Some(what) = adds_up(pulses, &heads, at) {
                return Err(named(at, what));
            }
        }
        Ok(())
    }

    /// Of each pulse of a replica, with its seed, the head that it is about: its own, or the one that a sham takes instead.
    /// Shams take heads that no pulse of the list is about, each another one, so that none is done to what another is done to;
    /// those of the same head and seed stand for one thing and take the same. A dose of 0 is done to nothing, and takes none.
    ///
    /// # Errors
    /// [`Error::Config`] where too few heads are left.
    pub fn heads(pulses: &[Self], model: &ModelConfig, seed: u64) -> Result<Vec<Option<usize>>> {
        let seed_of = |pulse: &Self| pulse.seed.unwrap_or(seed);
        let place = |pulse: &Self, head: usize| (pulse.layers(model).start, head, seed_of(pulse));
        let mut gone = vec![vec![false; model.n_heads]; model.n_layers];
        for pulse in pulses.iter().filter(|pulse| pulse.dose != 0.0) {
            if let Some(head) = pulse.head {
                gone[pulse.layers(model).start][reach(model, head, !pulse.of_queries())].fill(true);
            }
        }
        let mut drawn = BTreeMap::new();
        let mut head_of = |(at, pulse): (usize, &Self)| {
            let (Some(own), Some(Sham::Head), true) = (pulse.head, pulse.sham, pulse.dose != 0.0) else {
                return Ok(pulse.head);
            };
            let key = place(pulse, own);
            if let Some(other) = drawn.get(&key) {
                return Ok(Some(*other));
            }
            let alike =
                pulses.iter().filter(|one| one.sham == pulse.sham && one.head.map(|h| place(one, h)) == Some(key));
            let wide = alike.into_iter().any(|one| !one.of_queries());
            let gone = &mut gone[key.0];
            let left: Vec<usize> =
                (0..model.n_heads).filter(|head| gone[reach(model, *head, wide)].iter().all(|gone| !gone)).collect();
            if left.is_empty() {
                return Err(Error::Config(format!(
                    "intervene[{at}]: {}: sham = \"head\" takes a head that nothing else in the list is done to, and of the {} of layer {} none is left{}; name fewer heads in one list",
                    pulse.what.word(),
                    model.n_heads,
                    key.0,
                    if wide && model.n_heads > model.n_key_value_heads {
                        " with keys and values of its own"
                    } else {
                        ""
                    },
                )));
            }
            let draw = Philox::new(key.2, Stream::Pulse, 0).below(own as u64, left.len() as u32);
            let other = left[draw as usize];
            gone[reach(model, other, wide)].fill(true);
            drawn.insert(key, other);
            Ok(Some(other))
        };
        pulses.iter().enumerate().map(&mut head_of).collect()
    }

    /// What it takes away of what a factor is on, or how likely it is: 1 - factor of it, times the dose.
    pub(super) fn taken(&self) -> f64 {
        self.dose * (1.0 - self.factor.unwrap_or(0.0))
    }
}

/// Heads that something done to a head reaches: itself alone, or all that share its keys and values.
fn reach(model: &ModelConfig, head: usize, wide: bool) -> Range<usize> {
    let share = if wide { model.n_heads / model.n_key_value_heads } else { 1 };
    let first = head / share * share;
    first..first + share
}

/// What is wrong where pulses of one kind are done to the same thing at the step at which one of them begins, and their doses
/// add up to more than all: a factor below 0 would turn its sign.
fn adds_up(pulses: &[Pulse], heads: &[Option<usize>], at: usize) -> Option<String> {
    use PulseKind::{LabelNoise, LearningRate, ScaleHead, ScaleLogits, Subset, UniformAttention, WeightDecay};
    let own = &pulses[at];
    if ![LabelNoise, LearningRate, ScaleHead, ScaleLogits, Subset, UniformAttention, WeightDecay].contains(&own.what) {
        return None;
    }
    let to_mean = |pulse: &Pulse| pulse.baseline == Some(Baseline::Mean);
    let thing = |at: usize| (pulses[at].what, pulses[at].layer.unwrap_or(0), heads[at], to_mean(&pulses[at]));
    let open = |other: &Pulse| other.from <= own.from && other.end().is_none_or(|end| own.from < end);
    let together: Vec<usize> =
        (0..pulses.len()).filter(|one| thing(*one) == thing(at) && open(&pulses[*one])).collect();
    let sum: f64 = together.iter().map(|one| pulses[*one].taken()).sum();
    (sum > 1.0 + ROUNDED).then(|| {
        let others = together.iter().filter(|one| **one != at).map(|one| format!("intervene[{one}]"));
        let of_head = heads[at].map_or_else(String::new, |head| format!(" of head {head}"));
        format!(
            "{}: at step {} it adds up with {} to {sum}{of_head}, and 1 is all there is; lower the doses, or let one end before the other begins",
            own.what.word(),
            own.from,
            others.collect::<Vec<_>>().join(", "),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(n_heads: usize, n_key_value_heads: usize) -> ModelConfig {
        let of = format!(
            "n_layers = 2\nd_model = 24\nn_heads = {n_heads}\nn_key_value_heads = {n_key_value_heads}\nd_head = 3\nn_ctx = 3\nd_vocab = 5\n"
        );
        toml::from_str::<ModelConfig>(&of).unwrap().resolve().unwrap()
    }

    fn list(text: &[&str]) -> Vec<Pulse> {
        let of = |text: &&str| toml::from_str::<Pulse>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        text.iter().map(of).collect()
    }

    fn sham(head: usize, rest: &str) -> String {
        format!("what = \"scale_head\"\nfrom = 0\nlayer = 1\nhead = {head}\nsham = \"head\"\n{rest}")
    }

    fn of(model: &ModelConfig, pulses: &[String], seed: u64) -> Result<Vec<usize>> {
        let pulses = list(&pulses.iter().map(String::as_str).collect::<Vec<_>>());
        Ok(Pulse::heads(&pulses, model, seed)?.into_iter().flatten().collect())
    }

    #[test]
    fn shams_of_several_heads_are_other_heads_and_each_another() {
        let model = model(8, 8);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            for declared in [vec![0, 3], vec![1, 2], vec![6, 0, 4, 7]] {
                let pulses: Vec<String> = declared.iter().map(|head| sham(*head, "")).collect();
                let mut heads = of(&model, &pulses, seed).unwrap();
                seen.extend(heads.iter().copied());
                assert!(heads.iter().all(|head| !declared.contains(head)), "{declared:?} to {heads:?}, seed {seed}");
                heads.sort_unstable();
                heads.dedup();
                assert_eq!(heads.len(), declared.len(), "seed {seed}");
            }
        }
        assert_eq!(seen.len(), 8, "each head is taken by some");
        // Nor is one what something else in the list is about, whether or not that is a sham and where it stands.
        let other = "what = \"freeze\"\nweights = [\"q\"]\nfrom = 9\nlayer = 1\nhead = 5\n".to_owned();
        for seed in 0..50 {
            let heads = of(&model, &[sham(0, ""), other.clone(), sham(3, "")], seed).unwrap();
            assert!(heads[1] == 5 && heads[0] != 5 && heads[2] != 5 && heads[0] != heads[2], "{heads:?}");
        }
    }

    #[test]
    fn shams_of_one_head_take_the_same_other_head_unless_their_seeds_differ() {
        let model = model(8, 8);
        for seed in 0..50 {
            let later = "what = \"uniform_attention\"\nfrom = 50\nlayer = 1\nhead = 2\nsham = \"head\"".to_owned();
            let heads = of(&model, &[sham(2, ""), later, sham(2, "seed = 99")], seed).unwrap();
            assert!(heads[0] == heads[1] && heads[2] != heads[0], "{heads:?}");
        }
        // What was drawn for one head alone stays, whatever is declared of other layers.
        let upper = sham(2, "").replace("layer = 1", "layer = 0");
        for seed in 0..50 {
            let alone = of(&model, &[sham(2, "")], seed).unwrap();
            assert_eq!(alone[..], of(&model, &[upper.clone(), sham(2, "")], seed).unwrap()[1..]);
        }
    }

    #[test]
    fn heads_that_share_keys_and_values_are_taken_together_where_those_are_meant() {
        let model = model(8, 2);
        let keys = |head: usize| {
            format!("what = \"freeze\"\nweights = [\"k\", \"v\"]\nfrom = 0\nlayer = 1\nhead = {head}\nsham = \"head\"")
        };
        for seed in 0..50 {
            assert!(of(&model, &[keys(1)], seed).unwrap()[0] >= 4);
            // A sham of the queries of the same head is of the same other one; that of another head is in what is left.
            let heads = of(&model, &[sham(1, ""), keys(1)], seed).unwrap();
            assert!(heads[0] == heads[1] && heads[0] >= 4, "{heads:?}");
            let error = of(&model, &[keys(1), sham(2, "")], seed).unwrap_err().to_string();
            assert!(error.contains("intervene[1]") && error.contains("none is left"), "{error}");
        }
        // Of two heads that share keys, one of which is taken, the other is none for keys.
        let four = self::model(8, 4);
        for seed in 0..50 {
            let query = sham(4, "").replace("sham = \"head\"\n", "");
            let heads = of(&four, &[sham(0, ""), keys(0), query], seed).unwrap();
            assert!(heads[0] == heads[1] && [2, 3, 6, 7].contains(&heads[0]), "{heads:?}");
        }
        let error = of(&model, &[keys(0), keys(4)], 0).unwrap_err().to_string();
        assert!(error.contains("none is left with keys and values of its own"), "{error}");
    }

    #[test]
    fn too_many_heads_for_their_shams_are_refused() {
        let model = model(4, 4);
        let pulses: Vec<String> = (0..3).map(|head| sham(head, "")).collect();
        assert!(of(&model, &pulses[..2], 0).is_ok());
        // What is done with a dose of 0, as in an arm that has all of others with none, needs no head and keeps none.
        let nothing: Vec<String> = (0..4).map(|head| sham(head, "dose = 0")).collect();
        assert_eq!(
            of(&model, &[&nothing[..], &pulses[..2]].concat(), 0).unwrap()[4..],
            of(&model, &pulses[..2], 0).unwrap()
        );
        let error = of(&model, &pulses, 0).unwrap_err().to_string();
        assert!(error.contains("intervene[1]: scale_head") && error.contains("4 of layer 1"), "{error}");
    }

    #[test]
    fn no_more_is_taken_of_anything_than_there_is() {
        let model = model(4, 4);
        let check = |pulses: &[&str]| Pulse::check_all(&list(pulses), &model, 0, 100, 5).map_err(|e| e.to_string());
        let head = |what: &str, rest: &str| format!("what = \"{what}\"\nlayer = 0\nhead = 1\n{rest}");
        for what in ["scale_head", "uniform_attention"] {
            let [first, second, apart] =
                ["from = 10", "from = 20", "from = 10\nuntil = 20"].map(|rest| head(what, rest));
            let error = check(&[&first, &second]).unwrap_err();
            for word in ["intervene[1]", "intervene[0]", "at step 20", "to 2 of head 1"] {
                assert!(error.contains(word), "{error}");
            }
            check(&[&apart, &second]).unwrap();
            check(&[&second, &apart]).unwrap();
            let half = |from: u32| head(what, &format!("from = {from}\ndose = 0.5"));
            check(&[&half(10), &half(20)]).unwrap();
            assert!(check(&[&half(10), &half(20), &half(30)]).unwrap_err().contains("1.5"));
            // Another head, or layer, is another thing.
            check(&[&first, &second.replace("head = 1", "head = 2")]).unwrap();
            check(&[&first, &second.replace("layer = 0", "layer = 1")]).unwrap();
        }
        check(&[&head("scale_head", "from = 1\nfactor = 3"), &head("scale_head", "from = 1\nfactor = 2")]).unwrap();
        let factor = |what: &str| format!("what = \"{what}\"\nfactor = 0\nfrom = 1\n");
        for what in ["learning_rate", "weight_decay", "scale_logits"] {
            let twice = check(&[&factor(what), &factor(what)]).unwrap_err();
            assert!(twice.contains("intervene[0]") && twice.contains("to 2,"), "{twice}");
        }
        let noise = "what = \"label_noise\"\nfrom = 1\ndose = 0.7";
        assert!(check(&[noise, noise]).unwrap_err().contains("1.4"));
        let seeded = |seed: u64| format!("what = \"label_noise\"\nfrom = 1\ndose = 0.3\nseed = {seed}");
        check(&[&seeded(2), &seeded(2)]).unwrap();
        let other = check(&[&seeded(2), &seeded(3)]).unwrap_err();
        assert!(other.contains("intervene[1]") && other.contains("same seed"), "{other}");
        // What is done one behind the other does not add up.
        let frozen = "what = \"freeze\"\nweights = [\"q\"]\nfrom = 1";
        check(&[frozen, frozen]).unwrap();
    }
}
