// logit_rows: y[n] = (max over j of z[n, j], sum over j of (z[n, j] - mean of z[n])^2)
// shapes   z [R, rows, classes]  y [R, rows, 2]
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics f32, two passes
// knobs    SUBGROUPS: see shared/rows
struct Params { rows: u32, classes: u32, z_replica: u32, y_replica: u32 }
const WG: u32 = 64u;
#import rows
#import numerics
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read_write> y: array<vec2<f32>>;

@compute @workgroup_size(64)
fn logit_rows(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lanes = row_lanes(at);
    let z_at = at.wid.z * params.z_replica + row * params.classes;
    var top = -HUGE;
    var mean = 0.0;
    for (var j = at.lane; j < params.classes; j += lanes) {
        top = max(top, z[z_at + j]);
        mean += z[z_at + j];
    }
    top = row_max(top, at);
    mean = row_sum(mean, at) / f32(params.classes);
    var squares = 0.0;
    for (var j = at.lane; j < params.classes; j += lanes) {
        let v = z[z_at + j] - mean;
        squares += v * v;
    }
    squares = row_sum(squares, at);
    if (at.lane == 0u && row_number(at) < params.rows) {
        y[at.wid.z * params.y_replica / 2u + row] = vec2<f32>(top, squares);
    }
}
