// head_scores: s = q k^T for each head, for few keys; neither scaled nor masked
// shapes   q [R, B, Tq, H, K]  k [R, B, T, G, K]  s [R, B, H, Tq, T]
// grid     ceil(B H Tq T / 64) groups folded into x and y, R; one invocation for each score
// numerics f32, serial over K
// knobs    WIDE: vectors of four along K
#import attention
#import vectors
@tensor var<storage, read> q: array<T>;
@tensor var<storage, read> k: array<T>;
@tensor var<storage, read_write> s: array<f32>;

@compute @workgroup_size(64)
fn head_scores(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.batch * params.heads * params.queries * params.keys) { return; }
    let r = wid.z;
    let j = at % params.keys;
    let i = at / params.keys % params.queries;
    let h = at / (params.keys * params.queries) % params.heads;
    let b = at / (params.keys * params.queries * params.heads);
    let width = params.width / LANES;
    let q_at = r * params.q_replica / LANES + ((b * params.queries + i) * params.heads + h) * width;
    let g = h / (params.heads / params.groups);
    let k_at = r * params.k_replica / LANES + ((b * params.keys + j) * params.groups + g) * width;
    var dots = T(0.0);
    for (var x = 0u; x < width; x++) { dots += q[q_at + x] * k[k_at + x]; }
    s[r * params.scores_replica + at] = total(dots);
}
