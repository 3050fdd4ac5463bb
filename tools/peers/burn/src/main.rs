//! The workloads of `thermoscope bench step` in burn, on wgpu over Vulkan: forward, cross-entropy, backward and
//! AdamW, without autotuning. Prints one JSON object a line.
//!
//! burn-peer [--workload NAME]... [--rounds 5] [--limit SECONDS]

use std::time::Instant;

use burn::module::{Module, Param};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::{gelu, relu, softmax};
use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::{Bool, Device, Distribution, Int, Tensor};

/// As in src/bench/workloads and src/cli/presets/grok.toml.
struct Workload {
    name: &'static str,
    layers: usize,
    d: usize,
    heads: usize,
    /// 0 for none.
    mlp: usize,
    /// LayerNorm, and biases in attention and unembedding.
    norm: bool,
    gelu: bool,
    vocab: usize,
    t: usize,
    batch: usize,
    /// The loss is that of the last position alone.
    last: bool,
}

#[rustfmt::skip]
const WORKLOADS: [Workload; 4] = [
    Workload { name: "grok", layers: 1, d: 128, heads: 4, mlp: 512, norm: false, gelu: false, vocab: 114, t: 3, batch: 3830, last: true },
    Workload { name: "grok-minibatch", layers: 1, d: 128, heads: 4, mlp: 512, norm: false, gelu: false, vocab: 114, t: 3, batch: 512, last: true },
    Workload { name: "induction", layers: 2, d: 256, heads: 8, mlp: 0, norm: true, gelu: false, vocab: 512, t: 128, batch: 32, last: false },
    Workload { name: "small-lm", layers: 4, d: 256, heads: 8, mlp: 1024, norm: true, gelu: true, vocab: 4096, t: 256, batch: 16, last: false },
];

#[derive(Module, Debug)]
struct Block {
    ln1: Option<LayerNorm>,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    ln2: Option<LayerNorm>,
    mlp: Option<(Linear, Linear)>,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    gelu: bool,
}

#[derive(Module, Debug)]
struct Transformer {
    embed: Embedding,
    positions: Param<Tensor<2>>,
    blocks: Vec<Block>,
    ln_final: Option<LayerNorm>,
    unembed: Linear,
}

fn normed(norm: &Option<LayerNorm>, x: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

impl Block {
    fn new(c: &Workload, device: &Device) -> Self {
        let norm = |wanted: bool| wanted.then(|| LayerNormConfig::new(c.d).init(device));
        let square = || LinearConfig::new(c.d, c.d).with_bias(c.norm).init(device);
        let wide = |from, to| LinearConfig::new(from, to).init(device);
        Self {
            ln1: norm(c.norm),
            query: square(),
            key: square(),
            value: square(),
            output: square(),
            ln2: norm(c.norm && c.mlp > 0),
            mlp: (c.mlp > 0).then(|| (wide(c.d, c.mlp), wide(c.mlp, c.d))),
            heads: c.heads,
            gelu: c.gelu,
        }
    }

    /// Takes one row for each token: `Linear` on more dimensions would give every sequence a gradient of the
    /// weights of its own. `hidden` is true where a query must not look.
    fn forward(&self, x: Tensor<2>, hidden: &Tensor<4, Bool>) -> Tensor<2> {
        let [rows, d] = x.dims();
        let [_, _, t, _] = hidden.dims();
        let y = normed(&self.ln1, x.clone());
        let split =
            |by: &Linear| by.forward(y.clone()).reshape([rows / t, t, self.heads, d / self.heads]).swap_dims(1, 2);
        let (q, k, v) = (split(&self.query), split(&self.key), split(&self.value));
        let scores = q.matmul(k.transpose()).div_scalar(((d / self.heads) as f32).sqrt());
        let pattern = softmax(scores.mask_fill(hidden.clone(), -1e30), 3);
        let z = pattern.matmul(v).swap_dims(1, 2).reshape([rows, d]);
        let x = x + self.output.forward(z);
        let Some((into, out)) = &self.mlp else { return x };
        let y = into.forward(normed(&self.ln2, x.clone()));
        x + out.forward(if self.gelu { gelu(y) } else { relu(y) })
    }
}

impl Transformer {
    fn new(c: &Workload, device: &Device) -> Self {
        let normal = || Initializer::Normal { mean: 0.0, std: 1.0 / (c.d as f64).sqrt() };
        Self {
            embed: EmbeddingConfig::new(c.vocab, c.d).with_initializer(normal()).init(device),
            positions: normal().init([c.t, c.d], device),
            blocks: (0..c.layers).map(|_| Block::new(c, device)).collect(),
            ln_final: c.norm.then(|| LayerNormConfig::new(c.d).init(device)),
            unembed: LinearConfig::new(c.d, c.vocab).with_bias(c.norm).init(device),
        }
    }

    /// Logits of every position, or of the last, one row each.
    fn forward(&self, tokens: Tensor<2, Int>, hidden: &Tensor<4, Bool>, last: bool) -> Tensor<2> {
        let embedded = self.embed.forward(tokens) + self.positions.val().unsqueeze();
        let [batch, t, d] = embedded.dims();
        let mut x = embedded.reshape([batch * t, d]);
        for block in &self.blocks {
            x = block.forward(x, hidden);
        }
        if last {
            x = x.reshape([batch, t, d]).slice([0..batch, t - 1..t, 0..d]).reshape([batch, d]);
        }
        self.unembed.forward(normed(&self.ln_final, x))
    }
}

struct Training {
    device: Device,
    /// `None` within a step.
    model: Option<Transformer>,
    optimizer: ModuleOptimizer,
    cross_entropy: CrossEntropyLoss,
    tokens: Tensor<2, Int>,
    targets: Tensor<1, Int>,
    hidden: Tensor<4, Bool>,
    last: bool,
}

impl Training {
    fn new(c: &Workload, device: &Device) -> Self {
        let draw = |shape: [usize; 2]| {
            let values = Distribution::Uniform(0.0, c.vocab as f64);
            Tensor::<2, Int>::random(shape, values, device).clamp(0, c.vocab as i64 - 1)
        };
        let rows = if c.last { c.batch } else { c.batch * c.t };
        let adamw = AdamWConfig::new().with_beta_1(0.9).with_beta_2(0.98).with_epsilon(1e-8).with_weight_decay(1.0);
        Self {
            device: device.clone(),
            model: Some(Transformer::new(c, device)),
            optimizer: adamw.init(),
            cross_entropy: CrossEntropyLossConfig::new().init(device),
            tokens: draw([c.batch, c.t]),
            targets: draw([rows, 1]).reshape([rows]),
            hidden: Tensor::<2, Bool>::tril_mask([c.t, c.t], 0, device).reshape([1, 1, c.t, c.t]),
            last: c.last,
        }
    }

    /// One step; gives the loss before it, still on the device.
    fn step(&mut self) -> Tensor<1> {
        let model = self.model.take().expect("a step ends before the next begins");
        let logits = model.forward(self.tokens.clone(), &self.hidden, self.last);
        let loss = self.cross_entropy.forward(logits, self.targets.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        self.model = Some(self.optimizer.step(1e-3, model, gradients));
        loss
    }

    /// Milliseconds of a step, of `count` together, from one idle moment of the device to the next.
    fn time(&mut self, count: usize) -> f64 {
        let began = Instant::now();
        for _ in 0..count {
            self.step();
        }
        self.device.sync().expect("the device works");
        began.elapsed().as_secs_f64() * 1e3 / count as f64
    }
}

fn main() {
    let (mut names, mut rounds, mut limit) = (Vec::new(), 5, f64::INFINITY);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--workload" => names.push(value),
            "--rounds" => rounds = value.parse().expect("--rounds takes a number"),
            "--limit" => limit = value.parse().expect("--limit takes seconds"),
            _ => panic!("{name}: there are --workload, --rounds and --limit"),
        }
    }
    let options = Device::wgpu_options().graphics_api(WgpuBackend::Vulkan);
    let (device, setup) = options.init_with_setup().expect("a Vulkan adapter");
    let adapter = setup.adapter.get_info().name;
    let device = device.autodiff();
    for workload in WORKLOADS.iter().filter(|w| names.is_empty() || names.iter().any(|name| name == w.name)) {
        let began = Instant::now();
        let mut training = Training::new(workload, &device);
        let first = training.step().into_scalar::<f32>();
        let warm_up = training.time(1);
        // A step that fills the limit is all there is.
        let mut times = vec![warm_up];
        if began.elapsed().as_secs_f64() < limit {
            let one = training.time(1);
            let count = (500.0 / one).clamp(1.0, 200.0) as usize;
            times = vec![if count > 1 { training.time(count) } else { one }];
            while times.len() < rounds && began.elapsed().as_secs_f64() < limit {
                times.push(training.time(count));
            }
        }
        let last = training.step().into_scalar::<f32>();
        times.sort_by(f64::total_cmp);
        let line = serde_json::json!({
            "workload": workload.name,
            "mode": if cfg!(feature = "spirv") { "burn 0.22, SPIR-V, no autotune" } else { "burn 0.22, WGSL, no autotune" },
            "adapter": adapter,
            "timing": "wall",
            "ms_per_step": times[times.len() / 2],
            "min": times[0],
            "max": times[times.len() - 1],
            "rounds": times.len(),
            "first_loss": first,
            "last_loss": last,
        });
        println!("{line}");
    }
}
