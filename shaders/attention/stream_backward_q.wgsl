// stream_backward_q: delta = sum dz z, dS = P (dz v^T - delta), dq = scale dS k, with P = exp(scale q k^T - lse)
// computed anew
// shapes   q, z, dz, dq [R, B, Tq, H, K]  k, v [R, B, T, G, K]  lse, delta [R, B, H, Tq]
// grid     a team for ceil(Tq / TEAM) tiles of queries of each example and head, folded into x and y, R
// numerics f32, serial over keys
// knobs    VECTORS, WIDE, SG: see shared/streaming
#import streaming
@tensor var<storage, read> q: array<Stored>;
@tensor var<storage, read> k: array<Stored>;
@tensor var<storage, read> v: array<Stored>;
@tensor var<storage, read> z: array<Stored>;
@tensor var<storage, read> lse: array<f32>;
@tensor var<storage, read> dz: array<Stored>;
@tensor var<storage, read_write> dq: array<Stored>;
@tensor var<storage, read_write> delta: array<f32>;

#if WIDE
fn load_z(at: u32, x: u32) -> vec4<f32> { return z[at / 4u + x]; }
fn load_dz(at: u32, x: u32) -> vec4<f32> { return dz[at / 4u + x]; }
fn store_dq(at: u32, x: u32, value: vec4<f32>) { dq[at / 4u + x] = value; }
#else
fn load_z(at: u32, x: u32) -> vec4<f32> { let p = places(at, x); return clipped(vec4<f32>(z[p.x], z[p.y], z[p.z], z[p.w]), x); }
fn load_dz(at: u32, x: u32) -> vec4<f32> { let p = places(at, x); return clipped(vec4<f32>(dz[p.x], dz[p.y], dz[p.z], dz[p.w]), x); }
fn store_dq(at: u32, x: u32, value: vec4<f32>) {
#for e < 4
    if (4u * x + e < params.width) { dq[at + 4u * x + e] = value[e]; }
#end
}
#endif

@compute @workgroup_size(WG)
#if SG
fn stream_backward_q(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) member: u32) {
    let number = (wid.y * groups.x + wid.x) * (WG / SG) + subgroup;
    lane = member;
#else
fn stream_backward_q(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) member: u32) {
    let number = wid.y * groups.x + wid.x;
#endif
    let at = task_of(number, params.heads, wid.z, member);
    let row0 = row0_of(number, params.heads);
    let query = min(at.row, params.queries - 1u);
    let before = params.keys - params.queries;
    let horizon = before + query;
    let row = ((at.example * params.queries + query) * params.heads + at.head) * params.width;
    let kv_at = at.example * params.keys * params.groups * params.width + at.head / (params.heads / params.groups) * params.width;
    let k_at = at.r * params.k_replica + kv_at;
    let v_at = at.r * params.v_replica + kv_at;
    var own: array<vec4<f32>, VECTORS>;
    var flow: array<vec4<f32>, VECTORS>;
    var sums: array<vec4<f32>, VECTORS>;
    var mean = 0.0;
#for x < VECTORS
    own[x] = params.scale * load_q(at.r * params.q_replica + row, x);
    flow[x] = load_dz(at.r * params.dz_replica + row, x);
    mean += dot(flow[x], load_z(at.r * params.z_replica + row, x));
    sums[x] = vec4<f32>(0.0);
#end
    let line = (at.example * params.heads + at.head) * params.queries + query;
    let total = lse[at.r * params.lse_replica + line];
    let end = before + min(row0 + TEAM, params.queries);
    for (var tile = 0u; tile < end; tile += TILE) {
        fetch_keys(tile, k_at, v_at, member);
        for (var block = 0u; block < TILE; block += BLOCK) {
            var scores: array<f32, BLOCK>;
            var pulls: array<f32, BLOCK>;
#for j < BLOCK
            scores[j] = 0.0; pulls[j] = 0.0;
#end
#for x < VECTORS
#for j < BLOCK
            scores[j] += dot(own[x], first(block + j, x));
            pulls[j] += dot(flow[x], second(block + j, x));
#end
#end
#for j < BLOCK
            {
                let seen = tile + block + j <= horizon;
                scores[j] = select(0.0, exp(scores[j] - total) * (pulls[j] - mean), seen);
            }
#end
#for x < VECTORS
            {
                var m = sums[x];
#for j < BLOCK
                m = fma(vec4<f32>(scores[j]), first(block + j, x), m);
#end
                sums[x] = m;
            }
#end
        }
    }
    if (at.idle || at.row >= params.queries) { return; }
#for x < VECTORS
    store_dq(at.r * params.dq_replica + row, x, params.scale * sums[x]);
#end
    delta[at.r * params.delta_replica + line] = mean;
}
