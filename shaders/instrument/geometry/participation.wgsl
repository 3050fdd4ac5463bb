// participation: trace^2 / (sum of squares) of a symmetric matrix: (sum l)^2 / sum l^2 of its eigenvalues; 0 for zeros,
//          the trace itself where that is no finite number
// shapes   x [R, n, n]  out [R, 1]
// grid     [1, 1, R]
// numerics f32, in units of the mean of the diagonal
struct Params { n: u32, x_replica: u32, out_replica: u32 }
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn participation(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = params.n;
    let at = wid.z * params.x_replica;
    var trace = 0.0;
    for (var i = lid; i < n; i += WG) { trace += x[at + i * (n + 1u)]; }
    trace = workgroup_sum(trace, lid);
    let unit = f32(n) / max(trace, 1e-30);
    var squares = 0.0;
    for (var i = lid; i < n * n; i += WG) { squares += unit * x[at + i] * unit * x[at + i]; }
    squares = workgroup_sum(squares, lid);
    let ratio = f32(n) * f32(n) / max(squares, 1e-30) * select(0.0, 1.0, trace > 0.0);
    if (lid == 0u) { out[wid.z * params.out_replica] = select(trace, ratio, is_finite(trace)); }
}
