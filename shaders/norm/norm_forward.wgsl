// norm_forward: y = (x - mean) / scale (* w) (+ b), scale = sqrt(mean((x - mean)^2) + eps)
// shapes   x, y [R, rows, columns]  mean, scale [R, rows]  w, b [R, columns]; strides may be 0
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics f32, two passes, trees of fixed shape
// knobs    RMS: the mean is 0; WEIGHT, BIAS, SUBGROUPS: see shared/rows
struct Params {
    rows: u32, columns: u32, x_replica: u32, w_replica: u32, b_replica: u32,
    y_replica: u32, mean_replica: u32, scale_replica: u32, eps: f32,
}
const WG: u32 = 64u;
#import rows
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;
@tensor var<storage, read_write> mean: array<f32>;
@tensor var<storage, read_write> scale: array<f32>;
#import affine

@compute @workgroup_size(64)
fn norm_forward(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let r = at.wid.z;
    let x_at = r * params.x_replica + row * params.columns;
    var row_mean = 0.0;
    if (RMS == 0u) {
        var sum = 0.0;
        for (var i = lane; i < params.columns; i += lanes) { sum += x[x_at + i]; }
        row_mean = row_sum(sum, at) / f32(params.columns);
    }
    var squares = 0.0;
    for (var i = lane; i < params.columns; i += lanes) {
        let centred = x[x_at + i] - row_mean;
        squares += centred * centred;
    }
    let row_scale = sqrt(row_sum(squares, at) / f32(params.columns) + params.eps);
    for (var i = lane; i < params.columns; i += lanes) {
        y[r * params.y_replica + row * params.columns + i] = affine((x[x_at + i] - row_mean) / row_scale, i, r);
    }
    if (lane == 0u) {
        mean[r * params.mean_replica + row] = row_mean;
        scale[r * params.scale_replica + row] = row_scale;
    }
}
