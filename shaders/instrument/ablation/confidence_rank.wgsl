// confidence_rank: rank[i, n] = how many rows of group i that count are less confident than row n
// shapes   x [R, I N, 8], doubt = 1 - confidence in column 7  targets [R, N]  rank [R, I N] u32
// grid     ceil(I N / 64) groups folded into x and y, R; one invocation for each row, serial over N rows
// numerics integers; equals have one rank, so that the order of rows decides nothing
struct Params { rows: u32, groups: u32, classes: u32, x_replica: u32, target_replica: u32, rank_replica: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read_write> rank: array<u32>;

@compute @workgroup_size(64)
fn confidence_rank(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.rows * params.groups) { return; }
    let r = wid.z;
    let n = at % params.rows;
    let first = r * params.x_replica + (at - n) * 8u + 7u;
    let own = x[first + n * 8u];
    var below = 0u;
    for (var m = 0u; m < params.rows; m++) {
        let other = x[first + m * 8u];
        let counts = targets[r * params.target_replica + m] < params.classes;
        below += select(0u, 1u, counts && other > own);
    }
    rank[r * params.rank_replica + at] = below;
}
