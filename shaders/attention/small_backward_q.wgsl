// small_backward_q: dS = P (dP - sum P dP) with dP = dz v^T, and dq = scale dS k, for few keys
// shapes   k, v [R, B, T, G, K]  pattern, ds [R, B, H, Tq, T]  dz, dq [R, B, Tq, H, K]
// grid     ceil(B H Tq / 64) groups folded into x and y, R; one invocation for each query of each head
// numerics f32, serial over keys
// knobs    WIDE: vectors of four along K
#import attention
#import vectors
@tensor var<storage, read> k: array<T>;
@tensor var<storage, read> v: array<T>;
@tensor var<storage, read> pattern: array<f32>;
@tensor var<storage, read> dz: array<T>;
@tensor var<storage, read_write> dq: array<T>;
@tensor var<storage, read_write> ds: array<f32>;

@compute @workgroup_size(64)
fn small_backward_q(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.batch * params.queries * params.heads) { return; }
    let r = wid.z;
    let h = at % params.heads;
    let i = at / params.heads % params.queries;
    let b = at / (params.heads * params.queries);
    let width = params.width / LANES;
    let dz_at = r * params.dz_replica / LANES + at * width;
    let kv_ld = params.groups * width;
    let kv_at = b * params.keys * kv_ld + h / (params.heads / params.groups) * width;
    let k_at = r * params.k_replica / LANES + kv_at;
    let v_at = r * params.v_replica / LANES + kv_at;
    let line = ((b * params.heads + h) * params.queries + i) * params.keys;
    let p_at = r * params.pattern_replica + line;
    let ds_at = r * params.ds_replica + line;
    let horizon = params.keys - params.queries + i;
    var mean = 0.0;
    for (var j = 0u; j <= horizon; j++) {
        var dots = T(0.0);
        for (var x = 0u; x < width; x++) { dots += dz[dz_at + x] * v[v_at + j * kv_ld + x]; }
        let dp = total(dots);
        ds[ds_at + j] = dp;
        mean += pattern[p_at + j] * dp;
    }
    for (var j = 0u; j < params.keys; j++) {
        ds[ds_at + j] = select(pattern[p_at + j] * (ds[ds_at + j] - mean), 0.0, j > horizon);
    }
    let dq_at = r * params.dq_replica / LANES + at * width;
    for (var x = 0u; x < width; x++) {
        var sum = T(0.0);
        for (var j = 0u; j <= horizon; j++) { sum += ds[ds_at + j] * k[k_at + j * kv_ld + x]; }
        dq[dq_at + x] = params.scale * sum;
    }
}
