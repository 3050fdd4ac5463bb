//! Gradients and loss curves against f64 numbers of JAX (tools/golden.py).

use serde::Deserialize;
use thermoscope::autograd::ops::{CrossEntropy, IGNORE, MeanRows};
use thermoscope::autograd::{Bindings, Tape};
use thermoscope::gpu::{Class, Gpu, Select, Storage, read_now};
use thermoscope::model::{Model, ModelConfig, ReadOut, Rows, WeightTable};
use thermoscope::record::Setup;
use thermoscope::train::Session;

#[derive(Deserialize)]
struct Golden {
    config: ModelConfig,
    optimizer: Optimizer,
    tokens: Vec<Vec<u32>>,
    targets: Vec<Vec<i64>>,
    weights: std::collections::BTreeMap<String, Vec<f64>>,
    loss: f64,
    gradients: std::collections::BTreeMap<String, Vec<f64>>,
    curve: Vec<f64>,
}

#[derive(Deserialize)]
struct Optimizer {
    learning_rate: f64,
    weight_decay: f64,
    betas: [f64; 2],
    eps: f64,
}

impl Golden {
    fn read(name: &str) -> Self {
        let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let mut golden: Self = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        golden.config = golden.config.resolve().unwrap();
        golden
    }

    /// The weights laid out by the table.
    fn flat(&self, table: &WeightTable) -> Vec<f32> {
        let mut flat = vec![0.0; table.len()];
        for spec in table.specs() {
            let values = &self.weights[&spec.name];
            assert_eq!(values.len(), spec.len(), "{}", spec.name);
            for (to, from) in flat[spec.offset..].iter_mut().zip(values) {
                *to = *from as f32;
            }
        }
        assert_eq!(table.specs().len(), self.weights.len());
        flat
    }
}

/// Loss and the gradient of every tensor, by table, on one device.
fn gradients(gpu: &Gpu, golden: &Golden) -> (f64, Vec<f32>, WeightTable) {
    let (batch, seq) = (golden.tokens.len(), golden.tokens[0].len());
    let mut tape = Tape::new(1);
    let model = Model::new(&golden.config, &mut tape);
    let tokens = tape.constant_u32(&[batch * seq], &golden.tokens.concat());
    let targets: Vec<u32> = golden.targets.concat().into_iter().map(|t| u32::try_from(t).unwrap_or(IGNORE)).collect();
    let count = targets.iter().filter(|t| **t != IGNORE).count();
    let targets = tape.constant_u32(&[batch * seq], &targets);
    let count = tape.constant(&[1], &[count as f32]);
    let forward = model.forward(&mut tape, &Rows::Each { tokens }, batch, seq, ReadOut::All).unwrap();
    let rows = tape.push(CrossEntropy, &[forward.logits, targets]).unwrap()[0];
    let loss = tape.push1(MeanRows, &[rows, count]).unwrap();
    let grads = tape.backward(loss, &model.weights).unwrap();

    let table = WeightTable::new(&golden.config);
    let weights = gpu.upload(Class::Weights, &golden.flat(&table)).unwrap();
    let gradients = gpu.buffer(Class::Gradients, table.len() as u64).unwrap();
    let result = gpu.buffer(Class::Metrics, 64).unwrap();
    let mut bindings = Bindings::new();
    table.bind(&mut bindings, &model.weights.iter().copied().map(Some).collect::<Vec<_>>(), &weights);
    table.bind(&mut bindings, &grads, &gradients);
    bindings.bind(loss, Storage::whole(&result, 1));
    let program = tape.compile(gpu, &bindings).unwrap();
    program.poison(gpu);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    program.encode(&mut encoder.begin_compute_pass(&Default::default()), Select { step: 0, update: true });
    gpu.queue().submit([encoder.finish()]);
    let floats = |buffer: &wgpu::Buffer| -> Vec<f32> {
        read_now(gpu, buffer, 0..buffer.size()).unwrap().into_iter().map(f32::from_bits).collect()
    };
    (f64::from(floats(&result)[0]), floats(&gradients), table)
}

#[test]
fn gradients_of_every_tensor_agree_with_f64() {
    for name in ["relu_one_layer", "gelu_two_layers"] {
        let golden = Golden::read(name);
        for gpu in crate::common::gpus() {
            let (loss, found, table) = gradients(gpu, &golden);
            assert!((loss / golden.loss - 1.0).abs() < 1e-6, "{name}: loss {loss} instead of {}", golden.loss);
            for spec in table.specs() {
                let expected = &golden.gradients[&spec.name];
                let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
                let difference = found[spec.offset..]
                    .iter()
                    .zip(expected)
                    .map(|(f, e)| (f64::from(*f) - e).powi(2))
                    .sum::<f64>()
                    .sqrt();
                // A key bias shifts all scores of a query alike, so its gradient is 0 but for rounding: there
                // the other gradients, of order 0.1, are the measure.
                assert!(
                    difference <= 1e-5 * norm.max(1e-3),
                    "{name} on {}: gradient of {} is off by {difference:.1e} of {norm:.1e}",
                    gpu.caps().name,
                    spec.name
                );
            }
        }
    }
}

#[test]
fn a_hundred_adamw_steps_follow_the_f64_loss_curve() {
    for name in ["relu_one_layer", "gelu_two_layers"] {
        let golden = Golden::read(name);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let task = if name == "relu_one_layer" {
            let pairs: Vec<&[u32]> = golden.tokens.iter().map(|t| &t[..2]).collect();
            let pairs = file("pairs.json", serde_json::to_string(&pairs).unwrap());
            format!("kind = \"modular\"\np = 7\ntrain_pairs = \"{pairs}\"")
        } else {
            // One sequence more, which is held out: a task needs both sides of a split.
            let mut sequences: Vec<Vec<u32>> = golden
                .tokens
                .iter()
                .zip(&golden.targets)
                .map(|(t, y)| t.iter().copied().chain([y[y.len() - 1] as u32]).collect())
                .collect();
            let train: Vec<usize> = (0..sequences.len()).collect();
            sequences.push(sequences[0].clone());
            let sequences = file("sequences.json", serde_json::to_string(&sequences).unwrap());
            let train = file("train.json", serde_json::to_string(&train).unwrap());
            format!("kind = \"tokens\"\npath = \"{sequences}\"\ntrain_sequences = \"{train}\"")
        };
        let o = &golden.optimizer;
        let model = toml::to_string(&golden.config).unwrap();
        let text = format!(
            "steps = 100\n[task]\n{task}\n[model]\n{model}\n[optimizer]\nlearning_rate = {:?}\nweight_decay = {:?}\nbetas = {:?}\neps = {:?}\n",
            o.learning_rate, o.weight_decay, o.betas, o.eps
        );
        for gpu in crate::common::gpus() {
            let mut session = Session::new(gpu, Setup::from_toml(&text).unwrap().config).unwrap();
            let weights = golden.flat(session.table());
            session.set_weights(&[weights]).unwrap();
            let losses = crate::common::losses(gpu, &mut session, 100);
            for (step, (found, expected)) in losses.iter().zip(&golden.curve).enumerate() {
                let error = (f64::from(found[0]) / expected - 1.0).abs();
                assert!(error <= 1e-4, "{name} on {}: step {step} is off by {error:.1e}", gpu.caps().name);
            }
            assert!(golden.curve[99] < 0.6 * golden.curve[0], "the curve must go down to test anything");
        }
    }
}
