// cosines: out[kind, pair] = x[kind, h, g] / sqrt(x[kind, h, h] x[kind, g, g]) for h < g; 0 for 0 / 0, where a head's
//          products are rounding beside those of kind 0, and no finite number where the divisor is none
// shapes   x [R, N, H, H]  a, b [R, 1, H, H]  out [R, N, H (H - 1) / 2], pairs row by row
// grid     [ceil(N H H / 64), 1, R]
// knobs    STEP: products are of what a step of weights changed, whose squared sizes are the diagonals of a and b; unknown where
//          that is rounding of the weights
struct Params { kinds: u32, heads: u32, x_replica: u32, a_replica: u32, b_replica: u32, out_replica: u32 }
#import numerics
@tensor var<storage, read> x: array<f32>;
#if STEP
// A weight is off by 2^-25 of itself, and so the change of a product of two by no more than that of their sizes; 32 times that
// tells a cosine to some percent.
const STILL: f32 = 9.094947e-13; // 2^-40
@tensor var<storage, read> a: array<f32>;
@tensor var<storage, read> b: array<f32>;
fn is_still(r: u32, h: u32, square: f32) -> bool {
    let at = h * params.heads + h;
    return square <= STILL * a[r * params.a_replica + at] * b[r * params.b_replica + at];
}
#else
fn is_still(r: u32, h: u32, square: f32) -> bool { return false; }
#endif
@tensor var<storage, read_write> out: array<f32>;

// What is left of a head's size; nothing where it is rounding beside what was there before a mean was subtracted.
fn size_of(table: u32, base: u32, h: u32) -> f32 {
    let own = x[base + h * params.heads + h];
    return select(own, 0.0, own <= ROUNDING * x[table + h * params.heads + h]);
}

@compute @workgroup_size(64)
fn cosines(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = params.heads;
    let at = wid.x * 64u + lid;
    if (at >= params.kinds * n * n) { return; }
    let kind = at / (n * n);
    let h = at / n % n;
    let g = at % n;
    if (h >= g) { return; }
    let table = wid.z * params.x_replica;
    let base = table + kind * n * n;
    let size = sqrt(size_of(table, base, h)) * sqrt(size_of(table, base, g));
    let pair = h * (2u * n - h - 1u) / 2u + g - h - 1u;
    let cosine = select(0.0, x[base + h * n + g] / max(size, 1e-37), size > 0.0);
    let still = is_still(wid.z, h, x[base + h * n + h]) || is_still(wid.z, g, x[base + g * n + g]);
    let found = select(size, cosine, is_finite(size));
    out[wid.z * params.out_replica + kind * (n * (n - 1u) / 2u) + pair] = select(found, UNKNOWN, still);
}
