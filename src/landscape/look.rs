//! A look at a run's landscape between two of its steps: curvature at one set of weights, over what a replica is trained on.

use super::{Examples, Matrix, Surface, Symmetric, dot, ends, signs, trace};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::instrument::{Card, CostClass, Index, layer_of};
use crate::intervene::PulseKind;
use crate::train::{OptimizerKind, ResolvedRun, Snapshot};

/// What looks go by where instruments are listed.
pub const INSTRUMENT: &str = "landscape";

/// Residuals of the largest eigenvalues in relation to the largest: by then these are right to some 1e-5, for the error of an
/// eigenvalue that stands apart goes by the square.
const TOLERANCE: f64 = 3e-3;
/// Sequences of a task without end, where the configuration names no number.
const DRAWN: usize = 64;
/// Seed of the directions that every look takes, so that looks at two steps differ in their weights alone.
const SEED: u64 = 0;

const TOP: Card = Card {
    name: "curvature.top",
    formula: "largest eigenvalues of the Hessian of the mean loss over what a replica is trained on, without weight decay: Lanczos with full reorthogonalization on exact products",
    unit: "nats",
    axes: "index: rank, from the largest",
    cost: CostClass::H,
    every: 0,
    control: "curvature.top.residual: an eigenvalue lies no further from it. One that the matrix has several times is found once",
    source: "Lanczos 1950; products forward over reverse, Pearlmutter 1994",
    not_for: "flatness in itself: scaling weights that a norm or a ReLU takes back changes it, and not the function",
    index: Index::Counts("rank, from the largest"),
    ..Card::BASE
};
const TRACE: Card = Card {
    name: "curvature.trace",
    formula: "trace of the same, in total, by tensor and by head: mean of vᵀ H v over random signs v",
    axes: "site: the tensor, or \"all\"; layer, head",
    control: "curvature.trace.se. The directions are the same at every look, so that errors of neighbours go together",
    source: "Hutchinson 1990",
    not_for: "fewer directions than its error allows",
    index: Index::None,
    ..TOP
};
const SHARE: Card = Card {
    name: "curvature.gradient_share",
    formula: "share of the squared length of a direction in the eigenvectors of curvature.top",
    unit: "1",
    axes: "index: 0 of the gradient, 1 of a random direction",
    control: "index 1",
    source: "Gur-Ari, Roberts and Dyer 2018",
    bounds: Card::SHARE,
    not_for: "eigenvalues that lie close together, whose eigenvectors are not told apart",
    index: Index::Names(&["the gradient", "a random direction"]),
    ..TOP
};
const EDGE: Card = Card {
    name: "curvature.edge",
    formula: "what the optimizer amplifies by, in relation to where it becomes unstable: η λ/(2 + 2 μ) of SGD with momentum μ; of Adam η λ (1 - β1)/(2 + 2 β1) with the largest eigenvalue λ of P^-1/2 H P^-1/2, P = (1 - β1^(t+1)) (√v̂ + eps)",
    unit: "1",
    axes: "none",
    control: "1: there oscillations neither grow nor shrink on a quadratic loss. Its λ is curvature.preconditioned, or curvature.top",
    source: "Cohen et al. 2021, 2022",
    not_for: "drawn batches, whose noise keeps it below 1; what clipping or decay do",
    bounds: [f64::NEG_INFINITY, f64::INFINITY],
    index: Index::None,
    ..TOP
};

/// What a look finds.
pub const CARDS: &[Card] = &[
    TOP,
    Card {
        name: "curvature.top.residual",
        formula: "‖H v - λ v‖ of each, v its vector of length 1",
        control: "3e-3 of the largest, where products sufficed",
        source: "definition",
        not_for: "errors of the products themselves, some 1e-6 of the largest eigenvalue in f32",
        bounds: Card::SIZE,
        ..TOP
    },
    Card {
        name: "curvature.bottom",
        formula: "smallest eigenvalue of the same, from the same products",
        axes: "none",
        control: "at the least as far below as this: Lanczos comes from above",
        index: Index::None,
        ..TOP
    },
    TRACE,
    Card {
        name: "curvature.trace.se",
        formula: "standard error of curvature.trace over its directions",
        control: "each direction is one observation",
        bounds: Card::SIZE,
        ..TRACE
    },
    Card {
        name: "curvature.gradient",
        formula: "gᵀ H g/‖g‖² along the gradient g of the same loss",
        axes: "none",
        control: "curvature.top, which it cannot exceed; curvature.trace by the number of parameters: of a random direction",
        source: "definition",
        not_for: "drawn batches' own gradients",
        index: Index::None,
        ..TOP
    },
    SHARE,
    Card {
        name: "curvature.preconditioned",
        formula: "largest eigenvalue of P^-1/2 H P^-1/2 with Adam's P: see curvature.edge",
        unit: "1 by learning rate",
        axes: "none",
        control: "(2 + 2 β1)/((1 - β1) η): see curvature.edge",
        source: "Cohen et al. 2022",
        index: Index::None,
        ..TOP
    },
    EDGE,
];

/// A number that a look found.
#[derive(Clone, Debug, PartialEq)]
pub struct Looked {
    /// Name of its card.
    pub metric: &'static str,
    /// The tensor, or `all` of what has parts; else nothing.
    pub site: String,
    /// Layer, head and index; -1 where there is none.
    pub place: [i32; 3],
    /// The number.
    pub value: f64,
}

/// A D A with a diagonal A.
struct Scaled<'a> {
    inner: &'a mut Surface,
    by: Vec<f64>,
}

impl Symmetric for Scaled<'_> {
    fn size(&self) -> usize {
        self.inner.size()
    }

    fn together(&self) -> usize {
        self.inner.together()
    }

    fn times(&mut self, vectors: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
        let scale = |x: &Vec<f64>| x.iter().zip(&self.by).map(|(x, by)| x * by).collect::<Vec<f64>>();
        let products = self.inner.times(&vectors.iter().map(scale).collect::<Vec<_>>())?;
        Ok(products.iter().map(scale).collect())
    }
}

/// Looks at a replica of a run in a state of it. `go_on` is asked before every product; `None` where it said no. The same state
/// gives the same numbers, whatever was looked at before; one that diverged gives none.
///
/// # Errors
/// Where an op of the model has no forward derivative, or the device is too small or fails.
pub fn look(
    gpu: &Gpu,
    run: &ResolvedRun,
    state: &Snapshot,
    replica: usize,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<Looked>>> {
    let config = &run.measure.landscape;
    let examples = match config.sequences {
        0 => Examples::AllOr(DRAWN),
        count => Examples::Drawn(count),
    };
    let mut surface = Surface::new(gpu, run, replica, examples, Matrix::Hessian, 1)?;
    surface.set_weights(&state.weights[replica])?;
    match around(&mut surface, run, state, replica, go_on) {
        // What is no finite number has no curvature.
        Err(Error::Refused(_)) => Ok(Some(Vec::new())),
        found => found,
    }
}

fn around(
    surface: &mut Surface,
    run: &ResolvedRun,
    state: &Snapshot,
    replica: usize,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<Looked>>> {
    let config = &run.measure.landscape;
    let mut found = Vec::new();
    let mut add = |metric, index, value| {
        found.push(Looked { metric, site: String::new(), place: [-1, -1, index], value });
    };
    let limits = (TOLERANCE, config.products);
    // None of the directions of the trace.
    let start = signs(surface.size(), SEED, u32::MAX);
    let Some(of_all) = ends(surface, start.clone(), config.top, limits, |_| go_on())? else { return Ok(None) };
    for (rank, pair) in (0..).zip(&of_all.top) {
        add("curvature.top", rank, pair.value);
        add("curvature.top.residual", rank, pair.residual);
    }
    of_all.bottom.first().into_iter().for_each(|least| add("curvature.bottom", -1, least.value));

    let (_, gradient) = surface.gradient()?;
    let length = dot(&gradient, &gradient);
    let share = |of: &[f64]| of_all.top.iter().map(|pair| dot(&pair.vector, of).powi(2)).sum::<f64>() / dot(of, of);
    if length > 0.0 {
        let along = surface.times(std::slice::from_ref(&gradient))?;
        add("curvature.gradient", -1, dot(&gradient, &along[0]) / length);
        add("curvature.gradient_share", 0, share(&gradient));
        add("curvature.gradient_share", 1, share(&signs(surface.size(), SEED, u32::MAX - 1)));
    }

    let rate = learning_rate(run, replica, state.step);
    let optimizer = run.optimizer_of(replica);
    let (sharpness, momentum, gain) = match optimizer.kind {
        OptimizerKind::Sgd => (of_all.top.first().map(|pair| pair.value), optimizer.momentum, 1.0),
        _ => {
            let [beta1, beta2] = optimizer.betas;
            let updates = state.step - restarted(run, replica, state.step);
            // Before its first update Adam has no scale.
            let by = (updates > 0).then(|| {
                let [first, second] =
                    [(beta1, updates + 1), (beta2, updates)].map(|(beta, t)| 1.0 - beta.powf(t as f64));
                let moments = surface.vector(&state.second[replica]);
                moments.iter().map(|v| (first * ((v / second).sqrt() + optimizer.eps)).sqrt().recip()).collect()
            });
            let top = match by {
                Some(by) => {
                    let mut scaled = Scaled { inner: &mut *surface, by };
                    let Some(ends) = ends(&mut scaled, start, 1, limits, |_| go_on())? else { return Ok(None) };
                    ends.top.first().map(|pair| pair.value)
                }
                None => None,
            };
            top.into_iter().for_each(|value| add("curvature.preconditioned", -1, value));
            (top, beta1, 1.0 - beta1)
        }
    };
    sharpness.into_iter().for_each(|value| add("curvature.edge", -1, rate * value * gain / (2.0 + 2.0 * momentum)));

    if config.directions > 0 {
        let parts = surface.parts(run.model.n_heads);
        let ranges: Vec<_> = parts.iter().map(|part| part.range.clone()).collect();
        let Some(traces) = trace(surface, &ranges, config.directions, SEED, |_| go_on())? else {
            return Ok(None);
        };
        let whole = ("all".to_owned(), [-1; 3], traces.total);
        let places = parts.into_iter().zip(traces.parts).map(|(part, trace)| {
            let layer = layer_of(&part.tensor);
            (part.tensor, [layer, part.head.map_or(-1, |head| head as i32), -1], trace)
        });
        for (site, place, trace) in std::iter::once(whole).chain(places) {
            for (metric, value) in [("curvature.trace", trace.value), ("curvature.trace.se", trace.error)] {
                found.push(Looked { metric, site: site.clone(), place, value });
            }
        }
    }
    Ok(Some(found))
}

/// The learning rate of the coming update, with what is done to it.
fn learning_rate(run: &ResolvedRun, replica: usize, step: u64) -> f64 {
    let active = |from: u64, end: Option<u64>| from <= step && end.is_none_or(|end| step < end);
    let pulses = run.pulses_of(replica).iter();
    let pulses = pulses.filter(|pulse| pulse.what == PulseKind::LearningRate && active(pulse.from, pulse.end()));
    let changed: f64 = pulses.map(|pulse| pulse.dose * (pulse.factor.unwrap_or(1.0) - 1.0)).sum();
    run.optimizer_of(replica).learning_rate * run.schedule.share(step, run.steps) * (1.0 + changed)
}

/// The step from which the moments count.
fn restarted(run: &ResolvedRun, replica: usize, step: u64) -> u64 {
    let pulses = run.pulses_of(replica).iter();
    let resets = pulses.filter(|pulse| pulse.what == PulseKind::ResetMoments && pulse.dose > 0.0 && pulse.from <= step);
    resets.map(|pulse| pulse.from).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::gpus;
    use crate::record::Setup;
    use crate::train::Session;

    const SMALL: &str = "steps = 40\nseed = 3\n[task]\nkind = \"modular\"\np = 5\ntrain_fraction = 0.8\n\
        [model]\nn_layers = 1\nd_model = 4\nn_heads = 2\nd_mlp = 6\nact_fn = \"gelu\"\n\
        [measure.landscape]\nevery = 10\ntop = 2\nproducts = 200\ndirections = 64\n";

    fn run(more: &str) -> ResolvedRun {
        Setup::from_toml(&format!("{SMALL}{more}")).unwrap().config
    }

    /// The largest eigenvalue of A + shift by repeated products, less the shift, and its vector.
    fn power(rows: &[Vec<f64>], shift: f64) -> (f64, Vec<f64>) {
        let mut v = signs(rows.len(), 9, 0);
        let mut value = 0.0;
        for _ in 0..20_000 {
            let next: Vec<f64> = rows.iter().zip(&v).map(|(row, own)| dot(row, &v) + shift * own).collect();
            value = dot(&next, &next).sqrt();
            v = next.iter().map(|x| x / value).collect();
        }
        (value - shift, v)
    }

    #[test]
    fn a_look_finds_what_the_whole_matrix_says() {
        let gpu = &gpus()[0];
        for (more, kind) in
            [("", "adam"), ("[optimizer]\nkind = \"sgd\"\nmomentum = 0.5\nlearning_rate = 0.1\n", "sgd")]
        {
            let run = run(more);
            let mut session = Session::new(gpu, Setup::from_toml(&format!("{SMALL}{more}")).unwrap().config).unwrap();
            let submitted = session.submit(7);
            gpu.wait_for(submitted).unwrap();
            let state = session.snapshot().unwrap();
            let found = look(gpu, &run, &state, 0, &mut || true).unwrap().unwrap();
            assert_eq!(
                found,
                look(gpu, &run, &state, 0, &mut || true).unwrap().unwrap(),
                "the same state, the same look"
            );
            assert_eq!(look(gpu, &run, &state, 0, &mut || false).unwrap(), None);
            let mut diverged = state.clone();
            diverged.weights[0][3] = f32::NAN;
            assert_eq!(look(gpu, &run, &diverged, 0, &mut || true).unwrap(), Some(Vec::new()));
            let of = |metric: &str, index: i32| {
                let mut own = found.iter().filter(|one| one.metric == metric && one.place == [-1, -1, index]);
                own.find(|one| ["", "all"].contains(&one.site.as_str())).map(|one| one.value)
            };

            let mut surface = Surface::new(gpu, &run, 0, Examples::All, Matrix::Hessian, 4).unwrap();
            surface.set_weights(&state.weights[0]).unwrap();
            let size = surface.size();
            let unit = |at: usize| (0..size).map(|other| f64::from(u8::from(other == at))).collect::<Vec<f64>>();
            let rows = surface.times(&(0..size).map(unit).collect::<Vec<_>>()).unwrap();
            let shift = 0.0f64.max(-of("curvature.bottom", -1).unwrap());
            let (top, vector) = power(&rows, shift);
            // By its square the residual is some 1e-5 of it; products are right to 1e-6.
            let close = |a: f64, b: f64| (a - b).abs() < 1e-4 * b.abs();
            assert!(close(of("curvature.top", 0).unwrap(), top), "{found:?} {top}");
            assert!(of("curvature.top", 1).unwrap() < top && of("curvature.top", 2).is_none());
            let negative: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|x| -x).collect()).collect();
            // The other end is not what the products stop at.
            assert!((of("curvature.bottom", -1).unwrap() + power(&negative, top).0).abs() < 1e-2 * top);

            let (_, g) = surface.gradient().unwrap();
            let along: f64 = rows.iter().zip(&g).map(|(row, own)| own * dot(row, &g)).sum::<f64>() / dot(&g, &g);
            assert!((of("curvature.gradient", -1).unwrap() - along).abs() < 1e-5 * top);
            let without =
                |(row, own): (&Vec<f64>, &f64)| row.iter().zip(&vector).map(|(x, v)| x - top * own * v).collect();
            let deflated: Vec<Vec<f64>> = rows.iter().zip(&vector).map(without).collect();
            let (_, second) = power(&deflated, shift);
            let random = signs(size, SEED, u32::MAX - 1);
            for (index, of_which) in [(0, &g), (1, &random)] {
                let inside = dot(&vector, of_which).powi(2) + dot(&second, of_which).powi(2);
                let share = of("curvature.gradient_share", index).unwrap();
                assert!((share - inside / dot(of_which, of_which)).abs() < 1e-3, "{share} {inside}");
            }

            let exact: f64 = (0..size).map(|at| rows[at][at]).sum();
            let [trace, error] = ["curvature.trace", "curvature.trace.se"].map(|metric| of(metric, -1).unwrap());
            assert!((trace - exact).abs() < 4.0 * error && error < 0.5 * exact.abs(), "{trace} ± {error}, {exact}");
            let heads = found.iter().filter(|one| one.metric == "curvature.trace" && one.place[1] == 1);
            assert!(heads.clone().count() >= 4 && heads.clone().all(|one| one.place[0] == 0), "{found:?}");

            let edge = of("curvature.edge", -1).unwrap();
            if kind == "sgd" {
                assert!(close(edge, 0.1 * top / 3.0) && of("curvature.preconditioned", -1).is_none());
                continue;
            }
            let ([beta1, beta2], eps) = (run.optimizer.betas, run.optimizer.eps);
            let scale = |v: &f64| {
                let root = (v / (1.0 - beta2.powi(7))).sqrt() + eps;
                1.0 / ((1.0 - beta1.powi(8)) * root).sqrt()
            };
            let by: Vec<f64> = surface.vector(&state.second[0]).iter().map(scale).collect();
            let scaled = |(row, own): (&Vec<f64>, &f64)| row.iter().zip(&by).map(|(x, by)| own * x * by).collect();
            let scaled: Vec<Vec<f64>> = rows.iter().zip(&by).map(scaled).collect();
            let least = scaled.iter().map(|row| row.iter().map(|x| x.abs()).sum::<f64>()).fold(0.0, f64::max);
            let (sharpness, _) = power(&scaled, least);
            let own = of("curvature.preconditioned", -1).unwrap();
            assert!((own - sharpness).abs() < 1e-3 * sharpness, "{own} {sharpness}");
            assert!(close(edge, 1e-3 * own * (1.0 - beta1) / (2.0 + 2.0 * beta1)));
        }
    }

    #[test]
    fn the_edge_knows_schedule_and_pulses() {
        let run = run(
            "[schedule]\nwarmup = 8\n[optimizer]\nlearning_rate = 0.01\n[[replica]]\n[[replica]]\nlearning_rate = 0.02\n\
             intervene = [{ what = \"learning_rate\", factor = 3, dose = 0.5, from = 10, until = 20 }, { what = \"reset_moments\", from = 15 }]\n",
        );
        for (replica, step, rate) in [(0, 4, 0.005), (0, 12, 0.01), (1, 9, 0.02), (1, 10, 0.04), (1, 20, 0.02)] {
            assert!((learning_rate(&run, replica, step) - rate).abs() < 1e-12, "replica {replica} step {step}");
        }
        assert_eq!([restarted(&run, 0, 30), restarted(&run, 1, 14), restarted(&run, 1, 15)], [0, 0, 15]);
    }
}
