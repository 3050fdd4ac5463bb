// file_row: the step's end: ring[step mod slots, :] = row, step, replay; and the clock goes on
// shapes   row [len]  ring [slots, len + 2]: what was measured, as the bits it has, then by which step and in which replay
//          clock [3]: this step's number, written here; the next one's; replays so far, this one not
// grid     ceil(len / 64) groups folded into x and y, 1
// numerics the number of the step filed is the next one's less `moves`; of the words that are written here, one invocation
//          reads one, and nobody the other
struct Params { len: u32, slots: u32, moves: u32 }
@tensor var<storage, read> row: array<u32>;
@tensor var<storage, read_write> ring: array<u32>;
@tensor var<storage, read_write> clock: array<u32>;

@compute @workgroup_size(64)
fn file_row(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    let next = clock[1];
    let step = next - params.moves;
    let first = step % params.slots * (params.len + 2u);
    if (i < params.len) { ring[first + i] = row[i]; }
    if (i == 0u) {
        let replay = clock[2];
        ring[first + params.len] = step;
        ring[first + params.len + 1u] = replay;
        clock[0] = next;
        clock[2] = replay + 1u;
    }
}
