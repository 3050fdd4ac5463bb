//! A batch with its forward pass and losses.

use std::collections::BTreeMap;

use super::Batch;
use crate::autograd::ops::{CrossEntropy, MeanRows, attention_gradients};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::model::{Forward, Model, ReadOut, UNGATED};

/// A forward pass and the losses of its rows.
#[derive(Clone)]
pub struct Pass {
    /// What was read.
    pub batch: Batch,
    /// What the model made of it.
    pub forward: Forward,
    /// Cross-entropy of each row, nats.
    pub loss: Var,
    /// 1 for each row predicted right.
    pub correct: Var,
    /// Logit of the target above the best other.
    pub margin: Var,
    /// Gradients of the mean loss by the name of a weight or hook, or "logits"; empty before
    /// [`Pass::backward`]. What nobody reads is never computed.
    pub gradients: BTreeMap<String, Var>,
}

impl Pass {
    /// Appends the forward pass of a batch and its losses.
    ///
    /// # Errors
    /// Where model and batch do not fit.
    pub fn new(tape: &mut Tape, model: &Model, batch: Batch, read: ReadOut) -> Result<Self> {
        let forward = model.forward(tape, &batch.rows, batch.size, batch.seq, read)?;
        let out = tape.push(CrossEntropy, &[forward.logits, batch.targets])?;
        let gradients = BTreeMap::new();
        Ok(Self { batch, forward, loss: out[0], correct: out[1], margin: out[2], gradients })
    }

    /// Appends the mean loss and its gradients with respect to weights, hooks and logits. Returns those of
    /// the weights; `None` where the loss does not depend on one. `scale` is a factor and its inverse, if gradients shall be
    /// multiplied on the way: see [`Tape::backward_scaled`].
    ///
    /// # Errors
    /// Where an op on the way has no gradient.
    pub fn backward(&mut self, tape: &mut Tape, model: &Model, scale: Option<(Var, Var)>) -> Result<Vec<Option<Var>>> {
        let loss = tape.push1(MeanRows, &[self.loss, self.batch.count])?;
        let weights = model.table.specs().iter().map(|spec| spec.name.clone()).zip(model.weights.iter().copied());
        let hooks = self.forward.hooks.iter().map(|(name, var)| (name.clone(), *var));
        let logits = ("logits".to_owned(), self.forward.logits);
        let (names, vars): (Vec<String>, Vec<Var>) = weights.chain(hooks).chain([logits]).unzip();
        let mut gradients = match scale {
            Some(scale) => tape.backward_scaled(loss, scale, &vars)?,
            None => tape.backward(loss, &vars)?,
        };
        self.gradients = names.into_iter().zip(&gradients).filter_map(|(name, var)| Some((name, (*var)?))).collect();
        gradients.truncate(model.weights.len());
        self.side_gradients(tape, model)?;
        Ok(gradients)
    }

    /// Gradients of q, k and v at each place of the batch, where attention took them from a table of rows.
    fn side_gradients(&mut self, tape: &mut Tape, model: &Model) -> Result<()> {
        for layer in 0..model.config.n_layers {
            let name = |hook: &str| format!("blocks.{layer}.attn.{hook}");
            let parts = ["hook_q", "hook_k", "hook_v"].map(name);
            let z = [format!("blocks.{layer}.{UNGATED}"), name("hook_z")];
            let Some(dz) = z.iter().find_map(|name| self.gradients.get(name).copied()) else { continue };
            if self.gradients.contains_key(&parts[0]) {
                continue;
            }
            let [q, k, v] = [&parts[0], &parts[1], &parts[2]].map(|hook| self.forward.hook(hook));
            let inputs = [q?, k?, v?, self.forward.hook(&name("hook_pattern"))?, dz];
            let found = attention_gradients(tape, model.config.score_scale(), inputs)?;
            self.gradients.extend(parts.into_iter().zip(found));
        }
        Ok(())
    }
}
