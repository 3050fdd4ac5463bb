// effect_paths: how much of a head's effect on the logit difference takes which way
// shapes   x, direct, frozen [R, I, 8], the first H rows are heads  clean [R, 8]  y [R, 4, H]: direct, mediated = total - direct,
//          by the final norm = total - frozen, self-repair = -mediated / direct
// grid     [ceil(H / 64), 1, R]
struct Params { heads: u32, x_replica: u32, direct_replica: u32, frozen_replica: u32, clean_replica: u32, y_replica: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> direct: array<f32>;
@tensor var<storage, read> frozen: array<f32>;
@tensor var<storage, read> clean: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn effect_paths(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let h = wid.x * 64u + lid;
    if (h >= params.heads) { return; }
    let r = wid.z;
    let before = clean[r * params.clean_replica + 1u];
    let total = x[r * params.x_replica + h * 8u + 1u];
    let straight = direct[r * params.direct_replica + h * 8u + 1u] - before;
    let mediated = total - before - straight;
    let place = r * params.y_replica + h;
    y[place] = straight;
    y[place + params.heads] = mediated;
    y[place + 2u * params.heads] = total - frozen[r * params.frozen_replica + h * 8u + 1u];
    y[place + 3u * params.heads] = select(-mediated / straight, 0.0, straight == 0.0);
}
