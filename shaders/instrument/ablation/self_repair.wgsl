// self_repair: how much of a head's direct effect the rest of the model makes up for, -mediated / direct
// shapes   mediated, direct [R, 16 H + 1] contrasts: H numbers of each column  y [R, H], 0 where nothing is direct
// grid     [ceil(H / 64), 1, R]
struct Params { heads: u32, column: u32, mediated_replica: u32, direct_replica: u32, y_replica: u32 }
@tensor var<storage, read> mediated: array<f32>;
@tensor var<storage, read> direct: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn self_repair(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let h = wid.x * 64u + lid;
    if (h >= params.heads) { return; }
    let place = params.column * params.heads + h;
    let straight = direct[wid.z * params.direct_replica + place];
    let repair = -mediated[wid.z * params.mediated_replica + place] / straight;
    y[wid.z * params.y_replica + h] = select(repair, 0.0, straight == 0.0);
}
