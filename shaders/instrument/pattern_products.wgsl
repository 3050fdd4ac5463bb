// pattern_products: partial[chunk, 0, h, g] = sum of A_h A_g, partial[chunk, 1, h, g] the same with each
// head's mean over examples subtracted, over a chunk of entries; for h <= g, else 0
// shapes   x (A) [R, B, H, Tq, T]  sums [R, H, Tq, T]: A summed over B  partial [R, chunks, 2, H, H]
// grid     [H H, chunks, R]
// numerics f32, mean first, then products; tree of fixed shape
struct Params {
    batch: u32, heads: u32, queries: u32, keys: u32, chunk: u32, x_replica: u32, sums_replica: u32, out_replica: u32,
}
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> sums: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn pattern_products(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let h = wid.x / params.heads;
    let g = wid.x % params.heads;
    let out = wid.z * params.out_replica + wid.y * 2u * params.heads * params.heads + wid.x;
    if (h > g) {
        if (lid == 0u) {
            partial[out] = 0.0;
            partial[out + params.heads * params.heads] = 0.0;
        }
        return;
    }
    let size = params.queries * params.keys;
    let last = min((wid.y + 1u) * params.chunk, params.batch * size);
    let share = 1.0 / f32(params.batch);
    var plain = 0.0;
    var centred = 0.0;
    for (var e = wid.y * params.chunk + lid; e < last; e += WG) {
        let example = wid.z * params.x_replica + e / size * params.heads * size;
        let place = e % size;
        let a = x[example + h * size + place];
        let b = x[example + g * size + place];
        let mean_at = wid.z * params.sums_replica + place;
        plain += a * b;
        centred += (a - sums[mean_at + h * size] * share) * (b - sums[mean_at + g * size] * share);
    }
    plain = workgroup_sum(plain, lid);
    centred = workgroup_sum(centred, lid);
    if (lid == 0u) {
        partial[out] = plain;
        partial[out + params.heads * params.heads] = centred;
    }
}
