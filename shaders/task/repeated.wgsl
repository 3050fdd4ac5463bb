// repeated: sequences whose random part repeats; the same as Generator::sequence in src/task/repeated.rs
// shapes   seeds [R, 2]  clock [2]  tokens, targets [R, B, T]
// grid     ceil(B T / 64) groups folded into x and y, R
// numerics position 0 holds token 0; position t holds random token (t - 1) mod period; targets that were
//          not seen before are IGNORE unless loss_on_all
struct Params {
    size: u32, seq: u32, d_vocab: u32, min_period: u32,
    periods: u32, loss_on_all: u32, stream: u32, seeds_replica: u32, out_replica: u32,
}
#import philox
@tensor var<storage, read> seeds: array<u32>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read_write> tokens: array<u32>;
@tensor var<storage, read_write> targets: array<u32>;

const IGNORE: u32 = 0xffffffffu;

fn token(sequence: u32, t: u32, period: u32, seed: vec2<u32>) -> u32 {
    if (t == 0u) { return 0u; }
    let word = philox(sequence * params.seq + (t - 1u) % period + 0x80000000u, clock[0], params.stream, seed).x;
    return 1u + below(word, params.d_vocab - 1u);
}

@compute @workgroup_size(64)
fn repeated(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.size * params.seq) { return; }
    let r = wid.z;
    let seed = vec2<u32>(seeds[r * params.seeds_replica], seeds[r * params.seeds_replica + 1u]);
    let sequence = at / params.seq;
    let t = at % params.seq;
    let period = params.min_period + below(philox(sequence, clock[0], params.stream, seed).x, params.periods);
    tokens[r * params.out_replica + at] = token(sequence, t, period, seed);
    let counts = params.loss_on_all != 0u || t > period;
    targets[r * params.out_replica + at] = select(IGNORE, token(sequence, t + 1u, period, seed), counts);
}
