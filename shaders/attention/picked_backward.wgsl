// picked_backward: gradients of q, k and v at each place of a batch whose rows a table holds, for up to 16 keys:
// dS = P (dP - sum P dP) with dP = dz v^T; dq = scale dS k, dk = scale dS^T q, dv = P^T dz
// shapes   table [R, U, (H + 2 G) K]  index [R, B T]  pattern [R, B, H, Tq, T]  dz [R, B, Tq, H, K]
//          each [R, B T, (H + 2 G) K], laid out as the table; 0 for q where nothing asks
// grid     ceil(B G / 64) groups folded into x and y, R; one invocation for each group of heads of each example
// numerics f32, serial over heads, queries and keys
// knobs    WIDE: vectors of four along K; SINGLE: one query and one head a group, so that nothing is added up
#import picked
@tensor var<storage, read> table: array<T>;
@tensor var<storage, read> index: array<u32>;
@tensor var<storage, read> pattern: array<f32>;
@tensor var<storage, read> dz: array<T>;
@tensor var<storage, read_write> each: array<T>;

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
    let out = r * params.each_replica / LANES + b * params.keys * ld;
    let k_at = (params.heads + g) * width;
    let v_at = k_at + params.groups * width;
    let group = params.heads / params.groups;
    let before = params.keys - params.queries;
    for (var j = 0u; j < params.keys; j++) {
        if (j < before) {
            for (var x = 0u; x < group * width; x++) { each[out + j * ld + g * group * width + x] = T(0.0); }
        }
        if (SINGLE == 0u) {
            for (var x = 0u; x < width; x++) {
                each[out + j * ld + k_at + x] = T(0.0);
                each[out + j * ld + v_at + x] = T(0.0);
            }
        }
    }
    for (var h = g * group; h < (g + 1u) * group; h++) {
        for (var i = 0u; i < params.queries; i++) {
            let horizon = before + i;
            let p_at = r * params.pattern_replica + ((b * params.heads + h) * params.queries + i) * params.keys;
            let dz_at = r * params.dz_replica / LANES + ((b * params.queries + i) * params.heads + h) * width;
            let q_at = base + row_at(r, b, horizon) * ld + h * width;
            var ds: array<f32, 16>;
            var mean = 0.0;
            for (var j = 0u; j <= horizon; j++) {
                let value = base + row_at(r, b, j) * ld + v_at;
                var dots = T(0.0);
                for (var x = 0u; x < width; x++) { dots += dz[dz_at + x] * table[value + x]; }
                ds[j] = total(dots);
                mean += pattern[p_at + j] * ds[j];
            }
            for (var j = 0u; j <= horizon; j++) { ds[j] = params.scale * pattern[p_at + j] * (ds[j] - mean); }
            let dq_at = out + horizon * ld + h * width;
            for (var j = 0u; j < params.keys; j++) {
                let seen = j <= horizon;
                let weight = select(0.0, ds[j], seen);
                let share = select(0.0, pattern[p_at + j], seen);
                let key = base + row_at(r, b, j) * ld + k_at;
                let dk_at = out + j * ld + k_at;
                let dv_at = out + j * ld + v_at;
                for (var x = 0u; x < width; x++) {
                    let asked = select(each[dq_at + x], T(0.0), j == 0u);
                    each[dq_at + x] = asked + weight * table[key + x];
                    var dk = weight * table[q_at + x];
                    var dv = share * dz[dz_at + x];
                    if (SINGLE == 0u) {
                        dk += each[dk_at + x];
                        dv += each[dv_at + x];
                    }
                    each[dk_at + x] = dk;
                    each[dv_at + x] = dv;
                }
            }
        }
    }
}
