// labels: targets as they are given: with some probability another class drawn from all, or none where the example or its class is
//          left out
// shapes   targets [R, N]  ids [R, B], N / B targets each  doses [R, 2 + C]: the probability, the share of examples left out, then for
//          each class whether it is left out  classes [R, C]  seeds [R, 4], of labels and of examples  clock [3]  out [R, N]
// grid     ceil(N / 64) groups folded into x and y, R
// numerics integers; a probability counts 2^-24; IGNORE stays
struct Params {
    n: u32, width: u32, left_out: u32, classes: u32, stream: u32, targets_replica: u32, ids_replica: u32, doses_replica: u32,
    classes_replica: u32, seeds_replica: u32, out_replica: u32,
}
#import philox
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> ids: array<u32>;
@tensor var<storage, read> doses: array<f32>;
@tensor var<storage, read> left_out: array<u32>;
@tensor var<storage, read> seeds: array<u32>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read_write> out: array<u32>;

const IGNORE: u32 = 0xffffffffu;
// Which examples are left out is drawn once, at a step that no run comes to.
const NEVER: u32 = 0xffffffffu;

@compute @workgroup_size(64)
fn labels(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i >= params.n) { return; }
    let r = wid.z;
    let truth = targets[r * params.targets_replica + i];
    let dose_at = r * params.doses_replica;
    var label = truth;
    for (var c = 0u; c < params.left_out; c++) {
        if (doses[dose_at + 2u + c] != 0.0 && left_out[r * params.classes_replica + c] == truth) { label = IGNORE; }
    }
    let seeds_at = r * params.seeds_replica;
    let share = doses[dose_at + 1u];
    if (share != 0.0) {
        let example = ids[r * params.ids_replica + i / params.width];
        let word = philox(example, NEVER, params.stream, vec2<u32>(seeds[seeds_at + 2u], seeds[seeds_at + 3u])).x;
        if (f32(word >> 8u) * 5.9604644775390625e-8 < share) { label = IGNORE; }
    }
    let seed = vec2<u32>(seeds[seeds_at], seeds[seeds_at + 1u]);
    let words = philox(i, clock[0], params.stream, seed);
    if (label != IGNORE && f32(words.x >> 8u) * 5.9604644775390625e-8 < doses[dose_at]) {
        label = below(words.y, params.classes);
    }
    out[r * params.out_replica + i] = label;
}
