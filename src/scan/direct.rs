//! What each component writes straight towards the answer.

use super::Prompts;
use crate::autograd::ops::NormKind;
use crate::model::{ModelConfig, WeightTable};

/// Direct logit attribution: the logits are linear in the last residual stream once the final norm's scale is held at what it is
/// in the clean pass, and the stream is a sum of what embeddings, heads, MLP blocks and biases wrote. So z_target - z_foil is a
/// sum over them of ⟨written, u⟩ with u = w (W_U,target - W_U,foil)/scale, less its mean where the norm takes means away, plus
/// what biases behind the stream add. In f64, of what the device wrote.
pub(super) struct Direct {
    /// u but for the scale, of each prompt, `[D]`.
    along: Vec<Vec<f64>>,
    /// What the biases of the final norm and of the logits add, of each prompt.
    behind: Vec<f64>,
    /// Sum of b_O over layers, `[D]`: no head's.
    biases: Vec<f64>,
    /// The final norm's scale where each prompt is read.
    pub(super) scales: Vec<f64>,
}

impl Direct {
    /// Of a model's weights, one replica's.
    pub(super) fn new(config: &ModelConfig, table: &WeightTable, values: &[f32], prompts: &Prompts) -> Self {
        let (d, v) = (config.d_model, config.d_vocab_out);
        let tensor = |name: &str| table.find(name).map(|at| &table.specs()[at]).map(|s| &values[s.offset..][..s.len()]);
        let tied = tensor("embed.W_E").unwrap_or_default();
        let unembed = tensor("unembed.W_U");
        let column = |token: u32, e: usize| {
            let token = token as usize;
            f64::from(unembed.map_or_else(|| tied[token * d + e], |w| w[e * v + token]))
        };
        let vector = |name: &str, without: f64| -> Vec<f64> {
            tensor(name).map_or_else(|| vec![without; d], |values| values.iter().map(|x| f64::from(*x)).collect())
        };
        let (weight, bias) = (vector("ln_final.w", 1.0), vector("ln_final.b", 0.0));
        let of_logits = tensor("unembed.b_U");
        let centred = config.norm("ln_final").is_some_and(|(kind, ..)| kind == NormKind::Layer);
        let (mut along, mut behind) = (Vec::new(), Vec::new());
        for prompt in &prompts.list {
            let [target, foil] = [prompt.target, prompt.foil];
            let apart: Vec<f64> = (0..d).map(|e| column(target, e) - column(foil, e)).collect();
            let [of_target, of_foil] =
                [target, foil].map(|token| of_logits.map_or(0.0, |bias| f64::from(bias[token as usize])));
            behind.push(of_target - of_foil + apart.iter().zip(&bias).map(|(x, b)| x * b).sum::<f64>());
            let mut u: Vec<f64> = apart.iter().zip(&weight).map(|(x, w)| x * w).collect();
            let mean = if centred { u.iter().sum::<f64>() / d as f64 } else { 0.0 };
            u.iter_mut().for_each(|x| *x -= mean);
            along.push(u);
        }
        let mut biases = vec![0.0; d];
        for layer in 0..config.n_layers {
            let of_layer = vector(&format!("blocks.{layer}.attn.b_O"), 0.0);
            biases.iter_mut().zip(of_layer).for_each(|(sum, bias)| *sum += bias);
        }
        let scales = vec![1.0; prompts.list.len()];
        Self { along, behind, biases, scales }
    }

    fn along(&self, prompt: usize, written: impl Iterator<Item = f64>) -> f64 {
        written.zip(&self.along[prompt]).map(|(x, u)| x * u).sum::<f64>() / self.scales[prompt]
    }

    /// Takes in what W components each wrote where a batch of `size` prompts is read, [B, W, D] for every list of components: into
    /// one list of `count` prompts for each component.
    pub(super) fn of(
        &self,
        written: Vec<Vec<u32>>,
        numbers: &[usize],
        (size, count): (usize, usize),
        into: &mut Vec<Vec<f64>>,
    ) {
        let d = self.biases.len();
        let mut first = 0;
        for words in written {
            let components = words.len() / (size * d);
            into.resize_with(into.len().max(first + components), || vec![0.0; count]);
            for (of_prompt, at) in words.chunks_exact(components * d).zip(numbers) {
                for (words, list) in of_prompt.chunks_exact(d).zip(&mut into[first..]) {
                    list[*at] = self.along(*at, words.iter().map(|word| f64::from(f32::from_bits(*word))));
                }
            }
            first += components;
        }
    }

    /// The same of embeddings [B, D], with the biases.
    pub(super) fn rest(&self, embedded: &[u32], numbers: &[usize], into: &mut [f64]) {
        for (words, at) in embedded.chunks_exact(self.biases.len()).zip(numbers) {
            let written = words.iter().zip(&self.biases).map(|(word, bias)| f64::from(f32::from_bits(*word)) + bias);
            into[*at] = self.along(*at, written) + self.behind[*at];
        }
    }
}
