// interactions: y[c, ij] = x_ij - x_i - x_j + clean for every pair of heads i < j, loss then logit difference
// shapes   pairs [R, H (H - 1) / 2, 8]  x [R, I, 8], the first H rows are heads  clean [R, 8]  y [R, 2, H (H - 1) / 2]
// grid     [ceil(H H / 64), 1, R]
struct Params { heads: u32, pairs_replica: u32, x_replica: u32, clean_replica: u32, y_replica: u32 }
@tensor var<storage, read> pairs: array<f32>;
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> clean: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn interactions(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = wid.x * 64u + lid;
    let i = at / params.heads;
    let j = at % params.heads;
    if (i >= j || j >= params.heads) { return; }
    let r = wid.z;
    let pair = i * params.heads - i * (i + 1u) / 2u + j - i - 1u;
    let count = params.heads * (params.heads - 1u) / 2u;
    for (var c = 0u; c < 2u; c++) {
        let x_at = r * params.x_replica + c;
        y[r * params.y_replica + c * count + pair] = pairs[r * params.pairs_replica + pair * 8u + c]
            - x[x_at + i * 8u] - x[x_at + j * 8u] + clean[r * params.clean_replica + c];
    }
}
