// outcomes: what an intervention does to each prediction, beside the clean one
// shapes   z [R, I N, V] logits  clean [R, N, V]  targets [R, N]  foils [R, N]  out [R, I N, 8]: loss, logit difference,
//          correct, KL(clean, z), argmax changed, entropy, Brier score, doubt = 1 - confidence; 0 where nothing is asked
// grid     a subgroup or workgroup for each row of z, folded into x and y, R
// numerics f32; loss by log1p over the wrong classes, Brier by the wrong mass, entropy, divergence and doubt by the mass of all
//          classes but the greatest: exact where one class has all
// knobs    SUBGROUPS: see shared/rows; FOILS: the logit difference is to one other class, not to the mean of all others
struct Params {
    rows: u32, clean_rows: u32, classes: u32, z_replica: u32, clean_replica: u32, target_replica: u32, foil_replica: u32, out_replica: u32,
}
const WG: u32 = 64u;
#import rows
#import numerics
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read> clean: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read_write> out: array<f32>;
#if FOILS
@tensor var<storage, read> foils: array<u32>;
#endif

// What the target's logit is compared with, of the sum of all others.
#if FOILS
fn other(r: u32, source: u32, z_at: u32, others: f32) -> f32 {
    return z[z_at + foils[r * params.foil_replica + source]];
}
#else
fn other(r: u32, source: u32, z_at: u32, others: f32) -> f32 {
    return others / f32(max(params.classes, 2u) - 1u);
}
#endif

@compute @workgroup_size(64)
fn outcomes(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let r = at.wid.z;
    let source = row % params.clean_rows;
    let y = targets[r * params.target_replica + source];
    let counted = y < params.classes;
    let z_at = r * params.z_replica + row * params.classes;
    let c_at = r * params.clean_replica + source * params.classes;
    var top_wrong = -HUGE;
    var clean_top = -HUGE;
    var others = 0.0;
    for (var j = lane; j < params.classes; j += lanes) {
        top_wrong = max(top_wrong, select(z[z_at + j], -HUGE, j == y));
        clean_top = max(clean_top, clean[c_at + j]);
        others += select(z[z_at + j], 0.0, j == y);
    }
    top_wrong = row_max(top_wrong, at);
    clean_top = row_max(clean_top, at);
    others = row_sum(others, at);
    let z_y = z[z_at + select(0u, y, counted)];
    let top = max(top_wrong, select(-HUGE, z_y, counted));
    var wrong = 0.0;
    var wrong_squares = 0.0;
    // exp(d) of the classes below the greatest, and how many are as great as it.
    var rest = 0.0;
    var clean_rest = 0.0;
    var greatest = 0.0;
    var clean_greatest = 0.0;
    var weighted = 0.0;
    var apart = 0.0;
    // The first of equal classes is the greatest.
    var first = -HUGE;
    var clean_first = -HUGE;
    for (var j = lane; j < params.classes; j += lanes) {
        let d = z[z_at + j] - top;
        let e = exp(d);
        wrong += select(e, 0.0, j == y);
        wrong_squares += select(e * e, 0.0, j == y);
        rest += select(e, 0.0, d >= 0.0);
        greatest += select(0.0, 1.0, d >= 0.0);
        weighted += e * d;
        let clean_d = clean[c_at + j] - clean_top;
        let clean_e = exp(clean_d);
        clean_rest += select(clean_e, 0.0, clean_d >= 0.0);
        clean_greatest += select(0.0, 1.0, clean_d >= 0.0);
        apart += clean_e * (clean_d - d);
        first = max(first, select(-HUGE, -f32(j), d >= 0.0));
        clean_first = max(clean_first, select(-HUGE, -f32(j), clean_d >= 0.0));
    }
    wrong = row_sum(wrong, at);
    wrong_squares = row_sum(wrong_squares, at);
    weighted = row_sum(weighted, at);
    rest = row_sum(rest, at) + (row_sum(greatest, at) - 1.0);
    clean_rest = row_sum(clean_rest, at) + (row_sum(clean_greatest, at) - 1.0);
    apart = row_sum(apart, at);
    first = row_max(first, at);
    clean_first = row_max(clean_first, at);
    if (lane == 0u) {
        let sum = 1.0 + rest;
        let p_wrong = wrong / sum;
        let place = r * params.out_replica + row * 8u;
        let nats = select(top - z_y + log1p(rest), log1p(wrong), z_y >= top_wrong);
        out[place] = select(0.0, nats, counted);
        out[place + 1u] = select(0.0, z_y - other(r, source, z_at, others), counted);
        out[place + 2u] = select(0.0, 1.0, counted && z_y > top_wrong && is_finite(nats));
        out[place + 3u] = select(0.0, apart / (1.0 + clean_rest) - log1p(clean_rest) + log1p(rest), counted);
        out[place + 4u] = select(0.0, 1.0, counted && first != clean_first);
        out[place + 5u] = select(0.0, log1p(rest) - weighted / sum, counted);
        out[place + 6u] = select(0.0, p_wrong * p_wrong + wrong_squares / (sum * sum), counted);
        out[place + 7u] = select(0.0, rest / sum, counted);
    }
}
