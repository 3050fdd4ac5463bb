// numerical_health: over the rows that count: share whose loss is at most 2^-24, mean of |q - q rounded to
// multiples of 2^-24| with q = 1 - exp(-loss), max logit, root of the mean centred square of a logit
// shapes   loss, target_class [R, n]  rows [R, n, 2]: see logit_rows  count [R] or shared  out [R, 4]
// grid     [1, 1, R]
// numerics f32; row i is added by lane i mod WG, in order, then lanes as a tree. Rounding is that of an
//          integer scale, which no compiler folds away as it might 1 - (1 - q)
struct Params {
    n: u32, classes: u32, loss_replica: u32, target_replica: u32, rows_replica: u32, count_replica: u32, out_replica: u32,
}
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> loss: array<f32>;
@tensor var<storage, read> target_class: array<u32>;
@tensor var<storage, read> rows: array<vec2<f32>>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

// One unit in the last place of the numbers just below 1.
const ULP: f32 = 5.9604644775390625e-8;

@compute @workgroup_size(256)
fn numerical_health(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    var collapsed = 0.0;
    var residue = 0.0;
    var top = -HUGE;
    var squares = 0.0;
    for (var n = lid; n < params.n; n += WG) {
        if (target_class[r * params.target_replica + n] != 0xffffffffu) {
            let nats = loss[r * params.loss_replica + n];
            let wrong = -expm1(-nats) / ULP;
            collapsed += select(0.0, 1.0, is_finite(nats) && nats <= ULP);
            residue += abs(wrong - round(wrong));
            let row = rows[r * params.rows_replica / 2u + n];
            top = max(top, row.x);
            squares += row.y;
        }
    }
    collapsed = workgroup_sum(collapsed, lid);
    residue = workgroup_sum(residue, lid);
    top = workgroup_max(top, lid);
    squares = workgroup_sum(squares, lid);
    if (lid == 0u) {
        let all = count[r * params.count_replica];
        let at = r * params.out_replica;
        out[at] = collapsed / all;
        out[at + 1u] = residue * ULP / all;
        // A maximum skips what is no number.
        out[at + 2u] = select(squares, top, is_finite(squares));
        out[at + 3u] = sqrt(squares / (all * f32(params.classes)));
    }
}
