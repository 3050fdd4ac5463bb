// spectrum_summary: of two weights, norms of frequencies, Gini coefficient of the components' norms, and which
// frequencies exceed a quarter of the largest
// shapes   first [R, n, columns]: constant, then cosine and sine of each frequency  second [R, n, columns], or [R, rows, n]
//          norms, keys [R, 2, n / 2]  gini [R, 2]
// grid     [2, 1, R]: a workgroup for each weight; n up to 512
// numerics f32; squares are added in 8 lanes, in order, then the lanes; ranks by counting, ties in order of index:
//          Gini = sum (2 rank - n - 1) x / (n sum x)
// knobs    DOWN: the second's components are its columns
struct Params {
    components: u32, frequencies: u32, first_length: u32, second_length: u32, first_replica: u32, second_replica: u32,
    scalar_replica: u32, out_replica: u32,
}
const WG: u32 = 256u;
#import reduce
@tensor var<storage, read> first: array<f32>;
@tensor var<storage, read> second: array<f32>;
@tensor var<storage, read_write> norms: array<f32>;
@tensor var<storage, read_write> gini: array<f32>;
@tensor var<storage, read_write> keys: array<f32>;

var<workgroup> parts: array<f32, 512>;
var<workgroup> lanes: array<f32, 256>;

// Lane's share of the sum of squares of component i of weight `site`.
fn squares(site: u32, r: u32, i: u32, lane: u32) -> f32 {
    var sum = 0.0;
    if (site == 0u) {
        for (var e = lane; e < params.first_length; e += 8u) {
            let v = first[r * params.first_replica + i * params.first_length + e];
            sum += v * v;
        }
        return sum;
    }
    for (var e = lane; e < params.second_length; e += 8u) {
        let at = select(i * params.second_length + e, e * params.components + i, DOWN == 1u);
        let v = second[r * params.second_replica + at];
        sum += v * v;
    }
    return sum;
}

@compute @workgroup_size(256)
fn spectrum_summary(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let site = wid.x;
    let n = params.components;
    for (var block = 0u; block < n; block += 32u) {
        let i = block + lid % 32u;
        lanes[lid] = squares(site, r, min(i, n - 1u), lid / 32u);
        workgroupBarrier();
        if (lid < 32u && i < n) {
            var sum = lanes[lid];
            for (var lane = 1u; lane < 8u; lane++) { sum += lanes[lane * 32u + lid]; }
            parts[i] = sqrt(sum);
        }
        workgroupBarrier();
    }
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
    if (lid == 0u) { gini[r * params.scalar_replica + site] = weighted / (f32(n) * max(total, 1e-37)); }

    let out = r * params.out_replica + site * params.frequencies;
    var top = 0.0;
    for (var f = lid; f < params.frequencies; f += WG) {
        let c = parts[2u * f + 1u];
        let s = select(0.0, parts[min(2u * f + 2u, n - 1u)], 2u * f + 2u < n);
        let norm = sqrt(c * c + s * s);
        norms[out + f] = norm;
        top = max(top, norm);
    }
    top = workgroup_max(top, lid);
    for (var f = lid; f < params.frequencies; f += WG) {
        let c = parts[2u * f + 1u];
        let s = select(0.0, parts[min(2u * f + 2u, n - 1u)], 2u * f + 2u < n);
        keys[out + f] = select(0.0, 1.0, sqrt(c * c + s * s) > 0.25 * top);
    }
}
