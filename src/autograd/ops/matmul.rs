//! Recording of matrix products: one description, two kernels in f32, chosen by what the device is, and one in f16
//! (`cooperative`).

use super::super::Lower;
use super::ActFn;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Gpu, Knob, Params, Shader, Tensor, Tiling};

crate::params! {
    pub(super) struct MatmulParams {
        m: u32, n: u32, k: u32, inner: u32,
        batches: u32, a_replica: u32, a_outer: u32, a_inner: u32,
        a_ld: u32, b_replica: u32, b_outer: u32, b_inner: u32,
        b_ld: u32, b_group: u32, b_block: u32, b_block_stride: u32,
        c_replica: u32, c_outer: u32, c_inner: u32, c_ld: u32,
        c_block: u32, c_block_stride: u32, bias_replica: u32, residual_replica: u32,
        picked_replica: u32, residual_last: u32, beside_replica: u32, sums_replica: u32,
        alpha: f32,
    }
}

/// The knobs of a product's kernel: its own, then those that all have in common, in the order of [`Matmul::flags`].
macro_rules! product_knobs {
    ($($own:expr),* $(,)?) => {
        &[
            $($own,)*
            $crate::gpu::Knob { name: "A4", values: &[0, 1] },
            $crate::gpu::Knob { name: "B4", values: &[0, 1] },
            $crate::gpu::Knob { name: "C4", values: &[0, 1] },
            $crate::gpu::Knob { name: "BLOCKS", values: &[0, 1] },
            $crate::gpu::Knob { name: "BIAS", values: &[0, 1] },
            $crate::gpu::Knob { name: "RESIDUAL", values: &[0, 1] },
            $crate::gpu::Knob { name: "PICKED", values: &[0, 1] },
            $crate::gpu::Knob { name: "ACTIVATE", values: &[0, 1] },
            $crate::gpu::Knob { name: "KEEP", values: &[0, 1] },
            $crate::gpu::Knob { name: "SLOPE", values: &[0, 1] },
            $crate::autograd::ops::activation::ACT,
            $crate::gpu::Knob { name: "SUMS", values: &[0, 1] },
        ]
    };
}
pub(super) use product_knobs;

/// Sides of a workgroup's tile of C.
const TILES: &[u32] = &[32, 64, 128];
static TILE: Shader<'_> = Shader {
    name: "linear/matmul_tile",
    source: include_str!("../../../shaders/linear/matmul_tile.wgsl"),
    knobs: product_knobs![
        Knob { name: "FORM", values: &[0, 1, 2] },
        Knob { name: "TILE", values: TILES },
        Knob { name: "DEEP", values: &[0, 1] },
    ],
    params: MatmulParams::FIELDS,
};
/// Subgroups in one workgroup of `matmul_shuffle`.
const GROUPS: u32 = 4;
static SHUFFLE: Shader<'_> = Shader {
    name: "linear/matmul_shuffle",
    source: include_str!("../../../shaders/linear/matmul_shuffle.wgsl"),
    knobs: product_knobs![
        Knob { name: "FORM", values: &[0, 1, 2] },
        Knob { name: "SG", values: &[4, 8, 16] },
        Knob { name: "TM", values: &[16, 32] },
        Knob { name: "TN", values: &[4, 8] },
        Knob { name: "GROUPS", values: &[GROUPS] },
    ],
    params: MatmulParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&TILE, &SHUFFLE];

/// Which operand is stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A [m, k] B [k, n].
    NN = 0,
    /// A [m, k] B [n, k].
    NT = 1,
    /// A [k, m] B [k, n].
    TN = 2,
}

/// Longest sum that software drivers carry through: they end a shader's loops, without a word, after
/// 65,535 iterations in all, and the tiled kernel spends one for each term.
pub(super) const SOFTWARE_DEPTH: usize = 60_000;

/// Operations of a replica's product, on a software driver, from which on tall tiles pay: they are a tenth faster, where
/// loads are dear a fifth, and take twice as long to compile.
const TALL: u64 = 1_000_000_000;

/// Where an operand's matrices lie: strides in elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// From one row to the next.
    pub(super) ld: usize,
    /// From one outer batch to the next.
    pub(super) outer: usize,
    /// From one inner batch to the next.
    pub(super) inner: usize,
    /// Columns come in blocks this wide, `block_stride` apart.
    pub(super) block: usize,
    /// See `block`.
    pub(super) block_stride: usize,
}

impl Layout {
    /// One contiguous matrix with rows of `ld` elements.
    pub(super) fn rows(ld: usize) -> Self {
        Self { ld, outer: 0, inner: 0, block: ld, block_stride: 0 }
    }

    /// Matrices of `rows` rows, one behind the other, counted by outer * `inner_count` + inner.
    pub(super) fn stacked(ld: usize, rows: usize, inner_count: usize) -> Self {
        Self { outer: inner_count * rows * ld, inner: rows * ld, ..Self::rows(ld) }
    }

    /// Heads side by side: [outer, rows, inner, width].
    pub(super) fn heads(rows: usize, heads: usize, width: usize) -> Self {
        let ld = heads * width;
        Self { outer: rows * ld, inner: width, ..Self::rows(ld) }
    }

    /// A matrix of `rows` rows whose columns are `blocks` matrices of `width` columns stored one behind
    /// the other, as W_Q [H, D, K] is [D, H K].
    pub(super) fn blocks(rows: usize, width: usize) -> Self {
        Self { ld: width, outer: 0, inner: 0, block: width, block_stride: rows * width }
    }
}

/// What else a product does to C, in this order.
#[derive(Clone, Copy, Default)]
pub(super) struct Finish<'a> {
    /// [n], added to each row.
    pub(super) bias: Option<&'a Tensor>,
    /// Added: laid out like C, or the rows of it that `picked` numbers.
    pub(super) residual: Option<&'a Tensor>,
    /// [m]: for each row of C the residual's row.
    pub(super) picked: Option<&'a Tensor>,
    pub(super) activation: Act<'a>,
    /// [n]: receives the sums of B's columns, in form TN without batches.
    pub(super) sums: Option<&'a Tensor>,
}

/// What becomes of C behind bias and residual. The tensor is laid out like C.
#[derive(Clone, Copy, Default)]
pub(super) enum Act<'a> {
    /// Nothing.
    #[default]
    None,
    /// The activation of it; the tensor receives what it was taken of.
    Of(ActFn, Option<&'a Tensor>),
    /// Times the activation's derivative at the tensor.
    Slope(ActFn, &'a Tensor),
}

impl<'a> Act<'a> {
    fn beside(&self) -> Option<&'a Tensor> {
        match *self {
            Self::None => None,
            Self::Of(_, kept) => kept,
            Self::Slope(_, before) => Some(before),
        }
    }
}

/// C = alpha op(A) op(B), finished, for each replica and batch.
pub(super) struct Matmul<'a> {
    pub(super) form: Form,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Outer and inner batches; the inner index of B is divided by `b_group`.
    pub(super) batches: (usize, usize),
    pub(super) b_group: usize,
    pub(super) a: (&'a Tensor, Layout),
    pub(super) b: (&'a Tensor, Layout),
    pub(super) c: (&'a Tensor, Layout),
    pub(super) alpha: f32,
    pub(super) finish: Finish<'a>,
}

impl Matmul<'_> {
    pub(super) fn record(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (a, b, c, finish) = (self.a.1, self.b.1, self.c.1, &self.finish);
        let stride = |tensor: Option<&Tensor>| tensor.map_or(0, |t| t.replica_stride);
        let params = MatmulParams {
            m: self.m as u32,
            n: self.n as u32,
            k: self.k as u32,
            inner: self.batches.1 as u32,
            batches: (self.batches.0 * self.batches.1) as u32,
            a_replica: self.a.0.replica_stride,
            a_outer: a.outer as u32,
            a_inner: a.inner as u32,
            a_ld: a.ld as u32,
            b_replica: self.b.0.replica_stride,
            b_outer: b.outer as u32,
            b_inner: b.inner as u32,
            b_ld: b.ld as u32,
            b_group: self.b_group as u32,
            b_block: b.block as u32,
            b_block_stride: b.block_stride as u32,
            c_replica: self.c.0.replica_stride,
            c_outer: c.outer as u32,
            c_inner: c.inner as u32,
            c_ld: c.ld as u32,
            c_block: c.block as u32,
            c_block_stride: c.block_stride as u32,
            bias_replica: stride(finish.bias),
            residual_replica: stride(finish.residual),
            picked_replica: stride(finish.picked),
            residual_last: finish.residual.map_or(0, |t| t.len() / self.n).max(1) as u32 - 1,
            beside_replica: stride(finish.activation.beside()),
            sums_replica: stride(finish.sums),
            alpha: self.alpha,
        };
        let mut tensors = vec![self.a.0, self.b.0, self.c.0];
        let more = [finish.bias, finish.residual, finish.picked, finish.activation.beside(), finish.sums];
        tensors.extend(more.into_iter().flatten());
        if cx.gpu().caps().is_software() && self.k > SOFTWARE_DEPTH {
            return Err(Error::Limit(format!(
                "a product sums over {} rows; {} cuts kernels off beyond {SOFTWARE_DEPTH}. Use a smaller batch or a GPU",
                self.k,
                cx.gpu().caps().name
            )));
        }
        let layers = cx.replicas * params.batches;
        let choice = self.cooperative(cx)?.unwrap_or_else(|| self.choose(cx.gpu()));
        let grid = [params.n.div_ceil(choice.columns), params.m.div_ceil(choice.rows), layers];
        cx.dispatch(choice.shader, &choice.knobs, &params, &tensors, grid)?;
        cx.count_flops(self.flops() * u64::from(cx.replicas));
        Ok(())
    }

    /// How C is cut: as measured on this device, or else as shapes suggest.
    fn choose(&self, gpu: &Gpu) -> Choice {
        let caps = gpu.caps();
        let deep = shuffles(caps).is_none() && self.is_deep();
        let tiling = match gpu.tuning().get(self.form as u32, self.m, self.n) {
            Some(tiling) if tilings(caps).contains(&tiling) => tiling,
            _ => self.usual(caps),
        };
        // Not for the search to find: with a sum's order, its bits would depend on it.
        let tiling = if deep { Tiling::Workgroup { side: TILES[0] } } else { tiling };
        let (form, flags) = (self.form as u32, self.flags());
        match tiling {
            Tiling::Registers { subgroup, rows, columns } => Choice {
                shader: &SHUFFLE,
                knobs: [&[form, subgroup, rows, columns, GROUPS], &flags[..]].concat(),
                rows: rows * GROUPS,
                columns: columns * subgroup,
            },
            Tiling::Workgroup { side } => {
                let knobs = [&[form, side, u32::from(deep)], &flags[..]].concat();
                Choice { shader: &TILE, knobs, rows: side, columns: side }
            }
        }
    }

    /// Operations of one replica.
    fn flops(&self) -> u64 {
        2 * (self.m * self.n * self.k * self.batches.0 * self.batches.1) as u64
    }

    /// Whether C is a weight's gradient whose small tiles even are too few to fill a GPU. Neither the length of the sum
    /// nor the number of replicas counts: replicas with fewer examples are filled up with rows of zeros in company, and
    /// shall compute what they compute alone.
    fn is_deep(&self) -> bool {
        let tiles = self.m.div_ceil(TILES[0] as usize) * self.n.div_ceil(TILES[0] as usize);
        self.form == Form::TN && self.batches == (1, 1) && tiles <= 256
    }

    /// The knobs that all kernels have in common, from A4 on.
    pub(super) fn flags(&self) -> Vec<u32> {
        let finish = &self.finish;
        let (activate, keep, slope, act) = match finish.activation {
            Act::None => (false, false, false, 0),
            Act::Of(act, kept) => (true, kept.is_some(), false, act as u32),
            Act::Slope(act, _) => (false, false, true, act as u32),
        };
        let flags = [
            self.a4(),
            self.b4(),
            self.c4(),
            self.blocks(),
            finish.bias.is_some(),
            finish.residual.is_some(),
            finish.picked.is_some(),
            activate,
            keep,
            slope,
        ];
        [&flags.map(u32::from)[..], &[act, u32::from(finish.sums.is_some())]].concat()
    }

    fn usual(&self, caps: &Caps) -> Tiling {
        if let Some(subgroup) = shuffles(caps) {
            // Wide tiles pay where they are filled; with few columns they waste work.
            let rows = if caps.loads_by_loops() && self.flops() > TALL { 32 } else { 16 };
            let columns = if self.n as u32 > 4 * subgroup { 8 } else { 4 };
            return Tiling::Registers { subgroup, rows, columns };
        }
        // The largest tile has 64 results a thread; fewer than a hundred of them leave a GPU idle.
        let layers = self.batches.0 * self.batches.1;
        let large = self.m.div_ceil(128) * self.n.div_ceil(128) * layers >= 100 && self.m.min(self.n) >= 96;
        let side = if large {
            128
        } else if self.m.min(self.n) > 32 {
            64
        } else {
            32
        };
        Tiling::Workgroup { side }
    }

    fn blocks(&self) -> bool {
        [self.b.1, self.c.1].iter().any(|layout| layout.block_stride != 0)
    }

    fn a4(&self) -> bool {
        let contiguous = if self.form == Form::TN { self.m } else { self.k };
        aligned(self.a.0, self.a.1) && contiguous.is_multiple_of(4)
    }

    fn b4(&self) -> bool {
        let contiguous = if self.form == Form::NT { self.k } else { self.n };
        aligned(self.b.0, self.b.1) && contiguous.is_multiple_of(4)
    }

    fn c4(&self) -> bool {
        let beside = [self.finish.residual, self.finish.activation.beside()];
        let beside = beside.into_iter().flatten().all(|t| t.replica_stride.is_multiple_of(4));
        aligned(self.c.0, self.c.1) && self.n.is_multiple_of(4) && beside
    }
}

/// Lanes of a subgroup, where products are computed in registers: on software adapters, whose subgroups are narrow.
fn shuffles(caps: &Caps) -> Option<u32> {
    caps.fixed_subgroup().filter(|size| caps.is_software() && matches!(size, 4 | 8 | 16))
}

/// Every way in which a device may cut a product, but for those that are deep. All add in the order of k, so that all
/// give the same bits.
pub(crate) fn tilings(caps: &Caps) -> Vec<Tiling> {
    match shuffles(caps) {
        Some(subgroup) => [(16, 4), (16, 8), (32, 4), (32, 8)]
            .map(|(rows, columns)| Tiling::Registers { subgroup, rows, columns })
            .to_vec(),
        None => TILES.iter().map(|side| Tiling::Workgroup { side: *side }).collect(),
    }
}

/// A kernel for a product.
pub(super) struct Choice {
    pub(super) shader: &'static Shader<'static>,
    pub(super) knobs: Vec<u32>,
    /// Rows of C one workgroup computes.
    pub(super) rows: u32,
    /// Columns of C one workgroup computes.
    pub(super) columns: u32,
}

/// Whether rows of the operand start at multiples of four elements.
fn aligned(tensor: &Tensor, layout: Layout) -> bool {
    tensor.replica_stride.is_multiple_of(4)
        && [layout.ld, layout.outer, layout.inner, layout.block, layout.block_stride]
            .iter()
            .all(|s| s.is_multiple_of(4))
}
