// clip_factor: what the gradient is multiplied by so that its norm is at most the limit; -1 where nothing shall move
// shapes   sums [R, blocks]: see square_sums  hyper [R, 16], whose factor is written  scale, inverse, used [R]
// grid     [1, 1, R]
// numerics f32, a tree of fixed shape
// knobs    GUARD: gradients were scaled, and where their norm is not finite nothing moves, and a step that would have
//          moved halves the scale; used is what it was before
struct Params { blocks: u32, sums_replica: u32, scale_replica: u32, used_replica: u32, moves: u32 }
const WG: u32 = 64u;
const OPTIMIZER: u32 = 2u;
#import reduce
#import numerics
#import hyper
@tensor var<storage, read> sums: array<f32>;
@tensor var<storage, read_write> hyper: array<Hyper>;
#if GUARD
@tensor var<storage, read_write> scale: array<f32>;
@tensor var<storage, read_write> inverse: array<f32>;
@tensor var<storage, read_write> used: array<f32>;
#endif
// With this scale no gradient overflows: what is not finite then is so of itself.
const SMALLEST: f32 = 5.9604645e-8;

@compute @workgroup_size(64)
fn clip_factor(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    var sum = 0.0;
    for (var b = lid; b < params.blocks; b += WG) { sum += sums[r * params.sums_replica + b]; }
    let squares = workgroup_sum(sum, lid);
    if (lid == 0u) {
        let limit = hyper[r].clip;
        var factor = select(1.0, min(limit / (sqrt(squares) + 1e-6), 1.0), limit > 0.0);
#if GUARD
        let at = r * params.scale_replica;
        used[r * params.used_replica] = scale[at];
        if (!is_finite(squares)) {
            factor = -1.0;
            if (params.moves != 0u) {
                scale[at] = max(scale[at] * 0.5, SMALLEST);
                inverse[at] = min(inverse[at] * 2.0, 1.0 / SMALLEST);
            }
        }
#endif
        hyper[r].factor = factor;
    }
}
