// pivot_rows: y[n, c] = x[n, c] - x[0, c], or 0 where that is no more than rounding of either
// shapes   x, y [R, N, C]
// grid     ceil(N C / 64) groups folded into x and y, R
struct Params { len: u32, columns: u32, x_replica: u32, y_replica: u32 }
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn pivot_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.len) { return; }
    let own = x[wid.z * params.x_replica + at];
    let pivot = x[wid.z * params.x_replica + at % params.columns];
    let difference = own - pivot;
    let size = max(abs(own), abs(pivot));
    let rounding = difference * difference <= ROUNDING * size * size;
    y[wid.z * params.y_replica + at] = select(difference, 0.0, rounding && is_finite(size));
}
