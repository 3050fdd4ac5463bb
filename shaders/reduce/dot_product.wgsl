// dot_product: y[chunk] = sum over the chunk of a[i] b[i]
// shapes   a, b [R, n]; either may be shared  y [R, chunks]
// grid     [chunks, 1, R]
// numerics f32; lane l adds every 256th product in order, then a tree
struct Params { n: u32, chunk: u32, a_replica: u32, b_replica: u32, y_replica: u32 }
const WG: u32 = 256u;
#import reduce
@tensor var<storage, read> a: array<f32>;
@tensor var<storage, read> b: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn dot_product(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let last = min((wid.x + 1u) * params.chunk, params.n);
    var sum = 0.0;
    for (var i = wid.x * params.chunk + lid; i < last; i += WG) {
        sum += a[wid.z * params.a_replica + i] * b[wid.z * params.b_replica + i];
    }
    sum = workgroup_sum(sum, lid);
    if (lid == 0u) { y[wid.z * params.y_replica + wid.x] = sum; }
}
