// activation_forward: y = act(x)
// shapes   x, y [R, n]
// grid     ceil(vectors / 64) groups folded into x and y, R
// knobs    ACT: see shared/activation; WIDE: vectors of four
struct Params { vectors: u32, a_replica: u32, b_replica: u32, c_replica: u32, y_replica: u32, z_replica: u32 }
#import activation
#import each_activation
@tensor var<storage, read> x: array<T>;
@tensor var<storage, read_write> y: array<T>;

@compute @workgroup_size(64)
fn activation_forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i >= params.vectors) { return; }
    y[wid.z * params.y_replica + i] = each_act(x[wid.z * params.a_replica + i]);
}
