// operands: the operands of a matrix product as bindings, and their reading and writing in vectors of four. Knobs A4, B4
// and C4 say which are read or written in aligned vectors; others go element by element.

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
@tensor var<storage, read> residual: array<vec4<f32>>; // like C, or rows that `picked` numbers
#else
@tensor var<storage, read> residual: array<f32>;
#endif
#endif
#if PICKED
@tensor var<storage, read> picked: array<u32>; // [m]: the residual's row of each row of C
#endif
#if KEEP
#if C4
@tensor var<storage, read_write> kept: array<vec4<f32>>; // like C: what the activation was taken of
#else
@tensor var<storage, read_write> kept: array<f32>;
#endif
#endif
#if SLOPE
#if C4
@tensor var<storage, read> before: array<vec4<f32>>; // like C: what the activation was taken of
#else
@tensor var<storage, read> before: array<f32>;
#endif
#endif
#if SUMS
@tensor var<storage, read_write> sums_of_b: array<f32>; // [n]
#endif

// Four elements of A along its rows, whose last column is `last`.
fn load_a(at: u32, column: u32, last: u32) -> vec4<f32> {
#if A4
    return a[(at + column) / 4u];
#else
    var v: vec4<f32>;
#for e < 4
    v[e] = select(0.0, a[at + min(column + e, last)], column + e <= last);
#end
    return v;
#endif
}

// Four elements of B along its rows, whose last column is `last`. What lies beyond the end repeats the
// last: A is zero there, or the column is not stored.
fn load_b(at: u32, column: u32, last: u32, block: u32, block_stride: u32) -> vec4<f32> {
#if B4
    return b[(at + blocked(column, block, block_stride)) / 4u];
#else
    var v: vec4<f32>;
#for e < 4
    v[e] = b[at + blocked(min(column + e, last), block, block_stride)];
#end
    return v;
#endif
}

// Row of the residual for row i of C.
fn residual_row(i: u32, at: Bases) -> u32 {
#if PICKED
    return min(picked[at.picked + i], params.residual_last);
#else
    return i;
#endif
}

// Four columns of C from column j on, and what is the same in all their rows: drivers that read anew what they are
// told to read shall do so once.
struct Columns { alpha: f32, ld: u32, n: u32, j: u32, at: vec4<u32>, bias: vec4<f32> }

fn columns_from(j: u32, at: Bases) -> Columns {
    var columns = Columns(params.alpha, params.c_ld, params.n, j, vec4<u32>(), vec4<f32>());
    let block = params.c_block;
    let stride = params.c_block_stride;
#for e < 4
    columns.at[e] = blocked(j + e, block, stride);
#end
#if BIAS
#for e < 4
    columns.bias[e] = bias[at.bias + min(j + e, columns.n - 1u)];
#end
#endif
    return columns;
}

// Finishes four sums of row i and stores them: times alpha, plus bias, plus residual, then through the activation
// (ACTIVATE) or times its derivative (SLOPE).
fn store_c(value: vec4<f32>, i: u32, columns: Columns, at: Bases) {
    var v = columns.alpha * value;
#if BIAS
    v += columns.bias;
#endif
    let row = i * columns.ld;
#if C4
    let index = row + columns.at.x;
#if RESIDUAL
    v += residual[(at.residual + residual_row(i, at) * columns.ld + columns.at.x) / 4u];
#endif
#if KEEP
    kept[(at.beside + index) / 4u] = v;
#endif
#if ACTIVATE
    v = act4(v);
#endif
#if SLOPE
    v *= act_derivative4(before[(at.beside + index) / 4u]);
#endif
    c[(at.c + index) / 4u] = v;
#else
#for e < 4
    if (columns.j + e < columns.n) {
        let index = row + columns.at[e];
#if RESIDUAL
        v[e] += residual[at.residual + residual_row(i, at) * columns.ld + columns.at[e]];
#endif
#if KEEP
        kept[at.beside + index] = v[e];
#endif
#if ACTIVATE
        v[e] = act(v[e]);
#endif
#if SLOPE
        v[e] *= act_derivative(before[at.beside + index]);
#endif
        c[at.c + index] = v[e];
    }
#end
#endif
}
