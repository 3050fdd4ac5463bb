// head_products: partial[chunk, h, g] = sum over a chunk of a head's numbers of x_h x_g for h <= g, else 0
// shapes   x [R, H, n]  partial [R, chunks, H, H]
// grid     [chunks, H, H R]: g and the replica share an axis
// numerics f32, tree of fixed shape
struct Params { heads: u32, n: u32, chunk: u32, x_replica: u32, out_replica: u32 }
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn head_products(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let h = wid.y;
    let g = wid.z % params.heads;
    let r = wid.z / params.heads;
    let base = r * params.x_replica;
    let last = select(min((wid.x + 1u) * params.chunk, params.n), 0u, h > g);
    var sum = 0.0;
    for (var i = wid.x * params.chunk + lid; i < last; i += WG) {
        sum += x[base + h * params.n + i] * x[base + g * params.n + i];
    }
    sum = workgroup_sum(sum, lid);
    if (lid == 0u) { partial[r * params.out_replica + (wid.x * params.heads + h) * params.heads + g] = sum; }
}
