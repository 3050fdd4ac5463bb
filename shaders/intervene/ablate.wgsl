// ablate: x'[i, n] = x[n] - sum over h of c[i, h] (result[n, h] - base), the stream without what heads wrote
// shapes   x [R, N, D]  result [R, N, H, D]  sum [R, Tq, H, D] over examples  held [R] examples  c [I, H]  base [I]:
//          0 nothing, 1 the mean over examples, 2 what the same head wrote in the next example  out [R, I, N, D]; N = B Tq, of
//          which the first held Tq are of examples
// grid     ceil(I N D / 64) groups folded into x and y, R
// numerics f32, serial over heads
// knobs    ONE: I = H, and intervention i removes all of head i; c, base, sum and held are not there
struct Params {
    rows: u32, queries: u32, heads: u32, width: u32, interventions: u32,
    x_replica: u32, result_replica: u32, sum_replica: u32, held_replica: u32, out_replica: u32,
}
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> result: array<f32>;
@tensor var<storage, read_write> out: array<f32>;
#if ONE
#else
@tensor var<storage, read> sum: array<f32>;
@tensor var<storage, read> held: array<f32>;
@tensor var<storage, read> coefficients: array<f32>;
@tensor var<storage, read> base: array<u32>;
#endif

#if ONE
fn removed(r: u32, i: u32, row: u32, d: u32) -> f32 {
    return result[r * params.result_replica + (row * params.heads + i) * params.width + d];
}
#else
fn removed(r: u32, i: u32, row: u32, d: u32) -> f32 {
    let examples = held[r * params.held_replica];
    let next = (row + params.queries) % (u32(examples) * params.queries);
    var lost = 0.0;
    for (var h = 0u; h < params.heads; h++) {
        let c = coefficients[i * params.heads + h];
        if (c != 0.0) {
            var instead = 0.0;
            if (base[i] == 1u) {
                instead = sum[r * params.sum_replica + (row % params.queries * params.heads + h) * params.width + d] / examples;
            }
            if (base[i] == 2u) {
                instead = result[r * params.result_replica + (next * params.heads + h) * params.width + d];
            }
            lost += c * (result[r * params.result_replica + (row * params.heads + h) * params.width + d] - instead);
        }
    }
    return lost;
}
#endif

@compute @workgroup_size(64)
fn ablate(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.interventions * params.rows * params.width) { return; }
    let r = wid.z;
    let d = at % params.width;
    let row = at / params.width % params.rows;
    let i = at / (params.width * params.rows);
    out[r * params.out_replica + at] = x[r * params.x_replica + row * params.width + d] - removed(r, i, row, d);
}
