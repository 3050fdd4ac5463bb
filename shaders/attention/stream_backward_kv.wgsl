// stream_backward_kv: dk = scale dS^T q, dv = P^T dz, summed over the query heads of a group, with
// P = exp(scale q k^T - lse) computed anew and dS = P (dz v^T - delta)
// shapes   q, dz [R, B, Tq, H, K]  k, v, dk, dv [R, B, T, G, K]  lse, delta [R, B, H, Tq]
// grid     a team for ceil(T / TEAM) tiles of keys of each example and group, folded into x and y, R
// numerics f32, serial over heads and queries
// knobs    VECTORS, WIDE, SG: see shared/streaming
#import streaming
@tensor var<storage, read> q: array<Stored>;
@tensor var<storage, read> k: array<Stored>;
@tensor var<storage, read> v: array<Stored>;
@tensor var<storage, read> lse: array<f32>;
@tensor var<storage, read> dz: array<Stored>;
@tensor var<storage, read> delta: array<f32>;
@tensor var<storage, read_write> dk: array<Stored>;
@tensor var<storage, read_write> dv: array<Stored>;

#if WIDE
fn load_dz(at: u32, x: u32) -> vec4<f32> { return dz[at / 4u + x]; }
fn store_dk(at: u32, x: u32, value: vec4<f32>) { dk[at / 4u + x] = value; }
fn store_dv(at: u32, x: u32, value: vec4<f32>) { dv[at / 4u + x] = value; }
#else
fn load_dz(at: u32, x: u32) -> vec4<f32> { let p = places(at, x); return clipped(vec4<f32>(dz[p.x], dz[p.y], dz[p.z], dz[p.w]), x); }
fn store_dk(at: u32, x: u32, value: vec4<f32>) {
#for e < 4
    if (4u * x + e < params.width) { dk[at + 4u * x + e] = value[e]; }
#end
}
fn store_dv(at: u32, x: u32, value: vec4<f32>) {
#for e < 4
    if (4u * x + e < params.width) { dv[at + 4u * x + e] = value[e]; }
#end
}
#endif
#if SG
// Of this lane's query: log-sum-exp and delta.
var<private> of_row: vec2<f32>;
fn of_query(row: u32) -> vec2<f32> { return subgroupShuffle(of_row, row); }
#else
var<workgroup> of_rows: array<vec2<f32>, TILE>;
fn of_query(row: u32) -> vec2<f32> { return of_rows[row]; }
#endif

@compute @workgroup_size(WG)
#if SG
fn stream_backward_kv(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) member: u32) {
    let number = (wid.y * groups.x + wid.x) * (WG / SG) + subgroup;
    lane = member;
#else
fn stream_backward_kv(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) member: u32) {
    let number = wid.y * groups.x + wid.x;
#endif
    let at = task_of(number, params.groups, wid.z, member);
    let row0 = row0_of(number, params.groups);
    let key = min(at.row, params.keys - 1u);
    let before = params.keys - params.queries;
    let row = ((at.example * params.keys + key) * params.groups + at.head) * params.width;
    var own_k: array<vec4<f32>, VECTORS>;
    var own_v: array<vec4<f32>, VECTORS>;
    var sums_k: array<vec4<f32>, VECTORS>;
    var sums_v: array<vec4<f32>, VECTORS>;
#for x < VECTORS
    own_k[x] = params.scale * load_k(at.r * params.k_replica + row, x);
    own_v[x] = load_v(at.r * params.v_replica + row, x);
    sums_k[x] = vec4<f32>(0.0);
    sums_v[x] = vec4<f32>(0.0);
#end
    // The first query that sees the first key of the team.
    let begin = row0 - min(row0, before);
    let group = params.heads / params.groups;
    let h0 = head_of(number, params.groups) * group;
    for (var h = h0; h < h0 + group; h++) {
        let line = (at.example * params.heads + h) * params.queries;
        for (var tile = begin; tile < params.queries; tile += TILE) {
#if SG
            let query = min(tile + lane, params.queries - 1u);
            let q_row = ((at.example * params.queries + query) * params.heads + h) * params.width;
#for x < VECTORS
            first_rows[x] = load_q(at.r * params.q_replica + q_row, x);
            second_rows[x] = load_dz(at.r * params.dz_replica + q_row, x);
#end
            of_row = vec2<f32>(lse[at.r * params.lse_replica + line + query], delta[at.r * params.delta_replica + line + query]);
#else
            workgroupBarrier();
            for (var e = member; e < TILE * VECTORS; e += WG) {
                let query = min(tile + e / VECTORS, params.queries - 1u);
                let q_row = ((at.example * params.queries + query) * params.heads + h) * params.width;
                first_rows[e] = load_q(at.r * params.q_replica + q_row, e % VECTORS);
                second_rows[e] = load_dz(at.r * params.dz_replica + q_row, e % VECTORS);
            }
            if (member < TILE) {
                let query = min(tile + member, params.queries - 1u);
                of_rows[member] = vec2<f32>(lse[at.r * params.lse_replica + line + query], delta[at.r * params.delta_replica + line + query]);
            }
            workgroupBarrier();
#endif
            for (var block = 0u; block < TILE; block += BLOCK) {
                var weights: array<f32, BLOCK>;
                var pulls: array<f32, BLOCK>;
#for i < BLOCK
                weights[i] = 0.0; pulls[i] = 0.0;
#end
#for x < VECTORS
#for i < BLOCK
                weights[i] += dot(own_k[x], first(block + i, x));
                pulls[i] += dot(own_v[x], second(block + i, x));
#end
#end
#for i < BLOCK
                {
                    let query = tile + block + i;
                    let known = of_query(block + i);
                    let seen = query < params.queries && key <= before + query;
                    weights[i] = select(0.0, exp(weights[i] - known.x), seen);
                    pulls[i] = weights[i] * (pulls[i] - known.y);
                }
#end
#for x < VECTORS
                {
                    var to_k = sums_k[x];
                    var to_v = sums_v[x];
#for i < BLOCK
                    to_k = fma(vec4<f32>(pulls[i]), first(block + i, x), to_k);
                    to_v = fma(vec4<f32>(weights[i]), second(block + i, x), to_v);
#end
                    sums_k[x] = to_k;
                    sums_v[x] = to_v;
                }
#end
            }
        }
    }
    if (at.idle || at.row >= params.keys) { return; }
#for x < VECTORS
    store_dk(at.r * params.dk_replica + row, x, params.scale * sums_k[x]);
    store_dv(at.r * params.dv_replica + row, x, sums_v[x]);
#end
}
