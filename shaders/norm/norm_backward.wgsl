// norm_backward: dx = (g - mean(g) - n mean(g n)) / scale, g = dy w, n = (x - mean) / scale
// shapes   dy, x, dx [R, rows, columns]  mean, scale [R, rows]  w [R, columns]; strides may be 0
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics f32, trees of fixed shape; the same mean and scale as the forward pass
// knobs    RMS: no mean(g); WEIGHT, SUBGROUPS: see shared/rows
struct Params {
    rows: u32, columns: u32, dy_replica: u32, x_replica: u32, mean_replica: u32, scale_replica: u32,
    w_replica: u32, dx_replica: u32,
}
const WG: u32 = 64u;
#import rows
@tensor var<storage, read> dy: array<f32>;
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> mean: array<f32>;
@tensor var<storage, read> scale: array<f32>;
@tensor var<storage, read_write> dx: array<f32>;
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
fn norm_backward(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let r = at.wid.z;
    let dy_at = r * params.dy_replica + row * params.columns;
    let x_at = r * params.x_replica + row * params.columns;
    let row_mean = mean[r * params.mean_replica + row];
    let row_scale = scale[r * params.scale_replica + row];
    var sum = 0.0;
    var along = 0.0;
    for (var i = lane; i < params.columns; i += lanes) {
        let g = weighted(dy_at, i, r);
        sum += g;
        along += g * (x[x_at + i] - row_mean) / row_scale;
    }
    var centre = 0.0;
    if (RMS == 0u) { centre = row_sum(sum, at) / f32(params.columns); }
    along = row_sum(along, at) / f32(params.columns);
    for (var i = lane; i < params.columns; i += lanes) {
        let normal = (x[x_at + i] - row_mean) / row_scale;
        dx[r * params.dx_replica + row * params.columns + i] = (weighted(dy_at, i, r) - centre - normal * along) / row_scale;
    }
}
