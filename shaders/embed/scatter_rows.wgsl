// scatter_rows: y[u,:] = sum over n with index[n] = u of x[n,:], in order of n
// shapes   x [R, N, D]  index [R, N]  y [R, chunks, U, D]: one partial sum for each `chunk` rows of x
// grid     U groups folded into x and y, R * chunks; the lanes of a group walk the D columns
// numerics f32, serial within a chunk, so that the bits do not depend on scheduling
struct Params { n: u32, d: u32, rows: u32, chunk: u32, x_replica: u32, index_replica: u32, y_replica: u32, y_chunk: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> index: array<u32>;
@tensor var<storage, read_write> y: array<f32>;

const WG: u32 = 128u;
// One bit for each of WG rows: whether it belongs to u.
var<workgroup> hits: array<atomic<u32>, 4>;

@compute @workgroup_size(128)
fn scatter_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let u = wid.y * groups.x + wid.x;
    let chunks = (params.n + params.chunk - 1u) / params.chunk;
    let r = wid.z / chunks;
    let chunk = wid.z % chunks;
    let first = chunk * params.chunk;
    let last = min(first + params.chunk, params.n);
    let target_at = r * params.y_replica + chunk * params.y_chunk + u * params.d;
    for (var d0 = 0u; d0 < params.d; d0 += WG) {
        let d = d0 + lid;
        var sum = 0.0;
        for (var n0 = first; n0 < last; n0 += WG) {
            if (lid < 4u) { atomicStore(&hits[lid], 0u); }
            workgroupBarrier();
            let n = n0 + lid;
            if (n < last && index[r * params.index_replica + min(n, params.n - 1u)] == u) {
                atomicOr(&hits[lid / 32u], 1u << (lid % 32u));
            }
            workgroupBarrier();
            for (var word = 0u; word < 4u; word++) {
                for (var bits = atomicLoad(&hits[word]); bits != 0u; bits &= bits - 1u) {
                    let row = n0 + word * 32u + firstTrailingBit(bits);
                    if (d < params.d) { sum += x[r * params.x_replica + row * params.d + d]; }
                }
            }
            workgroupBarrier();
        }
        if (d < params.d && u < params.rows) { y[target_at + d] = sum; }
    }
}
