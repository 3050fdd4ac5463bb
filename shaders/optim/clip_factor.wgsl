// clip_factor: what the gradient is multiplied by so that its norm is at most the limit
// shapes   sums [R, blocks]: see square_sums  hyper [R, 15], whose factor is written
// grid     [1, 1, R]
// numerics f32, a tree of fixed shape
struct Params { blocks: u32, sums_replica: u32 }
const WG: u32 = 64u;
const OPTIMIZER: u32 = 2u;
#import reduce
#import numerics
#import hyper
@tensor var<storage, read> sums: array<f32>;
@tensor var<storage, read_write> hyper: array<Hyper>;

@compute @workgroup_size(64)
fn clip_factor(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    var sum = 0.0;
    for (var b = lid; b < params.blocks; b += WG) { sum += sums[r * params.sums_replica + b]; }
    let norm = sqrt(workgroup_sum(sum, lid));
    if (lid == 0u) {
        let limit = hyper[r].clip;
        hyper[r].factor = select(1.0, min(limit / (norm + 1e-6), 1.0), limit > 0.0);
    }
}
