// gather_rows: y[n,:] = table[index[n], first..] (+ second[second_index[n],:])
// shapes   table [R, U, table_ld], of which D columns from `first` on are meant  index [R, N]  y [R, N, D]; tables and indices may be shared (stride 0)
// grid     ceil(N D / width / 64) groups folded into x and y, R
//          an index beyond its table reads the last row
// knobs    SECOND: a second table is added; WIDE: vectors of four along D
struct Params {
    n: u32, vectors: u32, table_ld: u32, first: u32, table_replica: u32, index_replica: u32,
    second_replica: u32, second_index_replica: u32, y_replica: u32, last: u32, second_last: u32,
}
#if WIDE
alias T = vec4<f32>;
#else
alias T = f32;
#endif
@tensor var<storage, read> table: array<T>;
@tensor var<storage, read> index: array<u32>;
@tensor var<storage, read_write> y: array<T>;
#if SECOND
@tensor var<storage, read> second: array<T>;
@tensor var<storage, read> second_index: array<u32>;
#endif

@compute @workgroup_size(64)
fn gather_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i >= params.n * params.vectors) { return; }
    let n = i / params.vectors;
    let d = i % params.vectors;
    let r = wid.z;
    let row = min(index[r * params.index_replica + n], params.last);
    var v = table[r * params.table_replica + row * params.table_ld + params.first + d];
#if SECOND
    let second_row = min(second_index[r * params.second_index_replica + n], params.second_last);
    v += second[r * params.second_replica + second_row * params.vectors + d];
#endif
    y[r * params.y_replica + i] = v;
}
