// cross_entropy_backward: dz_j = d p_j for j != y, dz_y = -d (sum of the p_j)
// shapes   z, dz [R, rows, classes]  target, d [R, rows]  saved [R, rows, 2]
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics p_j = exp(z_j - z_y - shift) / (exp(-shift) + sum): relative precision however small
// knobs    SUBGROUPS: see shared/rows
const WG: u32 = 64u;
#import rows
#import cross_entropy
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read> target_class: array<u32>;
@tensor var<storage, read> saved: array<f32>;
@tensor var<storage, read> d: array<f32>;
@tensor var<storage, read_write> dz: array<f32>;

@compute @workgroup_size(64)
fn cross_entropy_backward(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let r = at.wid.z;
    let y = target_class[r * params.target_replica + row];
    let counted = y < params.classes;
    let z_at = r * params.z_replica + row * params.classes;
    let z_y = z[z_at + select(0u, y, counted)];
    let shift = saved[r * params.saved_replica + row * 2u];
    let sum = saved[r * params.saved_replica + row * 2u + 1u];
    let factor = select(0.0, d[r * params.row_replica + row], counted) / (exp(-shift) + sum);
    for (var j = lane; j < params.classes; j += row_lanes(at)) {
        let slope = class_slope(z[z_at + j] - z_y - shift, sum, j == y);
        dz[r * params.dz_replica + row * params.classes + j] = select(0.0, factor * slope, counted);
    }
}
