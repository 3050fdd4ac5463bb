// pattern_products: partial[chunk, 0, h, g] = sum of A_h A_g, partial[chunk, 1, h, g] the same with each
// head's mean over examples subtracted, over a chunk of entries whose query counts; for h <= g, else 0
// shapes   x (A), targets: see patterns  counts [R, Tq] or [R, 1]  sums [R, H, Tq, T]: A summed over the examples that
//          count  partial [R, chunks, 2, H, H]
// grid     [chunks, H, H R]: g and the replica share an axis
// numerics f32, mean first, then products; tree of fixed shape
#import patterns
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> counts: array<f32>;
@tensor var<storage, read> sums: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn pattern_products(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let h = wid.y;
    let g = wid.z % params.heads;
    let r = wid.z / params.heads;
    let square = params.heads * params.heads;
    let out = r * params.out_replica + wid.x * 2u * square + h * params.heads + g;
    let size = params.queries * params.keys;
    let last = select(min((wid.x + 1u) * params.chunk, params.batch * size), 0u, h > g);
    var plain = 0.0;
    var centred = 0.0;
    for (var e = wid.x * params.chunk + lid; e < last; e += WG) {
        let place = e % size;
        let query = place / params.keys;
        if (query_counts(targets[target_place(r, e / size, query)], query)) {
            let example = r * params.x_replica + e / size * params.heads * size;
            let a = x[example + h * size + place];
            let b = x[example + g * size + place];
            let mean = r * params.sums_replica + place;
            let share = 1.0 / counts[r * params.counts_replica + select(0u, query, params.own == 1u)];
            plain += a * b;
            centred += (a - sums[mean + h * size] * share) * (b - sums[mean + g * size] * share);
        }
    }
    plain = workgroup_sum(plain, lid);
    centred = workgroup_sum(centred, lid);
    if (lid == 0u) {
        partial[out] = plain;
        partial[out + square] = centred;
    }
}
