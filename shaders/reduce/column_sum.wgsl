// column_sum: y[chunk, c] = sum of x[r, c] over the rows of a chunk
// shapes   x [R, rows, columns]  y [R, chunks, columns]
// grid     ceil(columns / 32) chunks groups folded into x and y, R; 32 columns x 8 lanes, each lane every eighth row
// numerics f32, serial in a lane, then the eight lanes in order
struct Params { rows: u32, columns: u32, chunk: u32, x_replica: u32, y_replica: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn column_sum(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = wid.y * groups.x + wid.x;
    let blocks = (params.columns + 31u) / 32u;
    let chunk = at / blocks;
    let column = at % blocks * 32u + lid % 32u;
    let lane = lid / 32u;
    let first = chunk * params.chunk;
    let last = min(first + params.chunk, params.rows);
    var sum = 0.0;
    if (column < params.columns) {
        for (var row = first + lane; row < last; row += 8u) {
            sum += x[wid.z * params.x_replica + row * params.columns + column];
        }
    }
    partial[lid] = sum;
    workgroupBarrier();
    if (lane == 0u && column < params.columns && first < params.rows) {
        for (var other = 1u; other < 8u; other++) { sum += partial[other * 32u + lid]; }
        y[wid.z * params.y_replica + chunk * params.columns + column] = sum;
    }
}
