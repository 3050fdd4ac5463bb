// collect_keys: dk = A^T q, summed over the query heads of a group, for few keys
// shapes   pattern A [R, B, H, Tq, T]  q [R, B, Tq, H, K]  dk [R, B, T, G, K]
// grid     ceil(B T G K / width / 64) groups folded into x and y, R; one invocation for each element of dk
// numerics f32, serial over heads and queries
// knobs    WIDE: vectors of four along K
#import attention
#import vectors
@tensor var<storage, read> pattern: array<f32>;
@tensor var<storage, read> q: array<T>;
@tensor var<storage, read_write> dk: array<T>;

@compute @workgroup_size(64)
fn collect_keys(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
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
    var sum = T(0.0);
    for (var h = g * group; h < (g + 1u) * group; h++) {
        for (var i = first; i < params.queries; i++) {
            let line = ((b * params.heads + h) * params.queries + i) * params.keys + j;
            let q_at = ((b * params.queries + i) * params.heads + h) * width + x;
            sum += pattern[r * params.pattern_replica + line] * q[r * params.q_replica / LANES + q_at];
        }
    }
    dk[r * params.dk_replica / LANES + at] = sum;
}
