// coefficients: what the step means for each replica: learning rate, step size, root of the second
// moment's correction, factor of the gradient, whether anything moves, what the loss was scaled by
// shapes   hyper [R, 14]  clock [1]  out [R, 6]  sums [R, blocks]  scale, inverse [R]
// grid     [1, 1, R]
// numerics 1 - beta^t as -expm1(t ln beta)
// knobs    OPTIMIZER: 0 AdamW, 1 Adam, 2 SGD; NORM: the gradient's norm is known, and limited where hyper says so;
//          GUARD: the loss was scaled, and where the norm is not finite nothing moves and the scale is halved
struct Params { blocks: u32, sums_replica: u32, out_replica: u32, scale_replica: u32, moves: f32 }
const WG: u32 = 64u;
#import reduce
#import numerics
#import hyper
@tensor var<storage, read> hyper: array<Hyper>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read_write> out: array<f32>;
#if NORM
@tensor var<storage, read> sums: array<f32>;
fn square_sum(r: u32, lid: u32) -> f32 {
    var sum = 0.0;
    for (var b = lid; b < params.blocks; b += WG) { sum += sums[r * params.sums_replica + b]; }
    return workgroup_sum(sum, lid);
}
#else
fn square_sum(r: u32, lid: u32) -> f32 { return 0.0; }
#endif
#if GUARD
@tensor var<storage, read_write> scale: array<f32>;
@tensor var<storage, read_write> inverse: array<f32>;
#endif
// A scale no gradient overflows with: what is not finite then is so of itself.
const SMALLEST: f32 = 5.9604645e-8;

@compute @workgroup_size(64)
fn coefficients(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let squares = square_sum(r, lid);
    let norm = sqrt(squares);
    if (lid != 0u) { return; }
    let h = hyper[r];
    let step = f32(clock[0]);
    var rate = h.learning_rate;
    if (h.warmup > 0.0) { rate *= min(step / h.warmup, 1.0); }
    if (h.cosine == 1.0) {
        let share = clamp((step - h.warmup) / max(h.total - h.warmup, 1.0), 0.0, 1.0);
        rate *= h.floor + (1.0 - h.floor) * 0.5 * (1.0 + cos(3.14159265 * share));
    }
    var size = rate;
    var root = 1.0;
    if (OPTIMIZER != 2u) {
        size = rate / -expm1((step + 1.0) * h.ln_beta1);
        root = inverseSqrt(-expm1((step + 1.0) * h.ln_beta2));
    }
    var factor = 1.0;
    if (NORM == 1u && h.clip > 0.0) { factor = min(h.clip / (norm + 1e-6), 1.0); }
    let at = r * params.out_replica;
    out[at] = rate;
    out[at + 1u] = size;
    out[at + 2u] = root;
    out[at + 3u] = factor;
    var moves = params.moves;
    var used = 1.0;
#if GUARD
    let place = r * params.scale_replica;
    used = scale[place];
    if (!is_finite(squares)) {
        if (moves != 0.0) {
            scale[place] = max(used * 0.5, SMALLEST);
            inverse[place] = min(inverse[place] * 2.0, 1.0 / SMALLEST);
        }
        moves = 0.0;
    }
#endif
    out[at + 4u] = moves;
    out[at + 5u] = used;
}
