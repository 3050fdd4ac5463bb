// sample_ids: ids[b] = pool[below(size of the pool)], drawn with replacement for this step
// shapes   pool [R, n] or shared  sizes [R]  seeds [R, 2]  clock [2]  ids [R, B]
// grid     ceil(B / 64) groups folded into x and y, R
struct Params {
    size: u32, seq: u32, length: u32, stream: u32,
    pool_replica: u32, sizes_replica: u32, seeds_replica: u32, out_replica: u32,
}
#import philox
@tensor var<storage, read> pool: array<u32>;
@tensor var<storage, read> sizes: array<u32>;
@tensor var<storage, read> seeds: array<u32>;
@tensor var<storage, read> clock: array<u32>;
@tensor var<storage, read_write> ids: array<u32>;

@compute @workgroup_size(64)
fn sample_ids(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let b = (wid.y * groups.x + wid.x) * 64u + lid;
    if (b >= params.size) { return; }
    let r = wid.z;
    let seed = vec2<u32>(seeds[r * params.seeds_replica], seeds[r * params.seeds_replica + 1u]);
    let draw = below(philox(b, clock[0], params.stream, seed).x, sizes[r * params.sizes_replica]);
    ids[r * params.out_replica + b] = pool[r * params.pool_replica + draw];
}
