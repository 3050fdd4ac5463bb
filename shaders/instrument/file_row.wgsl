// file_row: the step's end: ring[step mod slots, :] = row, and the clock goes on
// shapes   row [len]  ring [slots, len]  clock [2]: this step's number, written here; the next one's
// grid     ceil(len / 64) groups folded into x and y, 1
// numerics the number of the step filed is the next one's less `moves`: nobody reads the word that is written
struct Params { len: u32, slots: u32, moves: u32 }
@tensor var<storage, read> row: array<f32>;
@tensor var<storage, read_write> ring: array<f32>;
@tensor var<storage, read_write> clock: array<u32>;

@compute @workgroup_size(64)
fn file_row(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    let next = clock[1];
    if (i < params.len) { ring[(next - params.moves) % params.slots * params.len + i] = row[i]; }
    if (i == 0u) { clock[0] = next; }
}
