// matmul_shuffle: matrix product in registers, for software adapters: their loads cost far more than
// their arithmetic, so the SG lanes of a subgroup load distinct rows of A and pass them around by shuffles.
// C = alpha op(A) op(B) (+ bias) (+ residual); forms, shapes and batches: shared/matmul
// grid     [ceil(n / (SG TN)), ceil(m / (TM GROUPS)), R * batches]; each of the GROUPS subgroups of a
//          workgroup computes TM rows x SG TN columns, a lane all TM rows of TN columns
// numerics f32, products added in order of k
// knobs    FORM, SG (the subgroup size, fixed on the adapter), TM, TN (multiples of 4), GROUPS,
//          A4, B4, C4 (operand is read or written in aligned vectors), BIAS, RESIDUAL
#import matmul

#if A4
@tensor var<storage, read> a: array<vec4<f32>>;
#else
@tensor var<storage, read> a: array<f32>;
#endif
#if B4
@tensor var<storage, read> b: array<vec4<f32>>;
#else
@tensor var<storage, read> b: array<f32>;
#endif
#if C4
@tensor var<storage, read_write> c: array<vec4<f32>>;
#else
@tensor var<storage, read_write> c: array<f32>;
#endif
#if BIAS
@tensor var<storage, read> bias: array<f32>; // [n]
#endif
#if RESIDUAL
#if C4
@tensor var<storage, read> residual: array<vec4<f32>>; // like C
#else
@tensor var<storage, read> residual: array<f32>; // like C
#endif
#endif

const TV: u32 = TN / 4u;
const ROW_VECTORS: u32 = TM / 4u;

// Four elements of A along k (forms 0, 1) or along i (form 2), zero beyond k.
fn load_a(base: u32, i: u32, k: u32) -> vec4<f32> {
#if A4
    let v = a[(base + a_index(min(i, params.m - select(1u, 4u, FORM == 2u)), min(k, params.k - 1u))) / 4u];
    return select(vec4<f32>(0.0), v, k < params.k);
#else
    var v: vec4<f32>;
    for (var e = 0u; e < 4u; e++) {
        let row = i + select(0u, e, FORM == 2u);
        let depth = k + select(e, 0u, FORM == 2u);
        let x = a[base + a_index(min(row, params.m - 1u), min(depth, params.k - 1u))];
        v[e] = select(0.0, x, depth < params.k);
    }
    return v;
#endif
}

// Four elements of B along j (forms 0, 2) or along k (form 1). What lies beyond the end repeats the
// last: A is zero there, or the column is not stored.
fn load_b(base: u32, k: u32, j: u32) -> vec4<f32> {
#if B4
    let k_last = params.k - select(1u, 4u, FORM == 1u);
    let j_last = params.n - select(4u, 1u, FORM == 1u);
    return b[(base + b_index(min(k, k_last), min(j, j_last))) / 4u];
#else
    var v: vec4<f32>;
    for (var e = 0u; e < 4u; e++) {
        let depth = k + select(0u, e, FORM == 1u);
        let column = j + select(e, 0u, FORM == 1u);
        v[e] = b[base + b_index(min(depth, params.k - 1u), min(column, params.n - 1u))];
    }
    return v;
#endif
}

fn store_c(value: vec4<f32>, i: u32, j: u32, at: Bases) {
    var v = params.alpha * value;
#if BIAS
    for (var e = 0u; e < 4u; e++) { v[e] += bias[at.bias + min(j + e, params.n - 1u)]; }
#endif
#if C4
    let index = c_index(i, j);
#if RESIDUAL
    v += residual[(at.residual + index) / 4u];
#endif
    c[(at.c + index) / 4u] = v;
#else
    for (var e = 0u; e < 4u; e++) {
        if (j + e < params.n) {
            let index = c_index(i, j + e);
#if RESIDUAL
            v[e] += residual[at.residual + index];
#endif
            c[at.c + index] = v[e];
        }
    }
#endif
}

@compute @workgroup_size(SG * GROUPS)
fn matmul_shuffle(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(subgroup_id) group: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let at = bases(wid.z);
    let i0 = (wid.y * GROUPS + group) * TM;
    let j0 = wid.x * (SG * TN) + lane * TN;
    var sums: array<array<vec4<f32>, TV>, TM>;
    for (var i = 0u; i < TM; i++) { for (var v = 0u; v < TV; v++) { sums[i][v] = vec4<f32>(0.0); } }
    for (var k = 0u; k < params.k; k += 4u) {
        // TM x 4 elements of A, spread over the lanes of the subgroup.
        var left: array<vec4<f32>, TM / SG>;
        for (var f = 0u; f < TM / SG; f++) {
            let e = f * SG + lane;
            if (FORM == 2u) {
                left[f] = load_a(at.a, i0 + e % ROW_VECTORS * 4u, k + e / ROW_VECTORS);
            } else {
                left[f] = load_a(at.a, i0 + e, k);
            }
        }
        // 4 x TN elements of B, this lane's columns.
        var right: array<array<vec4<f32>, TV>, 4>;
        for (var v = 0u; v < TV; v++) {
            if (FORM == 1u) {
                let c0 = load_b(at.b, k, j0 + v * 4u);
                let c1 = load_b(at.b, k, j0 + v * 4u + 1u);
                let c2 = load_b(at.b, k, j0 + v * 4u + 2u);
                let c3 = load_b(at.b, k, j0 + v * 4u + 3u);
                for (var d = 0u; d < 4u; d++) { right[d][v] = vec4<f32>(c0[d], c1[d], c2[d], c3[d]); }
            } else {
                for (var d = 0u; d < 4u; d++) { right[d][v] = load_b(at.b, k + d, j0 + v * 4u); }
            }
        }
        for (var d = 0u; d < 4u; d++) {
            for (var i = 0u; i < TM; i++) {
                var x: f32;
                if (FORM == 2u) {
                    let e = d * ROW_VECTORS + i / 4u;
                    x = subgroupShuffle(left[e / SG][i % 4u], e % SG);
                } else {
                    x = subgroupShuffle(left[i / SG][d], i % SG);
                }
                for (var v = 0u; v < TV; v++) { sums[i][v] = fma(vec4<f32>(x), right[d][v], sums[i][v]); }
            }
        }
    }
    for (var i = 0u; i < TM; i++) {
        for (var v = 0u; v < TV; v++) {
            if (i0 + i < params.m && j0 + v * 4u < params.n) { store_c(sums[i][v], i0 + i, j0 + v * 4u, at); }
        }
    }
}
