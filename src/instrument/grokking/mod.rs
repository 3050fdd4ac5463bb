//! Tasks on a group: frequencies and irreducible representations in weights, logits and neurons.

pub(crate) mod dominant;
pub(crate) mod fourier;
pub(crate) mod fourier_ops;
pub(crate) mod irreps;
pub(crate) mod parts;
pub(crate) mod synchrony;

use super::Instrument;
use crate::autograd::check::Build;
use crate::gpu::Shader;

pub(super) const INSTRUMENTS: &[&dyn Instrument] =
    &[&fourier::Spectrum, &fourier::FourierLosses, &synchrony::Synchrony, &irreps::IrrepPower];
pub(super) const CHECKS: &[&[(&str, Build)]] = &[fourier_ops::CHECKS, dominant::CHECKS];
pub(super) const SHADERS: &[&[&Shader<'_>]] = &[fourier_ops::SHADERS, dominant::SHADERS];
