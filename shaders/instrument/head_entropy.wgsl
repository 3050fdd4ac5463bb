// head_entropy: partial[chunk, h] = sum over a chunk of head h's entries of -A ln A, divided by B Tq
// shapes   x (A) [R, B, H, Tq, T]  partial [R, chunks, H]
// grid     [H, chunks, R]
// numerics f32, tree of fixed shape; 0 ln 0 = 0
struct Params {
    batch: u32, heads: u32, queries: u32, keys: u32, chunk: u32, x_replica: u32, sums_replica: u32, out_replica: u32,
}
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn head_entropy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let size = params.queries * params.keys;
    let last = min((wid.y + 1u) * params.chunk, params.batch * size);
    var sum = 0.0;
    for (var e = wid.y * params.chunk + lid; e < last; e += WG) {
        let a = x[wid.z * params.x_replica + (e / size * params.heads + wid.x) * size + e % size];
        sum -= select(0.0, a * log(max(a, 1e-37)), a > 0.0);
    }
    sum = workgroup_sum(sum, lid);
    if (lid == 0u) {
        partial[wid.z * params.out_replica + wid.y * params.heads + wid.x] = sum / f32(params.batch * params.queries);
    }
}
