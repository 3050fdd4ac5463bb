//! The search for the fastest way to cut matrix products on a device.

use super::{STEP, fitting, time};
use crate::autograd::ops::{Linear, TransposedProduct, tilings};
use crate::autograd::{Bindings, Shape, Tape};
use crate::error::Result;
use crate::gpu::{Class, Gpu, Program, Storage, Tuning};

/// Milliseconds one trial shall take.
const TRIAL: f64 = 2.0;

/// Tries every tiling on products of every form and class of sizes, and keeps the fastest of each. The device goes
/// on with what was found.
///
/// # Errors
/// Where the device fails.
pub fn tune(gpu: &Gpu) -> Result<Tuning> {
    let mut found = Tuning::default();
    let sizes = Tuning::SIZES.into_iter().flat_map(|m| Tuning::SIZES.map(|n| (m, n)));
    for (form, (m, n)) in (0..3).flat_map(|form| sizes.clone().map(move |size| (form, size))) {
        let mut best = f64::INFINITY;
        for tiling in tilings(gpu.caps()) {
            let mut trial = Tuning::default();
            trial.set(form, m, n, tiling);
            gpu.tune(trial);
            let program = product(gpu, form, m, n)?;
            let count = fitting(gpu, &program, STEP, TRIAL)?;
            let ms = (0..3).map(|_| time(gpu, &program, STEP, count)).try_fold(f64::MAX, |a, b| Ok(a.min(b?.ms)))?;
            if ms < best {
                best = ms;
                found.set(form, m, n, tiling);
            }
        }
    }
    gpu.tune(found.clone());
    Ok(found)
}

/// A product of a form with an m x n result, summing over 256.
fn product(gpu: &Gpu, form: u32, m: usize, n: usize) -> Result<Program> {
    const K: usize = 256;
    let mut tape = Tape::new(1);
    let dims = match form {
        0 => [[m, K], [K, n]],
        1 => [[m, K], [n, K]],
        _ => [[K, m], [K, n]],
    };
    let [a, b] = dims.map(|dims| tape.input("operand", Shape::f32(&dims)));
    let c = match form {
        2 => tape.push1(TransposedProduct { dims: vec![m, n] }, &[a, b])?,
        _ => tape.push1(Linear { transposed: form == 1, ..Linear::default() }, &[a, b])?,
    };
    let mut bindings = Bindings::new();
    for var in [a, b, c] {
        let len = tape.shape(var).len() as u64;
        bindings.bind(var, Storage::whole(&gpu.buffer(Class::Data, len)?, len));
    }
    tape.compile(gpu, &bindings)
}
