// match_scores: partial[chunk, s, h] = sum over a chunk of entries, whose query counts, of A_ik where
//   s 0: k = i - 1;  s 1: token k = token i, k < i;  s 2: token k - 1 = token i
// divided by the number of queries that have such a k; 0 where none has. Head H is uniform attention
// shapes   x (A; or row statistics [R, B, H, Tq, 5], of which the second to fourth are these), targets: see patterns  tokens [R, B, T]  counts [R, 2]: see match_counts  partial [R, chunks, 3, H + 1]
// grid     [H + 1, chunks, R]
// numerics f32, tree of fixed shape
// knobs    TAKEN: x are statistics, and a chunk is rows, not entries
#import patterns
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> tokens: array<u32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> counts: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

fn share(sum: f32, count: f32) -> f32 { return select(sum / count, 0.0, count == 0.0); }

// Which of the three a key is to a query at `place`.
fn found(first: u32, place: u32, key: u32) -> vec3<bool> {
    let current = tokens[first + place];
    return vec3<bool>(
        key + 1u == place,
        key < place && tokens[first + key] == current,
        key > 0u && tokens[first + max(key, 1u) - 1u] == current,
    );
}

#if TAKEN
fn chunk_sums(r: u32, h: u32, chunk: u32, lid: u32) -> vec3<f32> {
    var sums = vec3<f32>(0.0);
    let last = min((chunk + 1u) * params.chunk, params.batch * params.queries);
    for (var row = chunk * params.chunk + lid; row < last; row += WG) {
        let example = row / params.queries;
        let query = row % params.queries;
        if (query_counts(targets[target_place(r, example, query)], query)) {
            if (h < params.heads) {
                let at = r * params.x_replica + ((example * params.heads + h) * params.queries + query) * 5u;
                sums += vec3<f32>(x[at + 1u], x[at + 2u], x[at + 3u]);
            } else {
                let place = params.keys - params.queries + query;
                let first = r * params.tokens_replica + example * params.keys;
                var counts = vec3<f32>(0.0);
                for (var key = 0u; key <= place; key++) {
                    counts += select(vec3<f32>(0.0), vec3<f32>(1.0), found(first, place, key));
                }
                sums += counts / f32(place + 1u);
            }
        }
    }
    return sums;
}
#else
fn chunk_sums(r: u32, h: u32, chunk: u32, lid: u32) -> vec3<f32> {
    let size = params.queries * params.keys;
    let last = min((chunk + 1u) * params.chunk, params.batch * size);
    var sums = vec3<f32>(0.0);
    for (var e = chunk * params.chunk + lid; e < last; e += WG) {
        let example = e / size;
        let query = e % size / params.keys;
        let key = e % params.keys;
        let place = params.keys - params.queries + query;
        if (key <= place && query_counts(targets[target_place(r, example, query)], query)) {
            var a = 1.0 / f32(place + 1u);
            if (h < params.heads) { a = x[r * params.x_replica + (example * params.heads + h) * size + e % size]; }
            let first = r * params.tokens_replica + example * params.keys;
            sums += select(vec3<f32>(0.0), vec3<f32>(a), found(first, place, key));
        }
    }
    return sums;
}
#endif

@compute @workgroup_size(64)
fn match_scores(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let h = wid.x;
    let r = wid.z;
    let sums = chunk_sums(r, h, wid.y, lid);
    let previous = workgroup_sum(sums.x, lid);
    let duplicate = workgroup_sum(sums.y, lid);
    let prefix = workgroup_sum(sums.z, lid);
    if (lid == 0u) {
        let heads = params.heads + 1u;
        let at = r * params.out_replica + wid.y * 3u * heads + h;
        let count = r * params.counts_replica;
        partial[at] = share(previous, counts[count]);
        partial[at + heads] = share(duplicate, counts[count + 1u]);
        partial[at + 2u * heads] = share(prefix, counts[count + 1u]);
    }
}
