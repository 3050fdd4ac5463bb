// count_targets: y = how many targets are not IGNORE
// shapes   targets [R, n]  y [R]
// grid     [1, 1, R]
// numerics exact up to 2^24 targets
struct Params { n: u32, x_replica: u32, y_replica: u32 }
const WG: u32 = 256u;
#import reduce
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn count_targets(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    var count = 0.0;
    for (var n = lid; n < params.n; n += WG) {
        count += select(0.0, 1.0, targets[wid.z * params.x_replica + n] != 0xffffffffu);
    }
    count = workgroup_sum(count, lid);
    if (lid == 0u) { y[wid.z * params.y_replica] = count; }
}
