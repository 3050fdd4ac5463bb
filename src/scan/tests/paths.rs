//! Paths of heads.

use super::patch::{above, pairs, truth};
use super::planted::planted;
use super::*;
use crate::model::{Forward, Point};
use crate::scan::{Input, Mediated, Paths, Routes};

fn following(senders: Vec<[usize; 2]>, baseline: Baseline) -> Battery {
    Battery { heads: false, mlps: false, senders, baseline, ..ALL }
}

/// Values of a hook of a layer in f64.
fn hook(case: &mut Case, pass: &Forward, layer: usize, name: &str) -> Vec<f64> {
    let var = pass.hook(&format!("blocks.{layer}.{name}")).unwrap();
    case.reference(0, &[var]).unwrap()[0].data.clone()
}

fn plus(a: &[f64], b: &[f64], sign: f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + sign * b).collect()
}

/// What a head writes, [2, T, D], by hand: softmax of q k over the places up to the query's, of v, through W_O.
fn written(folder: &ModelFolder, layer: usize, head: usize, [q, k, v]: [&[f64]; 3], seq: usize) -> Vec<f64> {
    let config = &folder.config;
    let (h, g, width, d) = (config.n_heads, config.n_key_value_heads, config.d_head, config.d_model);
    let table = WeightTable::new(config);
    let spec = &table.specs()[table.find(&format!("blocks.{layer}.attn.W_O")).unwrap()];
    let w_o = &folder.replicas[0][spec.offset + head * width * d..][..width * d];
    let group = head / (h / g);
    let row = |of: &[f64], heads: usize, head: usize, b: usize, t: usize| {
        of[((b * seq + t) * heads + head) * width..][..width].to_vec()
    };
    let mut out = vec![0.0; 2 * seq * d];
    for (b, t) in (0..2).flat_map(|b| (0..seq).map(move |t| (b, t))) {
        let query = row(q, h, head, b, t);
        let score = |s: usize| {
            let dot: f64 = row(k, g, group, b, s).iter().zip(&query).map(|(k, q)| k * q).sum();
            dot * f64::from(config.score_scale())
        };
        let scores: Vec<f64> = (0..=t).map(score).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
        for (s, score) in scores.iter().enumerate() {
            let value = row(v, g, group, b, s);
            for (e, x) in out[(b * seq + t) * d..][..d].iter_mut().enumerate() {
                let brought: f64 = value.iter().enumerate().map(|(i, v)| v * f64::from(w_o[i * d + e])).sum();
                *x += (score - top).exp() / total * brought;
            }
        }
    }
    out
}

/// By which path a head's change reaches the answer.
#[derive(Clone, Copy, Debug)]
enum Path {
    Straight,
    Head(usize, Input, usize),
    Mlp(usize),
    UpTo(usize),
}

/// Logit differences of both of a pair, in f64, where the head of layer 0 writes what it wrote in the other one, seen by one path.
fn by_hand(folder: &ModelFolder, pair: &[Prompt], sender: usize, path: Path) -> [f64; 2] {
    let config = &folder.config;
    let (h, d, seq, last) = (config.n_heads, config.d_model, pair[0].tokens.len(), config.n_layers - 1);
    let beside = config.parallel_attn_mlp;
    let behind = if beside { ("hook_resid_post", Point::Post) } else { ("hook_resid_mid", Point::Mid) };
    truth(folder, pair, |case, model, clean| {
        let result = hook(case, clean, 0, "attn.hook_result");
        let of = |at: usize, row: usize| result[(row * h + sender) * d + at % d];
        let change: Vec<f64> = (0..2 * seq * d).map(|at| of(at, (at / d + seq) % (2 * seq)) - of(at, at / d)).collect();
        let end =
            |case: &mut Case, stream: &[f64]| above(case, model, last, Point::Post, seq, &plus(stream, &change, 1.0));
        match path {
            Path::Straight => {
                let stream = hook(case, clean, last, "hook_resid_post");
                end(case, &stream).logits
            }
            Path::UpTo(layer) => {
                let stream = plus(&hook(case, clean, 0, behind.0), &change, 1.0);
                let changed = above(case, model, 0, behind.1, seq, &stream);
                let stream = plus(&hook(case, &changed, layer, "hook_resid_post"), &change, -1.0);
                let without = above(case, model, layer, Point::Post, seq, &stream);
                let stream = hook(case, &without, last, "hook_resid_post");
                end(case, &stream).logits
            }
            Path::Head(layer, input, head) => {
                let before = plus(&hook(case, clean, layer, "hook_resid_pre"), &change, 1.0);
                let changed = above(case, model, layer - 1, Point::Post, seq, &before);
                let turned = clean.hooks.contains_key(&format!("blocks.{layer}.attn.hook_rot_q"));
                let names =
                    if turned { ["hook_rot_q", "hook_rot_k", "hook_v"] } else { ["hook_q", "hook_k", "hook_v"] };
                let parts = names.map(|name| hook(case, clean, layer, &format!("attn.{name}")));
                let mut mixed = parts.clone();
                let at = [Input::Q, Input::K, Input::V].iter().position(|one| *one == input).unwrap();
                mixed[at] = hook(case, &changed, layer, &format!("attn.{}", names[at]));
                let [was, is] = [&parts, &mixed]
                    .map(|parts| written(folder, layer, head, parts.each_ref().map(Vec::as_slice), seq));
                let own = hook(case, clean, layer, "attn.hook_result");
                assert!(was.iter().enumerate().all(|(at, x)| (x - own[(at / d * h + head) * d + at % d]).abs() < 1e-6));
                let stream = plus(&plus(&hook(case, clean, layer, behind.0), &is, 1.0), &was, -1.0);
                above(case, model, layer, behind.1, seq, &stream).logits
            }
            Path::Mlp(layer) => {
                let (name, layer_of, point) = if beside {
                    ("hook_resid_pre", layer.wrapping_sub(1), Point::Post)
                } else {
                    ("hook_resid_mid", layer, Point::Mid)
                };
                let before = plus(&hook(case, clean, layer, name), &change, 1.0);
                let changed = above(case, model, layer_of, point, seq, &before);
                let [was, is] = [clean, &changed].map(|pass| hook(case, pass, layer, "hook_mlp_out"));
                let stream = plus(&plus(&hook(case, clean, layer, "hook_resid_post"), &is, 1.0), &was, -1.0);
                above(case, model, layer, Point::Post, seq, &stream).logits
            }
        }
    })
}

#[test]
fn a_path_is_the_pass_where_one_reader_sees_another_stream() {
    for name in ["gpt2", "llama", "neox"] {
        let folder = golden(name);
        let (h, last) = (folder.config.n_heads, folder.config.n_layers - 1);
        let prompts = pairs(vec![(vec![1, 2, 3, 4], vec![5, 2, 6, 4], 7, 8), (vec![3, 2], vec![9, 2], 1, 2)]);
        let paths = |routes: &Routes| {
            let layer = routes.layer;
            let heads = [(Input::Q, &routes.queries), (Input::K, &routes.keys), (Input::V, &routes.values)];
            let of = |(input, lists): (Input, &Vec<Vec<Outcome>>)| {
                lists
                    .iter()
                    .cloned()
                    .enumerate()
                    .map(move |(head, list)| (Path::Head(layer, input, head), list))
                    .collect::<Vec<_>>()
            };
            let mut all: Vec<(Path, Vec<Outcome>)> = heads.into_iter().flat_map(of).collect();
            all.extend(routes.mlp.iter().map(|list| (Path::Mlp(layer), list.clone())));
            all.extend(routes.direct.iter().map(|list| (Path::Straight, list.clone())));
            all.extend(routes.upto.iter().map(|list| (Path::UpTo(layer), list.clone())));
            all
        };
        for gpu in gpus() {
            let what = following(vec![[0, 1]], Baseline::Resample);
            let (clean, layers) = scan(gpu, &folder, &prompts, &what);
            let routes = &layers[0].routes;
            assert_eq!(routes.iter().map(|routes| routes.layer).collect::<Vec<_>>(), (0..=last).collect::<Vec<_>>());
            let all: Vec<(Path, Vec<Outcome>)> = routes.iter().flat_map(paths).collect();
            let mlps = last + usize::from(!folder.config.parallel_attn_mlp);
            assert_eq!(all.len(), last * 3 * h + 1 + 2 * mlps, "{name}");
            let mut moved = 0;
            for (path, outcomes) in &all {
                for (number, pair) in prompts.list.chunks_exact(2).enumerate() {
                    for (b, expected) in by_hand(&folder, pair, 1, *path).into_iter().enumerate() {
                        let at = 2 * number + b;
                        let found = f64::from(outcomes[at][LOGIT_DIFFERENCE]);
                        assert!((found - expected).abs() < 1e-5, "{name}, {path:?}: {found}, {expected}");
                        moved += usize::from((found - f64::from(clean[at][LOGIT_DIFFERENCE])).abs() > 1e-4);
                    }
                }
            }
            assert!(moved > all.len() / 2, "{name}: most paths carry something, {moved} of {}", 4 * all.len());
        }
    }
}

fn follow(gpu: &Gpu, folder: &ModelFolder, prompts: &Prompts, senders: &[[usize; 2]], baseline: Baseline) -> Paths {
    let (clean, layers) = scan(gpu, folder, prompts, &following(senders.to_vec(), baseline));
    let mut paths = Paths { wanted: senders.to_vec(), senders: Vec::new() };
    layers.iter().for_each(|found| paths.add(prompts, &clean, found));
    paths
}

/// That what is said to add up does.
fn adds_up(mediated: &Mediated) {
    let layers: f64 = mediated.layers.iter().map(|layer| layer.part.effect.mean).sum();
    let readers: f64 = mediated.readers.iter().map(|reader| reader.part.effect.mean).sum();
    let (direct, rest) = (mediated.direct.effect.mean, mediated.rest.effect.mean);
    assert!((mediated.total.mean - direct - layers).abs() < 1e-12, "{mediated:?}");
    assert!((mediated.total.mean - direct - readers - rest).abs() < 1e-12, "{mediated:?}");
}

#[test]
fn the_total_is_the_ablation_and_its_parts_add_up() {
    for name in ["gpt2", "llama", "neox"] {
        let folder = golden(name);
        let prompts = random(7, 9, folder.config.d_vocab as u32, 1);
        let last = folder.config.n_layers - 1;
        let senders = [[0, 0], [0, 1], [last, 1]];
        let gpu = &gpus()[0];
        for baseline in [Baseline::Zero, Baseline::Mean, Baseline::Resample] {
            let (clean, layers) = scan(gpu, &folder, &prompts, &Battery { baseline, ..ALL });
            let paths = follow(gpu, &folder, &prompts, &senders, baseline);
            assert_eq!(paths.senders.iter().map(|sender| sender.head).collect::<Vec<_>>(), senders);
            for sender in &paths.senders {
                let [mediated] = &sender.directions[..] else { panic!("one direction") };
                adds_up(mediated);
                let [layer, head] = sender.head;
                let changed = &layers[layer].heads[head];
                let moved =
                    changed.iter().zip(&clean).map(|(a, b)| f64::from(a[LOGIT_DIFFERENCE] - b[LOGIT_DIFFERENCE]));
                let truth = moved.sum::<f64>() / 7.0;
                assert!((mediated.total.mean - truth).abs() < 1e-5, "{name} {sender:?}: {truth}");
            }
        }
    }
}

#[test]
fn in_a_linear_model_readers_alone_add_up_and_the_planted_one_is_found() {
    // No norms, and heads that look everywhere alike: what a head of layer 1 brings is linear in what it sees. One of layer 0 copies
    // what it sees, one of layer 1 half of that.
    let mut folder = planted(2, &[(0, 1, 1.0), (1, 3, 0.5)]);
    for layer in 0..2 {
        folder = with(&folder, &format!("blocks.{layer}.attn.W_Q"), |_, value| *value = 0.0);
    }
    let mut prompts = random(24, 5, 12, 4);
    // The first token is the answer.
    prompts.list.iter_mut().for_each(|prompt| {
        prompt.target = prompt.tokens[0];
        prompt.foil = (prompt.tokens[0] + 1..).map(|id| id % 12).find(|id| !prompt.tokens.contains(id)).unwrap();
    });
    for gpu in gpus() {
        let paths = follow(gpu, &folder, &prompts, &[[0, 1]], Baseline::Zero);
        let mediated = &paths.senders[0].directions[0];
        adds_up(mediated);
        assert!(mediated.rest.effect.mean.abs() < 1e-5, "{:?}", mediated.rest);
        let greatest =
            mediated.readers.iter().max_by(|a, b| a.part.effect.mean.abs().total_cmp(&b.part.effect.mean.abs()));
        assert_eq!(greatest.unwrap().name(), "L1H3 v");
        assert!(greatest.unwrap().differs());
        for reader in &mediated.readers {
            let blind = reader.input == Input::K || reader.input == Input::Q;
            assert!(!blind || reader.part.effect.mean.abs() < 1e-6, "keys without queries bring nothing: {reader:?}");
        }
        // Straight, what it wrote itself is gone: of every prompt, the share of the target among its tokens.
        let share = |prompt: &Prompt| {
            prompt.tokens.iter().filter(|token| **token == prompt.target).count() as f64 / prompt.tokens.len() as f64
        };
        let shares = prompts.list.iter().map(share).sum::<f64>() / 24.0;
        assert!((mediated.direct.effect.mean + shares).abs() < 1e-5, "{:?} {shares}", mediated.direct);
        let parts = [mediated.direct.share, mediated.layers[0].part.share].map(|share| share.unwrap().mean);
        assert!((parts[0] + parts[1] - 1.0).abs() < 1e-9 && mediated.layers.len() == 1, "{parts:?}");
    }
}

#[test]
fn what_a_silent_head_sends_has_the_bits_of_the_clean_pass() {
    let folder = golden("gpt2");
    let width = folder.config.d_head * folder.config.d_model;
    let silent = with(&folder, "blocks.0.attn.W_O", |at, value| *value *= f32::from(u8::from(at / width != 1)));
    let prompts = random(5, 6, 19, 2);
    for gpu in gpus() {
        let (clean, layers) = scan(gpu, &silent, &prompts, &following(vec![[0, 1]], Baseline::Zero));
        for routes in &layers[0].routes {
            let lists = [&routes.queries, &routes.keys, &routes.values, &routes.mlp, &routes.direct, &routes.upto];
            for outcomes in lists.into_iter().flatten() {
                // KL is 0 and nothing else moved.
                assert_eq!(bits(outcomes), bits(&clean), "layer {} on {}", routes.layer, gpu.caps().name);
            }
        }
        let paths = follow(gpu, &silent, &prompts, &[[0, 1]], Baseline::Zero);
        let mediated = &paths.senders[0].directions[0];
        assert!(mediated.direct.share.is_none(), "a share of nothing is no number");
        assert!(mediated.readers.iter().all(|reader| !reader.differs()));
    }
}

#[test]
fn paths_in_pieces_are_those_of_all_prompts_at_once() {
    let folder = golden("llama");
    let prompts = random(9, 7, 19, 3);
    let what = following(vec![[0, 0], [0, 1]], Baseline::Zero);
    let gpu = &gpus()[0];
    let whole = scan(gpu, &folder, &prompts, &what);
    let mut engine = Engine::new(gpu, folder.clone(), &prompts).unwrap();
    engine.cut(&prompts, 4, 2).unwrap();
    engine.clean().unwrap();
    let part = engine.next_layer(&what, |_| true).unwrap().unwrap();
    assert_eq!(part.routes.len(), whole.1[0].routes.len());
    for (part, whole) in part.routes.iter().zip(&whole.1[0].routes) {
        assert_eq!((part.sender, part.layer), (whole.sender, whole.layer));
        for (part, whole) in part.values.iter().chain(&part.upto).zip(whole.values.iter().chain(&whole.upto)) {
            near(part, whole, "in pieces");
        }
    }
}
