// square: y = x^2, or with BACKWARD y = 2 x dy
// shapes   x, dy, y [R, n]; x and dy may be shared (stride 0)
// grid     ceil(n / 64) groups folded into x and y, R
// knobs    BACKWARD: multiplies by the incoming gradient
struct Params { n: u32, x_replica: u32, dy_replica: u32, y_replica: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;
#if BACKWARD
@tensor var<storage, read> dy: array<f32>;
fn squared(v: f32, at: u32) -> f32 { return 2.0 * v * dy[at]; }
#else
fn squared(v: f32, at: u32) -> f32 { return v * v; }
#endif

@compute @workgroup_size(64)
fn square(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i >= params.n) { return; }
    y[wid.z * params.y_replica + i] = squared(x[wid.z * params.x_replica + i], wid.z * params.dy_replica + i);
}
