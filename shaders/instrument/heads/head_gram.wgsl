// head_gram: y[h, i, j] = sum over d of x_h[d, i] x_h[d, j]
// shapes   x [R, H, D, K], or [R, H, K, D] by its strides  y [R, H, K, K], or [R, K, H, K] by its strides
// grid     ceil(H K K / 64) groups folded into x and y, R
// numerics f32, in order
struct Params {
    heads: u32, width: u32, depth: u32, x_width: u32, x_depth: u32, y_head: u32, y_row: u32, x_replica: u32, y_replica: u32,
}
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn head_gram(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    let square = params.width * params.width;
    if (at >= params.heads * square) { return; }
    let h = at / square;
    let i = at / params.width % params.width;
    let j = at % params.width;
    let head = wid.z * params.x_replica + h * params.width * params.depth;
    var sum = 0.0;
    for (var d = 0u; d < params.depth; d++) {
        sum += x[head + d * params.x_depth + i * params.x_width] * x[head + d * params.x_depth + j * params.x_width];
    }
    y[wid.z * params.y_replica + h * params.y_head + i * params.y_row + j] = sum;
}
