// pattern_products: partial[chunk, 0, h, g] = sum of A_h A_g, partial[chunk, 1, h, g] the same with each
// head's mean over examples subtracted, over a chunk of entries whose query counts; for h <= g, else 0
// shapes   x (A), targets: see patterns  counts [R, Tq] or [R, 1]  sums [R, H, Tq, T]: A summed over the examples that
//          count  partial [R, chunks, 2, H, H]
// grid     [chunks, tiles (tiles + 1) / 2, R] with ceil(H / 4) tiles: four heads against four, an entry loaded once
// numerics f32, mean first, then products; serial over an invocation's entries, then over invocations
#import patterns
const WG: u32 = 64u;
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> counts: array<f32>;
@tensor var<storage, read> sums: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;

// Products of every pair, plain and centred, of every invocation.
var<workgroup> products: array<f32, 32 * WG>;

// Four heads' numbers at one place; heads beyond the last repeat it, and are not written.
fn places(first: u32, size: u32) -> vec4<u32> {
    return min(vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.heads - 1u)) * size;
}
fn entries(at: u32, p: vec4<u32>) -> vec4<f32> { return vec4<f32>(x[at + p.x], x[at + p.y], x[at + p.z], x[at + p.w]); }
fn means(at: u32, p: vec4<u32>) -> vec4<f32> { return vec4<f32>(sums[at + p.x], sums[at + p.y], sums[at + p.z], sums[at + p.w]); }

@compute @workgroup_size(64)
fn pattern_products(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let size = params.queries * params.keys;
    // Tile row by tile row of the upper triangle.
    let tiles = (params.heads + 3u) / 4u;
    var i = 0u;
    var j = wid.y;
    while (i + j >= tiles) {
        j -= tiles - i;
        i++;
    }
    // The first heads of the two tiles; j counts from the diagonal.
    let h = 4u * i;
    let g = 4u * (i + j);
    let h_at = places(h, size);
    let g_at = places(g, size);
    let before = params.keys - params.queries;
    var plain: array<vec4<f32>, 4>;
    var centred: array<vec4<f32>, 4>;
    let last = min((wid.x + 1u) * params.chunk, params.batch * size);
    for (var e = wid.x * params.chunk + lid; e < last; e += WG) {
        let example = e / size;
        let place = e % size;
        let query = place / params.keys;
        // Behind the query there is nothing but zeros.
        if (place % params.keys <= before + query && query_counts(targets[target_place(r, example, query)], query)) {
            let at = r * params.x_replica + example * params.heads * size + place;
            let mean = r * params.sums_replica + place;
            let share = 1.0 / counts[r * params.counts_replica + select(0u, query, params.own == 1u)];
            let a = entries(at, h_at);
            let b = entries(at, g_at);
            let ca = a - share * means(mean, h_at);
            let cb = b - share * means(mean, g_at);
            for (var row = 0u; row < 4u; row++) {
                plain[row] += a[row] * b;
                centred[row] += ca[row] * cb;
            }
        }
    }
    for (var pair = 0u; pair < 16u; pair++) {
        products[pair * WG + lid] = plain[pair / 4u][pair % 4u];
        products[(16u + pair) * WG + lid] = centred[pair / 4u][pair % 4u];
    }
    workgroupBarrier();
    if (lid >= 32u) { return; }
    let row = h + lid % 16u / 4u;
    let column = g + lid % 4u;
    if (row >= params.heads || column >= params.heads) { return; }
    var sum = 0.0;
    for (var k = 0u; k < WG; k++) { sum += products[lid * WG + k]; }
    let square = params.heads * params.heads;
    let out = r * params.out_replica + (wid.x * 2u + lid / 16u) * square;
    partial[out + row * params.heads + column] = select(0.0, sum, row <= column);
    // No tile lies below the diagonal.
    if (j > 0u) { partial[out + column * params.heads + row] = 0.0; }
}
