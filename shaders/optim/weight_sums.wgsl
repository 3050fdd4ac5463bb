// weight_sums: sums[b, 0] = sum of w^2 over block b, with the bits that update gives it; sums[b, 1..] = 0
// shapes   weights [R, P]  blocks [n, 4]: first element, length in whole vectors, decays, length  sums [R, n, 8]
//          of weights what is bound begins with element `base`
// grid     groups for the blocks from `first` to `blocks`, folded into x and y, R
// numerics f32, the tree of update
struct Params { first: u32, blocks: u32, base: u32, x_replica: u32, sums_replica: u32 }
const WG: u32 = 64u;
#import reduce_eight
@tensor var<storage, read> weights: array<vec4<f32>>;
@tensor var<storage, read> blocks: array<vec4<u32>>;
@tensor var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(64)
fn weight_sums(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = params.first + wid.y * groups.x + wid.x;
    let block = blocks[min(group, params.blocks - 1u)];
    var sum = 0.0;
    for (var i = lid; i < block.y / 4u; i += WG) {
        let w = weights[wid.z * params.x_replica + (block.x - params.base) / 4u + i];
        sum += dot(w, w);
    }
    let total = workgroup_sums(Eight(vec4<f32>(sum, 0.0, 0.0, 0.0), vec4<f32>(0.0)), lid);
    if (lid == 0u && group < params.blocks) {
        let at = wid.z * params.sums_replica / 4u + group * 2u;
        sums[at] = total.low;
        sums[at + 1u] = total.high;
    }
}
