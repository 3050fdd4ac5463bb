// temperature_step: one halving of the interval that holds each intervention's best inverse temperature
// shapes   x [R, I N, 2] from temperature_rows  count [R]  b, next [R, I]  out [R, I, 2]: temperature, mean loss there
// grid     [I, 1, R]
// numerics f32, serial in a lane, then a tree of fixed shape; the loss is convex in b, so the sign of its
//          slope says on which side of b the least lies. No slope that is no finite number says that: the last step
//          hands it on in place of a temperature. At the bound of the search neither is known
// knobs    FIRST: b is 1 and is not there; LAST: the result is written instead of a next b
struct Params { rows: u32, x_replica: u32, count_replica: u32, b_replica: u32, out_replica: u32, factor: f32, bound: f32 }
const WG: u32 = 64u;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> out: array<f32>;
#if FIRST
fn inverse(r: u32, i: u32) -> f32 { return 1.0; }
#else
@tensor var<storage, read> b: array<f32>;
fn inverse(r: u32, i: u32) -> f32 { return b[r * params.b_replica + i]; }
#endif

fn total(r: u32, i: u32, c: u32, lid: u32) -> f32 {
    var sum = 0.0;
    for (var row = lid; row < params.rows; row += WG) {
        sum += x[r * params.x_replica + (i * params.rows + row) * 2u + c];
    }
    return workgroup_sum(sum, lid);
}

@compute @workgroup_size(64)
fn temperature_step(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let i = wid.x;
    let beta = inverse(r, i);
    let slope = total(r, i, 1u, lid);
#if LAST
    let loss = total(r, i, 0u, lid) / count[r * params.count_replica];
    if (lid == 0u) {
        let unknown = is_finite(slope) && abs(log2(beta)) > params.bound;
        out[r * params.out_replica + i * 2u] = select(select(slope, 1.0 / beta, is_finite(slope)), UNKNOWN, unknown);
        out[r * params.out_replica + i * 2u + 1u] = select(loss, UNKNOWN, unknown);
    }
#else
    if (lid == 0u) { out[r * params.out_replica + i] = select(beta * params.factor, beta / params.factor, slope > 0.0); }
#endif
}
