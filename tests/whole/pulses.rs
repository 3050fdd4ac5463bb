//! Interventions in training: nothing outside their windows and with a dose of 0, the same in any company, and within their
//! windows what plainer ways come to.

use std::collections::BTreeSet;

use crate::common::{arrived, gpus, losses, two_sets};
use thermoscope::gpu::Gpu;
use thermoscope::instrument::registry;
use thermoscope::record::Setup;
use thermoscope::task::Feed;
use thermoscope::train::{Session, Snapshot};

/// Every kind of intervention, without its window and dose.
pub(crate) const KINDS: [&str; 21] = [
    "what = \"learning_rate\", factor = 3",
    "what = \"weight_decay\", factor = 0",
    "what = \"reset_moments\"",
    "what = \"freeze\", weights = [\"q\", \"mlp\", \"embed.W_E\"]",
    "what = \"freeze\", weights = [\"o\"], layer = 0, head = 1",
    "what = \"reinitialize\", weights = [\"v\", \"o\"], layer = 0, head = 1",
    "what = \"reinitialize\", weights = [\"*\"], sham = \"direction\"",
    "what = \"noise\", weights = [\"*\"]",
    "what = \"rotate\"",
    "what = \"scale_head\", layer = 0, head = 1",
    "what = \"scale_head\", layer = 0, head = 1, factor = 2, sham = \"head\"",
    "what = \"scale_head\", layer = 0, head = 1, baseline = \"mean\"",
    "what = \"uniform_attention\", layer = 0, head = 1",
    "what = \"scale_logits\", factor = 2",
    "what = \"gradient_noise\"",
    "what = \"gradient_signs\", weights = [\"unembed\"]",
    "what = \"label_noise\"",
    "what = \"leave_out\", class = 3",
    "what = \"hold_norm\", weights = [\"*\"]",
    "what = \"swap_heads\", weights = [\"q\", \"o\"], layer = 0, head = 0, with = 1",
    "what = \"subset\", factor = 0.5",
];

/// Rows that the first attention picks, full batch.
const MODULAR: &str = "[task]\nkind = \"modular\"\np = 13\ntrain_fraction = 0.4\n[model]\nn_layers = 1\nd_model = 12\nn_heads = 2\nd_mlp = 20\n";
/// Drawn sequences through two layers, clipping.
const REPEATED: &str = "[task]\nkind = \"repeated\"\nd_vocab = 11\nseq = 18\n[batch]\nsize = 5\n[optimizer]\nclip = 1.0\n\
    [model]\nn_layers = 2\nd_model = 12\nn_heads = 2\nd_mlp = 12\nnormalization_type = \"LN\"\n";
/// Attention that streams, over rotated positions and grouped keys.
const LONG: &str = "[task]\nkind = \"repeated\"\nd_vocab = 9\nseq = 66\n[batch]\nsize = 2\n\
    [model]\nn_layers = 1\nd_model = 16\nn_heads = 4\nn_key_value_heads = 2\nd_mlp = 8\npositional_embedding_type = \"rotary\"\n";

/// Losses are measured, and nothing else.
fn run(start: &str, replicas: &[String]) -> String {
    let others: Vec<&str> = registry().iter().map(|i| i.name()).filter(|name| *name != "train").collect();
    format!("steps = 64\nseed = 5\n{start}[measure]\noff = {others:?}\n{}", replicas.concat())
}

fn replica(pulses: &[String]) -> String {
    format!("[[replica]]\nseed = 5\nintervene = [{}]\n", pulses.join(", "))
}

fn pulse(what: &str, rest: &str) -> String {
    format!("{{ {what}, {rest} }}")
}

pub(crate) fn session(gpu: &Gpu, text: &str) -> Session {
    Session::new(gpu, Setup::from_toml(text).unwrap_or_else(|e| panic!("{e}\n{text}")).config).unwrap()
}

/// Bits of weights and both moments of a replica.
fn bits(snapshot: &Snapshot, replica: usize) -> Vec<u32> {
    let state = [&snapshot.weights[replica], &snapshot.first[replica], &snapshot.second[replica]];
    state.into_iter().flatten().map(|value| value.to_bits()).collect()
}

/// The kinds that a model and a task take: queries and keys that are rotated by position keep their basis, and there is no part
/// of examples that are made up.
fn kinds(start: &str) -> Vec<String> {
    let turned =
        if start.contains("rotary") { "what = \"rotate\", weights = [\"v\", \"o\"]" } else { "what = \"rotate\"" };
    let endless = start.contains("repeated");
    let of = |kind: &&str| match *kind {
        kind if kind.contains("rotate") => turned.to_owned(),
        kind if kind.contains("subset") && endless => "what = \"label_noise\", seed = 3".to_owned(),
        kind => kind.to_owned(),
    };
    KINDS.iter().map(of).collect()
}

#[test]
fn outside_its_window_and_with_a_dose_of_nothing_an_intervention_changes_no_bit() {
    for start in [MODULAR, REPEATED, LONG] {
        let kinds = kinds(start);
        // Shams of every kind together and one by one; and each kind from step 6 on.
        let sham = |kind: &String| pulse(kind, "from = 2, dose = 0");
        let mut replicas = vec![replica(&kinds.iter().map(sham).collect::<Vec<_>>())];
        replicas.extend(kinds.iter().map(|kind| replica(&[sham(kind)])));
        replicas.extend(kinds.iter().map(|kind| replica(&[pulse(kind, "from = 6")])));
        for gpu in gpus() {
            let mut plain = session(gpu, &run(start, &[]));
            let mut arms = session(gpu, &run(start, &replicas));
            let mut seen = Vec::new();
            for _ in 0..2 {
                let (alone, beside) = (losses(gpu, &mut plain, 6), losses(gpu, &mut arms, 6));
                seen.push((alone, beside, plain.snapshot().unwrap(), arms.snapshot().unwrap()));
            }
            for at in 0..replicas.len() {
                let note = format!("{} on {}", replicas[at], gpu.caps().name);
                for (round, (alone, beside, plain, arms)) in seen.iter().enumerate() {
                    let acts = at > kinds.len() && round == 1;
                    let equal = bits(plain, 0) == bits(arms, at);
                    assert_eq!(equal, !acts, "after {} steps: {note}", 6 * (round + 1));
                    let same = alone.iter().zip(beside).all(|(a, b)| a[0].to_bits() == b[at].to_bits());
                    assert!(same || acts, "losses: {note}");
                }
            }
        }
    }
}

#[test]
fn a_window_that_closes_leaves_the_run_to_itself() {
    let start = MODULAR;
    let kinds = kinds(start);
    let until = |step: u32| -> Vec<String> {
        let of_kind = |kind: &String| {
            let once = ["reset", "reinit", "rotate", "swap"].iter().any(|word| kind.contains(word));
            let window = if once { "from = 2".to_owned() } else { format!("from = 2, until = {step}") };
            replica(&[pulse(kind, &window)])
        };
        kinds.iter().map(of_kind).collect()
    };
    // Closed at step 4: from there on a plain run from the same state has the same bits.
    let (closed, arms) = (until(4), until(60));
    for gpu in two_sets() {
        let mut closed = session(gpu, &run(start, &closed));
        losses(gpu, &mut closed, 4);
        let four = closed.snapshot().unwrap();
        let mut open = session(gpu, &run(start, &arms));
        losses(gpu, &mut open, 4);
        assert!(open.snapshot().unwrap() == four, "open or about to be closed, the first steps are the same");
        let plain = vec!["[[replica]]\nseed = 5\n".to_owned(); kinds.len()];
        let mut plain = session(gpu, &run(start, &plain));
        plain.restore(&four).unwrap();
        losses(gpu, &mut closed, 4);
        losses(gpu, &mut plain, 4);
        let (closed, plain) = (closed.snapshot().unwrap(), plain.snapshot().unwrap());
        for (at, kind) in kinds.iter().enumerate() {
            // Fresh moments count from where they began.
            let equal = bits(&closed, at) == bits(&plain, at);
            assert_eq!(equal, !kind.contains("reset_moments"), "{kind} on {}", gpu.caps().name);
        }
    }
}

#[test]
fn company_changes_no_intervention() {
    for start in [MODULAR, REPEATED] {
        let kinds = kinds(start);
        let arms: Vec<String> = kinds
            .iter()
            .enumerate()
            .map(|(at, kind)| {
                // Some have two, some another seed.
                let more = pulse(&kinds[(8 * at + 4) % kinds.len()], "from = 1");
                let own = if kind.contains("sham = \"d") || at % 3 == 0 { "from = 1, seed = 9" } else { "from = 0" };
                let own = if kind.contains("factor") || ["reset", "leave"].iter().any(|w| kind.contains(w)) {
                    "from = 0"
                } else if kind.contains("scale_head") {
                    "from = 1"
                } else {
                    own
                };
                let mut pulses = vec![pulse(kind, own)];
                pulses.extend((at % 2 == 0).then_some(more));
                format!("{}data_seed = {}\n", replica(&pulses), at % 4)
            })
            .collect();
        for gpu in two_sets() {
            let mut together = session(gpu, &run(start, &arms));
            let seen = losses(gpu, &mut together, 3);
            let together = together.snapshot().unwrap();
            for (at, arm) in arms.iter().enumerate() {
                let mut alone = session(gpu, &run(start, std::slice::from_ref(arm)));
                let own = losses(gpu, &mut alone, 3);
                let equal = bits(&alone.snapshot().unwrap(), 0) == bits(&together, at);
                assert!(equal, "{arm} on {}", gpu.caps().name);
                assert!(own.iter().zip(&seen).all(|(a, b)| a[0].to_bits() == b[at].to_bits()), "{arm}");
            }
        }
    }
}

/// A session of one replica with these pulses, and its state after so many steps from the given weights.
fn after(gpu: &Gpu, start: &str, pulses: &[&str], steps: u64) -> (Session, Snapshot, Vec<f32>) {
    let pulses: Vec<String> = pulses.iter().map(|pulse| format!("{{ {pulse} }}")).collect();
    let mut session = session(gpu, &run(start, &[replica(&pulses)]));
    let seen = losses(gpu, &mut session, steps).concat();
    let end = session.snapshot().unwrap();
    (session, end, seen)
}

/// Elements of a tensor.
fn tensor<'a>(session: &Session, weights: &'a [f32], name: &str) -> &'a [f32] {
    let spec = &session.table().specs()[session.table().find(name).unwrap()];
    &weights[spec.offset..][..spec.len()]
}

fn length(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn factors_on_hyper_parameters_are_other_hyper_parameters() {
    for gpu in two_sets() {
        for (pulse, plain) in [
            ("what = \"learning_rate\", factor = 2, from = 0", "learning_rate = 2e-3"),
            ("what = \"learning_rate\", factor = 3, dose = 0.5, from = 0", "learning_rate = 2e-3"),
            ("what = \"weight_decay\", factor = 0, from = 0", "weight_decay = 0.0"),
            ("what = \"weight_decay\", factor = 4, from = 0", "weight_decay = 4.0"),
        ] {
            let (_, pulsed, _) = after(gpu, MODULAR, &[pulse], 5);
            let mut other = session(gpu, &run(MODULAR, &[format!("[[replica]]\nseed = 5\n{plain}\n")]));
            losses(gpu, &mut other, 5);
            assert_eq!(bits(&pulsed, 0), bits(&other.snapshot().unwrap(), 0), "{pulse} on {}", gpu.caps().name);
        }
    }
}

#[test]
fn moments_that_are_reset_are_those_of_a_fresh_optimizer() {
    for gpu in two_sets() {
        let (_, before, _) = after(gpu, MODULAR, &[], 4);
        let (_, reset, _) = after(gpu, MODULAR, &["what = \"reset_moments\", from = 4"], 9);
        let mut fresh = session(gpu, &run(MODULAR, &[]));
        fresh.set_weights(&before.weights).unwrap();
        losses(gpu, &mut fresh, 5);
        assert_eq!(bits(&reset, 0), bits(&fresh.snapshot().unwrap(), 0), "{}", gpu.caps().name);
    }
}

/// Training that moves nothing: what is left is what edits do.
const STILL: &str = "[optimizer]\nlearning_rate = 0.0\n";

#[test]
fn edits_do_to_weights_what_they_say_and_nothing_else() {
    let gpu = &gpus()[0];
    let still = format!("{MODULAR}{STILL}");
    let (plain, start, _) = after(gpu, &still, &[], 2);
    let names: Vec<String> = plain.table().specs().iter().map(|spec| spec.name.clone()).collect();
    let of = |weights: &Snapshot, name: &str| tensor(&plain, &weights.weights[0], name).to_vec();

    // A head drawn anew: its part of W_V and W_O, from another stream than the first weights, and no other number.
    let one = "weights = [\"v\", \"o\"], head = 1";
    let (_, drawn, _) = after(gpu, &still, &[&format!("what = \"reinitialize\", {one}, from = 1")], 2);
    let (_, half, _) = after(gpu, &still, &[&format!("what = \"reinitialize\", {one}, dose = 0.5, from = 1")], 2);
    let (_, sham, _) =
        after(gpu, &still, &[&format!("what = \"reinitialize\", {one}, sham = \"direction\", from = 1")], 2);
    for name in &names {
        let [old, new, half, sham] = [&start, &drawn, &half, &sham].map(|state| of(state, name));
        let part = if name.ends_with("W_V") || name.ends_with("W_O") { old.len() / 2 } else { old.len() };
        assert_eq!((&old[..part], &old[..part]), (&new[..part], &sham[..part]), "{name}");
        let change = |x: &[f32]| x[part..].iter().zip(&old[part..]).map(|(a, b)| a - b).collect::<Vec<f32>>();
        let (new, half, sham) = (change(&new), change(&half), change(&sham));
        if new.is_empty() || length(&new) == 0.0 {
            assert!(part == old.len() || name.ends_with("b_V"), "{name}");
            continue;
        }
        assert!(half.iter().zip(&new).all(|(half, new)| (half - 0.5 * new).abs() < 1e-6), "{name}");
        // As long, and in another direction: the cosine of 72 independent numbers is 0.12 or so.
        assert!((length(&sham) / length(&new) - 1.0).abs() < 1e-5, "{name}");
        let dot: f64 = sham.iter().zip(&new).map(|(a, b)| f64::from(a * b)).sum();
        assert!((dot / length(&sham) / length(&new)).abs() < 0.5, "{name}");
    }
    let spec = &plain.table().specs()[plain.table().find("blocks.0.attn.W_V").unwrap()];
    let (old, new) = (of(&start, &spec.name), of(&drawn, &spec.name));
    let spread = |x: &[f32]| length(x) / (x.len() as f64).sqrt();
    // 72 draws: a standard error of 8 %.
    let half = old.len() / 2;
    assert!((spread(&new[half..]) / spread(&old[half..]) - 1.0).abs() < 0.4);

    // Noise of a tenth of each tensor's length, once, and at each of three steps.
    let (_, noisy, _) = after(gpu, &still, &["what = \"noise\", weights = [\"*\"], dose = 0.1, from = 0"], 2);
    for name in &names {
        let (old, new) = (of(&start, name), of(&noisy, name));
        let change: Vec<f32> = new.iter().zip(&old).map(|(a, b)| a - b).collect();
        assert!((length(&change) - 0.1 * length(&old)).abs() <= 1e-6 * length(&old).max(1.0), "{name}");
    }
    let (_, once, _) = after(gpu, &still, &["what = \"noise\", weights = [\"mlp\"], dose = 0.1, from = 0"], 4);
    let (_, thrice, _) =
        after(gpu, &still, &["what = \"noise\", weights = [\"mlp\"], dose = 0.1, from = 0, until = 3"], 4);
    let change = |state: &Snapshot| {
        let pairs = of(state, "blocks.0.mlp.W_in").into_iter().zip(of(&start, "blocks.0.mlp.W_in"));
        length(&pairs.map(|(a, b)| a - b).collect::<Vec<f32>>())
    };
    // Three steps of a random walk.
    assert!((change(&thrice) / change(&once) / 3f64.sqrt() - 1.0).abs() < 0.2);
    assert_eq!(of(&thrice, "blocks.0.attn.W_Q"), of(&start, "blocks.0.attn.W_Q"));
}

#[test]
fn the_basis_of_heads_is_no_function() {
    for (start, weights) in [(MODULAR, ""), (REPEATED, ""), (LONG, "weights = [\"v\", \"o\"], ")] {
        for gpu in two_sets() {
            let still = format!("{start}[schedule]\nwarmup = 10000000\n");
            let plain = after(gpu, &still, &[], 3);
            let turned = after(gpu, &still, &[&format!("what = \"rotate\", {weights}from = 1")], 3);
            for (a, b) in plain.2.iter().zip(&turned.2) {
                // Some dozen roundings in another order.
                assert!((a - b).abs() < 2e-6 * a.abs(), "{a} and {b} on {}", gpu.caps().name);
            }
            for which in ["V", "O"] {
                let at = plain.0.table().attention(0, which).unwrap();
                let name = &plain.0.table().specs()[at].name;
                let [a, b] = [&plain, &turned].map(|(session, state, _)| tensor(session, &state.weights[0], name));
                let apart: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
                assert!(length(&apart) > 0.5 * length(a), "{name} is turned");
                assert!((length(a) / length(b) - 1.0).abs() < 1e-5, "{name} keeps its length");
            }
        }
    }
}

#[test]
fn what_is_frozen_stays_and_what_is_held_keeps_its_length() {
    for gpu in two_sets() {
        let (session, two, _) = after(gpu, MODULAR, &[], 2);
        let weights = "weights = [\"q\", \"embed.W_E\"]";
        let (_, frozen, _) = after(gpu, MODULAR, &[&format!("what = \"freeze\", {weights}, from = 2")], 6);
        let (_, half, _) = after(gpu, MODULAR, &[&format!("what = \"freeze\", {weights}, dose = 0.5, from = 2")], 3);
        let (_, three, _) = after(gpu, MODULAR, &[], 3);
        let head = "what = \"freeze\", weights = [\"k\", \"v\"], head = 1, sham = \"head\", from = 2";
        let (_, sham, _) = after(gpu, MODULAR, &[head], 6);
        let (_, held, _) = after(gpu, MODULAR, &["what = \"hold_norm\", weights = [\"*\"], from = 2"], 6);
        for spec in session.table().specs() {
            let [old, frozen, half, whole, sham, held] = [&two, &frozen, &half, &three, &sham, &held]
                .map(|state| tensor(&session, &state.weights[0], &spec.name));
            let is_frozen = spec.name == "embed.W_E" || spec.name.ends_with("_Q");
            assert_eq!(old == frozen, is_frozen, "{}", spec.name);
            if is_frozen {
                let middle = old.iter().zip(whole).map(|(a, b)| 0.5 * (a + b));
                assert!(half.iter().zip(middle).all(|(a, b)| (a - b).abs() < 1e-7), "{}", spec.name);
            }
            if ["_K", "_V"].iter().any(|of| spec.name.ends_with(of)) {
                let part = old.len() / 2;
                assert_eq!(old[..part], sham[..part], "{}: the only other head is the sham's", spec.name);
                assert_ne!(old[part..], sham[part..], "{}", spec.name);
            }
            // Four roundings of each number.
            assert!((length(held) - length(old)).abs() < 1e-6 * length(old).max(1.0), "{}", spec.name);
        }
    }
}

/// The loss of the first step under a pulse, and that of a model whose weights were changed.
fn as_weights(gpu: &Gpu, start: &str, pulse: &str, change: impl Fn(&str, &mut [f32])) {
    let (session, ..) = after(gpu, start, &[], 0);
    let mut changed = self::session(gpu, &run(start, &[]));
    let mut weights = changed.snapshot().unwrap().weights;
    for spec in session.table().specs() {
        change(&spec.name, &mut weights[0][spec.offset..][..spec.len()]);
    }
    changed.set_weights(&weights).unwrap();
    let expected = losses(gpu, &mut changed, 1)[0][0];
    let (_, _, seen) = after(gpu, start, &[&format!("{pulse}, from = 0")], 1);
    let (_, _, plain) = after(gpu, start, &[], 1);
    // Some dozen roundings in another order; the loss as it is without it is a thousand times as far away.
    assert!((seen[0] - expected).abs() < 1e-6 * expected, "{pulse}: {} for {expected} on {}", seen[0], gpu.caps().name);
    assert!((seen[0] - plain[0]).abs() > 2e-5 * expected, "{pulse}: {} and {}", seen[0], plain[0]);
}

#[test]
fn what_is_turned_down_in_the_pass_is_what_other_weights_would_make_of_it() {
    // Weights so large that attention and heads matter.
    let large = |start: &str| start.replace("[model]\n", "[model]\ninitializer_range = 0.4\n");
    for gpu in gpus() {
        for start in [MODULAR, REPEATED, LONG].map(large) {
            let heads = if start == large(LONG) { 4 } else { 2 };
            let of_head = |factor: f32, which: &'static str| {
                move |name: &str, values: &mut [f32]| {
                    if name == format!("blocks.0.attn.{which}") {
                        let part = values.len() / heads;
                        values[part..2 * part].iter_mut().for_each(|x| *x *= factor);
                    }
                }
            };
            as_weights(gpu, &start, "what = \"scale_head\", layer = 0, head = 1", of_head(0.0, "W_O"));
            as_weights(gpu, &start, "what = \"scale_head\", layer = 0, head = 1, dose = 0.25", of_head(0.75, "W_O"));
            as_weights(gpu, &start, "what = \"scale_head\", layer = 0, head = 1, factor = 3", of_head(3.0, "W_O"));
            // Biases of queries are 0 at the start.
            as_weights(gpu, &start, "what = \"uniform_attention\", layer = 0, head = 1", of_head(0.0, "W_Q"));
            let unembed = |name: &str, values: &mut [f32]| {
                if name.starts_with("unembed") {
                    values.iter_mut().for_each(|x| *x *= 2.0);
                }
            };
            as_weights(gpu, &start, "what = \"scale_logits\", factor = 2", unembed);
        }
    }
}

#[test]
fn gradients_turn_and_blur() {
    // Plain gradient descent.
    let start =
        format!("{MODULAR}[optimizer]\nkind = \"sgd\"\nmomentum = 0.0\nlearning_rate = 0.125\nweight_decay = 0.0\n");
    for gpu in two_sets() {
        let (session, zero, _) = after(gpu, &start, &[], 0);
        let moved = |pulses: &[&str]| {
            let (_, end, _) = after(gpu, &start, pulses, 1);
            end.weights[0].iter().zip(&zero.weights[0]).map(|(a, b)| a - b).collect::<Vec<f32>>()
        };
        let plain = moved(&[]);
        let turned = moved(&["what = \"gradient_signs\", from = 0"]);
        let noisy = moved(&["what = \"gradient_noise\", weights = [\"mlp\"], dose = 2, from = 0"]);
        let (mut gradient, mut noise) = (Vec::new(), Vec::new());
        for spec in session.table().specs() {
            let [plain, turned, noisy] = [&plain, &turned, &noisy].map(|all| tensor(&session, all, &spec.name));
            // Weights near 0.3 round at 3e-8.
            assert!(plain.iter().zip(turned).all(|(a, b)| (a + b).abs() < 1e-7), "{}", spec.name);
            let added: Vec<f32> = noisy.iter().zip(plain).map(|(a, b)| a - b).collect();
            if spec.name.contains("mlp") {
                gradient.extend_from_slice(plain);
                noise.extend(added);
            } else {
                assert_eq!(length(&added), 0.0, "{}", spec.name);
            }
        }
        // As long as asked for, and nowhere in particular: the cosine of 500 independent numbers is 0.04 or so.
        assert!((length(&noise) / length(&gradient) - 2.0).abs() < 1e-3, "{}", length(&noise) / length(&gradient));
        let along: f64 = noise.iter().zip(&gradient).map(|(a, b)| f64::from(a * b)).sum();
        assert!((along / length(&noise) / length(&gradient)).abs() < 0.2);
    }
}

#[test]
fn a_class_that_is_left_out_has_no_part_in_the_loss() {
    let gpu = &gpus()[0];
    let (session, _, plain) = after(gpu, MODULAR, &[], 1);
    let config = session.config();
    let Feed::Examples(examples) = Feed::new(config.task.as_ref(), &config.data()).unwrap() else { panic!() };
    let train = &examples.splits[0].train;
    let mut weighed = 0.0;
    for class in 0..config.task.shape().classes as u32 {
        let kept = train.iter().filter(|id| examples.targets[**id as usize] != class).count();
        let (_, _, loss) = after(gpu, MODULAR, &[&format!("what = \"leave_out\", class = {class}, from = 0")], 1);
        weighed += f64::from(loss[0]) * kept as f64;
    }
    // Each example is left out once.
    let whole = f64::from(plain[0]) * train.len() as f64 * (config.task.shape().classes - 1) as f64;
    assert!((weighed / whole - 1.0).abs() < 1e-5, "{weighed} {whole}");
}

#[test]
fn an_intervention_outlives_a_restore() {
    let start = MODULAR;
    let arms: Vec<String> = kinds(start).iter().map(|kind| replica(&[pulse(kind, "from = 3")])).collect();
    let gpu = &gpus()[0];
    let text = run(start, &arms);
    let mut whole = session(gpu, &text);
    losses(gpu, &mut whole, 4);
    let four = whole.snapshot().unwrap();
    losses(gpu, &mut whole, 4);
    let mut again = session(gpu, &text);
    again.restore(&four).unwrap();
    losses(gpu, &mut again, 2);
    // A measurement in between edits nothing.
    again.submit(0);
    arrived(gpu, &mut again);
    losses(gpu, &mut again, 2);
    assert!(whole.snapshot().unwrap() == again.snapshot().unwrap());
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let error = |start: &str, pulse: &str| {
        let text = run(start, &[replica(&[format!("{{ {pulse} }}")])]);
        Setup::from_toml(&text).err().unwrap_or_else(|| panic!("{pulse} is taken")).to_string()
    };
    for (pulse, words) in [
        ("what = \"freeze\", from = 0", &["intervene[0]", "freeze", "weights is missing"][..]),
        ("what = \"freez\", from = 0", &["freez", "freeze", "reinitialize", "line", "^"]),
        ("what = \"freeze\", weights = [\"q\"]", &["from", "line", "^"]),
        ("what = \"freeze\", weights = \"q\", from = 0", &["[\"q\"]"]),
        ("what = \"freeze\", weights = [\"qk\"], from = 0", &["qk", "unembed", "blocks.0.attn.W_Q"]),
        ("what = \"freeze\", weights = [\"embed\"], head = 0, from = 0", &["embed.W_E", "q, k, v, o"]),
        ("what = \"freeze\", weights = [\"q\"], head = 2, from = 0", &["head = 2", "2, counted from 0"]),
        ("what = \"freeze\", weights = [\"q\"], layer = 1, from = 0", &["layer = 1"]),
        ("what = \"freeze\", weights = [\"q\"], factor = 1, from = 0", &["takes no factor", "weights"]),
        ("what = \"freeze\", weights = [\"q\"], from = 64", &["from = 64", "64 steps"]),
        ("what = \"freeze\", weights = [\"q\"], from = 3, until = 3", &["until = 3"]),
        ("what = \"freeze\", weights = [\"q\"], from = 0, dose = 1.5", &["dose = 1.5", "between 0 and 1"]),
        ("what = \"freeze\", weights = [\"q\"], from = 0, sham = \"head\"", &["name the head"]),
        ("what = \"freeze\", weights = [\"q\"], from = 0, sham = \"direction\"", &["reinitialize"]),
        ("what = \"reset_moments\", from = 0, dose = 0.5", &["0 or 1"]),
        ("what = \"reset_moments\", from = 0, until = 5", &["takes no until"]),
        ("what = \"rotate\", weights = [\"q\"], from = 0", &["q and k", "together"]),
        ("what = \"rotate\", weights = [\"mlp\"], from = 0", &["[\"v\", \"o\"]"]),
        ("what = \"scale_head\", from = 0", &["head is missing"]),
        ("what = \"scale_head\", head = 0, baseline = \"resample\", from = 0", &["zero", "mean"]),
        ("what = \"scale_head\", head = 0, baseline = \"mean\", factor = 2, from = 0", &["factor", "dose"]),
        ("what = \"learning_rate\", from = 0", &["factor is missing"]),
        ("what = \"learning_rate\", factor = -1, from = 0", &["factor = -1"]),
        ("what = \"leave_out\", class = 99, from = 0", &["class = 99"]),
        ("what = \"subset\", from = 0", &["factor is missing"]),
        ("what = \"subset\", factor = 0, from = 0", &["factor = 0", "above 0"]),
        ("what = \"swap_heads\", weights = [\"q\"], head = 0, from = 0", &["with is missing"]),
        ("what = \"swap_heads\", weights = [\"q\"], head = 0, with = 0, from = 0", &["another of the layer's 2"]),
        ("what = \"swap_heads\", weights = [\"mlp\"], head = 0, with = 1, from = 0", &["q, k, v, o"]),
        ("what = \"noise\", weights = [\"*\"], from = 0, dose = nan", &["dose"]),
    ] {
        let error = error(MODULAR, pulse);
        words.iter().for_each(|word| assert!(error.contains(word), "{pulse} should speak of {word}: {error}"));
    }
    let head = "what = \"scale_head\", head = 1, from = 0";
    let twice = error(MODULAR, &format!("{head} }}, {{ {head}"));
    assert!(twice.contains("intervene[0]: scale_head") && twice.contains("to 2 of head 1"), "{twice}");
    let both = [0, 1].map(|head| format!("what = \"scale_head\", head = {head}, sham = \"head\", from = 0"));
    let both = error(MODULAR, &both.join(" }, { "));
    assert!(both.contains("intervene[0]") && both.contains("none is left"), "{both}");
    let deep = error(REPEATED, "what = \"scale_head\", head = 0, from = 0");
    assert!(deep.contains("which layer"), "{deep}");
    let turned = error(LONG, "what = \"rotate\", from = 0");
    assert!(turned.contains("rotary") && turned.contains("[\"v\", \"o\"]"), "{turned}");
    let shared = error(LONG, "what = \"swap_heads\", weights = [\"k\"], head = 0, with = 1, from = 0");
    assert!(shared.contains("in common") && shared.contains("q and o"), "{shared}");
    let drawn = run(REPEATED, &[replica(&["{ what = \"subset\", factor = 0.5, from = 0 }".to_owned()])]);
    let drawn = Session::new(&gpus()[0], Setup::from_toml(&drawn).unwrap().config).err().unwrap().to_string();
    assert!(drawn.contains("makes its examples up"), "{drawn}");
    let named =
        run(MODULAR, &["[[replica]]\nname = \"arm\"\nintervene = [{ what = \"scale_head\", from = 0 }]\n".to_owned()]);
    let named = Setup::from_toml(&named).err().unwrap().to_string();
    assert!(named.contains("[[replica]] arm: intervene[0]: scale_head"), "{named}");
}

#[test]
fn swapped_heads_are_weights_changed_by_hand_and_whole_heads_no_function() {
    let gpu = &gpus()[0];
    let still = format!("{MODULAR}{STILL}");
    let (plain, start, _) = after(gpu, &still, &[], 2);
    let (_, swapped, _) =
        after(gpu, &still, &["what = \"swap_heads\", weights = [\"q\", \"o\"], head = 0, with = 1, from = 1"], 2);
    for spec in plain.table().specs() {
        let [old, new] = [&start, &swapped].map(|state| tensor(&plain, &state.weights[0], &spec.name).to_vec());
        let is_swapped = ["W_Q", "b_Q", "W_O"].iter().any(|of| spec.name.ends_with(of));
        let part = if is_swapped { old.len() / 2 } else { 0 };
        assert_eq!([&old[part..], &old[..part]].concat(), new, "{}", spec.name);
    }
    // Twice is not at all, to the bit.
    let swap =
        |step: u32| format!("what = \"swap_heads\", weights = [\"q\", \"k\"], head = 1, with = 0, from = {step}");
    let (_, twice, _) = after(gpu, &still, &[&swap(0), &swap(1)], 3);
    // Moments are of gradients under the weights of their step.
    let of = |state: &Snapshot| state.weights[0].iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(of(&twice), of(&start));
    for (start, pair) in
        [(MODULAR, "head = 0, with = 1"), (REPEATED, "layer = 1, head = 0, with = 1"), (LONG, "head = 1, with = 2")]
    {
        for gpu in two_sets() {
            let frozen = format!("{start}[schedule]\nwarmup = 10000000\n");
            // Of grouped keys whole groups would have to go: queries and outputs alone are another function.
            let weights = if start == LONG { "\"q\", \"o\"" } else { "\"q\", \"k\", \"v\", \"o\"" };
            let (_, _, plain) = after(gpu, &frozen, &[], 3);
            let pulse = format!("what = \"swap_heads\", weights = [{weights}], {pair}, from = 1");
            let (_, _, seen) = after(gpu, &frozen, &[&pulse], 3);
            let apart = |at: usize| ((plain[at] - seen[at]) / plain[at]).abs();
            // Some dozen roundings in another order.
            assert!(apart(0) == 0.0 && (start == LONG || apart(2) < 2e-6), "{start}: {plain:?} {seen:?}");
            assert!(start != LONG || apart(2) > 1e-6, "{plain:?} {seen:?}");
        }
    }
}

#[test]
fn a_subset_is_the_mean_over_its_examples_and_the_same_at_every_step() {
    let gpu = &gpus()[0];
    let still = format!("{MODULAR}{STILL}");
    let loss = |rest: &str| after(gpu, &still, &[&format!("what = \"subset\", {rest}from = 1")], 4).2;
    let (_, _, whole) = after(gpu, &still, &[], 4);
    let half = loss("factor = 0.5, ");
    assert_eq!(half[0].to_bits(), whole[0].to_bits());
    // Nothing moves, so the same examples have the same loss at every step.
    assert!(half[1] != whole[1] && half[1].to_bits() == half[3].to_bits(), "{half:?} {whole:?}");
    assert_eq!(loss("factor = 1, ")[3].to_bits(), whole[3].to_bits());
    assert_ne!(loss("factor = 0.5, seed = 9, ")[3].to_bits(), half[3].to_bits());
}

#[test]
fn what_changes_the_labels_of_a_full_batch_draws_none() {
    let gpu = &gpus()[0];
    let names = |pulses: &[String]| {
        let text = format!("steps = 64\nseed = 5\n{MODULAR}[measure]\nonly = [\"noise\"]\n{}", replica(pulses));
        let session = session(gpu, &text);
        session.metrics().iter().map(|metric| metric.card.name).collect::<BTreeSet<_>>()
    };
    let labels = ["what = \"label_noise\"", "what = \"subset\", factor = 0.5", "what = \"leave_out\", class = 1"];
    let plain = names(&[]);
    assert!(plain.contains("gradient_dispersion") && !plain.contains("noise.trace"), "{plain:?}");
    assert_eq!(names(&labels.map(|what| pulse(what, "from = 2"))), plain);
}

#[test]
fn a_list_of_the_run_is_every_replicas_that_has_none() {
    let gpu = &gpus()[0];
    let of_run = "intervene = [{ what = \"freeze\", weights = [\"*\"], from = 1 }]\n";
    let arms = ["[[replica]]\nseed = 5\n".to_owned(), "[[replica]]\nseed = 5\nintervene = []\n".to_owned()];
    let mut frozen = session(gpu, &format!("{of_run}{}", run(MODULAR, &arms)));
    losses(gpu, &mut frozen, 3);
    let end = frozen.snapshot().unwrap();
    let (_, one, _) = after(gpu, MODULAR, &[], 1);
    let (_, three, _) = after(gpu, MODULAR, &[], 3);
    assert_eq!((&end.weights[0], &end.weights[1]), (&one.weights[0], &three.weights[0]));
    // Drawn with a seed of its own, noise is another; without, that of the replica.
    let noise =
        |rest: &str| after(gpu, MODULAR, &[&format!("what = \"noise\", weights = [\"q\"], from = 0{rest}")], 1).1;
    let [own, five, six] = ["", ", seed = 5", ", seed = 6"].map(noise);
    assert!(own == five && own != six);
}
