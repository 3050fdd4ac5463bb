// logit_rows: y[n] = (max over j of z[n, j], sum over j of (z[n, j] - mean of z[n])^2)
// shapes   z [R, rows, classes]  y [R, rows, 2]
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics f32, two passes
// knobs    SUBGROUPS: see shared/rows
struct Params { rows: u32, classes: u32, z_replica: u32, y_replica: u32 }
const WG: u32 = 64u;
#import rows
#import numerics
#import logits
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read_write> y: array<vec2<f32>>;

@compute @workgroup_size(64)
fn logit_rows(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let found = logit_statistics(at.wid.z * params.z_replica + row * params.classes, params.classes, lane, at);
    if (lane == 0u) {
        y[at.wid.z * params.y_replica / 2u + row] = found;
    }
}
