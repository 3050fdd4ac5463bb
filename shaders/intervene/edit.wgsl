// edit: stretches of a vector of all parameters, or of what lies like one, changed in place; with a dose of 0 nothing is written
//   replace  x <- x + dose (value - x), the value itself for 1
//   toward   x <- x + dose |value - x| n / |n|;  noise  x <- x + dose |x| n / |n|;  n standard normal, lengths those of a span
//   flip     x <- -x with probability dose
//   norm     x <- x (1 + dose (|value| / |x| - 1))
// shapes   x [R, P]  doses [R, S]  clock [3]  chunks [R, n, 10]: first element, length, slot of its dose, mode, first of
//          the chunks whose length counts, how many those are, first value, seed (two words), stream  values [R, m]  sums [R, n, 2]: see edit_sums
// grid     a group for each chunk, folded into x and y, R
// numerics f32; the sums of a span are added as a tree of fixed shape
struct Params {
    chunks: u32, last_value: u32, x_replica: u32, doses_replica: u32, chunks_replica: u32, values_replica: u32,
    sums_replica: u32,
}
const WG: u32 = 64u;
#import reduce
#import philox
#import normal
#import edit
@tensor var<storage, read_write> x: array<f32>;
@tensor var<storage, read> doses: array<f32>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read> chunks: array<u32>;
@tensor var<storage, read> values: array<f32>;
@tensor var<storage, read> sums: array<f32>;

@compute @workgroup_size(64)
fn edit(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.y * groups.x + wid.x;
    let r = wid.z;
    let at = r * params.chunks_replica + min(group, params.chunks - 1u) * WORDS;
    let mode = chunks[at + 3u];
    let dose = doses[r * params.doses_replica + chunks[at + 2u]];
    var own = 0.0;
    var other = 0.0;
    for (var b = lid; b < chunks[at + 5u]; b += WG) {
        let sum_at = r * params.sums_replica + (chunks[at + 4u] + b) * 2u;
        own += sums[sum_at];
        other += sums[sum_at + 1u];
    }
    own = workgroup_sum(own, lid);
    other = workgroup_sum(other, lid);
    // Where nothing has a length, nothing has a size.
    let ratio = select(sqrt(other / own), 1.0, own == 0.0);
    let length = select(0u, chunks[at + 1u], dose != 0.0 && group < params.chunks);
    for (var i = lid; i < length; i += WG) {
        let place = r * params.x_replica + chunks[at] + i;
        let value = x[place];
        let word = drawn(at, chunks[at] + i);
        var changed = value;
        if (mode == TOWARD || mode == NOISE) {
            changed += dose * ratio * normal(word);
        } else if (mode == FLIP) {
            changed = select(value, -value, f32(word >> 8u) * 5.9604644775390625e-8 < dose);
        } else if (mode == NORM) {
            changed *= 1.0 + dose * (ratio - 1.0);
        } else {
            let instead = values[r * params.values_replica + min(chunks[at + 6u] + i, params.last_value)];
            changed = select(value + dose * (instead - value), instead, dose == 1.0);
        }
        x[place] = changed;
    }
}
