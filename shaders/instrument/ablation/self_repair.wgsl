// self_repair: how much of a head's direct effect the rest of the model makes up for, -mediated / direct
// shapes   mediated, direct [R, 16 H + 1] contrasts: H numbers of each of 8 columns, then H standard errors of each
//          y [R, H], UNKNOWN where the direct effect is not beyond two of its errors, or has none
// grid     [ceil(H / 64), 1, R]
struct Params { heads: u32, column: u32, mediated_replica: u32, direct_replica: u32, y_replica: u32 }
#import numerics
@tensor var<storage, read> mediated: array<f32>;
@tensor var<storage, read> direct: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn self_repair(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let h = wid.x * 64u + lid;
    if (h >= params.heads) { return; }
    let place = params.column * params.heads + h;
    let straight = direct[wid.z * params.direct_replica + place];
    let error = direct[wid.z * params.direct_replica + 8u * params.heads + place];
    let repair = -mediated[wid.z * params.mediated_replica + place] / straight;
    let known = is_finite(error) && abs(straight) > 2.0 * error;
    // What diverged stays what it is.
    y[wid.z * params.y_replica + h] = select(UNKNOWN, repair, known || !is_finite(straight));
}
