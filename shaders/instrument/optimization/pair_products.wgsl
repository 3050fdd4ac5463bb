// pair_products: y[i, j] = sum over positions t, u of s[i t, j u] w[i t, j u]: inner products of the gradients of two examples.
//          Of the Tw positions of w the last T are meant
// shapes   s [R, N T, N T]  w [R, N Tw, N Tw]  y [R, N, N]
// grid     ceil(N N / 64) groups folded into x and y, R
struct Params { n: u32, seq: u32, beside_seq: u32, s_replica: u32, w_replica: u32, y_replica: u32 }
@tensor var<storage, read> s: array<f32>;
@tensor var<storage, read> w: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn pair_products(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.n * params.n) { return; }
    let i = at / params.n;
    let j = at % params.n;
    let skipped = params.beside_seq - params.seq;
    var sum = 0.0;
    for (var t = 0u; t < params.seq; t++) {
        let row = wid.z * params.s_replica + (i * params.seq + t) * params.n * params.seq + j * params.seq;
        let beside = wid.z * params.w_replica + (i * params.beside_seq + skipped + t) * params.n * params.beside_seq
            + j * params.beside_seq + skipped;
        for (var u = 0u; u < params.seq; u++) { sum += s[row + u] * w[beside + u]; }
    }
    y[wid.z * params.y_replica + at] = sum;
}
