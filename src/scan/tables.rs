//! The tables of a scan: what every prompt became, a layer at a time, and what that says.

use super::findings::{Effect, Findings, Mean, Measure};
use super::patch::{Share, Site};
use super::paths::{Input, Part};
use super::{BASELINES, Calibration, LayerOutcomes, Outcome, Routes, Scores, Set, pairs};
use crate::error::Result;
use crate::intervene::column::LOGIT_DIFFERENCE;
use crate::record::{RunDir, Segments, TableRow};

/// The run directory of a scan, and its table of what each prompt's prediction became.
pub struct Tables {
    /// The run directory.
    pub dir: RunDir,
    by_prompt: Segments,
    /// By number; none where activations of one prompt are put into another.
    baseline: Option<usize>,
}

impl Tables {
    /// Goes on behind the segments of a table of prompts that belong to what was found so far.
    ///
    /// # Errors
    /// Where they cannot be read or written.
    pub fn new(dir: RunDir, segments: u32, baseline: Option<usize>) -> Result<Self> {
        let folder = dir.path().join("probes");
        Segments::check(&folder, segments)?;
        Ok(Self { by_prompt: Segments::open(&folder, segments)?, dir, baseline })
    }

    fn prompts(&mut self, prefix: &str, site: &str, [layer, head]: [i32; 2], outcomes: &[Outcome]) {
        let known = outcomes.iter().enumerate().filter(|(_, outcome)| !outcome[0].is_nan());
        let known: Vec<(usize, &Outcome)> = known.collect();
        for measure in Measure::all().filter(|measure| !prefix.ends_with("clean.") || measure.of_clean()) {
            let metric = format!("{prefix}{}", measure.name());
            for (at, outcome) in &known {
                let place = [layer, head, *at as i32];
                let value = outcome[measure.0];
                self.by_prompt.push(&TableRow { step: 0, replica: 0, metric: &metric, site, place, value });
            }
        }
    }

    /// Each prompt in the clean pass. Returns how many segments there are.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn clean(&mut self, outcomes: &[Outcome]) -> Result<u32> {
        self.prompts("clean.", "", [-1, -1], outcomes);
        self.by_prompt.flush()?;
        Ok(self.by_prompt.count())
    }

    /// Each prompt under each intervention of a layer, as it is, without the clean pass subtracted; the null's and the sham's are
    /// left out. Returns how many segments there are.
    ///
    /// `senders` are the heads whose paths were followed.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn layer(&mut self, layer: usize, heads: usize, senders: &Set, found: &LayerOutcomes) -> Result<u32> {
        let site = |of: &str| format!("blocks.{layer}.{of}");
        let at = layer as i32;
        let ablated = if self.baseline.is_some() { "ablated." } else { "patched." };
        for (head, outcomes) in found.heads.iter().enumerate() {
            self.prompts(ablated, &site("attn.hook_result"), [at, head as i32], outcomes);
        }
        for outcomes in &found.mlp {
            self.prompts(ablated, &site("hook_mlp_out"), [at, -1], outcomes);
        }
        for (place, outcomes) in found.places.iter().enumerate() {
            self.prompts("patched.", &site("hook_resid_post"), [at, place as i32], outcomes);
        }
        for ([a, b], outcomes) in pairs(heads).zip(&found.pairs) {
            self.prompts("ablated.pair.", &format!("L{layer}H{a} + L{layer}H{b}"), [at, -1], outcomes);
        }
        for (site, place, outcomes) in found.routes.iter().flat_map(|routes| by_reader(routes, senders)) {
            for (prompt, outcome) in outcomes.iter().enumerate().filter(|(_, outcome)| !outcome[0].is_nan()) {
                let (place, value) = ([place[0], place[1], prompt as i32], outcome[LOGIT_DIFFERENCE]);
                let metric = "path.logit_difference";
                self.by_prompt.push(&TableRow { step: 0, replica: 0, metric, site: &site, place, value });
            }
        }
        for (direct, site, head) in directs(layer, found) {
            for (prompt, value) in direct.iter().enumerate() {
                let (place, value) = ([at, head, prompt as i32], *value as f32);
                let metric = "direct";
                self.by_prompt.push(&TableRow { step: 0, replica: 0, metric, site: &site, place, value });
            }
        }
        self.by_prompt.flush()?;
        Ok(self.by_prompt.count())
    }

    /// Means over groups with their errors, and all else that was found.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn findings(&mut self, findings: &Findings) -> Result<()> {
        Self::rows(&mut self.dir, At { step: 0, replica: 0 }, findings);
        self.dir.flush()
    }

    /// The same into the table of a series, of a model at a step; they wait to be written.
    pub(super) fn rows(dir: &mut RunDir, at: At, findings: &Findings) {
        let known = BASELINES.iter().position(|name| *name == findings.setting.baseline);
        let baseline = known.filter(|_| findings.patching.is_none()).map_or(-1, |baseline| baseline as i32);
        let mut rows = Rows { dir, at, site: String::new(), place: [-1; 3] };
        for measure in Measure::all().filter(|measure| measure.of_clean()) {
            rows.mean(&format!("scan.clean.{}", measure.name()), findings.clean[measure.0]);
        }
        rows.calibration("scan.clean.choice", &findings.calibration);
        findings.rest.into_iter().for_each(|rest| rows.mean("scan.direct.rest", rest));
        for effect in &findings.effects {
            rows.at(effect.layer, site_of(effect), [effect.head.map_or(-1, |head| head as i32), baseline]);
            for measure in Measure::all() {
                rows.mean(&format!("scan.{}", measure.name()), effect.changes[measure.0]);
            }
            rows.calibration("scan.choice", &effect.calibration);
            rows.some("scan.p", effect.p);
            rows.some("scan.q", effect.q);
            rows.some("scan.null.p", effect.null.map(|null| null.p));
            rows.place[2] = -1;
            rows.mean("scan.direct", effect.direct);
        }
        for (layer, draws) in findings.null.iter().enumerate() {
            for (value, draw) in draws.iter().zip(0..) {
                rows.at(layer, "attn.hook_result", [-1, draw]);
                rows.value("scan.null", *value);
            }
        }
        for joint in &findings.pairs {
            rows.at(joint.heads[0][0], "attn.hook_result", [joint.heads[0][1] as i32, joint.heads[1][1] as i32]);
            rows.mean("scan.pair", joint.together);
            rows.mean("scan.pair.synergy", joint.synergy);
            rows.some("scan.pair.synergy.p", joint.p);
            rows.some("scan.pair.synergy.q", joint.q);
        }
        for (known, set) in findings.sets.known.iter().zip(0..) {
            let Some(joint) = &known.joint else { continue };
            (rows.site, rows.place) = (joint.name(), [-1, -1, set]);
            rows.mean("scan.set", joint.together);
            rows.mean("scan.set.synergy", joint.synergy);
            rows.some("scan.set.synergy.p", joint.p);
            rows.some("scan.set.synergy.q", joint.q);
            rows.some("scan.set.null.p", joint.null.map(|null| null.p));
            for (value, draw) in known.null.iter().zip(0..) {
                rows.place = [-1, set, draw];
                rows.value("scan.set.null", *value);
            }
        }
        if let Some(patching) = &findings.patching {
            (rows.site, rows.place) = (String::new(), [-1; 3]);
            rows.mean("scan.patch.between", patching.levels[2]);
            for patch in &patching.patches {
                match patch.site {
                    Site::Place(place) => rows.at(patch.layer, "hook_resid_post", [-1, place as i32]),
                    Site::Changed => rows.at(patch.layer, "hook_resid_post", [-1, -1]),
                    Site::Head(head) => rows.at(patch.layer, "attn.hook_result", [head as i32, -1]),
                }
                rows.share("scan.patch.restored", &patch.restored);
                rows.share("scan.patch.lost", &patch.lost);
            }
        }
        for sender in findings.paths.iter().flat_map(|paths| &paths.senders) {
            let [layer, head] = sender.head.map(|at| at as i32);
            for mediated in &sender.directions {
                let index = mediated.direction as i32;
                (rows.site, rows.place) = (sender.name(), [layer, head, index]);
                rows.mean("scan.path.total", mediated.total);
                rows.part("scan.path.direct", &mediated.direct);
                rows.part("scan.path.rest", &mediated.rest);
                for found in &mediated.layers {
                    rows.site = format!("{} -> blocks.{}", sender.name(), found.layer);
                    rows.place = [found.layer as i32, -1, index];
                    rows.part("scan.path.layer", &found.part);
                }
                for reader in &mediated.readers {
                    rows.site = format!("{} -> {}", sender.name(), input(reader.layer, reader.input));
                    rows.place = [reader.layer as i32, reader.head.map_or(-1, |head| head as i32), index];
                    rows.part("scan.path.reader", &reader.part);
                    rows.some("scan.path.reader.p", reader.p);
                    rows.some("scan.path.reader.q", reader.q);
                }
            }
        }
        if let Some(repeated) = &findings.repeated {
            (rows.site, rows.place) = (String::new(), [-1; 3]);
            for (round, loss) in repeated.losses.into_iter().flatten().enumerate() {
                rows.place[2] = round as i32;
                rows.value("scan.repeated.loss", f64::from(loss));
            }
            let layers = repeated.scores.iter().enumerate();
            for (layer, scores) in layers {
                let heads = scores.iter().zip(0..).map(|(scores, head)| (scores, [head, 0]));
                for (scores, place) in heads.chain([(&repeated.uniform, [-1, 1])]) {
                    rows.at(layer, "attn.hook_pattern", place);
                    let Scores { previous, duplicate, induction } = *scores;
                    let all = [("previous_token", previous), ("duplicate_token", duplicate), ("induction", induction)];
                    all.into_iter().for_each(|(name, x)| rows.value(&format!("scan.repeated.{name}"), f64::from(x)));
                }
            }
        }
    }
}

/// Which model the rows are of.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) step: u64,
    pub(super) replica: u32,
}

/// What components of a layer write towards the answer, with their site and head.
fn directs(layer: usize, found: &LayerOutcomes) -> Vec<(&Vec<f64>, String, i32)> {
    let heads = found.heads.len();
    let of = |(at, direct)| match at < heads {
        true => (direct, format!("blocks.{layer}.attn.hook_result"), at as i32),
        false => (direct, format!("blocks.{layer}.hook_mlp_out"), -1),
    };
    found.direct.iter().enumerate().map(of).collect()
}

/// Where a layer's heads or its MLP block read, as TransformerLens calls it.
fn input(layer: usize, input: Input) -> String {
    let name = match input {
        Input::Q => "hook_q_input",
        Input::K => "hook_k_input",
        Input::V => "hook_v_input",
        Input::Mlp => "hook_mlp_in",
    };
    format!("blocks.{layer}.{name}")
}

/// What became of prompts by each path, with its site, layer and head.
fn by_reader<'a>(routes: &'a Routes, senders: &Set) -> Vec<(String, [i32; 2], &'a Vec<Outcome>)> {
    let [of, sender] = senders[routes.sender];
    let (from, layer) = (format!("L{of}H{sender}"), routes.layer as i32);
    let inputs =
        [(Input::Q, &routes.queries), (Input::K, &routes.keys), (Input::V, &routes.values), (Input::Mlp, &routes.mlp)];
    let mut all = Vec::new();
    for (kind, lists) in inputs {
        for (head, list) in lists.iter().enumerate() {
            let head = if kind == Input::Mlp { -1 } else { head as i32 };
            all.push((format!("{from} -> {}", input(routes.layer, kind)), [layer, head], list));
        }
    }
    all.extend(routes.direct.iter().map(|list| (format!("{from} -> logits"), [layer, -1], list)));
    all.extend(routes.upto.iter().map(|list| (format!("{from} -> all up to blocks.{layer}"), [layer, -1], list)));
    all
}

fn site_of(effect: &Effect) -> &'static str {
    if effect.head.is_some() { "attn.hook_result" } else { "hook_mlp_out" }
}

/// Rows of one place.
struct Rows<'a> {
    dir: &'a mut RunDir,
    at: At,
    site: String,
    place: [i32; 3],
}

impl Rows<'_> {
    fn at(&mut self, layer: usize, site: &str, [head, index]: [i32; 2]) {
        self.site = format!("blocks.{layer}.{site}");
        self.place = [layer as i32, head, index];
    }

    fn value(&mut self, metric: &str, value: f64) {
        let (At { step, replica }, site, place, value) = (self.at, &self.site, self.place, value as f32);
        self.dir.table_row(&TableRow { step, replica, metric, site, place, value });
    }

    fn some(&mut self, metric: &str, value: Option<f64>) {
        value.into_iter().for_each(|value| self.value(metric, value));
    }

    fn mean(&mut self, metric: &str, mean: Mean) {
        self.value(metric, mean.mean);
        self.some(&format!("{metric}.se"), mean.error);
    }

    fn part(&mut self, metric: &str, part: &Part) {
        self.mean(metric, part.effect);
        part.share.into_iter().for_each(|share| self.mean(&format!("{metric}.share"), share));
    }

    fn share(&mut self, metric: &str, share: &Share) {
        self.mean(metric, share.share);
        self.some(&format!("{metric}.p"), share.p);
        self.some(&format!("{metric}.q"), share.q);
    }

    fn calibration(&mut self, prefix: &str, calibration: &Calibration) {
        for (name, value) in Calibration::NAMES.iter().zip(&calibration.values) {
            value.iter().for_each(|mean| self.mean(&format!("{prefix}.{name}"), *mean));
        }
    }
}
