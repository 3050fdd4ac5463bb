// norm_curve: how dx = (g - mean(g) - n mean(g n)) / scale moves with x along x', where g = dy w stays:
//          -(a dx + n' mean(g n) + n mean(g n')) / scale, with a = mean(n x') and n' = (x' - mean(x') - n a) / scale
// shapes   dy, x, moved x', y [R, rows, columns]  mean, scale [R, rows]  w [R, columns]; strides may be 0
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics f32, trees of fixed shape; the same mean and scale as the forward pass
// knobs    RMS: no mean(g), no mean(x'); WEIGHT, SUBGROUPS: see shared/rows
struct Params {
    rows: u32, columns: u32, dy_replica: u32, x_replica: u32, mean_replica: u32, scale_replica: u32,
    moved_replica: u32, w_replica: u32, y_replica: u32,
}
const WG: u32 = 64u;
#import rows
@tensor var<storage, read> dy: array<f32>;
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> mean: array<f32>;
@tensor var<storage, read> scale: array<f32>;
@tensor var<storage, read> moved: array<f32>;
@tensor var<storage, read_write> y: array<f32>;
#if WEIGHT
@tensor var<storage, read> w: array<f32>;
#endif

fn weighted(at: u32, column: u32, r: u32) -> f32 {
    var v = dy[at + column];
#if WEIGHT
    v *= w[r * params.w_replica + column];
#endif
    return v;
}

@compute @workgroup_size(64)
fn norm_curve(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let r = at.wid.z;
    let dy_at = r * params.dy_replica + row * params.columns;
    let x_at = r * params.x_replica + row * params.columns;
    let moved_at = r * params.moved_replica + row * params.columns;
    let row_mean = mean[r * params.mean_replica + row];
    let row_scale = scale[r * params.scale_replica + row];
    let count = f32(params.columns);
    var sum = 0.0;
    var along = 0.0;
    var moved_sum = 0.0;
    var stretch = 0.0;
    for (var i = lane; i < params.columns; i += lanes) {
        let g = weighted(dy_at, i, r);
        let normal = (x[x_at + i] - row_mean) / row_scale;
        sum += g;
        along += g * normal;
        moved_sum += moved[moved_at + i];
        stretch += moved[moved_at + i] * normal;
    }
    var centre = 0.0;
    var moved_mean = 0.0;
    if (RMS == 0u) {
        centre = row_sum(sum, at) / count;
        moved_mean = row_sum(moved_sum, at) / count;
    }
    along = row_sum(along, at) / count;
    stretch = row_sum(stretch, at) / count;
    var turned = 0.0;
    for (var i = lane; i < params.columns; i += lanes) {
        let normal = (x[x_at + i] - row_mean) / row_scale;
        turned += weighted(dy_at, i, r) * (moved[moved_at + i] - moved_mean - normal * stretch) / row_scale;
    }
    turned = row_sum(turned, at) / count;
    for (var i = lane; i < params.columns; i += lanes) {
        let normal = (x[x_at + i] - row_mean) / row_scale;
        let dx = (weighted(dy_at, i, r) - centre - normal * along) / row_scale;
        let normal_moved = (moved[moved_at + i] - moved_mean - normal * stretch) / row_scale;
        y[r * params.y_replica + row * params.columns + i] = -(stretch * dx + normal_moved * along + normal * turned) / row_scale;
    }
}
