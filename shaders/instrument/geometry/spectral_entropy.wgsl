// spectral_entropy: of a covariance with eigenvalues l and p = l / sum l: H / ln n and exp(H), H = -sum p ln p;
//          both the trace where that is no finite number
// shapes   bands [R, 2, n]: see tridiagonal  out [R, 2]
// grid     [1, 1, R]; n up to 232: more would exceed the 65,535 rounds that software drivers give all loops of an invocation
// numerics f32; one eigenvalue an invocation, by bisection: how many lie below a number is the count of negative
//          pivots there (Sturm)
struct Params { n: u32, x_replica: u32, out_replica: u32 }
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> bands: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

var<workgroup> diagonal: array<f32, 256>;
var<workgroup> beside: array<f32, 256>;

@compute @workgroup_size(256)
fn spectral_entropy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = params.n;
    let at = wid.z * params.x_replica;
    diagonal[lid] = select(0.0, bands[at + min(lid, n - 1u)], lid < n);
    beside[lid] = select(0.0, bands[at + n + min(lid, n - 1u)], lid < n);
    // No eigenvalue of a covariance is negative, none above the trace.
    let trace = workgroup_sum(diagonal[lid], lid);
    var low = 0.0;
    var high = trace;
    for (var round = 0u; round < 40u; round++) {
        let middle = 0.5 * (low + high);
        var smaller = 0u;
        var pivot = 1.0;
        var before = 0.0;
        for (var i = 0u; i < n; i++) {
            pivot = diagonal[i] - middle - before / pivot;
            pivot = select(pivot, -1e-20, abs(pivot) < 1e-20);
            before = beside[i];
            smaller += select(0u, 1u, pivot < 0.0);
        }
        let above = smaller > lid;
        high = select(high, middle, above);
        low = select(middle, low, above);
    }
    let value = select(0.0, 0.5 * (low + high), lid < n);
    let whole = workgroup_sum(value, lid);
    let p = value / max(whole, 1e-30);
    let entropy = workgroup_sum(select(0.0, -p * log(max(p, 1e-30)), p > 0.0), lid);
    if (lid == 0u) {
        // Bisection ends somewhere whatever it compares.
        out[wid.z * params.out_replica] = select(trace, entropy / log(f32(max(n, 2u))), is_finite(trace));
        out[wid.z * params.out_replica + 1u] = select(trace, exp(entropy), is_finite(trace));
    }
}
