// match_counts: partial[group, 0] = number of queries of 64 that count and have a token before them,
// partial[group, 1] = of those, how many read a token that stood before
// shapes   tokens [R, B, T]  targets: see patterns, with T queries  partial [R, groups, 2]
// grid     ceil(B T / 64) groups folded into x and y, R
// numerics whole numbers
#import patterns
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> tokens: array<u32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn match_counts(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.y * groups.x + wid.x;
    let row = min(group * 64u + lid, params.batch * params.keys - 1u);
    let example = row / params.keys;
    let query = row % params.keys;
    let first = wid.z * params.tokens_replica + example * params.keys;
    let current = tokens[first + query];
    var stood = false;
    for (var k = 0u; k < query && !stood; k++) { stood = tokens[first + k] == current; }
    let counts = query > 0u && group * 64u + lid == row && query_counts(targets[target_place(wid.z, example, query)], query);
    let before = workgroup_sum(select(0.0, 1.0, counts), lid);
    let repeated = workgroup_sum(select(0.0, 1.0, counts && stood), lid);
    if (lid == 0u && group * 64u < params.batch * params.keys) {
        partial[wid.z * params.out_replica + group * 2u] = before;
        partial[wid.z * params.out_replica + group * 2u + 1u] = repeated;
    }
}
