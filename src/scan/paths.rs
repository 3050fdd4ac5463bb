//! Paths: how what a head does comes to the answer, straight or through what reads it.

use serde::{Deserialize, Serialize};

use super::findings::{Findings, Groups, Mean, discover};
use super::routes::Routes;
use super::{LayerOutcomes, Outcome, Prompts, Set};
use crate::error::Result;
use crate::intervene::ROUNDING;
use crate::intervene::column::LOGIT_DIFFERENCE;
use crate::model::ModelConfig;
use crate::stats::{Paired, Ratio};

/// Which prompts a head's writing is changed in, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It is ablated in every prompt.
    Ablated,
    /// In prompts, it is what it was in the corrupted one.
    Lost,
    /// In corrupted prompts, it is what it was in the prompt.
    Restored,
}

impl Direction {
    /// Names, by number.
    pub const NAMES: &[&str] = &["ablated", "corrupted in prompt", "prompt in corrupted"];
}

/// What reads a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The queries of a head.
    Q,
    /// Its keys.
    K,
    /// Its values.
    V,
    /// An MLP block.
    Mlp,
}

/// A change of the logit difference, and what share it is of all that the head changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The change.
    pub effect: Mean,
    /// By the total; none where that does not differ from 0.
    pub share: Option<Mean>,
}

/// One reader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reader {
    /// Its layer.
    pub layer: usize,
    /// By what it reads.
    pub input: Input,
    /// Which head; none of an MLP block.
    pub head: Option<usize>,
    /// What the head's change does through this reader alone: everything else reads the clean stream, and everything above sees
    /// what the reader makes of it.
    pub part: Part,
    /// Two-sided p of nothing; `None` of a single group.
    pub p: Option<f64>,
    /// The same among all readers of all senders that were tried, in this direction.
    pub q: Option<f64>,
}

impl Reader {
    /// `L5H3 q`, or `L5 MLP`.
    pub fn name(&self) -> String {
        let of = |head: usize, input: &str| format!("L{}H{head} {input}", self.layer);
        match (self.input, self.head) {
            (Input::Q, Some(head)) => of(head, "q"),
            (Input::K, Some(head)) => of(head, "k"),
            (Input::V, Some(head)) => of(head, "v"),
            _ => format!("L{} MLP", self.layer),
        }
    }

    /// Whether it differs from 0 among all that were tried.
    pub fn differs(&self) -> bool {
        self.q.is_some_and(|q| q <= Findings::RATE)
    }
}

/// What one layer adds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Which.
    pub layer: usize,
    /// What changes where this layer too reads the head, beyond where all below it do.
    pub part: Part,
    /// The sum of its readers, each alone.
    pub alone: Mean,
}

/// What a head does in one direction, in parts that add up: `total` = `direct` + the sum of `layers`, each of them the difference of
/// two passes, for every prompt. Readers alone need not add up to their layer: `rest` is `total` less `direct` less all readers, and 0
/// where what they make of the head does not depend on each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mediated {
    /// In which prompts.
    pub direction: Direction,
    /// All that changes.
    pub total: Mean,
    /// What changes where only the end of the stream has the head's change.
    pub direct: Part,
    /// Layer by layer, from the head's own on.
    pub layers: Vec<Layer>,
    /// Everything that reads it.
    pub readers: Vec<Reader>,
    /// What readers alone leave.
    pub rest: Part,
}

/// A head that is followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sender {
    /// Layer and number.
    pub head: [usize; 2],
    /// In each direction.
    pub directions: Vec<Mediated>,
}

impl Sender {
    /// `L2H3`.
    pub fn name(&self) -> String {
        format!("L{}H{}", self.head[0], self.head[1])
    }
}

/// What following heads found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Paths {
    /// The heads that are asked about.
    pub wanted: Set,
    /// Those that were followed so far, in the order of their layers.
    pub senders: Vec<Sender>,
}

impl Paths {
    /// Of heads as written, `L0H1` or several with commas between them.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) where one is no head of the model, or stands there twice.
    pub fn parse(heads: &[String], config: &ModelConfig) -> Result<Self> {
        let wanted = super::joint::heads("--from", &heads.join(","), config)?;
        Ok(Self { wanted, senders: Vec::new() })
    }

    /// Takes in a layer.
    pub(super) fn add(&mut self, prompts: &Prompts, clean: &[Outcome], found: &LayerOutcomes) {
        let directions = match prompts.paired {
            true => &[Direction::Lost, Direction::Restored][..],
            false => &[Direction::Ablated],
        };
        for (number, head) in self.wanted.iter().enumerate() {
            let routes: Vec<&Routes> = found.routes.iter().filter(|routes| routes.sender == number).collect();
            if routes.is_empty() {
                continue;
            }
            let of = |direction: &Direction| mediated(*direction, prompts, clean, &routes);
            self.senders.push(Sender { head: *head, directions: directions.iter().map(of).collect() });
        }
        for number in 0..directions.len() {
            let readers = self.senders.iter_mut().flat_map(|sender| &mut sender.directions[number].readers);
            discover(readers.map(|reader| (reader.p, &mut reader.q)));
        }
    }
}

/// Changes by prompt of the groups of a direction.
struct Changes<'a> {
    groups: Groups,
    clean: &'a [Outcome],
    /// What f32 can tell of a mean.
    rounding: f64,
}

impl<'a> Changes<'a> {
    fn of(direction: Direction, prompts: &Prompts, clean: &'a [Outcome]) -> Self {
        let mut groups = Groups::of(prompts);
        let is_of = |at: &usize| match direction {
            Direction::Ablated => true,
            Direction::Lost => at.is_multiple_of(2),
            Direction::Restored => !at.is_multiple_of(2),
        };
        groups.0.iter_mut().for_each(|group| group.retain(is_of));
        let sizes = groups.means(|at| 2.0 * f64::from(clean[at][LOGIT_DIFFERENCE].abs()));
        let rounding = ROUNDING * sizes.iter().sum::<f64>() / sizes.len() as f64;
        Self { groups, clean, rounding }
    }

    /// What changes, group by group.
    fn by_group(&self, changed: &[Outcome]) -> Vec<f64> {
        let difference = |all: &[Outcome], at: usize| f64::from(all[at][LOGIT_DIFFERENCE]);
        self.groups.means(|at| difference(changed, at) - difference(self.clean, at))
    }

    /// The mean of changes that are so many passes apart from each other.
    fn mean(&self, changes: &[f64], passes: usize) -> Paired {
        Paired::of(changes).rounded(self.rounding * (passes as f64).sqrt())
    }
}

fn mediated(direction: Direction, prompts: &Prompts, clean: &[Outcome], routes: &[&Routes]) -> Mediated {
    let changes = Changes::of(direction, prompts, clean);
    let nothing = vec![0.0; changes.groups.0.len()];
    let direct = routes.iter().flat_map(|routes| &routes.direct).map(|list| changes.by_group(list)).next();
    let direct = direct.unwrap_or_else(|| nothing.clone());
    let upto = |routes: &Routes| routes.upto.first().map(|list| changes.by_group(list));
    let total = routes.iter().rev().find_map(|routes| upto(routes)).unwrap_or_else(|| direct.clone());
    let paired = changes.mean(&total, 1);
    let part = |effects: &[f64], passes: usize| {
        let share = (paired.p() <= Findings::RATE).then(|| {
            let Ratio { ratio, standard_error } = Ratio::of(effects, &total);
            Mean { mean: ratio, error: standard_error.is_finite().then_some(standard_error) }
        });
        Part { effect: changes.mean(effects, passes).into(), share }
    };
    let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>();
    let (mut layers, mut readers, mut before) = (Vec::new(), Vec::new(), direct.clone());
    let (mut left, mut passes) = (less(&total, &direct), 2);
    for routes in routes {
        let inputs = [
            (Input::Q, &routes.queries),
            (Input::K, &routes.keys),
            (Input::V, &routes.values),
            (Input::Mlp, &routes.mlp),
        ];
        let (mut alone, first) = (nothing.clone(), readers.len());
        for (input, lists) in inputs {
            for (head, list) in lists.iter().enumerate() {
                let effects = changes.by_group(list);
                alone.iter_mut().zip(&effects).for_each(|(sum, effect)| *sum += effect);
                let p = changes.mean(&effects, 1).p();
                readers.push(Reader {
                    layer: routes.layer,
                    input,
                    head: (input != Input::Mlp).then_some(head),
                    part: part(&effects, 1),
                    p: p.is_finite().then_some(p),
                    q: None,
                });
            }
        }
        let count = readers.len() - first;
        passes += count;
        left = less(&left, &alone);
        if let Some(now) = upto(routes) {
            let part = part(&less(&now, &before), 2);
            layers.push(Layer { layer: routes.layer, part, alone: changes.mean(&alone, count).into() });
            before = now;
        }
    }
    let direct = part(&direct, 1);
    Mediated { direction, total: paired.into(), direct, layers, readers, rest: part(&left, passes) }
}
