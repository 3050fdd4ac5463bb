// tensor_summary: norms and pressures of tensor t from the sums of its blocks
//   out      |w|, |g|, |dw|, |dw| / |w|, step / sqrt(elements), decay / (decay + |push|), -(w push) / (|w| |push|),
//            g dw, share of roots below eps, (w dw) / |w|^2, (w push) / |w|^2, |step at right angles to w| / |w|;
//            decay = rate weight_decay |w|, step = push where decoupled, which has dw's right angle, else dw
// shapes   sums [R, n, 8]: see update  tensors [T, 4]: first block, number of blocks, elements, decays
//          hyper [R, 16]  clock [2]  out [R, T, 12]
// grid     T groups folded into x and y, R
// numerics f32, a tree of fixed shape; 0 / 0 = 0; a right angle is the root of a difference, so below 1e-3 of the step unknown
struct Params { tensors: u32, decoupled: u32, sums_replica: u32, out_replica: u32 }
const WG: u32 = 64u;
// The learning rate does not depend on it.
const OPTIMIZER: u32 = 2u;
#import reduce_eight
#import numerics
#import hyper
@tensor var<storage, read> sums: array<vec4<f32>>;
@tensor var<storage, read> tensors: array<vec4<u32>>;
@tensor var<storage, read> hyper: array<Hyper>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read_write> out: array<f32>;

fn share(part: f32, whole: f32) -> f32 { return select(part / whole, 0.0, whole == 0.0); }

@compute @workgroup_size(64)
fn tensor_summary(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.y * groups.x + wid.x;
    let r = wid.z;
    let tensor = tensors[min(group, params.tensors - 1u)];
    var sum = Eight();
    for (var b = lid; b < tensor.y; b += WG) {
        let at = r * params.sums_replica / 4u + (tensor.x + b) * 2u;
        sum = Eight(sum.low + sums[at], sum.high + sums[at + 1u]);
    }
    sum = workgroup_sums(sum, lid);
    if (lid == 0u && group < params.tensors) {
        let w = sqrt(sum.low.x);
        let g = sqrt(sum.low.y);
        let change = sqrt(sum.low.z);
        let w_push = sum.low.w;
        let push = sqrt(sum.high.x);
        let work = sum.high.y;
        let tiny = sum.high.z;
        let w_change = sum.high.w;
        let rate = rates(hyper[r], f32(clock[0])).rate;
        // A step that was skipped decays nothing either.
        let decays = tensor.w != 0u && hyper[r].factor >= 0.0;
        let decay = rate * select(0.0, hyper[r].weight_decay, decays) * w;
        let elements = f32(tensor.z);
        let decoupled = params.decoupled == 1u;
        let step = select(change, push, decoupled);
        let along = share(select(w_change, w_push, decoupled), w);
        let at = r * params.out_replica + group * 12u;
        out[at] = w;
        out[at + 1u] = g;
        out[at + 2u] = change;
        out[at + 3u] = share(change, w);
        out[at + 4u] = step / sqrt(elements);
        out[at + 5u] = share(decay, decay + push);
        out[at + 6u] = share(-w_push, w * push);
        out[at + 7u] = work;
        out[at + 8u] = tiny / elements;
        out[at + 9u] = share(share(w_change, w), w);
        out[at + 10u] = share(share(w_push, w), w);
        // Not less: what is no number must show.
        let square = step * step - along * along;
        out[at + 11u] = select(share(sqrt(square), w), UNKNOWN, square < 1e-6 * step * step);
    }
}
