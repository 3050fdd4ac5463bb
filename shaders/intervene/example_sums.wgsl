// example_sums: y[i, e] = sums of outcomes over the predictions of example e, behind those of earlier interventions
// shapes   x [R, I E T, 8], predictions that do not count are 0  before [R, first, E, 8]  y [R, first + I, E, 8]
// grid     ceil((first + I) E 8 / 64) groups folded into x and y, R
// numerics f32, serial over predictions
// knobs    BEFORE: there are earlier interventions, whose sums are copied
struct Params { predictions: u32, first: u32, len: u32, x_replica: u32, before_replica: u32, y_replica: u32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;
#if BEFORE
@tensor var<storage, read> before: array<f32>;
fn earlier(r: u32, at: u32) -> f32 { return before[r * params.before_replica + at]; }
#else
fn earlier(r: u32, at: u32) -> f32 { return 0.0; }
#endif

@compute @workgroup_size(64)
fn example_sums(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.len) { return; }
    let r = wid.z;
    var sum = 0.0;
    if (at < params.first) {
        sum = earlier(r, at);
    } else {
        let example = (at - params.first) / 8u;
        let place = r * params.x_replica + example * params.predictions * 8u + at % 8u;
        for (var t = 0u; t < params.predictions; t++) { sum += x[place + t * 8u]; }
    }
    y[r * params.y_replica + at] = sum;
}
