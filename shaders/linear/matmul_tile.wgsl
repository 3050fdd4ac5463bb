// matmul_tile: matrix product through workgroup memory and registers, for GPUs.
// C = alpha op(A) op(B) (+ bias) (+ residual)
// shapes   A, B, C in three forms and any number of batches: see shared/matmul
// grid     [ceil(n / TILE), ceil(m / TILE), R * batches], SLICES (TILE / PER)^2 invocations, PER x PER results each
// numerics f32, products added in order of k: whatever the tile, the same bits. In slices the terms are dealt out
//          16 at a time, each slice adds its own in order of k, and slices are added in their order
// knobs    FORM, TILE, DEEP (tiles of 32 have slices: for long sums and few tiles),
//          A4, B4, C4 (operand is read or written in aligned vectors), BLOCKS, and what is done to C:
//          BIAS, RESIDUAL, PICKED, ACTIVATE, KEEP, SLOPE, ACT, SUMS: see shared/operands
#import matmul
#import activation
#import operands

// Results of a thread: PER x PER.
const PER: u32 = select(4u, 8u, TILE == 128u);
const SIDE: u32 = TILE / PER;
const SLICES: u32 = select(1u, 4u, DEEP == 1u && TILE == 32u);
// Threads of a slice.
const PARTY: u32 = SIDE * SIDE;
const DEPTH: u32 = 16u;
// A tile holds, for each k, TILE / 4 vectors along the rows of A or the columns of B.
const ROW: u32 = TILE / 4u;
// It is fetched in squares of 4 x 4, so that either way of storing an operand is read and kept in whole vectors.
const SQUARES: u32 = ROW * (DEPTH / 4u);
// A thread's results lie in PER / 4 groups of four rows and of four columns, SIDE groups apart: neighbours read
// neighbouring vectors.
const PARTS: u32 = PER / 4u;
var<workgroup> a_tile: array<vec4<f32>, SLICES * DEPTH * ROW>;
var<workgroup> b_tile: array<vec4<f32>, SLICES * DEPTH * ROW>;

fn transposed(v: array<vec4<f32>, 4>) -> array<vec4<f32>, 4> {
    return array<vec4<f32>, 4>(
        vec4<f32>(v[0].x, v[1].x, v[2].x, v[3].x),
        vec4<f32>(v[0].y, v[1].y, v[2].y, v[3].y),
        vec4<f32>(v[0].z, v[1].z, v[2].z, v[3].z),
        vec4<f32>(v[0].w, v[1].w, v[2].w, v[3].w),
    );
}

// Four vectors of A, one for each of four k, of rows i to i + 3. What lies outside is zero.
fn fetch_a(i: u32, k: u32, at: u32) -> array<vec4<f32>, 4> {
    var v: array<vec4<f32>, 4>;
    if (FORM == 2u) {
        for (var e = 0u; e < 4u; e++) {
            let inside = k + e < params.k && i < params.m;
            v[e] = select(vec4<f32>(0.0), load_a(at + min(k + e, params.k - 1u) * params.a_ld, min(i, last_start(params.m, A4)), params.m - 1u), inside);
        }
        return v;
    }
    for (var e = 0u; e < 4u; e++) {
        let inside = i + e < params.m && k < params.k;
        v[e] = select(vec4<f32>(0.0), load_a(at + min(i + e, params.m - 1u) * params.a_ld, min(k, last_start(params.k, A4)), params.k - 1u), inside);
    }
    return transposed(v);
}

// Four vectors of B, one for each of four k, of columns j to j + 3.
fn fetch_b(j: u32, k: u32, at: u32) -> array<vec4<f32>, 4> {
    var v: array<vec4<f32>, 4>;
    let block = params.b_block;
    let stride = params.b_block_stride;
    if (FORM == 1u) {
        for (var e = 0u; e < 4u; e++) {
            let inside = j + e < params.n && k < params.k;
            v[e] = select(vec4<f32>(0.0), load_b(at + min(j + e, params.n - 1u) * params.b_ld, min(k, last_start(params.k, B4)), params.k - 1u, block, stride), inside);
        }
        return transposed(v);
    }
    for (var e = 0u; e < 4u; e++) {
        let inside = k + e < params.k && j < params.n;
        v[e] = select(vec4<f32>(0.0), load_b(at + min(k + e, params.k - 1u) * params.b_ld, min(j, last_start(params.n, B4)), params.n - 1u, block, stride), inside);
    }
    return v;
}

// Where the last vector of a row may start: aligned ones lie wholly inside.
fn last_start(length: u32, whole: u32) -> u32 { return length - select(1u, 4u, whole == 1u); }

@compute @workgroup_size(SLICES * PARTY)
fn matmul_tile(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = bases(wid.z);
    let i0 = wid.y * TILE;
    let j0 = wid.x * TILE;
    let slice = lid / PARTY;
    let party = lid % PARTY;
    let tile = slice * DEPTH * ROW;
    let row = party / SIDE;
    let column = party % SIDE;
    var sums: array<array<vec4<f32>, PARTS>, PER>;
    for (var i = 0u; i < PER; i++) { for (var v = 0u; v < PARTS; v++) { sums[i][v] = vec4<f32>(0.0); } }
    var columns: array<vec4<f32>, PARTS>;
    for (var v = 0u; v < PARTS; v++) { columns[v] = vec4<f32>(0.0); }
    for (var first = 0u; first < params.k; first += SLICES * DEPTH) {
        let k0 = first + slice * DEPTH;
        for (var e = party; e < 2u * SQUARES; e += PARTY) {
            // Neighbours read neighbouring addresses: along k where k is contiguous.
            let square = e % SQUARES;
            let of_b = e >= SQUARES;
            let along = (FORM != 2u && !of_b) || (FORM == 1u && of_b);
            let place = select(square % ROW, square / (DEPTH / 4u), along);
            let k = select(square / ROW, square % (DEPTH / 4u), along) * 4u;
            if (of_b) {
                let v = fetch_b(j0 + place * 4u, k0 + k, at.b);
                for (var d = 0u; d < 4u; d++) { b_tile[tile + (k + d) * ROW + place] = v[d]; }
            } else {
                let v = fetch_a(i0 + place * 4u, k0 + k, at.a);
                for (var d = 0u; d < 4u; d++) { a_tile[tile + (k + d) * ROW + place] = v[d]; }
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            var right: array<vec4<f32>, PARTS>;
            for (var v = 0u; v < PARTS; v++) { right[v] = b_tile[tile + k * ROW + v * SIDE + column]; }
            if (SUMS == 1u && i0 == 0u) {
                for (var v = 0u; v < PARTS; v++) { columns[v] += right[v]; }
            }
            for (var u = 0u; u < PARTS; u++) {
                let left = a_tile[tile + k * ROW + u * SIDE + row];
                for (var i = 0u; i < 4u; i++) {
                    for (var v = 0u; v < PARTS; v++) {
                        sums[u * 4u + i][v] = fma(vec4<f32>(left[i]), right[v], sums[u * 4u + i][v]);
                    }
                }
            }
        }
        workgroupBarrier();
    }
    for (var other = 1u; other < SLICES; other++) {
        if (slice == other) {
            for (var i = 0u; i < PER; i++) { for (var v = 0u; v < PARTS; v++) { a_tile[(i * PARTS + v) * PARTY + party] = sums[i][v]; } }
            if (SUMS == 1u) { for (var v = 0u; v < PARTS; v++) { b_tile[v * PARTY + party] = columns[v]; } }
        }
        workgroupBarrier();
        if (slice == 0u) {
            for (var i = 0u; i < PER; i++) { for (var v = 0u; v < PARTS; v++) { sums[i][v] += a_tile[(i * PARTS + v) * PARTY + party]; } }
            if (SUMS == 1u) { for (var v = 0u; v < PARTS; v++) { columns[v] += b_tile[v * PARTY + party]; } }
        }
        workgroupBarrier();
    }
    if (slice != 0u) { return; }
    for (var v = 0u; v < PARTS; v++) {
        let four = columns_from(j0 + (v * SIDE + column) * 4u, at);
        for (var i = 0u; i < PER; i++) {
            let gi = i0 + (i / 4u * SIDE + row) * 4u + i % 4u;
            if (gi < params.m && four.j < four.n) { store_c(sums[i][v], gi, four, at); }
        }
    }
#if SUMS
    if (i0 == 0u && row == 0u) {
        for (var v = 0u; v < PARTS; v++) {
            for (var e = 0u; e < 4u; e++) {
                let gj = j0 + (v * SIDE + column) * 4u + e;
                if (gj < params.n) { sums_of_b[at.sums + gj] = columns[v][e]; }
            }
        }
    }
#endif
}
