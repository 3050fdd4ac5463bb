// alignments: cosines of pairs (s, t), s < t, of S of 2 S matrices, from their inner products, ordered by t and then s; and
//          behind them those of s with S + t. UNKNOWN where one of the pair is 0
// shapes   products [R, 2 S, 2 S], upper triangle  out [R, 2, pairs]
// grid     ceil(pairs / 64), R on z
struct Params { count: u32, pairs: u32, products_replica: u32, out_replica: u32 }
#import numerics
@tensor var<storage, read> products: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

fn cosine(product: f32, a: f32, b: f32) -> f32 {
    let cosine = clamp(product / max(sqrt(a) * sqrt(b), 1e-38), -1.0, 1.0);
    let whole = a + b;
    return select(whole, select(UNKNOWN, cosine, a > 0.0 && b > 0.0), is_finite(whole));
}

@compute @workgroup_size(64)
fn alignments(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let pair = wid.x * 64u + lid;
    if (pair >= params.pairs) { return; }
    var t = 1u;
    var s = pair;
    for (; s >= t; t++) { s -= t; }
    let all = 2u * params.count;
    let first = wid.z * params.products_replica;
    let a = products[first + s * (all + 1u)];
    let b = products[first + t * (all + 1u)];
    let other = params.count + t;
    let again = products[first + other * (all + 1u)];
    let place = wid.z * params.out_replica + pair;
    out[place] = cosine(products[first + s * all + t], a, b);
    out[place + params.pairs] = cosine(products[first + s * all + other], a, again);
}
