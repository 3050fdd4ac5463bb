// rotate: rows of parameters turned in place: x[j] <- sum over i of x[i] Q[i, j]; with a dose of 0 nothing is written
// shapes   x [R, P]  doses [R, S]  rows [R, n, 4]: first element, elements from one to the next, first of Q, slot of the dose
//          matrices [R, m], of which each Q is [K, K]
// grid     a group for each row, folded into x and y, R
// numerics f32, serial over i; rows of up to 1024 elements
struct Params {
    rows: u32, width: u32, x_replica: u32, doses_replica: u32, rows_replica: u32, matrices_replica: u32,
}
const WG: u32 = 64u;
@tensor var<storage, read_write> x: array<f32>;
@tensor var<storage, read> doses: array<f32>;
@tensor var<storage, read> rows: array<vec4<u32>>;
@tensor var<storage, read> matrices: array<f32>;

var<workgroup> before: array<f32, 1024>;

@compute @workgroup_size(64)
fn rotate(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.y * groups.x + wid.x;
    let r = wid.z;
    let row = rows[r * params.rows_replica + min(group, params.rows - 1u)];
    let turns = doses[r * params.doses_replica + row.w] != 0.0 && group < params.rows;
    let width = select(0u, params.width, turns);
    for (var i = lid; i < width; i += WG) { before[i] = x[r * params.x_replica + row.x + i * row.y]; }
    workgroupBarrier();
    for (var j = lid; j < width; j += WG) {
        var sum = 0.0;
        for (var i = 0u; i < params.width; i++) {
            sum += before[i] * matrices[r * params.matrices_replica + row.z + i * params.width + j];
        }
        x[r * params.x_replica + row.x + j * row.y] = sum;
    }
}
