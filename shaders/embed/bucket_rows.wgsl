// bucket_rows: a stable counting sort of each segment of an index
//   starts[s, u] = where the entries with value u begin in order, starts[s, U] = where the last end
//   order[...]   = the entries' numbers, by value and then by number; values beyond U are left out
// shapes   index [R, N]  starts [R, S, U + 1]  order [R, N]  cursors [R, S, U] (scratch)
// grid     [S, 1, R]; one workgroup for each segment of at most `segment` entries
// numerics integers: counts are atomic, places are not, so the order is the same on every run
struct Params { n: u32, rows: u32, segment: u32, index_replica: u32, starts_replica: u32, order_replica: u32 }
const WG: u32 = 256u;
@tensor var<storage, read> index: array<u32>;
@tensor var<storage, read_write> starts: array<atomic<u32>>;
@tensor var<storage, read_write> order: array<u32>;
@tensor var<storage, read_write> cursors: array<u32>;

var<workgroup> values: array<u32, WG>;
var<workgroup> totals: array<u32, WG>;

@compute @workgroup_size(256)
fn bucket_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let first = wid.x * params.segment;
    let last = min(first + params.segment, params.n);
    let starts_at = r * params.starts_replica + wid.x * (params.rows + 1u);
    let cursors_at = (r * groups.x + wid.x) * params.rows;

    // How often each value occurs, one place up.
    for (var u = lid; u <= params.rows; u += WG) { atomicStore(&starts[starts_at + u], 0u); }
    storageBarrier();
    for (var n = first + lid; n < last; n += WG) {
        let u = index[r * params.index_replica + n];
        if (u < params.rows) { atomicAdd(&starts[starts_at + u + 1u], 1u); }
    }
    storageBarrier();

    // Running sums: each invocation over a stretch of values, then over the stretches before.
    let stretch = (params.rows + WG) / WG;
    let from_value = lid * stretch;
    let to_value = min(from_value + stretch, params.rows + 1u);
    var total = 0u;
    for (var u = from_value; u < to_value; u++) { total += atomicLoad(&starts[starts_at + u]); }
    totals[lid] = total;
    workgroupBarrier();
    var sum = first;
    for (var other = 0u; other < lid; other++) { sum += totals[other]; }
    for (var u = from_value; u < to_value; u++) {
        sum += atomicLoad(&starts[starts_at + u]);
        atomicStore(&starts[starts_at + u], sum);
        if (u < params.rows) { cursors[cursors_at + u] = sum; }
    }
    storageBarrier();

    // Entries in order, WG at a time: a place is the value's cursor plus the equal values before.
    for (var base = first; base < last; base += WG) {
        let n = base + lid;
        var u = 0xffffffffu;
        if (n < last) { u = index[r * params.index_replica + n]; }
        values[lid] = u;
        workgroupBarrier();
        var before = 0u;
        var all = 0u;
        for (var other = 0u; other < WG; other++) {
            let same = select(0u, 1u, values[other] == u);
            all += same;
            before += select(0u, same, other < lid);
        }
        let counts = u < params.rows;
        var place = 0u;
        if (counts) {
            place = cursors[cursors_at + u] + before;
            order[r * params.order_replica + place] = n;
        }
        storageBarrier();
        workgroupBarrier();
        if (counts && before + 1u == all) { cursors[cursors_at + u] = place + 1u; }
        storageBarrier();
        workgroupBarrier();
    }
}
