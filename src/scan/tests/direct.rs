//! What components write themselves, and what heads attend to.

use super::*;
use crate::instrument::heads::induction::Repeats;
use crate::intervene::column::LOGIT_DIFFERENCE;

#[test]
fn what_all_components_write_adds_up_to_the_logit_difference() {
    // LayerNorm with biases, learned positions; RMSNorm; MLPs beside attention. None at all is in planted.rs.
    for name in ["gpt2", "llama", "neox"] {
        let folder = golden(name);
        let prompts = random(7, 9, folder.config.d_vocab as u32, 1);
        for gpu in gpus() {
            let (clean, layers) = scan(gpu, &folder, &prompts, &ALL);
            assert_eq!(layers[0].direct.len(), folder.config.n_heads + 1);
            for (at, outcome) in clean.iter().enumerate() {
                let sum: f64 = layers.iter().flat_map(|layer| &layer.direct).map(|of| of[at]).sum();
                let found = sum + layers[0].rest[at];
                let truth = f64::from(outcome[LOGIT_DIFFERENCE]);
                assert!((found - truth).abs() < 1e-4, "{name}, prompt {at}: {found} instead of {truth}");
                assert!(layers.iter().flat_map(|layer| &layer.direct).any(|of| of[at].abs() > 1e-3));
            }
        }
    }
}

#[test]
fn each_component_writes_what_it_writes_in_f64() {
    for name in ["gpt2", "llama"] {
        let folder = golden(name);
        let config = &folder.config;
        let prompts = random(3, 6, config.d_vocab as u32, 8);
        let (clean, layers) = scan(&gpus()[0], &folder, &prompts, &ALL);
        assert_eq!(clean.len(), 3);
        let mut case = Case::new("direct");
        let model = Model::new(config, &mut case.tape);
        for (spec, weight) in model.table.specs().iter().zip(&model.weights) {
            case.set(*weight, folder.replicas[0][spec.offset..][..spec.len()].to_vec());
        }
        for (at, prompt) in prompts.list.iter().enumerate() {
            let seq = prompt.tokens.len();
            let rows = Rows::Each { tokens: case.tape.constant_u32(&[seq], &prompt.tokens) };
            let forward = model.forward(&mut case.tape, &rows, 1, seq, ReadOut::All).unwrap();
            // The logits of a stream that is zero but for one component, at the clean scale, less those of none.
            let d = config.d_model;
            let scale = forward.hook("ln_final.hook_scale").unwrap();
            let logits = |case: &mut Case, stream: &[f32]| {
                let stream = case.tape.constant(&[seq, d], stream);
                let logits = model.logits_at_scale_of(&mut case.tape, stream, &forward).unwrap();
                let found = &case.reference(0, &[logits, scale]).unwrap()[0].data;
                let last = &found[(seq - 1) * config.d_vocab_out..];
                last[prompt.target as usize] - last[prompt.foil as usize]
            };
            let nothing = logits(&mut case, &vec![0.0; seq * d]);
            for (layer, found) in layers.iter().enumerate() {
                let [heads, mlp] = ["attn.hook_result", "hook_mlp_out"]
                    .map(|hook| forward.hook(&format!("blocks.{layer}.{hook}")).unwrap());
                let written = case.reference(0, &[heads, mlp]).unwrap();
                for (component, found) in found.direct.iter().enumerate() {
                    let of = |row: usize, e: usize| match component < config.n_heads {
                        true => written[0].data[(row * config.n_heads + component) * d + e],
                        false => written[1].data[row * d + e],
                    };
                    let stream: Vec<f32> = (0..seq * d).map(|at| of(at / d, at % d) as f32).collect();
                    let truth = logits(&mut case, &stream) - nothing;
                    // The device's forward pass, of some hundred roundings.
                    let found = found[at];
                    assert!((found - truth).abs() < 1e-5, "{name}, L{layer}, {component}: {found} and {truth}");
                }
            }
        }
    }
}

#[test]
fn scores_on_repeated_tokens_are_those_of_the_reference() {
    let folder = golden("llama");
    let prompts = random(2, 4, 19, 3);
    let config = &folder.config;
    let mut case = Case::new("repeated");
    let model = Model::new(config, &mut case.tape);
    for (spec, weight) in model.table.specs().iter().zip(&model.weights) {
        case.set(*weight, folder.replicas[0][spec.offset..][..spec.len()].to_vec());
    }
    for gpu in gpus() {
        let engine = Engine::new(gpu, folder.clone(), &prompts).unwrap();
        let found = engine.repeated().unwrap().unwrap();
        let [sequences, period] = found.size;
        let repeats = Repeats { first: 0, sequences, period, rounds: 2 };
        let (scores, losses) = repeats.scores(&mut case.tape, &model).unwrap();
        let scores = case.reference(0, &scores).unwrap();
        let losses = &case.reference(0, &[losses.unwrap()]).unwrap()[0].data;
        let columns = config.n_heads + 1;
        for (layer, heads) in found.scores.iter().enumerate() {
            assert_eq!(heads.len(), config.n_heads);
            for (head, scores_of) in heads.iter().chain([&found.uniform]).enumerate() {
                let all = [scores_of.previous, scores_of.duplicate, scores_of.induction];
                for (kind, score) in all.into_iter().enumerate() {
                    let truth = scores[layer].data[kind * columns + head];
                    assert!((f64::from(score) - truth).abs() < 1e-5, "L{layer}H{head} {kind}: {score} and {truth}");
                }
            }
        }
        let mean = |of: &[f64]| of.iter().sum::<f64>() / (of.len() * sequences) as f64;
        let [first, second] = found.losses.unwrap().map(f64::from);
        assert!((first - mean(&losses[..period])).abs() < 1e-5);
        assert!((second - mean(&losses[period..2 * period])).abs() < 1e-5);
        // Three sequences and one.
        let pieces = engine.repeated_in_pieces(3).unwrap().unwrap();
        for (part, whole) in pieces.scores.concat().iter().zip(found.scores.concat()) {
            assert!((part.induction - whole.induction).abs() < 1e-6 && (part.previous - whole.previous).abs() < 1e-6);
        }
        let [a, b] = pieces.losses.unwrap().map(f64::from);
        assert!((a - first).abs() < 1e-5 && (b - second).abs() < 1e-5);
    }
}
