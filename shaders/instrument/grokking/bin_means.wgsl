// bin_means: y[b, c] = sums[b, c] / counts[b] minus the mean of that over the bins that hold anything; 0 for empty bins,
//          and for all where no more than rounding is left
// shapes   sums, y [R, n, C]  counts [R, n]
// grid     ceil(C / 64) groups folded into x and y, R; one column an invocation
// numerics f32, serial over bins
struct Params { bins: u32, columns: u32, sums_replica: u32, counts_replica: u32, y_replica: u32 }
#import numerics
@tensor var<storage, read> sums: array<f32>;
@tensor var<storage, read> counts: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn bin_means(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let column = (wid.y * groups.x + wid.x) * 64u + lid;
    if (column >= params.columns) { return; }
    let first = wid.z * params.sums_replica + column;
    var total = 0.0;
    var filled = 0.0;
    for (var b = 0u; b < params.bins; b++) {
        let count = counts[wid.z * params.counts_replica + b];
        total += select(0.0, sums[first + b * params.columns] / max(count, 1.0), count > 0.0);
        filled += min(count, 1.0);
    }
    let mean = total / max(filled, 1.0);
    var left = 0.0;
    var whole = 0.0;
    for (var b = 0u; b < params.bins; b++) {
        let count = counts[wid.z * params.counts_replica + b];
        let value = sums[first + b * params.columns] / max(count, 1.0);
        left += select(0.0, (value - mean) * (value - mean), count > 0.0);
        whole += select(0.0, value * value, count > 0.0);
    }
    let rounding = left <= ROUNDING * whole;
    for (var b = 0u; b < params.bins; b++) {
        let count = counts[wid.z * params.counts_replica + b];
        let centred = sums[first + b * params.columns] / max(count, 1.0) - mean;
        y[wid.z * params.y_replica + b * params.columns + column] = select(0.0, centred, count > 0.0 && !rounding);
    }
}
