// gate: y = (1 - dose) x + dose base, by groups of neighbouring elements; where the dose is 0, x with all its bits
// shapes   x, y [R, n], of which element i belongs to group i / inner mod G  dose [R, G]  base [R, m], repeated along x
// grid     ceil(n / 64) groups folded into x and y, R
// knobs    BASE: there is a base; else it is 0
struct Params {
    n: u32, inner: u32, groups: u32, repeat: u32, x_replica: u32, dose_replica: u32, base_replica: u32, y_replica: u32,
}
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> dose: array<f32>;
#if BASE
@tensor var<storage, read> base: array<f32>;
#endif
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn gate(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i >= params.n) { return; }
    let d = dose[wid.z * params.dose_replica + i / params.inner % params.groups];
    let value = x[wid.z * params.x_replica + i];
    var changed = (1.0 - d) * value;
#if BASE
    changed += d * base[wid.z * params.base_replica + i % params.repeat];
#endif
    y[wid.z * params.y_replica + i] = select(changed, value, d == 0.0);
}
