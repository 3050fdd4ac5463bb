// column_spread: partial[chunk, 0, c] = sum over the rows of a chunk of x[n, c] - pivot[c], partial[chunk, 1, c] the
//          same of (x[n, c] - pivot[c])^2, partial[chunk, 2, c] of x[n, c]^2; rows whose index is IGNORE are left out
// shapes   x [R, N, C]  pivot [R, C]  index [R, N]  partial [R, chunks, 3, C]
// grid     [ceil(C / 32), chunks, R]; 32 columns x 8 lanes
// numerics f32, serial in a lane, then the eight lanes in order; the pivot keeps a small variance beside a large
//          mean from drowning
struct Params {
    rows: u32, columns: u32, chunk: u32, x_replica: u32, pivot_replica: u32, index_replica: u32, out_replica: u32,
}
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> pivot: array<f32>;
@tensor var<storage, read> index: array<u32>;
@tensor var<storage, read_write> partial: array<f32>;

var<workgroup> lanes: array<vec3<f32>, 256>;

@compute @workgroup_size(256)
fn column_spread(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let column = wid.x * 32u + lid % 32u;
    let lane = lid / 32u;
    let last = min((wid.y + 1u) * params.chunk, params.rows);
    var sum = vec3<f32>(0.0);
    if (column < params.columns) {
        let middle = pivot[wid.z * params.pivot_replica + column];
        for (var row = wid.y * params.chunk + lane; row < last; row += 8u) {
            let whole = x[wid.z * params.x_replica + row * params.columns + column];
            let v = whole - middle;
            let counts = index[wid.z * params.index_replica + row] != 0xffffffffu;
            sum += select(vec3<f32>(0.0), vec3<f32>(v, v * v, whole * whole), counts);
        }
    }
    lanes[lid] = sum;
    workgroupBarrier();
    if (lane == 0u && column < params.columns) {
        for (var other = 1u; other < 8u; other++) { sum += lanes[other * 32u + lid]; }
        let out = wid.z * params.out_replica + wid.y * 3u * params.columns + column;
        partial[out] = sum.x;
        partial[out + params.columns] = sum.y;
        partial[out + 2u * params.columns] = sum.z;
    }
}
