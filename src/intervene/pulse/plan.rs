//! The pulses of all replicas, and the ops that do them.

use super::doses::{Window, doses};
use super::edit::{EditOf, Mode, Span, Turned, edit, orthogonal, rotate};
use super::labels::Labels;
use super::{Baseline, Pulse, PulseKind, Sham};
use crate::autograd::ops::{Copy, Gate, IGNORE};
use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::Stream;
use crate::model::{Gates, ModelConfig, WeightTable};
use crate::task::{Batch, count_targets};

/// A pulse of a replica, and where in its list it stands: the slot of its dose.
#[derive(Clone, Copy)]
struct Placed<'a> {
    slot: usize,
    pulse: &'a Pulse,
    /// The head that it is about, of those that are about one.
    head: Option<usize>,
    /// Seed of what it draws.
    seed: u64,
}

/// The pulses of one replica, and its seed.
struct Own<'a> {
    pulses: Vec<Placed<'a>>,
    seed: u64,
}

impl<'a> Own<'a> {
    fn new(model: &ModelConfig, pulses: &'a [Pulse], seed: u64) -> Result<Self> {
        let heads = Pulse::heads(pulses, model, seed)?;
        let placed = |(slot, (pulse, head)): (usize, (&'a Pulse, Option<usize>))| Placed {
            slot,
            pulse,
            head,
            seed: pulse.seed.unwrap_or(seed),
        };
        Ok(Self { pulses: pulses.iter().zip(heads).enumerate().map(placed).collect(), seed })
    }

    fn of(&self, kinds: &[PulseKind]) -> impl Iterator<Item = Placed<'a>> {
        self.pulses.iter().copied().filter(|placed| kinds.contains(&placed.pulse.what))
    }
}

impl Placed<'_> {
    /// Its window, in which so much is done to what has that slot.
    fn window(&self, amount: f64, slot: usize) -> Window {
        Window { from: self.pulse.from, until: self.pulse.end(), amount, slot }
    }
}

/// The pulses of every replica of a run, ready to be appended to its step. Each part appends nothing where no replica asks
/// for it.
pub(crate) struct Pulses<'a> {
    model: &'a ModelConfig,
    table: WeightTable,
    replicas: Vec<Own<'a>>,
    clock: Var,
    /// Doses of the pulses of each replica by their place in its list, and one that is always 0, [S].
    doses: Var,
}

impl<'a> Pulses<'a> {
    /// The pulses of each replica, which were checked, and its seed; `None` where there are none.
    pub(crate) fn new(
        tape: &mut Tape,
        clock: Var,
        model: &'a ModelConfig,
        replicas: impl Iterator<Item = (&'a [Pulse], u64)>,
    ) -> Result<Option<Self>> {
        let replicas: Vec<Own<'a>> =
            replicas.map(|(pulses, seed)| Own::new(model, pulses, seed)).collect::<Result<_>>()?;
        let most = replicas.iter().map(|own| own.pulses.len()).max().unwrap_or(0);
        if most == 0 {
            return Ok(None);
        }
        let windows =
            |own: &Own<'a>| own.pulses.iter().map(|placed| placed.window(placed.pulse.dose, placed.slot)).collect();
        let windows: Vec<Vec<Window>> = replicas.iter().map(windows).collect();
        let doses = doses(tape, clock, most + 1, &windows)?;
        Ok(Some(Self { model, table: WeightTable::new(model), replicas, clock, doses }))
    }

    /// Whether any replica has a pulse of one of these kinds.
    fn any(&self, kinds: &[PulseKind]) -> bool {
        self.replicas.iter().any(|own| own.of(kinds).next().is_some())
    }

    /// The pulses of these kinds in rounds: the first of each replica that has one, then the second. So each replica has its
    /// own in their order, alone and in company.
    fn rounds(&self, kinds: &'a [PulseKind]) -> Vec<Vec<Option<Placed<'a>>>> {
        let lists: Vec<Vec<Placed<'a>>> = self.replicas.iter().map(|own| own.of(kinds).collect()).collect();
        let rounds = lists.iter().map(Vec::len).max().unwrap_or(0);
        (0..rounds).map(|round| lists.iter().map(|list| list.get(round).copied()).collect()).collect()
    }

    /// Edits of x [P] by pulses of these kinds; `values` where some take values that lie as the parameters do, or are all one.
    fn edit(
        &self,
        tape: &mut Tape,
        x: Var,
        values: Option<Var>,
        kinds: &'static [PulseKind],
        mode: impl Fn(PulseKind) -> (Mode, Stream),
    ) -> Result<()> {
        for round in self.rounds(kinds) {
            let edits = round.iter().map(|placed| {
                let edit = |placed: &Placed<'_>| {
                    let (mode, stream) = mode(placed.pulse.what);
                    let spans = placed.pulse.spans(self.model, &self.table, placed.head).map_err(Error::Config)?;
                    // Noise on gradients is the same in every direction.
                    let together = placed.pulse.what == PulseKind::GradientNoise;
                    Ok(EditOf { mode, slot: placed.slot, spans, together, values: None, seed: placed.seed, stream })
                };
                placed.iter().map(edit).collect::<Result<Vec<_>>>()
            });
            let edits = edits.collect::<Result<Vec<_>>>()?;
            edit(tape, [x, self.doses, self.clock], values, &edits)?;
        }
        Ok(())
    }

    /// What happens to the weights [P] before a step.
    pub(crate) fn edit_weights(&self, tape: &mut Tape, weights: Var) -> Result<()> {
        use PulseKind::{Noise, Reinitialize, Rotate, SwapHeads};
        for round in self.rounds(&[Reinitialize, Noise, Rotate, SwapHeads]) {
            let (mut edits, mut turned, mut drawn) = (Vec::new(), Vec::new(), Vec::new());
            let mut swapped = Vec::new();
            for placed in &round {
                let (mut edit, mut turn, mut values) = (Vec::new(), (Vec::new(), Vec::new()), Vec::new());
                let mut swap = Vec::new();
                match placed {
                    Some(placed) if placed.pulse.what == Rotate => turn = self.turn(placed)?,
                    Some(placed) if placed.pulse.what == SwapHeads => swap = self.swap(placed)?,
                    Some(placed) => {
                        let spans = placed.pulse.spans(self.model, &self.table, placed.head).map_err(Error::Config)?;
                        let mode = match (placed.pulse.what, placed.pulse.sham) {
                            (Noise, _) => Mode::Noise,
                            (_, Some(Sham::Direction)) => Mode::Toward,
                            _ => Mode::Replace,
                        };
                        if mode != Mode::Noise {
                            for span in &spans {
                                let of = |spec: &&crate::model::WeightSpec| {
                                    (spec.offset..spec.offset + spec.len()).contains(&span.first)
                                };
                                let Some(spec) = self.table.specs().iter().find(of) else { continue };
                                let fresh = spec.draw(placed.seed, Stream::Pulse);
                                values.extend_from_slice(&fresh[span.first - spec.offset..][..span.len]);
                            }
                        }
                        let (slot, seed, stream) = (placed.slot, placed.seed, Stream::WeightNoise);
                        edit.push(EditOf { mode, slot, spans, together: false, values: Some(0), seed, stream });
                    }
                    None => {}
                }
                edits.push(edit);
                swapped.push(swap);
                turned.push(turn);
                drawn.push(values);
            }
            if edits.iter().any(|edits| !edits.is_empty()) {
                let longest = drawn.iter().map(Vec::len).max().unwrap_or(0).max(1);
                drawn.iter_mut().for_each(|values| values.resize(longest, 0.0));
                let values = tape.constant_owned(&[longest], &drawn.concat());
                tape.describe(values, "the new initial weights of an intervention");
                edit(tape, [weights, self.doses, self.clock], Some(values), &edits)?;
            }
            if swapped.iter().any(|edits| !edits.is_empty()) {
                // Both as they were before either is changed.
                let before = tape.push1(Copy, &[weights])?;
                edit(tape, [weights, self.doses, self.clock], Some(before), &swapped)?;
            }
            if turned.iter().any(|(rows, _)| !rows.is_empty()) {
                rotate(tape, [weights, self.doses], self.model.d_head, &turned)?;
            }
        }
        Ok(())
    }

    /// The edits by which two heads take each other's weights.
    fn swap(&self, placed: &Placed<'_>) -> Result<Vec<EditOf>> {
        let of = |head: Option<usize>| placed.pulse.spans(self.model, &self.table, head).map_err(Error::Config);
        let [own, other] = [of(placed.pulse.head)?, of(placed.pulse.with)?];
        let edit = |(span, from): (Span, Span)| EditOf {
            mode: Mode::Replace,
            slot: placed.slot,
            spans: vec![span],
            together: false,
            values: Some(from.first),
            seed: placed.seed,
            stream: Stream::WeightNoise,
        };
        let pairs = own.iter().copied().zip(other.iter().copied());
        Ok(pairs.flat_map(|(own, other)| [(own, other), (other, own)]).map(edit).collect())
    }

    /// Rows that a rotation turns, and its matrices: for each layer and each head of keys and values one of queries and keys, and
    /// one of values and outputs.
    fn turn(&self, placed: &Placed<'_>) -> Result<(Vec<Turned>, Vec<f32>)> {
        let (model, pulse) = (self.model, placed.pulse);
        let (k, share) = (model.d_head, model.n_heads / model.n_key_value_heads);
        let turned = pulse.turned(model).map_err(Error::Config)?;
        let group = placed.head.map(|head| head / share);
        let (mut rows, mut matrices) = (Vec::new(), Vec::new());
        for layer in pulse.layers(model) {
            for head in (0..model.n_key_value_heads).filter(|head| group.is_none_or(|group| group == *head)) {
                for (pair, names) in [["Q", "K"], ["V", "O"]].iter().enumerate().filter(|(pair, _)| turned[*pair]) {
                    let matrix = matrices.len();
                    // Index 0 is the choice of a sham's head.
                    let index = 1 + 2 * (layer * model.n_key_value_heads + head) + pair;
                    matrices.extend(orthogonal(k, placed.seed, index as u64));
                    for spec in
                        self.table.specs().iter().filter(|spec| spec.name.starts_with(&format!("blocks.{layer}.attn.")))
                    {
                        let Some(which) = names.iter().find(|which| spec.name.ends_with(*which)) else { continue };
                        // Its part for each head, [D, K] or [K], of O [K, D]; b_O is in no head's basis.
                        let (heads, part) = (spec.dims[0], spec.len() / spec.dims[0]);
                        if spec.name.ends_with("b_O") {
                            continue;
                        }
                        let of_group = if heads == model.n_key_value_heads { 1 } else { share };
                        for own in head * of_group..(head + 1) * of_group {
                            for row in 0..part / k {
                                let (first, stride) = if *which == "O" { (row, part / k) } else { (row * k, 1) };
                                let first = spec.offset + own * part + first;
                                rows.push(Turned { first, stride, matrix, slot: placed.slot });
                            }
                        }
                    }
                }
            }
        }
        Ok((rows, matrices))
    }

    /// What happens to the moments [P] before a step.
    pub(crate) fn edit_moments(&self, tape: &mut Tape, moments: [Var; 2]) -> Result<()> {
        if self.any(&[PulseKind::ResetMoments]) {
            let zero = tape.constant(&[1], &[0.0]);
            for moment in moments {
                let mode = |_| (Mode::Replace, Stream::WeightNoise);
                self.edit(tape, moment, Some(zero), &[PulseKind::ResetMoments], mode)?;
            }
        }
        Ok(())
    }

    /// What happens to the gradients [P] before the optimizer sees them.
    pub(crate) fn edit_gradients(&self, tape: &mut Tape, gradients: Var) -> Result<()> {
        self.edit(tape, gradients, None, &[PulseKind::GradientNoise, PulseKind::GradientSigns], |kind| match kind {
            PulseKind::GradientSigns => (Mode::Flip, Stream::GradientNoise),
            _ => (Mode::Noise, Stream::GradientNoise),
        })
    }

    /// Whether weights are held, so that they are needed as they were before the update.
    pub(crate) fn holds(&self) -> bool {
        self.any(&[PulseKind::Freeze, PulseKind::HoldNorm])
    }

    /// What happens to the weights [P] behind an update, given those before it.
    pub(crate) fn hold(&self, tape: &mut Tape, weights: Var, before: Var) -> Result<()> {
        self.edit(tape, weights, Some(before), &[PulseKind::Freeze, PulseKind::HoldNorm], |kind| match kind {
            PulseKind::HoldNorm => (Mode::Norm, Stream::WeightNoise),
            _ => (Mode::Replace, Stream::WeightNoise),
        })
    }

    /// Hyper-parameters as they are at this step, of those of the run. `field` knows where one of that name lies.
    pub(crate) fn hyper(&self, tape: &mut Tape, hyper: Var, field: impl Fn(&str) -> usize) -> Result<Var> {
        use PulseKind::{LearningRate, ResetMoments, WeightDecay};
        if !self.any(&[LearningRate, WeightDecay, ResetMoments]) {
            return Ok(hyper);
        }
        let (rate, decay, restarted) = (field("learning_rate"), field("weight_decay"), field("restarted"));
        let windows = |own: &Own<'_>| {
            let of_rate = own.of(&[LearningRate]).map(|placed| placed.window(placed.pulse.taken(), rate));
            let of_decay = own.of(&[WeightDecay]).map(|placed| placed.window(placed.pulse.taken(), decay));
            // Moments count from their last reset.
            let mut resets: Vec<u64> = own
                .of(&[ResetMoments])
                .filter(|placed| placed.pulse.dose != 0.0)
                .map(|placed| placed.pulse.from)
                .collect();
            resets.sort_unstable();
            resets.dedup();
            let counted = resets.iter().enumerate().map(|(at, from)| Window {
                from: *from,
                until: resets.get(at + 1).copied(),
                amount: *from as f64,
                slot: restarted,
            });
            of_rate.chain(of_decay).chain(counted).collect::<Vec<_>>()
        };
        let windows: Vec<Vec<Window>> = self.replicas.iter().map(windows).collect();
        let len = tape.shape(hyper).len();
        let doses = doses(tape, self.clock, len, &windows)?;
        let base: Vec<f32> = (0..len).map(|at| if at == restarted { 1.0 } else { 0.0 }).collect();
        let base = tape.constant(&[len], &base);
        tape.push1(Gate { inner: 1 }, &[hyper, doses, base])
    }

    /// What is turned down in every pass of the model. Means are over so many examples of each replica, the first of a batch of
    /// `size`.
    pub(crate) fn gates(&self, tape: &mut Tape, examples: &[usize], size: usize) -> Result<Gates> {
        use PulseKind::{ScaleHead, ScaleLogits, UniformAttention};
        let (heads, groups) = (self.model.n_heads, self.model.n_key_value_heads);
        let of_layer = |kind: PulseKind, mean: bool, layer: usize| -> Vec<Vec<Window>> {
            let windows = |own: &Own<'a>| {
                let kinds = [kind];
                let here = own.of(&kinds).filter(|placed| {
                    let pulse = placed.pulse;
                    (pulse.baseline == Some(Baseline::Mean)) == mean && pulse.layers(self.model).contains(&layer)
                });
                here.filter_map(|placed| Some(placed.window(placed.pulse.taken(), placed.head?))).collect()
            };
            self.replicas.iter().map(windows).collect()
        };
        let mut gates = Gates::default();
        for layer in 0..self.model.n_layers {
            let windows = of_layer(ScaleHead, false, layer);
            if windows.iter().any(|windows| !windows.is_empty()) {
                gates.z.insert(layer, doses(tape, self.clock, heads, &windows)?);
            }
            let windows = of_layer(ScaleHead, true, layer);
            if windows.iter().any(|windows| !windows.is_empty()) {
                gates.mean.insert(layer, doses(tape, self.clock, heads, &windows)?);
            }
            let windows = of_layer(UniformAttention, false, layer);
            if windows.iter().any(|windows| !windows.is_empty()) {
                // Of queries alone, and of queries, keys and values side by side.
                let alone = doses(tape, self.clock, heads, &windows)?;
                gates.q.insert(layer, [alone, doses(tape, self.clock, heads + 2 * groups, &windows)?]);
            }
        }
        if !gates.mean.is_empty() {
            let own =
                |examples: &usize| (0..size).map(|at| if at < *examples { 0 } else { IGNORE }).collect::<Vec<u32>>();
            let own = tape.constant_u32(&[size], &examples.iter().flat_map(own).collect::<Vec<u32>>());
            let shares: Vec<f32> = examples.iter().map(|examples| 1.0 / *examples as f32).collect();
            gates.examples = Some((own, tape.constant_owned(&[1], &shares)));
        }
        if self.any(&[ScaleLogits]) {
            let windows =
                |own: &Own<'_>| own.of(&[ScaleLogits]).map(|placed| placed.window(placed.pulse.taken(), 0)).collect();
            let windows: Vec<Vec<Window>> = self.replicas.iter().map(windows).collect();
            gates.logits = Some(doses(tape, self.clock, 1, &windows)?);
        }
        Ok(gates)
    }

    /// The batch as it is trained on.
    pub(crate) fn batch(&self, tape: &mut Tape, batch: Batch, classes: usize) -> Result<Batch> {
        use PulseKind::{LabelNoise, LeaveOut, Subset};
        if !self.any(&[LabelNoise, LeaveOut, Subset]) {
            return Ok(batch);
        }
        let ids = match batch.ids {
            Some(ids) => ids,
            None if self.any(&[Subset]) => {
                return Err(Error::Config(
                    "intervene: subset: this task makes its examples up as it goes; it has no set of which a part could be left out"
                        .to_owned(),
                ));
            }
            None => tape.constant_u32(&[batch.size], &vec![0; batch.size]),
        };
        let most = self.replicas.iter().map(|own| own.of(&[LeaveOut]).count()).max().unwrap_or(0).max(1);
        let (mut windows, mut left_out, mut seeds) = (Vec::new(), Vec::new(), Vec::new());
        for own in &self.replicas {
            let noise = own.of(&[LabelNoise]).map(|placed| placed.window(placed.pulse.dose, 0));
            let gone = own.of(&[LeaveOut]).enumerate();
            let gone = gone.map(|(at, placed)| placed.window(placed.pulse.dose, 2 + at));
            let part = own.of(&[Subset]).map(|placed| placed.window(placed.pulse.taken(), 1));
            windows.push(noise.chain(part).chain(gone).collect::<Vec<_>>());
            let mut own_classes: Vec<u32> = own.of(&[LeaveOut]).filter_map(|placed| placed.pulse.class).collect();
            own_classes.resize(most, 0);
            left_out.extend(own_classes);
            for kind in [&[LabelNoise], &[Subset]] {
                let seed = own.of(kind).next().map_or(own.seed, |placed| placed.seed);
                seeds.extend([seed as u32, (seed >> 32) as u32]);
            }
        }
        let doses = doses(tape, self.clock, 2 + most, &windows)?;
        let (left_out, seeds) = (tape.constant_u32(&[most], &left_out), tape.constant_u32(&[4], &seeds));
        let targets = tape.push1(Labels { classes }, &[batch.targets, ids, doses, left_out, seeds, self.clock])?;
        let count = if self.any(&[LeaveOut, Subset]) { count_targets(tape, targets, 1)? } else { batch.count };
        Ok(Batch { targets, count, ..batch })
    }
}
