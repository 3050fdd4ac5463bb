// gram: y[b, h, t, u] = sum over k of x[b, t, h, k] x[b, u, h, k]: inner products of the rows of each example
// shapes   x [R, B, T, H, K]  y [R, B, H, T, T]
// grid     a subgroup or workgroup for each element of y, folded into x and y, R
// numerics f32, tree of fixed shape
// knobs    SUBGROUPS: see shared/rows
struct Params { rows: u32, seq: u32, heads: u32, width: u32, x_replica: u32, y_replica: u32 }
const WG: u32 = 64u;
#import rows
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn gram(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let u = row % params.seq;
    let t = row / params.seq % params.seq;
    let h = row / (params.seq * params.seq) % params.heads;
    let example = row / (params.seq * params.seq * params.heads);
    let first = at.wid.z * params.x_replica + h * params.width;
    let a_at = first + (example * params.seq + t) * params.heads * params.width;
    let b_at = first + (example * params.seq + u) * params.heads * params.width;
    var sum = 0.0;
    for (var k = lane; k < params.width; k += row_lanes(at)) { sum += x[a_at + k] * x[b_at + k]; }
    sum = row_sum(sum, at);
    if (lane == 0u) { y[at.wid.z * params.y_replica + row] = sum; }
}
