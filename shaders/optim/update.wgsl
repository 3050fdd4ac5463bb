// update: one step of the optimizer over all parameters, and what tensor_summary makes its numbers of
//   AdamW  w <- w (1 - rate decay) - size m / (sqrt(v) root + eps), m and v running means of g and g^2
//   Adam   the same with decay w added to g instead;  SGD  m <- beta1 m + g + decay w, w <- w - rate m
//   sums   w^2, g^2, (next - w)^2, w push, push^2, g (next - w), how many sqrt(v) root lie below eps, w (next - w);
//          push is what the gradient contributes where decay acts beside it: -rate g, for AdamW the step without decay
// shapes   weights, grads, first, second [R, P]  hyper [R, 16]  clock [2]: this step's number; the next one's, written
//          here  blocks [n, 4]: first element, length in whole vectors, decays, length  sums [R, n, 8]
//          of all that is [R, P] what is bound begins with element `base`
// grid     groups for the blocks from `first` to `blocks`, folded into x and y, R
// numerics f32, a tree of fixed shape; next - w is the rounded difference; its product with w is summed itself, because
//          |next|^2 - |w|^2 would keep no digits of it
// knobs    OPTIMIZER: 0 AdamW, 1 Adam, 2 SGD
struct Params {
    first: u32, blocks: u32, base: u32, weights_replica: u32, grads_replica: u32, moments_replica: u32,
    sums_replica: u32, moves: u32,
}
const WG: u32 = 64u;
#import reduce_eight
#import numerics
#import hyper
@tensor var<storage, read_write> weights: array<vec4<f32>>;
@tensor var<storage, read> grads: array<vec4<f32>>;
@tensor var<storage, read_write> first: array<vec4<f32>>;
@tensor var<storage, read_write> second: array<vec4<f32>>;
@tensor var<storage, read> hyper: array<Hyper>;
@tensor var<storage, read_write> clock: array<u32>;
@tensor var<storage, read> blocks: array<vec4<u32>>;
@tensor var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(64)
fn update(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = params.first + wid.y * groups.x + wid.x;
    let r = wid.z;
    let h = hyper[r];
    let step_number = clock[0];
    let of_step = rates(h, f32(step_number));
    let rate = of_step.rate;
    let size = of_step.size;
    let root = of_step.root;
    // Nobody reads the next number before the step is filed.
    if (group == 0u && r == 0u && lid == 0u) { clock[1] = step_number + params.moves; }
    let moves = params.moves != 0u && h.factor >= 0.0 && group < params.blocks;
    let block = blocks[min(group, params.blocks - 1u)];
    let decay = select(0.0, h.weight_decay, block.z != 0u);
    var squares = vec3<f32>(0.0);
    var forces = vec4<f32>(0.0);
    var tiny = 0.0;
    for (var i = lid; i < block.y / 4u; i += WG) {
        let at = (block.x - params.base) / 4u + i;
        let w = weights[r * params.weights_replica + at];
        let gradient = grads[r * params.grads_replica + at];
        squares += vec3<f32>(dot(w, w), dot(gradient, gradient), 0.0);
        if (moves) {
            let m_at = r * params.moments_replica + at;
            var g = gradient * h.factor;
            var push = -rate * g;
            if (OPTIMIZER != 0u) { g += decay * w; }
            var next = w;
            if (OPTIMIZER == 2u) {
                let m = h.beta1 * first[m_at] + g;
                first[m_at] = m;
                next -= rate * m;
            } else {
                let m = h.beta1 * first[m_at] + h.one_minus_beta1 * g;
                let v = h.beta2 * second[m_at] + h.one_minus_beta2 * g * g;
                first[m_at] = m;
                second[m_at] = v;
                let typical = sqrt(v) * root;
                let step = size * m / (typical + h.eps);
                if (OPTIMIZER == 0u) {
                    next *= 1.0 - rate * decay;
                    push = -step;
                }
                next -= step;
                // The last vector may reach into the gap behind the tensor.
                let inside = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(block.w);
                tiny += dot(select(vec4<f32>(0.0), vec4<f32>(1.0), inside & (typical < vec4<f32>(h.eps))), vec4<f32>(1.0));
            }
            weights[r * params.weights_replica + at] = next;
            let delta = next - w;
            squares.z += dot(delta, delta);
            forces += vec4<f32>(dot(w, push), dot(push, push), dot(gradient, delta), dot(w, delta));
        }
    }
    let total = workgroup_sums(Eight(vec4<f32>(squares, forces.x), vec4<f32>(forces.yz, tiny, forces.w)), lid);
    if (lid == 0u && group < params.blocks) {
        let at = r * params.sums_replica / 4u + group * 2u;
        sums[at] = total.low;
        sums[at + 1u] = total.high;
    }
}
