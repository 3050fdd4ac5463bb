// reliability: confidence against accuracy in 15 bins of equal mass, and the calibration error they show
// shapes   x [R, I N, 8]: correct in column 2, doubt = 1 - confidence in 7  targets [R, N]  count [R]  rank [R, I N] u32
//          bins [R, I, 15, 3]: rows, sum of correct, sum of confidence
//          error [R, I, 2]: sum of n_b/N |acc_b - conf_b|, and sum of n_b/N ((acc_b - conf_b)^2 - acc_b (1 - acc_b)/(n_b - 1))
// grid     [I, 1, R]; each of the first 15 invocations adds up one bin
// numerics f32, serial over rows, then a tree of fixed shape; gaps from doubts, which keep their precision where confidence
//          rounds to 1; bins of one row have no variance to subtract and are left out of
//          the second error
struct Params { rows: u32, classes: u32, x_replica: u32, target_replica: u32, count_replica: u32, rank_replica: u32, bins_replica: u32, error_replica: u32 }
const WG: u32 = 64u;
const BINS: u32 = 15u;
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read> rank: array<u32>;
@tensor var<storage, read_write> bins: array<f32>;
@tensor var<storage, read_write> error: array<f32>;

@compute @workgroup_size(64)
fn reliability(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let total = count[r * params.count_replica];
    let first = wid.x * params.rows;
    var n = 0.0;
    var correct = 0.0;
    var doubt = 0.0;
    if (lid < BINS) {
        for (var row = 0u; row < params.rows; row++) {
            let bin = rank[r * params.rank_replica + first + row] * BINS / max(u32(total), 1u);
            if (bin == lid && targets[r * params.target_replica + row] < params.classes) {
                let at = r * params.x_replica + (first + row) * 8u;
                n += 1.0;
                correct += x[at + 2u];
                doubt += x[at + 7u];
            }
        }
        let place = r * params.bins_replica + (wid.x * BINS + lid) * 3u;
        bins[place] = n;
        bins[place + 1u] = correct;
        bins[place + 2u] = n - doubt;
    }
    let accuracy = correct / max(n, 1.0);
    let gap = (doubt - (n - correct)) / max(n, 1.0);
    let plain = workgroup_sum(n / total * abs(gap), lid);
    let unbiased = gap * gap - accuracy * (1.0 - accuracy) / max(n - 1.0, 1.0);
    let debiased = workgroup_sum(select(0.0, n / total * unbiased, n > 1.0), lid);
    if (lid == 0u) {
        error[r * params.error_replica + wid.x * 2u] = plain;
        error[r * params.error_replica + wid.x * 2u + 1u] = debiased;
    }
}
