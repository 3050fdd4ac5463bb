// rotate: rows of parameters turned: out[row, j] = sum over i of x[row, i] Q[i, j]; put_rows puts them back
// shapes   x [R, P]  doses [R, S]  rows [R, n, 4]: first element, elements from one to the next, first of Q, slot of the dose
//          matrices [R, m], of which each Q is [K, K]  out [R, n, K], written where the dose is not 0
// grid     ceil(n K / 64) groups folded into x and y, R
// numerics f32, serial over i
struct Params {
    rows: u32, width: u32, x_replica: u32, doses_replica: u32, rows_replica: u32, matrices_replica: u32, out_replica: u32,
}
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> doses: array<f32>;
@tensor var<storage, read> rows: array<vec4<u32>>;
@tensor var<storage, read> matrices: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn rotate(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    let r = wid.z;
    if (at >= params.rows * params.width) { return; }
    let row = rows[r * params.rows_replica + at / params.width];
    if (doses[r * params.doses_replica + row.w] == 0.0) { return; }
    var sum = 0.0;
    for (var i = 0u; i < params.width; i++) {
        let q = matrices[r * params.matrices_replica + row.z + i * params.width + at % params.width];
        sum += x[r * params.x_replica + row.x + i * row.y] * q;
    }
    out[r * params.out_replica + at] = sum;
}
