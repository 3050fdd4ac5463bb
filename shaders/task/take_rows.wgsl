// take_rows: y[b, :] = table[ids[b], :], of integers
// shapes   table [R, E, W]  ids [R, B]; either may be shared  y [R, B, W]
// grid     ceil(B W / 64) groups folded into x and y, R
struct Params { n: u32, width: u32, last: u32, table_replica: u32, ids_replica: u32, y_replica: u32 }
@tensor var<storage, read> table: array<u32>;
@tensor var<storage, read> ids: array<u32>;
@tensor var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn take_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.n) { return; }
    let id = min(ids[wid.z * params.ids_replica + at / params.width], params.last);
    y[wid.z * params.y_replica + at] = table[wid.z * params.table_replica + id * params.width + at % params.width];
}
