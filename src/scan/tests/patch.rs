//! Patching between prompts and corrupted prompts.

use super::planted::planted;
use super::*;
use crate::autograd::Var;
use crate::model::{Forward, Point, Resume};
use crate::scan::{Mean, Patch, Patching, Share, Site};

fn swaps() -> Battery {
    Battery { mlps: false, places: true, baseline: Baseline::Resample, ..ALL }
}

/// Prompts with corrupted ones that differ at some places.
pub(super) fn pairs(list: Vec<(Vec<u32>, Vec<u32>, u32, u32)>) -> Prompts {
    let one = |(tokens, corrupted, target, foil)| Prompt { corrupted: Some(corrupted), ..prompt(tokens, target, foil) };
    let list = super::super::probes::with_corrupted(&list.into_iter().map(one).collect::<Vec<_>>()).unwrap();
    Prompts { paired: true, ..of(list) }
}

/// Logit differences of both of a pair where rows of a hook are changed by hand, in f64.
pub(super) fn truth(
    folder: &ModelFolder,
    pair: &[Prompt],
    change: impl Fn(&mut Case, &Model, &Forward) -> Var,
) -> [f64; 2] {
    let (config, seq) = (&folder.config, pair[0].tokens.len());
    let mut case = Case::new("patch");
    let model = Model::new(config, &mut case.tape);
    for (spec, weight) in model.table.specs().iter().zip(&model.weights) {
        case.set(*weight, folder.replicas[0][spec.offset..][..spec.len()].to_vec());
    }
    let tokens = case.tape.constant_u32(&[2 * seq], &[pair[0].tokens.clone(), pair[1].tokens.clone()].concat());
    let forward = model.forward(&mut case.tape, &Rows::Each { tokens }, 2, seq, ReadOut::All).unwrap();
    let logits = change(&mut case, &model, &forward);
    let found = &case.reference(0, &[logits]).unwrap()[0].data;
    let v = config.d_vocab_out;
    [0, 1].map(|b: usize| {
        let row = &found[(b * seq + seq - 1) * v..];
        row[pair[b].target as usize] - row[pair[b].foil as usize]
    })
}

/// The pass above a stream [2, T, D] behind a layer or in its middle, given by its values.
pub(super) fn above(case: &mut Case, model: &Model, layer: usize, point: Point, seq: usize, stream: &[f64]) -> Forward {
    let stream: Vec<f32> = stream.iter().map(|x| *x as f32).collect();
    let x = case.tape.constant(&[2, seq, model.config.d_model], &stream);
    let from = Resume { layer, point, x, batch: 2, seq, read: ReadOut::All, patterns: None };
    model.resume(&mut case.tape, &from).unwrap()
}

#[test]
fn a_patch_is_the_pass_above_a_stream_that_was_changed_by_hand() {
    for name in ["gpt2", "llama", "neox"] {
        let folder = golden(name);
        let config = &folder.config;
        let (d, h) = (config.d_model, config.n_heads);
        let prompts = pairs(vec![
            (vec![1, 2, 3, 4], vec![5, 2, 6, 4], 7, 8),
            (vec![3, 2], vec![9, 2], 1, 2),
            (vec![3, 2, 1, 5, 6, 7], vec![3, 2, 4, 5, 6, 7], 1, 2),
        ]);
        for gpu in gpus() {
            let (clean, layers) = scan(gpu, &folder, &prompts, &swaps());
            for (layer, found) in layers.iter().enumerate() {
                let places = if layer + 1 == config.n_layers { 0 } else { 6 };
                assert_eq!(found.places.len(), places, "all of the stream that is read is no place of it");
                for (number, pair) in prompts.list.chunks_exact(2).enumerate() {
                    let seq = pair[0].tokens.len();
                    for (place, outcomes) in found.places.iter().enumerate().take(seq) {
                        let expected = truth(&folder, pair, |case, model, forward| {
                            let stream = forward.hook(&format!("blocks.{layer}.hook_resid_post")).unwrap();
                            let mut stream = case.reference(0, &[stream]).unwrap()[0].data.clone();
                            let row = (seq - 1 - place) * d;
                            (0..d).for_each(|e| stream.swap(row + e, seq * d + row + e));
                            above(case, model, layer, Point::Post, seq, &stream).logits
                        });
                        for (b, expected) in expected.into_iter().enumerate() {
                            let found = f64::from(outcomes[2 * number + b][LOGIT_DIFFERENCE]);
                            assert!(
                                (found - expected).abs() < 1e-5,
                                "{name}, layer {layer}, -{place}: {found}, {expected}"
                            );
                        }
                    }
                    for (head, outcomes) in found.heads.iter().enumerate() {
                        let point = if config.parallel_attn_mlp { Point::Post } else { Point::Mid };
                        let expected = truth(&folder, pair, |case, model, forward| {
                            let at = if point == Point::Mid { "hook_resid_mid" } else { "hook_resid_post" };
                            let [stream, written] = [at, "attn.hook_result"]
                                .map(|hook| forward.hook(&format!("blocks.{layer}.{hook}")).unwrap());
                            let mut all = case.reference(0, &[stream, written]).unwrap();
                            let written = all.pop().unwrap().data;
                            let mut stream = all.pop().unwrap().data;
                            for (at, x) in stream.iter_mut().enumerate() {
                                let of = |row: usize| written[(row * h + head) * d + at % d];
                                *x += of((at / d + seq) % (2 * seq)) - of(at / d);
                            }
                            above(case, model, layer, point, seq, &stream).logits
                        });
                        for (b, expected) in expected.into_iter().enumerate() {
                            let found = f64::from(outcomes[2 * number + b][LOGIT_DIFFERENCE]);
                            assert!((found - expected).abs() < 1e-5, "{name}, L{layer}H{head}: {found}, {expected}");
                        }
                    }
                }
                // Before the place where they differ both prompts are the same: -4 of the third pair and further back.
                for outcomes in found.places.iter().skip(4) {
                    assert_eq!(bits(&outcomes[4..]), bits(&clean[4..]));
                }
            }
        }
    }
}

#[test]
fn what_is_carried_is_found_where_it_is_carried() {
    // The answer is the first token, which a head of the second layer fetches; no other head writes anything.
    let mut folder = planted(2, &[(1, 1, 2.0)]);
    for layer in 0..2 {
        folder = with(&folder, &format!("blocks.{layer}.attn.W_O"), |at, value| {
            *value *= f32::from(u8::from(layer == 1 && at / (12 * 12) == 1));
        });
    }
    let list = (0..12u32).map(|at| {
        let rest = |first: u32| (0..1 + at % 4).map(move |t| if t == 0 { first } else { (at + 5 + t) % 12 });
        let (a, b) = (at, (at + 1) % 12);
        (rest(a).chain([(at + 9) % 12]).collect(), rest(b).chain([(at + 9) % 12]).collect(), a, b)
    });
    let prompts = pairs(list.collect());
    for gpu in gpus() {
        let (clean, layers) = scan(gpu, &folder, &prompts, &swaps());
        let mut patching = Patching::new(&prompts, &clean).unwrap();
        layers.iter().enumerate().for_each(|(layer, found)| patching.add(&prompts, &clean, layer, found));
        // 2/n of the answer more, and 2/n of the other less, of 2 to 5 tokens.
        let between = (0..12).map(|at| 2.0 * 2.0 / f64::from(2 + at % 4)).sum::<f64>() / 12.0;
        assert!((patching.levels[2].mean - between).abs() < 1e-5, "{:?} and {between}", patching.levels);
        for patch in &patching.patches {
            let [restored, lost] = [patch.restored.share.mean, patch.lost.share.mean];
            let all = match patch.site {
                Site::Changed => 1.0,
                Site::Head(head) => f64::from(u8::from((patch.layer, head) == (1, 1))),
                Site::Place(0) => 0.0,
                // Of those that have the place, the ones whose first token stands there.
                Site::Place(_) => continue,
            };
            assert!((restored - all).abs() < 1e-5 && (lost - all).abs() < 1e-5, "{patch:?}");
            let surely = patch.restored.q.unwrap() <= 0.05;
            assert_eq!(surely, all > 0.5, "{patch:?}");
        }
        // Three prompts have five tokens, and only theirs begin at the fifth place from the end.
        let fifth = patching.patches.iter().find(|patch| patch.site == Site::Place(4)).unwrap();
        assert_eq!(fifth.pairs, 3);
        assert!((fifth.restored.share.mean - 1.0).abs() < 1e-5);
        assert_eq!(
            patching.patches.iter().filter(|patch| patch.site == Site::Changed).count(),
            1,
            "not in the last layer"
        );
    }
}

#[test]
fn no_share_is_told_where_the_prompts_that_reach_a_place_are_not_told_apart() {
    // Ten prompts of two tokens that the model tells apart by 2; one of three, and two of four, about which it says nothing.
    let list = (0..13usize).map(|at| {
        let length = if at < 10 { 2 } else { 3 + usize::from(at > 10) };
        let tokens: Vec<u32> = (0..length).map(|t| (at + t) as u32).collect();
        let corrupted = tokens.iter().map(|token| token + 20).collect();
        (tokens, corrupted, 40 + at as u32, 60)
    });
    let prompts = pairs(list.collect());
    let difference = |of: &dyn Fn(usize) -> f32| -> Vec<Outcome> {
        let outcome = |at| {
            let mut outcome = Outcome::default();
            outcome[LOGIT_DIFFERENCE] = of(at);
            outcome
        };
        (0..26).map(outcome).collect()
    };
    let noise = |at: usize| [0.03, -0.02, 0.01, 0.04][at % 4];
    let clean = difference(&|at| if at < 20 && at.is_multiple_of(2) { 2.0 + noise(at / 2) } else { noise(at) });
    let moved = difference(&|at| noise(at + 1));
    let found = LayerOutcomes { places: vec![moved; 4], ..LayerOutcomes::default() };
    let mut patching = Patching::new(&prompts, &clean).unwrap();
    patching.add(&prompts, &clean, 0, &found);
    let sites: Vec<Site> = patching.patches.iter().map(|patch| patch.site).collect();
    // Twelve and thirteen prompts reach the last two places.
    assert_eq!(sites, [Site::Place(0), Site::Place(1), Site::Changed]);
    assert!(patching.patches.iter().all(|patch| patch.restored.share.mean.abs() < 0.1));
}

#[test]
fn half_is_carried_where_it_is_beyond_two_errors() {
    let share = |mean: f64, error: f64| Share { share: Mean { mean, error: Some(error) }, p: Some(0.5), q: Some(0.5) };
    let said = |shares: &dyn Fn(usize) -> Share| {
        let (folder, prompts) = (golden("llama"), random(6, 4, 19, 3));
        let mut found = findings(&folder, &prompts, 0, &scan(&gpus()[0], &folder, &prompts, &ALL));
        found.setting.battery = vec!["patch".to_owned()];
        let patch = |(layer, site): (usize, Site)| Patch {
            layer,
            site,
            pairs: 6,
            restored: shares(layer),
            lost: shares(layer),
        };
        let patches =
            (0..24).flat_map(|layer| [Site::Place(0), Site::Changed, Site::Head(0)].map(|site| (layer, site)));
        let levels = [2.0, 0.0, 2.0].map(|mean| Mean { mean, error: Some(0.1) });
        found.patching = Some(Patching { levels, patches: patches.map(patch).collect() });
        found.sentences().concat()
    };
    // 24 layers of 0.3 ± 0.12, one of which comes out at 0.55.
    let none = said(&|layer| share(if layer == 17 { 0.55 } else { 0.3 }, 0.12));
    assert!(none.contains("told to carry half of it, behind no layer was the last token told to (by two"), "{none}");
    assert!(none.contains("no single head was told to move any"), "{none}");
    // Rising from layer to layer: up to 1, beyond a half by two errors from 16 on.
    let some = said(&|layer| share(layer as f64 / 23.0, 0.09));
    assert!(some.contains("carries half of it or more up to layer 23, the last token from layer 16 on"), "{some}");
}

#[test]
fn prompts_that_the_model_does_not_tell_apart_are_refused() {
    // Answers drawn without regard to the prompts.
    let folder = golden("llama");
    let list = random(24, 6, 19, 7).list.into_iter().map(|prompt| {
        let mut corrupted = prompt.tokens.clone();
        corrupted[0] = (corrupted[0] + 1) % 19;
        (prompt.tokens, corrupted, prompt.target, prompt.foil)
    });
    let prompts = pairs(list.collect());
    let clean = Engine::new(&gpus()[0], folder, &prompts).unwrap().clean().unwrap();
    let error = Patching::new(&prompts, &clean).unwrap_err().to_string();
    assert!(error.contains("nothing to be moved"), "{error}");
}

#[test]
fn pairs_stay_together_in_pieces() {
    let folder = golden("gpt2");
    let list = (0..5u32).map(|at| {
        let tokens: Vec<u32> = (0..2 + at % 3).map(|t| (at + t) % 19).collect();
        let mut corrupted = tokens.clone();
        corrupted[0] = 18;
        (tokens, corrupted, at, at + 1)
    });
    let prompts = pairs(list.collect());
    for gpu in gpus() {
        let whole = scan(gpu, &folder, &prompts, &swaps());
        let mut engine = Engine::new(gpu, folder.clone(), &prompts).unwrap();
        engine.cut(&prompts, 4, 2).unwrap();
        assert_eq!(bits(&engine.clean().unwrap()), bits(&whole.0));
        for whole in &whole.1 {
            let part = engine.next_layer(&swaps(), |_| true).unwrap().unwrap();
            assert_eq!(part.places.len(), whole.places.len());
            for (part, whole) in part.heads.iter().zip(&whole.heads) {
                near(part, whole, "heads in pieces");
            }
            for (place, (part, whole)) in part.places.iter().zip(&whole.places).enumerate() {
                let there = |at: &usize| prompts.list[*at].tokens.len() > place;
                let some = |all: &[Outcome]| (0..10).filter(there).map(|at| all[at]).collect::<Vec<_>>();
                near(&some(part), &some(whole), "places in pieces");
            }
        }
    }
}
