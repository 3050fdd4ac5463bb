// softmax_tangent: y = P (x - sum P x), how a softmax moves with its scores along x; with CURVE how that moves with the pattern
//          along w: y = w (x - sum P x) - P sum w x
// shapes   pattern P, x, w, y [R, B, H, Tq, T]
// grid     a subgroup or workgroup for each row (b, h, i), folded into x and y, R
// numerics f32, trees of fixed shape; 0 for keys that a query does not see
// knobs    CURVE; SUBGROUPS: see shared/rows
struct Params { rows: u32, queries: u32, keys: u32, pattern_replica: u32, x_replica: u32, w_replica: u32, y_replica: u32 }
const WG: u32 = 64u;
#import rows
@tensor var<storage, read> pattern: array<f32>;
@tensor var<storage, read> x: array<f32>;
#if CURVE
@tensor var<storage, read> w: array<f32>;
#endif
@tensor var<storage, read_write> y: array<f32>;

fn moved(at: u32) -> f32 {
#if CURVE
    return w[at];
#else
    return 0.0;
#endif
}

@compute @workgroup_size(64)
fn softmax_tangent(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let p_at = at.wid.z * params.pattern_replica + row * params.keys;
    let x_at = at.wid.z * params.x_replica + row * params.keys;
    let w_at = at.wid.z * params.w_replica + row * params.keys;
    let horizon = params.keys - params.queries + row % params.queries;
    var mean = 0.0;
    var turned = 0.0;
    for (var j = lane; j <= horizon; j += lanes) {
        mean += pattern[p_at + j] * x[x_at + j];
        if (CURVE == 1u) { turned += moved(w_at + j) * x[x_at + j]; }
    }
    mean = row_sum(mean, at);
    if (CURVE == 1u) { turned = row_sum(turned, at); }
    for (var j = lane; j < params.keys; j += lanes) {
        let p = pattern[p_at + j];
        let weight = select(p, moved(w_at + j), CURVE == 1u);
        y[at.wid.z * params.y_replica + row * params.keys + j] = select(0.0, weight * (x[x_at + j] - mean) - p * turned, j <= horizon);
    }
}
