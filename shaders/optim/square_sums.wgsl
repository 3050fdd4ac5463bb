// square_sums: sums[b] = sum of g^2 over block b
// shapes   grads [R, P]  blocks [n, 4]: first element, length in whole vectors, decays, length  sums [R, n]
//          of grads what is bound begins with element `base`
// grid     groups for the blocks from `first` to `blocks`, folded into x and y, R
// numerics f32, tree of fixed shape
struct Params { first: u32, blocks: u32, base: u32, x_replica: u32, sums_replica: u32 }
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> grads: array<vec4<f32>>;
@tensor var<storage, read> blocks: array<vec4<u32>>;
@tensor var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(64)
fn square_sums(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = params.first + wid.y * groups.x + wid.x;
    let block = blocks[min(group, params.blocks - 1u)];
    var sum = 0.0;
    for (var i = lid; i < block.y / 4u; i += WG) {
        let g = grads[wid.z * params.x_replica + (block.x - params.base) / 4u + i];
        sum += dot(g, g);
    }
    sum = workgroup_sum(sum, lid);
    if (lid == 0u && group < params.blocks) { sums[wid.z * params.sums_replica + group] = sum; }
}
