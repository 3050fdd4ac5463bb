// effects: y[c, i] = x[i, c] - clean[c], by measure instead of by intervention; unknown where one of them is
// shapes   x [R, I, C]  clean [R, C]  y [R, C, I]
// grid     ceil(C I / 64) groups folded into x and y, R
struct Params { rows: u32, columns: u32, x_replica: u32, clean_replica: u32, y_replica: u32 }
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> clean: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn effects(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.rows * params.columns) { return; }
    let c = at / params.rows;
    let i = at % params.rows;
    let after = x[wid.z * params.x_replica + i * params.columns + c];
    let before = clean[wid.z * params.clean_replica + c];
    y[wid.z * params.y_replica + at] = select(after - before, UNKNOWN, after == UNKNOWN || before == UNKNOWN);
}
