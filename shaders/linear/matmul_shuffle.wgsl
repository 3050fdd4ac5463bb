// matmul_shuffle: matrix product in registers, for software adapters: their loads cost far more than
// their arithmetic, so the SG lanes of a subgroup load distinct rows of A and pass them around by shuffles.
// C = alpha op(A) op(B) (+ bias) (+ residual)
// shapes   A, B, C in three forms and any number of batches: see shared/matmul
// grid     [ceil(n / (SG TN)), ceil(m / (TM GROUPS)), R * batches]; each of the GROUPS subgroups of a
//          workgroup computes TM rows x SG TN columns, a lane all TM rows of TN columns
// numerics f32, products added in order of k
// knobs    FORM, SG (the subgroup size, fixed on the adapter), TM, TN (multiples of 4), GROUPS,
//          A4, B4, C4 (operand is read or written in aligned vectors), BLOCKS, and what is
//          done to C: BIAS, RESIDUAL, PICKED, ACTIVATE, KEEP, SLOPE, ACT, SUMS: see shared/operands
#import matmul
#import activation
#import operands

const TV: u32 = TN / 4u;
const PARTS: u32 = TM / SG;
const ROW_VECTORS: u32 = TM / 4u;

// Software drivers hoist nothing out of loops, read parameters anew each time, and divide lane by lane:
// whatever does not change with k is worked out before the loop and handed down.

@compute @workgroup_size(SG * GROUPS)
fn matmul_shuffle(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(subgroup_id) group: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let at = bases(wid.z);
    let i0 = (wid.y * GROUPS + group) * TM;
    let j0 = wid.x * (SG * TN) + lane * TN;
    let rows = params.m;
    if (i0 >= rows) { return; }
    let depth = params.k;
    let a_ld = params.a_ld;
    let b_ld = params.b_ld;
    let block = params.b_block;
    let block_stride = params.b_block_stride;
    let a_last = select(params.k, params.m, FORM == 2u) - 1u;
    let b_last = select(params.n, params.k, FORM == 1u) - 1u;
    // Where each of this lane's parts of A begins: a row (forms 0, 1) or a column (form 2).
    var a_at: array<u32, PARTS>;
#for f < PARTS
    if (FORM == 2u) {
        a_at[f] = at.a + min(i0 + (f * SG + lane) % ROW_VECTORS * 4u, params.m - select(1u, 4u, A4 == 1u));
    } else {
        a_at[f] = at.a + min(i0 + f * SG + lane, params.m - 1u) * a_ld;
    }
#end
    // Where each of this lane's columns of B begins: a row of the stored matrix (form 1), else a column.
    var b_at: array<u32, TN>;
#for v < TN
    if (FORM == 1u) {
        b_at[v] = at.b + min(j0 + v, params.n - 1u) * b_ld;
    } else if (v < TV) {
        b_at[v] = min(j0 + v * 4u, params.n - select(1u, 4u, B4 == 1u));
        if (B4 == 1u) { b_at[v] = blocked(b_at[v], block, block_stride); }
    }
#end
    var sums: array<array<vec4<f32>, TV>, TM>;
    var columns: array<vec4<f32>, TV>;
    for (var k = 0u; k < depth; k += 4u) {
        // TM x 4 elements of A, spread over the lanes of the subgroup.
        var left: array<vec4<f32>, PARTS>;
#for f < PARTS
        if (FORM == 2u) {
            let row = k + (f * SG + lane) / ROW_VECTORS;
            let column = select(i0 + (f * SG + lane) % ROW_VECTORS * 4u, 0u, A4 == 1u);
            let start = select(at.a, a_at[f], A4 == 1u);
            left[f] = select(vec4<f32>(0.0), load_a(start + min(row, depth - 1u) * a_ld, column, a_last), row < depth);
        } else {
            left[f] = load_a(a_at[f], k, a_last);
        }
#end
        // 4 x TN elements of B, this lane's columns.
        var right: array<array<vec4<f32>, TV>, 4>;
#for v < TV
        if (FORM == 1u) {
            var along: array<vec4<f32>, 4>;
#for e < 4
            along[e] = load_b(b_at[v * 4u + e], k, b_last, block, block_stride);
#end
#for d < 4
            right[d][v] = vec4<f32>(along[0][d], along[1][d], along[2][d], along[3][d]);
#end
        } else {
#for d < 4
            {
                let row = at.b + min(k + d, depth - 1u) * b_ld;
                if (B4 == 1u) {
                    right[d][v] = load_b(row + b_at[v], 0u, b_last, block, block_stride);
                } else {
                    right[d][v] = load_b(row, b_at[v], b_last, block, block_stride);
                }
            }
#end
        }
#end
        if (SUMS == 1u) {
#for d < 4
#for v < TV
            columns[v] += select(vec4<f32>(0.0), right[d][v], k + d < depth);
#end
#end
        }
        // A row's sums stay in registers for all four k: they are too many to stay for longer.
#for i < TM
#for d < 4
        {
            var x: f32;
            if (FORM == 2u) {
                let e = d * ROW_VECTORS + i / 4u;
                x = subgroupShuffle(left[e / SG][i % 4u], e % SG);
            } else {
                x = subgroupShuffle(left[i / SG][d], i % SG);
            }
#for v < TV
            sums[i][v] = fma(vec4<f32>(x), right[d][v], sums[i][v]);
#end
        }
#end
#end
    }
    // Four rows at a time, the others moved up: what is stored is written out for every lane, and takes as long to
    // compile as all that went before.
    var four: array<Columns, TV>;
#for v < TV
    four[v] = columns_from(j0 + v * 4u, at);
#end
    let end = min(rows, i0 + TM);
    for (var i = i0; i < end; i += 4u) {
#for e < 4
#for v < TV
        if (i + e < end && four[v].j < four[v].n) { store_c(sums[e][v], i + e, four[v], at); }
#end
#end
#for e < TM
        sums[e] = sums[min(e + 4u, TM - 1u)];
#end
    }
#if SUMS
    if (i0 == 0u) {
#for v < TV
#for e < 4
        if (j0 + v * 4u + e < params.n) { sums_of_b[at.sums + j0 + v * 4u + e] = columns[v][e]; }
#end
#end
    }
#endif
}
