// gram_sum: partial[chunk, h] = sum over a chunk of entries (b, t, u) of s[b, h, t, u] w[b, t, u]
// shapes   s [R, B, H, T, T]  beside: another gram [R, B, Tw, Tw] or tokens [R, B, Tw], of which the last T positions
//          stand beside those of s  partial [R, chunks, H]
// grid     [H, chunks, R]
// numerics f32, tree of fixed shape
// knobs    WEIGHT: w is 0: 1 everywhere, 1: 1 where the tokens are equal and 0 elsewhere, 2: the other gram
struct Params {
    batch: u32, heads: u32, seq: u32, beside_seq: u32, chunk: u32, s_replica: u32, beside_replica: u32, out_replica: u32,
}
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> s: array<f32>;
@tensor var<storage, read_write> partial: array<f32>;
#if WEIGHT
@tensor var<storage, read> beside: array<u32>;
fn word(at: u32) -> u32 { return beside[at]; }
#else
fn word(at: u32) -> u32 { return 0u; }
#endif

fn weight(r: u32, example: u32, t: u32, u: u32) -> f32 {
    let first = r * params.beside_replica;
    let a = params.beside_seq - params.seq + t;
    let b = params.beside_seq - params.seq + u;
    if (WEIGHT == 1u) {
        let tokens = first + example * params.beside_seq;
        return select(0.0, 1.0, word(tokens + a) == word(tokens + b));
    }
    if (WEIGHT == 2u) { return bitcast<f32>(word(first + (example * params.beside_seq + a) * params.beside_seq + b)); }
    return 1.0;
}

@compute @workgroup_size(64)
fn gram_sum(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let size = params.seq * params.seq;
    let last = min((wid.y + 1u) * params.chunk, params.batch * size);
    var sum = 0.0;
    for (var e = wid.y * params.chunk + lid; e < last; e += WG) {
        let example = e / size;
        let entry = s[wid.z * params.s_replica + (example * params.heads + wid.x) * size + e % size];
        sum += entry * weight(wid.z, example, e % size / params.seq, e % params.seq);
    }
    sum = workgroup_sum(sum, lid);
    if (lid == 0u) { partial[wid.z * params.out_replica + wid.y * params.heads + wid.x] = sum; }
}
