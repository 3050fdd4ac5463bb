// activation_curve: y = dy act''(x)
// shapes   dy, x, y [R, n]
// grid     ceil(vectors / 64) groups folded into x and y, R
// numerics slopes of tanh and of the logistic as e / (1 + e)^2 with e <= 1: nothing cancels or overflows
// knobs    ACT: see shared/activation; WIDE: vectors of four
struct Params { vectors: u32, a_replica: u32, b_replica: u32, c_replica: u32, y_replica: u32, z_replica: u32 }
#import activation
#import each_activation
@tensor var<storage, read> dy: array<T>;
@tensor var<storage, read> x: array<T>;
@tensor var<storage, read_write> y: array<T>;

fn curvature(x: f32) -> f32 {
    if (ACT == 0u) { return 0.0; }
    if (ACT == 1u) { return (2.0 - x * x) * 0.39894228 * exp(-0.5 * x * x); }
    // Beyond 12 nothing is left, and powers of x need not be taken.
    let near = clamp(x, -12.0, 12.0);
    if (ACT == 2u) {
        let inner = 0.79788456 * (near + 0.044715 * near * near * near);
        let slope = 0.79788456 * (1.0 + 3.0 * 0.044715 * near * near);
        let bend = 0.79788456 * 6.0 * 0.044715 * near;
        let e = exp(-2.0 * abs(inner));
        let fall = 4.0 * e / ((1.0 + e) * (1.0 + e));
        return select(fall * (slope + 0.5 * near * (bend - 2.0 * tanh_stable(inner) * slope * slope)), 0.0, near != x);
    }
    let e = exp(-abs(x));
    let fall = e / ((1.0 + e) * (1.0 + e));
    return fall * (2.0 + x * (1.0 - 2.0 * logistic(x)));
}

#if WIDE
fn each_curvature(x: T) -> T { return T(curvature(x.x), curvature(x.y), curvature(x.z), curvature(x.w)); }
#else
fn each_curvature(x: T) -> T { return curvature(x); }
#endif

@compute @workgroup_size(64)
fn activation_curve(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i >= params.vectors) { return; }
    y[wid.z * params.y_replica + i] = dy[wid.z * params.a_replica + i] * each_curvature(x[wid.z * params.b_replica + i]);
}
