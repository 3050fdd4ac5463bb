use super::*;
use crate::autograd::check::{Case, SIZES, gpus};
use crate::autograd::ops::ActFn;
use crate::model::{ModelConfig, Normalization, PositionalEmbedding, ReadOut};
use crate::task::Batch;

/// A smooth little model in a case, its weights filled.
fn model(case: &mut Case, change: impl FnOnce(&mut ModelConfig)) -> Model {
    let mut config = ModelConfig {
        n_layers: 2,
        d_model: 12,
        n_heads: 4,
        d_head: 3,
        d_mlp: 10,
        act_fn: ActFn::Gelu,
        d_vocab: 5,
        d_vocab_out: 6,
        n_ctx: 4,
        ..ModelConfig::default()
    };
    change(&mut config);
    let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
    for weight in model.weights.clone() {
        case.fill(weight, 0.3);
    }
    model
}

const SEQ: usize = 4;

fn pass(case: &mut Case, model: &Model, rows: Rows, targets: &[u32], read: ReadOut) -> Pass {
    let queries = if read == ReadOut::Last { 1 } else { SEQ };
    let counted = targets.iter().filter(|t| **t != IGNORE).count();
    let batch = Batch {
        rows,
        targets: case.tape.constant_u32(&[targets.len()], targets),
        count: case.tape.constant(&[1], &[counted as f32]),
        size: targets.len() / queries,
        seq: SEQ,
        ids: None,
    };
    let mut pass = Pass::new(&mut case.tape, model, batch, read).unwrap();
    pass.backward(&mut case.tape, model, None).unwrap();
    pass
}

/// What is measured of a pass, but for b_K, whose gradient is rounding where positions do not rotate.
fn measured(case: &mut Case, model: &Model, pass: &Pass, sampled: bool) -> Vec<(String, bool, Var)> {
    let all = measure(&mut case.tape, model, pass, sampled).unwrap();
    all.into_iter().filter(|(tensor, ..)| !tensor.ends_with("b_K")).collect()
}

/// Tokens with repeats within and between examples.
fn tokens(examples: usize) -> Vec<u32> {
    (0..examples * SEQ).map(|i| [1, 3, 1, 4, 0, 2, 2][i % 7]).collect()
}

fn each(case: &mut Case, tokens: &[u32]) -> Rows {
    Rows::Each { tokens: case.tape.constant_u32(&[tokens.len()], tokens) }
}

/// The same tokens as distinct pairs of token and position.
fn distinct(case: &mut Case, tokens: &[u32]) -> Rows {
    let pairs: Vec<u32> = tokens.iter().enumerate().map(|(i, t)| t * SEQ as u32 + (i % SEQ) as u32).collect();
    let all: Vec<u32> = (0..5 * SEQ as u32).collect();
    let last: Vec<u32> = pairs.chunks_exact(SEQ).map(|example| example[SEQ - 1]).collect();
    let tape = &mut case.tape;
    Rows::Distinct {
        tokens: tape.constant_u32(&[all.len()], &all.iter().map(|p| p / SEQ as u32).collect::<Vec<_>>()),
        positions: tape.constant_u32(&[all.len()], &all.iter().map(|p| p % SEQ as u32).collect::<Vec<_>>()),
        index: tape.constant_u32(&[pairs.len()], &pairs),
        last: tape.constant_u32(&[last.len()], &last),
    }
}

/// Measures a batch of six examples, one of which does not count at all and some in part, and compares with the
/// gradients of each example alone, in f64; then the devices with that. Returns the tensors measured.
fn compare(read: ReadOut, table: bool, change: impl FnOnce(&mut ModelConfig)) -> Vec<String> {
    const EXAMPLES: usize = 6;
    let mut case = Case::new("gradient noise of a model");
    let model = model(&mut case, change);
    let queries = if read == ReadOut::Last { 1 } else { SEQ };
    let target = |i: usize| if i / queries == 4 || (queries > 1 && i % 5 == 3) { IGNORE } else { (i * 5 % 6) as u32 };
    let targets: Vec<u32> = (0..EXAMPLES * queries).map(target).collect();
    let tokens = tokens(EXAMPLES);
    let rows = if table { distinct(&mut case, &tokens) } else { each(&mut case, &tokens) };
    let whole = pass(&mut case, &model, rows, &targets, read);
    let measured = measured(&mut case, &model, &whole, true);
    let counted = targets.iter().filter(|t| **t != IGNORE).count() as f64;

    // An example alone has a mean over its own targets; its part of the batch's loss is their sum by all.
    let mut norms = vec![Vec::new(); measured.len()];
    for (tokens, targets) in tokens.chunks_exact(SEQ).zip(targets.chunks_exact(queries)) {
        let own = targets.iter().filter(|t| **t != IGNORE).count() as f64;
        if own == 0.0 {
            continue;
        }
        let rows = each(&mut case, tokens);
        let alone = pass(&mut case, &model, rows, targets, read);
        let wanted: Vec<Var> = measured.iter().map(|(tensor, ..)| alone.gradients[tensor]).collect();
        for ((gradient, (.., noise)), norms) in
            case.reference(0, &wanted).unwrap().iter().zip(&measured).zip(&mut norms)
        {
            let heads = case.tape.shape(*noise).dims[1];
            let parts = gradient.data.chunks_exact(gradient.data.len() / heads);
            norms.push(parts.map(|p| p.iter().map(|g| (g * own / counted).powi(2)).sum()).collect::<Vec<f64>>());
        }
    }
    let wanted: Vec<Var> = measured.iter().map(|(.., noise)| *noise).collect();
    let gradients: Vec<Var> = measured.iter().map(|(tensor, ..)| whole.gradients[tensor]).collect();
    let found = case.reference(0, &wanted).unwrap();
    let gradients = case.reference(0, &gradients).unwrap();
    for (((tensor, ..), found), (norms, gradient)) in measured.iter().zip(&found).zip(norms.iter().zip(&gradients)) {
        let heads = found.dims[1];
        let e = norms.len() as f64;
        assert_eq!(e, 5.0, "examples that count");
        for head in 0..heads {
            let mean = e * norms.iter().map(|parts| parts[head]).sum::<f64>();
            let size = gradient.data.len() / heads;
            let whole: f64 = gradient.data[head * size..][..size].iter().map(|g| g * g).sum();
            let trace = (mean - whole) * e / (e - 1.0);
            let expected = [mean.sqrt(), trace, whole - trace / e, whole / trace];
            for (row, expected) in expected.into_iter().enumerate() {
                let found = found.data[row * heads + head];
                // Counts are f32 on either side; the rest is f64.
                assert!(
                    (found - expected).abs() <= 1e-6 * expected.abs().max(mean * 1e-3),
                    "{tensor} {head} {row}: {found} for {expected}"
                );
            }
        }
    }
    // A few hundred roundings through two layers, then a difference between squares of one size.
    case.agree(&wanted, 2e-4);
    measured.into_iter().map(|(tensor, ..)| tensor).collect()
}

#[test]
fn norms_are_those_of_each_example_alone() {
    let all = compare(ReadOut::All, false, |_| {});
    // Everything but the weights of norms, and b_K.
    let table = crate::model::WeightTable::new(
        &ModelConfig {
            n_layers: 2,
            d_mlp: 10,
            d_vocab: 5,
            d_vocab_out: 6,
            n_ctx: 4,
            d_model: 12,
            n_heads: 4,
            d_head: 3,
            ..Default::default()
        }
        .resolve()
        .unwrap(),
    );
    let rest: Vec<&str> =
        table.specs().iter().map(|s| s.name.as_str()).filter(|n| !all.iter().any(|a| a == n)).collect();
    assert!(rest.iter().all(|name| name.contains("ln") || name.ends_with("b_K")), "{rest:?}");
    compare(ReadOut::Last, false, |config| config.normalization_type = Normalization::None);
    compare(ReadOut::Last, false, |config| {
        config.normalization_type = Normalization::RMS;
        config.gated_mlp = true;
        config.parallel_attn_mlp = true;
        config.n_key_value_heads = 2;
    });
    let gated = compare(ReadOut::Last, false, |config| {
        (config.gated_mlp, config.gate_biases) = (true, true);
    });
    assert!(gated.contains(&"blocks.0.mlp.b_gate".to_owned()));
    let rotary = compare(ReadOut::All, false, |config| {
        config.positional_embedding_type = PositionalEmbedding::Rotary;
        config.d_head = 4;
        config.tied_embeddings = true;
        config.d_vocab = config.d_vocab_out;
        config.parallel_attn_mlp = true;
        config.normalization_type = Normalization::None;
    });
    assert!(rotary.contains(&"blocks.0.attn.W_Q".to_owned()) && !rotary.contains(&"embed.W_E".to_owned()));
}

#[test]
fn norms_are_those_of_each_example_alone_where_equal_rows_are_computed_once() {
    for normalization in [Normalization::None, Normalization::LN] {
        let tensors = compare(ReadOut::Last, true, |config| config.normalization_type = normalization);
        assert!(tensors.contains(&"blocks.0.attn.W_K".to_owned()));
        assert!(!tensors.contains(&"embed.W_E".to_owned()), "its rows were added up before they came to examples");
    }
}

#[test]
fn sums_match_their_reference_at_awkward_sizes() {
    for batch in SIZES {
        for (seq, long, heads) in [(1, 3, 4), (3, 3, 1), (18, 20, 2)] {
            let mut case = Case::new(&format!("gram sums {batch} {seq} {long} {heads}"));
            let (x, y) = (case.owned(&[batch, seq, heads * 3]), case.owned(&[batch, long, 5]));
            let picked = case.indices(&[batch * long], 3, true);
            let s = case.tape.push1(Gram { batch, heads, columns: heads * 3 }, &[x]).unwrap();
            let other = case.tape.push1(Gram { batch, heads: 1, columns: 5 }, &[y]).unwrap();
            let mut sum = |weight: u32, inputs: &[Var]| case.tape.push1(GramSum { weight }, inputs).unwrap();
            let sums = [sum(0, &[s]), sum(1, &[s, picked]), sum(2, &[s, other])];
            // Thousands of terms of either sign.
            case.agree(&sums, 5e-5);
        }
    }
}

/// Estimates from the gradients of a batch of planted examples, in f64: norm, trace, signal, ratio.
fn estimates(examples: &[[f64; 3]]) -> [f64; 4] {
    let n = examples.len();
    let squared = |v: &[f64; 3]| v.iter().map(|x| x * x).sum::<f64>();
    let products: f64 = examples.iter().map(|g| squared(&g.map(|x| x / n as f64))).sum();
    let mean = [0, 1, 2].map(|i| examples.iter().map(|g| g[i]).sum::<f64>() / n as f64);
    let inputs = [vec![products], mean.map(|x| x * x).to_vec(), vec![0.0; n]].map(|d| Array::new(&[d.len()], d));
    let op = GradientNoise { batch: n, sampled: true };
    let out = op.reference(&inputs.iter().collect::<Vec<_>>()).remove(0).data;
    [out[0], out[1], out[2], out[3]]
}

#[test]
fn trace_and_signal_are_right_on_average_over_all_batches() {
    // E ‖G_B‖² = ‖G‖² + tr Σ / B exactly, so both estimates are, for batches drawn with replacement.
    let population = [[1.0, 2.0, -0.5], [0.3, -1.0, 2.0], [-2.0, 0.7, 0.1], [1.5, 1.5, 1.5]];
    let mean = [0, 1, 2].map(|i| population.iter().map(|g| g[i]).sum::<f64>() / 4.0);
    let signal: f64 = mean.iter().map(|x| x * x).sum();
    let trace: f64 =
        population.iter().map(|g| (0..3).map(|i| (g[i] - mean[i]).powi(2)).sum::<f64>()).sum::<f64>() / 4.0;
    let batches: Vec<[f64; 4]> =
        (0..64).map(|i| estimates(&[population[i % 4], population[i / 4 % 4], population[i / 16]])).collect();
    let average = |row: usize| batches.iter().map(|b| b[row]).sum::<f64>() / 64.0;
    assert!((average(1) - trace).abs() < 1e-12, "{} for {trace}", average(1));
    assert!((average(2) - signal).abs() < 1e-12, "{} for {signal}", average(2));
}

#[test]
fn independent_noise_has_a_ratio_of_one_by_the_batch() {
    let noise = crate::gpu::Philox::new(5, crate::gpu::Stream::Weights, 0);
    for size in [4usize, 32] {
        let batch = |at: usize| -> Vec<[f64; 3]> {
            (0..size).map(|i| [0, 1, 2].map(|k| noise.normals((at * size + i) as u64 * 3 + k)[0])).collect()
        };
        let found: Vec<[f64; 4]> = (0..500).map(|at| estimates(&batch(at))).collect();
        let average = |of: &dyn Fn(&[f64; 4]) -> f64| found.iter().map(of).sum::<f64>() / 500.0;
        // The mean square of the mean is signal + trace / B; its average over 500 batches of 3 numbers is known
        // to 1/√750, four of which are 15 %.
        let ratio = average(&|e| e[2] + e[1] / size as f64) / average(&|e| e[1]);
        assert!((ratio * size as f64 - 1.0).abs() < 0.15, "{ratio} at {size}");
        assert!(average(&|e| e[2]).abs() < 0.15 * 3.0 / size as f64);
    }
}

#[test]
fn rows_that_do_not_count_change_nothing() {
    let values = |padding: usize| {
        let mut case = Case::new("padded gradient noise");
        let model = model(&mut case, |_| {});
        let mut tokens = tokens(4);
        tokens.extend(tokens[..SEQ].to_vec().repeat(padding));
        let target = |i: usize| if i < 4 { (i * 5 % 6) as u32 } else { IGNORE };
        let targets: Vec<u32> = (0..4 + padding).map(target).collect();
        let rows = each(&mut case, &tokens);
        let pass = pass(&mut case, &model, rows, &targets, ReadOut::Last);
        let measured = measured(&mut case, &model, &pass, false);
        let wanted: Vec<Var> = measured.iter().map(|(.., noise)| *noise).collect();
        gpus().iter().map(|gpu| case.run(gpu, &wanted).unwrap().concat().concat()).collect::<Vec<_>>()
    };
    for (alone, padded) in values(0).iter().zip(values(9)) {
        for (a, b) in alone.iter().zip(padded) {
            // Sums are cut elsewhere: roundings, of differences between squares of one size.
            assert!((a - b).abs() <= 1e-4 * a.abs().max(1e-3), "{a} and {b}");
        }
    }
}
