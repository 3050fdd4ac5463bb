// norm_weight_grad: dw[chunk, c] = sum over the rows of a chunk of dy[row, c] (x[row, c] - mean[row]) / scale[row]
// shapes   dy, x [R, rows, columns]  mean, scale [R, rows]  dw [R, chunks, columns], chunks of 256 rows
// grid     [ceil(columns / 32), chunks, R]; 32 columns x 8 lanes
// numerics f32, serial in a lane, then the eight lanes in order
struct Params {
    rows: u32, columns: u32, dy_replica: u32, x_replica: u32, mean_replica: u32, scale_replica: u32,
    w_replica: u32, dx_replica: u32,
}
@tensor var<storage, read> dy: array<f32>;
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> mean: array<f32>;
@tensor var<storage, read> scale: array<f32>;
@tensor var<storage, read_write> dw: array<f32>;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn norm_weight_grad(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let column = wid.x * 32u + lid % 32u;
    let lane = lid / 32u;
    let r = wid.z;
    let last = min((wid.y + 1u) * 256u, params.rows);
    var sum = 0.0;
    if (column < params.columns) {
        for (var row = wid.y * 256u + lane; row < last; row += 8u) {
            let at = row * params.columns + column;
            sum += dy[r * params.dy_replica + at] * (x[r * params.x_replica + at] - mean[r * params.mean_replica + row])
                / scale[r * params.scale_replica + row];
        }
    }
    partial[lid] = sum;
    workgroupBarrier();
    if (lane == 0u && column < params.columns) {
        for (var other = 1u; other < 8u; other++) { sum += partial[other * 32u + lid]; }
        dw[r * params.dx_replica + wid.y * params.columns + column] = sum;
    }
}
