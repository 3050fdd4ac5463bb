// row_squares: y[n] = sum over the first `take` columns of x[n, c]^2, or of (x[n, c] - mean)^2
// shapes   x [R, rows, columns]  y [R, rows]  index [R, rows]
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics f32, two passes where centred
// knobs    SUBGROUPS: see shared/rows; CENTRED: around the row's mean, and 0 for rows whose index is IGNORE
struct Params { rows: u32, columns: u32, take: u32, chunk: u32, x_replica: u32, index_replica: u32, out_replica: u32 }
const WG: u32 = 64u;
#import rows
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;
#if CENTRED
@tensor var<storage, read> index: array<u32>;
fn counts(r: u32, row: u32) -> bool { return index[r * params.index_replica + row] != 0xffffffffu; }
#else
fn counts(r: u32, row: u32) -> bool { return true; }
#endif

@compute @workgroup_size(64)
fn row_squares(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let x_at = at.wid.z * params.x_replica + row * params.columns;
    var mean = 0.0;
    if (CENTRED == 1u) {
        for (var c = lane; c < params.take; c += lanes) { mean += x[x_at + c]; }
        mean = row_sum(mean, at) / f32(params.take);
    }
    var sum = 0.0;
    for (var c = lane; c < params.take; c += lanes) {
        let v = x[x_at + c] - mean;
        sum += v * v;
    }
    sum = row_sum(sum, at);
    if (lane == 0u) {
        y[at.wid.z * params.out_replica + row] = select(0.0, sum, counts(at.wid.z, row));
    }
}
