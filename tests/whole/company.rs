//! A replica computes what it computes alone, whoever trains beside it: random tables of replicas, bit by bit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use crate::common::{Key, gpus, losses, two_sets, values};
use thermoscope::gpu::{Gpu, Philox, Stream, adapters};
use thermoscope::instrument::registry;
use thermoscope::record::Setup;
use thermoscope::train::Session;

/// Random numbers, one after the other.
struct Draw {
    philox: Philox,
    at: u64,
}

impl Draw {
    fn below(&mut self, bound: u32) -> u32 {
        self.at += 1;
        self.philox.below(self.at, bound)
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }
}

/// What is measured decides nothing here, and takes most of the time.
fn without_instruments(start: &str) -> String {
    let others: Vec<&str> = registry().iter().map(|i| i.name()).filter(|name| *name != "train").collect();
    format!("steps = 64\n{start}\n[measure]\noff = {others:?}\n")
}

/// Bits of weights, both moments and the training losses of every replica.
fn trained(gpu: &Gpu, text: &str, steps: u64) -> Vec<Vec<u32>> {
    let mut session = Session::new(gpu, Setup::from_toml(text).unwrap_or_else(|e| panic!("{e}\n{text}")).config)
        .unwrap_or_else(|e| panic!("{e}\n{text}"));
    let losses = losses(gpu, &mut session, steps);
    let end = session.snapshot().unwrap();
    (0..session.config().replicas as usize)
        .map(|r| {
            let state = [&end.weights[r], &end.first[r], &end.second[r]].into_iter().flatten();
            state.chain(losses.iter().map(|step| &step[r])).map(|value| value.to_bits()).collect()
        })
        .collect()
}

fn in_company_as_alone(gpu: &Gpu, start: &str, replicas: &[String], steps: u64, note: &str) {
    let together = trained(gpu, &format!("{start}{}", replicas.concat()), steps);
    assert_eq!(together.len(), replicas.len());
    for (at, (replica, found)) in replicas.iter().zip(&together).enumerate() {
        let alone = trained(gpu, &format!("{start}{replica}"), steps).remove(0);
        let differ = alone.iter().zip(found).filter(|(a, b)| a != b).count();
        assert!(
            differ == 0 && alone.len() == found.len(),
            "{note}: replica {at} has {differ} of {} numbers that it has not alone, on {}\n{start}{}",
            alone.len(),
            gpu.caps().name,
            replicas.concat()
        );
        assert!(at == 0 || together[at - 1] != *found, "{note}: replicas are what they are told to be");
    }
}

/// One task of every kind, and whether its examples are a finite set.
fn task(draw: &mut Draw, files: &Path) -> (String, bool) {
    let operator = draw.one_of(&["true", "false"]);
    match draw.below(4) {
        0 => (format!("[task]\nkind = \"modular\"\np = {}\noperator_token = {operator}\n", 5 + draw.below(30)), true),
        1 => {
            (format!("[task]\nkind = \"permutation\"\nn = {}\noperator_token = {operator}\n", 3 + draw.below(2)), true)
        }
        2 => {
            let length = 3 + draw.below(70);
            let sequences: Vec<Vec<u32>> =
                (0..20 + draw.below(40)).map(|_| (0..length).map(|_| draw.below(9)).collect()).collect();
            let path = files.join("tokens.json");
            std::fs::write(&path, format!("{sequences:?}")).unwrap();
            (
                format!(
                    "[task]\nkind = \"tokens\"\npath = {path:?}\nloss_on = \"{}\"\n",
                    draw.one_of(&["all", "last"])
                ),
                true,
            )
        }
        _ => (
            format!("[task]\nkind = \"repeated\"\nd_vocab = {}\nseq = {}\n", 9 + draw.below(9), 5 + draw.below(70)),
            false,
        ),
    }
}

#[test]
fn random_replicas_have_the_bits_they_have_alone() {
    let files = tempfile::tempdir().unwrap();
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = std::env::var("COMPANY_SEED").map_or_else(|_| now(), |text| text.parse().expect("a number"));
    eprintln!("COMPANY_SEED={seed}");
    for round in 0..2 {
        let mut draw = Draw { philox: Philox::new(seed, Stream::Split, round), at: 0 };
        let heads: u32 = draw.one_of(&[1, 2, 3, 4]);
        let (task, finite) = task(&mut draw, files.path());
        // Heads of even width, which rotary positions turn.
        let mut start = format!(
            "{task}[model]\nn_layers = {}\nn_heads = {heads}\nd_model = {}\nd_head = {}\nd_mlp = {}\nattn_only = {}\n",
            1 + draw.below(2),
            1 + draw.below(36),
            2 + 2 * draw.below(4),
            1 + draw.below(70),
            draw.one_of(&["true", "false", "false"]),
        );
        start += draw.one_of(&[
            "",
            "normalization_type = \"LN\"\n",
            "normalization_type = \"LNPre\"\n",
            "normalization_type = \"RMS\"\n",
            "normalization_type = \"RMSPre\"\nparallel_attn_mlp = true\n",
        ]);
        start += draw.one_of(&["", "positional_embedding_type = \"rotary\"\n"]);
        start += draw.one_of(&["", "gated_mlp = true\nact_fn = \"silu\"\n"]);
        let groups: Vec<u32> = (1..=heads).filter(|groups| heads.is_multiple_of(*groups)).collect();
        writeln!(start, "n_key_value_heads = {}", draw.one_of(&groups)).unwrap();
        write!(start, "[optimizer]\nclip = {}\n", draw.one_of(&["0.0", "0.5"])).unwrap();
        if !finite || draw.below(3) == 0 {
            write!(start, "[batch]\nsize = {}\n", 1 + draw.below(90)).unwrap();
        }
        let replicas: Vec<String> = (0..2 + draw.below(2))
            .map(|at| {
                let own = format!(
                    "[[replica]]\nseed = {}\nlearning_rate = {}\nweight_decay = 0.{}\n",
                    10 * at + draw.below(10),
                    draw.one_of(&["1e-3", "3e-3", "0.02"]),
                    draw.below(10),
                );
                let (share, shuffled) = (10 + draw.below(80), draw.one_of(&["true", "false", "false"]));
                own + &if finite {
                    format!("train_fraction = 0.{share}\nshuffle_labels = {shuffled}\n")
                } else {
                    String::new()
                }
            })
            .collect();
        for gpu in two_sets() {
            let note = format!("COMPANY_SEED={seed}, round {round}");
            in_company_as_alone(gpu, &without_instruments(&start), &replicas, 2, &note);
        }
    }
}

/// Alone, the first replica has 59,445 places in its lists, fewer than a software driver's loops have rounds; beside
/// the second 118,887.
#[test]
fn the_longest_lists_are_summed_in_company_as_alone() {
    let start = "[task]\nkind = \"modular\"\np = 257\n[model]\nd_model = 8\nn_heads = 1\nd_mlp = 8\n";
    let replica = |seed: u32, fraction: f64| format!("[[replica]]\nseed = {seed}\ntrain_fraction = {fraction}\n");
    let replicas = [replica(1, 0.3), replica(2, 0.6)];
    in_company_as_alone(&gpus()[0], &without_instruments(start), &replicas, 2, "p = 257");
}

/// What every replica of a table measures in two steps: bits of every number, and of the weights behind them.
fn measured(gpu: &Gpu, text: &str) -> Vec<(BTreeMap<Key, u32>, Vec<u32>)> {
    let setup = Setup::from_toml(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut session = Session::new(gpu, setup.config).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let values = values(gpu, &mut session, 2).into_iter();
    let values = values.map(|of| of.into_iter().map(|(key, value)| (key, value.to_bits())).collect());
    let weights = session.snapshot().unwrap().weights.into_iter();
    values.zip(weights.map(|of| of.into_iter().map(f32::to_bits).collect())).collect()
}

/// Returns what was measured.
fn measures_in_company_as_alone(gpu: &Gpu, start: &str, replicas: &[String], note: &str) -> BTreeSet<&'static str> {
    let together = measured(gpu, &format!("{start}{}", replicas.concat()));
    let mut seen = BTreeSet::new();
    for (at, (replica, (values, weights))) in replicas.iter().zip(&together).enumerate() {
        let (alone, own) = measured(gpu, &format!("{start}{replica}")).remove(0);
        let keys: BTreeSet<&Key> = alone.keys().chain(values.keys()).collect();
        let changed: BTreeSet<&str> =
            keys.iter().filter(|key| alone.get(**key) != values.get(**key)).map(|key| key.0).collect();
        assert!(
            changed.is_empty() && own == *weights,
            "{note}: replica {at} measures otherwise alone, on {}: {changed:?}\n{start}{}",
            gpu.caps().name,
            replicas.concat()
        );
        seen.extend(keys.into_iter().map(|key| key.0));
    }
    seen
}

/// Everything is measured at every second step: how often is a choice of the run, and of its work, which grows with company.
fn at_every_second_step(start: &str, probe: &str) -> String {
    let others = registry().into_iter().filter(|instrument| instrument.name() != "train");
    let every: String = others.map(|instrument| format!("{} = 2\n", instrument.name())).collect();
    format!("steps = 64\n{start}[measure.probe]\n{probe}\ndraws = 20\n[measure.every]\n{every}")
}

/// Pairs of which one cannot fill the probe, or has few of the rows that a set shares.
#[test]
fn random_pairs_measure_what_they_measure_alone() {
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = std::env::var("COMPANY_SEED").map_or_else(|_| now(), |text| text.parse().expect("a number"));
    eprintln!("COMPANY_SEED={seed}");
    let mut draw = Draw { philox: Philox::new(seed, Stream::Split, 9), at: 0 };
    for (round, gpu) in two_sets().into_iter().enumerate() {
        let finite = (seed as usize + round).is_multiple_of(2);
        let p = 7 + draw.below(12);
        let task = match finite {
            true => format!("kind = \"modular\"\np = {p}\n"),
            // So short that attention could read shared rows, and so many that those of several replicas would be shared.
            false => format!("kind = \"repeated\"\nd_vocab = {p}\nseq = {}\ntest_sequences = 50\n", 10 + draw.below(7)),
        };
        let heads = 2 + draw.below(2);
        let mut start = format!(
            "[task]\n{task}[model]\nn_layers = {}\nd_model = {}\nn_heads = {heads}\nd_mlp = {}\n",
            1 + draw.below(2),
            heads * (3 + draw.below(6)),
            5 + draw.below(30),
        );
        if !finite || draw.below(2) == 0 {
            write!(start, "[batch]\nsize = {}\n", 9 + draw.below(50)).unwrap();
        }
        let set = if finite { draw.one_of(&["test", "train"]) } else { "test" };
        let size = draw.one_of(&[12, 60, 2000]);
        let replicas: Vec<String> = [8 + draw.below(20), 55 + draw.below(40)]
            .iter()
            .map(|percent| {
                let fraction = if finite { format!("train_fraction = 0.{percent:02}\n") } else { String::new() };
                format!("[[replica]]\nseed = {}\n{fraction}", draw.below(1000))
            })
            .collect();
        let start = at_every_second_step(&start, &format!("size = {size}\nset = {set:?}"));
        measures_in_company_as_alone(gpu, &start, &replicas, &format!("COMPANY_SEED={seed}, round {round}"));
    }
}

/// A device whose bindings are so small that sets are walked in pieces, smaller ones where there are more replicas.
#[test]
fn pieces_that_company_makes_smaller_change_no_measure() {
    let adapter = &adapters()[0];
    let required_limits = wgpu::Limits { max_storage_buffer_binding_size: 256 << 10, ..adapter.limits() };
    let asked = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&asked)).unwrap();
    let gpu = Gpu::from_device(device, queue, Some(adapter));
    let replica = |seed: u32, rest: &str| format!("[[replica]]\nseed = {seed}\n{rest}");
    let fractions =
        |a: f64, b: f64| [(1, a), (2, b)].map(|(seed, x)| replica(seed, &format!("train_fraction = {x}\n")));
    let model = "[model]\nn_layers = 1\nd_model = 24\nn_heads = 2\nd_mlp = 20\n";
    // 455 sequences in a piece alone, 227 beside another; the grid's sums are over 361 of them.
    let modular = format!("[task]\nkind = \"modular\"\np = 19\n{model}[batch]\nsize = 40\n");
    // 68 and 34, of 64.
    let repeated = format!(
        "[task]\nkind = \"repeated\"\nd_vocab = 17\nseq = 20\ntest_sequences = 64\nloss_on_all = true\n{model}[batch]\nsize = 9\n"
    );
    let mut seen = BTreeSet::new();
    for (start, replicas) in [(modular, fractions(0.3, 0.7)), (repeated, [replica(1, ""), replica(2, "")])] {
        // What has no pieces and needs more than so small a device binds.
        let start = at_every_second_step(&start, "size = 30")
            .replace("[measure.probe]", "[measure]\noff = [\"agreement\", \"alignment\"]\n[measure.probe]");
        seen.extend(measures_in_company_as_alone(&gpu, &start, &replicas, "pieces"));
    }
    for name in ["loss.test", "loss.excluded.each", "neuron_fve", "in_context_learning_score", "ablation.loss"] {
        assert!(seen.contains(name), "{name} was not measured");
    }
}
