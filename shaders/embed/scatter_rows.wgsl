// scatter_rows: y[u,:] = sum of the x[n,:] in list u
// shapes   x [R, N, D]  starts [R, S, U + 1]  order [R, N]: see bucket_rows  y [R, U, D]
// grid     U groups folded into x and y, R; 32 vectors of columns x 8 lanes, each lane every eighth entry
// numerics f32, serial in a lane, then the eight lanes in order
// knobs    WIDE: vectors of four along D
struct Params {
    rows: u32, vectors: u32, segments: u32, segment: u32,
    x_replica: u32, starts_replica: u32, order_replica: u32, y_replica: u32,
}
#if WIDE
alias T = vec4<f32>;
#else
alias T = f32;
#endif
@tensor var<storage, read> x: array<T>;
@tensor var<storage, read> starts: array<u32>;
@tensor var<storage, read> order: array<u32>;
@tensor var<storage, read_write> y: array<T>;

var<workgroup> partial: array<T, 256>;

@compute @workgroup_size(256)
fn scatter_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let u = wid.y * groups.x + wid.x;
    let r = wid.z;
    let lane = lid / 32u;
    for (var d0 = 0u; d0 < params.vectors; d0 += 32u) {
        let d = d0 + lid % 32u;
        var sum = T(0.0);
        if (u < params.rows && d < params.vectors) {
            for (var s = 0u; s < params.segments; s++) {
                let list = r * params.starts_replica + s * (params.rows + 1u) + u;
                let last = starts[list + 1u];
                for (var i = starts[list] + lane; i < last; i += 8u) {
                    let n = order[r * params.order_replica + i];
                    sum += x[r * params.x_replica + n * params.vectors + d];
                }
            }
        }
        partial[lid] = sum;
        workgroupBarrier();
        if (lane == 0u && u < params.rows && d < params.vectors) {
            for (var other = 1u; other < 8u; other++) { sum += partial[other * 32u + lid]; }
            y[r * params.y_replica + u * params.vectors + d] = sum;
        }
        workgroupBarrier();
    }
}
