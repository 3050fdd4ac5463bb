// group_means: out[i] = means over the rows of group i, behind what earlier groups left
// shapes   x [R, I N, 8], rows that do not count are 0  count [R]  before [R, first, 8]  out [R, first + I, 8]
// grid     [first + I, 1, R]
// numerics f32, serial in a lane, then a tree of fixed shape
// knobs    BEFORE: there are earlier groups, whose means are copied
struct Params { rows: u32, first: u32, x_replica: u32, count_replica: u32, before_replica: u32, out_replica: u32 }
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> out: array<f32>;
#if BEFORE
@tensor var<storage, read> before: array<f32>;
#endif

@compute @workgroup_size(64)
fn group_means(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let place = r * params.out_replica + wid.x * 8u;
#if BEFORE
    if (wid.x < params.first) {
        if (lid < 8u) { out[place + lid] = before[r * params.before_replica + wid.x * 8u + lid]; }
        return;
    }
#endif
    let first_row = r * params.x_replica + (wid.x - params.first) * params.rows * 8u;
    for (var c = 0u; c < 8u; c++) {
        var sum = 0.0;
        for (var row = lid; row < params.rows; row += WG) { sum += x[first_row + row * 8u + c]; }
        let mean = workgroup_sum(sum, lid) / count[r * params.count_replica];
        if (lid == 0u) { out[place + c] = mean; }
    }
}
