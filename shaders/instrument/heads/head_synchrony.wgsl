// head_synchrony: out[0, 1] = mean cosine of all pairs of heads, out[2, 3] = (P - 1) / (H - 1) with
// P = (sum of eigenvalues)^2 / sum of their squares = 1 / sum (x_hg / trace x)^2, for the two tables of products;
// out[4] = population standard deviation of the entropies. 0 for 0 / 0; heads whose products are rounding beside those of
// table 0 have no part in table 1, and where fewer than two have one, P is unknown
// shapes   x [R, 2, H, H], upper triangle  entropy [R, H or more]  out [R, 5]
// grid     [1, 1, R]
// numerics f32, products divided by their trace before they are squared; trees of fixed shape
struct Params { heads: u32, x_replica: u32, entropy_replica: u32, out_replica: u32 }
const WG: u32 = 64u;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> entropy: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

// Not d > 0: what is no number must show.
fn ratio(a: f32, d: f32) -> f32 { return select(a / d, 0.0, d == 0.0); }

// Whether a head has more than rounding in a table. What is no number must show.
fn varies(table: u32, base: u32, h: u32) -> bool {
    let own = x[base + h * (params.heads + 1u)];
    return !is_finite(own) || own > ROUNDING * x[table + h * (params.heads + 1u)];
}

@compute @workgroup_size(64)
fn head_synchrony(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = params.heads;
    let count = f32(n);
    let out_at = wid.z * params.out_replica;
    for (var kind = 0u; kind < 2u; kind++) {
        let table = wid.z * params.x_replica;
        let base = table + kind * n * n;
        var trace = 0.0;
        var alive = 0.0;
        for (var h = lid; h < n; h += WG) {
            let counts = varies(table, base, h);
            trace += select(0.0, x[base + h * n + h], counts);
            alive += select(0.0, 1.0, counts);
        }
        trace = workgroup_sum(trace, lid);
        alive = workgroup_sum(alive, lid);
        var cosines = 0.0;
        var squares = 0.0;
        for (var at = lid; at < n * n; at += WG) {
            let h = at / n;
            let g = at % n;
            let counts = varies(table, base, h) && varies(table, base, g);
            let share = select(0.0, ratio(x[base + at], trace), counts);
            squares += select(2.0, 1.0, h == g) * share * share;
            let size = sqrt(x[base + h * n + h]) * sqrt(x[base + g * n + g]);
            cosines += select(0.0, ratio(x[base + at], size), h < g && counts);
        }
        cosines = workgroup_sum(cosines, lid);
        squares = workgroup_sum(squares, lid);
        if (lid == 0u) {
            out[out_at + kind] = cosines / (count * (count - 1.0) / 2.0);
            out[out_at + 2u + kind] = select((1.0 / squares - 1.0) / (count - 1.0), UNKNOWN, alive < 2.0);
        }
    }
    var sum = 0.0;
    for (var h = lid; h < n; h += WG) { sum += entropy[wid.z * params.entropy_replica + h]; }
    let mean = workgroup_sum(sum, lid) / count;
    var squares = 0.0;
    for (var h = lid; h < n; h += WG) {
        let d = entropy[wid.z * params.entropy_replica + h] - mean;
        squares += d * d;
    }
    squares = workgroup_sum(squares, lid);
    if (lid == 0u) { out[out_at + 4u] = sqrt(squares / count); }
}
