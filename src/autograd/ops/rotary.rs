//! Rotary positions.

use serde::{Deserialize, Serialize};

use super::super::op::{Links, misfit};
use super::super::{Array, DType, Lower, Op, Shape, Tape, Var};
use crate::error::Result;
use crate::gpu::{Params, Shader, Tensor, grid_1d};

crate::params! {
    struct RotaryParams {
        n: u32, heads: u32, width: u32, half: u32, x_replica: u32, position_replica: u32, y_replica: u32, sign: f32,
    }
}
static ROTARY: Shader<'_> = Shader {
    name: "rotary/rotary",
    source: include_str!("../../../shaders/rotary/rotary.wgsl"),
    knobs: &[],
    params: RotaryParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&ROTARY];

/// How rotary frequencies change where a model is to read longer sequences than it first learned on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RotaryScaling {
    /// Not at all.
    #[default]
    None,
    /// Every frequency is divided by the factor ([Chen et al. 2023](https://arxiv.org/abs/2306.15595)).
    Linear {
        /// What frequencies are divided by.
        factor: f64,
    },
    /// Low frequencies are divided by the factor and high ones are kept, with a straight transition between, as
    /// [Llama 3.1](https://arxiv.org/abs/2407.21783) has it.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Frequencies that turn less often than this within `original_n_ctx` positions are low.
        low_freq_factor: f64,
        /// Frequencies that turn more often than this are high.
        high_freq_factor: f64,
        /// Positions the model first learned on.
        original_n_ctx: usize,
    },
}

impl RotaryScaling {
    /// The frequency that takes the place of one, in radians a position.
    fn frequency(self, plain: f64) -> f64 {
        match self {
            Self::None => plain,
            Self::Linear { factor } => plain / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_n_ctx } => {
                let turns = plain * original_n_ctx as f64 / std::f64::consts::TAU;
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 - kept) * plain / factor + kept * plain
            }
        }
    }
}

/// Rotates the first dimensions of each head by the token's position: dimension i and i + d/2 of the
/// first d turn together by position / base^(2 i / d), scaled, the layout of GPT-NeoX and of TransformerLens
/// without adjacent pairs. Inputs: x [N, H, K], position `[N]`, table from [`Rotary::table`].
#[derive(Clone, Copy)]
pub struct Rotary {
    /// `false` turns backwards: the gradient, and the inverse.
    pub forward: bool,
}

impl Rotary {
    /// Cosine and sine for each position and pair, [n_ctx, d / 2, 2], computed in f64.
    pub fn table(n_ctx: usize, rotary_dim: usize, base: f64, scaling: RotaryScaling) -> (Vec<usize>, Vec<f32>) {
        let half = rotary_dim / 2;
        let plain = |i: usize| 1.0 / libm::pow(base, i as f64 / half as f64);
        let frequencies: Vec<f64> = (0..half).map(|i| scaling.frequency(plain(i))).collect();
        let mut table = Vec::with_capacity(n_ctx * half * 2);
        for position in 0..n_ctx {
            for frequency in &frequencies {
                let angle = position as f64 * frequency;
                table.push(libm::cos(angle) as f32);
                table.push(libm::sin(angle) as f32);
            }
        }
        (vec![n_ctx, half, 2], table)
    }
}

impl Op for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [x, position, table] = inputs else { return Err(misfit("rotary", "takes x, position, table")) };
        let fits = x.dims.len() == 3
            && table.dims.len() == 3
            && position.dtype == DType::U32
            && position.len() == x.dims[0]
            && 2 * table.dims[1] <= x.dims[2];
        if !fits {
            return Err(misfit("rotary", format!("{:?}, {:?}, {:?}", x.dims, position.dims, table.dims)));
        }
        Ok(vec![(*x).clone()])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let dims = &inputs[0].dims;
        let params = RotaryParams {
            n: dims[0] as u32,
            heads: dims[1] as u32,
            width: dims[2] as u32,
            half: inputs[2].dims[1] as u32,
            x_replica: inputs[0].replica_stride,
            position_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
            sign: if self.forward { 1.0 } else { -1.0 },
        };
        let tensors = [&inputs[0], &inputs[1], &inputs[2], &outputs[0]];
        cx.dispatch(&ROTARY, &[], &params, &tensors, grid_1d((inputs[0].len() as u64).div_ceil(64), cx.replicas))
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let back = Self { forward: !self.forward };
        let dx = grads[0].map(|dy| tape.push1(back, &[dy, node.inputs[1], node.inputs[2]])).transpose()?;
        Ok(vec![dx, None, None])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, position, table) = (inputs[0], inputs[1], inputs[2]);
        let (heads, width, half) = (x.dims[1], x.dims[2], table.dims[1]);
        let sign = if self.forward { 1.0 } else { -1.0 };
        vec![Array::from_fn(&x.dims, |at| {
            let i = at % width;
            if i >= 2 * half {
                return x.data[at];
            }
            let turn = &table.data[(position.index(at / (width * heads)) * half + i % half) * 2..];
            let (cos, sin) = (turn[0], sign * turn[1]);
            if i < half {
                x.data[at] * cos - x.data[at + half] * sin
            } else {
                x.data[at] * cos + x.data[at - half] * sin
            }
        })]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES};

    #[test]
    fn rotary_matches_its_reference() {
        for n in SIZES {
            for (width, rotary_dim) in [(8, 8), (6, 4)] {
                let mut case = Case::new("rotary");
                let x = case.owned(&[n, 3, width]);
                let position = case.indices(&[n], 300, false);
                let (dims, table) = Rotary::table(300, rotary_dim, 10_000.0, RotaryScaling::None);
                let table = case.tape.constant(&dims, &table);
                let y = case.tape.push1(Rotary { forward: true }, &[x, position, table]).unwrap();
                case.check(&[y], &[x], 1e-6);
                case.check_tangents(y, &[x], 1e-6);
            }
        }
    }

    /// `_compute_llama3_parameters` of transformers, case by case as it is written there.
    #[test]
    fn frequencies_scale_as_published() {
        let (factor, low, high, original) = (8.0, 1.0, 4.0, 64);
        let scaling =
            RotaryScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_n_ctx: original };
        for plain in [1.0, 0.5, 0.39, 0.3, 0.2, 0.12, 0.098, 0.05, 1e-4] {
            let wavelength = std::f64::consts::TAU / plain;
            let expected = if wavelength < original as f64 / high {
                plain
            } else if wavelength > original as f64 / low {
                plain / factor
            } else {
                let smooth = (original as f64 / wavelength - low) / (high - low);
                (1.0 - smooth) * plain / factor + smooth * plain
            };
            assert!((scaling.frequency(plain) / expected - 1.0).abs() < 1e-14, "{plain}");
        }
        assert_eq!(RotaryScaling::Linear { factor: 4.0 }.frequency(0.5), 0.125);
    }
}
