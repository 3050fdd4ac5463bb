// group_sum: out[b, t, g, :] = sum over the query heads h of group g of per_head[b, t, h, :]
// shapes   per_head [R, B, T, H, K]  out [R, B, T, G, K]
// grid     ceil(B T G K / 64) groups folded into x and y, R
// numerics f32, serial over heads; strides are passed as z_replica and dk_replica
#import attention
@tensor var<storage, read> per_head: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn group_sum(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.batch * params.keys * params.groups * params.width) { return; }
    let x = at % params.width;
    let g = at / params.width % params.groups;
    let token = at / (params.width * params.groups);
    let group = params.heads / params.groups;
    var sum = 0.0;
    for (var h = g * group; h < (g + 1u) * group; h++) {
        sum += per_head[wid.z * params.z_replica + (token * params.heads + h) * params.width + x];
    }
    out[wid.z * params.dk_replica + at] = sum;
}
