// small_forward: scores = scale q k^T, pattern = causal softmax, z = pattern v, for few keys
// shapes   q, z [R, B, Tq, H, K]  k, v [R, B, T, G, K]  pattern, scores [R, B, H, Tq, T]
//          lengths [R, B, Tq, H]: of z
// grid     ceil(B H Tq / 64) groups folded into x and y, R; one invocation for each query of each head
// numerics f32, serial over keys; masked scores hold MASKED, masked pattern entries 0
// knobs    WIDE: vectors of four along K
#import attention
#import vectors
@tensor var<storage, read> q: array<T>;
@tensor var<storage, read> k: array<T>;
@tensor var<storage, read> v: array<T>;
@tensor var<storage, read_write> z: array<T>;
@tensor var<storage, read_write> pattern: array<f32>;
@tensor var<storage, read_write> scores: array<f32>;
@tensor var<storage, read_write> lengths: array<f32>;

const MASKED: f32 = -1e30;

@compute @workgroup_size(64)
fn small_forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    // Consecutive invocations take consecutive heads of one query, whose q and z are neighbours.
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.batch * params.queries * params.heads) { return; }
    let r = wid.z;
    let h = at % params.heads;
    let i = at / params.heads % params.queries;
    let b = at / (params.heads * params.queries);
    let width = params.width / LANES;
    let q_at = r * params.q_replica / LANES + at * width;
    let kv_ld = params.groups * width;
    let kv_at = b * params.keys * kv_ld + h / (params.heads / params.groups) * width;
    let k_at = r * params.k_replica / LANES + kv_at;
    let v_at = r * params.v_replica / LANES + kv_at;
    let line = ((b * params.heads + h) * params.queries + i) * params.keys;
    let p_at = r * params.pattern_replica + line;
    let horizon = params.keys - params.queries + i;
    var top = MASKED;
    for (var j = 0u; j < params.keys; j++) {
        var score = MASKED;
        if (j <= horizon) {
            var dots = T(0.0);
            for (var x = 0u; x < width; x++) { dots += q[q_at + x] * k[k_at + j * kv_ld + x]; }
            score = params.scale * total(dots);
        }
        scores[r * params.scores_replica + line + j] = score;
        pattern[p_at + j] = score;
        top = max(top, score);
    }
    var sum = 0.0;
    for (var j = 0u; j < params.keys; j++) {
        let e = select(exp(pattern[p_at + j] - top), 0.0, j > horizon);
        pattern[p_at + j] = e;
        sum += e;
    }
    for (var j = 0u; j < params.keys; j++) { pattern[p_at + j] /= sum; }
    let z_at = r * params.z_replica / LANES + at * width;
    var squares = T(0.0);
    for (var x = 0u; x < width; x++) {
        var mix = T(0.0);
        for (var j = 0u; j <= horizon; j++) { mix += pattern[p_at + j] * v[v_at + j * kv_ld + x]; }
        z[z_at + x] = mix;
        squares += mix * mix;
    }
    lengths[r * params.lengths_replica + at] = sqrt(total(squares));
}
