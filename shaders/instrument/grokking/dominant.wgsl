// dominant: for each column, the part (frequency, irrep) with the most energy for its size, out[0, c], from 1, and its
//          share of the whole, out[1, c]; both 0 where there is nothing, or nothing but rounding; 0 and the whole where that is no finite number
// shapes   starts [K + 1], weights [K]: part k is components starts[k] to starts[k + 1]  a, b, c, d [R, n, C]: components
//          spread [R, 3, C]: see column_spread  out [R, 2, C]
// grid     ceil(C / 64) groups folded into x and y, R; one column an invocation
// numerics f32, serial over components
// knobs    GRID: energies add up over four families of components, and the whole is the column's variance; else it is
//          the energy of all parts
struct Params { parts: u32, columns: u32, count: f32, unit: f32, x_replica: u32, spread_replica: u32, out_replica: u32 }
#import numerics
@tensor var<storage, read> starts: array<u32>;
@tensor var<storage, read> weights: array<f32>;
@tensor var<storage, read> a: array<f32>;
@tensor var<storage, read_write> out: array<f32>;
#if GRID
@tensor var<storage, read> b: array<f32>;
@tensor var<storage, read> c: array<f32>;
@tensor var<storage, read> d: array<f32>;
@tensor var<storage, read> spread: array<f32>;
fn energy(at: u32) -> f32 { return params.unit * (a[at] * a[at] + b[at] * b[at] + c[at] * c[at] + d[at] * d[at]); }
fn whole(column: u32, r: u32, parts: f32) -> f32 {
    let at = r * params.spread_replica + column;
    let left = spread[at + params.columns] - spread[at] * spread[at] / params.count;
    return select(left, 0.0, left <= ROUNDING * spread[at + 2u * params.columns]);
}
#else
fn energy(at: u32) -> f32 { return params.unit * a[at] * a[at]; }
fn whole(column: u32, r: u32, parts: f32) -> f32 { return parts; }
#endif

@compute @workgroup_size(64)
fn dominant(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let column = (wid.y * groups.x + wid.x) * 64u + lid;
    if (column >= params.columns) { return; }
    let r = wid.z;
    var best = 0.0;
    var most = 0.0;
    var top = 0.0;
    var total = 0.0;
    for (var k = 0u; k < params.parts; k++) {
        var part = 0.0;
        for (var i = starts[k]; i < starts[k + 1u]; i++) {
            part += energy(r * params.x_replica + i * params.columns + column);
        }
        total += part;
        if (part * weights[k] > top) {
            top = part * weights[k];
            most = part;
            best = f32(k + 1u);
        }
    }
    let all = whole(column, r, total);
    let at = r * params.out_replica + column;
    out[at] = select(0.0, best, all > 0.0);
    let share = select(0.0, most / max(all, 1e-37), all > 0.0);
    out[at + params.columns] = select(all, share, is_finite(all));
}
