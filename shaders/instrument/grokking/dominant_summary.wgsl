// dominant_summary: over the columns whose dominant part holds more than `threshold`: how many follow each part, how well
//          the phases of those agree, r_k = |mean of exp(i phase)| from the part's first two components; and stats:
//          (peak - 1/K) / (1 - 1/K), 0 at least, with peak the largest share of columns, mean strength of all columns, share of columns
//          above the threshold, shares of columns that follow the 1 to TOP most followed parts; no number of stats is finite
//          where a strength is not
// shapes   dominant [R, 2, C]: see dominant  components [R, n, C]  starts [K + 1]  counts, phases [R, K]  stats [R, 3 + TOP]
// grid     [1, 1, R]; K up to 256
// numerics f32, serial over columns; ranks by counting, ties in order of index
struct Params {
    parts: u32, columns: u32, threshold: f32, x_replica: u32, dominant_replica: u32, out_replica: u32, stats_replica: u32,
}
const WG: u32 = 256u;
const TOP: u32 = 8u;
#import reduce
#import numerics
@tensor var<storage, read> dominant: array<f32>;
@tensor var<storage, read> components: array<f32>;
@tensor var<storage, read> starts: array<u32>;
@tensor var<storage, read_write> counts: array<f32>;
@tensor var<storage, read_write> phases: array<f32>;
@tensor var<storage, read_write> stats: array<f32>;

var<workgroup> followers: array<f32, 256>;

@compute @workgroup_size(256)
fn dominant_summary(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let first = r * params.dominant_replica;
    let part = min(lid, params.parts - 1u);
    let cosine = r * params.x_replica + starts[part] * params.columns;
    let paired = starts[part + 1u] > starts[part] + 1u;
    let sine = cosine + select(0u, params.columns, paired);
    var count = 0.0;
    var sum = vec2<f32>(0.0, 0.0);
    for (var column = 0u; column < params.columns; column++) {
        let follows = dominant[first + column] == f32(lid + 1u)
            && dominant[first + params.columns + column] > params.threshold;
        let wave = vec2<f32>(components[cosine + column], select(0.0, components[sine + column], paired));
        count += select(0.0, 1.0, follows);
        sum += select(vec2<f32>(0.0, 0.0), wave / max(length(wave), 1e-37), follows);
    }
    followers[lid] = count;
    var strength = 0.0;
    for (var column = lid; column < params.columns; column += WG) { strength += dominant[first + params.columns + column]; }
    strength = workgroup_sum(strength, lid);
    let peak = workgroup_max(count, lid) / f32(params.columns);
    let above = workgroup_sum(count, lid) / f32(params.columns);
    var rank = 0u;
    for (var k = 0u; k < params.parts; k++) {
        rank += select(0u, 1u, followers[k] > count || (followers[k] == count && k < lid));
    }
    let out = r * params.stats_replica;
    for (var top = 1u; top <= TOP; top++) {
        let share = workgroup_sum(select(0.0, count, rank < top && lid < params.parts), lid) / f32(params.columns);
        if (lid == 0u) { stats[out + 2u + top] = select(strength, share, is_finite(strength)); }
    }
    if (lid == 0u) {
        let even = 1.0 / f32(params.parts);
        stats[out] = select(strength, max((peak - even) / max(1.0 - even, 1e-37), 0.0), is_finite(strength));
        stats[out + 1u] = strength / f32(params.columns);
        stats[out + 2u] = select(strength, above, is_finite(strength));
    }
    if (lid < params.parts) {
        counts[r * params.out_replica + lid] = count;
        phases[r * params.out_replica + lid] = length(sum) / max(count, 1.0);
    }
}
