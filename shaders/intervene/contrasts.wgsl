// contrasts: what interventions change in the mean over predictions, and the standard error of that over examples
// shapes   x [R, I, E, 8], against [R, J, E, 8]: sums over the predictions of each example  term, factor [I, F]
//          targets [R, E T]  count [R]  y [R, 16 I + 1]: for 8 measures by I, mean of u = x + sum over f of factor times
//          against[term]; the same for its standard error; how many examples have predictions that count
// grid     [I, 1, R]
// numerics f32, serial in a lane, then a tree of fixed shape; two passes. Examples with n_e of N predictions:
//          E/(E - 1) sum over e of (u_e - n_e mean)^2 / N^2, and no less than rounding: 2^-22 of the mean size of what is added
//          up, squared. Of one example it is UNKNOWN
struct Params {
    interventions: u32, examples: u32, predictions: u32, terms: u32,
    x_replica: u32, against_replica: u32, target_replica: u32, count_replica: u32, y_replica: u32,
}
const WG: u32 = 64u;
const ROUNDED: f32 = 2.3841858e-7; // 2^-22
const IGNORE: u32 = 0xffffffffu;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> against: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read> term: array<u32>;
@tensor var<storage, read> factor: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

// Of one example: the contrast, and the sizes of its terms.
fn contrast(r: u32, i: u32, e: u32, c: u32) -> vec2<f32> {
    let own = x[r * params.x_replica + (i * params.examples + e) * 8u + c];
    var sum = vec2<f32>(own, abs(own));
    for (var f = 0u; f < params.terms; f++) {
        let place = r * params.against_replica + (term[i * params.terms + f] * params.examples + e) * 8u + c;
        let part = factor[i * params.terms + f] * against[place];
        sum += vec2<f32>(part, abs(part));
    }
    return sum;
}

fn counted(r: u32, e: u32) -> f32 {
    var n = 0.0;
    let place = r * params.target_replica + e * params.predictions;
    for (var t = 0u; t < params.predictions; t++) { n += select(0.0, 1.0, targets[place + t] != IGNORE); }
    return n;
}

@compute @workgroup_size(64)
fn contrasts(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let i = wid.x;
    let total = count[r * params.count_replica];
    let place = r * params.y_replica + i;
    var own = 0.0;
    for (var e = lid; e < params.examples; e += WG) { own += select(0.0, 1.0, counted(r, e) > 0.0); }
    let examples = workgroup_sum(own, lid);
    for (var c = 0u; c < 8u; c++) {
        var sum = vec2<f32>(0.0, 0.0);
        for (var e = lid; e < params.examples; e += WG) { sum += contrast(r, i, e, c); }
        let mean = workgroup_sum(sum.x, lid) / total;
        let rounding = ROUNDED * workgroup_sum(sum.y, lid) / total;
        var squares = 0.0;
        for (var e = lid; e < params.examples; e += WG) {
            let apart = contrast(r, i, e, c).x - counted(r, e) * mean;
            squares += apart * apart;
        }
        squares = workgroup_sum(squares, lid) / (total * total);
        let error = sqrt(squares * examples / max(examples - 1.0, 1.0) + rounding * rounding);
        if (lid == 0u) {
            y[place + c * params.interventions] = mean;
            y[place + (8u + c) * params.interventions] = select(UNKNOWN, error, examples > 1.0);
        }
    }
    if (lid == 0u && i == 0u) { y[r * params.y_replica + 16u * params.interventions] = examples; }
}
