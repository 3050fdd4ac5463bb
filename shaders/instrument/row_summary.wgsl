// row_summary: sums of loss and correct, and min, sum, max of margin over the rows that count
// shapes   loss, correct, margin, target_class [R, n]  count [R] or shared  before [R, 5, WG]
//          out [R, 5, WG], or [R, 5] in the last piece
// grid     [1, 1, R]
// numerics f32; a set's row i is added by lane i mod WG, in order, whatever pieces the set comes in; the
//          last piece adds the lanes up as a tree. Rows that do not count change nothing
// knobs    BEFORE: goes on from what an earlier piece left; LAST: sums over lanes and divides by the count
struct Params {
    n: u32, lane: u32, rows_replica: u32, target_replica: u32, count_replica: u32, before_replica: u32, out_replica: u32,
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
    // This piece's first row is the set's row number params.lane, modulo WG.
    for (var n = (lid + WG - params.lane) % WG; n < params.n; n += WG) {
        if (target_class[r * params.target_replica + n] != 0xffffffffu) {
            let at = r * params.rows_replica + n;
            nats += loss[at];
            right += correct[at];
            low = min(low, margin[at]);
            sum += margin[at];
            high = max(high, margin[at]);
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
#else
    out[at + lid] = nats;
    out[at + WG + lid] = right;
    out[at + 2u * WG + lid] = low;
    out[at + 3u * WG + lid] = sum;
    out[at + 4u * WG + lid] = high;
#endif
}
