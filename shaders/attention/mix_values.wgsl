// mix_values: z = pattern v, with a pattern computed elsewhere: example b takes pattern b mod patterns
// shapes   pattern [R, patterns, H, Tq, T]  v [R, B, T, G, K]  z [R, B, Tq, H, K]
// grid     ceil(B Tq H K / 64) groups folded into x and y, R; one invocation for each element of z
// numerics f32, serial over keys
struct Params {
    batch: u32, patterns: u32, queries: u32, keys: u32, heads: u32, groups: u32, width: u32,
    pattern_replica: u32, v_replica: u32, z_replica: u32,
}
@tensor var<storage, read> pattern: array<f32>;
@tensor var<storage, read> v: array<f32>;
@tensor var<storage, read_write> z: array<f32>;

@compute @workgroup_size(64)
fn mix_values(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.batch * params.queries * params.heads * params.width) { return; }
    let r = wid.z;
    let x = at % params.width;
    let h = at / params.width % params.heads;
    let i = at / (params.width * params.heads) % params.queries;
    let b = at / (params.width * params.heads * params.queries);
    let line = r * params.pattern_replica + ((b % params.patterns * params.heads + h) * params.queries + i) * params.keys;
    let kv_ld = params.groups * params.width;
    let v_at = r * params.v_replica + b * params.keys * kv_ld + h / (params.heads / params.groups) * params.width + x;
    var mix = 0.0;
    for (var j = 0u; j <= params.keys - params.queries + i; j++) { mix += pattern[line + j] * v[v_at + j * kv_ld]; }
    z[r * params.z_replica + at] = mix;
}
