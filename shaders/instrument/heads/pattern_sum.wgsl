// pattern_sum: partial[chunk, h, q, k] = sum of A over a chunk of examples that count at query q
// shapes   x (A), targets: see patterns  partial [R, chunks, H, Tq, T]
// grid     ceil(H Tq T / 64) chunks groups folded into x and y, R
// numerics f32, serial over examples
#import patterns
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn pattern_sum(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let columns = params.heads * params.queries * params.keys;
    let at = wid.y * groups.x + wid.x;
    let blocks = (columns + 63u) / 64u;
    let chunk = at / blocks;
    let column = at % blocks * 64u + lid;
    if (column >= columns || chunk * params.chunk >= params.batch) { return; }
    let query = column / params.keys % params.queries;
    let last = min((chunk + 1u) * params.chunk, params.batch);
    var sum = 0.0;
    for (var b = chunk * params.chunk; b < last; b++) {
        if (query_counts(targets[target_place(wid.z, b, query)], query)) {
            sum += x[wid.z * params.x_replica + b * columns + column];
        }
    }
    partial[wid.z * params.out_replica + chunk * columns + column] = sum;
}
