// largest: y = the largest of x; their sum where that is no finite number
// shapes   x [R, n]  y [R, 1]
// grid     [1, 1, R]
struct Params { n: u32, x_replica: u32, y_replica: u32 }
const WG: u32 = 64u;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn largest(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    var top = -HUGE;
    var sum = 0.0;
    for (var i = lid; i < params.n; i += WG) {
        top = max(top, x[wid.z * params.x_replica + i]);
        sum += x[wid.z * params.x_replica + i];
    }
    top = workgroup_max(top, lid);
    sum = workgroup_sum(sum, lid);
    if (lid == 0u) { y[wid.z * params.y_replica] = select(sum, top, is_finite(sum)); }
}
