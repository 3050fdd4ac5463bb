// gradient_noise: from the sum of the squared norms of the examples' parts c of a gradient, and the gradient's
// squares, with E examples that count and g = E c: root mean square of |g|; their spread; |gradient|^2 less what
// the spread contributes, spread / E; and |gradient|^2 / spread
// shapes   products [R, H]  squares [R, n], n a multiple of H  targets [R, examples, queries]  out [R, 4, H]
// grid     [H, 1, R]
// numerics f32, trees of fixed shape; 0 / 0 = 0, and a ratio to a spread that is rounding is unknown
// knobs    SAMPLED: the spread is tr Sigma without bias, E / (E - 1) times the mean square of g around its mean;
//          else that mean square itself, of a batch that is all there is
struct Params {
    heads: u32, squares: u32, examples: u32, queries: u32, products_replica: u32, squares_replica: u32,
    targets_replica: u32, out_replica: u32,
}
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> products: array<f32>;
@tensor var<storage, read> squares: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read_write> out: array<f32>;

fn counts(r: u32, example: u32) -> f32 {
    var any = false;
    for (var q = 0u; q < params.queries; q++) {
        any |= targets[r * params.targets_replica + example * params.queries + q] != 0xffffffffu;
    }
    return select(0.0, 1.0, any);
}

@compute @workgroup_size(256)
fn gradient_noise(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let h = wid.x;
    var examples = 0.0;
    for (var b = lid; b < params.examples; b += WG) { examples += counts(r, b); }
    examples = workgroup_sum(examples, lid);
    let rows = params.squares / params.heads;
    var whole = 0.0;
    for (var i = lid; i < rows; i += WG) { whole += squares[r * params.squares_replica + h * rows + i]; }
    whole = workgroup_sum(whole, lid);
    if (lid == 0u) {
        let each = examples * products[r * params.products_replica + h];
        var spread = each - whole;
        if (SAMPLED == 1u) { spread *= examples / max(examples - 1.0, 1.0); }
        let at = r * params.out_replica + h;
        // Rounding may leave less than nothing of a gradient that is 0.
        out[at] = select(each, sqrt(max(each, 0.0)), is_finite(each));
        out[at + params.heads] = spread;
        out[at + 2u * params.heads] = whole - spread / max(examples, 1.0);
        out[at + 3u * params.heads] = select(select(whole / spread, UNKNOWN, abs(spread) <= sqrt(ROUNDING) * each), 0.0, each == 0.0);
    }
}
