// centre_rows: y[n, c] = x[n, c] - pivot[c] - spread[0, c] / count, or 0 for rows whose index is IGNORE,
//          and for columns of which no more than rounding is left
// shapes   x, y [R, N, C]  pivot [R, C]  index [R, N]  spread [R, 3, C]: see column_spread  count [R]
// grid     ceil(N C / 64) groups folded into x and y, R
struct Params {
    rows: u32, columns: u32, x_replica: u32, pivot_replica: u32, index_replica: u32, spread_replica: u32,
    count_replica: u32, y_replica: u32,
}
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> pivot: array<f32>;
@tensor var<storage, read> index: array<u32>;
@tensor var<storage, read> spread: array<f32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn centre_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.rows * params.columns) { return; }
    let r = wid.z;
    let column = at % params.columns;
    let place = r * params.spread_replica + column;
    let mean = spread[place] / count[r * params.count_replica];
    let left = spread[place + params.columns] - spread[place] * mean;
    let rounding = left <= ROUNDING * spread[place + 2u * params.columns];
    let centred = x[r * params.x_replica + at] - pivot[r * params.pivot_replica + column] - mean;
    let counts = index[r * params.index_replica + at / params.columns] != 0xffffffffu;
    y[r * params.y_replica + at] = select(0.0, centred, counts && !rounding);
}
