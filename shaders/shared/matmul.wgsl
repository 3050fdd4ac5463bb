// matmul: parameters and addressing shared by the matrix-product kernels.
// For each replica and batch (outer, inner):  C[i,j] = alpha * sum_k A(i,k) B(k,j) (+ bias[j]) (+ residual[i,j])
// and then, by knob: the activation of that, kept or not (ACTIVATE, KEEP), or that times the activation's derivative
// (SLOPE). SUMS: the sums of B's columns beside it, for FORM 2.
// FORM 0: A is [m, k], B is [k, n].   FORM 1: A is [m, k], B is [n, k].   FORM 2: A is [k, m], B is [k, n].
// With knob BLOCKS the columns of the stored B and of C come in blocks `block` wide that lie
// `block_stride` apart: W_Q [H, D, K] is a [D, H K] matrix in H blocks.

struct Params {
    m: u32, n: u32, k: u32, inner: u32,
    batches: u32, a_replica: u32, a_outer: u32, a_inner: u32,
    a_ld: u32, b_replica: u32, b_outer: u32, b_inner: u32,
    b_ld: u32, b_group: u32, b_block: u32, b_block_stride: u32,
    c_replica: u32, c_outer: u32, c_inner: u32, c_ld: u32,
    c_block: u32, c_block_stride: u32, bias_replica: u32, residual_replica: u32,
    picked_replica: u32, residual_last: u32, beside_replica: u32, sums_replica: u32,
    alpha: f32,
}

struct Bases { a: u32, b: u32, c: u32, bias: u32, residual: u32, picked: u32, beside: u32, sums: u32 }

/// Offsets of the operands of grid layer z = replica * batches + batch.
fn bases(z: u32) -> Bases {
    let replica = z / params.batches;
    let batch = z % params.batches;
    let outer = batch / params.inner;
    let inner = batch % params.inner;
    let c = outer * params.c_outer + inner * params.c_inner;
    return Bases(
        replica * params.a_replica + outer * params.a_outer + inner * params.a_inner,
        replica * params.b_replica + outer * params.b_outer + inner / params.b_group * params.b_inner,
        replica * params.c_replica + c,
        replica * params.bias_replica,
        replica * params.residual_replica + c,
        replica * params.picked_replica,
        replica * params.beside_replica + c,
        replica * params.sums_replica,
    );
}

fn blocked(column: u32, block: u32, stride: u32) -> u32 {
    if (BLOCKS == 0u) { return column; }
    return column / block * stride + column % block;
}

fn a_index(i: u32, k: u32) -> u32 {
    if (FORM == 2u) { return k * params.a_ld + i; }
    return i * params.a_ld + k;
}

fn b_index(k: u32, j: u32) -> u32 {
    if (FORM == 1u) { return j * params.b_ld + blocked(k, params.b_block, params.b_block_stride); }
    return k * params.b_ld + blocked(j, params.b_block, params.b_block_stride);
}
