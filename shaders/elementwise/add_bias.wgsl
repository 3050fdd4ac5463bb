// add_bias: y[row, c] = x[row, c] + b[c]
// shapes   x, y [R, rows, columns]  b [R, columns]; strides may be 0
// grid     ceil(rows columns / 64) groups folded into x and y, R
struct Params { rows: u32, columns: u32, x_replica: u32, b_replica: u32, y_replica: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> b: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn add_bias(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i < params.rows * params.columns) {
        y[wid.z * params.y_replica + i] = x[wid.z * params.x_replica + i] + b[wid.z * params.b_replica + i % params.columns];
    }
}
