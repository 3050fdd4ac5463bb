// matched_error: standard error, over examples, of what an intervention changes in the mean loss, each at its best temperature
// shapes   x [R, I E T, 2], clean [R, E T, 2]: losses first, from temperature_rows  t [R, I, 2], clean_t [R, 2]: losses at the best
//          temperatures second  targets [R, E T]  count [R]  y [R, I]
// grid     [I, 1, R]
// numerics f32, serial in a lane, then a tree of fixed shape; as intervene/contrasts, its floor included. Unknown where a
//          temperature is, and of one example
struct Params {
    examples: u32, predictions: u32, x_replica: u32, clean_replica: u32, t_replica: u32, clean_t_replica: u32,
    target_replica: u32, count_replica: u32, y_replica: u32,
}
const WG: u32 = 64u;
const ROUNDED: f32 = 2.3841858e-7; // 2^-22
const IGNORE: u32 = 0xffffffffu;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> clean: array<f32>;
@tensor var<storage, read> t: array<f32>;
@tensor var<storage, read> clean_t: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn matched_error(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let i = wid.x;
    let total = count[r * params.count_replica];
    let after = t[r * params.t_replica + i * 2u + 1u];
    let before = clean_t[r * params.clean_t_replica + 1u];
    let mean = after - before;
    // Of all examples: how many have predictions, and their squared distances from the mean.
    var held = 0.0;
    var squares = 0.0;
    for (var e = lid; e < params.examples; e += WG) {
        var change = 0.0;
        var n = 0.0;
        for (var p = 0u; p < params.predictions; p++) {
            let row = e * params.predictions + p;
            let own = x[r * params.x_replica + (i * params.examples * params.predictions + row) * 2u];
            change += own - clean[r * params.clean_replica + row * 2u];
            n += select(0.0, 1.0, targets[r * params.target_replica + row] != IGNORE);
        }
        held += select(0.0, 1.0, n > 0.0);
        squares += (change - n * mean) * (change - n * mean);
    }
    held = workgroup_sum(held, lid);
    squares = workgroup_sum(squares, lid) / (total * total);
    if (lid == 0u) {
        // Losses are not negative: their means are the mean size of what is added up.
        let rounded = ROUNDED * (after + before);
        let error = sqrt(squares * held / max(held - 1.0, 1.0) + rounded * rounded);
        y[r * params.y_replica + i] = select(error, UNKNOWN, held < 2.0 || after == UNKNOWN || before == UNKNOWN);
    }
}
