// cross_entropy_forward: loss = ln(1 + sum over j != y of exp(z_j - z_y)), correct, margin
// shapes   z [R, rows, classes]  target [R, rows]  loss, correct, margin [R, rows]  saved [R, rows, 2]
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics exact to 1e-38: log1p of the sum over the wrong classes; saved = (shift, sum exp(d - shift)),
//          shift = max(0, max d) so that nothing overflows
// knobs    SUBGROUPS: see shared/rows; SAVE: what the gradient needs is kept; GRAD: the gradient dz of factor / count times
//          the sum of losses is written at once, as cross_entropy_backward does; LOGITS: logit_rows [R, rows, 2] too;
//          SHIFT: a row of shifts [R, any, classes], numbered by shift_row [R, rows], is added to each row of z
const WG: u32 = 64u;
#import rows
#import numerics
#import cross_entropy
#import logits
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read> target_class: array<u32>;
@tensor var<storage, read_write> loss: array<f32>;
@tensor var<storage, read_write> correct: array<f32>;
@tensor var<storage, read_write> margin: array<f32>;
#if SAVE
@tensor var<storage, read_write> saved: array<f32>;
#endif
#if SHIFT
@tensor var<storage, read> shifts: array<f32>;
@tensor var<storage, read> shift_row: array<u32>;
fn shift_at(r: u32, row: u32) -> u32 {
    let number = min(shift_row[r * params.shift_row_replica + row], params.last_shift);
    return r * params.shift_replica + number * params.classes;
}
fn logit(z_at: u32, shifted: u32, j: u32) -> f32 { return z[z_at + j] + shifts[shifted + j]; }
#else
fn shift_at(r: u32, row: u32) -> u32 { return 0u; }
fn logit(z_at: u32, shifted: u32, j: u32) -> f32 { return z[z_at + j]; }
#endif
#if GRAD
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> dz: array<f32>;
#endif
#if LOGITS
@tensor var<storage, read_write> logit_rows: array<vec2<f32>>;
#endif

@compute @workgroup_size(64)
fn cross_entropy_forward(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let r = at.wid.z;
    let y = target_class[r * params.target_replica + row];
    let counted = y < params.classes;
    let z_at = r * params.z_replica + row * params.classes;
    let shifted = shift_at(r, row);
    let z_y = logit(z_at, shifted, select(0u, y, counted));
    // Rows that do not count cost nothing.
    let classes = select(0u, params.classes, counted);
    var top = -HUGE;
    for (var j = lane; j < classes; j += lanes) {
        top = max(top, select(logit(z_at, shifted, j) - z_y, -HUGE, j == y));
    }
    top = row_max(top, at);
    let shift = max(top, 0.0);
    var sum = 0.0;
    for (var j = lane; j < classes; j += lanes) {
        sum += select(exp(logit(z_at, shifted, j) - z_y - shift), 0.0, j == y);
    }
    sum = row_sum(sum, at);
    if (lane == 0u) {
        let nats = select(log1p(sum), shift + log(exp(-shift) + sum), top > 0.0);
        let out = r * params.row_replica + row;
        loss[out] = select(0.0, nats, counted);
        // Without a finite loss nothing was predicted, and the margin is as undefined as the loss.
        correct[out] = select(0.0, 1.0, counted && top < 0.0 && is_finite(nats));
        margin[out] = select(0.0, select(nats, -top, is_finite(nats)), counted);
#if SAVE
        saved[r * params.saved_replica + row * 2u] = select(0.0, shift, counted);
        saved[r * params.saved_replica + row * 2u + 1u] = select(0.0, sum, counted);
#endif
    }
#if GRAD
    let scale = select(0.0, params.factor / count[r * params.count_replica], counted) / (exp(-shift) + sum);
    for (var j = lane; j < params.classes; j += lanes) {
        let slope = class_slope(z[z_at + j] - z_y - shift, sum, j == y);
        dz[r * params.dz_replica + row * params.classes + j] = select(0.0, scale * slope, counted);
    }
#endif
#if LOGITS
    let found = logit_statistics(z_at, params.classes, lane, at);
    if (lane == 0u) {
        logit_rows[r * params.logits_replica / 2u + row] = found;
    }
#endif
}
