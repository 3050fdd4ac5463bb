// streaming: what the attention kernels share that walk over keys, or queries, and keep no pattern in memory.
// An invocation owns one row (a query, or a key). The rows on the other side come in tiles that all invocations of
// a team read: the team is a subgroup of SG lanes, which keep one row each and pass it around by shuffles (for
// software adapters, whose loads cost more than their arithmetic), or with SG 0 a workgroup and its memory.
// A row is VECTORS vectors of four; beyond `width` it is zero. WIDE: width is 4 VECTORS, and rows are aligned.
struct Params {
    batch: u32, queries: u32, keys: u32, heads: u32,
    groups: u32, width: u32, scale: f32, q_replica: u32,
    k_replica: u32, v_replica: u32, z_replica: u32, lse_replica: u32,
    dz_replica: u32, delta_replica: u32, dq_replica: u32, dk_replica: u32,
    dv_replica: u32, tokens_replica: u32, statistics_replica: u32, tiles: u32,
}
// Every kernel binds q, k and v.
#if WIDE
alias Stored = vec4<f32>;
fn load_q(at: u32, x: u32) -> vec4<f32> { return q[at / 4u + x]; }
fn load_k(at: u32, x: u32) -> vec4<f32> { return k[at / 4u + x]; }
fn load_v(at: u32, x: u32) -> vec4<f32> { return v[at / 4u + x]; }
#else
alias Stored = f32;
// Four places along a row, held inside it, and zeros for those outside.
fn places(at: u32, x: u32) -> vec4<u32> {
    return vec4<u32>(at) + min(vec4<u32>(4u * x) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.width - 1u));
}
fn clipped(v: vec4<f32>, x: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), v, vec4<u32>(4u * x) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.width));
}
fn load_q(at: u32, x: u32) -> vec4<f32> { let p = places(at, x); return clipped(vec4<f32>(q[p.x], q[p.y], q[p.z], q[p.w]), x); }
fn load_k(at: u32, x: u32) -> vec4<f32> { let p = places(at, x); return clipped(vec4<f32>(k[p.x], k[p.y], k[p.z], k[p.w]), x); }
fn load_v(at: u32, x: u32) -> vec4<f32> { let p = places(at, x); return clipped(vec4<f32>(v[p.x], v[p.y], v[p.z], v[p.w]), x); }
#endif

const WG: u32 = 64u;
#if SG
// Rows of a tile, and of a block: those whose scores an invocation has at hand together.
const TILE: u32 = SG;
const BLOCK: u32 = SG;
const TEAM: u32 = SG;
var<private> lane: u32;
// This lane's row of each of the two matrices of a tile.
var<private> first_rows: array<vec4<f32>, VECTORS>;
var<private> second_rows: array<vec4<f32>, VECTORS>;
fn first(row: u32, x: u32) -> vec4<f32> { return subgroupShuffle(first_rows[x], row); }
fn second(row: u32, x: u32) -> vec4<f32> { return subgroupShuffle(second_rows[x], row); }
#else
const TILE: u32 = max(4u, min(64u, 256u / VECTORS));
const BLOCK: u32 = 4u;
const TEAM: u32 = WG;
var<workgroup> first_rows: array<vec4<f32>, TILE * VECTORS>;
var<workgroup> second_rows: array<vec4<f32>, TILE * VECTORS>;
fn first(row: u32, x: u32) -> vec4<f32> { return first_rows[row * VECTORS + x]; }
fn second(row: u32, x: u32) -> vec4<f32> { return second_rows[row * VECTORS + x]; }
#endif

// Brings a tile of keys and values to the team, as first and second rows. All of a team call it together.
fn fetch_keys(tile: u32, k_at: u32, v_at: u32, member: u32) {
    let ld = params.groups * params.width;
#if SG
    let key = min(tile + lane, params.keys - 1u);
#for x < VECTORS
    first_rows[x] = load_k(k_at + key * ld, x);
    second_rows[x] = load_v(v_at + key * ld, x);
#end
#else
    workgroupBarrier();
    for (var e = member; e < TILE * VECTORS; e += WG) {
        let key = min(tile + e / VECTORS, params.keys - 1u);
        first_rows[e] = load_k(k_at + key * ld, e % VECTORS);
        second_rows[e] = load_v(v_at + key * ld, e % VECTORS);
    }
    workgroupBarrier();
#endif
}

// What a team works on: the grid has ceil(rows / TEAM) tiles for each example and head, folded into x and y. Teams
// beyond the last go along with it, since all must meet at barriers, and are idle in the end.
struct Task { r: u32, example: u32, head: u32, row: u32, idle: bool }
fn team_of(number: u32, heads: u32) -> u32 { return min(number, params.tiles * params.batch * heads - 1u); }
fn row0_of(number: u32, heads: u32) -> u32 { return team_of(number, heads) % params.tiles * TEAM; }
fn head_of(number: u32, heads: u32) -> u32 { return team_of(number, heads) / params.tiles % heads; }
fn task_of(number: u32, heads: u32, r: u32, member: u32) -> Task {
    let team = team_of(number, heads);
    let example = team / (params.tiles * heads);
    return Task(r, example, head_of(number, heads), row0_of(number, heads) + member, number != team);
}
