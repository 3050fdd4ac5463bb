//! Training with products in f16, on devices that can; on others, that it is refused with advice.

use crate::common::{arrived, losses};
use thermoscope::Error;
use thermoscope::autograd::verify_cooperative;
use thermoscope::gpu::{AdapterChoice, Gpu, Options, adapters};
use thermoscope::record::Setup;
use thermoscope::train::Session;

/// 576 examples in 67 classes: all products but those of single heads are large enough for f16.
const MODULAR: &str = r#"
    steps = 100
    replicas = 2
    [task]
    kind = "modular"
    p = 67
    [model]
    d_model = 64
    n_heads = 2
    d_mlp = 96
    mlp_biases = true
    [optimizer]
    learning_rate = 0.003
    weight_decay = 0.1
    [batch]
    size = 576
    [measure.every]
    "loss.test" = 1
"#;

fn session(gpu: &Gpu, top: &str) -> Result<Session, Error> {
    Session::new(gpu, Setup::from_toml(&format!("{top}\n{MODULAR}")).unwrap().config)
}

/// Devices of every adapter, whether they can or not, with bounds checks.
fn opened() -> Vec<Gpu> {
    let options = Options { checked: true, plain: false, cooperative: true };
    (0..adapters().len()).map(|index| Gpu::open(&AdapterChoice::Index(index), options).unwrap()).collect()
}

/// Those that can. The others must refuse f16, and say what to do.
fn able() -> Vec<Gpu> {
    let can = |gpu: &Gpu| match verify_cooperative(gpu) {
        Ok(()) => true,
        Err(error) => {
            assert!(gpu.caps().cooperative_side.is_none(), "{error}");
            for precision in ["f16", "f16-forward"] {
                let refused = session(gpu, &format!("precision = \"{precision}\"")).err().unwrap().to_string();
                assert!(refused.contains("precision = \"f32\""), "{refused}");
            }
            eprintln!("training in f16 is not tested here: {error}");
            false
        }
    };
    opened().into_iter().filter(can).collect()
}

#[test]
fn f16_is_refused_until_the_device_has_proved_able() {
    for gpu in opened() {
        let refused = session(&gpu, "precision = \"f16\"").err().unwrap().to_string();
        assert!(refused.contains("verify_cooperative"), "{refused}");
        assert!(session(&gpu, "").is_ok(), "f32 needs no proof");
    }
}

#[test]
fn each_precision_takes_its_kernels_and_trains_alike() {
    for gpu in able() {
        let [whole, forward, both] = ["f32", "f16-forward", "f16"].map(|precision| {
            let mut session = session(&gpu, &format!("precision = \"{precision}\"")).unwrap();
            let kernels = session.kernels();
            let coop = || kernels.iter().filter(|kernel| kernel.starts_with("matmul_coop"));
            let used = coop().count();
            for (what, where_) in [("ACTIVATE", "f16-forward f16"), ("SLOPE", "f16"), ("SUMS", "f16")] {
                let does = coop().any(|kernel| kernel.contains(what));
                let expected = where_.split(' ').any(|one| one == precision);
                assert_eq!(does, expected, "{what} with {precision}: {kernels:?}");
            }
            session.submit(1);
            let first = arrived(&gpu, &mut session).remove(0);
            let test = |r| first.value(session.metrics(), "loss.test", r).unwrap();
            let tests = [test(0), test(1)];
            let scale = first.value(session.metrics(), "loss_scale", 0);
            (used, tests, scale, losses(&gpu, &mut session, 40))
        });
        assert_eq!(whole.0, 0, "f32 is f32");
        assert!(forward.0 >= 4 && both.0 > forward.0, "{} and {}", forward.0, both.0);
        // Instruments compute in f32: before the first update, when weights are the same, they see the same bits.
        assert_eq!([forward.1, both.1], [whole.1; 2]);
        assert_eq!([whole.2, forward.2, both.2], [None, None, Some(65536.0)]);
        for (name, found) in [("f16-forward", &forward.3), ("f16", &both.3)] {
            let pairs = || found.iter().flatten().zip(whole.3.iter().flatten());
            let worst = pairs().map(|(a, b)| (a - b).abs() / b).fold(0.0, f32::max);
            println!("{name} on {}: train loss off by {worst:.1e} of itself within 40 steps", gpu.caps().name);
            // Rounding to 5e-4 of each factor, which 40 steps of training amplify; and not none at all.
            assert!(worst > 0.0 && worst < 0.02, "{name}: {worst}");
        }
        let (first, last) = (whole.3[0][0], both.3[39][0]);
        assert!(last < first - 0.1, "nothing was learnt: {first} to {last}");
    }
}

#[test]
fn an_overflow_costs_steps_but_no_weights_and_a_restored_run_goes_on_alike() {
    for gpu in able() {
        // A wrong logit's gradient is near 1/64, and 2^24 times that is beyond 65504.
        let text = MODULAR.replace("size = 576", "size = 64");
        let few = |scale: u32| {
            let setup = Setup::from_toml(&format!("precision = \"f16\"\nloss_scale = {scale}\n{text}")).unwrap();
            Session::new(&gpu, setup.config).unwrap()
        };
        let mut alone = {
            let text = text.replace("replicas = 2", "seed = 1");
            let setup = Setup::from_toml(&format!("precision = \"f16\"\n{text}")).unwrap();
            Session::new(&gpu, setup.config).unwrap()
        };
        let second: Vec<f32> = losses(&gpu, &mut few(1 << 16), 5).iter().map(|row| row[1]).collect();
        assert_eq!(losses(&gpu, &mut alone, 5).concat(), second, "a replica has the bits it has alone");
        let mut run = few(1 << 24);
        let start = run.snapshot().unwrap();
        run.submit(1);
        let after = run.snapshot().unwrap();
        assert!(after.weights == start.weights && after.first == start.first && after.second == start.second);
        assert_eq!((start.loss_scale, after.loss_scale), (vec![16777216.0; 2], vec![8388608.0; 2]));
        run.submit(30);
        let rows = arrived(&gpu, &mut run);
        let scales: Vec<f32> = rows.iter().map(|row| row.value(run.metrics(), "loss_scale", 0).unwrap()).collect();
        assert!(scales.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] / 2.0), "{scales:?}");
        let last = *scales.last().unwrap();
        println!("on {} the scale came down from 2^24 to {last}", gpu.caps().name);
        assert!((65536.0..16777216.0).contains(&last), "{scales:?}");
        let middle = run.snapshot().unwrap();
        assert!(middle.weights != start.weights && middle.weights.iter().flatten().all(|w| w.is_finite()));
        let on = losses(&gpu, &mut run, 5);
        let mut again = few(1 << 16);
        again.restore(&middle).unwrap();
        assert_eq!(losses(&gpu, &mut again, 5), on);
        assert!(again.snapshot().unwrap() == run.snapshot().unwrap());
    }
}
