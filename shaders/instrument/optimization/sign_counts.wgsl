// sign_counts: y[e] = (|sum over rows of the signs of x[., e]|, the same where each sign is turned by chance) / (n C), n how many
//          are not 0; 0 where none is
// shapes   x [R, rows, C]  y [R, C, 2]
// grid     ceil(C / 64), R on z
// numerics counts are whole numbers, so their order and rows of zeros change nothing; chance by Philox, the same in every run
struct Params { rows: u32, columns: u32, stream: u32, x_replica: u32, y_replica: u32 }
#import philox
@tensor var<storage, read> x: array<f32>;
@tensor var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn sign_counts(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let column = wid.x * 64u + lid;
    if (column >= params.columns) { return; }
    var signs = vec2<f32>(0.0);
    var counted = 0.0;
    var words = vec4<u32>(0u);
    for (var row = 0u; row < params.rows; row++) {
        // 128 rows take one draw.
        if (row % 128u == 0u) { words = philox(column, row / 128u, params.stream, vec2<u32>(0u)); }
        let turned = ((words[(row / 32u) % 4u] >> (row % 32u)) & 1u) == 1u;
        let value = x[wid.z * params.x_replica + row * params.columns + column];
        // What is no number has no sign.
        let own = select(sign(value), value, (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u);
        signs += vec2<f32>(own, select(own, -own, turned));
        counted += abs(own);
    }
    let place = wid.z * params.y_replica + 2u * column;
    let all = max(counted, 1.0) * f32(params.columns);
    y[place] = abs(signs.x) / all;
    y[place + 1u] = abs(signs.y) / all;
}
