//! Effects that were planted, and none where there is none to be found.

use super::*;
use crate::model::{InitMode, ModelConfig, PositionalEmbedding};

const V: usize = 12;

/// Attention only, of one-hot tokens that are read as they are, with heads that hardly do anything; but of a layer, some heads that
/// look everywhere alike and write so much of what they see.
pub(super) fn planted(layers: usize, planted: &[(usize, usize, f32)]) -> ModelFolder {
    let config = ModelConfig {
        n_layers: layers,
        n_heads: 4,
        d_model: V,
        d_head: V,
        d_vocab: V,
        n_ctx: 6,
        attn_only: true,
        unembed_bias: false,
        attn_biases: false,
        positional_embedding_type: PositionalEmbedding::None,
        initializer_range: 0.05,
        ..ModelConfig::default()
    };
    let config = config.resolve().unwrap();
    let mut folder = ModelFolder { replicas: vec![WeightTable::new(&config).draw(5)], config };
    let one = |at: usize| if at % V == at / V % V { 1.0 } else { 0.0 };
    for name in ["embed.W_E", "unembed.W_U"] {
        folder = with(&folder, name, |at, value| *value = one(at));
    }
    for (layer, head, much) in planted {
        let own = |at: usize| at / (V * V) == *head;
        for (tensor, much) in [("W_Q", 0.0), ("W_V", 1.0), ("W_O", *much)] {
            folder = with(&folder, &format!("blocks.{layer}.attn.{tensor}"), |at, value| {
                if own(at) {
                    *value = much * one(at)
                }
            });
        }
    }
    folder
}

/// Prompts whose answer is one of their own tokens, at a place counted from the end, and no other of their tokens the wrong one.
fn recalled(place: impl Fn(&[u32]) -> usize) -> Prompts {
    let mut prompts = random(40, 5, V as u32, 6);
    for prompt in &mut prompts.list {
        let seen = prompt.tokens.clone();
        prompt.target = seen[seen.len() - 1 - place(&seen)];
        prompt.foil = (0..V as u32).cycle().skip(seen[0] as usize).find(|token| !seen.contains(token)).unwrap();
    }
    prompts
}

/// Mean share of the target among the tokens.
fn share(prompts: &Prompts) -> f64 {
    let share = |prompt: &Prompt| {
        prompt.tokens.iter().filter(|token| **token == prompt.target).count() as f64 / prompt.tokens.len() as f64
    };
    prompts.list.iter().map(share).sum::<f64>() / prompts.list.len() as f64
}

#[test]
fn an_early_suppressor_is_found_first_and_nothing_else_is() {
    // The last token is the answer, and what a head of the first layer sees of it is taken away.
    let folder = planted(3, &[(0, 2, -1.0)]);
    let prompts = recalled(|_| 0);
    for gpu in gpus() {
        let found = findings(&folder, &prompts, 99, &scan(gpu, &folder, &prompts, &Battery { draws: 99, ..ALL }));
        let heads = found.heads();
        assert_eq!(heads[0].name(), "L0H2");
        let marked: Vec<String> = found.marked().map(|effect| effect.name()).collect();
        assert_eq!(marked, ["L0H2"], "{}", found.sentence());
        let effect = heads[0].logit_difference();
        assert!((effect.mean - share(&prompts)).abs() < 0.05, "{effect:?}");
        // What it writes itself is all that it does.
        assert!((heads[0].direct.mean + effect.mean).abs() < 0.05, "{:?}", heads[0].direct);
        assert_eq!(heads[0].null.unwrap().p, 0.02, "no draw reaches it");
    }
}

#[test]
fn a_suppressor_and_a_contributor_are_told_apart_and_nothing_else_is() {
    let folder = planted(2, &[(1, 1, 2.0), (1, 2, -1.0)]);
    let prompts = recalled(|seen| seen.len() - 1);
    let gpu = &gpus()[0];
    let found = findings(&folder, &prompts, 99, &scan(gpu, &folder, &prompts, &Battery { draws: 99, ..ALL }));
    let heads = found.heads();
    assert_eq!((heads[0].name(), heads[7].name()), ("L1H2".to_owned(), "L1H1".to_owned()));
    let mut marked: Vec<String> = found.marked().map(|effect| effect.name()).collect();
    marked.sort();
    assert_eq!(marked, ["L1H1", "L1H2"], "{}", found.sentence());
    // What each takes away is the share of the target among the tokens, once and twice.
    let shares = share(&prompts);
    assert!((heads[0].logit_difference().mean - shares).abs() < 0.02, "{shares} and {:?}", heads[0].logit_difference());
    let words = found.sentence();
    assert!(words.ends_with("suppressors L1H2; contributors L1H1."), "{words}");
}

#[test]
fn logits_that_are_no_finite_numbers_are_refused() {
    let prompts = random(6, 4, 19, 3);
    let broken = with(&golden("llama"), "ln_final.w", |at, value| {
        if at == 0 {
            *value = f32::NAN;
        }
    });
    let error = Engine::new(&gpus()[0], broken, &prompts).unwrap().clean().unwrap_err().to_string();
    assert!(error.starts_with("the model gives prompt") && error.contains("no finite numbers"), "{error}");
}

#[test]
fn on_untrained_models_p_values_are_uniform() {
    let (mut p, mut null) = (Vec::new(), Vec::new());
    for seed in 0..4 {
        let config = ModelConfig {
            n_layers: 2,
            n_heads: 8,
            d_model: 32,
            d_vocab: 40,
            n_ctx: 5,
            init_mode: InitMode::Nanda,
            ..ModelConfig::default()
        };
        let config = config.resolve().unwrap();
        let folder = ModelFolder { replicas: vec![WeightTable::new(&config).draw(seed)], config };
        let prompts = random(24, 5, 40, 10 + seed);
        let found =
            findings(&folder, &prompts, 79, &scan(&gpus()[0], &folder, &prompts, &Battery { draws: 79, ..ALL }));
        assert!(found.uneven.is_empty());
        p.extend(found.heads().iter().filter_map(|effect| effect.p));
        null.extend(found.heads().iter().filter_map(|effect| effect.null).map(|null| null.p));
    }
    for (values, what) in [(&mut p, "p"), (&mut null, "null")] {
        assert_eq!(values.len(), 64);
        values.sort_by(f64::total_cmp);
        // Kolmogorov and Smirnov: beyond 1.95/√n in one of a thousand.
        let apart = values.iter().zip(1..).map(|(p, rank)| (p - f64::from(rank) / 64.0).abs()).fold(0.0, f64::max);
        assert!(apart < 1.95 / 8.0, "{what}: {apart} {values:?}");
    }
}

/// A model whose head 1 of layer 0 keeps its z in another basis: W_V A and A⁻¹ W_O with A = scale times a rotation by some angle in
/// each plane of neighbours.
fn in_another_basis(folder: &ModelFolder, scale: f32, angle: f32) -> ModelFolder {
    let (k, d) = (folder.config.d_head, folder.config.d_model);
    let (sin, cos) = angle.sin_cos();
    let of = |name: &str| {
        let table = WeightTable::new(&folder.config);
        let spec = &table.specs()[table.find(name).unwrap()];
        folder.replicas[0][spec.offset..][..spec.len()].to_vec()
    };
    // Of coordinate e, the other one of its plane with its sign.
    let turned = |e: usize| if e.is_multiple_of(2) { (e + 1, -sin) } else { (e - 1, sin) };
    let mut changed = folder.clone();
    for (name, rows, by) in [("W_V", d, scale), ("b_V", 1, scale)] {
        let name = format!("blocks.0.attn.{name}");
        let before = of(&name);
        changed = with(&changed, &name, |at, value| {
            let (head, row, e) = (at / (rows * k), at / k * k, at % k);
            if head == 1 {
                let (other, sign) = turned(e);
                *value = by * (cos * before[row + e] + sign * before[row + other]);
            }
        });
    }
    let before = of("blocks.0.attn.W_O");
    with(&changed, "blocks.0.attn.W_O", |at, value| {
        let (head, e, column) = (at / (k * d), at / d % k, at % d);
        if head == 1 {
            let (other, sign) = turned(e);
            let row = |e: usize| before[(head * k + e) * d + column];
            *value = (cos * row(e) + sign * row(other)) / scale;
        }
    })
}

#[test]
fn a_heads_basis_changes_nothing() {
    let folder = golden("gpt2");
    assert_eq!(folder.config.d_head % 2, 0);
    let prompts = random(8, 8, 19, 4);
    for (scale, angle, exact) in [(8.0, 0.0, true), (1.0, 0.7, false), (0.3, 2.0, false)] {
        let other = in_another_basis(&folder, scale, angle);
        assert_ne!(other.replicas, folder.replicas);
        for gpu in gpus() {
            let [before, after] =
                [&folder, &other].map(|folder| scan(gpu, folder, &prompts, &Battery { draws: 39, ..ALL }));
            for (before, after) in before.1.iter().zip(&after.1) {
                let lists =
                    |found: &LayerOutcomes| [found.heads.clone(), found.mlp.clone(), found.null.clone()].concat();
                for (before, after) in lists(before).iter().zip(&lists(after)) {
                    // Rounding of a few products of 16 terms, a hundred times below what is asked.
                    near_by(before, after, 1e-4, "another basis");
                }
                for (before, after) in before.heads.iter().zip(&after.heads).filter(|_| exact) {
                    assert_eq!(bits(before), bits(after), "powers of two change no bit on {}", gpu.caps().name);
                }
            }
        }
    }
}
