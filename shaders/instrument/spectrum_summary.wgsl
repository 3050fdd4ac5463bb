// spectrum_summary: norms of frequencies, Gini coefficient of the components' norms, and which
// frequencies exceed a quarter of the largest
// shapes   energies [R, n]: constant, then cosine and sine of each frequency  norms, keys [R, n / 2]  gini [R]
// grid     [1, 1, R]; n up to 512
// numerics f32; ranks by counting, ties in order of index: Gini = sum (2 rank - n - 1) x / (n sum x)
struct Params { components: u32, frequencies: u32, energies_replica: u32, scalar_replica: u32, out_replica: u32 }
const WG: u32 = 256u;
#import reduce
@tensor var<storage, read> energies: array<f32>;
@tensor var<storage, read_write> norms: array<f32>;
@tensor var<storage, read_write> gini: array<f32>;
@tensor var<storage, read_write> keys: array<f32>;

var<workgroup> parts: array<f32, 512>;

@compute @workgroup_size(256)
fn spectrum_summary(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let n = params.components;
    for (var i = lid; i < n; i += WG) { parts[i] = sqrt(energies[r * params.energies_replica + i]); }
    workgroupBarrier();
    var total = 0.0;
    var weighted = 0.0;
    for (var i = lid; i < n; i += WG) {
        let x = parts[i];
        var rank = 1u;
        for (var j = 0u; j < n; j++) {
            rank += select(0u, 1u, parts[j] < x || (parts[j] == x && j < i));
        }
        total += x;
        weighted += (f32(2u * rank) - f32(n) - 1.0) * x;
    }
    total = workgroup_sum(total, lid);
    weighted = workgroup_sum(weighted, lid);
    if (lid == 0u) { gini[r * params.scalar_replica] = weighted / (f32(n) * max(total, 1e-37)); }

    var top = 0.0;
    for (var f = lid; f < params.frequencies; f += WG) {
        let c = parts[2u * f + 1u];
        let s = select(0.0, parts[min(2u * f + 2u, n - 1u)], 2u * f + 2u < n);
        let norm = sqrt(c * c + s * s);
        norms[r * params.out_replica + f] = norm;
        top = max(top, norm);
    }
    top = workgroup_max(top, lid);
    for (var f = lid; f < params.frequencies; f += WG) {
        let c = parts[2u * f + 1u];
        let s = select(0.0, parts[min(2u * f + 2u, n - 1u)], 2u * f + 2u < n);
        keys[r * params.out_replica + f] = select(0.0, 1.0, sqrt(c * c + s * s) > 0.25 * top);
    }
}
