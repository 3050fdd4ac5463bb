//! Scans against the plainest truths: models whose weights were changed, f64 references, and effects that were planted.

mod direct;
mod joint;
mod patch;
mod paths;
mod planted;
mod resumed;

use std::path::Path;

use super::findings::Setting;
use super::{Battery, Engine, Findings, LayerOutcomes, Outcome, Prompt, Prompts};
use crate::autograd::check::{Case, gpus};
use crate::gpu::{Gpu, Philox, Stream};
use crate::intervene::Baseline;
use crate::intervene::column::{ARGMAX_CHANGED, KL, LOGIT_DIFFERENCE};
use crate::model::{Model, ModelFolder, ReadOut, Rows, WeightTable};

const ALL: Battery = Battery {
    heads: true,
    mlps: true,
    pairs: false,
    places: false,
    sets: Vec::new(),
    senders: Vec::new(),
    baseline: Baseline::Zero,
    draws: 0,
};

fn golden(name: &str) -> ModelFolder {
    ModelFolder::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats").join(name)).unwrap()
}

fn prompt(tokens: Vec<u32>, target: u32, foil: u32) -> Prompt {
    let group = format!("{tokens:?} {target}");
    let (text, answers, category) = (group.clone(), [target, foil].map(|id| id.to_string()), "test".to_owned());
    Prompt { text, tokens, corrupted: None, target, foil, answers, group, category }
}

/// `count` prompts of random tokens, of 2 to `longest`, with random answers.
fn random(count: usize, longest: usize, vocab: u32, seed: u64) -> Prompts {
    let words = Philox::new(seed, Stream::Tokens, 0);
    let mut drawn = (0u64..).flat_map(move |at| words.words(at));
    let mut below = move |n: u32| drawn.next().unwrap() % n;
    let list = (0..count).map(|at| {
        let length = if at == 0 { longest } else { 2 + below(longest as u32 - 1) as usize };
        let target = below(vocab);
        prompt((0..length).map(|_| below(vocab)).collect(), target, (target + 1 + below(vocab - 1)) % vocab)
    });
    of(list.collect())
}

fn of(list: Vec<Prompt>) -> Prompts {
    Prompts { list, begin: None, first: Vec::new(), paired: false }
}

/// A folder with a tensor changed.
fn with(folder: &ModelFolder, name: &str, change: impl Fn(usize, &mut f32)) -> ModelFolder {
    let mut changed = folder.clone();
    let table = WeightTable::new(&folder.config);
    if let Some(at) = table.find(name) {
        let spec = &table.specs()[at];
        let values = &mut changed.replicas[0][spec.offset..][..spec.len()];
        values.iter_mut().enumerate().for_each(|(at, value)| change(at, value));
    }
    changed
}

fn scan(gpu: &Gpu, folder: &ModelFolder, prompts: &Prompts, what: &Battery) -> (Vec<Outcome>, Vec<LayerOutcomes>) {
    let mut engine = Engine::new(gpu, folder.clone(), prompts).unwrap();
    let clean = engine.clean().unwrap();
    let layers = 0..folder.config.n_layers;
    (clean, layers.map(|_| engine.next_layer(what, |_| true).unwrap().unwrap()).collect())
}

fn findings(
    folder: &ModelFolder,
    prompts: &Prompts,
    draws: usize,
    scanned: &(Vec<Outcome>, Vec<LayerOutcomes>),
) -> Findings {
    let setting = Setting {
        model: String::new(),
        probes: String::new(),
        battery: vec!["heads".to_owned()],
        baseline: "zero".to_owned(),
        draws,
        size: [folder.config.n_layers, folder.config.n_heads],
        layers: folder.config.n_layers,
        count: [prompts.list.len(), prompts.groups()],
        categories: Default::default(),
        first: Vec::new(),
        begin: None,
    };
    let mut found = Findings::new(setting, prompts, &scanned.0);
    scanned.1.iter().for_each(|layer| found.add(prompts, &folder.config, &scanned.0, layer));
    found
}

fn near(found: &[Outcome], truth: &[Outcome], what: &str) {
    near_by(found, truth, 1e-5, what);
}

fn near_by(found: &[Outcome], truth: &[Outcome], tolerance: f32, what: &str) {
    assert_eq!(found.len(), truth.len(), "{what}");
    for (found, truth) in found.iter().zip(truth) {
        for column in (0..super::Measure::COUNT).filter(|column| ![KL, ARGMAX_CHANGED].contains(column)) {
            let (found, truth) = (found[column], truth[column]);
            assert!(
                (found - truth).abs() < tolerance * truth.abs().max(1.0),
                "{what}, column {column}: {found}, {truth}"
            );
        }
    }
}

fn bits(outcomes: &[Outcome]) -> Vec<u32> {
    outcomes.iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn ablated_heads_and_blocks_are_those_of_models_without_them() {
    // Learned positions and biases; rotary positions and grouped keys; an MLP beside attention.
    for name in ["gpt2", "llama", "neox"] {
        let folder = golden(name);
        let prompts = random(7, 9, folder.config.d_vocab as u32, 1);
        for gpu in gpus() {
            let (clean, layers) = scan(gpu, &folder, &prompts, &ALL);
            let alone = |changed: &ModelFolder| Engine::new(gpu, changed.clone(), &prompts).unwrap().clean().unwrap();
            let width = folder.config.d_head * folder.config.d_model;
            for (layer, found) in layers.iter().enumerate() {
                let what = |of: &str| format!("{name} on {}: layer {layer}, {of}", gpu.caps().name);
                assert_eq!((found.heads.len(), found.mlp.len()), (folder.config.n_heads, 1));
                for (head, outcomes) in found.heads.iter().enumerate() {
                    let without = with(&folder, &format!("blocks.{layer}.attn.W_O"), |at, value| {
                        *value *= f32::from(u8::from(at / width != head));
                    });
                    near(outcomes, &alone(&without), &what(&format!("head {head}")));
                }
                let mut without = folder.clone();
                for tensor in ["W_out", "b_out"] {
                    without = with(&without, &format!("blocks.{layer}.mlp.{tensor}"), |_, value| *value = 0.0);
                }
                near(&found.mlp[0], &alone(&without), &what("MLP"));
                assert_ne!(bits(&found.heads[0]), bits(&clean), "a head does something");
                assert_eq!(bits(&found.sham[0]), bits(&clean), "{}", what("sham"));
            }
        }
    }
}

#[test]
fn a_mean_is_over_the_tokens_of_prompts_and_not_over_padding() {
    let folder = golden("gpt2");
    let (config, prompts) = (&folder.config, random(5, 8, 19, 2));
    let mut case = Case::new("means");
    let model = Model::new(config, &mut case.tape);
    for (spec, weight) in model.table.specs().iter().zip(&model.weights) {
        case.set(*weight, folder.replicas[0][spec.offset..][..spec.len()].to_vec());
    }
    let padded = |prompt: &Prompt| (0..8).map(|t| prompt.tokens.get(t).copied().unwrap_or(3)).collect::<Vec<_>>();
    let tokens: Vec<u32> = prompts.list.iter().flat_map(padded).collect();
    let rows = Rows::Each { tokens: case.tape.constant_u32(&[40], &tokens) };
    let forward = model.forward(&mut case.tape, &rows, 5, 8, ReadOut::All).unwrap();
    let written = forward.hook("blocks.1.attn.hook_result").unwrap();
    let written = &case.reference(0, &[written]).unwrap()[0].data;
    let (d, head) = (config.d_model, 2);
    let own: Vec<usize> = (0..40).filter(|row| row % 8 < prompts.list[row / 8].tokens.len()).collect();
    let mean =
        |e: usize| own.iter().map(|row| written[(row * config.n_heads + head) * d + e]).sum::<f64>() / own.len() as f64;
    // The head's mean is a bias.
    let width = config.d_head * d;
    let without = with(&folder, "blocks.1.attn.W_O", |at, value| *value *= f32::from(u8::from(at / width != head)));
    let instead = with(&without, "blocks.1.attn.b_O", |e, value| *value += mean(e) as f32);
    for gpu in gpus() {
        let found = scan(gpu, &folder, &prompts, &Battery { baseline: Baseline::Mean, ..ALL }).1;
        let truth = Engine::new(gpu, instead.clone(), &prompts).unwrap().clean().unwrap();
        near(&found[1].heads[head], &truth, &gpu.caps().name);
    }
}

#[test]
fn what_is_resampled_is_the_next_prompts() {
    let folder = golden("llama");
    // Prompts that are alike have nothing else to offer; of two, each gets what the other wrote.
    let [a, b] = [prompt(vec![1, 2, 3], 4, 5), prompt(vec![6, 2, 3], 4, 5)];
    let what = Battery { baseline: Baseline::Resample, ..ALL };
    for gpu in gpus() {
        let alike = of(vec![a.clone(), a.clone()]);
        let (clean, layers) = scan(gpu, &folder, &alike, &what);
        for outcomes in layers.iter().flat_map(|layer| layer.heads.iter().chain(&layer.mlp)) {
            near(outcomes, &clean, "alike");
        }
        let two = of(vec![a.clone(), b.clone()]);
        let (clean, layers) = scan(gpu, &folder, &two, &what);
        // All that layer 0 adds to the last place of a prompt without position 0 is what attention brings from there.
        let moved = layers[0].heads.iter().map(|outcomes| outcomes[0][LOGIT_DIFFERENCE] - clean[0][LOGIT_DIFFERENCE]);
        assert!(moved.map(f32::abs).sum::<f32>() > 1e-4);
    }
}

#[test]
fn padding_changes_nothing() {
    let folder = golden("llama");
    for gpu in gpus() {
        let run = |list: Vec<Prompt>| scan(gpu, &folder, &of(list), &ALL);
        let short = prompt(vec![3, 1, 4], 1, 5);
        let long = |first: u32| prompt(vec![first, 6, 5, 3, 5, 8, 9, 7], 9, 3);
        // Whoever is the longest, the short prompt has the same bits.
        let [one, other] = [2, 7].map(|first| run(vec![short.clone(), long(first)]));
        assert_eq!(bits(&one.0[..1]), bits(&other.0[..1]));
        let all_of =
            |found: &LayerOutcomes| bits(&found.heads.iter().chain(&found.mlp).map(|all| all[0]).collect::<Vec<_>>());
        assert!(one.1.iter().map(all_of).eq(other.1.iter().map(all_of)), "on {}", gpu.caps().name);
        // Alone it has fewer positions, whose sums another kernel may do.
        let alone = run(vec![short.clone()]);
        near(&alone.0, &one.0[..1], "alone");
        for (alone, beside) in alone.1.iter().zip(&one.1) {
            for (alone, beside) in alone.heads.iter().chain(&alone.mlp).zip(beside.heads.iter().chain(&beside.mlp)) {
                near(alone, &beside[..1], "alone");
            }
        }
    }
}

#[test]
fn what_stands_behind_the_read_out_changes_no_bit() {
    let folder = golden("gpt2");
    let mut case = Case::new("padding");
    let model = Model::new(&folder.config, &mut case.tape);
    model.weights.iter().for_each(|weight| case.fill(*weight, 0.3));
    // Two sequences that are read at places 2 and 4, padded with other tokens.
    let [mut logits, mut all] = [Vec::new(), Vec::new()];
    for padding in [0, 11] {
        let tokens = [[1, 2, 3, padding, padding, padding], [4, 5, 6, 7, 8, padding]].concat();
        let rows = Rows::Each { tokens: case.tape.constant_u32(&[12], &tokens) };
        let read = ReadOut::At(case.tape.constant_u32(&[2], &[2, 10]));
        logits.push(model.forward(&mut case.tape, &rows, 2, 6, read).unwrap().logits);
        all.push(model.forward(&mut case.tape, &rows, 2, 6, ReadOut::All).unwrap().logits);
    }
    case.agree(&logits, 1e-4);
    let v = folder.config.d_vocab_out;
    for gpu in gpus() {
        let found = case.run(gpu, &[logits.clone(), all.clone()].concat()).unwrap();
        assert_eq!(found[0], found[1], "on {}", gpu.caps().name);
        let picked = [&found[2][0][2 * v..3 * v], &found[2][0][10 * v..11 * v]].concat();
        assert!(found[0][0].iter().zip(&picked).all(|(at, all)| (at - all).abs() < 1e-5));
    }
}

#[test]
fn pieces_of_the_prompts_and_of_the_heads_have_the_bits_of_all_at_once() {
    let folder = golden("llama");
    let prompts = random(9, 7, 19, 3);
    let what = Battery { draws: 39, ..ALL };
    for gpu in gpus() {
        let whole = scan(gpu, &folder, &prompts, &what);
        let mut engine = Engine::new(gpu, folder.clone(), &prompts).unwrap();
        engine.cut(&prompts, 4, 3).unwrap();
        let clean = engine.clean().unwrap();
        assert_eq!(bits(&clean), bits(&whole.0));
        for whole in &whole.1 {
            let part = engine.next_layer(&what, |_| true).unwrap().unwrap();
            let all = |found: &LayerOutcomes| {
                [&found.heads, &found.mlp, &found.sham, &found.null]
                    .map(|lists| lists.iter().map(|list| bits(list)).collect::<Vec<_>>())
            };
            assert_eq!(all(&part), all(whole), "on {}", gpu.caps().name);
        }
    }
}
