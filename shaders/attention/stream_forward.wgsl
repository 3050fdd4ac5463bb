// stream_forward: z = softmax(scale q k^T) v, causal, and of each query the log-sum-exp of its scores and
// statistics of its pattern A, without A in memory
// shapes   q, z [R, B, Tq, H, K]  k, v [R, B, T, G, K]  tokens [R, B, T]  lse [R, B, H, Tq]
//          statistics [R, B, H, Tq, 5]: entropy in nats; A on the token before; A on earlier places of the query's
//          token; A on what followed those (both 0 without TOKENS); length of z
// grid     a team for ceil(Tq / TEAM) tiles of queries of each example and head, folded into x and y, R
// numerics f32; running maximum, sums rescaled whenever it rises; serial over keys. Keys with the greatest score, e^0 each, are
//          counted and the others added up apart: the entropy of a query that looks at one key is in what these leave of 1
// knobs    VECTORS, WIDE, SG: see shared/streaming  TOKENS: whether tokens are bound
#import streaming
#import numerics
@tensor var<storage, read> q: array<Stored>;
@tensor var<storage, read> k: array<Stored>;
@tensor var<storage, read> v: array<Stored>;
@tensor var<storage, read_write> z: array<Stored>;
@tensor var<storage, read_write> lse: array<f32>;
@tensor var<storage, read_write> statistics: array<f32>;
#if TOKENS
@tensor var<storage, read> tokens: array<u32>;
#endif

#if WIDE
fn store_z(at: u32, x: u32, value: vec4<f32>) { z[at / 4u + x] = value; }
#else
fn store_z(at: u32, x: u32, value: vec4<f32>) {
#for e < 4
    if (4u * x + e < params.width) { z[at + 4u * x + e] = value[e]; }
#end
}
#endif

const MASKED: f32 = -1e30;

#if TOKENS
// A key's token, and the one before it: none of which the second counts for key 0.
fn tokens_at(t_at: u32, key: u32) -> vec2<u32> {
    let place = min(key, params.keys - 1u);
    return vec2<u32>(tokens[t_at + place], tokens[t_at + max(place, 1u) - 1u]);
}
#if SG
// Of this lane's key of a tile.
var<private> of_lane: vec2<u32>;
fn tokens_of(t_at: u32, tile: u32, row: u32) -> vec2<u32> { return subgroupShuffle(of_lane, row); }
#else
fn tokens_of(t_at: u32, tile: u32, row: u32) -> vec2<u32> { return tokens_at(t_at, tile + row); }
#endif
#endif

@compute @workgroup_size(WG)
#if SG
fn stream_forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) member: u32) {
    let number = (wid.y * groups.x + wid.x) * (WG / SG) + subgroup;
    lane = member;
#else
fn stream_forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) member: u32) {
    let number = wid.y * groups.x + wid.x;
#endif
    let at = task_of(number, params.heads, wid.z, member);
    let row0 = row0_of(number, params.heads);
    let query = min(at.row, params.queries - 1u);
    let before = params.keys - params.queries;
    let horizon = before + query;
    let q_row = (at.example * params.queries + query) * params.heads + at.head;
    let kv_at = at.example * params.keys * params.groups * params.width + at.head / (params.heads / params.groups) * params.width;
    let k_at = at.r * params.k_replica + kv_at;
    let v_at = at.r * params.v_replica + kv_at;
    var own: array<vec4<f32>, VECTORS>;
    var mix: array<vec4<f32>, VECTORS>;
#for x < VECTORS
    own[x] = params.scale * load_q(at.r * params.q_replica + q_row * params.width, x);
    mix[x] = vec4<f32>(0.0);
#end
    var top = MASKED;
    // How many keys have the greatest score, and the sum of e^(s - top) over the others.
    var tops = 0.0;
    var rest = 0.0;
    // Sum of e^(s - top) (s - top), for the entropy.
    var spread = 0.0;
    var looked = vec3<f32>(0.0);
#if TOKENS
    let t_at = at.r * params.tokens_replica + at.example * params.keys;
    let current = tokens[t_at + horizon];
#endif
    // Up to the last key that the last query of the team sees.
    let end = before + min(row0 + TEAM, params.queries);
    for (var tile = 0u; tile < end; tile += TILE) {
        fetch_keys(tile, k_at, v_at, member);
#if TOKENS
#if SG
        of_lane = tokens_at(t_at, tile + lane);
#endif
#endif
        for (var block = 0u; block < TILE; block += BLOCK) {
            var scores: array<f32, BLOCK>;
#for j < BLOCK
            scores[j] = 0.0;
#end
#for x < VECTORS
#for j < BLOCK
            scores[j] += dot(own[x], first(block + j, x));
#end
#end
            var highest = top;
#for j < BLOCK
            if (tile + block + j > horizon) { scores[j] = MASKED; }
            highest = max(highest, scores[j]);
#end
            let shrink = exp(top - highest);
            spread = shrink * (spread + (tops + rest) * max(top - highest, MASKED));
            let rises = highest > top;
            rest = shrink * select(rest, tops + rest, rises);
            tops = select(tops, 0.0, rises);
            looked *= shrink;
            top = highest;
#for j < BLOCK
            {
                let key = tile + block + j;
                let s = scores[j] - top;
                let e = select(exp(s), 0.0, key > horizon);
                scores[j] = e;
                let greatest = s == 0.0;
                tops += select(0.0, 1.0, greatest);
                rest += select(e, 0.0, greatest);
                spread += select(e * s, 0.0, key > horizon);
                var found = vec3<bool>(key + 1u == horizon, false, false);
#if TOKENS
                let near = tokens_of(t_at, tile, block + j);
                found = vec3<bool>(found.x, key < horizon && near.x == current, key > 0u && near.y == current);
#endif
                looked += select(vec3<f32>(0.0), vec3<f32>(e), found);
            }
#end
#for x < VECTORS
            {
                var m = shrink * mix[x];
#for j < BLOCK
                m = fma(vec4<f32>(scores[j]), second(block + j, x), m);
#end
                mix[x] = m;
            }
#end
        }
    }
    if (at.idle || at.row >= params.queries) { return; }
    let sum = tops + rest;
    var squares = 0.0;
#for x < VECTORS
    {
        let value = mix[x] / sum;
        squares += dot(value, value);
        store_z(at.r * params.z_replica + q_row * params.width, x, value);
    }
#end
    let line = (at.example * params.heads + at.head) * params.queries + query;
    lse[at.r * params.lse_replica + line] = top + log(sum);
    let taken = at.r * params.statistics_replica + 5u * line;
    statistics[taken] = select(log(tops), 0.0, tops == 1.0) + log1p(rest / tops) - spread / sum;
    for (var e = 0u; e < 3u; e++) { statistics[taken + 1u + e] = looked[e] / sum; }
    statistics[taken + 4u] = sqrt(squares);
}
