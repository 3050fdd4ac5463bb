//! Attention heads: their patterns, scores on repeated tokens, weights, and how alike they are.

pub(crate) mod attention;
pub(crate) mod circuits;
pub(crate) mod induction;
pub(crate) mod synchronization;

use super::Instrument;
use crate::autograd::check::Build;
use crate::gpu::Shader;

pub(super) const INSTRUMENTS: &[&dyn Instrument] = &[
    &attention::Patterns,
    &synchronization::Synchronization,
    &induction::Induction,
    &induction::Probe,
    &induction::InContext,
    &circuits::Copying,
    &circuits::Compositions,
];
pub(super) const CHECKS: &[&[(&str, Build)]] =
    &[attention::CHECKS, synchronization::CHECKS, induction::CHECKS, circuits::CHECKS];
pub(super) const SHADERS: &[&[&Shader<'_>]] =
    &[attention::SHADERS, synchronization::SHADERS, induction::SHADERS, circuits::SHADERS];
