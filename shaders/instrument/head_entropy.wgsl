// head_entropy: partial[chunk, h] = sum of -A ln A over a chunk of head h's entries whose query counts,
// divided by the number of queries that count
// shapes   x (A; or row statistics [R, B, H, Tq, 4], entropy first), targets: see patterns  count [R]
//          partial [R, chunks, H]
// grid     [H, chunks, R]
// numerics f32, tree of fixed shape; 0 ln 0 = 0
// knobs    LONG: a chunk is whole rows, each walked by all invocations up to the last key its query sees;
//          else it is entries, wherever rows end  TAKEN: a chunk is rows whose entropies are known
#import patterns
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

// What is no number must show.
fn surprise(a: f32) -> f32 { return select(a, select(0.0, -a * log(max(a, 1e-37)), a > 0.0), is_finite(a)); }

#if TAKEN
fn chunk_sum(r: u32, h: u32, chunk: u32, lid: u32) -> f32 {
    var sum = 0.0;
    let last = min((chunk + 1u) * params.chunk, params.batch * params.queries);
    for (var row = chunk * params.chunk + lid; row < last; row += WG) {
        let example = row / params.queries;
        let query = row % params.queries;
        let entropy = x[r * params.x_replica + ((example * params.heads + h) * params.queries + query) * 4u];
        sum += select(0.0, entropy, query_counts(targets[target_place(r, example, query)], query));
    }
    return sum;
}
#else
#if LONG
fn chunk_sum(r: u32, h: u32, chunk: u32, lid: u32) -> f32 {
    var sum = 0.0;
    let last = min((chunk + 1u) * params.chunk, params.batch * params.queries);
    for (var row = chunk * params.chunk; row < last; row++) {
        let example = row / params.queries;
        let query = row - example * params.queries;
        if (query_counts(targets[target_place(r, example, query)], query)) {
            let first = r * params.x_replica + ((example * params.heads + h) * params.queries + query) * params.keys;
            let seen = params.keys - params.queries + query;
            for (var k = lid; k <= seen; k += WG) { sum += surprise(x[first + k]); }
        }
    }
    return sum;
}
#else
fn chunk_sum(r: u32, h: u32, chunk: u32, lid: u32) -> f32 {
    var sum = 0.0;
    let size = params.queries * params.keys;
    let last = min((chunk + 1u) * params.chunk, params.batch * size);
    for (var e = chunk * params.chunk + lid; e < last; e += WG) {
        let example = e / size;
        let query = e % size / params.keys;
        let entry = surprise(x[r * params.x_replica + (example * params.heads + h) * size + e % size]);
        sum += select(0.0, entry, query_counts(targets[target_place(r, example, query)], query));
    }
    return sum;
}
#endif
#endif

@compute @workgroup_size(256)
fn head_entropy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let sum = workgroup_sum(chunk_sum(r, wid.x, wid.y, lid), lid);
    if (lid == 0u) {
        partial[r * params.out_replica + wid.y * params.heads + wid.x] = sum / count[r * params.counts_replica];
    }
}
