// tensor_norms: out[t] = root of the sum of one column over the blocks of tensor t
// shapes   sums [R, n, 3]  tensors [T, 2]: first block, number of blocks  out [R, T]
// grid     T groups folded into x and y, R
// numerics f32, tree of fixed shape
struct Params { tensors: u32, column: u32, sums_replica: u32, out_replica: u32 }
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> sums: array<f32>;
@tensor var<storage, read> tensors: array<vec2<u32>>;
@tensor var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn tensor_norms(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.y * groups.x + wid.x;
    let tensor = tensors[min(group, params.tensors - 1u)];
    var sum = 0.0;
    for (var b = lid; b < tensor.y; b += WG) {
        sum += sums[wid.z * params.sums_replica + (tensor.x + b) * 3u + params.column];
    }
    sum = workgroup_sum(sum, lid);
    if (lid == 0u && group < params.tensors) { out[wid.z * params.out_replica + group] = sqrt(sum); }
}
