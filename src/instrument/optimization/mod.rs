//! Losses, numerical health, norms, pressure, drift, noise and agreement of gradients: what optimization does.

pub(crate) mod agreement;
pub(crate) mod drift;
pub(crate) mod health;
pub(crate) mod losses;
pub(crate) mod noise;
pub(crate) mod norms;
pub(crate) mod pressure;

use super::Instrument;
use crate::autograd::check::Build;
use crate::gpu::Shader;

pub(super) const INSTRUMENTS: &[&dyn Instrument] = &[
    &losses::Train,
    &losses::Test,
    &health::Health,
    &norms::TensorNorms,
    &pressure::Pressure,
    &drift::Drift,
    &noise::Noise,
    &agreement::Agreement,
];
pub(super) const CHECKS: &[&[(&str, Build)]] = &[health::CHECKS, noise::CHECKS, agreement::CHECKS];
pub(super) const SHADERS: &[&[&Shader<'_>]] = &[losses::SHADERS, noise::SHADERS, agreement::SHADERS];
