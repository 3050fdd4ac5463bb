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
@tensor var<storage, read> residual: array<vec4<f32>>; // like C
#else
@tensor var<storage, read> residual: array<f32>; // like C
#endif
#endif

// Four elements of A along its rows, whose last column is `last`.
fn load_a(at: u32, column: u32, last: u32) -> vec4<f32> {
#if A4
    return a[(at + column) / 4u];
#else
    var v: vec4<f32>;
    for (var e = 0u; e < 4u; e++) { v[e] = select(0.0, a[at + min(column + e, last)], column + e <= last); }
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
    for (var e = 0u; e < 4u; e++) { v[e] = b[at + blocked(min(column + e, last), block, block_stride)]; }
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
