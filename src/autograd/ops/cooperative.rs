//! Matrix products through cooperative matrices: factors rounded to f16, sums in f32. When they are taken, and how a
//! device proves that it computes them right before any run relies on it.

use std::sync::Mutex;

use super::super::check::Case;
use super::super::{Checked, Lower, Var};
use super::matmul::{Choice, Form, Matmul, MatmulParams, product_knobs};
use super::{HeadResult, Linear, Scale, TransposedProduct};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Gpu, Knob, Params, Shader};

/// Lanes of the largest subgroup the kernel is made for.
const LANES: &[u32] = &[4, 8, 16, 32, 64];
static COOP: Shader<'_> = Shader {
    name: "linear/matmul_coop",
    source: include_str!("../../../shaders/linear/matmul_coop.wgsl"),
    knobs: product_knobs![
        Knob { name: "FORM", values: &[0, 1, 2] },
        Knob { name: "WIDE", values: &[0, 1] },
        Knob { name: "TILE", values: &[64, 128] },
        Knob { name: "LANES", values: LANES },
    ],
    params: MatmulParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&COOP];

/// Side of the smaller tile, and terms staged at a time: less than that is not worth a tile.
const TILE: usize = 64;
const DEPTH: usize = 32;
/// The larger tile needs more than the 16 KiB of workgroup memory that every device has.
const LARGE_MEMORY: u32 = 30 << 10;
/// Longest sum on software drivers, which end a shader's loops, without a word, after 65,535 iterations: staging and
/// multiplying 32 terms there takes up to some 200.
const SOFTWARE_DEPTH: usize = 8192;

impl Matmul<'_> {
    /// The kernel for this product in f16, where its op may have that and it is large enough to gain.
    ///
    /// # Errors
    /// [`Error::Limit`] where a software driver would cut the sum off.
    pub(super) fn cooperative(&self, cx: &Lower<'_>) -> Result<Option<Choice>> {
        let caps = cx.gpu().caps();
        let (Some(side), Some((_, lanes))) = (cx.cooperative(), caps.subgroup) else { return Ok(None) };
        let cut = caps.is_software() && self.k > SOFTWARE_DEPTH;
        // By the weight's shape alone: company lengthens lists of rows, and shall change no bit.
        let small = match self.form {
            Form::TN => self.m.min(self.n) < TILE,
            Form::NN | Form::NT => self.n < TILE || self.k < DEPTH || cut,
        };
        if small {
            return Ok(None);
        }
        if cut {
            return Err(Error::Limit(format!(
                "a product in f16 sums over {} rows; {} cuts kernels off beyond {SOFTWARE_DEPTH}. Use precision = \"f32\", a smaller batch or a GPU",
                self.k, caps.name
            )));
        }
        let layers = self.batches.0 * self.batches.1;
        let filled = self.m.div_ceil(128) * self.n.div_ceil(128) * layers >= 100 && self.m.min(self.n) >= 96;
        let large = filled && caps.max_workgroup_memory >= LARGE_MEMORY && 8 * lanes <= caps.max_invocations;
        let tile = if large { 128 } else { TILE as u32 };
        let knobs = [&[self.form as u32, u32::from(side == 16), tile, lanes], &self.flags()[..]].concat();
        Ok(Some(Choice { shader: &COOP, knobs, rows: tile, columns: tile }))
    }
}

/// Whether the kernel can be compiled for subgroups as large as this device's.
fn fits(caps: &Caps) -> bool {
    caps.subgroup.is_some_and(|(_, lanes)| LANES.contains(&lanes) && 4 * lanes <= caps.max_invocations)
}

/// Runs products through cooperative matrices on the device, compares them with f64, and lets ops recorded by
/// [`Tape::in_halves`](crate::autograd::Tape::in_halves) use them from then on. Submits work and waits for it. A host must
/// have created the device with [`Caps::COOPERATIVE`].
///
/// # Errors
/// [`Error::Unsupported`] where the device has none that products can use, or computes them wrong; the message says what
/// to do. Products then keep f32.
pub fn verify_cooperative(gpu: &Gpu) -> Result<()> {
    // Trials on one device would take the kernel from each other.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if gpu.cooperative().is_some() {
        return Ok(());
    }
    let found = trial(gpu)?;
    if found.passed() {
        gpu.trust_cooperative(true);
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "{} multiplies cooperative matrices wrong: an error of {:.1e} where {:.0e} is allowed. Set precision = \"f32\"",
        gpu.caps().name,
        found.worst,
        found.tolerance
    )))
}

/// How right a device computes products through cooperative matrices. Factors are drawn as f16, so that f32 sums are all
/// that rounds: at most 200 terms of order 1, of which results are of order 10. Sums in f16 would be off by 1e-3, operands
/// that are mixed up or transposed by 1.
///
/// # Errors
/// [`Error::Unsupported`] where it has none that products can use; where the kernel does not compile or the device fails.
pub(crate) fn trial(gpu: &Gpu) -> Result<Checked> {
    let caps = gpu.caps();
    let why = match caps.cooperative_side {
        Some(_) if fits(caps) => None,
        Some(_) => Some("its subgroups are too large"),
        None if caps.cooperative.is_empty() => Some("the driver offers none"),
        None => Some("none is 16x16 or 8x8 of f16 with f32 sums, or the device was opened without Caps::COOPERATIVE"),
    };
    if let Some(why) = why {
        return Err(Error::Unsupported(format!(
            "{} has no cooperative matrices that products in f16 could go through: {why}. Set precision = \"f32\", or take another adapter",
            caps.name
        )));
    }
    let before = gpu.cooperative().is_some();
    gpu.trust_cooperative(true);
    let worst = measure(gpu);
    gpu.trust_cooperative(before);
    Ok(Checked { name: "cooperative products".to_owned(), worst: worst?, tolerance: 2e-5 })
}

/// Rows, columns and terms: no multiples of anything, and in aligned vectors.
const SIZES: [[usize; 3]; 2] = [[67, 129, 35], [132, 68, 100]];
/// The same for a product that fills the larger tile's grid.
const LARGE: [usize; 3] = [1290, 1156, 36];

/// The worst error over all forms; infinite where an overflow does not show.
fn measure(gpu: &Gpu) -> Result<f64> {
    let mut worst = 0.0f64;
    for size in SIZES {
        let mut case = Case::new("cooperative products");
        let inputs = Inputs::draw(&mut case, size);
        let mut products = inputs.forms(&mut case, true)?;
        products.extend(inputs.blocks(&mut case)?);
        case.round_to_halves();
        worst = worst.max(case.worst(gpu, &products, false)?.error);
    }
    // The f64 reference of large products would take seconds; those in f32 on the device take its place.
    let mut case = Case::new("large cooperative products");
    let inputs = Inputs::draw(&mut case, LARGE);
    let wanted = [inputs.forms(&mut case, true)?, inputs.forms(&mut case, false)?].concat();
    case.round_to_halves();
    let found = case.run(gpu, &wanted)?;
    let (halves, whole) = found.split_at(wanted.len() / 2);
    for (halves, whole) in halves.iter().flatten().zip(whole.iter().flatten()) {
        let largest = whole.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (h, w) in halves.iter().zip(whole) {
            let error = f64::from((h - w).abs() / largest);
            worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
        }
    }
    let mut case = Case::new("overflow");
    let (x, w) = (case.owned(&[TILE, DEPTH]), case.owned(&[DEPTH, TILE]));
    let product = case.tape.in_halves(true, |tape| {
        let x = tape.push1(Scale(1e7), &[x])?;
        tape.push1(Linear::default(), &[x, w])
    })?;
    let shows = case.run(gpu, &[product])?.iter().flatten().flatten().all(|y| !y.is_finite());
    Ok(if shows { worst } else { f64::INFINITY })
}

/// Operands of products of one size. A and B differ in size and content, so that none can be taken for the other.
struct Inputs {
    size: [usize; 3],
    x: Var,
    w: Var,
    bias: Var,
    residual: Var,
    flipped: Var,
    left: Var,
    right: Var,
}

impl Inputs {
    fn draw(case: &mut Case, size: [usize; 3]) -> Self {
        let [m, n, k] = size;
        let mut draw = |dims: &[usize]| case.owned(dims);
        Self {
            size,
            x: draw(&[m, k]),
            w: draw(&[k, n]),
            bias: draw(&[n]),
            residual: draw(&[m, n]),
            flipped: draw(&[n, k]),
            left: draw(&[k, m]),
            right: draw(&[k, n]),
        }
    }

    /// A product of each form, one with bias and residual.
    fn forms(&self, case: &mut Case, halves: bool) -> Result<Vec<Var>> {
        let [m, n, _] = self.size;
        case.tape.in_halves(halves, |tape| {
            let op = Linear { bias: true, residual: true, ..Linear::default() };
            Ok(vec![
                tape.push1(op, &[self.x, self.w, self.bias, self.residual])?,
                tape.push1(Linear { transposed: true, ..Linear::default() }, &[self.x, self.flipped])?,
                tape.push1(TransposedProduct { dims: vec![m, n] }, &[self.left, self.right])?,
            ])
        })
    }

    /// Products in which the columns of a weight or of the result come in blocks, and many at once.
    fn blocks(&self, case: &mut Case) -> Result<Vec<Var>> {
        let [m, n, k] = self.size;
        let (weight, z, wide) = (case.owned(&[2, k, n]), case.owned(&[m, 2, k]), case.owned(&[m, 2 * n]));
        case.tape.in_halves(true, |tape| {
            Ok(vec![
                tape.push1(Linear::default(), &[self.x, weight])?,
                tape.push1(Linear { transposed: true, ..Linear::default() }, &[wide, weight])?,
                tape.push1(HeadResult, &[z, weight])?,
                tape.push1(TransposedProduct { dims: vec![2, k, n] }, &[self.x, wide])?,
            ])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ActFn, Activation, MeanRows};
    use super::*;
    use crate::autograd::check::gpus;
    use crate::autograd::{Bindings, Tape};
    use crate::gpu::{AdapterChoice, Class, Options, Select, Storage, adapters};

    /// Devices on which products in f16 can be tested, verified. On others the refusal is: they must say what to do, and
    /// must not fail for another reason.
    fn able() -> Vec<&'static Gpu> {
        let able = |gpu: &&Gpu| match (gpu.caps().cooperative_side, verify_cooperative(gpu)) {
            (Some(side), verified) => {
                verified.unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(gpu.cooperative(), Some(side));
                true
            }
            (None, Err(Error::Unsupported(text))) => {
                assert!(text.contains("precision = \"f32\"") && text.contains(&gpu.caps().name), "{text}");
                assert_eq!(gpu.cooperative(), None);
                eprintln!("products in f16 are not tested here: {text}");
                false
            }
            (None, other) => panic!("{other:?} of {}", gpu.caps().name),
        };
        gpus().iter().filter(able).collect()
    }

    /// Which kernels multiply x [m, k] and w [k, n], recorded in f16.
    fn kernels(gpu: &Gpu, [m, n, k]: [usize; 3]) -> String {
        let mut tape = Tape::new(1);
        let dims = [[m, k], [k, n], [m, n]];
        let [x, w] = [0, 1].map(|at| tape.input("operand", crate::autograd::Shape::f32(&dims[at])));
        let y = tape.in_halves(true, |tape| tape.push1(Linear::default(), &[x, w])).unwrap();
        let mut bindings = Bindings::new();
        for (var, dims) in [x, w, y].into_iter().zip(dims) {
            let len = dims.iter().product::<usize>() as u64;
            bindings.bind(var, Storage::whole(&gpu.buffer(Class::Data, len).unwrap(), len));
        }
        tape.compile(gpu, &bindings).unwrap().labels(Select { step: 0, update: true }).join(", ")
    }

    #[test]
    fn a_device_proves_its_products_right_or_says_what_to_do() {
        for gpu in able() {
            let found = trial(gpu).unwrap();
            println!("{}: worst error {:.1e}", gpu.caps().name, found.worst);
            assert!(found.passed(), "{}: {:.1e}", gpu.caps().name, found.worst);
        }
        // As users run it, without bounds checks.
        for index in 0..adapters().len() {
            let options = Options { checked: false, plain: false, cooperative: true };
            let gpu = Gpu::open(&AdapterChoice::Index(index), options).unwrap();
            assert_eq!(verify_cooperative(&gpu).is_ok(), gpu.caps().cooperative_side.is_some());
        }
        let error = verify_cooperative(&Gpu::noop()).unwrap_err().to_string();
        assert!(error.contains("the driver offers none") && error.contains("another adapter"), "{error}");
    }

    #[test]
    fn only_large_products_of_able_devices_take_the_kernel() {
        let able = able();
        for gpu in gpus() {
            let used = able.iter().any(|one| std::ptr::eq(*one, gpu));
            for (size, large) in [
                ([64, 64, 32], true),
                ([3, 64, 32], true),
                ([64, 63, 32], false),
                ([64, 64, 31], false),
                ([1280, 1280, 64], true),
            ] {
                let found = kernels(gpu, size);
                assert_eq!(found.contains("matmul_coop"), used && large, "{size:?} on {}: {found}", gpu.caps().name);
                let tile = if size[0] > 1000 && gpu.caps().max_workgroup_memory >= LARGE_MEMORY { 128 } else { 64 };
                assert!(!(used && large) || found.contains(&format!("TILE={tile} ")), "{size:?}: {found}");
            }
        }
    }

    /// A rounded factor is off by 2^-11 of itself at most, a product of two by 2^-10, and so a sum by 2^-10 of the sum of
    /// its terms' sizes: of k normal factors that is 2^-10 k 2/pi, where the largest of thousands of results is some
    /// 4 sqrt(k). Errors of either sign cancel: the bound is held with room, f16 sums would not hold it.
    fn tolerance(k: usize) -> f64 {
        (k as f64).sqrt() * 2.0 / std::f64::consts::PI / 4.0 / 1024.0
    }

    #[test]
    fn any_factors_are_right_to_the_rounding_of_f16() {
        for gpu in able() {
            for size in [[65, 64, 32], [129, 257, 33], [64, 130, 515], [7, 65, 66]] {
                let mut case = Case::new(&format!("rounded {size:?}"));
                let inputs = Inputs::draw(&mut case, size);
                let mut products = inputs.forms(&mut case, true).unwrap();
                products.extend(inputs.blocks(&mut case).unwrap());
                // Weight gradients sum over rows, not over k.
                let worst = case.worst(gpu, &products, false).unwrap();
                let terms = size[2].max(size[0]).max(2 * size[1]);
                println!("{size:?} on {}: {:.1e} of {:.1e}", gpu.caps().name, worst.error, tolerance(terms));
                assert!(worst.error < tolerance(terms), "{size:?}: {:.1e}, {}", worst.error, worst.place);
                assert!(worst.error > 1e-5, "{size:?}: {:.1e} is no rounding of f16", worst.error);
            }
        }
    }

    #[test]
    fn gradients_in_the_middle_of_a_graph_are_right_to_the_rounding_of_f16() {
        for gpu in able() {
            let mut case = Case::new("two layers in f16");
            let (x, w1, b1) = (case.owned(&[130, 65]), case.owned(&[65, 68]), case.owned(&[68]));
            let w2 = case.owned(&[2, 68, 33]);
            let count = case.tape.constant(&[1], &[130.0 * 66.0]);
            let scale = case.tape.constant(&[1], &[4096.0]);
            let inverse = case.tape.constant(&[1], &[1.0 / 4096.0]);
            let wrt = [x, w1, b1, w2];
            let (y, grads) = case
                .tape
                .in_halves(true, |tape| {
                    let hidden = tape.push1(Linear { bias: true, ..Linear::default() }, &[x, w1, b1])?;
                    let hidden = tape.push1(Activation(ActFn::Gelu), &[hidden])?;
                    let y = tape.push1(Linear::default(), &[hidden, w2])?;
                    let flat = tape.reshape(y, &[130 * 66])?;
                    let squares = tape.push1(Activation(ActFn::Silu), &[flat])?;
                    let loss = tape.push1(MeanRows, &[squares, count])?;
                    Ok((y, tape.backward_scaled(loss, (scale, inverse), &wrt)?))
                })
                .unwrap();
            let wanted: Vec<Var> = grads.into_iter().flatten().chain([y]).collect();
            assert_eq!(wanted.len(), 5);
            let worst = case.worst(gpu, &wanted, false).unwrap();
            println!("two layers on {}: {:.1e}", gpu.caps().name, worst.error);
            // Four products one behind the other.
            assert!(worst.error < 4.0 * tolerance(130) && worst.error > 1e-5, "{:.1e}, {}", worst.error, worst.place);
        }
    }

    #[test]
    fn bias_gradients_beside_products_in_f16_sum_f32() {
        for gpu in able() {
            for [n, d, c] in [[130, 65, 68], [515, 130, 257], [100, 1290, 1156]] {
                let mut case = Case::new(&format!("bias gradient {n} {d} {c}"));
                let (x, w, b) = (case.owned(&[n, d]), case.owned(&[d, c]), case.owned(&[c]));
                let coefficients = case.shared(&[n, c]);
                let grads = case.tape.in_halves(true, |tape| {
                    let y = tape.push1(Linear { bias: true, ..Linear::default() }, &[x, w, b])?;
                    let loss = tape.push1(super::super::Dot, &[y, coefficients])?;
                    tape.backward(loss, &[w, b])
                });
                let [Some(dw), Some(db)] = grads.unwrap()[..] else { panic!("no gradient") };
                // Alone, and beside the product with which it is computed.
                for wanted in [vec![db], vec![db, dw]] {
                    let found = case.run(gpu, &wanted).unwrap().remove(0);
                    for (replica, found) in found.iter().enumerate() {
                        let exact = &case.reference(replica, &[db]).unwrap()[0].data;
                        let worst = found.iter().zip(exact).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
                        // Sums of some hundred numbers of order 1.
                        assert!(worst < 1e-4, "{n} {d} {c}: {worst:.1e}");
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_scale_small_gradients_are_lost() {
        // 1e-9 is below half of the smallest f16, 6e-8; 2^20 times that is 1e-3.
        let run = |gpu: &Gpu, scale: f32| {
            let mut case = Case::new("small gradients");
            let (x, w) = (case.owned(&[64, 64]), case.owned(&[64, 64]));
            let coefficients = case.shared(&[64, 64]);
            let [scale, inverse] = [scale, 1.0 / scale].map(|s| case.tape.constant(&[1], &[s]));
            let grad = case.tape.in_halves(true, |tape| {
                let y = tape.push1(Linear::default(), &[x, w])?;
                let small = tape.push1(Scale(1e-9), &[y])?;
                let loss = tape.push1(super::super::Dot, &[small, coefficients])?;
                Ok(tape.backward_scaled(loss, (scale, inverse), &[w])?[0])
            });
            case.worst(gpu, &[grad.unwrap().unwrap()], false).unwrap().error
        };
        for gpu in able() {
            assert!((run(gpu, 1.0) - 1.0).abs() < 1e-6, "nothing is left");
            assert!(run(gpu, (1 << 20) as f32) < tolerance(64));
        }
    }
}
