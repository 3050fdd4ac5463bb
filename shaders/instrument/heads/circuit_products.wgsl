// circuit_products: partial[chunk, h, g] = sum over a chunk of entries i, j of (P_h' P_g)_ij (Q_h' Q_g)_ij for h <= g, else 0;
// over all chunks that is the product of T_h and T_g, T = P Q' = X B' + A Y' [D, D]: how a head's circuit A B' changes
// with X, Y what its factors change by, P = [X | A], Q = [B | Y]. No choice of the head's basis enters
// shapes   a, a_next [R, H, D, K]  b, b_next [R, H, D, K], or [R, H, K, D] with ROWS  partial [R, chunks, H, H]
// grid     [ceil(4 K K / 64), H, H R]: g and the replica share an axis; one entry an invocation
// numerics f32, serial over D, tree of fixed shape over entries
// knobs    MOVED: X = a_next - a, Y = b_next - b, B = b_next: what a step did; else X = a_next, Y = b_next, B = b: along a
//          gradient; ROWS: b's rows are K
struct Params {
    heads: u32, depth: u32, width: u32, a_replica: u32, a_next_replica: u32, b_replica: u32, b_next_replica: u32,
    out_replica: u32,
}
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> a: array<f32>;
@tensor var<storage, read> a_next: array<f32>;
@tensor var<storage, read> b: array<f32>;
@tensor var<storage, read> b_next: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

fn left(r: u32, head: u32, d: u32, i: u32) -> f32 {
    let at = (head * params.depth + d) * params.width + i % params.width;
    let own = a[r * params.a_replica + at];
    let next = a_next[r * params.a_next_replica + at];
    return select(own, next - select(0.0, own, MOVED == 1u), i < params.width);
}

fn right(r: u32, head: u32, d: u32, i: u32) -> f32 {
    let k = i % params.width;
    var at = (head * params.depth + d) * params.width + k;
    if (ROWS == 1u) { at = (head * params.width + k) * params.depth + d; }
    let own = b[r * params.b_replica + at];
    let next = b_next[r * params.b_next_replica + at];
    if (MOVED == 1u) { return select(next - own, next, i < params.width); }
    return select(next, own, i < params.width);
}

@compute @workgroup_size(64)
fn circuit_products(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let h = wid.y;
    let g = wid.z % params.heads;
    let r = wid.z / params.heads;
    let entry = wid.x * WG + lid;
    let i = entry / (2u * params.width);
    let j = entry % (2u * params.width);
    let depth = select(params.depth, 0u, h > g || i >= 2u * params.width);
    var p = 0.0;
    var q = 0.0;
    for (var d = 0u; d < depth; d++) {
        p += left(r, h, d, i) * left(r, g, d, j);
        q += right(r, h, d, i) * right(r, g, d, j);
    }
    let sum = workgroup_sum(p * q, lid);
    if (lid == 0u) {
        partial[r * params.out_replica + (wid.x * params.heads + h) * params.heads + g] = sum;
    }
}
