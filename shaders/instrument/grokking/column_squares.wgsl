// column_squares: partial[chunk, c] = sum over the rows of a chunk of x[r, c]^2
// shapes   x [R, rows, columns]  partial [R, chunks, columns]
// grid     [ceil(columns / 32), chunks, R]; 32 columns x 8 lanes
// numerics f32, serial in a lane, then the eight lanes in order
struct Params { rows: u32, columns: u32, take: u32, chunk: u32, x_replica: u32, index_replica: u32, out_replica: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

var<workgroup> lanes: array<f32, 256>;

@compute @workgroup_size(256)
fn column_squares(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let column = wid.x * 32u + lid % 32u;
    let lane = lid / 32u;
    let last = min((wid.y + 1u) * params.chunk, params.rows);
    var sum = 0.0;
    if (column < params.columns) {
        for (var row = wid.y * params.chunk + lane; row < last; row += 8u) {
            let v = x[wid.z * params.x_replica + row * params.columns + column];
            sum += v * v;
        }
    }
    lanes[lid] = sum;
    workgroupBarrier();
    if (lane == 0u && column < params.columns) {
        for (var other = 1u; other < 8u; other++) { sum += lanes[other * 32u + lid]; }
        partial[wid.z * params.out_replica + wid.y * params.columns + column] = sum;
    }
}
