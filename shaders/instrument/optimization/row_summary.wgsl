// row_summary: sums of loss and correct, and min, sum, max of margin over the rows that count; with HEALTH also the share
// whose loss is at most 2^-24, mean of |q - q rounded to multiples of 2^-24| with q = 1 - exp(-loss), max logit, root of
// the mean centred square of a logit
// shapes   loss, correct, margin, target_class [R, n]  count [R] or shared  before [R, 5, WG]
//          out [R, 5, WG], or [R, 5] in the last piece, or [R, 9] with HEALTH  rows [R, n, 2]: see loss/logit_rows
// grid     [1, 1, R]
// numerics f32; a set's row i is added by lane i mod WG, in order, whatever pieces the set comes in; the
//          last piece adds the lanes up as a tree. Rows that do not count change nothing. Rounding of q is that of an
//          integer scale, which no compiler folds away as it might 1 - (1 - q)
// knobs    BEFORE: goes on from what an earlier piece left; LAST: sums over lanes and divides by the count; HEALTH
struct Params {
    n: u32, lane: u32, rows_replica: u32, target_replica: u32, count_replica: u32, before_replica: u32, out_replica: u32,
    logits_replica: u32, classes: u32,
}
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> loss: array<f32>;
@tensor var<storage, read> correct: array<f32>;
@tensor var<storage, read> margin: array<f32>;
@tensor var<storage, read> target_class: array<u32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> out: array<f32>;
#if HEALTH
@tensor var<storage, read> rows: array<vec2<f32>>;

// One unit in the last place of the numbers just below 1.
const ULP: f32 = 5.9604644775390625e-8;
#endif
#if BEFORE
@tensor var<storage, read> before: array<f32>;
fn earlier(r: u32, i: u32, lid: u32) -> f32 { return before[r * params.before_replica + i * WG + lid]; }
#else
fn earlier(r: u32, i: u32, lid: u32) -> f32 {
    if (i == 2u) { return HUGE; }
    if (i == 4u) { return -HUGE; }
    return 0.0;
}
#endif

@compute @workgroup_size(256)
fn row_summary(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    var nats = earlier(r, 0u, lid);
    var right = earlier(r, 1u, lid);
    var low = earlier(r, 2u, lid);
    var sum = earlier(r, 3u, lid);
    var high = earlier(r, 4u, lid);
#if HEALTH
    var collapsed = 0.0;
    var residue = 0.0;
    var top = -HUGE;
    var squares = 0.0;
#endif
    // This piece's first row is the set's row number params.lane, modulo WG.
    for (var n = (lid + WG - params.lane) % WG; n < params.n; n += WG) {
        if (target_class[r * params.target_replica + n] != 0xffffffffu) {
            let at = r * params.rows_replica + n;
            nats += loss[at];
            right += correct[at];
            low = min(low, margin[at]);
            sum += margin[at];
            high = max(high, margin[at]);
#if HEALTH
            let wrong = -expm1(-loss[at]) / ULP;
            collapsed += select(0.0, 1.0, is_finite(loss[at]) && loss[at] <= ULP);
            residue += abs(wrong - round(wrong));
            let row = rows[r * params.logits_replica / 2u + n];
            top = max(top, row.x);
            squares += row.y;
#endif
        }
    }
    let at = r * params.out_replica;
#if LAST
    nats = workgroup_sum(nats, lid);
    right = workgroup_sum(right, lid);
    low = workgroup_min(low, lid);
    sum = workgroup_sum(sum, lid);
    high = workgroup_max(high, lid);
    if (lid == 0u) {
        let all = count[r * params.count_replica];
        out[at] = nats / all;
        out[at + 1u] = right / all;
        // Extremes skip what is no number.
        out[at + 2u] = select(sum, low, is_finite(sum));
        out[at + 3u] = sum / all;
        out[at + 4u] = select(sum, high, is_finite(sum));
    }
#if HEALTH
    collapsed = workgroup_sum(collapsed, lid);
    residue = workgroup_sum(residue, lid);
    top = workgroup_max(top, lid);
    squares = workgroup_sum(squares, lid);
    if (lid == 0u) {
        let all = count[r * params.count_replica];
        out[at + 5u] = collapsed / all;
        out[at + 6u] = residue * ULP / all;
        out[at + 7u] = select(squares, top, is_finite(squares));
        out[at + 8u] = sqrt(squares / (all * f32(params.classes)));
    }
#endif
#else
    out[at + lid] = nats;
    out[at + WG + lid] = right;
    out[at + 2u * WG + lid] = low;
    out[at + 3u * WG + lid] = sum;
    out[at + 4u * WG + lid] = high;
#endif
}
