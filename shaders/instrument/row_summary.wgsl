// row_summary: sums of loss and correct, and min, sum, max of margin over the rows that count
// shapes   loss, correct, margin, target_class [R, n]  count [R] or shared  out, before [R, 5]
// grid     [1, 1, R]
// numerics f32; lane l adds every 256th row in order, then a tree: rows that do not count change nothing
// knobs    BEFORE: adds to what an earlier piece left; LAST: divides sums by the count
struct Params { n: u32, rows_replica: u32, target_replica: u32, count_replica: u32, before_replica: u32, out_replica: u32 }
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
fn earlier(r: u32, i: u32) -> f32 { return before[r * params.before_replica + i]; }
#else
fn earlier(r: u32, i: u32) -> f32 {
    if (i == 2u) { return HUGE; }
    if (i == 4u) { return -HUGE; }
    return 0.0;
}
#endif

@compute @workgroup_size(256)
fn row_summary(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    var nats = 0.0;
    var right = 0.0;
    var low = HUGE;
    var sum = 0.0;
    var high = -HUGE;
    for (var n = lid; n < params.n; n += WG) {
        if (target_class[r * params.target_replica + n] != 0xffffffffu) {
            let at = r * params.rows_replica + n;
            nats += loss[at];
            right += correct[at];
            low = min(low, margin[at]);
            sum += margin[at];
            high = max(high, margin[at]);
        }
    }
    nats = workgroup_sum(nats, lid) + earlier(r, 0u);
    right = workgroup_sum(right, lid) + earlier(r, 1u);
    low = min(workgroup_min(low, lid), earlier(r, 2u));
    sum = workgroup_sum(sum, lid) + earlier(r, 3u);
    high = max(workgroup_max(high, lid), earlier(r, 4u));
    if (lid == 0u) {
        let share = select(1.0, count[r * params.count_replica], LAST == 1u);
        let at = r * params.out_replica;
        out[at] = nats / share;
        out[at + 1u] = right / share;
        out[at + 2u] = low;
        out[at + 3u] = sum / share;
        out[at + 4u] = high;
    }
}
