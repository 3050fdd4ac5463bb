// list_spread: y[u, 0, c] = (before[u, 0, c] +) sum over the rows n in list u of x[n, c] - pivot[c], y[u, 1, c] the same of
//          (x[n, c] - pivot[c])^2, y[u, 2, c] of x[n, c]^2
// shapes   x [R, N, C]  pivot [R, C]  starts [R, S, U + 1]  order [R, N]: see bucket_rows  before, y [R, U, 3, C]
// grid     ceil(U C / 64) groups folded into x and y, R
// numerics f32, serial in the order of the rows, whatever pieces they come in; the pivot keeps a small variance beside a large
//          mean from drowning
// knobs    BEFORE: goes on from what an earlier piece left
struct Params {
    lists: u32, columns: u32, segments: u32, x_replica: u32, pivot_replica: u32, starts_replica: u32, order_replica: u32,
    before_replica: u32, out_replica: u32,
}
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> pivot: array<f32>;
@tensor var<storage, read> starts: array<u32>;
@tensor var<storage, read> order: array<u32>;
@tensor var<storage, read_write> y: array<f32>;
#if BEFORE
@tensor var<storage, read> before: array<f32>;
fn earlier(at: u32, r: u32) -> vec3<f32> {
    let place = r * params.before_replica + at;
    return vec3<f32>(before[place], before[place + params.columns], before[place + 2u * params.columns]);
}
#else
fn earlier(at: u32, r: u32) -> vec3<f32> { return vec3<f32>(0.0); }
#endif

@compute @workgroup_size(64)
fn list_spread(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i >= params.lists * params.columns) { return; }
    let r = wid.z;
    let u = i / params.columns;
    let c = i % params.columns;
    let at = u * 3u * params.columns + c;
    let middle = pivot[r * params.pivot_replica + c];
    var sum = earlier(at, r);
    for (var s = 0u; s < params.segments; s++) {
        let list = r * params.starts_replica + s * (params.lists + 1u) + u;
        let last = starts[list + 1u];
        for (var place = starts[list]; place < last; place++) {
            let whole = x[r * params.x_replica + order[r * params.order_replica + place] * params.columns + c];
            let v = whole - middle;
            sum += vec3<f32>(v, v * v, whole * whole);
        }
    }
    y[r * params.out_replica + at] = sum.x;
    y[r * params.out_replica + at + params.columns] = sum.y;
    y[r * params.out_replica + at + 2u * params.columns] = sum.z;
}
