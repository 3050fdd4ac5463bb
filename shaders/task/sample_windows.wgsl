// sample_windows: tokens[b, t] = corpus[start_b + t], targets[b, t] = corpus[start_b + t + 1], start_b at random
// shapes   corpus [ceil(n / 4)], four tokens to a word  seeds [R, 2]  clock [2]  tokens, targets [R, B, T]
// grid     ceil(B T / 64) groups folded into x and y, R
struct Params {
    size: u32, seq: u32, length: u32, stream: u32,
    pool_replica: u32, sizes_replica: u32, seeds_replica: u32, out_replica: u32,
}
#import philox
@tensor var<storage, read> corpus: array<u32>;
@tensor var<storage, read> seeds: array<u32>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read_write> tokens: array<u32>;
@tensor var<storage, read_write> next: array<u32>;

fn token(replica: u32, place: u32) -> u32 { return (corpus[replica + place / 4u] >> (place % 4u * 8u)) & 0xffu; }

@compute @workgroup_size(64)
fn sample_windows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.size * params.seq) { return; }
    let r = wid.z;
    let seed = vec2<u32>(seeds[r * params.seeds_replica], seeds[r * params.seeds_replica + 1u]);
    let start = below(philox(at / params.seq, clock[0], params.stream, seed).x, params.length - params.seq);
    let place = start + at % params.seq;
    tokens[r * params.out_replica + at] = token(r * params.pool_replica, place);
    next[r * params.out_replica + at] = token(r * params.pool_replica, place + 1u);
}
