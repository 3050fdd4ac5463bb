//! The forward pass, written as ops, with TransformerLens's hook points.

use std::collections::BTreeMap;

use super::{ModelConfig, PositionalEmbedding, WeightTable};
use crate::autograd::ops::{
    Activation, AddBias, Attention, AttentionPattern, FrozenNorm, Gate, GatedActivation, GatherColumns, GatherRows,
    HeadResult, Join, Linear, MixValues, MultiplyScalar, Norm, PickedAttention, Rotary, StreamedAttention,
    scatter_rows,
};
use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::Stream as Numbers;

/// Which positions are predicted at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOut {
    /// Every position.
    All,
    /// The last one; the last block computes nothing for the others.
    Last,
    /// One of each sequence, where they differ in length: row numbers `[B]` among the B T of the batch. The last block attends
    /// from every position, and computes nothing else for the others.
    At(Var),
}

impl ReadOut {
    /// Positions of a sequence of `seq` tokens that are predicted at.
    fn queries(self, seq: usize) -> usize {
        if self == Self::All { seq } else { 1 }
    }
}

/// The tokens of a batch, [B, T].
#[derive(Clone, Copy, Debug)]
pub enum Rows {
    /// One row of the first block for each token. `tokens` is [B * T].
    Each {
        /// Token ids.
        tokens: Var,
    },
    /// Token and position pairs that repeat are computed once up to the first attention. For a batch in
    /// which few differ, as in modular arithmetic.
    Distinct {
        /// Token of each distinct pair, `[U]`.
        tokens: Var,
        /// Position of each distinct pair, `[U]`.
        positions: Var,
        /// Which pair stands at each place of the batch, [B * T].
        index: Var,
        /// Which pair stands at the last position of each example, `[B]`.
        last: Var,
    },
}

/// Of long attention, which keeps no pattern: the hook of its statistics, [B, H, Tq, 5], as [`StreamedAttention`] takes
/// them. TransformerLens has none of that name.
const STATISTICS: &str = "attn.row_statistics";

/// Of short attention: the lengths of z's rows, [B, Tq, H, 1].
const LENGTHS: &str = "attn.row_lengths";

/// Where heads are turned down: z as attention makes it, [B, Tq, H, K], before that. `hook_z` is what W_O reads.
pub(crate) const UNGATED: &str = "attn.z_before_gate";

/// Where heads are moved to their means: those, [Tq, H, K].
const MEANS: &str = "attn.z_means";

/// Values by TransformerLens's hook names.
type Hooks = BTreeMap<String, Var>;

/// What a forward pass leaves behind.
#[derive(Clone)]
pub struct Forward {
    /// [B * T, V], or [B, V] where only the last position is read out.
    pub logits: Var,
    /// Values by TransformerLens's hook names. What nobody reads is never computed.
    pub hooks: Hooks,
}

impl Forward {
    /// Statistics of the attention rows of a block, [B, H, Tq, 5], where its attention streams.
    pub(crate) fn statistics(&self, layer: usize) -> Option<Var> {
        self.hooks.get(&format!("blocks.{layer}.{STATISTICS}")).copied()
    }

    /// What a layer's heads bring along: z [B, Tq, H, K], or the lengths of its rows where these are at hand, as K = 1.
    pub(crate) fn brought(&self, layer: usize) -> Result<Var> {
        let lengths = self.hooks.get(&format!("blocks.{layer}.{LENGTHS}")).copied();
        lengths.map_or_else(|| self.hook(&format!("blocks.{layer}.attn.hook_z")), Ok)
    }

    /// The value at a hook point.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the model has no such hook.
    pub fn hook(&self, name: &str) -> Result<Var> {
        self.hooks.get(name).copied().ok_or_else(|| Error::Unsupported(format!("this model has no hook {name}")))
    }
}

/// Where a changed residual stream enters a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Point {
    /// Behind attention, at `hook_resid_mid`.
    Mid,
    /// Behind the block, at `hook_resid_post`.
    Post,
}

/// A residual stream from which the rest of a forward pass is computed.
pub struct Resume<'a> {
    /// Block at which the stream enters.
    pub layer: usize,
    /// Where in that block.
    pub point: Point,
    /// The stream, [B, T, D]; [B, 1, D] in the last block where only the last position is read out.
    pub x: Var,
    /// Sequences B.
    pub batch: usize,
    /// Tokens of a sequence T.
    pub seq: usize,
    /// What is read out.
    pub read: ReadOut,
    /// A pass whose attention patterns the later blocks take instead of their own. Its batch divides B;
    /// sequence b takes the pattern of its sequence b modulo that.
    pub patterns: Option<&'a Forward>,
}

/// Doses by which values are turned down in every pass over a model: see [`Gate`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Gates {
    /// Of what each head of a layer writes, `[H]`.
    pub(crate) z: BTreeMap<usize, Var>,
    /// How far each head of a layer is moved to its mean, `[H]`.
    pub(crate) mean: BTreeMap<usize, Var>,
    /// What means are over: 0 for each sequence of the training batch that is an example, else `IGNORE`, `[B]`; and one over how
    /// many those are, `[1]`.
    pub(crate) examples: Option<(Var, Var)>,
    /// Means of the training pass, [Tq, H, K], for every other pass of its step.
    means: BTreeMap<usize, Var>,
    /// Of the queries of each head of a layer, `[H]`; and of queries, keys and values side by side, [H + 2 G].
    pub(crate) q: BTreeMap<usize, [Var; 2]>,
    /// Of the logits, `[1]`.
    pub(crate) logits: Option<Var>,
}

/// A model on a tape: its configuration and the variables of its weights.
pub struct Model {
    /// Resolved configuration.
    pub config: ModelConfig,
    /// Names, shapes and places of the weights.
    pub table: WeightTable,
    /// The weights, in the order of the table.
    pub weights: Vec<Var>,
    rotary: Option<Var>,
    gates: Gates,
}

/// Rows of the residual stream, and how the batch picks from them where they are distinct pairs.
struct Stream {
    x: Var,
    positions: Var,
    distinct: Option<(Var, Var)>,
    /// Tokens [B * T], where they are known one by one.
    tokens: Option<Var>,
}

impl Model {
    /// Declares the weights of a resolved configuration on a tape, each replica's own.
    pub fn new(config: &ModelConfig, tape: &mut Tape) -> Self {
        Self::declared(config, tape, true)
    }

    /// Declares weights that all replicas share.
    pub fn shared(config: &ModelConfig, tape: &mut Tape) -> Self {
        Self::declared(config, tape, false)
    }

    fn declared(config: &ModelConfig, tape: &mut Tape, owned: bool) -> Self {
        let table = WeightTable::new(config);
        let weights = table.declare(tape, owned);
        let rotary = (config.positional_embedding_type == PositionalEmbedding::Rotary).then(|| {
            let (base, scaling) = (config.rotary_base, config.rotary_scaling);
            let (dims, data) = Rotary::table(config.n_ctx, config.rotary_dim, base, scaling);
            tape.constant(&dims, &data)
        });
        Self { config: config.clone(), table, weights, rotary, gates: Gates::default() }
    }

    /// Turns values down in all passes that are appended from here on.
    pub(crate) fn gate(&mut self, gates: Gates) {
        self.gates = gates;
    }

    /// Has every pass that is appended from here on move heads to their means in this one.
    pub(crate) fn hold_means(&mut self, pass: &Forward) {
        let of_layer = |layer: &usize| Some((*layer, *pass.hooks.get(&format!("blocks.{layer}.{MEANS}"))?));
        self.gates.means = self.gates.mean.keys().filter_map(of_layer).collect();
    }

    /// What heads wrote in the mean over examples, [Tq, H, K] of z [B, Tq, H, K]. Over the training batch its examples count, over
    /// others of another size all.
    fn mean(&self, tape: &mut Tape, z: Var) -> Result<Var> {
        let dims = tape.shape(z).dims.clone();
        let (own, share) = match self.gates.examples.filter(|(own, _)| tape.shape(*own).len() == dims[0]) {
            Some(examples) => examples,
            None => (tape.constant_u32(&[dims[0]], &vec![0; dims[0]]), tape.constant(&[1], &[1.0 / dims[0] as f32])),
        };
        let by_example = tape.reshape(z, &[dims[0], dims[1..].iter().product()])?;
        let sum = scatter_rows(tape, by_example, own, 1)?;
        let mean = tape.push1(MultiplyScalar, &[sum, share])?;
        tape.reshape(mean, &dims[1..])
    }

    /// The same model with so many other heads in each block: drawn as heads are before training, the same in every run, each
    /// with keys and values of its own, and trained by nothing.
    ///
    /// # Errors
    /// Never for a resolved configuration.
    pub(crate) fn with_strangers(&self, tape: &mut Tape, heads: usize) -> Result<Self> {
        let config =
            ModelConfig { n_heads: heads, n_key_value_heads: heads, attn_biases: false, ..self.config.clone() };
        let table = WeightTable::new(&config);
        let weights = table.specs().iter().map(|spec| match spec.name.contains(".attn.") {
            true => Ok(tape.constant(&spec.dims, &spec.draw(0, Numbers::Strangers))),
            false => self.need(&spec.name),
        });
        let weights: Result<Vec<Var>> = weights.collect();
        Ok(Self { weights: weights?, config, table, rotary: self.rotary, gates: Gates::default() })
    }

    /// Appends the attention of a block behind the stream that a pass over the same rows brings there: what its heads write,
    /// [B, Tq, D].
    ///
    /// # Errors
    /// Where the pass is not one over these rows.
    pub(crate) fn attend_within(
        &self,
        tape: &mut Tape,
        layer: usize,
        pass: &Forward,
        rows: &Rows,
        (batch, seq): (usize, usize),
        read: ReadOut,
    ) -> Result<Var> {
        let dims = [batch, seq, self.config.d_model];
        let stream = if layer == 0 {
            self.embed(tape, rows, batch, seq)?
        } else {
            let x = pass.hook(&format!("blocks.{layer}.hook_resid_pre"))?;
            let x = tape.reshape(x, &[batch * seq, dims[2]])?;
            Stream { x, positions: positions_of(tape, batch, seq), distinct: None, tokens: None }
        };
        let read = if layer + 1 == self.config.n_layers { read } else { ReadOut::All };
        let mut hooks = Hooks::new();
        self.block(tape, &mut hooks, layer, &stream, dims, read, None)?;
        Ok(hooks[&format!("blocks.{layer}.hook_attn_out")])
    }

    /// What each head of a block writes, [B, T, H, D], where queries, keys and values are those of passes of their own, over every
    /// position.
    ///
    /// # Errors
    /// Where a pass has no such block, or the passes are of other sizes.
    pub fn attend(&self, tape: &mut Tape, layer: usize, passes: [&Forward; 3]) -> Result<Var> {
        let block = |name: &str| format!("blocks.{layer}.{name}");
        let turned = if self.rotary.is_some() { "rot_" } else { "" };
        let hooks = [format!("attn.hook_{turned}q"), format!("attn.hook_{turned}k"), "attn.hook_v".to_owned()];
        let parts = passes.iter().zip(&hooks).map(|(pass, hook)| pass.hook(&block(hook)));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let (scale, (h, k, d)) =
            (self.config.score_scale(), (self.config.n_heads, self.config.d_head, self.config.d_model));
        let [batch, seq] = [0, 1].map(|at| tape.shape(parts[1]).dims[at]);
        let z = if StreamedAttention::suits(seq, k) {
            tape.push(StreamedAttention { scale }, &parts)?[0]
        } else {
            tape.push(Attention { scale }, &parts)?[0]
        };
        let w_o = self.need(&block("attn.W_O"))?;
        let result = tape.push1(HeadResult, &[z, w_o])?;
        tape.reshape(result, &[batch, seq, h, d])
    }

    /// The weight of that name, if the model has it.
    pub fn weight(&self, name: &str) -> Option<Var> {
        self.table.find(name).map(|at| self.weights[at])
    }

    pub(crate) fn need(&self, name: &str) -> Result<Var> {
        self.weight(name).ok_or_else(|| Error::Unsupported(format!("this model has no weight {name}")))
    }

    /// Weights (`W`) or biases (`b`) of queries, keys and values of a block as one, of `dims`, if it has them.
    fn joined(&self, tape: &mut Tape, layer: usize, which: &str, dims: &[usize]) -> Result<Option<Var>> {
        let parts: Option<Vec<Var>> = ["Q", "K", "V"]
            .iter()
            .map(|of| {
                let name = |mark: &str| self.weight(&format!("blocks.{layer}.attn.{mark}{which}_{of}"));
                name("").or_else(|| name("_"))
            })
            .collect();
        parts.map(|parts| tape.push1(Join { dims: dims.to_vec() }, &parts)).transpose()
    }

    /// Appends the forward pass of `batch` sequences of `seq` tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] where the rows do not fit the batch.
    pub fn forward(&self, tape: &mut Tape, rows: &Rows, batch: usize, seq: usize, read: ReadOut) -> Result<Forward> {
        let config = &self.config;
        if seq == 0 || seq > config.n_ctx {
            return Err(Error::Config(format!("sequences of {seq} tokens; the model takes 1 to {}", config.n_ctx)));
        }
        let stream = self.embed(tape, rows, batch, seq)?;
        self.blocks(tape, Hooks::new(), 0, stream, (batch, seq), read, None)
    }

    /// Appends the rest of a forward pass. Nothing below the stream that is given is computed.
    ///
    /// # Errors
    /// [`Error::Shape`] where the stream does not fit; [`Error::Unsupported`] for the middle of a block whose
    /// MLP reads beside attention.
    pub fn resume(&self, tape: &mut Tape, from: &Resume<'_>) -> Result<Forward> {
        let Resume { layer, point, x, batch, seq, read, patterns } = *from;
        let queries = if layer + 1 == self.config.n_layers { read.queries(seq) } else { seq };
        let mut hooks = Hooks::new();
        let x = if point == Point::Mid && self.config.has_mlp() {
            if self.config.parallel_attn_mlp {
                return Err(Error::Unsupported("this model's MLPs do not read behind attention".to_owned()));
            }
            self.mlp(tape, &mut hooks, layer, x, x, [batch, queries, self.config.d_model])?
        } else {
            x
        };
        let dims = [batch, queries, self.config.d_model];
        hooks.insert(format!("blocks.{layer}.hook_resid_post"), tape.reshape(x, &dims)?);
        let x = tape.reshape(x, &[batch * queries, self.config.d_model])?;
        let stream = Stream { x, positions: positions_of(tape, batch, seq), distinct: None, tokens: None };
        self.blocks(tape, hooks, layer + 1, stream, (batch, seq), read, patterns)
    }

    /// The blocks from `first` on, and the logits.
    #[expect(clippy::too_many_arguments, reason = "a pass has these parts")]
    fn blocks(
        &self,
        tape: &mut Tape,
        mut hooks: Hooks,
        first: usize,
        mut stream: Stream,
        (batch, seq): (usize, usize),
        read: ReadOut,
        patterns: Option<&Forward>,
    ) -> Result<Forward> {
        let config = &self.config;
        let dims = [batch, seq, config.d_model];
        for layer in first..config.n_layers {
            let read = if layer + 1 == config.n_layers { read } else { ReadOut::All };
            stream = self.block(tape, &mut hooks, layer, &stream, dims, read, patterns)?;
        }
        let queries = read.queries(seq);
        let x = self.norm(tape, &mut hooks, "ln_final", stream.x, None, &[batch, queries, config.d_model])?;
        let logits = self.unembed(tape, x)?;
        Ok(Forward { logits, hooks })
    }

    /// Logits [N, V] of rows [N, D] behind the final norm.
    fn unembed(&self, tape: &mut Tape, x: Var) -> Result<Var> {
        let bias = self.weight("unembed.b_U");
        let (w, transposed) = match self.weight("unembed.W_U") {
            Some(w) => (w, false),
            None => (self.need("embed.W_E")?, true),
        };
        let mut inputs = vec![x, w];
        inputs.extend(bias);
        let logits = tape.push1(Linear { transposed, bias: bias.is_some(), residual: false }, &inputs)?;
        gated(tape, logits, 1, self.gates.logits)
    }

    /// Logits [N, V] of final residual rows [N, D], the final norm's scale held at `clean`'s. Row n takes
    /// the scale of row n modulo the number of rows of `clean`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the rows are no multiple of the clean pass's.
    pub fn logits_at_scale_of(&self, tape: &mut Tape, x: Var, clean: &Forward) -> Result<Var> {
        let Some((kind, weight, bias)) = self.config.norm("ln_final") else { return self.unembed(tape, x) };
        let mut inputs = vec![x, clean.hook("ln_final.hook_scale")?];
        if weight {
            inputs.push(self.need("ln_final.w")?);
        }
        if bias {
            inputs.push(self.need("ln_final.b")?);
        }
        let normal = tape.push1(FrozenNorm { kind, weight, bias }, &inputs)?;
        self.unembed(tape, normal)
    }

    fn embed(&self, tape: &mut Tape, rows: &Rows, batch: usize, seq: usize) -> Result<Stream> {
        let w_e = self.need("embed.W_E")?;
        let (tokens, positions, distinct, each) = match *rows {
            Rows::Each { tokens } => (tokens, positions_of(tape, batch, seq), None, Some(tokens)),
            Rows::Distinct { tokens, positions, index, last } => (tokens, positions, Some((index, last)), None),
        };
        let mut inputs = vec![w_e, tokens];
        if let Some(w_pos) = self.weight("pos_embed.W_pos") {
            inputs.extend([w_pos, positions]);
        }
        Ok(Stream { x: tape.push1(GatherRows, &inputs)?, positions, distinct, tokens: each })
    }

    /// One block. `dims` is [B, T, D].
    #[expect(clippy::too_many_arguments, reason = "a block has these parts")]
    fn block(
        &self,
        tape: &mut Tape,
        hooks: &mut Hooks,
        layer: usize,
        stream: &Stream,
        dims: [usize; 3],
        read: ReadOut,
        patterns: Option<&Forward>,
    ) -> Result<Stream> {
        let config = &self.config;
        let [batch, seq, d] = dims;
        let (h, g, k) = (config.n_heads, config.n_key_value_heads, config.d_head);
        let block = |name: &str| format!("blocks.{layer}.{name}");
        // What is read out of, and how many positions attend for that.
        let (read_out, queries) = (read.queries(seq), if read == ReadOut::Last { 1 } else { seq });

        // Rows of all tokens, and of the tokens that are asked for: the last block asks for few.
        let all = stream.distinct.map(|(index, _)| index);
        let asked = match (read, stream.distinct) {
            (ReadOut::All | ReadOut::At(_), _) => all,
            (ReadOut::Last, Some((_, last))) => Some(last),
            (ReadOut::Last, None) => (seq > 1).then(|| {
                let rows: Vec<u32> = (0..batch).map(|b| (b * seq + seq - 1) as u32).collect();
                tape.constant_u32(&[batch], &rows)
            }),
        };
        let full = pick(tape, stream.x, all)?;
        hooks.insert(block("hook_resid_pre"), tape.reshape(full, &dims)?);

        let normal = self.norm(tape, hooks, &block("ln1"), stream.x, all, &dims)?;
        // One of q, k, v for the rows that `rows` picks, [B, ., heads, K].
        let project = |tape: &mut Tape, hooks: &mut Hooks, which: &str, rows: Option<Var>| -> Result<Var> {
            let (heads, count) = if which == "Q" { (h, queries) } else { (g, seq) };
            let mark = if which != "Q" && g < h { "_" } else { "" };
            let bias = self.weight(&block(&format!("attn.{mark}b_{which}")));
            let mut inputs = vec![normal, self.need(&block(&format!("attn.{mark}W_{which}")))?];
            inputs.extend(bias);
            let plain = tape.push1(Linear { bias: bias.is_some(), ..Linear::default() }, &inputs)?;
            let shape = [batch, count, heads, k];
            let hook = which.to_lowercase();
            let picked = pick(tape, plain, rows)?;
            let picked = tape.reshape(picked, &shape)?;
            hooks.insert(block(&format!("attn.hook_{hook}")), picked);
            let Some(table) = self.rotary.filter(|_| which != "V") else { return Ok(picked) };
            let rows_here = tape.shape(plain).rows().0;
            let per_head = tape.reshape(plain, &[rows_here, heads, k])?;
            let turned = tape.push1(Rotary { forward: true }, &[per_head, stream.positions, table])?;
            let turned = tape.reshape(turned, &[rows_here, heads * k])?;
            let turned = pick(tape, turned, rows)?;
            let turned = tape.reshape(turned, &shape)?;
            hooks.insert(block(&format!("attn.hook_rot_{hook}")), turned);
            Ok(turned)
        };
        let scale = config.score_scale();
        let picks = PickedAttention::suits(seq) && self.rotary.is_none() && patterns.is_none();
        let picks = stream.distinct.filter(|_| picks);
        let (z, before) = if let Some((index, _)) = picks {
            let op = PickedAttention { heads: h, groups: g, queries, keys: seq, scale };
            let mut inputs = vec![normal];
            inputs.extend(self.joined(tape, layer, "W", &[h + 2 * g, d, k])?);
            let bias = self.joined(tape, layer, "b", &[h + 2 * g, k])?;
            inputs.extend(bias);
            let table = tape.push1(Linear { bias: bias.is_some(), ..Linear::default() }, &inputs)?;
            let table = gated(tape, table, k, self.gates.q.get(&layer).map(|[_, all]| *all))?;
            let parts = [("q", 0, h, asked, queries), ("k", h, g, all, seq), ("v", h + g, g, all, seq)];
            for (name, first, heads, rows, positions) in parts {
                let part = GatherColumns { first: first * k, width: heads * k };
                let part = tape.push1(part, &[table, rows.unwrap_or(index)])?;
                hooks.insert(block(&format!("attn.hook_{name}")), tape.reshape(part, &[batch, positions, heads, k])?);
            }
            let out = tape.push(op, &[table, stream.x, index])?;
            hooks.insert(block("attn.hook_pattern"), out[1]);
            hooks.insert(block("attn.hook_attn_scores"), out[2]);
            hooks.insert(block(LENGTHS), out[3]);
            (out[0], out[4])
        } else {
            let q = project(tape, hooks, "Q", asked)?;
            let q = gated(tape, q, k, self.gates.q.get(&layer).map(|[alone, _]| *alone))?;
            let key = project(tape, hooks, "K", all)?;
            let value = project(tape, hooks, "V", all)?;
            let z = if let Some(clean) = patterns {
                tape.push1(MixValues, &[clean.hook(&block("attn.hook_pattern"))?, value])?
            } else {
                let kept = if StreamedAttention::suits(seq, k) {
                    // The pattern is for those who read it; attention itself does not.
                    let mut inputs = vec![q, key, value];
                    inputs.extend(stream.tokens);
                    let out = tape.push(StreamedAttention { scale }, &inputs)?;
                    hooks.insert(block(STATISTICS), out[2]);
                    [vec![out[0]], tape.push(AttentionPattern { scale }, &[q, key])?].concat()
                } else {
                    tape.push(Attention { scale }, &[q, key, value])?
                };
                hooks.insert(block("attn.hook_pattern"), kept[1]);
                hooks.insert(block("attn.hook_attn_scores"), kept[2]);
                if let Some(lengths) = kept.get(3) {
                    hooks.insert(block(LENGTHS), *lengths);
                }
                kept[0]
            };
            (z, pick(tape, stream.x, asked)?)
        };
        let (z, before) = match read {
            ReadOut::At(rows) => {
                let flat = tape.reshape(z, &[batch * seq, h * k])?;
                let flat = pick(tape, flat, Some(rows))?;
                (tape.reshape(flat, &[batch, 1, h, k])?, pick(tape, before, Some(rows))?)
            }
            _ => (z, before),
        };
        let z = match self.gates.z.get(&layer).copied() {
            Some(dose) => {
                hooks.insert(block(UNGATED), z);
                if let Some(lengths) = hooks.get(&block(LENGTHS)).copied() {
                    hooks.insert(block(LENGTHS), gated(tape, lengths, 1, Some(dose))?);
                }
                gated(tape, z, k, Some(dose))?
            }
            None => z,
        };
        let z = match self.gates.mean.get(&layer).copied() {
            Some(dose) => {
                hooks.entry(block(UNGATED)).or_insert(z);
                hooks.remove(&block(LENGTHS));
                let fits = |means: &Var| tape.shape(*means).dims == tape.shape(z).dims[1..];
                let held = self.gates.means.get(&layer).copied().filter(fits);
                let means = held.map_or_else(|| self.mean(tape, z), Ok)?;
                hooks.insert(block(MEANS), means);
                tape.push1(Gate { inner: k }, &[z, dose, means])?
            }
            None => z,
        };
        hooks.insert(block("attn.hook_z"), z);
        let w_o = self.need(&block("attn.W_O"))?;
        let result = tape.push1(HeadResult, &[z, w_o])?;
        hooks.insert(block("attn.hook_result"), tape.reshape(result, &[batch, read_out, h, d])?);

        let flat_z = tape.reshape(z, &[batch * read_out, h * k])?;
        let flat_w = tape.reshape(w_o, &[h * k, d])?;
        let out_dims = [batch, read_out, d];
        let b_o = self.weight(&block("attn.b_O"));
        let (alone, mid) = write(tape, flat_z, flat_w, b_o, before)?;
        hooks.insert(block("hook_attn_out"), tape.reshape(alone, &out_dims)?);
        hooks.insert(block("hook_resid_mid"), tape.reshape(mid, &out_dims)?);

        let post = if config.has_mlp() {
            let from = if config.parallel_attn_mlp { before } else { mid };
            self.mlp(tape, hooks, layer, from, mid, out_dims)?
        } else {
            mid
        };
        hooks.insert(block("hook_resid_post"), tape.reshape(post, &out_dims)?);
        let positions = if stream.distinct.is_some() { positions_of(tape, batch, seq) } else { stream.positions };
        Ok(Stream { x: post, positions, distinct: None, tokens: stream.tokens })
    }

    /// The MLP reading `from`, added to `residual`. `dims` is [B, Tq, D].
    fn mlp(
        &self,
        tape: &mut Tape,
        hooks: &mut Hooks,
        layer: usize,
        from: Var,
        residual: Var,
        dims: [usize; 3],
    ) -> Result<Var> {
        let config = &self.config;
        let block = |name: &str| format!("blocks.{layer}.{name}");
        let hidden = [dims[0], dims[1], config.d_mlp];
        let (w_in, b_in) = (self.need(&block("mlp.W_in"))?, self.weight(&block("mlp.b_in")));
        let normal = self.norm(tape, hooks, &block("ln2"), from, None, &dims)?;
        let post = if config.gated_mlp {
            let b_gate = self.weight(&block("mlp.b_gate"));
            // Biases before the gate come in pairs; TransformerLens's only one is added behind it.
            let (b_up, b_in) = if b_gate.is_some() { (b_in, None) } else { (None, b_in) };
            let gate = project(tape, normal, self.need(&block("mlp.W_gate"))?, b_gate)?;
            let up = project(tape, normal, w_in, b_up)?;
            hooks.insert(block("mlp.hook_pre"), tape.reshape(gate, &hidden)?);
            hooks.insert(block("mlp.hook_pre_linear"), tape.reshape(up, &hidden)?);
            let gated = tape.push1(GatedActivation(config.act_fn), &[gate, up])?;
            match b_in {
                Some(b_in) => tape.push1(AddBias, &[gated, b_in])?,
                None => gated,
            }
        } else {
            let pre = project(tape, normal, w_in, b_in)?;
            hooks.insert(block("mlp.hook_pre"), tape.reshape(pre, &hidden)?);
            tape.push1(Activation(config.act_fn), &[pre])?
        };
        hooks.insert(block("mlp.hook_post"), tape.reshape(post, &hidden)?);
        let b_out = self.weight(&block("mlp.b_out"));
        let (alone, sum) = write(tape, post, self.need(&block("mlp.W_out"))?, b_out, residual)?;
        hooks.insert(block("hook_mlp_out"), tape.reshape(alone, &dims)?);
        Ok(sum)
    }

    /// The norm of that name, or `x` itself where the model has none. Hooks get the shape `dims`, after
    /// `rows` were picked.
    fn norm(
        &self,
        tape: &mut Tape,
        hooks: &mut Hooks,
        name: &str,
        x: Var,
        rows: Option<Var>,
        dims: &[usize; 3],
    ) -> Result<Var> {
        let Some((kind, weight, bias)) = self.config.norm(name) else { return Ok(x) };
        let mut inputs = vec![x];
        if weight {
            inputs.push(self.need(&format!("{name}.w"))?);
        }
        if bias {
            inputs.push(self.need(&format!("{name}.b"))?);
        }
        let out = tape.push(Norm { kind, weight, bias, eps: self.config.eps as f32 }, &inputs)?;
        let normalized = pick(tape, out[0], rows)?;
        hooks.insert(format!("{name}.hook_normalized"), tape.reshape(normalized, dims)?);
        let count = tape.shape(out[2]).len();
        let scale = tape.reshape(out[2], &[count, 1])?;
        let scale = pick(tape, scale, rows)?;
        hooks.insert(format!("{name}.hook_scale"), tape.reshape(scale, &[dims[0], dims[1], 1])?);
        Ok(out[0])
    }
}

/// x W + b, or x W.
fn project(tape: &mut Tape, x: Var, w: Var, bias: Option<Var>) -> Result<Var> {
    let mut inputs = vec![x, w];
    inputs.extend(bias);
    tape.push1(Linear { bias: bias.is_some(), ..Linear::default() }, &inputs)
}

/// x W + b, which costs nothing unless it is read, and the same added to the residual stream.
fn write(tape: &mut Tape, x: Var, w: Var, bias: Option<Var>, residual: Var) -> Result<(Var, Var)> {
    let mut inputs = vec![x, w];
    inputs.extend(bias);
    let linear = Linear { bias: bias.is_some(), ..Linear::default() };
    let alone = tape.push1(linear, &inputs)?;
    inputs.push(residual);
    Ok((alone, tape.push1(Linear { residual: true, ..linear }, &inputs)?))
}

/// `x` turned down by the doses of its groups of `inner` neighbours, or `x` itself.
fn gated(tape: &mut Tape, x: Var, inner: usize, dose: Option<Var>) -> Result<Var> {
    dose.map_or(Ok(x), |dose| tape.push1(Gate { inner }, &[x, dose]))
}

/// The position of each token of a batch.
fn positions_of(tape: &mut Tape, batch: usize, seq: usize) -> Var {
    let positions: Vec<u32> = (0..batch * seq).map(|at| (at % seq) as u32).collect();
    tape.constant_u32(&[batch * seq], &positions)
}

/// Rows of `x` by index, or `x` itself.
fn pick(tape: &mut Tape, x: Var, index: Option<Var>) -> Result<Var> {
    index.map_or(Ok(x), |index| tape.push1(GatherRows, &[x, index]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::autograd::check::{Case, gpus};
    use crate::autograd::ops::{ActFn, CrossEntropy, IGNORE, MeanRows};
    use crate::model::Normalization;

    /// Any model that is small enough to be interpreted in f64, its batch and sequence, and where it is read.
    fn models() -> impl Strategy<Value = (ModelConfig, usize, usize, ReadOut)> {
        let sizes = (1..=2usize, 4..=37usize, 1..=2usize, 1..=3usize, 1..=5usize, 1..=41usize, 2..=19usize);
        let norms =
            [Normalization::None, Normalization::LN, Normalization::LNPre, Normalization::RMS, Normalization::RMSPre];
        let positions = [PositionalEmbedding::Standard, PositionalEmbedding::Rotary, PositionalEmbedding::None];
        let kinds = (
            prop::sample::select(norms.to_vec()),
            prop::sample::select(positions.to_vec()),
            prop::sample::select(vec![ActFn::Relu, ActFn::Gelu, ActFn::GeluNew, ActFn::Silu]),
        );
        let switches = prop::array::uniform8(any::<bool>());
        let batch = (1..=4usize, 1..=20usize, any::<bool>());
        (sizes, kinds, switches, batch).prop_map(|(sizes, kinds, switches, (batch, seq, last))| {
            let (n_layers, d_model, groups, share, half_head, d_mlp, d_vocab) = sizes;
            let [attn_only, gated_mlp, parallel, attn_biases, mlp_biases, unembed_bias, tied, final_rms] = switches;
            let config = ModelConfig {
                n_layers,
                d_model,
                n_heads: groups * share,
                n_key_value_heads: groups,
                // Odd widths where positions do not turn pairs.
                d_head: 2 * half_head - usize::from(kinds.1 != PositionalEmbedding::Rotary),
                d_mlp,
                attn_only,
                gated_mlp,
                parallel_attn_mlp: parallel && !attn_only,
                attn_biases,
                mlp_biases,
                unembed_bias,
                tied_embeddings: tied,
                normalization_type: kinds.0,
                final_rms,
                positional_embedding_type: kinds.1,
                act_fn: kinds.2,
                d_vocab,
                d_vocab_out: d_vocab,
                n_ctx: seq,
                ..ModelConfig::default()
            };
            (config, batch, seq, if last { ReadOut::Last } else { ReadOut::All })
        })
    }

    fn mid(layer: usize) -> String {
        format!("blocks.{layer}.hook_resid_mid")
    }

    /// Of each layer, the gradients of its attention's weights, by their places, as those of [`Model::attend_within`] with
    /// the pass's own heads: from the gradients of what these write.
    fn gradients_within(
        case: &mut Case,
        model: &Model,
        forward: &Forward,
        rows: &Rows,
        sizes: (usize, usize),
        read: ReadOut,
        seeds: &[Option<Var>],
    ) -> Vec<Vec<(usize, Var)>> {
        let of_layer = |(layer, seed): (usize, &Option<Var>)| {
            let written = model.attend_within(&mut case.tape, layer, forward, rows, sizes, read).unwrap();
            let name = format!("blocks.{layer}.attn.");
            let own = model.table.specs().iter().enumerate().filter(|(_, spec)| spec.name.starts_with(&name));
            let places: Vec<usize> = own.map(|(at, _)| at).collect();
            let weights: Vec<Var> = places.iter().map(|at| model.weights[*at]).collect();
            let found = case.tape.backward_from(written, seed.unwrap(), &weights).unwrap();
            places.into_iter().zip(found).filter_map(|(at, grad)| Some((at, grad?))).collect()
        };
        seeds.iter().enumerate().map(of_layer).collect()
    }

    #[test]
    fn heads_beside_a_pass_have_the_gradients_of_heads_in_it() {
        // Pairs of 3 tokens and 4 positions, of which 7 examples pick; both ways of long and of short sequences.
        for (read, seq) in [(ReadOut::All, 4), (ReadOut::Last, 4), (ReadOut::Last, 70)] {
            let config = ModelConfig {
                n_layers: 2,
                d_model: 12,
                n_heads: 4,
                n_key_value_heads: 2,
                d_vocab: 3,
                n_ctx: seq,
                normalization_type: Normalization::LN,
                // The gradient of b_K is nothing but rounding.
                attn_biases: false,
                ..ModelConfig::default()
            };
            let mut case = Case::new("beside");
            let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
            model.weights.iter().for_each(|weight| case.fill(*weight, 0.3));
            let (batch, pairs) = (7, 3 * seq as u32);
            let picked: Vec<u32> =
                (0..batch * seq).map(|at| (at * at + at / seq) as u32 % 3 * seq as u32 + (at % seq) as u32).collect();
            let last: Vec<u32> = picked.iter().copied().skip(seq - 1).step_by(seq).collect();
            let [tokens, positions] = [|at: u32, seq: u32| at / seq, |at, seq| at % seq].map(|of| {
                case.tape.constant_u32(&[pairs as usize], &(0..pairs).map(|at| of(at, seq as u32)).collect::<Vec<_>>())
            });
            let index = case.tape.constant_u32(&[batch * seq], &picked);
            let rows = Rows::Distinct { tokens, positions, index, last: case.tape.constant_u32(&[batch], &last) };
            let forward = model.forward(&mut case.tape, &rows, batch, seq, read).unwrap();
            let n = if read == ReadOut::Last { batch } else { batch * seq };
            let (targets, count) = case.targets(n, 3);
            let losses = case.tape.push(CrossEntropy, &[forward.logits, targets]).unwrap()[0];
            let loss = case.tape.push1(MeanRows, &[losses, count]).unwrap();
            let seeds = [0, 1].map(|layer| forward.hook(&mid(layer)).unwrap());
            let grads = case.tape.backward(loss, &[model.weights.clone(), seeds.to_vec()].concat()).unwrap();
            let (grads, seeds) = grads.split_at(model.weights.len());
            let within = gradients_within(&mut case, &model, &forward, &rows, (batch, seq), read, seeds);
            let pairs: Vec<(Var, Var)> =
                within.concat().into_iter().map(|(at, grad)| (grads[at].unwrap(), grad)).collect();
            assert_eq!(pairs.len(), 8, "Q, K, V and O in two layers");
            let (own, beside): (Vec<Var>, Vec<Var>) = pairs.into_iter().unzip();
            for (own, beside) in case.reference(0, &own).unwrap().iter().zip(case.reference(0, &beside).unwrap()) {
                for (a, b) in own.data.iter().zip(&beside.data) {
                    // The same sums in f64, in another order.
                    assert!((a - b).abs() < 1e-12, "{a} and {b}");
                }
            }
            case.agree(&beside, 1e-4);
        }
    }

    #[test]
    fn gates_turn_heads_down_or_to_the_means_of_the_training_pass_and_gradients_go_through() {
        for (read, seq) in [(ReadOut::All, 4), (ReadOut::Last, 4), (ReadOut::Last, 20), (ReadOut::All, 66)] {
            let config = ModelConfig {
                n_layers: 2,
                d_model: 12,
                n_heads: 4,
                n_key_value_heads: 2,
                d_vocab: 5,
                n_ctx: seq,
                normalization_type: Normalization::LN,
                attn_biases: false,
                ..ModelConfig::default()
            };
            let mut case = Case::new("gates");
            let mut model = Model::new(&config.resolve().unwrap(), &mut case.tape);
            model.weights.iter().for_each(|weight| case.fill(*weight, 0.3));
            let (batch, k) = (5, 3);
            let tape = &mut case.tape;
            let zero: Vec<f32> = vec![0.0, 1.0, 0.25, 0.0, 0.5, 0.0, 0.0, 0.0];
            let mean: Vec<f32> = vec![1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.75, 0.0];
            let query: Vec<f32> = vec![0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.5];
            let wide: Vec<f32> = query.chunks(4).flat_map(|own| [own, &[0.0; 4]].concat()).collect();
            // The last example fills up, in the second replica the last two.
            let own = tape.constant_u32(&[batch], &[0, 0, 0, 0, IGNORE, 0, 0, 0, IGNORE, IGNORE]);
            let share = tape.constant_owned(&[1], &[0.25, 1.0 / 3.0]);
            let dose = tape.constant_owned(&[1], &[0.5, -1.0]);
            let gates = Gates {
                z: [(0, tape.constant_owned(&[4], &zero))].into(),
                mean: [(0, tape.constant_owned(&[4], &mean)), (1, tape.constant_owned(&[4], &mean))].into(),
                examples: Some((own, share)),
                means: BTreeMap::new(),
                q: [(1, [tape.constant_owned(&[4], &query), tape.constant_owned(&[8], &wide)])].into(),
                logits: Some(dose),
            };
            model.gate(gates);
            let tokens = case.indices(&[batch * seq], 5, true);
            let forward = model.forward(&mut case.tape, &Rows::Each { tokens }, batch, seq, read).unwrap();
            model.hold_means(&forward);
            let n = if read == ReadOut::Last { batch } else { batch * seq };
            let (targets, count) = case.targets(n, 5);
            let losses = case.tape.push(CrossEntropy, &[forward.logits, targets]).unwrap()[0];
            let loss = case.tape.push1(MeanRows, &[losses, count]).unwrap();
            let grads = case.tape.backward(loss, &model.weights).unwrap();
            let mut wanted: Vec<Var> = grads.into_iter().flatten().collect();
            wanted.push(loss);
            // Two layers and a softmax; the means among them are sums of a few terms.
            case.agree(&wanted, 1e-4);

            // Another pass takes the means of the first.
            let others = case.indices(&[batch * seq], 5, true);
            let other = model.forward(&mut case.tape, &Rows::Each { tokens: others }, batch, seq, read).unwrap();
            for (pass, replica) in [(&forward, 0), (&forward, 1), (&other, 0), (&other, 1)] {
                let hooks = [UNGATED, "attn.hook_z", "attn.hook_pattern"].map(|name| format!("blocks.{{}}.{name}"));
                let of = |forward: &Forward, hook: usize, layer: usize| {
                    let var = forward.hook(&hooks[hook].replace("{}", &layer.to_string())).unwrap();
                    case.reference(replica, &[var]).unwrap().remove(0)
                };
                for layer in 0..2 {
                    let (before, after, first) = (of(pass, 0, layer), of(pass, 1, layer), of(&forward, 0, layer));
                    let queries = before.dims[1];
                    let held = 4 - replica;
                    for (i, after) in after.data.iter().enumerate() {
                        let (place, head) = (i % (queries * 4 * k), i / k % 4);
                        let dose = if layer == 0 { zero[4 * replica + head] } else { 0.0 };
                        // What is turned down before is the mean of what was turned down.
                        let kept = 1.0 - f64::from(dose);
                        let examples = first.data.chunks_exact(queries * 4 * k).take(held);
                        let base = kept * examples.map(|example| example[place]).sum::<f64>() / held as f64;
                        let to = f64::from(mean[4 * replica + head]);
                        let expected = (1.0 - to) * kept * before.data[i] + to * base;
                        // The share of a replica is a third in f32.
                        assert!(
                            (after - expected).abs() < 1e-6,
                            "{read:?} {seq} layer {layer}, {i}: {after} {expected}"
                        );
                    }
                }
                let pattern = of(pass, 2, 1);
                let (queries, keys) = (pattern.dims[2], pattern.dims[3]);
                let uniform = pattern.data.chunks_exact(keys).enumerate().all(|(row, line)| {
                    let seen = keys - queries + row % queries + 1;
                    let is = line[..seen].iter().all(|p| (p - 1.0 / seen as f64).abs() < 1e-12);
                    is || row / queries % 4 != 3
                });
                assert_eq!(uniform, replica == 0, "{read:?} {seq}");
            }
        }
    }

    #[test]
    fn strangers_are_drawn_as_heads_are_and_are_no_heads_of_a_run() {
        let config = ModelConfig { d_vocab: 5, n_ctx: 3, n_heads: 8, d_head: 32, ..ModelConfig::default() };
        let mut case = Case::new("strangers");
        let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
        let strangers = model.with_strangers(&mut case.tape, 8).unwrap();
        let of = |model: &Model, name: &str| model.weight(&format!("blocks.0.attn.{name}")).unwrap();
        assert_eq!(model.weight("embed.W_E"), strangers.weight("embed.W_E"));
        let drawn = model.table.draw(0);
        for name in ["W_Q", "W_K", "W_V", "W_O"] {
            let spec = &model.table.specs()[model.table.find(&format!("blocks.0.attn.{name}")).unwrap()];
            let own = &drawn[spec.offset..][..spec.len()];
            let strange = &case.reference(0, &[of(&strangers, name)]).unwrap()[0].data;
            let size = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
            let [own_size, size] = [size(&mut own.iter().map(|x| f64::from(*x))), size(&mut strange.iter().copied())];
            // 32,768 numbers each: a standard error of 0.4 %.
            assert!((own_size / size - 1.0).abs() < 0.02, "{name}: {own_size} and {size}");
            let along: f64 = own.iter().zip(strange).map(|(a, b)| f64::from(*a) * b).sum();
            assert!((along / own_size / size).abs() < 0.03, "{name}: the cosine of independent draws is 0.0055 or so");
        }
    }

    /// The loss and the gradient of every weight, on every adapter, against f64. A model with a ReLU so near
    /// its kink that rounding chooses the side has no gradient to compare, and is rejected.
    fn agrees(config: &ModelConfig, batch: usize, seq: usize, read: ReadOut) -> Result<(), TestCaseError> {
        let config = config.clone().resolve().unwrap();
        let mut case = Case::new("any model");
        let model = Model::new(&config, &mut case.tape);
        for weight in model.weights.clone() {
            // Streams that neither vanish nor, without a norm, grow until softmax amplifies every rounding.
            case.fill(weight, 1.0 / (config.d_model as f32).sqrt());
        }
        let tokens = case.indices(&[batch * seq], config.d_vocab as u32, true);
        let rows = Rows::Each { tokens };
        let forward = model.forward(&mut case.tape, &rows, batch, seq, read).unwrap();
        let n = if read == ReadOut::Last { batch } else { batch * seq };
        let (targets, count) = case.targets(n, config.d_vocab);
        let losses = case.tape.push(CrossEntropy, &[forward.logits, targets]).unwrap()[0];
        let loss = case.tape.push1(MeanRows, &[losses, count]).unwrap();
        let seeds: Vec<Var> = (0..config.n_layers).map(|layer| forward.hook(&mid(layer)).unwrap()).collect();
        let grads = case.tape.backward(loss, &[model.weights.clone(), seeds].concat()).unwrap();
        let (grads, seeds) = grads.split_at(model.weights.len());
        let within = gradients_within(&mut case, &model, &forward, &rows, (batch, seq), read, seeds);
        let mut wanted = vec![loss];
        wanted.extend(grads.iter().copied().flatten());
        wanted.extend(within.iter().flatten().map(|(_, grad)| *grad));
        let kinks: Vec<Var> = (0..config.n_layers)
            .filter_map(|layer| forward.hook(&format!("blocks.{layer}.mlp.hook_pre")).ok())
            .filter(|_| config.act_fn == ActFn::Relu)
            .collect();
        let references = [0, 1].map(|replica| case.reference(replica, &wanted).unwrap());
        for replica in 0..2 {
            let nearest = case
                .reference(replica, &kinks)
                .unwrap()
                .iter()
                .flat_map(|a| &a.data)
                .fold(1.0f64, |m, x| m.min(x.abs()));
            prop_assume!(nearest > 1e-5);
        }
        for gpu in gpus() {
            let found = case.run(gpu, &wanted).unwrap();
            for (replica, exact) in references.iter().enumerate() {
                // Some gradients are nothing but cancelled rounding (b_K without rotation), so all are held
                // against the largest. A few dozen roundings of 6e-8 through two layers and a softmax.
                let largest = exact.iter().flat_map(|a| &a.data).fold(1e-3f64, |m, x| m.max(x.abs()));
                for (which, (found, exact)) in found.iter().zip(exact).enumerate() {
                    for (f, e) in found[replica].iter().zip(&exact.data) {
                        assert!(
                            (f64::from(*f) - e).abs() <= 5e-5 * largest,
                            "value {which} on {}: {f} instead of {e}, largest {largest} {config:?} {batch} {seq} {read:?}",
                            gpu.caps().name
                        );
                    }
                }
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_model_and_its_gradients_match_the_reference((config, batch, seq, read) in models()) {
            agrees(&config, batch, seq, read)?;
        }
    }
}
