//! Scans that go on.

use super::*;

#[test]
fn what_goes_on_behind_a_layer_has_the_same_bits() {
    let folder = golden("llama");
    let prompts = random(9, 7, 19, 3);
    for baseline in [Baseline::Zero, Baseline::Mean, Baseline::Resample] {
        let what = Battery { baseline, pairs: true, draws: 39, ..ALL };
        for gpu in gpus() {
            let whole = scan(gpu, &folder, &prompts, &what);
            let mut engine = Engine::new(gpu, folder.clone(), &prompts).unwrap();
            assert_eq!(bits(&engine.clean().unwrap()), bits(&whole.0));
            engine.skip_layer().unwrap();
            for whole in &whole.1[1..] {
                let part = engine.next_layer(&what, |_| true).unwrap().unwrap();
                let all = |found: &LayerOutcomes| {
                    [&found.heads, &found.mlp, &found.sham, &found.null, &found.pairs]
                        .map(|lists| lists.iter().map(|list| bits(list)).collect::<Vec<_>>())
                };
                assert_eq!(all(&part), all(whole), "{baseline:?} on {}", gpu.caps().name);
                assert_eq!(part.direct, whole.direct);
            }
        }
    }
}

#[test]
fn what_was_found_is_read_as_it_was_written() {
    let folder = golden("gpt2");
    let prompts = random(9, 7, 19, 3);
    let gpu = &gpus()[0];
    let what = Battery { pairs: true, draws: 39, ..ALL };
    let scanned = scan(gpu, &folder, &prompts, &what);
    let mut found = findings(&folder, &prompts, 39, &scanned);
    found.repeated = Engine::new(gpu, folder.clone(), &prompts).unwrap().repeated().unwrap();
    let dir = tempfile::tempdir().unwrap();
    found.write(dir.path()).unwrap();
    // Every bit of every number, so that a scan that goes on ends as one that was never stopped.
    assert_eq!(Findings::read(dir.path()).unwrap().unwrap(), found);
    assert!(found.sentences().len() >= 3, "{:?}", found.sentences());
}
