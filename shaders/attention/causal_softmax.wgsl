// causal_softmax: pattern = softmax of the scores a query may see; masks the scores themselves too
// shapes   scores, pattern [R, B, H, Tq, T]
// grid     a subgroup or workgroup for each row (b, h, i), folded into x and y, R
// numerics f32, shifted by the largest visible score; masked scores become MASKED, masked entries 0
// knobs    SUBGROUPS: see shared/rows
#import attention
const WG: u32 = 64u;
#import rows
@tensor var<storage, read_write> scores: array<f32>;
@tensor var<storage, read_write> pattern: array<f32>;

const MASKED: f32 = -1e30;

@compute @workgroup_size(64)
fn causal_softmax(at: Invocation) {
    let rows = params.batch * params.heads * params.queries;
    let row = min(row_number(at), rows - 1u);
    let lane = row_lane(at, rows);
    let lanes = row_lanes(at);
    let s_at = at.wid.z * params.scores_replica + row * params.keys;
    let p_at = at.wid.z * params.pattern_replica + row * params.keys;
    let horizon = params.keys - params.queries + row % params.queries;
    var top = MASKED;
    for (var j = lane; j <= horizon; j += lanes) { top = max(top, scores[s_at + j]); }
    top = row_max(top, at);
    var sum = 0.0;
    for (var j = lane; j <= horizon; j += lanes) { sum += exp(scores[s_at + j] - top); }
    sum = row_sum(sum, at);
    for (var j = lane; j < params.keys; j += lanes) {
        let seen = j <= horizon;
        pattern[p_at + j] = select(0.0, exp(scores[s_at + j] - top) / sum, seen);
        if (!seen) { scores[s_at + j] = MASKED; }
    }
}
