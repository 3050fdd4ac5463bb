// u_centre: the U-centred Gram matrix: y_ij = x_ij - (r_i + r_j) / (n - 2) + s / ((n - 1)(n - 2)) of i /= j, both below the
//          count n, r_i the sum of row i without its diagonal and s that of all; 0 elsewhere, and of fewer than 4
// shapes   x [R, S, N, N]  count [R, 1]  y [R, ..], from element first of each replica; N up to 256
// grid     [S, 1, R]
// numerics f32; rows are added in order, so that rows that do not count change nothing
struct Params { n: u32, first: u32, x_replica: u32, count_replica: u32, y_replica: u32 }
const WG: u32 = 256u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

var<workgroup> rows: array<f32, 256>;

@compute @workgroup_size(256)
fn u_centre(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = params.n;
    let counted = count[wid.z * params.count_replica];
    let here = u32(counted);
    let first = wid.z * params.x_replica + wid.x * n * n;
    var sum = 0.0;
    if (lid < here) {
        for (var j = 0u; j < here; j++) { sum += select(x[first + lid * n + j], 0.0, j == lid); }
    }
    rows[lid] = sum;
    let total = workgroup_sum(sum, lid);
    if (lid >= n) { return; }
    let out = wid.z * params.y_replica + params.first + wid.x * n * n + lid * n;
    for (var j = 0u; j < n; j++) {
        let inside = lid < here && j < here && j != lid && here > 3u;
        let centred = x[first + lid * n + j] - (sum + rows[j]) / (counted - 2.0) + total / ((counted - 1.0) * (counted - 2.0));
        y[out + j] = select(0.0, centred, inside);
    }
}
