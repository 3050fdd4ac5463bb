// exclude_each: nats[n, k] = 1 / count cross-entropy of row n's logits without their projection onto frequency k,
//          z[n, j] - unit (cos_k(e) C[cos_k, j] + sin_k(e) C[sin_k, j]) with e the row's element; 0 for ignored rows
// shapes   z [R, N, V]  coefficients C [R, n, V]  waves [n, n]: component by element  elements [R, N] or shared  targets [R, N]
//          count [R]  nats [R, N, K]
// grid     a subgroup or workgroup for each row, folded into x and y, R
// numerics as loss/cross_entropy_forward
// knobs    SUBGROUPS: see shared/rows
struct Params {
    rows: u32, columns: u32, components: u32, z_replica: u32, coefficients_replica: u32,
    targets_replica: u32, count_replica: u32, out_replica: u32, elements_replica: u32, unit: f32,
}
const WG: u32 = 64u;
#import rows
#import numerics
@tensor var<storage, read> z: array<f32>;
@tensor var<storage, read> coefficients: array<f32>;
@tensor var<storage, read> waves: array<f32>;
@tensor var<storage, read> elements: array<u32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> nats: array<f32>;

/// A frequency's two rows of coefficients, and what they are multiplied by for one element.
struct Wave { c: u32, s: u32, along_c: f32, along_s: f32 }

fn without(z_at: u32, j: u32, wave: Wave) -> f32 {
    return z[z_at + j] - wave.along_c * coefficients[wave.c + j] - wave.along_s * coefficients[wave.s + j];
}

@compute @workgroup_size(64)
fn exclude_each(at: Invocation) {
    let row = min(row_number(at), params.rows - 1u);
    let lane = row_lane(at, params.rows);
    let lanes = row_lanes(at);
    let r = at.wid.z;
    let n = params.components;
    let y = targets[r * params.targets_replica + row];
    let counted = y < params.columns;
    let classes = select(0u, params.columns, counted);
    let place = select(0u, y, counted);
    let element = elements[r * params.elements_replica + row];
    let z_at = r * params.z_replica + row * params.columns;
    for (var k = 0u; k < params.components / 2u; k++) {
        let c = 2u * k + 1u;
        // For an even n the last frequency has a cosine only.
        let s = min(c + 1u, n - 1u);
        let first = r * params.coefficients_replica;
        let wave = Wave(first + c * params.columns, first + s * params.columns, params.unit * waves[c * n + element],
            select(0.0, params.unit * waves[s * n + element], s > c));
        let right = without(z_at, place, wave);
        var top = -HUGE;
        for (var j = lane; j < classes; j += lanes) {
            top = max(top, select(without(z_at, j, wave) - right, -HUGE, j == y));
        }
        top = row_max(top, at);
        let shift = max(top, 0.0);
        var sum = 0.0;
        for (var j = lane; j < classes; j += lanes) {
            sum += select(exp(without(z_at, j, wave) - right - shift), 0.0, j == y);
        }
        sum = row_sum(sum, at);
        if (lane == 0u) {
            let loss = select(log1p(sum), shift + log(exp(-shift) + sum), top > 0.0);
            nats[r * params.out_replica + row * (n / 2u) + k] =
                select(0.0, loss / count[r * params.count_replica], counted);
        }
    }
}
