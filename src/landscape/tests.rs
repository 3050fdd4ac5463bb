//! Products with the second derivatives of whole models.

use super::surface::{Recorded, record};
use super::{Examples, Matrix, Surface, Symmetric, dot, signs};
use crate::autograd::check::{Case, gpus};
use crate::autograd::ops::ActFn;
use crate::autograd::{Array, Var};
use crate::model::{Model, ModelConfig, Normalization, PositionalEmbedding, ReadOut, Rows};
use crate::random::{Philox, Stream};
use crate::record::Setup;
use crate::task::Batch;

/// A model of few weights over few sequences, two directions along them, and all of it on a tape.
struct Small {
    case: Case,
    model: Model,
    along: Vec<Var>,
    recorded: Recorded,
    weights: Vec<Vec<f32>>,
    directions: [Vec<Vec<f32>>; 2],
    /// What an activation with a kink is taken of.
    kinks: Vec<Var>,
}

fn normals(seed: u64, of: usize, len: usize, size: f64) -> Vec<f32> {
    let stream = Philox::new(seed, Stream::Weights, of as u32);
    (0..len.div_ceil(2)).flat_map(|at| stream.normals(at as u64)).map(|x| (x * size) as f32).take(len).collect()
}

impl Small {
    fn new(config: &ModelConfig, batch: usize, seq: usize, read: ReadOut, matrix: Matrix) -> Self {
        let config = config.clone().resolve().unwrap();
        let mut case = Case::new("curvature");
        let tape = &mut case.tape;
        let model = Model::shared(&config, tape);
        let along = model.table.declare(tape, true);
        let (vocab, outputs) = (config.d_vocab as u32, config.d_vocab_out as u32);
        let token = |at: u32| (at * at + 3 * at + at / 5) % vocab;
        let tokens: Vec<u32> = (0..(batch * seq) as u32).map(token).collect();
        let n = if read == ReadOut::Last { batch } else { batch * seq };
        let rows = if config.positional_embedding_type == PositionalEmbedding::Standard && read == ReadOut::Last {
            // Every pair of token and position, of which the batch picks.
            let pairs: Vec<[u32; 2]> = (0..vocab * seq as u32).map(|at| [at / seq as u32, at % seq as u32]).collect();
            let of = |at: usize| pairs.iter().map(|pair| pair[at]).collect::<Vec<_>>();
            let index: Vec<u32> =
                tokens.iter().enumerate().map(|(at, token)| token * seq as u32 + (at % seq) as u32).collect();
            let last: Vec<u32> = index.iter().copied().skip(seq - 1).step_by(seq).collect();
            Rows::Distinct {
                tokens: tape.constant_u32(&[pairs.len()], &of(0)),
                positions: tape.constant_u32(&[pairs.len()], &of(1)),
                index: tape.constant_u32(&[index.len()], &index),
                last: tape.constant_u32(&[batch], &last),
            }
        } else {
            Rows::Each { tokens: tape.constant_u32(&[batch * seq], &tokens) }
        };
        let targets: Vec<u32> = (0..n as u32).map(|at| (5 * at + at / 3) % outputs).collect();
        let targets = tape.constant_u32(&[n], &targets);
        let count = tape.constant(&[1], &[n as f32]);
        // Twice: what pieces come to is a sum.
        let piece = Batch { rows, targets, count, size: batch, seq, ids: None };
        let recorded = record(tape, &model, &along, &[piece, piece], read, matrix).unwrap();
        let kinks = match config.act_fn {
            ActFn::Relu if config.has_mlp() => {
                let forward = model.forward(tape, &rows, batch, seq, read).unwrap();
                (0..config.n_layers).map(|l| forward.hook(&format!("blocks.{l}.mlp.hook_pre")).unwrap()).collect()
            }
            _ => Vec::new(),
        };
        let lens: Vec<usize> = model.table.specs().iter().map(|spec| spec.len()).collect();
        let size = 1.0 / (config.d_model as f64).sqrt();
        let all = |seed: u64, size: f64| -> Vec<Vec<f32>> {
            lens.iter().enumerate().map(|(of, len)| normals(seed, of, *len, size)).collect()
        };
        let (weights, directions) = (all(11, size), [all(12, 1.0), all(13, 1.0)]);
        for (at, weight) in weights.iter().enumerate() {
            case.set(model.weights[at], weight.clone());
            case.set_each(along[at], directions.each_ref().map(|direction| direction[at].clone()).to_vec());
        }
        Self { case, model, along, recorded, weights, directions, kinks }
    }

    /// Inputs of the reference: the weights moved along a direction, which is given too.
    fn inputs(&self, direction: usize, delta: f64) -> Vec<(Var, Array)> {
        let mut inputs = Vec::new();
        for (at, spec) in self.model.table.specs().iter().enumerate() {
            let along = &self.directions[direction][at];
            let moved = self.weights[at].iter().zip(along).map(|(w, d)| f64::from(*w) + delta * f64::from(*d));
            inputs.push((self.model.weights[at], Array::new(&spec.dims, moved.collect())));
            inputs.push((self.along[at], Array::new(&spec.dims, along.iter().map(|d| f64::from(*d)).collect())));
        }
        inputs
    }

    fn evaluate(&self, direction: usize, delta: f64, wanted: &[Var]) -> Vec<f64> {
        let found = self.case.tape.evaluate(direction, &self.inputs(direction, delta), wanted).unwrap();
        found.into_iter().flat_map(|array| array.data).collect()
    }

    fn products(&self) -> Vec<Var> {
        self.recorded.products.iter().copied().flatten().collect()
    }
}

fn length(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

/// |a - b| / |b|.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    length(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>()) / length(b)
}

/// Every kind of layer that a model may have, and both ways of attention in memory, and the one that streams.
fn architectures() -> Vec<(&'static str, ModelConfig, usize, usize, ReadOut)> {
    let base = ModelConfig { d_vocab: 7, d_model: 12, n_heads: 2, d_mlp: 20, n_ctx: 4, ..ModelConfig::default() };
    let two = ModelConfig { n_layers: 2, ..base.clone() };
    vec![
        ("ReLU, shared rows", ModelConfig { attn_biases: false, n_ctx: 3, ..base.clone() }, 9, 3, ReadOut::Last),
        (
            "GELU, LN",
            ModelConfig { act_fn: ActFn::Gelu, normalization_type: Normalization::LN, ..two.clone() },
            5,
            4,
            ReadOut::All,
        ),
        (
            "gated SiLU, RMS, rotary, grouped heads",
            ModelConfig {
                act_fn: ActFn::Silu,
                gated_mlp: true,
                normalization_type: Normalization::RMS,
                positional_embedding_type: PositionalEmbedding::Rotary,
                n_heads: 4,
                d_head: 4,
                n_key_value_heads: 2,
                n_ctx: 20,
                ..two.clone()
            },
            3,
            20,
            ReadOut::All,
        ),
        (
            "GELU by tanh, parallel, tied",
            ModelConfig {
                act_fn: ActFn::GeluNew,
                normalization_type: Normalization::LN,
                parallel_attn_mlp: true,
                tied_embeddings: true,
                ..two.clone()
            },
            5,
            4,
            ReadOut::Last,
        ),
        ("attention alone", ModelConfig { attn_only: true, ..two.clone() }, 5, 4, ReadOut::All),
        (
            "T = 128",
            ModelConfig { normalization_type: Normalization::LN, act_fn: ActFn::Gelu, n_ctx: 128, ..base },
            1,
            128,
            ReadOut::All,
        ),
    ]
}

#[test]
fn products_with_the_hessian_match_f64_and_differences_of_gradients_on_every_architecture() {
    for (name, config, batch, seq, read) in architectures() {
        let small = Small::new(&config, batch, seq, read, Matrix::Hessian);
        let kinks = small.evaluate(0, 0.0, &small.kinks);
        assert!(kinks.iter().all(|x| x.abs() > 1e-4), "{name}: a ReLU so near its kink that rounding chooses the side");
        let wanted = small.products();
        let gradient: Vec<Var> = small.recorded.gradient.iter().copied().flatten().collect();
        assert_eq!(wanted.len(), gradient.len(), "{name}: every gradient moves");
        let exact = [0, 1].map(|direction| small.evaluate(direction, 0.0, &wanted));
        // Of fifth order: 1e-16 over the step is left of rounding.
        const STEP: f64 = 1e-6;
        for (direction, exact) in exact.iter().enumerate() {
            let at = |steps: f64| small.evaluate(direction, steps * STEP, &gradient);
            let [a, b, c, d] = [1.0, -1.0, 2.0, -2.0].map(at);
            let numeric: Vec<f64> =
                (0..exact.len()).map(|i| (8.0 * (a[i] - b[i]) - (c[i] - d[i])) / (12.0 * STEP)).collect();
            assert!(apart(exact, &numeric) < 1e-7, "{name}: {:e} from differences", apart(exact, &numeric));
        }
        for gpu in gpus() {
            let found = small.case.run(gpu, &wanted).unwrap();
            for (direction, exact) in exact.iter().enumerate() {
                let of = |value: &Vec<Vec<f32>>| value[direction].iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
                let found: Vec<f64> = found.iter().flat_map(of).collect();
                let error = apart(&found, exact);
                assert!(error < 1e-5, "{name} on {}: {error:e}", gpu.caps().name);
            }
        }
    }
}

#[test]
fn products_with_the_gauss_newton_matrix_are_those_of_its_definition() {
    let gpu = &gpus()[0];
    for (name, config, batch, seq, read) in architectures() {
        let small = Small::new(&config, batch, seq, read, Matrix::GaussNewton);
        let wanted = small.products();
        let exact = [0, 1].map(|direction| small.evaluate(direction, 0.0, &wanted));
        let found = small.case.run(gpu, &wanted).unwrap();
        for (direction, exact) in exact.iter().enumerate() {
            let of = |value: &Vec<Vec<f32>>| value[direction].iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let error = apart(&found.iter().flat_map(of).collect::<Vec<_>>(), exact);
            assert!(error < 1e-5, "{name}: {error:e}");
        }
        // What only moves the logits by a linear map has no other second derivative: the columns of W_U, and its bias.
        let whole = Small::new(&config, batch, seq, read, Matrix::Hessian);
        let along: Vec<f64> = whole.directions[0].iter().flatten().map(|x| f64::from(*x)).collect();
        assert!(dot(&along, &exact[0]) > 0.0, "{name}: it has no negative eigenvalue");
    }
}

#[test]
fn where_logits_are_linear_in_what_moves_both_matrices_are_one() {
    let (_, config, batch, seq, read) = architectures().remove(0);
    let [hessian, gauss] = [Matrix::Hessian, Matrix::GaussNewton].map(|matrix| {
        let small = Small::new(&config, batch, seq, read, matrix);
        let last: Vec<usize> =
            ["unembed.W_U", "unembed.b_U"].into_iter().filter_map(|name| small.model.table.find(name)).collect();
        let mut inputs = small.inputs(0, 0.0);
        for (at, along) in small.along.iter().enumerate().filter(|(at, _)| !last.contains(at)) {
            let (_, still) = inputs.iter_mut().find(|(var, _)| var == along).unwrap();
            still.data.fill(0.0);
            assert!(at < last[0]);
        }
        let wanted: Vec<Var> = last.iter().filter_map(|at| small.recorded.products[*at]).collect();
        let found = small.case.tape.evaluate(0, &inputs, &wanted).unwrap();
        found.into_iter().flat_map(|array| array.data).collect::<Vec<f64>>()
    });
    assert!(length(&hessian) > 1e-3 && apart(&hessian, &gauss) < 1e-12, "{:e}", apart(&hessian, &gauss));
}

const RUN: &str = "steps = 4\nseed = 3\n[task]\nkind = \"modular\"\np = 11\ntrain_fraction = 0.5\n[model]\nd_model = 16\nn_heads = 2\nd_mlp = 24\nact_fn = \"gelu\"\n";

#[test]
fn a_surface_is_symmetric_and_linear_and_its_gradient_is_that_of_its_loss() {
    let run = Setup::from_toml(RUN).unwrap().config;
    let gpu = &gpus()[0];
    for matrix in [Matrix::Hessian, Matrix::GaussNewton] {
        let mut surface = Surface::new(gpu, &run, 0, Examples::All, matrix, 3).unwrap();
        let weights = crate::model::WeightTable::new(&run.model).draw(3);
        surface.set_weights(&weights).unwrap();
        let n = surface.size();
        let [u, v] = [0, 1].map(|at| signs(n, 1, at));
        let both: Vec<f64> = u.iter().zip(&v).map(|(u, v)| 0.5 * u - 2.0 * v).collect();
        let found = surface.times(&[u.clone(), v.clone(), both, u.clone()]).unwrap();
        let expected: Vec<f64> = found[0].iter().zip(&found[1]).map(|(u, v)| 0.5 * u - 2.0 * v).collect();
        // Some ten roundings of 6e-8 in each.
        assert!(apart(&found[2], &expected) < 2e-6, "{:e}", apart(&found[2], &expected));
        assert_eq!(found[0], found[3], "a product is the same alone and beside others, to the bit");
        let (uv, vu) = (dot(&u, &found[1]), dot(&v, &found[0]));
        let size = length(&u) * length(&found[1]);
        assert!((uv - vu).abs() < 1e-6 * size, "{uv} and {vu}, of vectors of {size}");
        // A product cannot see the gaps, nor what others are beside it.
        assert_eq!(surface.tensors().last().unwrap().range.end, n);

        let (loss, gradient) = surface.gradient().unwrap();
        assert!((loss - 11f64.ln()).abs() < 1.0, "{loss}");
        if matrix == Matrix::Hessian {
            // Smooth enough for differences in f32: of the loss 1e-3 at best.
            let mut at = |delta: f64| {
                let mut moved = weights.clone();
                let mut along = vec![0.0; moved.len()];
                surface.spread(&u, &mut along);
                moved.iter_mut().zip(&along).for_each(|(w, d)| *w += delta as f32 * d);
                surface.set_weights(&moved).unwrap();
                surface.gradient().unwrap()
            };
            let ([a, b], delta) = ([at(1e-3), at(-1e-3)], 1e-3);
            let slope = (a.0 - b.0) / (2.0 * delta);
            assert!((slope - dot(&gradient, &u)).abs() < 2e-3 * length(&gradient) * length(&u), "{slope}");
            let product: Vec<f64> = a.1.iter().zip(&b.1).map(|(a, b)| (a - b) / (2.0 * delta)).collect();
            assert!(apart(&product, &found[0]) < 1e-2, "{:e}", apart(&product, &found[0]));
        }
    }
}

#[test]
fn what_is_drawn_is_the_same_for_every_direction_and_what_cannot_be_is_refused() {
    let run = Setup::from_toml(RUN).unwrap().config;
    let gpu = &gpus()[0];
    let mut surface = Surface::new(gpu, &run, 0, Examples::Drawn(40), Matrix::Hessian, 2).unwrap();
    surface.set_weights(&crate::model::WeightTable::new(&run.model).draw(3)).unwrap();
    let u = signs(surface.size(), 1, 0);
    let found = surface.times(&[u.clone(), u]).unwrap();
    assert_eq!(found[0], found[1]);
    let error = Surface::new(gpu, &run, 0, Examples::Drawn(0), Matrix::Hessian, 1).err().unwrap().to_string();
    assert!(error.contains("ask for 1 or more"), "{error}");
    let endless =
        "steps = 4\n[task]\nkind = \"repeated\"\n[batch]\nsize = 2\n[model]\nd_model = 8\nn_heads = 2\nd_mlp = 8\n";
    let run = Setup::from_toml(endless).unwrap().config;
    let error = Surface::new(gpu, &run, 0, Examples::All, Matrix::Hessian, 1).err().unwrap().to_string();
    assert!(error.contains("how many"), "{error}");
    assert!(surface.set_weights(&[0.0; 3]).is_err());
}
