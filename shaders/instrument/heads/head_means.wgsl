// head_means: partial[chunk, 0, h] = sum of -A ln A over head h's rows of a chunk whose query counts, and
// partial[chunk, 1, h] = sum of the lengths of z in these rows; both divided by the number of queries that count
// shapes   x (A; or row statistics [R, B, H, Tq, 5], entropy first and length last), targets: see patterns  count [R]
//          z [R, B, Tq, H, K]  partial [R, chunks, 2, H]
// grid     [H, chunks, R]; a chunk is `chunk` rows, numbered over examples and queries
// numerics f32, serial over a row, tree of fixed shape over rows; 0 ln 0 = 0; the greatest A of a row by what the others leave
//          of 1, which A itself does not tell where they are below 1e-7
// knobs    TAKEN: x are statistics, and z is not bound
#import patterns
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> count: array<f32>;
#if TAKEN
#else
@tensor var<storage, read> z: array<f32>;
#endif
@tensor var<storage, read_write> partial: array<f32>;

#if TAKEN
fn entropy_and_length(r: u32, h: u32, example: u32, query: u32) -> vec2<f32> {
    let at = r * params.x_replica + ((example * params.heads + h) * params.queries + query) * 5u;
    return vec2<f32>(x[at], x[at + 4u]);
}
#else
// What is no number must show.
fn surprise(a: f32) -> f32 { return select(a, select(0.0, -a * log(max(a, 1e-37)), a > 0.0), is_finite(a)); }

// -(1 - rest) ln(1 - rest), which is 1 - rest times ln(1 + rest / (1 - rest)).
fn surprise_of_greatest(a: f32, rest: f32) -> f32 {
    return select(surprise(a), (1.0 - rest) * log1p(rest / max(1.0 - rest, 0.5)), rest < 0.5 && is_finite(a));
}

fn entropy_and_length(r: u32, h: u32, example: u32, query: u32) -> vec2<f32> {
    let first = r * params.x_replica + ((example * params.heads + h) * params.queries + query) * params.keys;
    var entropy = 0.0;
    var rest = 0.0;
    var greatest = x[first];
    for (var k = 1u; k < params.keys; k++) {
        let a = x[first + k];
        let rises = a > greatest;
        let less = select(a, greatest, rises);
        greatest = select(greatest, a, rises);
        rest += less;
        entropy += surprise(less);
    }
    entropy += surprise_of_greatest(greatest, rest);
    let z_at = r * params.z_replica + ((example * params.queries + query) * params.heads + h) * params.width;
    var squares = 0.0;
    for (var k = 0u; k < params.width; k++) { squares += z[z_at + k] * z[z_at + k]; }
    return vec2<f32>(entropy, sqrt(squares));
}
#endif

@compute @workgroup_size(256)
fn head_means(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let h = wid.x;
    var sums = vec2<f32>(0.0);
    let last = min((wid.y + 1u) * params.chunk, params.batch * params.queries);
    for (var row = wid.y * params.chunk + lid; row < last; row += WG) {
        let example = row / params.queries;
        let query = row % params.queries;
        if (query_counts(targets[target_place(r, example, query)], query)) {
            sums += entropy_and_length(r, h, example, query);
        }
    }
    let entropy = workgroup_sum(sums.x, lid);
    let length = workgroup_sum(sums.y, lid);
    if (lid == 0u) {
        let at = r * params.out_replica + wid.y * 2u * params.heads + h;
        let all = count[r * params.counts_replica];
        partial[at] = entropy / all;
        partial[at + params.heads] = length / all;
    }
}
