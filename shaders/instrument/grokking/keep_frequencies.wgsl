// keep_frequencies: rows of x whose frequency has at most the rank (or is key, for rank 0), others 0
// shapes   x, out [R, n, V]: rows constant, then cosine and sine of each frequency  ranks, keys [R, n / 2]
// grid     ceil(n V / 64) groups folded into x and y, R
struct Params { components: u32, columns: u32, rank: u32, constant: u32, x_replica: u32, ranks_replica: u32, out_replica: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> ranks: array<f32>;
@tensor var<storage, read> keys: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn keep_frequencies(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.components * params.columns) { return; }
    let k = (at / params.columns + 1u) / 2u;
    let f = wid.z * params.ranks_replica + max(k, 1u) - 1u;
    var kept = params.constant != 0u;
    if (k > 0u) { kept = select(ranks[f] <= f32(params.rank), keys[f] != 0.0, params.rank == 0u); }
    out[wid.z * params.out_replica + at] = select(0.0, x[wid.z * params.x_replica + at], kept);
}
