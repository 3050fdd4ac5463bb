// count_queries: n[q] = examples whose prediction at query q counts
// shapes   targets: see patterns  out [R, Tq]
// grid     [Tq, 1, R]
// numerics integers up to 2^24 are exact in f32
#import patterns
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn count_queries(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    var count = 0.0;
    for (var b = lid; b < params.batch; b += WG) {
        count += select(0.0, 1.0, query_counts(targets[target_place(wid.z, b, wid.x)], wid.x));
    }
    count = workgroup_sum(count, lid);
    if (lid == 0u) { out[wid.z * params.out_replica + wid.x] = count; }
}
