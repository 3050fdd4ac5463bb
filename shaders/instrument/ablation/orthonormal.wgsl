// orthonormal: each group of vectors made orthonormal, one after the other; one that adds no direction becomes 0
// shapes   x [R, G, K, n]  y [R, G, K, n]  turned [R, G, n, K], the same by coordinates
//          DRAWS: x [R, B K, H k], fill [B K, H k]; coordinate c of vector v of group g is that of x[first + g + h, v, c] where
//          c is one of head h's k, and of fill where that is 0, for x has no such direction
// grid     [G, 1, R]; vectors begin to end of one sweep, after those before them
// numerics f32, serial over coordinates, modified Gram and Schmidt. A vector of which less than 2^-13 is left is one that the
//          others span: of what is left, a hundredth would be rounding. Each is held against its own length, as its rounding is,
//          and not against the longest: a coordinate of z may be scaled by anything and its row of W_O by the inverse, and the
//          head is the same
//          Vectors that became 0 stand behind the others
// knobs    DRAWS: see above; there is no turned, and vectors stay where they are
struct Params {
    vectors: u32, width: u32, of_head: u32, first: u32, begin: u32, end: u32, sweep: u32, last: u32,
    x_replica: u32, y_replica: u32, turned_replica: u32,
}
const WG: u32 = 64u;
const LEFT: f32 = 1.4901161e-8; // 2^-26, of squares
#import reduce
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;
#if DRAWS
@tensor var<storage, read> fill: array<f32>;
fn source(r: u32, g: u32, v: u32, c: u32) -> f32 {
    let at = ((params.first + g + c / params.of_head) * params.vectors + v) * params.width + c;
    let drawn = x[r * params.x_replica + at];
    return select(drawn, fill[at], drawn == 0.0);
}
fn turn(r: u32, g: u32, lid: u32) {}
#else
@tensor var<storage, read_write> turned: array<f32>;
fn source(r: u32, g: u32, v: u32, c: u32) -> f32 {
    return x[r * params.x_replica + (g * params.vectors + v) * params.width + c];
}
fn turn(r: u32, g: u32, lid: u32) {
    let size = params.vectors * params.width;
    let first = r * params.y_replica + g * size;
    // Each invocation moves the coordinates that are its own.
    var kept = 0u;
    for (var v = 0u; v < params.vectors; v++) {
        var left = 0.0;
        for (var c = lid; c < params.width; c += WG) { left += y[first + v * params.width + c] * y[first + v * params.width + c]; }
        left = workgroup_sum(left, lid);
        for (var c = lid; c < params.width; c += WG) {
            let own = y[first + v * params.width + c];
            y[first + v * params.width + c] = 0.0;
            y[first + kept * params.width + c] = own;
        }
        kept += select(0u, 1u, left > 0.25);
    }
    storageBarrier();
    for (var at = lid; at < size; at += WG) {
        let place = at % params.vectors * params.width + at / params.vectors;
        turned[r * params.turned_replica + g * size + at] = y[r * params.y_replica + g * size + place];
    }
}
#endif

@compute @workgroup_size(WG)
fn orthonormal(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let g = wid.x;
    let n = params.width;
    let base = r * params.y_replica + g * params.vectors * n;
    if (params.sweep == 0u && params.begin == 0u) {
        for (var v = 0u; v < params.vectors; v++) {
            for (var c = lid; c < n; c += WG) { y[base + v * n + c] = source(r, g, v, c); }
        }
        storageBarrier();
    }
    for (var j = params.begin; j < params.end; j++) {
        var own = 0.0;
        var left = 0.0;
        for (var c = lid; c < n; c += WG) {
            let before = source(r, g, j, c);
            let now = y[base + j * n + c];
            own += before * before;
            left += now * now;
        }
        own = workgroup_sum(own, lid);
        left = workgroup_sum(left, lid);
        // The second sweep finds what the first has left, of length 1 or 0.
        let least = max(1e-30, LEFT * own);
        let unit = select(0.0, inverseSqrt(max(left, 1e-30)), left > select(0.25, least, params.sweep == 0u));
        for (var c = lid; c < n; c += WG) { y[base + j * n + c] *= unit; }
        storageBarrier();
        for (var i = j + 1u + lid; i < params.vectors; i += WG) {
            var along = 0.0;
            for (var c = 0u; c < n; c++) { along += y[base + j * n + c] * y[base + i * n + c]; }
            for (var c = 0u; c < n; c++) { y[base + i * n + c] -= along * y[base + j * n + c]; }
        }
        storageBarrier();
    }
    if (params.last == 1u) { turn(r, g, lid); }
}
