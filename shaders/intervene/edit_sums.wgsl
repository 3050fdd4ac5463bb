// edit_sums: what edits of a size have to know of each part of what they change: squares of two lengths, whose ratio is the size
//   toward   sum n^2, sum (value - x)^2;  noise  sum n^2, sum x^2;  norm  sum x^2, sum value^2
// shapes   x [R, P]  doses [R, S]  clock [3]  parts [R, n, 10] and values: see edit  sums [R, n, 2]
// grid     a group for each part, folded into x and y, R
// numerics f32, strided by the group's invocations and a tree of fixed shape
struct Params {
    parts: u32, last_value: u32, x_replica: u32, doses_replica: u32, parts_replica: u32, values_replica: u32,
    sums_replica: u32,
}
const WG: u32 = 64u;
#import reduce_eight
#import philox
#import normal
#import edit
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> doses: array<f32>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read> parts: array<u32>;
@tensor var<storage, read> values: array<f32>;
@tensor var<storage, read_write> sums: array<vec2<f32>>;

@compute @workgroup_size(64)
fn edit_sums(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.y * groups.x + wid.x;
    let r = wid.z;
    let at = r * params.parts_replica + min(group, params.parts - 1u) * WORDS;
    let first = parts[at];
    let mode = parts[at + 3u];
    let length = select(0u, parts[at + 1u], doses[r * params.doses_replica + parts[at + 2u]] != 0.0);
    var own = 0.0;
    var other = 0.0;
    for (var i = lid; i < length; i += WG) {
        let value = x[r * params.x_replica + first + i];
        let n = normal(drawn(at, first + i));
        var instead = value;
        if (mode != NOISE) { instead = values[r * params.values_replica + min(parts[at + 6u] + i, params.last_value)]; }
        own += select(n * n, value * value, mode == NORM);
        let difference = instead - value;
        other += select(instead * instead, difference * difference, mode == TOWARD);
    }
    let total = workgroup_sums(Eight(vec4<f32>(own, other, 0.0, 0.0), vec4<f32>(0.0)), lid);
    if (lid == 0u && group < params.parts) { sums[r * params.sums_replica + group] = total.low.xy; }
}
