// spread_mean: y[n] = dy / count, the gradient of mean_rows
// shapes   dy [R] or shared  count [R] or shared  y [R, N]
// grid     ceil(N / 64) groups folded into x and y, R
struct Params { n: u32, x_replica: u32, count_replica: u32, y_replica: u32 }
@tensor var<storage, read> dy: array<f32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn spread_mean(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = (wid.y * groups.x + wid.x) * 64u + lid;
    if (n < params.n) {
        y[wid.z * params.y_replica + n] = dy[wid.z * params.x_replica] / count[wid.z * params.count_replica];
    }
}
