// tridiagonal: a symmetric matrix with the same eigenvalues and nothing beside its diagonal and the one next to it:
//          out[0, i] = T[i, i], out[1, i] = T[i, i + 1]^2; no number of it is finite where the trace is not
// shapes   x [R, n, n]  work [R, n, n]  out [R, 2, n]
// grid     [1, 1, R]; n up to 232: more would exceed the 65,535 rounds that software drivers give all loops of an invocation
// numerics Householder reflections in f32: eigenvalues to some 1e-6 of the largest
struct Params { n: u32, x_replica: u32, work_replica: u32, out_replica: u32 }
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> work: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

var<workgroup> v: array<f32, 256>;
var<workgroup> w: array<f32, 256>;

@compute @workgroup_size(256)
fn tridiagonal(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = params.n;
    let base = wid.z * params.work_replica;
    let at = wid.z * params.out_replica;
    // Divided by the mean eigenvalue, so that squares of squares stay in range.
    var trace = 0.0;
    for (var i = lid; i < n; i += WG) { trace += x[wid.z * params.x_replica + i * (n + 1u)]; }
    trace = workgroup_sum(trace, lid);
    let unit = select(trace, f32(n) / max(trace, 1e-30), is_finite(trace));
    for (var i = lid; i < n * n; i += WG) { work[base + i] = unit * x[wid.z * params.x_replica + i]; }
    storageBarrier();
    for (var k = 0u; k + 1u < n; k++) {
        // The part of column k below the diagonal is reflected onto its first entry.
        let below = lid > k && lid < n;
        let entry = select(0.0, work[base + min(lid, n - 1u) * n + k], below);
        let squares = workgroup_sum(entry * entry, lid);
        let first = work[base + (k + 1u) * n + k];
        let length = sqrt(squares);
        let turned = select(length, -length, first > 0.0);
        let u = entry - select(0.0, turned, lid == k + 1u);
        let size = workgroup_sum(u * u, lid);
        let scale = select(0.0, 2.0 / max(size, 1e-37), size > 1e-30);
        v[lid] = u;
        workgroupBarrier();
        // w = scale A v - (scale^2 / 2) (v' A v) v; A -= v w' + w v'.
        var product = 0.0;
        if (below) {
            for (var j = k + 1u; j < n; j++) { product += work[base + j * n + lid] * v[j]; }
        }
        product *= scale;
        let along = workgroup_sum(product * u, lid);
        w[lid] = product - 0.5 * scale * along * u;
        workgroupBarrier();
        if (lid == 0u) {
            out[at + k] = work[base + k * n + k];
            out[at + n + k] = squares;
        }
        if (below) {
            for (var j = k + 1u; j < n; j++) { work[base + j * n + lid] -= v[j] * w[lid] + w[j] * v[lid]; }
        }
        storageBarrier();
        workgroupBarrier();
    }
    if (lid == 0u) {
        out[at + n - 1u] = work[base + n * n - 1u];
        out[at + 2u * n - 1u] = 0.0;
    }
}
