// present_rows: the rows of candidates that count, in their order and in a random one, and how many they are
// shapes   targets [R, rows]  candidates [R, n]  keys [R, n]  order, shuffled [R, n]  count [R, 1]; n up to 256
// grid     [1, 1, R]
// numerics integers; what is behind the last is 0. A candidate of IGNORE is none, and a target of IGNORE does not count
struct Params {
    n: u32, targets_replica: u32, candidates_replica: u32, keys_replica: u32, order_replica: u32, shuffled_replica: u32,
    count_replica: u32,
}
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> candidates: array<u32>;
@tensor var<storage, read> keys: array<u32>;
@tensor var<storage, read_write> order: array<u32>;
@tensor var<storage, read_write> shuffled: array<u32>;
@tensor var<storage, read_write> count: array<f32>;

const IGNORE: u32 = 0xffffffffu;
var<workgroup> counts: array<u32, 256>;

@compute @workgroup_size(256)
fn present_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    var row = IGNORE;
    if (lid < params.n) { row = candidates[r * params.candidates_replica + lid]; }
    var counted = 0u;
    if (row != IGNORE) {
        if (targets[r * params.targets_replica + row] != IGNORE) { counted = 1u; }
    }
    counts[lid] = counted;
    workgroupBarrier();
    var key = 0u;
    if (lid < params.n) { key = keys[r * params.keys_replica + lid]; }
    var rank = 0u;
    var place = 0u;
    var all = 0u;
    for (var j = 0u; j < params.n; j++) {
        let other = keys[r * params.keys_replica + j];
        all += counts[j];
        if (j < lid) { rank += counts[j]; }
        if (other < key || (other == key && j < lid)) { place += counts[j]; }
    }
    if (lid >= all && lid < params.n) {
        order[r * params.order_replica + lid] = 0u;
        shuffled[r * params.shuffled_replica + lid] = 0u;
    }
    if (counted == 1u) {
        order[r * params.order_replica + rank] = row;
        shuffled[r * params.shuffled_replica + place] = row;
    }
    if (lid == 0u) { count[r * params.count_replica] = f32(all); }
}
