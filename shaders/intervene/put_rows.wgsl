// put_rows: x[row, j] = turned[row, j], in place; with a dose of 0 nothing is written
// shapes   x [R, P]  doses [R, S]  rows [R, n, 4] and turned [R, n, K]: see rotate
// grid     ceil(n K / 64) groups folded into x and y, R
struct Params {
    rows: u32, width: u32, x_replica: u32, doses_replica: u32, rows_replica: u32, matrices_replica: u32, out_replica: u32,
}
@tensor var<storage, read_write> x: array<f32>;
@tensor var<storage, read> doses: array<f32>;
@tensor var<storage, read> rows: array<vec4<u32>>;
@tensor var<storage, read> turned: array<f32>;

@compute @workgroup_size(64)
fn put_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    let r = wid.z;
    if (at >= params.rows * params.width) { return; }
    let row = rows[r * params.rows_replica + at / params.width];
    if (doses[r * params.doses_replica + row.w] == 0.0) { return; }
    x[r * params.x_replica + row.x + at % params.width * row.y] = turned[r * params.out_replica + at];
}
