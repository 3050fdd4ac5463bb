// labels: targets as they are given: with some probability another class drawn from all, or none where a class is left out
// shapes   targets [R, N]  doses [R, 1 + C]: the probability, then for each class whether it is left out  classes [R, C]
//          seeds [R, 2]  clock [3]  out [R, N]
// grid     ceil(N / 64) groups folded into x and y, R
// numerics integers; a probability counts 2^-24; IGNORE stays
struct Params {
    n: u32, left_out: u32, classes: u32, stream: u32, targets_replica: u32, doses_replica: u32, classes_replica: u32,
    seeds_replica: u32, out_replica: u32,
}
#import philox
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> doses: array<f32>;
@tensor var<storage, read> left_out: array<u32>;
@tensor var<storage, read> seeds: array<u32>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read_write> out: array<u32>;

const IGNORE: u32 = 0xffffffffu;

@compute @workgroup_size(64)
fn labels(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i >= params.n) { return; }
    let r = wid.z;
    let truth = targets[r * params.targets_replica + i];
    let dose_at = r * params.doses_replica;
    var label = truth;
    for (var c = 0u; c < params.left_out; c++) {
        if (doses[dose_at + 1u + c] != 0.0 && left_out[r * params.classes_replica + c] == truth) { label = IGNORE; }
    }
    let seed = vec2<u32>(seeds[r * params.seeds_replica], seeds[r * params.seeds_replica + 1u]);
    let words = philox(i, clock[0], params.stream, seed);
    if (label != IGNORE && f32(words.x >> 8u) * 5.9604644775390625e-8 < doses[dose_at]) {
        label = below(words.y, params.classes);
    }
    out[r * params.out_replica + i] = label;
}
