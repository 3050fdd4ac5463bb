// head_products: partial[first + chunk, h, g] = sum over a chunk of a head's numbers of x_h x_g for h <= g, else 0;
// with MOVED of x - before in place of x
// shapes   x, before [R, H, n]  partial [R, chunks of all tensors, H, H]
// grid     [chunks, H, H R]: g and the replica share an axis
// numerics f32, tree of fixed shape
// knobs    MOVED: products of differences
struct Params { heads: u32, n: u32, chunk: u32, first: u32, x_replica: u32, before_replica: u32, out_replica: u32 }
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;
#if MOVED
@tensor var<storage, read> before: array<f32>;
fn number(r: u32, at: u32) -> f32 { return x[r * params.x_replica + at] - before[r * params.before_replica + at]; }
#else
fn number(r: u32, at: u32) -> f32 { return x[r * params.x_replica + at]; }
#endif

@compute @workgroup_size(64)
fn head_products(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let h = wid.y;
    let g = wid.z % params.heads;
    let r = wid.z / params.heads;
    let last = select(min((wid.x + 1u) * params.chunk, params.n), 0u, h > g);
    var sum = 0.0;
    for (var i = wid.x * params.chunk + lid; i < last; i += WG) {
        sum += number(r, h * params.n + i) * number(r, g * params.n + i);
    }
    sum = workgroup_sum(sum, lid);
    if (lid == 0u) {
        partial[r * params.out_replica + ((params.first + wid.x) * params.heads + h) * params.heads + g] = sum;
    }
}
