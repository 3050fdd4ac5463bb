// file_row: ring[clock mod slots, :] = row
// shapes   row [len]  ring [slots, len]  clock [1]
// grid     ceil(len / 64) groups folded into x and y, 1
struct Params { len: u32, slots: u32 }
@tensor var<storage, read> row: array<f32>;
@tensor var<storage, read_write> ring: array<f32>;
@tensor var<storage, read> clock: array<u32>;

@compute @workgroup_size(64)
fn file_row(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i < params.len) { ring[clock[0] % params.slots * params.len + i] = row[i]; }
}
