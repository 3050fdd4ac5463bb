// cross_entropy_curve: dz = d (p z' - p (p . z')): the Hessian of a row's loss by its logits, times a direction z'
// shapes   z, moved z', dz [R, rows, classes]  target, d [R, rows]  saved [R, rows, 2]
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics with u_j = z'_j - z'_y and m = sum over j != y of p_j u_j: p_j (u_j - m), and -p_y m for the right class; so it keeps
//          its relative precision where p_y rounds to 1
// knobs    SUBGROUPS: see shared/rows
const WG: u32 = 64u;
#import rows
#import cross_entropy
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read> target_class: array<u32>;
@tensor var<storage, read> saved: array<f32>;
@tensor var<storage, read> d: array<f32>;
@tensor var<storage, read> moved: array<f32>;
@tensor var<storage, read_write> dz: array<f32>;

@compute @workgroup_size(64)
fn cross_entropy_curve(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let r = at.wid.z;
    let y = target_class[r * params.target_replica + row];
    let counted = y < params.classes;
    let z_at = r * params.z_replica + row * params.classes;
    let moved_at = r * params.moved_replica + row * params.classes;
    let right = select(0u, y, counted);
    let z_y = z[z_at + right];
    let moved_y = moved[moved_at + right];
    let shift = saved[r * params.saved_replica + row * 2u];
    let all = exp(-shift) + saved[r * params.saved_replica + row * 2u + 1u];
    // Rows that do not count move nothing.
    let classes = select(0u, params.classes, counted);
    var mean = 0.0;
    for (var j = lane; j < classes; j += lanes) {
        mean += select(exp(z[z_at + j] - z_y - shift) * (moved[moved_at + j] - moved_y), 0.0, j == y);
    }
    mean = row_sum(mean, at) / all;
    let factor = select(0.0, d[r * params.row_replica + row], counted) / all;
    for (var j = lane; j < params.classes; j += lanes) {
        let above = select(z[z_at + j] - z_y, 0.0, j == y) - shift;
        let beside = select(moved[moved_at + j] - moved_y, 0.0, j == y) - mean;
        dz[r * params.dz_replica + row * params.classes + j] = select(0.0, factor * exp(above) * beside, counted);
    }
}
