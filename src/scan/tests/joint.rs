//! Heads ablated together.

use super::patch::{above, truth};
use super::planted::planted;
use super::*;
use crate::model::{Forward, Point};
use crate::scan::findings::Groups;
use crate::scan::{Sets, pairs};

/// A folder without what some heads write; in their place so much of a vector for each.
fn without(folder: &ModelFolder, heads: &[[usize; 2]], instead: impl Fn([usize; 2], usize) -> f32) -> ModelFolder {
    let width = folder.config.d_head * folder.config.d_model;
    heads.iter().fold(folder.clone(), |folder, [layer, head]| {
        let silent = with(&folder, &format!("blocks.{layer}.attn.W_O"), |at, value| {
            *value *= f32::from(u8::from(at / width != *head));
        });
        with(&silent, &format!("blocks.{layer}.attn.b_O"), |e, value| *value += instead([*layer, *head], e))
    })
}

fn alone(gpu: &Gpu, folder: &ModelFolder, prompts: &Prompts) -> Vec<Outcome> {
    Engine::new(gpu, folder.clone(), prompts).unwrap().clean().unwrap()
}

#[test]
fn pairs_and_sets_are_models_without_them() {
    for name in ["gpt2", "llama", "neox"] {
        let folder = golden(name);
        let prompts = random(7, 9, folder.config.d_vocab as u32, 1);
        let last = folder.config.n_layers - 1;
        // Across layers, within one, in the last one; sets of the same layers share a program.
        let sets = vec![
            vec![[0, 1], [last, 0]],
            vec![[0, 0], [0, 1], [last, 1]],
            vec![[last, 0], [last, 1]],
            vec![[0, 0], [last, 1]],
        ];
        let what = Battery { pairs: true, sets: sets.clone(), ..ALL };
        for gpu in gpus() {
            let (clean, layers) = scan(gpu, &folder, &prompts, &what);
            for (layer, found) in layers.iter().enumerate() {
                assert_eq!(found.pairs.len(), folder.config.n_heads * (folder.config.n_heads - 1) / 2);
                for ([a, b], outcomes) in pairs(folder.config.n_heads).zip(&found.pairs) {
                    let truth = alone(gpu, &without(&folder, &[[layer, a], [layer, b]], |_, _| 0.0), &prompts);
                    near(outcomes, &truth, &format!("{name}: pair {a}, {b} of layer {layer}"));
                }
                for (number, outcomes) in &found.sets {
                    assert_eq!(sets[*number][0][0], layer, "a set comes with its first layer");
                    let truth = alone(gpu, &without(&folder, &sets[*number], |_, _| 0.0), &prompts);
                    near(outcomes, &truth, &format!("{name}: set {number}"));
                    assert_ne!(bits(outcomes), bits(&clean));
                }
            }
            assert_eq!(layers.iter().map(|layer| layer.sets.len()).sum::<usize>(), 4, "each once");
        }
    }
}

#[test]
fn baselines_of_a_set_are_of_the_clean_pass() {
    let folder = golden("gpt2");
    let prompts = random(5, 8, 19, 2);
    let last = folder.config.n_layers - 1;
    let set = vec![[0, 1], [last, 2]];
    for gpu in gpus() {
        let what = Battery { baseline: Baseline::Mean, sets: vec![set.clone()], ..ALL };
        let mut engine = Engine::new(gpu, folder.clone(), &prompts).unwrap();
        engine.clean().unwrap();
        let found = engine.next_layer(&what, |_| true).unwrap().unwrap();
        let means = engine.means.clone();
        let mean = |[layer, head]: [usize; 2], e: usize| means[layer][0][head * folder.config.d_model + e];
        near(&found.sets[0].1, &alone(gpu, &without(&folder, &set, mean), &prompts), "mean");
        // Prompts that are alike have nothing else to offer.
        let one = prompt(vec![1, 2, 3], 4, 5);
        let what = Battery { baseline: Baseline::Resample, ..what };
        let alike = of(vec![one.clone(), one]);
        let (clean, layers) = scan(gpu, &folder, &alike, &what);
        near(&layers[0].sets[0].1, &clean, "alike");
    }
}

#[test]
fn above_the_first_layer_of_a_set_the_other_prompts_clean_pass_is_resampled() {
    let folder = golden("gpt2");
    let (d, h, last) = (folder.config.d_model, folder.config.n_heads, folder.config.n_layers - 1);
    let two = of(vec![prompt(vec![1, 2, 3], 4, 5), prompt(vec![6, 2, 7], 4, 5)]);
    // Streams where a head writes what it wrote for the other prompt in some pass.
    let resampled = |case: &mut Case, layer: usize, head: usize, now: &Forward, before: &Forward| {
        let hook = |of: &Forward, name: &str| of.hook(&format!("blocks.{layer}.{name}")).unwrap();
        let vars = [hook(now, "hook_resid_mid"), hook(now, "attn.hook_result"), hook(before, "attn.hook_result")];
        let all = case.reference(0, &vars).unwrap();
        let of = |which: usize, row: usize, e: usize| all[which].data[(row * h + head) * d + e];
        let stream = all[0].data.iter().enumerate();
        stream.map(|(at, x)| x - of(1, at / d, at % d) + of(2, (at / d + 3) % 6, at % d)).collect::<Vec<f64>>()
    };
    let expected = truth(&folder, &two.list, |case, model, clean| {
        let stream = resampled(case, 0, 1, clean, clean);
        let changed = above(case, model, 0, Point::Mid, 3, &stream);
        let stream = resampled(case, last, 2, &changed, clean);
        above(case, model, last, Point::Mid, 3, &stream).logits
    });
    let what = Battery { baseline: Baseline::Resample, sets: vec![vec![[0, 1], [last, 2]]], ..ALL };
    for gpu in gpus() {
        let found = scan(gpu, &folder, &two, &what).1;
        for (outcome, expected) in found[0].sets[0].1.iter().zip(expected) {
            let found = f64::from(outcome[LOGIT_DIFFERENCE]);
            assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
        }
    }
}

#[test]
fn what_is_linear_has_no_synergy_and_what_is_undone_has() {
    let prompts = random(12, 5, 12, 4);
    let gpu = &gpus()[0];
    // Without norms, what heads of one layer write adds up, and nothing behind it bends.
    let folder = planted(1, &[(0, 1, 2.0), (0, 2, -1.0)]);
    let found = findings(&folder, &prompts, 0, &scan(gpu, &folder, &prompts, &Battery { pairs: true, ..ALL }));
    assert_eq!(found.pairs.len(), 6);
    for joint in &found.pairs {
        assert!(joint.synergy.mean.abs() < 1e-6 && !joint.differs(), "{joint:?}");
        let sum: f64 = joint.heads.iter().map(|[_, head]| found.effects[*head].logit_difference().mean).sum();
        assert!((joint.alone.mean - sum).abs() < 1e-9, "the sum of both, and of nothing less");
    }
    // A head of layer 1 writes half of what it sees, and a head of layer 0 writes what it sees: without the first, the second's
    // output loses what it read of it. Together they do less than apart, by what one made of the other.
    let folder = planted(2, &[(0, 1, 1.0), (1, 3, 0.5)]);
    let mut sets = Sets::parse(&["L0H1,L1H3".to_owned()], &folder.config, 9).unwrap();
    let what = Battery { sets: sets.passes(&folder.config), ..ALL };
    let scanned = scan(gpu, &folder, &prompts, &what);
    scanned.1.iter().for_each(|layer| sets.add(&Groups::of(&prompts), &folder.config, &scanned.0, &layer.sets));
    let joint = sets.known[0].joint.clone().unwrap();
    let truth = |heads: &[[usize; 2]]| {
        let changed = alone(gpu, &without(&folder, heads, |_, _| 0.0), &prompts);
        let moved = changed.iter().zip(&scanned.0).map(|(a, b)| a[LOGIT_DIFFERENCE] - b[LOGIT_DIFFERENCE]);
        f64::from(moved.sum::<f32>()) / 12.0
    };
    let (together, parts) = (truth(&[[0, 1], [1, 3]]), truth(&[[0, 1]]) + truth(&[[1, 3]]));
    assert!((joint.together.mean - together).abs() < 1e-5 && (joint.alone.mean - parts).abs() < 1e-5, "{joint:?}");
    assert!((joint.synergy.mean - (together - parts)).abs() < 1e-5);
    assert!((together - parts).abs() > 1e-3, "there is something to be seen");
    assert_eq!(sets.known[0].null.len(), 9);
    assert!(joint.null.unwrap().p >= 0.2 - 1e-9, "of nine others none says more than two in ten");
}
