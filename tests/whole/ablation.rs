//! Ablation against the plainest truth there is: the same model with the weights of a head set to zero.

use std::collections::BTreeMap;

use crate::common::{arrived, gpus};
use thermoscope::gpu::Gpu;
use thermoscope::record::{Finding, HOLD, Roles, Setup, What};
use thermoscope::train::Session;

const MODULAR: &str = r#"
    steps = 1
    [task]
    kind = "modular"
    p = 11
    [model]
    n_layers = 2
    d_model = 24
    n_heads = 3
    d_mlp = 20
    act_fn = "gelu"
    normalization_type = "LN"
    [measure]
    off = ["ablation.p", "ablation.null"]
    [measure.probe]
    size = 40
"#;

/// Every position is read out, targets of the first period do not count.
const REPEATED: &str = r#"
    steps = 1
    [task]
    kind = "repeated"
    d_vocab = 11
    seq = 18
    [batch]
    size = 4
    [model]
    n_layers = 2
    d_model = 20
    n_heads = 2
    attn_only = true
    [measure]
    off = ["ablation.p", "ablation.null"]
    [measure.probe]
    size = 5
"#;

/// An MLP beside attention, grouped keys, no mean in the norm.
const PARALLEL: &str = r#"
    steps = 1
    [task]
    kind = "modular"
    p = 7
    [model]
    n_layers = 2
    d_model = 16
    n_heads = 4
    n_key_value_heads = 2
    d_mlp = 12
    parallel_attn_mlp = true
    normalization_type = "RMS"
    positional_embedding_type = "rotary"
    [measure]
    off = ["ablation.p", "ablation.null"]
    [measure.probe]
    size = 1000
"#;

fn session(gpu: &Gpu, text: &str) -> Session {
    Session::new(gpu, Setup::from_toml(text).unwrap().config).unwrap()
}

/// Metric, site, head, index.
type Key = (String, String, i32, i32);
type Values = BTreeMap<Key, f32>;

/// Everything that is measured, per replica.
fn measured(gpu: &Gpu, session: &mut Session) -> Vec<Values> {
    session.submit(0);
    let steps = arrived(gpu, session);
    let mut values = vec![Values::new(); session.config().replicas as usize];
    for row in steps.iter().flat_map(|step| session.rows(step)) {
        let key = (row.metric.card.name.to_owned(), row.metric.site.clone(), row.label.head, row.label.index);
        values[row.replica as usize].insert(key, row.value);
    }
    values
}

/// Weights that are large enough for every head to matter, biases included.
fn weights(session: &Session) -> Vec<f32> {
    let mut weights = session.table().draw(3);
    for spec in session.table().specs() {
        for (at, value) in weights[spec.offset..][..spec.len()].iter_mut().enumerate() {
            *value = 2.0 * *value + if spec.name.contains("b_") { 0.3 * (at as f32 * 1.7).sin() } else { 0.0 };
        }
    }
    weights
}

/// A part of one weight times a factor: part `head` of `parts` along its first dimension.
fn scaled(session: &Session, weights: &[f32], name: &str, (head, parts): (usize, usize), factor: f32) -> Vec<f32> {
    let mut changed = weights.to_vec();
    let spec = &session.table().specs()[session.table().find(name).unwrap()];
    let part = spec.len() / parts;
    changed[spec.offset + head * part..][..part].iter_mut().for_each(|x| *x *= factor);
    changed
}

fn probe(values: &Values, name: &str) -> f32 {
    values[&(format!("probe.{name}"), String::new(), -1, -1)]
}

const LEVELS: [&str; 5] = ["loss", "logit_difference", "accuracy", "entropy", "brier"];

/// Both sides are differences of means of some 50 values below 10, each a few dozen roundings of 6e-8 from the
/// truth.
const TOLERANCE: f32 = 2e-5;

#[test]
fn zero_ablation_is_the_model_without_the_weights() {
    for text in [MODULAR, REPEATED, PARALLEL] {
        for gpu in gpus() {
            let mut session = session(gpu, text);
            let original = weights(&session);
            let level = |session: &mut Session, weights: &[f32]| {
                session.set_weights(&[weights.to_vec()]).unwrap();
                measured(gpu, session).remove(0)
            };
            let clean = level(&mut session, &original);
            let heads = session.config().model.n_heads;
            let compare = |session: &mut Session, weights: &[f32], metric: &dyn Fn(&str) -> Key| {
                let changed = level(session, weights);
                for name in LEVELS {
                    let Some(effect) = clean.get(&metric(name)) else { continue };
                    let difference = probe(&changed, name) - probe(&clean, name);
                    assert!(
                        (effect - difference).abs() <= TOLERANCE * probe(&clean, name).abs().max(1.0),
                        "{:?} on {}: {effect} instead of {difference}",
                        metric(name),
                        gpu.caps().name
                    );
                }
            };
            for layer in 0..2 {
                let (w_o, site) = (format!("blocks.{layer}.attn.W_O"), format!("blocks.{layer}.attn.hook_result"));
                let key = |name: &str, head: i32, index: i32| (format!("ablation.{name}"), site.clone(), head, index);
                for head in 0..heads {
                    let without = scaled(&session, &original, &w_o, (head, heads), 0.0);
                    compare(&mut session, &without, &|name| key(name, head as i32, 0));
                    let quiet = scaled(&session, &original, &w_o, (head, heads), 0.25);
                    compare(&mut session, &quiet, &|name| key(&format!("gate.{name}"), head as i32, 25));
                }
                let without = scaled(&session, &original, &w_o, (0, 1), 0.0);
                compare(&mut session, &without, &|name| key(name, -1, 0));
            }
            if session.config().model.has_mlp() {
                let without = scaled(&session, &original, "blocks.0.mlp.W_out", (0, 1), 0.0);
                let without = scaled(&session, &without, "blocks.0.mlp.b_out", (0, 1), 0.0);
                let key = |name: &str| (format!("ablation.{name}"), "blocks.0.hook_mlp_out".to_owned(), -1, 0);
                compare(&mut session, &without, &key);
            }
        }
    }
}

#[test]
fn a_head_that_always_writes_the_same_has_no_effect_but_where_it_is_zeroed() {
    for gpu in gpus() {
        let mut session = session(gpu, MODULAR);
        let constant = scaled(&session, &weights(&session), "blocks.1.attn.W_V", (1, 3), 0.0);
        session.set_weights(&[constant]).unwrap();
        let values = measured(gpu, &mut session).remove(0);
        let effect = |index| values[&("ablation.loss".to_owned(), "blocks.1.attn.hook_result".to_owned(), 1, index)];
        assert!(effect(0).abs() > 1e-3, "{}", effect(0));
        assert!(effect(1).abs() < 1e-5 && effect(2).abs() < 1e-5, "{} {}", effect(1), effect(2));
    }
}

#[test]
fn freezing_patterns_matters_only_where_later_heads_look_elsewhere() {
    for gpu in gpus() {
        let mut session = session(gpu, MODULAR);
        let original = weights(&session);
        let effects = |session: &mut Session, weights: Vec<f32>| {
            session.set_weights(&[weights]).unwrap();
            let values = measured(gpu, session).remove(0);
            let site = "blocks.0.attn.hook_result".to_owned();
            [0, 3].map(|index| values[&("ablation.loss".to_owned(), site.clone(), 0, index)])
        };
        let [zero, frozen] = effects(&mut session, original.clone());
        assert!((zero - frozen).abs() > 1e-4, "{zero} {frozen}");
        // Without W_Q and b_Q the second layer looks at everything alike, whatever the first one writes.
        let blind = scaled(&session, &original, "blocks.1.attn.W_Q", (0, 1), 0.0);
        let blind = scaled(&session, &blind, "blocks.1.attn.b_Q", (0, 1), 0.0);
        let [zero, frozen] = effects(&mut session, blind);
        assert!((zero - frozen).abs() < 1e-5, "{zero} {frozen}");
    }
}

#[test]
fn effects_split_into_their_paths() {
    let mut repaired = 0;
    // Untrained, where hardly a direct effect is beyond its error, and trained, where some are.
    let steps = |text: &str| text.replace("steps = 1", "steps = 100");
    let texts = [MODULAR, REPEATED].map(str::to_owned);
    for text in texts.into_iter().chain([steps(MODULAR)]) {
        let gpu = &gpus()[0];
        let mut session = session(gpu, &text);
        let attention_only = text.contains("attn_only");
        let heads = if attention_only { 2 } else { 3 };
        let weights = weights(&session);
        session.set_weights(&[weights]).unwrap();
        session.submit(session.config().steps - 1);
        arrived(gpu, &mut session);
        let values = measured(gpu, &mut session).remove(0);
        for (layer, head) in (0..2).flat_map(|layer| (0..heads).map(move |head| (layer, head))) {
            let key = |name: &str, index| {
                (format!("ablation.{name}"), format!("blocks.{layer}.attn.hook_result"), head, index)
            };
            let value = |name: &str, index| values[&key(name, index)];
            let total = value("logit_difference", 0);
            let [direct, mediated, norm] = [0, 1, 2].map(|way| value("path", way));
            assert!((direct + mediated - total).abs() <= 1e-5 * total.abs().max(1.0));
            match values.get(&key("path", 3)) {
                Some(repair) => {
                    repaired += 1;
                    assert!((repair + mediated / direct).abs() <= 1e-4 * repair.abs().max(1.0), "{repair}");
                }
                // A ratio to what may be nothing.
                None => assert!(direct.abs() <= 2.001 * value("path.se", 0), "{direct}"),
            }
            if layer == 1 && attention_only {
                // Nothing lies between the last attention of the attention-only model and its logits.
                assert!(mediated.abs() < 1e-5 * total.abs().max(1.0), "{mediated}");
            }
            assert_eq!(attention_only, norm == 0.0, "{norm}: only a final norm can mediate");
        }
    }
    assert!(repaired > 0, "no direct effect was beyond its error");
}

/// p-values of all heads of `count` models that were never trained: of loss and of logit difference raised, and of both
/// lowered. The first head of each layer keeps its z eightfold, and the last is bent, which changes no model.
fn untrained_p(gpu: &Gpu, count: u32) -> [Vec<f32>; 4] {
    let text = MODULAR.replace("steps = 1", &format!("steps = 1\nreplicas = {count}"));
    let text = text.replace("off = [\"ablation.p\", \"ablation.null\"]", "");
    let mut session = session(gpu, &text);
    let mut weights = session.snapshot().unwrap().weights;
    for weights in &mut weights {
        for layer in 0..2 {
            *weights = in_basis(&session, weights, layer, 0, Basis::Scaled(8.0));
            *weights = in_basis(&session, weights, layer, 2, Basis::Bent(30.0));
        }
    }
    session.set_weights(&weights).unwrap();
    let all = measured(gpu, &mut session);
    let of = |index| {
        let p = all.iter().flatten().filter(|(key, _)| key.0 == "ablation.p" && key.3 == index);
        p.map(|(_, p)| *p).collect()
    };
    [of(0), of(1), of(2), of(3)]
}

#[test]
fn p_values_of_untrained_models_are_uniform_in_any_basis() {
    const COUNT: u32 = 64;
    for mut p in untrained_p(&gpus()[0], COUNT) {
        let count = p.len() as f32;
        assert_eq!(p.len(), COUNT as usize * 2 * 3);
        p.sort_by(f32::total_cmp);
        // Kolmogorov and Smirnov: the distance between the empirical distribution and the diagonal.
        let distance = p
            .iter()
            .enumerate()
            .map(|(at, p)| (p - at as f32 / count).abs().max((p - (at + 1) as f32 / count).abs()))
            .fold(0.0, f32::max);
        // Exceeded by chance once in a thousand times: 1.95 / sqrt(n).
        assert!(distance < 1.95 / count.sqrt(), "{distance}: {p:?}");
    }
}

/// Sequences (r, a, a), asked for the last token: what the residual stream says by itself.
fn copying(folder: &std::path::Path) -> String {
    let sequences: Vec<[u32; 3]> = (0..144).map(|at| [at / 12, at % 12, at % 12]).collect();
    let path = folder.join("sequences.json");
    std::fs::write(&path, serde_json::to_string(&sequences).unwrap()).unwrap();
    format!(
        "steps = 300\n[task]\nkind = \"tokens\"\npath = \"{}\"\nloss_on = \"last\"\ntrain_fraction = 0.5\n\
         [model]\nd_model = 36\nn_heads = 3\nd_head = 12\nattn_only = true\n[optimizer]\nweight_decay = 0.1\n\
         [measure.every]\nablation = 100\n",
        path.display()
    )
}

#[test]
fn a_planted_suppressor_is_found_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = copying(folder.path());
    for gpu in gpus() {
        let mut session = session(gpu, &text);
        for _ in 0..10 {
            session.submit(30);
            arrived(gpu, &mut session);
        }
        let trained = session.snapshot().unwrap().weights.remove(0);
        let found_in = |session: &mut Session, weights: &[f32]| {
            session.set_weights(&[weights.to_vec()]).unwrap();
            let mut roles = Roles::new(1);
            let mut events = Vec::new();
            for probe in 0..HOLD {
                session.submit(0);
                for row in arrived(gpu, session) {
                    let findings: Vec<Finding> = session.rows(&row).filter_map(|row| Finding::of(&row)).collect();
                    events.extend(roles.measure(u64::from(100 * probe), &findings));
                }
            }
            let turns = events.iter().filter_map(|event| match &event.what {
                What::Birth(who) | What::Death(who) | What::Flip(who) => Some(who.subject.words()),
                _ => None,
            });
            turns.collect::<Vec<_>>()
        };
        assert!(found_in(&mut session, &trained).is_empty());

        // Head 1 reads which token it looks at, and writes against that token's logit. The others write nothing: that is
        // less than all random subspaces do now, and contributes nothing.
        let place = |name: &str| session.table().specs()[session.table().find(name).unwrap()].offset;
        let (w_e, w_u) = (place("embed.W_E"), place("unembed.W_U"));
        let (w_v, w_o) = (place("blocks.0.attn.W_V"), place("blocks.0.attn.W_O"));
        let (d, k, v) = (36, 12, session.config().model.d_vocab_out);
        let mut planted = scaled(&session, &trained, "blocks.0.attn.W_O", (0, 1), 0.0);
        for token in 0..k {
            let read: Vec<f32> = (0..d).map(|i| trained[w_e + token * d + i]).collect();
            let write: Vec<f32> = (0..d).map(|i| trained[w_u + i * v + token]).collect();
            let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
            for i in 0..d {
                planted[w_v + (d + i) * k + token] = read[i] / square(&read);
                planted[w_o + (k + token) * d + i] = -4.0 * write[i] / square(&write);
            }
        }
        assert_eq!(found_in(&mut session, &planted), ["suppressor layer 0 head 1"], "on {}", gpu.caps().name);
    }
}

#[test]
fn a_probe_that_fits_does_not_depend_on_the_splits_of_other_replicas() {
    for size in [20, 1000] {
        let text = MODULAR.replace("size = 40", &format!("size = {size}"));
        let arm = |fraction: f64| format!("[[replica]]\nseed = 5\ntrain_fraction = {fraction}\n");
        let gpu = &gpus()[0];
        let alone = measured(gpu, &mut session(gpu, &format!("{text}{}", arm(0.3)))).remove(0);
        // Fewer test examples beside it: lists of different length are filled up elsewhere.
        let beside = measured(gpu, &mut session(gpu, &format!("{text}{}{}", arm(0.3), arm(0.7)))).remove(0);
        let ablation = |key: &&Key| key.0.starts_with("ablation.") || key.0.starts_with("probe.");
        assert!(alone.keys().filter(ablation).count() > 300);
        for key in alone.keys().filter(ablation) {
            assert_eq!(alone[key].to_bits(), beside[key].to_bits(), "{key:?}");
        }
    }
}

/// What a change of basis of one head's z is made of.
#[derive(Clone, Copy, Debug)]
enum Basis {
    /// z times this.
    Scaled(f64),
    /// z turned.
    Turned,
    /// z turned, its numbers stretched by up to this, and turned again.
    Bent(f64),
}

/// The same model with other weights: head `head` of a layer keeps z A in place of z. W_V A, b_V A, A⁻¹ W_O.
fn in_basis(session: &Session, weights: &[f32], layer: usize, head: usize, basis: Basis) -> Vec<f32> {
    let place = |name: &str| {
        let table = session.table();
        let spec = &table.specs()[table.find(&format!("blocks.{layer}.attn.{name}")).unwrap()];
        (spec.offset, spec.dims.clone())
    };
    let ((w_v, dims), (b_v, _), (w_o, _)) = (place("W_V"), place("b_V"), place("W_O"));
    let (d, k) = (dims[1], dims[2]);
    // A = U S V with U and V reflections, which are their own inverses and transposes.
    let reflected = |seed: f64, x: &[f64]| -> Vec<f64> {
        let u: Vec<f64> = (0..k).map(|i| (seed + 1.7 * i as f64).sin() + 0.1).collect();
        let along = 2.0 * u.iter().zip(x).map(|(a, b)| a * b).sum::<f64>() / u.iter().map(|a| a * a).sum::<f64>();
        x.iter().zip(&u).map(|(x, u)| x - along * u).collect()
    };
    let stretched = |x: &[f64], power: f64| -> Vec<f64> {
        let factor = |i: usize| match basis {
            Basis::Scaled(factor) => factor,
            Basis::Turned => 1.0,
            Basis::Bent(most) => most.powf(i as f64 / (k - 1) as f64 - 0.5),
        };
        x.iter().enumerate().map(|(i, x)| x * factor(i).powf(power)).collect()
    };
    // Rows of W_V times A; columns of W_O times its inverse, in which the reflections change places.
    let through = |x: &[f64], power: f64| match basis {
        Basis::Scaled(_) => stretched(x, power),
        _ => reflected(2.0, &stretched(&reflected(1.0, x), power)),
    };
    let (forward, inverse) = (|x: &[f64]| through(x, 1.0), |x: &[f64]| through(x, -1.0));
    let mut changed = weights.to_vec();
    let mut change = |at: &[usize], by: &dyn Fn(&[f64]) -> Vec<f64>| {
        let before: Vec<f64> = at.iter().map(|at| f64::from(weights[*at])).collect();
        at.iter().zip(by(&before)).for_each(|(at, x)| changed[*at] = x as f32);
    };
    for i in 0..d {
        let row: Vec<usize> = (0..k).map(|c| w_v + (head * d + i) * k + c).collect();
        change(&row, &forward);
        let column: Vec<usize> = (0..k).map(|c| w_o + (head * k + c) * d + i).collect();
        change(&column, &inverse);
    }
    change(&(0..k).map(|c| b_v + head * k + c).collect::<Vec<_>>(), &forward);
    changed
}

#[test]
fn nothing_depends_on_the_basis_in_which_a_head_keeps_z() {
    let text = MODULAR.replace("off = [\"ablation.p\", \"ablation.null\"]", "");
    let text = format!("{text}draws = 50\n");
    for gpu in gpus() {
        let mut session = session(gpu, &text);
        let original = weights(&session);
        // A head that can write in two directions alone, and one that writes nothing.
        let mut poor = original.clone();
        let w_o = session.table().specs()[session.table().find("blocks.0.attn.W_O").unwrap()].offset;
        for (row, i) in (2..8).flat_map(|row| (0..24).map(move |i| (row, i))) {
            let [a, b] = [0, 1].map(|from| original[w_o + (8 + from) * 24 + i]);
            poor[w_o + (8 + row) * 24 + i] = a * (row as f32).sin() + b * (row as f32).cos();
        }
        poor[w_o + 16 * 24..][..8 * 24].fill(0.0);
        for (which, plain) in [("full", original), ("poor", poor)] {
            session.set_weights(std::slice::from_ref(&plain)).unwrap();
            let before = measured(gpu, &mut session).remove(0);
            for basis in [Basis::Scaled(8.0), Basis::Turned, Basis::Bent(30.0)] {
                let changed = in_basis(&session, &plain, 0, 1, basis);
                session.set_weights(&[in_basis(&session, &changed, 1, 0, basis)]).unwrap();
                let after = measured(gpu, &mut session).remove(0);
                let mut compared = 0;
                for (key, a) in before.iter().filter(|(key, _)| !key.0.contains("reliability")) {
                    // A ratio of effects of which one may be close to 0, and a search that may turn at its last steps.
                    if !key.0.starts_with("ablation.")
                        || key.0 == "ablation.path" && key.3 == 3
                        || key.0.contains("temp")
                    {
                        continue;
                    }
                    let b = after[key];
                    assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{which} {basis:?} {key:?}: {a} and {b}");
                    compared += 1;
                }
                assert!(compared > 200, "{compared}");
            }
        }
    }
}

#[test]
fn draws_differ_also_where_one_head_alone_writes() {
    // It writes no more than the K dimensions that a draw has, of which each would take all if nothing stood for the rest.
    let text = MODULAR.replace("off = [\"ablation.p\", \"ablation.null\"]", "");
    let gpu = &gpus()[0];
    let mut session = session(gpu, &text);
    let one = scaled(&session, &weights(&session), "blocks.1.attn.W_O", (1, 3), 0.0);
    let one = scaled(&session, &one, "blocks.1.attn.W_O", (2, 3), 0.0);
    session.set_weights(&[one]).unwrap();
    let values = measured(gpu, &mut session).remove(0);
    let value =
        |name: &str, head, index| values[&(name.to_owned(), "blocks.1.attn.hook_result".to_owned(), head, index)];
    let effect = value("ablation.loss", 0, 0);
    assert!(effect.abs() > 1e-2);
    let [low, _, high] = [0, 1, 2].map(|index| value("ablation.null", -1, index));
    assert!(high - low > 0.05 * effect.abs(), "draws differ: {low} to {high}, all of it {effect}");
    // Heads that write nothing have an effect of exactly 0, and no error but rounding.
    assert_eq!(value("ablation.loss", 1, 0), 0.0);
    assert!(value("ablation.loss.se", 1, 0) < 1e-5 && value("ablation.loss.se", 0, 0) > 1e-3);
}

#[test]
fn heads_that_share_their_work_alike_matter_and_are_no_more_than_average() {
    let folder = tempfile::tempdir().unwrap();
    let text = copying(folder.path());
    let gpu = &gpus()[0];
    let mut session = session(gpu, &text);
    // Three heads that look at everything alike, read which of twelve tokens is there, and write a third of its logit each.
    let mut planted = vec![0.0; session.table().len()];
    let place = |name: &str| session.table().specs()[session.table().find(name).unwrap()].offset;
    let (d, k, v) = (36, 12, session.config().model.d_vocab_out);
    for token in 0..k {
        planted[place("embed.W_E") + token * d + token] = 1.0;
        planted[place("unembed.W_U") + (k + token) * v + token] = 9.0 + 0.1 * token as f32;
        for head in 0..3 {
            planted[place("blocks.0.attn.W_V") + (head * d + token) * k + token] = 1.0;
            planted[place("blocks.0.attn.W_O") + (head * k + token) * d + k + token] = 1.0;
        }
    }
    session.set_weights(&[planted]).unwrap();
    let (mut roles, mut events) = (Roles::new(1), Vec::new());
    for probe in 0..HOLD {
        session.submit(0);
        for row in arrived(gpu, &mut session) {
            let findings: Vec<Finding> = session.rows(&row).filter_map(|row| Finding::of(&row)).collect();
            events.extend(roles.measure(u64::from(100 * probe), &findings));
        }
    }
    let values = measured(gpu, &mut session).remove(0);
    let value =
        |name: &str, head, index| values[&(name.to_owned(), "blocks.0.attn.hook_result".to_owned(), head, index)];
    for head in 0..3 {
        let (effect, error) =
            (value("ablation.logit_difference", head, 0), value("ablation.logit_difference.se", head, 0));
        assert!(effect < -1.0 && -effect > 20.0 * error, "head {head}: {effect} with an error of {error}");
        let p = value("ablation.p", head, 1).min(value("ablation.p", head, 3));
        assert!(p > 0.1, "head {head} is beyond its layer's average: {p}");
    }
    assert!(events.is_empty(), "{events:?}");
}
