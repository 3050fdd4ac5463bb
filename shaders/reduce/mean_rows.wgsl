// mean_rows: y = sum over n of x[n] / count
// shapes   x [R, N]  count [R] or shared  y [R]
// grid     [1, 1, R]
// numerics f32; lane l adds x[l], x[l + 256], ... in order, then a tree: trailing zeros change nothing
struct Params { n: u32, x_replica: u32, count_replica: u32, y_replica: u32 }
const WG: u32 = 256u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn mean_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    var sum = 0.0;
    for (var n = lid; n < params.n; n += WG) { sum += x[wid.z * params.x_replica + n]; }
    sum = workgroup_sum(sum, lid);
    if (lid == 0u) { y[wid.z * params.y_replica] = sum / count[wid.z * params.count_replica]; }
}
