// small_backward_kv: dk = scale dS^T q, dv = P^T dz, summed over the query heads of a group
// shapes   q, dz [R, B, Tq, H, K]  pattern, ds [R, B, H, Tq, T]  dk, dv [R, B, T, G, K]
// grid     ceil(B T G K / width / 64) groups folded into x and y, R; one invocation for each element of dk
// numerics f32, serial over heads and queries
// knobs    WIDE: vectors of four along K
#import attention
#import vectors
@tensor var<storage, read> q: array<T>;
@tensor var<storage, read> pattern: array<f32>;
@tensor var<storage, read> dz: array<T>;
@tensor var<storage, read> ds: array<f32>;
@tensor var<storage, read_write> dk: array<T>;
@tensor var<storage, read_write> dv: array<T>;

@compute @workgroup_size(64)
fn small_backward_kv(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    let width = params.width / LANES;
    if (at >= params.batch * params.keys * params.groups * width) { return; }
    let r = wid.z;
    let x = at % width;
    let g = at / width % params.groups;
    let j = at / (width * params.groups) % params.keys;
    let b = at / (width * params.groups * params.keys);
    let group = params.heads / params.groups;
    // Queries before this key do not see it.
    let before = params.keys - params.queries;
    let first = j - min(j, before);
    var sum_k = T(0.0);
    var sum_v = T(0.0);
    for (var h = g * group; h < (g + 1u) * group; h++) {
        for (var i = first; i < params.queries; i++) {
            let q_at = ((b * params.queries + i) * params.heads + h) * width + x;
            let line = ((b * params.heads + h) * params.queries + i) * params.keys + j;
            sum_k += ds[r * params.ds_replica + line] * q[r * params.q_replica / LANES + q_at];
            sum_v += pattern[r * params.pattern_replica + line] * dz[r * params.dz_replica / LANES + q_at];
        }
    }
    dk[r * params.dk_replica / LANES + at] = params.scale * sum_k;
    dv[r * params.dv_replica / LANES + at] = sum_v;
}
