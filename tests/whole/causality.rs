//! A token cannot be seen by positions before it: logits there keep their bits.

use crate::common::gpus;
use thermoscope::autograd::ops::ActFn;
use thermoscope::autograd::{Bindings, Tape};
use thermoscope::gpu::{Class, Gpu, Select, Storage, read_now};
use thermoscope::model::{Model, ModelConfig, Normalization, PositionalEmbedding, ReadOut, Rows, WeightTable};

const SEQ: usize = 21;
const BATCH: usize = 2;

/// Bits of the logits, `[BATCH][SEQ][d_vocab]`.
fn logits(gpu: &Gpu, config: &ModelConfig, tokens: &[u32]) -> Vec<u32> {
    let mut tape = Tape::new(1);
    let model = Model::new(config, &mut tape);
    let tokens = tape.constant_u32(&[BATCH * SEQ], tokens);
    let forward = model.forward(&mut tape, &Rows::Each { tokens }, BATCH, SEQ, ReadOut::All).unwrap();
    let table = WeightTable::new(config);
    let weights = gpu.upload(Class::Weights, &table.draw(3)).unwrap();
    let len = tape.shape(forward.logits).len() as u64;
    let out = gpu.buffer(Class::Metrics, len).unwrap();
    let mut bindings = Bindings::new();
    table.bind(&mut bindings, &model.weights.iter().copied().map(Some).collect::<Vec<_>>(), &weights);
    bindings.bind(forward.logits, Storage::whole(&out, len));
    let program = tape.compile(gpu, &bindings).unwrap();
    program.poison(gpu);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    program.encode(&mut encoder.begin_compute_pass(&Default::default()), Select { step: 0, update: true });
    gpu.queue().submit([encoder.finish()]);
    read_now(gpu, &out, 0..len * 4).unwrap()
}

#[test]
fn a_later_token_leaves_earlier_logits_their_bits() {
    let with = |change: &dyn Fn(&mut ModelConfig)| {
        let mut config = ModelConfig::default();
        (config.n_layers, config.d_model, config.n_heads, config.d_mlp) = (2, 24, 4, 36);
        (config.d_vocab, config.d_vocab_out, config.n_ctx) = (13, 13, SEQ);
        change(&mut config);
        config
    };
    let configs = [
        with(&|_| ()),
        with(&|c| {
            (c.normalization_type, c.act_fn, c.parallel_attn_mlp) = (Normalization::LN, ActFn::Gelu, true);
        }),
        with(&|c| {
            (c.normalization_type, c.positional_embedding_type) = (Normalization::RMS, PositionalEmbedding::Rotary);
            (c.n_key_value_heads, c.gated_mlp, c.act_fn) = (2, true, ActFn::Silu);
        }),
        with(&|c| {
            (c.attn_only, c.tied_embeddings) = (true, true);
            c.positional_embedding_type = PositionalEmbedding::None;
        }),
    ];
    for config in configs {
        let config = config.resolve().unwrap();
        for gpu in gpus() {
            let tokens: Vec<u32> = (0..(BATCH * SEQ) as u32).map(|i| i * 7 % 13).collect();
            let before = logits(gpu, &config, &tokens);
            assert!(before.iter().all(|word| f32::from_bits(*word).is_finite()));
            for changed in [1, 8, SEQ - 1] {
                let mut other = tokens.clone();
                other[changed] = (other[changed] + 5) % 13;
                let after = logits(gpu, &config, &other);
                let at = changed * config.d_vocab;
                assert_eq!(before[..at], after[..at], "{config:?} on {}", gpu.caps().name);
                assert_ne!(before[at..SEQ * config.d_vocab], after[at..SEQ * config.d_vocab]);
                assert_eq!(before[SEQ * config.d_vocab..], after[SEQ * config.d_vocab..], "the other sequence");
            }
        }
    }
}
