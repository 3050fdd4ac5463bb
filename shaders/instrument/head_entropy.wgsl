// head_entropy: partial[chunk, h] = sum of -A ln A over a chunk of head h's entries whose query counts,
// divided by the number of queries that count
// shapes   x (A), targets: see patterns  counts [R, Tq]  partial [R, chunks, H]
// grid     [H, chunks, R]
// numerics f32, tree of fixed shape; 0 ln 0 = 0
#import patterns
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> counts: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn head_entropy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let size = params.queries * params.keys;
    let last = min((wid.y + 1u) * params.chunk, params.batch * size);
    var sum = 0.0;
    for (var e = wid.y * params.chunk + lid; e < last; e += WG) {
        let example = e / size;
        let query = e % size / params.keys;
        let a = x[r * params.x_replica + (example * params.heads + wid.x) * size + e % size];
        let counted = a != 0.0 && query_counts(targets[target_place(r, example, query)], query);
        sum -= select(0.0, a * log(max(a, 1e-37)), counted);
    }
    sum = workgroup_sum(sum, lid);
    var all = 0.0;
    for (var q = lid; q < params.queries; q += WG) { all += counts[r * params.counts_replica + q]; }
    all = workgroup_sum(all, lid);
    if (lid == 0u) { partial[r * params.out_replica + wid.y * params.heads + wid.x] = sum / all; }
}
