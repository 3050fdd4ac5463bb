//! Edits in place of parameters, moments and gradients: the same stretches of a vector that lies like the parameters.

use super::doses::{Window, doses};
use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var};
use crate::error::Result;
use crate::gpu::{Params, Phase, Philox, Shader, Stream, Tensor, grid_1d};

crate::params! {
    struct EditParams {
        parts: u32, last_value: u32, x_replica: u32, doses_replica: u32, parts_replica: u32, values_replica: u32,
        sums_replica: u32,
    }
}
static EDIT_SUMS: Shader<'_> = Shader {
    name: "intervene/edit_sums",
    source: include_str!("../../../shaders/intervene/edit_sums.wgsl"),
    knobs: &[],
    params: EditParams::FIELDS,
};
static EDIT: Shader<'_> = Shader {
    name: "intervene/edit",
    source: include_str!("../../../shaders/intervene/edit.wgsl"),
    knobs: &[],
    params: EditParams::FIELDS,
};
crate::params! {
    struct RotateParams {
        rows: u32, width: u32, x_replica: u32, doses_replica: u32, rows_replica: u32, matrices_replica: u32,
        out_replica: u32,
    }
}
static ROTATE: Shader<'_> = Shader {
    name: "intervene/rotate",
    source: include_str!("../../../shaders/intervene/rotate.wgsl"),
    knobs: &[],
    params: RotateParams::FIELDS,
};
static PUT_ROWS: Shader<'_> = Shader {
    name: "intervene/put_rows",
    source: include_str!("../../../shaders/intervene/put_rows.wgsl"),
    knobs: &[],
    params: RotateParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&EDIT_SUMS, &EDIT, &ROTATE, &PUT_ROWS];

/// Elements that a group changes at most.
const CHANGED: usize = 1024;
/// Elements whose squares a group sums at least; of long spans so many that there are 64 sums at most, which everyone adds.
const SUMMED: usize = 16_384;
const SUMS: usize = 64;
/// Words of a part.
const WORDS: usize = 10;

/// A stretch of parameters, within one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// First element.
    pub(super) first: usize,
    /// Elements.
    pub(super) len: usize,
}

/// What is done to a span. Lengths are Euclidean, of the span or of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Towards the values: all the way with a dose of 1.
    Replace = 0,
    /// As far as that would be, in a random direction.
    Toward = 1,
    /// In a random direction, by `dose` times its length.
    Noise = 2,
    /// The sign of each element turns with probability `dose`.
    Flip = 3,
    /// To the length that the values have.
    Norm = 4,
}

/// An edit of spans.
pub(super) struct EditOf {
    pub(super) mode: Mode,
    /// Slot of its dose.
    pub(super) slot: usize,
    pub(super) spans: Vec<Span>,
    /// Whether lengths are of all spans together.
    pub(super) together: bool,
    /// Where the values of the first span begin, those of the next behind them; `None` where values lie as the parameters do.
    pub(super) values: Option<usize>,
    /// Of what is drawn.
    pub(super) seed: u64,
    pub(super) stream: Stream,
}

impl Mode {
    /// Whether it is of a size that has to be known before.
    fn is_sized(self) -> bool {
        matches!(self, Self::Toward | Self::Noise | Self::Norm)
    }
}

/// Changes x [P] in place, in updates only. Inputs: x, doses [S], clock, values [m], parts that are changed [n, 10], parts that
/// are summed [k, 10]. Output: of each of those the squares of two lengths that `edit_sums.wgsl` names, [k, 2], as they were before.
struct Edit {
    /// Whether anything is of a size.
    sized: bool,
}

/// Appends the edits of each replica, in updates only, to what lies as parameters do, [P]. `values` is what modes with values
/// take them from. Returns what they measured.
pub(super) fn edit(
    tape: &mut Tape,
    [x, doses, clock]: [Var; 3],
    values: Option<Var>,
    replicas: &[Vec<EditOf>],
) -> Result<Var> {
    let (changed, summed): (Vec<_>, Vec<_>) = replicas.iter().map(|edits| parts(edits)).unzip();
    let sized = summed.iter().any(|parts| !parts.is_empty());
    let [changed, summed] = [changed, summed].map(|replicas: Vec<Vec<u32>>| {
        let rows = replicas.iter().map(|own| own.len() / WORDS).max().unwrap_or(0).max(1);
        // Parts that fill up have no element.
        let filled = |own: &Vec<u32>| [&own[..], &vec![0; rows * WORDS - own.len()]].concat();
        tape.constant_u32(&[rows, WORDS], &replicas.iter().flat_map(filled).collect::<Vec<u32>>())
    });
    let values = values.unwrap_or_else(|| tape.constant(&[1], &[0.0]));
    Ok(tape.effect(Edit { sized }, &[x, doses, clock, values, changed, summed])?[0])
}

/// Parts of the edits of a replica: those that are changed, and those whose squares are summed.
fn parts(edits: &[EditOf]) -> (Vec<u32>, Vec<u32>) {
    let (mut changed, mut summed): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    for of in edits {
        let part = |(span, at, len): (&Span, usize, usize), value: Option<usize>, sums: std::ops::Range<usize>| {
            let first = span.first + at;
            let value = value.map_or(first, |value| value + at);
            let numbers = [first, len, of.slot, of.mode as usize, sums.start, sums.len(), value];
            let drawn = [of.seed as u32, (of.seed >> 32) as u32, of.stream as u32];
            numbers.map(|number| number as u32).into_iter().chain(drawn)
        };
        let cut = |span: &Span, most: usize| {
            let len = span.len;
            (0..len).step_by(most).map(move |at| (at, (len - at).min(most)))
        };
        let first_of_all = summed.len() / WORDS;
        let mut value = of.values;
        let mut sums = Vec::new();
        for span in &of.spans {
            let first = summed.len() / WORDS;
            if of.mode.is_sized() {
                for (at, len) in cut(span, SUMMED.max(span.len.div_ceil(SUMS))) {
                    summed.extend(part((span, at, len), value, 0..0));
                }
            }
            sums.push(first..summed.len() / WORDS);
            value = value.map(|value| value + span.len);
        }
        let all = first_of_all..summed.len() / WORDS;
        value = of.values;
        for (span, own) in of.spans.iter().zip(sums) {
            for (at, len) in cut(span, CHANGED) {
                changed.extend(part((span, at, len), value, if of.together { all.clone() } else { own.clone() }));
            }
            value = value.map(|value| value + span.len);
        }
    }
    (changed, summed)
}

impl Op for Edit {
    fn name(&self) -> &'static str {
        "edit"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        match (&inputs[4].dims[..], &inputs[5].dims[..], inputs[0].owned) {
            ([_, WORDS], [summed, WORDS], true) => Ok(vec![Shape::f32(&[*summed, 2])]),
            _ => Err(misfit("edit", format!("parts {:?} and {:?}", inputs[4].dims, inputs[5].dims))),
        }
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, doses, clock, values, changed, summed] = inputs else { return Err(misfit("edit", "inputs")) };
        let sums = &outputs[0];
        let params = |parts: &Tensor| EditParams {
            parts: parts.dims[0] as u32,
            last_value: values.len() as u32 - 1,
            x_replica: x.replica_stride,
            doses_replica: doses.replica_stride,
            parts_replica: parts.replica_stride,
            values_replica: values.replica_stride,
            sums_replica: sums.replica_stride / 2,
        };
        let replicas = cx.replicas;
        let grid = |parts: &Tensor| grid_1d(parts.dims[0] as u64, replicas);
        cx.in_phase(Phase::Update, |cx| {
            if self.sized {
                let tensors = [x, doses, clock, summed, values, sums];
                cx.dispatch(&EDIT_SUMS, &[], &params(summed), &tensors, grid(summed))?;
            }
            cx.dispatch(&EDIT, &[], &params(changed), &[x, doses, clock, changed, values, sums], grid(changed))
        })
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [x, doses, clock, values, _, parts] = inputs else { return Vec::new() };
        let sums = parts.data.chunks_exact(WORDS).flat_map(|row| {
            let word = |at: usize| row[at] as usize;
            let (first, mode, value) = (word(0), word(3) as u32, word(6));
            let seed = word(7) as u64 | (word(8) as u64) << 32;
            let stream =
                if word(9) == Stream::GradientNoise as usize { Stream::GradientNoise } else { Stream::WeightNoise };
            let draw = Philox::new(seed, stream, clock.data[0] as u32);
            let (mut own, mut other) = (0.0, 0.0);
            if doses.data[word(2)] != 0.0 {
                for i in first..first + word(1) {
                    let (x, n) = (x.data[i], crate::gpu::normal(draw.words(i as u64)[0]));
                    let instead = values.data[(value + i - first).min(values.data.len() - 1)];
                    let (a, b) = match mode {
                        _ if mode == Mode::Toward as u32 => (n, instead - x),
                        _ if mode == Mode::Noise as u32 => (n, x),
                        _ if mode == Mode::Norm as u32 => (x, instead),
                        _ => (0.0, 0.0),
                    };
                    own += a * a;
                    other += b * b;
                }
            }
            [own, other]
        });
        vec![Array::new(&[parts.dims[0], 2], sums.collect())]
    }
}

/// A row of parameters that is turned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turned {
    /// First element, and elements from one to the next.
    pub(super) first: usize,
    pub(super) stride: usize,
    /// First element of its matrix.
    pub(super) matrix: usize,
    /// Slot of its dose.
    pub(super) slot: usize,
}

/// Turns rows of x [P] in place, in updates only: x_j = Σ_i x_i Q_ij. Inputs: x, doses [S], rows [n, 4], matrices [m].
struct Rotate {
    width: usize,
}

/// Appends the rotations of each replica, rows of `width` elements with matrices of [K, K], one list of them for each.
pub(super) fn rotate(
    tape: &mut Tape,
    [x, doses]: [Var; 2],
    width: usize,
    replicas: &[(Vec<Turned>, Vec<f32>)],
) -> Result<()> {
    let rows = replicas.iter().map(|(rows, _)| rows.len()).max().unwrap_or(0).max(1);
    let numbers = replicas.iter().map(|(_, matrices)| matrices.len()).max().unwrap_or(0).max(1);
    // Rows that fill up have slot 0, and would turn what another replica's rows turn: theirs is one that is never done.
    let idle = tape.shape(doses).len() - 1;
    let (mut words, mut all) = (Vec::new(), Vec::new());
    for (own, matrices) in replicas {
        for row in own {
            words.extend([row.first, row.stride, row.matrix, row.slot].map(|number| number as u32));
        }
        words.extend((own.len()..rows).flat_map(|_| [0, 0, 0, idle as u32]));
        all.extend(matrices);
        all.extend(std::iter::repeat_n(0.0, numbers - matrices.len()));
    }
    let rows = tape.constant_u32(&[rows, 4], &words);
    let matrices = tape.constant_owned(&[numbers], &all);
    tape.effect(Rotate { width }, &[x, doses, rows, matrices])?;
    Ok(())
}

impl Op for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        match inputs[2].dims[..] {
            [_, 4] => Ok(Vec::new()),
            _ => Err(misfit("rotate", format!("rows {:?}", inputs[2].dims))),
        }
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], _outputs: &[Tensor]) -> Result<()> {
        let [x, doses, rows, matrices] = inputs else { return Err(misfit("rotate", "inputs")) };
        let count = rows.dims[0];
        let turned = cx.scratch(&[count, self.width]);
        let params = RotateParams {
            rows: count as u32,
            width: self.width as u32,
            x_replica: x.replica_stride,
            doses_replica: doses.replica_stride,
            rows_replica: rows.replica_stride / 4,
            matrices_replica: matrices.replica_stride,
            out_replica: turned.replica_stride,
        };
        let grid = grid_1d(((count * self.width) as u64).div_ceil(64), cx.replicas);
        cx.in_phase(Phase::Update, |cx| {
            cx.dispatch(&ROTATE, &[], &params, &[x, doses, rows, matrices, &turned], grid)?;
            cx.dispatch(&PUT_ROWS, &[], &params, &[x, doses, rows, &turned], grid)
        })
    }

    fn reference(&self, _inputs: &[&Array]) -> Vec<Array> {
        Vec::new()
    }
}

/// What edits measure before they change anything, at a step of a window.
pub(super) const CHECKS: &[(&str, Build)] = &[("edits of weights", |case| {
    let (x, values) = (case.owned(&[40_000]), case.owned(&[40_000]));
    let clock = case.tape.constant_u32(&[3], &[4, 5, 4]);
    let edits = |seed| {
        let of = |mode, first, slot| EditOf {
            mode,
            slot,
            spans: vec![Span { first, len: 13_000 }],
            together: false,
            values: None,
            seed,
            stream: Stream::WeightNoise,
        };
        vec![of(Mode::Noise, 0, 0), of(Mode::Toward, 13_000, 1), of(Mode::Norm, 26_000, 0)]
    };
    let window = |from, amount, slot| Window { from, until: None, amount, slot };
    let windows = [vec![window(4, 0.5, 0), window(0, 1.0, 1)], vec![window(5, 1.0, 0), window(1, -1.0, 1)]];
    let doses = doses(&mut case.tape, clock, 2, &windows)?;
    let sums = edit(&mut case.tape, [x, doses, clock], Some(values), &[edits(1), edits(2)])?;
    Ok((vec![sums, doses], Vec::new()))
})];

/// A random orthogonal matrix [K, K]: normal rows made orthonormal one after the other, in f64.
pub(super) fn orthogonal(width: usize, seed: u64, index: u64) -> Vec<f32> {
    let draw = Philox::new(seed, Stream::Pulse, index as u32);
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for row in 0..width {
        let mut own: Vec<f64> = (0..width).map(|i| draw.normals((row * width + i) as u64)[0]).collect();
        // Twice is enough for f64.
        for _ in 0..2 {
            for before in &rows {
                let along: f64 = own.iter().zip(before).map(|(a, b)| a * b).sum();
                own.iter_mut().zip(before).for_each(|(a, b)| *a -= along * b);
            }
        }
        let length = crate::autograd::length(&own);
        own.iter_mut().for_each(|x| *x /= length);
        rows.push(own);
    }
    rows.into_iter().flatten().map(|x| x as f32).collect()
}

/// What the edits of one replica make of x, in f64, with the doses of this step.
#[cfg(test)]
fn edited(x: &[f64], doses: &[f64], step: u32, values: &[f64], edits: &[EditOf]) -> Vec<f64> {
    let mut out = x.to_vec();
    for of in edits.iter().filter(|of| doses[of.slot] != 0.0) {
        let dose = doses[of.slot];
        let mut value = of.values;
        for span in &of.spans {
            let (first, len) = (span.first, span.len);
            let word = |i: usize| Philox::new(of.seed, of.stream, step).words((first + i) as u64)[0];
            let normals: Vec<f64> = (0..len).map(|i| crate::gpu::normal(word(i))).collect();
            let instead: Vec<f64> = match of.mode {
                Mode::Noise | Mode::Flip => vec![0.0; len],
                _ => values[value.unwrap_or(first)..][..len].to_vec(),
            };
            let own = out[first..first + len].to_vec();
            let length = crate::autograd::length;
            let all = |of_span: &dyn Fn(&Span) -> Vec<f64>| -> f64 {
                length(&of.spans.iter().flat_map(of_span).collect::<Vec<f64>>())
            };
            let draws = |span: &Span| -> Vec<f64> {
                let draw = Philox::new(of.seed, of.stream, step);
                (span.first..span.first + span.len).map(|i| crate::gpu::normal(draw.words(i as u64)[0])).collect()
            };
            let noise = match of.together {
                true => all(&|span| x[span.first..span.first + span.len].to_vec()) / all(&draws),
                false => length(&own) / length(&normals),
            };
            let way: Vec<f64> = instead.iter().zip(&own).map(|(v, x)| v - x).collect();
            let (toward, norm) = (length(&way) / length(&normals), length(&instead) / length(&own));
            for (i, x) in out[first..first + len].iter_mut().enumerate() {
                *x = match of.mode {
                    Mode::Replace => own[i] + dose * way[i],
                    Mode::Toward => own[i] + dose * toward * normals[i],
                    Mode::Noise => own[i] + dose * noise * normals[i],
                    Mode::Flip if f64::from(word(i) >> 8) / f64::from(1 << 24) < dose => -own[i],
                    Mode::Flip => own[i],
                    Mode::Norm => own[i] * (1.0 + dose * (norm - 1.0)),
                };
            }
            value = value.map(|value| value + len);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Bindings;
    use crate::autograd::check::gpus;
    use crate::gpu::{Class, Gpu, Select, Storage, read_now};

    /// Runs what `build` appends to a vector x [R, P] in place, at step 7, and returns it.
    fn run(
        gpu: &Gpu,
        x: &[Vec<f32>],
        update: bool,
        build: &dyn Fn(&mut Tape, Var, Var) -> Result<()>,
    ) -> Vec<Vec<f32>> {
        let len = x[0].len();
        let mut tape = Tape::new(x.len() as u32);
        let (var, clock) = (tape.input("x", Shape::f32(&[len])), tape.constant_u32(&[3], &[7, 8, 7]));
        build(&mut tape, var, clock).unwrap();
        let buffer = gpu.upload(Class::Weights, &x.concat()).unwrap();
        let mut bindings = Bindings::new();
        bindings.bind(var, Storage::whole(&buffer, len as u64));
        let program = tape.compile(gpu, &bindings).unwrap();
        program.poison(gpu);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        program.encode(&mut encoder.begin_compute_pass(&Default::default()), Select { step: 7, update });
        gpu.queue().submit([encoder.finish()]);
        let words = read_now(gpu, &buffer, 0..buffer.size()).unwrap();
        words.chunks_exact(len).map(|row| row.iter().map(|word| f32::from_bits(*word)).collect()).collect()
    }

    fn random(len: usize, seed: u64) -> Vec<f32> {
        (0..len).map(|i| Philox::new(seed, Stream::Weights, 0).normals(i as u64)[0] as f32).collect()
    }

    /// Every mode, on spans shorter and longer than what a group changes and sums, one replica with fewer than the other.
    #[test]
    fn edits_are_those_of_the_reference_and_touch_nothing_else() {
        const P: usize = 40_000;
        let own: &[(usize, usize)] = &[(3, 1), (10, 31), (64, 2500), (2700, 1024), (4000, 35_000)];
        let few: &[(usize, usize)] = &[(5, 300)];
        let edits = |(mode, together), spans: &[(usize, usize)], values, slot| {
            let spans = spans.iter().map(|(first, len)| Span { first: *first, len: *len }).collect();
            vec![EditOf { mode, slot, spans, together, values, seed: 5 << 33 | 9, stream: Stream::WeightNoise }]
        };
        let x = [random(P, 1), random(P, 2)];
        let values: Vec<Vec<f32>> = vec![random(P, 3), random(P, 4)];
        for (mode, dose, doses) in [
            ((Mode::Replace, false), None, [1.0, 0.25]),
            ((Mode::Replace, false), Some(0), [0.5, 1.0]),
            ((Mode::Toward, false), Some(17), [1.0, 0.5]),
            ((Mode::Noise, false), None, [0.1, 2.0]),
            ((Mode::Noise, true), None, [0.1, 2.0]),
            ((Mode::Flip, false), None, [0.5, 0.125]),
            ((Mode::Norm, false), None, [1.0, 0.5]),
        ] {
            let both = || [edits(mode, own, dose, 0), edits(mode, few, dose, 1)];
            let build = |tape: &mut Tape, x: Var, clock: Var| {
                let [a, b] = doses;
                let doses = tape.constant_owned(&[2], &[a, 0.0, 0.0, b]);
                let values = tape.constant_owned(&[P], &values.concat());
                edit(tape, [x, doses, clock], Some(values), &both()).map(|_| ())
            };
            for gpu in gpus() {
                let found = run(gpu, &x, true, &build);
                for (replica, edits) in both().iter().enumerate() {
                    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
                    let now = if replica == 0 { [f64::from(doses[0]), 0.0] } else { [0.0, f64::from(doses[1])] };
                    let expected = edited(&wide(&x[replica]), &now, 7, &wide(&values[replica]), edits);
                    let mut touched = 0;
                    for (i, (found, expected)) in found[replica].iter().zip(&expected).enumerate() {
                        let inside = edits[0].spans.iter().any(|span| (span.first..span.first + span.len).contains(&i));
                        if inside {
                            touched += usize::from(*found != x[replica][i]);
                            // Sums of 2,500 squares, a logarithm and a root: some dozen roundings of numbers up to 6.
                            assert!(
                                (f64::from(*found) - expected).abs() < 2e-5,
                                "{mode:?} on {}: {i} is {found} instead of {expected}",
                                gpu.caps().name
                            );
                        } else {
                            assert_eq!(found.to_bits(), x[replica][i].to_bits(), "{mode:?}: {i} lies outside");
                        }
                    }
                    // Of flips with probability 1/8, 37 of 300.
                    assert!(touched > edits[0].spans.iter().map(|span| span.len).sum::<usize>() / 12, "{mode:?}");
                }
                let still = run(gpu, &x, false, &build);
                assert!(still == x, "{mode:?}: what is only measured is left alone");
            }
        }
    }

    #[test]
    fn a_dose_of_nothing_leaves_every_bit() {
        let x = [vec![-0.0, 0.0, 1e-42, f32::INFINITY, f32::NAN, -1.0]];
        for mode in [Mode::Replace, Mode::Toward, Mode::Noise, Mode::Flip, Mode::Norm] {
            let build = |tape: &mut Tape, x: Var, clock: Var| {
                let doses = tape.constant_owned(&[1], &[0.0]);
                let values = tape.constant_owned(&[6], &[9.0; 6]);
                let spans = vec![Span { first: 0, len: 6 }];
                let stream = Stream::WeightNoise;
                let of = EditOf { mode, slot: 0, spans, together: false, values: None, seed: 1, stream };
                edit(tape, [x, doses, clock], Some(values), &[vec![of]]).map(|_| ())
            };
            for gpu in gpus() {
                let bits = |x: &[Vec<f32>]| x.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
                assert_eq!(bits(&run(gpu, &x, true, &build)), bits(&x), "{mode:?} on {}", gpu.caps().name);
            }
        }
    }

    #[test]
    fn rows_are_turned_by_orthogonal_matrices_and_columns_too() {
        for width in [1, 3, 31, 64, 257] {
            let q = orthogonal(width, 11, 4);
            for (a, b) in (0..width).flat_map(|a| (0..=a).map(move |b| (a, b))).take(2000) {
                let dot: f64 = (0..width).map(|i| f64::from(q[a * width + i]) * f64::from(q[b * width + i])).sum();
                assert!((dot - f64::from(u8::from(a == b))).abs() < 1e-5, "{width}: rows {a} and {b}: {dot}");
            }
            assert!(width == 1 || q != orthogonal(width, 11, 5));
            // Three rows, and three columns of a matrix behind them; the second replica turns one row only.
            let len = 6 * width + 5;
            let x = [random(len, 8), random(len, 9)];
            let row = |first, stride, slot| Turned { first, stride, matrix: 0, slot };
            let own: Vec<Turned> = (0..3).flat_map(|i| [row(i * width, 1, 0), row(3 * width + i, 3, 0)]).collect();
            let replicas = [(own, q.clone()), (vec![row(5, 1, 1)], orthogonal(width, 12, 0))];
            let build = |tape: &mut Tape, x: Var, _: Var| {
                let doses = tape.constant_owned(&[3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
                rotate(tape, [x, doses], width, &replicas)
            };
            for gpu in gpus() {
                let found = run(gpu, &x, true, &build);
                for (replica, (rows, q)) in replicas.iter().enumerate() {
                    let mut expected: Vec<f64> = x[replica].iter().map(|x| f64::from(*x)).collect();
                    for row in rows {
                        let old: Vec<f64> = (0..width).map(|i| expected[row.first + i * row.stride]).collect();
                        for j in 0..width {
                            expected[row.first + j * row.stride] =
                                (0..width).map(|i| old[i] * f64::from(q[i * width + j])).sum();
                        }
                    }
                    for (found, expected) in found[replica].iter().zip(&expected) {
                        // Sums of up to 257 products whose squares add up to some 257.
                        assert!((f64::from(*found) - expected).abs() < 1e-5, "{width} on {}", gpu.caps().name);
                    }
                }
                assert!(run(gpu, &x, false, &build) == x, "what is only measured is left alone");
            }
        }
    }
}
