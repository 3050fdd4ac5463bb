// null_summary: where heads' effects stand among those of random subspaces
// shapes   x [R, I, 8], the first H rows are heads  null [R, N, 8]  clean [R, 8]  out [R, 4 H + 6]: for loss, then logit
//          difference, the share (1 + #{null >= head}) / (N + 1) of each head; the same for <=; then the null's 2.5 %, 50 %
//          and 97.5 % points less clean, or the sum of its draws where that is no finite number: such draws have no order
// grid     [1, 1, R]
// numerics integer counts, and a sum that tells finite draws from others; of equals the earlier draw has the lower rank
struct Params { heads: u32, draws: u32, x_replica: u32, null_replica: u32, clean_replica: u32, out_replica: u32 }
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> null_means: array<f32>;
@tensor var<storage, read> clean: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG)
fn null_summary(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    let null_at = r * params.null_replica;
    for (var at = lid; at < 4u * params.heads; at += WG) {
        let c = at / params.heads % 2u;
        let upper = at < 2u * params.heads;
        let own = x[r * params.x_replica + at % params.heads * 8u + c];
        // Not reached only where it is certain: what is no number clears no null.
        var reached = params.draws;
        for (var n = 0u; n < params.draws; n++) {
            let other = null_means[null_at + n * 8u + c];
            reached -= select(0u, 1u, select(other > own, other < own, upper));
        }
        out[r * params.out_replica + at] = f32(1u + reached) / f32(params.draws + 1u);
    }
    var sums = vec2<f32>(0.0, 0.0);
    for (var n = lid; n < params.draws; n += WG) {
        sums += vec2<f32>(null_means[null_at + n * 8u], null_means[null_at + n * 8u + 1u]);
    }
    sums = vec2<f32>(workgroup_sum(sums.x, lid), workgroup_sum(sums.y, lid));
    if (lid < 6u && !is_finite(sums[lid / 3u])) { out[r * params.out_replica + 4u * params.heads + lid] = sums[lid / 3u]; }
    for (var at = lid; at < 2u * params.draws; at += WG) {
        let c = at / params.draws;
        if (!is_finite(sums[c])) { continue; }
        let own_at = at % params.draws;
        let own = null_means[null_at + own_at * 8u + c];
        var rank = 0u;
        for (var n = 0u; n < params.draws; n++) {
            let other = null_means[null_at + n * 8u + c];
            rank += select(0u, 1u, other < own || (other == own && n < own_at));
        }
        let last = params.draws - 1u;
        let effect = own - clean[r * params.clean_replica + c];
        let place = r * params.out_replica + 4u * params.heads + c * 3u;
        if (rank == (last * 25u + 500u) / 1000u) { out[place] = effect; }
        if (rank == (last * 500u + 500u) / 1000u) { out[place + 1u] = effect; }
        if (rank == (last * 975u + 500u) / 1000u) { out[place + 2u] = effect; }
    }
}
