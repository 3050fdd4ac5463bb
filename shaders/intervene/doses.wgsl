// doses: what is done at this step: dose[s] = sum of the amounts of slot s whose window, from <= step < until, holds it
// shapes   windows [R, n, 4]: from, until, amount as bits of f32, slot  clock [3]: this step's number first  out [R, S]
// grid     ceil(S / 64), 1, R
// numerics f32, in the order of the windows; a slot none of whose windows holds the step is 0
struct Params { windows: u32, slots: u32, windows_replica: u32, out_replica: u32 }
@tensor var<storage, read> windows: array<vec4<u32>>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn doses(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let slot = wid.x * 64u + lid;
    if (slot >= params.slots) { return; }
    let step = clock[0];
    var dose = 0.0;
    for (var at = 0u; at < params.windows; at++) {
        let window = windows[wid.z * params.windows_replica + at];
        if (window.w == slot && step >= window.x && step < window.y) { dose += bitcast<f32>(window.z); }
    }
    out[wid.z * params.out_replica + slot] = dose;
}
