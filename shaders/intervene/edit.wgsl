// edit: stretches of a vector of all parameters, or of what lies like one, changed in place; with a dose of 0 nothing is written
//   replace  x <- x + dose (value - x), the value itself for 1
//   toward   x <- x + dose |value - x| n / |n|;  noise  x <- x + dose |x| n / |n|;  n standard normal
//   flip     x <- -x with probability dose
//   norm     x <- x (1 + dose (|value| / |x| - 1))
// shapes   x [R, P]  doses [R, S]  clock [3]  parts [R, n, 10]: first element, length, slot of its dose, mode, first of the sums
//          that make up its lengths, how many those are, first value, seed (two words), stream  values [R, m]
//          sums [R, k, 2]: see edit_sums
// grid     a group for each part, folded into x and y, R
// numerics f32; sums are added in their order, by every invocation for itself: software drivers pay for barriers
struct Params {
    parts: u32, last_value: u32, x_replica: u32, doses_replica: u32, parts_replica: u32, values_replica: u32,
    sums_replica: u32,
}
const WG: u32 = 64u;
#import philox
#import normal
#import edit
@tensor var<storage, read_write> x: array<f32>;
@tensor var<storage, read> doses: array<f32>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read> parts: array<u32>;
@tensor var<storage, read> values: array<f32>;
@tensor var<storage, read> sums: array<vec2<f32>>;

@compute @workgroup_size(64)
fn edit(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.y * groups.x + wid.x;
    let r = wid.z;
    let at = r * params.parts_replica + min(group, params.parts - 1u) * WORDS;
    let first = parts[at];
    let mode = parts[at + 3u];
    let dose = doses[r * params.doses_replica + parts[at + 2u]];
    if (group >= params.parts || dose == 0.0) { return; }
    var total = vec2<f32>(0.0);
    for (var b = 0u; b < parts[at + 5u]; b++) { total += sums[r * params.sums_replica + parts[at + 4u] + b]; }
    // Where nothing has a length, nothing has a size.
    let ratio = select(sqrt(total.y / total.x), 1.0, total.x == 0.0);
    for (var i = lid; i < parts[at + 1u]; i += WG) {
        let place = r * params.x_replica + first + i;
        let value = x[place];
        let word = drawn(at, first + i);
        var changed = value;
        if (mode == TOWARD || mode == NOISE) {
            changed += dose * ratio * normal(word);
        } else if (mode == FLIP) {
            changed = select(value, -value, f32(word >> 8u) * 5.9604644775390625e-8 < dose);
        } else if (mode == NORM) {
            changed *= 1.0 + dose * (ratio - 1.0);
        } else {
            let instead = values[r * params.values_replica + min(parts[at + 6u] + i, params.last_value)];
            changed = select(value + dose * (instead - value), instead, dose == 1.0);
        }
        x[place] = changed;
    }
}
