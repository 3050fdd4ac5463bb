//! What a scan found, in sentences.

use super::findings::{Findings, Mean};
use super::joint::Joint;
use super::patch::{Patch, Patching, Site};
use super::paths::{Direction, Layer, Mediated, Part, Reader, Sender};

/// Things that a sentence names.
const NAMED: usize = 5;

/// `+0.123 ± 0.045`.
pub(super) fn plus_minus(mean: Mean, sign: bool) -> String {
    let digits = |x: f64| if x.abs() >= 99.95 { format!("{x:.1}") } else { format!("{x:.3}") };
    let value = if sign && mean.mean > 0.0 { format!("+{}", digits(mean.mean)) } else { digits(mean.mean) };
    // A true minus sign, as wide as the plus.
    let value = value.replace('-', "\u{2212}");
    mean.error.map_or_else(|| value.clone(), |error| format!("{value} ± {}", digits(error)))
}

impl Findings {
    /// What the data support, a paragraph for each thing that was done.
    pub fn sentences(&self) -> Vec<String> {
        let scanned = ["heads", "mlps"].iter().any(|name| self.setting.battery.iter().any(|done| done == name));
        let mut all = Vec::new();
        if scanned || self.layers == 0 || self.paths.as_ref().is_some_and(|paths| paths.senders.is_empty()) {
            all.push(self.sentence());
            all.extend(self.choice());
        }
        all.extend(self.of_pairs());
        all.extend(self.sets.known.iter().filter_map(|known| known.joint.as_ref()).map(|joint| of_set(joint, self)));
        all.extend(self.patching.as_ref().map(|patching| of_patching(patching, self)));
        all.extend(self.paths.iter().flat_map(|paths| &paths.senders).flat_map(of_sender));
        all.extend(self.of_repeated());
        all
    }

    fn choice(&self) -> Option<String> {
        let of = |name: &str| self.calibration.get(name).map(|mean| plus_minus(mean, false));
        let best = of("temperature").map_or_else(
            || "no temperature from 1/32 to 32 is best".to_owned(),
            |temperature| format!("the temperature at which it would be surest of what is right is {temperature}"),
        );
        Some(format!(
            "Between right and wrong answer the model chooses rightly in {} of the prompts, with a loss of {} nats and a reliability (what its Brier score would lose if it were as sure as it is right) of {}; {best}.",
            of("accuracy")?,
            of("nll")?,
            of("reliability")?,
        ))
    }

    fn of_pairs(&self) -> Option<String> {
        let mut apart: Vec<&Joint> = self.pairs.iter().filter(|joint| joint.differs()).collect();
        apart.sort_by(|a, b| b.synergy.mean.abs().total_cmp(&a.synergy.mean.abs()));
        let all = self.pairs.len();
        if all == 0 {
            return None;
        }
        if apart.is_empty() {
            return Some(format!(
                "Of {all} pairs of heads of a layer none was told to do another thing together than the sum of both (false discoveries at 5 %)."
            ));
        }
        let named: Vec<String> = apart
            .iter()
            .take(NAMED)
            .map(|joint| {
                let [together, alone] = [joint.together, joint.alone].map(|mean| plus_minus(mean, true));
                format!("{} {} ({together} together, {alone} as a sum)", joint.name(), plus_minus(joint.synergy, true))
            })
            .collect();
        Some(format!(
            "Of {all} pairs of heads of a layer {} do another thing together than the sum of both (synergy, in logits; false discoveries at 5 %), most of all {}.",
            apart.len(),
            named.join("; ")
        ))
    }

    fn of_repeated(&self) -> Option<String> {
        let repeated = self.repeated.as_ref()?;
        let [sequences, period] = repeated.size;
        let head = |name: &str, of: &dyn Fn(&super::Scores) -> f32| {
            repeated.greatest(of).map(|(layer, head, score)| format!("{name} L{layer}H{head} {score:.3}"))
        };
        let heads = [
            head("induction", &|scores| scores.induction),
            head("previous token", &|scores| scores.previous),
            head("the same token", &|scores| scores.duplicate),
        ];
        let heads: Vec<String> = heads.into_iter().flatten().collect();
        let losses = repeated.losses.map_or_else(String::new, |[first, second]| {
            format!("the loss is {first:.2} nats in the first round and {second:.2} in the second, and ")
        });
        Some(format!(
            "On {sequences} sequences of {period} random tokens that come twice, {losses}the heads that attend most are: {} (even attention scores {:.3}, {:.3} and {:.3}).",
            heads.join(", "),
            repeated.uniform.induction,
            repeated.uniform.previous,
            repeated.uniform.duplicate,
        ))
    }
}

fn of_set(joint: &Joint, findings: &Findings) -> String {
    let null = joint.null.map_or_else(
        || "; it was not compared with other sets".to_owned(),
        |null| {
            let count = findings.sets.known.iter().find(|known| known.heads == joint.heads).map_or(0, |k| k.null.len());
            let [low, high] = null.range.map(|end| plus_minus(Mean { mean: end, error: None }, true));
            format!(
                "; {count} other sets of as many heads of the same layers do {low} to {high} (p {:.3}, of which {:.3} is the least possible)",
                null.p,
                2.0 / (count + 1) as f64
            )
        },
    );
    format!(
        "{} together: {} logits, {} as a sum of each alone, synergy {} ({}){null}.",
        joint.name(),
        plus_minus(joint.together, true),
        plus_minus(joint.alone, true),
        plus_minus(joint.synergy, true),
        joint.p.map_or_else(|| "of one group, so without error".to_owned(), |p| format!("p {p:.3}")),
    )
}

/// A sentence for each direction.
fn of_sender(sender: &Sender) -> Vec<String> {
    let of = |mediated: &Mediated| {
        let what = match mediated.direction {
            Direction::Ablated => "Ablating",
            Direction::Lost => "In the prompts, putting what the corrupted one has in place of",
            Direction::Restored => "In the corrupted prompts, putting what the prompt has in place of",
        };
        let total = plus_minus(mediated.total, true);
        let Some(direct) = mediated.direct.share else {
            return format!(
                "{what} {} moves the logit difference by {total}, which may be nothing: there are no shares of it.",
                sender.name()
            );
        };
        let mut layers: Vec<&Layer> = mediated.layers.iter().collect();
        let share = |part: &Part| part.share.map_or(0.0, |share| share.mean);
        layers.sort_by(|a, b| share(&b.part).abs().total_cmp(&share(&a.part).abs()));
        let layers: Vec<String> = layers
            .iter()
            .take(NAMED)
            .filter_map(|layer| Some(format!("L{} {}", layer.layer, plus_minus(layer.part.share?, false))))
            .collect();
        let mut readers: Vec<&Reader> = mediated.readers.iter().filter(|reader| reader.differs()).collect();
        let (tried, count) = (mediated.readers.len(), readers.len());
        readers.sort_by(|a, b| b.part.effect.mean.abs().total_cmp(&a.part.effect.mean.abs()));
        let named: Vec<String> = readers
            .iter()
            .take(NAMED)
            .map(|reader| format!("{} {}", reader.name(), plus_minus(reader.part.effect, true)))
            .collect();
        let named = if named.is_empty() { String::new() } else { format!(": {}", named.join(", ")) };
        let layers = if layers.is_empty() {
            String::new()
        } else {
            format!(", the rest by what layers make of it, most of all {}", layers.join(", "))
        };
        format!(
            "{what} {} moves the logit difference by {total} logits. Of that {} come straight{layers} (shares that add up to 1). Of {tried} readers {count} move it alone (false discoveries at 5 %){named}; all readers alone leave {} of it.",
            sender.name(),
            plus_minus(direct, false),
            mediated.rest.share.map_or_else(String::new, |rest| plus_minus(rest, false)),
        )
    };
    sender.directions.iter().map(of).collect()
}

fn of_patching(patching: &Patching, findings: &Findings) -> String {
    let [prompts, corrupted, between] = patching.levels.map(|mean| plus_minus(mean, false));
    let of = |patch: &Patch| format!("{} {}", patch.name(), plus_minus(patch.restored.share, false));
    // Half of it beyond two standard errors: of many layers the one that is furthest off is not taken for what is there.
    let carries = |Mean { mean, error }: Mean| error.is_some_and(|error| mean - 2.0 * error >= 0.5);
    let half = |of_site: &dyn Fn(&Site) -> bool, last: bool| {
        let mut layers = patching.patches.iter().filter(|p| of_site(&p.site) && carries(p.restored.share));
        let found = if last { layers.next_back() } else { layers.next() };
        found.map(|patch| patch.layer)
    };
    let at_change = half(&|site| *site == Site::Changed, true).map_or_else(
        || "behind no layer was the place where they differ told to carry half of it".to_owned(),
        |layer| format!("the place where they differ carries half of it or more up to layer {layer}"),
    );
    let at_end = half(&|site| *site == Site::Place(0), false).map_or_else(
        || "behind no layer was the last token told to".to_owned(),
        |layer| format!("the last token from layer {layer} on"),
    );
    let mut heads: Vec<&Patch> = patching.patches.iter().filter(|p| matches!(p.site, Site::Head(_))).collect();
    heads.retain(|patch| patch.restored.q.is_some_and(|q| q <= Findings::RATE));
    let count = heads.len();
    heads.sort_by(|a, b| b.restored.share.mean.abs().total_cmp(&a.restored.share.mean.abs()));
    let named: Vec<String> = heads.iter().take(NAMED).map(|patch| of(patch)).collect();
    let heads = if named.is_empty() {
        "no single head was told to move any".to_owned()
    } else {
        format!("{count} single heads move some, most of all {}", named.join(", "))
    };
    let [pairs, groups] = findings.setting.count;
    format!(
        "The logit difference is {prompts} on {pairs} prompts ({groups} groups) and {corrupted} on their corrupted prompts, which leaves {between} to be brought back by one activation at a time: {at_change}, {at_end} (by two standard errors at least); {heads} (shares of it; false discoveries of heads at 5 %)."
    )
}
