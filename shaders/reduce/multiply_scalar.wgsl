// multiply_scalar: y = factor x, the factor being a number on the device
// shapes   x [R, n]  factor [R]; either may be shared  y [R, n]
// grid     ceil(n / 64) groups folded into x and y, R
struct Params { n: u32, x_replica: u32, factor_replica: u32, y_replica: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> factor: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn multiply_scalar(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i < params.n) {
        y[wid.z * params.y_replica + i] = factor[wid.z * params.factor_replica] * x[wid.z * params.x_replica + i];
    }
}
