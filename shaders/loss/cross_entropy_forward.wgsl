// cross_entropy_forward: loss = ln(1 + sum over j != y of exp(z_j - z_y)), correct, margin
// shapes   z [R, rows, z_ld], of which the first `classes` columns take part  target [R, rows]  loss, correct, margin [R, rows]  saved [R, rows, 2]
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics exact to 1e-38: log1p of the sum over the wrong classes; saved = (shift, sum exp(d - shift)),
//          shift = max(0, max d) so that nothing overflows
// knobs    SUBGROUPS: see shared/rows
struct Params {
    rows: u32, classes: u32, z_ld: u32, z_replica: u32, target_replica: u32, row_replica: u32, saved_replica: u32, dz_replica: u32,
}
const WG: u32 = 64u;
#import rows
#import numerics
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read> target_class: array<u32>;
@tensor var<storage, read_write> loss: array<f32>;
@tensor var<storage, read_write> correct: array<f32>;
@tensor var<storage, read_write> margin: array<f32>;
@tensor var<storage, read_write> saved: array<f32>;

@compute @workgroup_size(64)
fn cross_entropy_forward(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lanes = row_lanes(at);
    let r = at.wid.z;
    let y = target_class[r * params.target_replica + row];
    let counted = y < params.classes;
    let z_at = r * params.z_replica + row * params.z_ld;
    let z_y = z[z_at + select(0u, y, counted)];
    var top = -HUGE;
    for (var j = at.lane; j < params.classes; j += lanes) {
        top = max(top, select(z[z_at + j] - z_y, -HUGE, j == y));
    }
    top = row_max(top, at);
    let shift = max(top, 0.0);
    var sum = 0.0;
    for (var j = at.lane; j < params.classes; j += lanes) {
        sum += select(exp(z[z_at + j] - z_y - shift), 0.0, j == y);
    }
    sum = row_sum(sum, at);
    if (at.lane == 0u && row_number(at) < params.rows) {
        let nats = select(log1p(sum), shift + log(exp(-shift) + sum), top > 0.0);
        let out = r * params.row_replica + row;
        loss[out] = select(0.0, nats, counted);
        // Without a finite loss nothing was predicted, and the margin is as undefined as the loss.
        correct[out] = select(0.0, 1.0, counted && top < 0.0 && is_finite(nats));
        margin[out] = select(0.0, select(nats, -top, is_finite(nats)), counted);
        saved[r * params.saved_replica + row * 2u] = select(0.0, shift, counted);
        saved[r * params.saved_replica + row * 2u + 1u] = select(0.0, sum, counted);
    }
}
