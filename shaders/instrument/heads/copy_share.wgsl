// copy_share: y[n, h] = (z_t - mean z) / sum of max(z - mean z, 0) over row (n, h), t = first + n step; 0 where the
//          sum is rounding beside the mean,
//          the mean where that is no finite number
// shapes   z [R, N H, V]  y [R, N H]
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics f32, two passes
// knobs    SUBGROUPS: see shared/rows
struct Params { rows: u32, columns: u32, heads: u32, first: u32, step: u32, z_replica: u32, y_replica: u32 }
const WG: u32 = 64u;
#import rows
#import numerics
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn copy_share(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let first = at.wid.z * params.z_replica + row * params.columns;
    var mean = 0.0;
    for (var c = lane; c < params.columns; c += lanes) { mean += z[first + c]; }
    mean = row_sum(mean, at) / f32(params.columns);
    var raised = 0.0;
    for (var c = lane; c < params.columns; c += lanes) { raised += max(z[first + c] - mean, 0.0); }
    raised = row_sum(raised, at);
    if (lane == 0u) {
        let own = z[first + params.first + row / params.heads * params.step] - mean;
        let share = select(own / raised, 0.0, raised <= sqrt(ROUNDING) * f32(params.columns) * abs(mean));
        y[at.wid.z * params.y_replica + row] = select(mean, share, is_finite(mean));
    }
}
