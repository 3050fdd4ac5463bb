// composition: y[g, h] = |W_h W_g| / (|W_h| |W_g|) - baseline, Frobenius norms, from small products:
//   |W_h W_g|^2 = sum of m q,  |W_h|^2 = sum of v o,  |W_g|^2 = sum of a b
// shapes   m [R, H, K, H, K]: writer h, reader g  q [R, K, H, H, K]  v [R, K, H, K]  o, a, b [R, H, K, K]  y [R, H, H]
// grid     [H, H, R]: reader, writer
// numerics f32, trees of fixed shape; a sum that rounding left below 0 is 0; unknown where the norms' product is below 1e-18
struct Params {
    heads: u32, width: u32, baseline: f32, m_replica: u32, q_replica: u32, v_replica: u32, o_replica: u32, a_replica: u32,
    b_replica: u32, y_replica: u32,
}
const WG: u32 = 64u;
#import reduce
#import numerics
@tensor var<storage, read> m: array<f32>;
@tensor var<storage, read> q: array<f32>;
@tensor var<storage, read> v: array<f32>;
@tensor var<storage, read> o: array<f32>;
@tensor var<storage, read> a: array<f32>;
@tensor var<storage, read> b: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

// Not x > 0: what is no number must show.
fn root(x: f32) -> f32 { return sqrt(select(x, 0.0, x < 0.0)); }

@compute @workgroup_size(64)
fn composition(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let g = wid.x;
    let h = wid.y;
    let r = wid.z;
    let n = params.width;
    var both = 0.0;
    var writer = 0.0;
    var reader = 0.0;
    for (var at = lid; at < n * n; at += WG) {
        let i = at / n;
        let j = at % n;
        both += m[r * params.m_replica + ((h * n + i) * params.heads + g) * n + j]
            * q[r * params.q_replica + ((i * params.heads + h) * params.heads + g) * n + j];
        writer += v[r * params.v_replica + (i * params.heads + h) * n + j] * o[r * params.o_replica + h * n * n + at];
        reader += a[r * params.a_replica + g * n * n + at] * b[r * params.b_replica + g * n * n + at];
    }
    both = workgroup_sum(both, lid);
    writer = workgroup_sum(writer, lid);
    reader = workgroup_sum(reader, lid);
    if (lid == 0u) {
        let size = root(writer) * root(reader);
        y[r * params.y_replica + g * params.heads + h] = select(root(both) / size - params.baseline, UNKNOWN, size < 1e-18);
    }
}
