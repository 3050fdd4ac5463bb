//! The weight table: names, shapes and places of all parameters of one replica.

use super::{InitMode, ModelConfig, PositionalEmbedding};
use crate::autograd::{Bindings, Shape, Tape, Var};
use crate::gpu::{Philox, Storage, Stream};

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normal with this standard deviation.
    Normal(f64),
}

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightSpec {
    /// TransformerLens name, as in `blocks.0.attn.W_Q`.
    pub name: String,
    /// Dimensions.
    pub dims: Vec<usize>,
    /// First element within a replica's parameters.
    pub offset: usize,
    /// How it starts.
    pub init: Init,
}

impl WeightSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its first values, from a stream of its own, named after it.
    pub(crate) fn draw(&self, seed: u64, stream: Stream) -> Vec<f32> {
        match self.init {
            Init::Zeros => vec![0.0; self.len()],
            Init::Ones => vec![1.0; self.len()],
            Init::Normal(deviation) => {
                let stream = Philox::new(seed, stream, fnv1a(&self.name));
                let pairs = self.len().div_ceil(2) as u64;
                let normals = (0..pairs).flat_map(|pair| stream.normals(pair));
                normals.take(self.len()).map(|normal| (normal * deviation) as f32).collect()
            }
        }
    }
}

/// All parameters of a replica, one behind the other: a replica is one contiguous vector, gradients and
/// moments mirror it. Tensors start at multiples of 64 elements, so that each can be bound on its own.
#[derive(Clone, Debug)]
pub struct WeightTable {
    specs: Vec<WeightSpec>,
    len: usize,
}

/// Elements to whose multiple tensors are aligned: 256 bytes, the coarsest binding alignment.
const ALIGN: usize = 64;

impl WeightTable {
    /// The parameters of a resolved configuration.
    pub fn new(config: &ModelConfig) -> Self {
        let mut table = Self { specs: Vec::new(), len: 0 };
        let normal = match config.init_mode {
            InitMode::Gpt2 => Init::Normal(config.initializer_range),
            InitMode::Nanda => Init::Normal(1.0 / (config.d_model as f64).sqrt()),
        };
        let (d, h, k) = (config.d_model, config.n_heads, config.d_head);
        let g = config.n_key_value_heads;
        // TransformerLens marks keys and values that serve several query heads with an underscore.
        let shared = if g < h { "_" } else { "" };
        table.add("embed.W_E", &[config.d_vocab, d], normal);
        if config.positional_embedding_type == PositionalEmbedding::Standard {
            table.add("pos_embed.W_pos", &[config.n_ctx, d], normal);
        }
        for layer in 0..config.n_layers {
            let block = |name: &str| format!("blocks.{layer}.{name}");
            table.add_norm(config, &block("ln1"));
            table.add(&block("attn.W_Q"), &[h, d, k], normal);
            table.add(&block(&format!("attn.{shared}W_K")), &[g, d, k], normal);
            table.add(&block(&format!("attn.{shared}W_V")), &[g, d, k], normal);
            table.add(&block("attn.W_O"), &[h, k, d], normal);
            if config.attn_biases {
                table.add(&block("attn.b_Q"), &[h, k], Init::Zeros);
                table.add(&block(&format!("attn.{shared}b_K")), &[g, k], Init::Zeros);
                table.add(&block(&format!("attn.{shared}b_V")), &[g, k], Init::Zeros);
                table.add(&block("attn.b_O"), &[d], Init::Zeros);
            }
            if config.has_mlp() {
                table.add_norm(config, &block("ln2"));
                table.add(&block("mlp.W_in"), &[d, config.d_mlp], normal);
                if config.gated_mlp {
                    table.add(&block("mlp.W_gate"), &[d, config.d_mlp], normal);
                }
                table.add(&block("mlp.W_out"), &[config.d_mlp, d], normal);
                if config.mlp_biases {
                    if config.gate_biases {
                        table.add(&block("mlp.b_gate"), &[config.d_mlp], Init::Zeros);
                    }
                    table.add(&block("mlp.b_in"), &[config.d_mlp], Init::Zeros);
                    table.add(&block("mlp.b_out"), &[d], Init::Zeros);
                }
            }
        }
        table.add_norm(config, "ln_final");
        if !config.tied_embeddings {
            let unembed = match config.init_mode {
                InitMode::Gpt2 => normal,
                InitMode::Nanda => Init::Normal(1.0 / (config.d_vocab_out as f64).sqrt()),
            };
            table.add("unembed.W_U", &[d, config.d_vocab_out], unembed);
        }
        if config.unembed_bias {
            table.add("unembed.b_U", &[config.d_vocab_out], Init::Zeros);
        }
        table
    }

    fn add(&mut self, name: &str, dims: &[usize], init: Init) {
        let spec = WeightSpec { name: name.to_owned(), dims: dims.to_vec(), offset: self.len, init };
        self.len += spec.len().next_multiple_of(ALIGN);
        self.specs.push(spec);
    }

    fn add_norm(&mut self, config: &ModelConfig, name: &str) {
        let Some((_, weight, bias)) = config.norm(name) else { return };
        if weight {
            self.add(&format!("{name}.w"), &[config.d_model], Init::Ones);
        }
        if bias {
            self.add(&format!("{name}.b"), &[config.d_model], Init::Zeros);
        }
    }

    /// The tensors, in order.
    pub fn specs(&self) -> &[WeightSpec] {
        &self.specs
    }

    /// Position of the tensor of that name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.specs.iter().position(|spec| spec.name == name)
    }

    /// Position of W_Q, W_K, W_V or W_O of a layer, whether or not several query heads share its heads.
    pub fn attention(&self, layer: usize, which: &str) -> Option<usize> {
        ["", "_"].iter().find_map(|mark| self.find(&format!("blocks.{layer}.attn.{mark}W_{which}")))
    }

    /// Elements of one replica, gaps included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// Number of parameters, gaps not included.
    pub fn parameters(&self) -> usize {
        self.specs.iter().map(WeightSpec::len).sum()
    }

    /// Initial weights of one replica. Each tensor draws from a stream of its own, named after it, so
    /// that the same seed gives the same tensor whatever else the model has, on every platform.
    pub fn draw(&self, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; self.len];
        for spec in &self.specs {
            values[spec.offset..][..spec.len()].copy_from_slice(&spec.draw(seed, Stream::Weights));
        }
        values
    }

    /// Declares every tensor as an input of the tape, in order; `owned` gives each replica its own.
    pub fn declare(&self, tape: &mut Tape, owned: bool) -> Vec<Var> {
        self.specs
            .iter()
            .map(|spec| {
                let shape = Shape { owned, ..Shape::f32(&spec.dims) };
                tape.input(&spec.name, shape)
            })
            .collect()
    }

    /// Binds variables that are laid out like the table, weights or gradients, to a buffer of R replicas.
    pub fn bind(&self, bindings: &mut Bindings, vars: &[Option<Var>], buffer: &wgpu::Buffer) {
        for (spec, var) in self.specs.iter().zip(vars) {
            if let Some(var) = var {
                let storage =
                    Storage { buffer: buffer.clone(), offset: spec.offset as u64, replica_stride: self.len as u64 };
                bindings.bind(*var, storage);
            }
        }
    }
}

/// Whether a name fits a pattern in which `*` stands for anything.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))),
    }
}

/// The 32-bit FNV-1a hash of a name.
fn fnv1a(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        assert!(matches("*.b_*", "blocks.0.attn.b_Q"));
        assert!(matches("embed.W_E", "embed.W_E"));
        assert!(!matches("embed.W", "embed.W_E"));
        assert!(!matches("*.b", "ln1.b.c"));
    }

    #[test]
    fn the_grok_model_has_the_published_number_of_parameters() {
        let config = ModelConfig {
            d_vocab: 114,
            n_ctx: 3,
            attn_biases: false,
            unembed_bias: false,
            init_mode: InitMode::Nanda,
            ..ModelConfig::default()
        };
        let table = WeightTable::new(&config.resolve().unwrap());
        assert_eq!(table.parameters(), 226_816);
        assert!(table.specs().iter().all(|spec| spec.offset % ALIGN == 0));
    }

    #[test]
    fn a_tensor_draws_the_same_whatever_else_the_model_has() {
        let plain = ModelConfig { d_vocab: 5, n_ctx: 3, n_layers: 2, ..ModelConfig::default() };
        let more =
            ModelConfig { normalization_type: super::super::Normalization::LN, gated_mlp: true, ..plain.clone() };
        let draw = |config: ModelConfig| {
            let table = WeightTable::new(&config.resolve().unwrap());
            let at = &table.specs()[table.find("blocks.1.attn.W_V").unwrap()];
            table.draw(9)[at.offset..][..at.len()].to_vec()
        };
        assert_eq!(draw(plain), draw(more));
    }

    #[test]
    fn spread_is_as_configured() {
        let config = ModelConfig { d_vocab: 1000, n_ctx: 3, init_mode: InitMode::Nanda, ..ModelConfig::default() };
        let table = WeightTable::new(&config.resolve().unwrap());
        let values = table.draw(0);
        let spread = |name: &str| {
            let spec = &table.specs()[table.find(name).unwrap()];
            let slice = &values[spec.offset..][..spec.len()];
            (slice.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / spec.len() as f64).sqrt()
        };
        // 128,000 draws: a standard error of 0.2 %.
        assert!((spread("embed.W_E") * 128.0f64.sqrt() - 1.0).abs() < 0.01);
        assert!((spread("unembed.W_U") * 1000.0f64.sqrt() - 1.0).abs() < 0.01);
    }
}
