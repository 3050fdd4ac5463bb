// softmax_backward: ds = P (ds - sum P ds), in place
// shapes   pattern P, ds [R, B, H, Tq, T]
// grid     a subgroup or workgroup for each row (b, h, i), folded into x and y, R
// numerics f32, tree of fixed shape
// knobs    SUBGROUPS: see shared/rows
#import attention
const WG: u32 = 64u;
#import rows
@tensor var<storage, read> pattern: array<f32>;
@tensor var<storage, read_write> ds: array<f32>;

@compute @workgroup_size(64)
fn softmax_backward(at: Invocation) {
    let rows = params.batch * params.heads * params.queries;
    let row = min(row_number(at), rows - 1u);
    let lane = row_lane(at, rows);
    let lanes = row_lanes(at);
    let p_at = at.wid.z * params.pattern_replica + row * params.keys;
    let d_at = at.wid.z * params.ds_replica + row * params.keys;
    let horizon = params.keys - params.queries + row % params.queries;
    var mean = 0.0;
    for (var j = lane; j <= horizon; j += lanes) { mean += pattern[p_at + j] * ds[d_at + j]; }
    mean = row_sum(mean, at);
    for (var j = lane; j < params.keys; j += lanes) {
        ds[d_at + j] = select(0.0, pattern[p_at + j] * (ds[d_at + j] - mean), j <= horizon);
    }
}
