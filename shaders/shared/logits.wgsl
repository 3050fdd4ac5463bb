// logits: of the `columns` numbers of z from z_at on, by the lanes of a row (shared/rows), each from `lane` on: their
// maximum, and the sum of squares around their mean, in two passes
fn logit_statistics(z_at: u32, columns: u32, lane: u32, at: Invocation) -> vec2<f32> {
    let lanes = row_lanes(at);
    var top = -HUGE;
    var mean = 0.0;
    for (var j = lane; j < columns; j += lanes) {
        top = max(top, z[z_at + j]);
        mean += z[z_at + j];
    }
    top = row_max(top, at);
    mean = row_sum(mean, at) / f32(columns);
    var squares = 0.0;
    for (var j = lane; j < columns; j += lanes) {
        let v = z[z_at + j] - mean;
        squares += v * v;
    }
    return vec2<f32>(top, row_sum(squares, at));
}
