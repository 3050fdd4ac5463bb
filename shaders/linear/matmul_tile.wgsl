// matmul_tile: matrix product through workgroup memory, for GPUs.
// C = alpha op(A) op(B) (+ bias) (+ residual)
// shapes   A, B, C in three forms and any number of batches: see shared/matmul
// grid     [ceil(n / TILE), ceil(m / TILE), R * batches], (TILE / 4)^2 invocations, 4 x 4 results each
// numerics f32, products added in order of k
// knobs    FORM, TILE (64 or 32), BIAS, RESIDUAL
#import matmul

@tensor var<storage, read> a: array<f32>;
@tensor var<storage, read> b: array<f32>;
@tensor var<storage, read_write> c: array<f32>;
#if BIAS
@tensor var<storage, read> bias: array<f32>; // [n]
#endif
#if RESIDUAL
@tensor var<storage, read> residual: array<f32>; // like C
#endif

const SIDE: u32 = TILE / 4u;
const THREADS: u32 = SIDE * SIDE;
const DEPTH: u32 = 16u;
// One column of padding keeps lanes that read a column apart from hitting one memory bank.
const STRIDE: u32 = TILE + 1u;
var<workgroup> a_tile: array<f32, DEPTH * STRIDE>;
var<workgroup> b_tile: array<f32, DEPTH * STRIDE>;

fn epilogue(value: f32, i: u32, j: u32, at: Bases) -> f32 {
    var v = params.alpha * value;
#if BIAS
    v += bias[at.bias + j];
#endif
#if RESIDUAL
    v += residual[at.residual + c_index(i, j)];
#endif
    return v;
}

@compute @workgroup_size(THREADS)
fn matmul_tile(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = bases(wid.z);
    let i0 = wid.y * TILE;
    let j0 = wid.x * TILE;
    let row = lid / SIDE * 4u;
    let column = lid % SIDE * 4u;
    var sums: array<array<f32, 4>, 4>;
    for (var i = 0u; i < 4u; i++) { for (var j = 0u; j < 4u; j++) { sums[i][j] = 0.0; } }
    for (var k0 = 0u; k0 < params.k; k0 += DEPTH) {
        for (var e = lid; e < DEPTH * TILE; e += THREADS) {
            // Neighbouring lanes read neighbouring addresses: along k where k is contiguous.
            var ka = e % DEPTH;
            var i = e / DEPTH;
            if (FORM == 2u) { ka = e / TILE; i = e % TILE; }
            let a_in = i0 + i < params.m && k0 + ka < params.k;
            a_tile[ka * STRIDE + i] = select(0.0, a[select(0u, at.a + a_index(i0 + i, k0 + ka), a_in)], a_in);
            var kb = e / TILE;
            var j = e % TILE;
            if (FORM == 1u) { kb = e % DEPTH; j = e / DEPTH; }
            let b_in = j0 + j < params.n && k0 + kb < params.k;
            b_tile[kb * STRIDE + j] = select(0.0, b[select(0u, at.b + b_index(k0 + kb, j0 + j), b_in)], b_in);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            var left: array<f32, 4>;
            for (var i = 0u; i < 4u; i++) { left[i] = a_tile[k * STRIDE + row + i]; }
            for (var j = 0u; j < 4u; j++) {
                let right = b_tile[k * STRIDE + column + j];
                for (var i = 0u; i < 4u; i++) { sums[i][j] = fma(left[i], right, sums[i][j]); }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) {
            let gi = i0 + row + i;
            let gj = j0 + column + j;
            if (gi < params.m && gj < params.n) { c[at.c + c_index(gi, gj)] = epilogue(sums[i][j], gi, gj, at); }
        }
    }
}
