// temperature_rows: loss of each prediction at inverse temperature b, and its derivative by b
// shapes   z [R, I N, V]  targets [R, N]  b [R, I]  out [R, I N, 2]: -ln p_y, E z - z_y under softmax(b z)
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics f32; logits are taken relative to the target's, the loss by log1p
// knobs    FIRST: b is 1 and is not there; SUBGROUPS: see shared/rows
struct Params { rows: u32, group: u32, classes: u32, z_replica: u32, target_replica: u32, b_replica: u32, out_replica: u32 }
const WG: u32 = 64u;
#import rows
#import numerics
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read_write> out: array<f32>;
#if FIRST
fn inverse(r: u32, i: u32) -> f32 { return 1.0; }
#else
@tensor var<storage, read> b: array<f32>;
fn inverse(r: u32, i: u32) -> f32 { return b[r * params.b_replica + i]; }
#endif

@compute @workgroup_size(64)
fn temperature_rows(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let r = at.wid.z;
    let y = targets[r * params.target_replica + row % params.group];
    let counted = y < params.classes;
    let beta = inverse(r, row / params.group);
    let z_at = r * params.z_replica + row * params.classes;
    let z_y = z[z_at + select(0u, y, counted)];
    var top = 0.0;
    for (var j = lane; j < params.classes; j += lanes) { top = max(top, z[z_at + j] - z_y); }
    top = row_max(top, at);
    var wrong = 0.0;
    var first = 0.0;
    for (var j = lane; j < params.classes; j += lanes) {
        let d = z[z_at + j] - z_y;
        let e = select(exp(beta * (d - top)), 0.0, j == y);
        wrong += e;
        first += e * d;
    }
    wrong = row_sum(wrong, at);
    first = row_sum(first, at);
    if (lane == 0u) {
        let sum = wrong + exp(-beta * top);
        let place = r * params.out_replica + row * 2u;
        out[place] = select(0.0, select(beta * top + log(sum), log1p(wrong), top == 0.0), counted);
        out[place + 1u] = select(0.0, first / sum, counted);
    }
}
