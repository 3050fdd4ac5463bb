//! A replica computes what it computes alone, whoever trains beside it: random tables of replicas, bit by bit.

use std::fmt::Write as _;

use crate::common::{gpus, losses, two_sets};
use thermoscope::gpu::{Gpu, Philox, Stream};
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

#[test]
fn random_replicas_have_the_bits_they_have_alone() {
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = std::env::var("COMPANY_SEED").map_or_else(|_| now(), |text| text.parse().expect("a number"));
    eprintln!("COMPANY_SEED={seed}");
    for round in 0..2 {
        let mut draw = Draw { philox: Philox::new(seed, Stream::Split, round), at: 0 };
        let p = 5 + draw.below(30);
        let heads = draw.one_of(&[1, 2, 3, 4]);
        let mut start = format!(
            "[task]\nkind = \"modular\"\np = {p}\noperator_token = {}\n[model]\nn_layers = {}\nd_model = {}\nn_heads = {heads}\nd_mlp = {}\nattn_only = {}\n",
            draw.one_of(&["true", "false"]),
            1 + draw.below(2),
            heads * (1 + draw.below(9)),
            1 + draw.below(70),
            draw.one_of(&["true", "false", "false"]),
        );
        if draw.below(2) == 0 {
            start += "normalization_type = \"LN\"\n";
        }
        write!(start, "[optimizer]\nclip = {}\n", draw.one_of(&["0.0", "0.5"])).unwrap();
        if draw.below(3) == 0 {
            write!(start, "[batch]\nsize = {}\n", 1 + draw.below(90)).unwrap();
        }
        let replicas: Vec<String> = (0..2 + draw.below(2))
            .map(|at| {
                format!(
                    "[[replica]]\nseed = {}\ntrain_fraction = 0.{}\nlearning_rate = {}\nweight_decay = 0.{}\nshuffle_labels = {}\n",
                    10 * at + draw.below(10),
                    10 + draw.below(80),
                    draw.one_of(&["1e-3", "3e-3", "0.02"]),
                    draw.below(10),
                    draw.one_of(&["true", "false", "false"]),
                )
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
