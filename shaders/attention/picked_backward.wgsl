// picked_backward: gradients of q, k and v at each place of a batch whose rows a table holds, for up to 16 keys:
// dS = P (dP - sum P dP) with dP = dz v^T; dq = scale dS k, dk = scale dS^T q, dv = P^T dz
// shapes   table [R, U, (H + 2 G) K]  index [R, B T]  pattern [R, B, H, Tq, T]  dz [R, B, Tq, H, K]
//          dq [R, B, Tq, H, K]  dkv [R, B, T, 2 G K]: of k, then of v
// grid     ceil(B G / 64) groups folded into x and y, R; one invocation for each group of heads of each example
// numerics f32, serial over heads, queries and keys
// knobs    WIDE: vectors of four along K; SINGLE: one query and one head a group, so that nothing is added up
#import picked
#import vectors
@tensor var<storage, read> table: array<T>;
@tensor var<storage, read> index: array<u32>;
@tensor var<storage, read> pattern: array<f32>;
@tensor var<storage, read> dz: array<T>;
@tensor var<storage, read_write> dq: array<T>;
@tensor var<storage, read_write> dkv: array<T>;

// Row of the table at position j of example b.
fn row_at(r: u32, b: u32, j: u32) -> u32 { return min(index[r * params.index_replica + b * params.keys + j], params.last); }

@compute @workgroup_size(64)
fn picked_backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.batch * params.groups) { return; }
    let r = wid.z;
    let g = at % params.groups;
    let b = at / params.groups;
    let width = params.width / LANES;
    let ld = (params.heads + 2u * params.groups) * width;
    let base = r * params.table_replica / LANES;
    let k_at = (params.heads + g) * width;
    let v_at = k_at + params.groups * width;
    let group = params.heads / params.groups;
    let before = params.keys - params.queries;
    let kv_ld = 2u * params.groups * width;
    let dk_first = r * params.dkv_replica / LANES + b * params.keys * kv_ld + g * width;
    let dv_first = dk_first + params.groups * width;
    if (SINGLE == 0u) {
        for (var j = 0u; j < params.keys; j++) {
            for (var x = 0u; x < width; x++) {
                dkv[dk_first + j * kv_ld + x] = T(0.0);
                dkv[dv_first + j * kv_ld + x] = T(0.0);
            }
        }
    }
    // Where the row of each position begins in the table.
    var places: array<u32, 16>;
    for (var j = 0u; j < params.keys; j++) { places[j] = base + row_at(r, b, j) * ld; }
    for (var h = g * group; h < (g + 1u) * group; h++) {
        for (var i = 0u; i < params.queries; i++) {
            let horizon = before + i;
            let p_at = r * params.pattern_replica + ((b * params.heads + h) * params.queries + i) * params.keys;
            let own = ((b * params.queries + i) * params.heads + h) * width;
            let dz_at = r * params.dz_replica / LANES + own;
            let dq_at = r * params.dq_replica / LANES + own;
            let q_at = places[horizon] + h * width;
            var ds: array<f32, 16>;
            var mean = 0.0;
            for (var j = 0u; j <= horizon; j++) {
                var dots = T(0.0);
                for (var x = 0u; x < width; x++) { dots += dz[dz_at + x] * table[places[j] + v_at + x]; }
                ds[j] = total(dots);
                mean += pattern[p_at + j] * ds[j];
            }
            for (var j = 0u; j <= horizon; j++) { ds[j] = params.scale * pattern[p_at + j] * (ds[j] - mean); }
            for (var x = 0u; x < width; x++) {
                var asked = T(0.0);
                for (var j = 0u; j <= horizon; j++) { asked += ds[j] * table[places[j] + k_at + x]; }
                dq[dq_at + x] = asked;
            }
            for (var j = 0u; j < params.keys; j++) {
                let seen = j <= horizon;
                let weight = select(0.0, ds[j], seen);
                let share = select(0.0, pattern[p_at + j], seen);
                let dk_at = dk_first + j * kv_ld;
                let dv_at = dv_first + j * kv_ld;
                for (var x = 0u; x < width; x++) {
                    var dk = weight * table[q_at + x];
                    var dv = share * dz[dz_at + x];
                    if (SINGLE == 0u) {
                        dk += dkv[dk_at + x];
                        dv += dkv[dv_at + x];
                    }
                    dkv[dk_at + x] = dk;
                    dkv[dv_at + x] = dv;
                }
            }
        }
    }
}
