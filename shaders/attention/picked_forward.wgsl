// picked_forward: attention among rows of a table that an index picks, for up to 16 keys: scores = scale q k^T,
// pattern = causal softmax, z = pattern v; and the stream's row of each query
// shapes   table [R, U, (H + 2 G) K]: q of all heads, then k and v of all groups  stream, rows [R, U, D], [R, B Tq, D]
//          index [R, B T]  z [R, B, Tq, H, K]  pattern, scores [R, B, H, Tq, T]
//          lengths [R, B, Tq, H]: of z
// grid     ceil((B Tq H + B Tq D / width of a vector) / 64) groups folded into x and y, R; one invocation for each query
//          of each head, then one for each vector of the stream's rows
// numerics f32, serial over keys; masked scores hold MASKED, masked pattern entries 0. A row beyond the table is its last
// knobs    WIDE: vectors of four along K and D
#import picked
#import vectors
@tensor var<storage, read> table: array<T>;
@tensor var<storage, read> stream: array<T>;
@tensor var<storage, read> index: array<u32>;
@tensor var<storage, read_write> z: array<T>;
@tensor var<storage, read_write> pattern: array<f32>;
@tensor var<storage, read_write> scores: array<f32>;
@tensor var<storage, read_write> rows: array<T>;
@tensor var<storage, read_write> lengths: array<f32>;

const MASKED: f32 = -1e30;

// Row of the table at position j of example b.
fn row_at(r: u32, b: u32, j: u32) -> u32 { return min(index[r * params.index_replica + b * params.keys + j], params.last); }

@compute @workgroup_size(64)
fn picked_forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.y * groups.x + wid.x) * 64u + lid;
    let r = wid.z;
    let queries = params.batch * params.queries;
    let before = params.keys - params.queries;
    if (at >= queries * params.heads) {
        let copied = at - queries * params.heads;
        let vectors = params.stream_width / LANES;
        let row = copied / vectors;
        if (row < queries) {
            let source = row_at(r, row / params.queries, before + row % params.queries) * vectors + copied % vectors;
            rows[r * params.rows_replica / LANES + copied] = stream[r * params.stream_replica / LANES + source];
        }
        return;
    }
    let h = at % params.heads;
    let i = at / params.heads % params.queries;
    let b = at / (params.heads * params.queries);
    let width = params.width / LANES;
    let ld = (params.heads + 2u * params.groups) * width;
    let base = r * params.table_replica / LANES;
    let g = h / (params.heads / params.groups);
    let q_at = base + row_at(r, b, before + i) * ld + h * width;
    let k_at = base + (params.heads + g) * width;
    let v_at = k_at + params.groups * width;
    let line = ((b * params.heads + h) * params.queries + i) * params.keys;
    let p_at = r * params.pattern_replica + line;
    let horizon = before + i;
    // Where the row of each position begins in the table.
    var places: array<u32, 16>;
    var top = MASKED;
    for (var j = 0u; j < params.keys; j++) {
        places[j] = row_at(r, b, j) * ld;
        var score = MASKED;
        if (j <= horizon) {
            let key = k_at + places[j];
            var dots = T(0.0);
            for (var x = 0u; x < width; x++) { dots += table[q_at + x] * table[key + x]; }
            score = params.scale * total(dots);
        }
        scores[r * params.scores_replica + line + j] = score;
        pattern[p_at + j] = score;
        top = max(top, score);
    }
    var sum = 0.0;
    for (var j = 0u; j < params.keys; j++) {
        let e = select(exp(pattern[p_at + j] - top), 0.0, j > horizon);
        pattern[p_at + j] = e;
        sum += e;
    }
    for (var j = 0u; j < params.keys; j++) { pattern[p_at + j] /= sum; }
    let z_at = r * params.z_replica / LANES + at * width;
    var squares = T(0.0);
    for (var x = 0u; x < width; x++) {
        var mix = T(0.0);
        for (var j = 0u; j <= horizon; j++) { mix += pattern[p_at + j] * table[v_at + places[j] + x]; }
        z[z_at + x] = mix;
        squares += mix * mix;
    }
    lengths[r * params.lengths_replica + at] = sqrt(total(squares));
}
