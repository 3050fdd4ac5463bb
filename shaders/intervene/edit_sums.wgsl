// edit_sums: what edits of a size have to know of each chunk: squares of two lengths, whose ratio is the size
//   toward   sum n^2, sum (value - x)^2;  noise  sum n^2, sum x^2;  norm  sum x^2, sum value^2;  others 0
// shapes   x [R, P]  doses [R, S]  clock [3]  chunks [R, n, 10] and values: see edit  sums [R, n, 2]
// grid     a group for each chunk, folded into x and y, R
// numerics f32, a tree of fixed shape
struct Params {
    chunks: u32, last_value: u32, x_replica: u32, doses_replica: u32, chunks_replica: u32, values_replica: u32,
    sums_replica: u32,
}
const WG: u32 = 64u;
#import reduce
#import philox
#import normal
#import edit
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> doses: array<f32>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read> chunks: array<u32>;
@tensor var<storage, read> values: array<f32>;
@tensor var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(64)
fn edit_sums(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.y * groups.x + wid.x;
    let r = wid.z;
    let at = r * params.chunks_replica + min(group, params.chunks - 1u) * WORDS;
    let mode = chunks[at + 3u];
    let sized = mode == TOWARD || mode == NOISE || mode == NORM;
    let length = select(0u, chunks[at + 1u], sized && doses[r * params.doses_replica + chunks[at + 2u]] != 0.0);
    var own = 0.0;
    var other = 0.0;
    for (var i = lid; i < length; i += WG) {
        let value = x[r * params.x_replica + chunks[at] + i];
        let n = normal(drawn(at, chunks[at] + i));
        var instead = value;
        if (mode != NOISE) { instead = values[r * params.values_replica + min(chunks[at + 6u] + i, params.last_value)]; }
        own += select(n * n, value * value, mode == NORM);
        let difference = instead - value;
        other += select(instead * instead, difference * difference, mode == TOWARD);
    }
    own = workgroup_sum(own, lid);
    other = workgroup_sum(other, lid);
    if (lid == 0u && group < params.chunks) {
        let to = r * params.sums_replica + group * 2u;
        sums[to] = own;
        sums[to + 1u] = other;
    }
}
