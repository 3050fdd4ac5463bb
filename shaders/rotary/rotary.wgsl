// rotary: y = x with dimensions i and i + half of each head turned by the token's position
// shapes   x, y [R, N, H, K]  position [R, N] or shared  table [n_ctx, half, 2]: cosine and sine
// grid     ceil(N H K / 64) groups folded into x and y, R
struct Params { n: u32, heads: u32, width: u32, half: u32, x_replica: u32, position_replica: u32, y_replica: u32, sign: f32 }
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read> position: array<u32>;
@tensor var<storage, read> table: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn rotary(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    if (at >= params.n * params.heads * params.width) { return; }
    let i = at % params.width;
    let x_at = wid.z * params.x_replica + at;
    var v = x[x_at];
    if (i < 2u * params.half) {
        let pos = position[wid.z * params.position_replica + at / (params.width * params.heads)];
        let turn = (pos * params.half + i % params.half) * 2u;
        let low = i < params.half;
        let other = x[select(x_at - params.half, x_at + params.half, low)];
        v = v * table[turn] + select(1.0, -1.0, low) * params.sign * other * table[turn + 1u];
    }
    y[wid.z * params.y_replica + at] = v;
}
