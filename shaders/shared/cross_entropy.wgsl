// cross_entropy: parameters of the loss's kernels, and the slope of a row's loss by one of its logits, but for the factor
// 1 / (exp(-shift) + sum), with sum = sum over j != y of exp(z_j - z_y - shift): the wrong classes' exponential, and for
// the right one what they have together, which keeps its precision when its probability rounds to 1
struct Params {
    rows: u32, classes: u32, z_replica: u32, target_replica: u32, row_replica: u32, saved_replica: u32, dz_replica: u32,
    count_replica: u32, logits_replica: u32, factor: f32, shift_replica: u32, shift_row_replica: u32, last_shift: u32,
    moved_replica: u32,
}

fn class_slope(above: f32, sum: f32, right: bool) -> f32 { return select(exp(above), -sum, right); }
