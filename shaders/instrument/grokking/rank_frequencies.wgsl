// rank_frequencies: rank of each frequency by energy, from 1, and which hold more than 1 % of the power
// shapes   energies [R, n]: constant, then cosine and sine of each frequency  power [R]  ranks, keys [R, n / 2]
// grid     [1, 1, R]; n up to 512
struct Params { components: u32, frequencies: u32, energies_replica: u32, scalar_replica: u32, ranks_replica: u32, keys_replica: u32 }
@tensor var<storage, read> energies: array<f32>;
@tensor var<storage, read> power: array<f32>;
@tensor var<storage, read_write> ranks: array<f32>;
@tensor var<storage, read_write> keys: array<f32>;

var<workgroup> parts: array<f32, 256>;

@compute @workgroup_size(256)
fn rank_frequencies(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = params.components;
    let at = wid.z * params.energies_replica;
    if (lid < params.frequencies) {
        let s = select(0.0, energies[at + min(2u * lid + 2u, n - 1u)], 2u * lid + 2u < n);
        parts[lid] = energies[at + 2u * lid + 1u] + s;
    }
    workgroupBarrier();
    if (lid >= params.frequencies) { return; }
    let x = parts[lid];
    var rank = 1u;
    for (var j = 0u; j < params.frequencies; j++) {
        rank += select(0u, 1u, parts[j] > x || (parts[j] == x && j < lid));
    }
    ranks[wid.z * params.ranks_replica + lid] = f32(rank);
    keys[wid.z * params.keys_replica + lid] = select(0.0, 1.0, x > 0.01 * power[wid.z * params.scalar_replica]);
}
