// position_gap: y = sum / count over the late positions - sum / count over the early ones; 0 where one of them has no row
// shapes   early_sums, early_counts, late_sums, late_counts [R, T]  y [R, 1]
// grid     [1, 1, R]
// numerics f32, trees of fixed shape
struct Params {
    early: u32, early_end: u32, late: u32, late_end: u32, early_sums_replica: u32, early_counts_replica: u32,
    late_sums_replica: u32, late_counts_replica: u32, y_replica: u32,
}
const WG: u32 = 64u;
#import reduce
@tensor var<storage, read> early_sums: array<f32>;
@tensor var<storage, read> early_counts: array<f32>;
@tensor var<storage, read> late_sums: array<f32>;
@tensor var<storage, read> late_counts: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn position_gap(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let r = wid.z;
    var early = vec2<f32>(0.0);
    for (var t = params.early + lid; t < params.early_end; t += WG) {
        early += vec2<f32>(early_sums[r * params.early_sums_replica + t], early_counts[r * params.early_counts_replica + t]);
    }
    var late = vec2<f32>(0.0);
    for (var t = params.late + lid; t < params.late_end; t += WG) {
        late += vec2<f32>(late_sums[r * params.late_sums_replica + t], late_counts[r * params.late_counts_replica + t]);
    }
    let early_sum = workgroup_sum(early.x, lid);
    let early_count = workgroup_sum(early.y, lid);
    let late_sum = workgroup_sum(late.x, lid);
    let late_count = workgroup_sum(late.y, lid);
    if (lid == 0u) {
        let none = early_count == 0.0 || late_count == 0.0;
        y[r * params.y_replica] = select(late_sum / late_count - early_sum / early_count, 0.0, none);
    }
}
