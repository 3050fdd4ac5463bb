// matmul_coop: matrix product through cooperative matrices: f16 factors, f32 sums.
// C = alpha op(A) op(B) (+ bias) (+ residual)
// shapes   A, B, C, all f32 in memory, in three forms and any number of batches: see shared/matmul
// grid     [ceil(n / TILE), ceil(m / TILE), R * batches], GROUPS * LANES invocations
// numerics elements of A and B are rounded to f16 as they are staged, to infinity beyond 65504; their products are exact
//          in f32, and are summed in f32 in an order that is the driver's; alpha, bias and residual act in f32
// knobs    FORM, WIDE (matrices of 16 x 16, else of 8 x 8), TILE, LANES (of the largest subgroup), A4, B4, C4 (operand
//          is read or written in aligned vectors), BLOCKS, and what is done to C: BIAS, RESIDUAL, PICKED, ACTIVATE, KEEP,
//          SLOPE, ACT, SUMS: see shared/operands
enable f16;
enable wgpu_cooperative_matrix;
#import matmul
#import activation
#import operands

#if WIDE
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
#else
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
#endif
const UNIT: u32 = select(8u, 16u, WIDE == 1u);

// Subgroups that multiply, as they share the tile: ACROSS in a row, each with PART_ROWS x PART_COLUMNS of C, which are
// UNITS_DOWN x UNITS_ACROSS matrices. Where the driver takes smaller subgroups than it might there are more of them, and
// those do others' work again: cooperative operations stand in control flow that is the same for the whole workgroup.
const GROUPS: u32 = select(4u, 8u, TILE == 128u);
const ACROSS: u32 = GROUPS / 2u;
const PART_ROWS: u32 = TILE / 2u;
const PART_COLUMNS: u32 = TILE / ACROSS;
const UNITS_DOWN: u32 = PART_ROWS / UNIT;
const UNITS_ACROSS: u32 = PART_COLUMNS / UNIT;
const THREADS: u32 = GROUPS * LANES;

// Tiles are staged as their operand is stored, so that neighbours read and write neighbouring addresses; matrices are
// loaded row by row or column by column to match. Eight elements of padding keep every row at a multiple of 16 bytes,
// which cooperative loads ask for, and rows off each other's banks.
const DEPTH: u32 = 32u;
const A_LENGTH: u32 = select(DEPTH, TILE, FORM == 2u);
const B_LENGTH: u32 = select(TILE, DEPTH, FORM == 1u);
const A_STRIDE: u32 = A_LENGTH + 8u;
const B_STRIDE: u32 = B_LENGTH + 8u;
var<workgroup> a_tile: array<f16, TILE * DEPTH / A_LENGTH * A_STRIDE>;
var<workgroup> b_tile: array<f16, TILE * DEPTH / B_LENGTH * B_STRIDE>;
// One matrix of results of each subgroup, and a place that nobody reads for those of subgroups too many.
var<workgroup> results: array<f32, (GROUPS + 1u) * UNIT * UNIT>;
#if SUMS
// Sums of B's columns, of f32 numbers. Form 2 stages them row by row: an invocation sees the same four columns throughout,
// as SHARES of them do.
const SHARES: u32 = THREADS * 4u / TILE;
var<workgroup> column_sums: array<vec4<f32>, TILE / 4u>;
#endif

// Where the last vector of a row may start: aligned ones lie wholly inside.
fn last_start(length: u32, whole: u32) -> u32 { return length - select(1u, 4u, whole == 1u); }

// Four elements of a stored row of A, of `rows` rows `length` long. What lies outside is zero.
fn fetch_a(row: u32, column: u32, rows: u32, length: u32, at: u32) -> vec4<f32> {
    let v = load_a(at + min(row, rows - 1u) * params.a_ld, min(column, last_start(length, A4)), length - 1u);
    return select(vec4<f32>(0.0), v, row < rows && column < length);
}

// The same of B.
fn fetch_b(row: u32, column: u32, rows: u32, length: u32, at: u32) -> vec4<f32> {
    let v = load_b(at + min(row, rows - 1u) * params.b_ld, min(column, last_start(length, B4)), length - 1u, params.b_block, params.b_block_stride);
    return select(vec4<f32>(0.0), v, row < rows && column < length);
}

// The matrix of op(A) whose first row and k, within the tile, are i and k. Plain loads go by columns, those with T by rows.
fn left_at(i: u32, k: u32) -> Left {
    if (FORM == 2u) { return coopLoad<Left>(&a_tile[k * A_STRIDE + i], A_STRIDE); }
    return coopLoadT<Left>(&a_tile[i * A_STRIDE + k], A_STRIDE);
}

// The matrix of op(B) whose first k and column, within the tile, are k and j.
fn right_at(k: u32, j: u32) -> Right {
    if (FORM == 1u) { return coopLoad<Right>(&b_tile[j * B_STRIDE + k], B_STRIDE); }
    return coopLoadT<Right>(&b_tile[k * B_STRIDE + j], B_STRIDE);
}

@compute @workgroup_size(THREADS)
fn matmul_coop(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32, @builtin(subgroup_id) group: u32) {
    let at = bases(wid.z);
    let i0 = wid.y * TILE;
    let j0 = wid.x * TILE;
    let row = group % GROUPS / ACROSS * PART_ROWS;
    let column = group % ACROSS * PART_COLUMNS;
    let place = min(group, GROUPS) * UNIT * UNIT;
    var sums: array<Sum, UNITS_DOWN * UNITS_ACROSS>;
    for (var unit = 0u; unit < UNITS_DOWN * UNITS_ACROSS; unit++) { sums[unit] = Sum(); }
    var columns = vec4<f32>(0.0);
    for (var k0 = 0u; k0 < params.k; k0 += DEPTH) {
        for (var e = lid * 4u; e < TILE * DEPTH; e += THREADS * 4u) {
            let i = e / A_LENGTH;
            let k = e % A_LENGTH;
            var v: vec4<f32>;
            if (FORM == 2u) {
                v = fetch_a(k0 + i, i0 + k, params.k, params.m, at.a);
            } else {
                v = fetch_a(i0 + i, k0 + k, params.m, params.k, at.a);
            }
            let halves = vec4<f16>(v);
            for (var d = 0u; d < 4u; d++) { a_tile[i * A_STRIDE + k + d] = halves[d]; }
        }
        for (var e = lid * 4u; e < TILE * DEPTH; e += THREADS * 4u) {
            let k = e / B_LENGTH;
            let j = e % B_LENGTH;
            var v: vec4<f32>;
            if (FORM == 1u) {
                v = fetch_b(j0 + k, k0 + j, params.n, params.k, at.b);
            } else {
                v = fetch_b(k0 + k, j0 + j, params.k, params.n, at.b);
            }
            if (SUMS == 1u) { columns += v; }
            let halves = vec4<f16>(v);
            for (var d = 0u; d < 4u; d++) { b_tile[k * B_STRIDE + j + d] = halves[d]; }
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += UNIT) {
            var right: array<Right, UNITS_ACROSS>;
            for (var v = 0u; v < UNITS_ACROSS; v++) { right[v] = right_at(k, column + v * UNIT); }
            for (var u = 0u; u < UNITS_DOWN; u++) {
                let left = left_at(row + u * UNIT, k);
                for (var v = 0u; v < UNITS_ACROSS; v++) {
                    sums[u * UNITS_ACROSS + v] = coopMultiplyAdd(left, right[v], sums[u * UNITS_ACROSS + v]);
                }
            }
        }
        workgroupBarrier();
    }
    for (var unit = 0u; unit < UNITS_DOWN * UNITS_ACROSS; unit++) {
        coopStoreT(sums[unit], &results[place], UNIT);
        workgroupBarrier();
        for (var e = lid * 4u; e < GROUPS * UNIT * UNIT; e += THREADS * 4u) {
            let owner = e / (UNIT * UNIT);
            let i = i0 + owner / ACROSS * PART_ROWS + unit / UNITS_ACROSS * UNIT + e / UNIT % UNIT;
            let j = j0 + owner % ACROSS * PART_COLUMNS + unit % UNITS_ACROSS * UNIT + e % UNIT;
            if (i < params.m && j < params.n) {
                let four = vec4<f32>(results[e], results[e + 1u], results[e + 2u], results[e + 3u]);
                store_c(four, i, columns_from(j, at), at);
            }
        }
        workgroupBarrier();
    }
#if SUMS
    if (i0 == 0u) {
        let mine = lid % (TILE / 4u);
        for (var share = 0u; share < SHARES; share++) {
            if (lid / (TILE / 4u) == share) {
                column_sums[mine] = columns + select(column_sums[mine], vec4<f32>(0.0), share == 0u);
            }
            workgroupBarrier();
        }
        if (lid < TILE / 4u) {
            for (var e = 0u; e < 4u; e++) {
                let j = j0 + lid * 4u + e;
                if (j < params.n) { sums_of_b[at.sums + j] = column_sums[lid][e]; }
            }
        }
    }
#endif
}
