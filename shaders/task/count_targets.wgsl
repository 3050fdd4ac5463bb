// count_targets: y[c] = how many targets of column c are not IGNORE
// shapes   targets [R, N, C]  y [R, C]
// grid     [C, 1, R]
// numerics exact up to 2^24 targets
struct Params { rows: u32, columns: u32, x_replica: u32, y_replica: u32 }
const WG: u32 = 256u;
#import reduce
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn count_targets(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    var count = 0.0;
    for (var n = lid; n < params.rows; n += WG) {
        count += select(0.0, 1.0, targets[wid.z * params.x_replica + n * params.columns + wid.x] != 0xffffffffu);
    }
    count = workgroup_sum(count, lid);
    if (lid == 0u) { y[wid.z * params.y_replica + wid.x] = count; }
}
