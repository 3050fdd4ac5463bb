// picked_scatter: gradients of the rows of a table, and of the stream beside it, summed over the places that picked them
// shapes   starts [R, S, U + 1]  order [R, B T]: see embed/bucket_rows  dq [R, B, Tq, H K]  dkv [R, B, T, 2 G K]
//          drows [R, B, Tq, D]  dtable [R, U, (H + 2 G) K]  dstream [R, U, D]
// grid     U ceil(vectors of columns / ACROSS) groups folded into x and y, R, with the columns of both; in a group SHARES
//          invocations for each vector of columns, each every SHARES-th place: 1 where barriers are dear (software
//          adapters), many where only many hide a long list (GPUs)
// numerics f32, serial in an invocation, then a tree of fixed shape
// knobs    WIDE: vectors of four along the columns; SHARES; STREAM: the stream has a gradient
#import picked
#import vectors
@tensor var<storage, read> starts: array<u32>;
@tensor var<storage, read> order: array<u32>;
@tensor var<storage, read> dq: array<T>;
@tensor var<storage, read> dkv: array<T>;
@tensor var<storage, read_write> dtable: array<T>;
#if STREAM
@tensor var<storage, read> drows: array<T>;
@tensor var<storage, read_write> dstream: array<T>;
#endif
#import shares

// Number of the query at a place of the batch, or one beyond all where nothing asks. Software drivers divide integers
// lane by lane: the quotient is estimated in f32, at most one off up to four million examples, and mended.
fn query_at(place: u32, per_key: f32) -> u32 {
    var example = u32(f32(place) * per_key);
    if (example * params.keys > place) { example -= 1u; }
    if (place - example * params.keys >= params.keys) { example += 1u; }
    let position = place - example * params.keys + params.queries;
    return select(example * params.queries + position - params.keys, params.batch * params.queries, position < params.keys);
}

// This invocation's share of the sum of column d over the places of row u.
fn share_of(r: u32, u: u32, d: u32, share: u32) -> T {
    let q_width = params.heads * params.width / LANES;
    let kv_width = 2u * params.groups * params.width / LANES;
    let places = r * params.order_replica;
    let queries = params.batch * params.queries;
    let per_key = 1.0 / f32(params.keys);
    var sum = T(0.0);
    for (var s = 0u; s < params.segments; s++) {
        let list = r * params.starts_replica + s * (params.last + 2u) + u;
        let first = starts[list] + share;
        let end = starts[list + 1u];
        if (d >= q_width && d < q_width + kv_width) {
            let at = r * params.dkv_replica / LANES + d - q_width;
            for (var i = first; i < end; i += SHARES) { sum += dkv[at + order[places + i] * kv_width]; }
        } else if (d < q_width) {
            let at = r * params.dq_replica / LANES + d;
            for (var i = first; i < end; i += SHARES) {
                let query = query_at(order[places + i], per_key);
                sum += select(T(0.0), dq[at + min(query, queries - 1u) * q_width], query < queries);
            }
        } else {
#if STREAM
            let stream_width = params.stream_width / LANES;
            let at = r * params.rows_replica / LANES + d - q_width - kv_width;
            for (var i = first; i < end; i += SHARES) {
                let query = query_at(order[places + i], per_key);
                sum += select(T(0.0), drows[at + min(query, queries - 1u) * stream_width], query < queries);
            }
#endif
        }
    }
    return sum;
}

@compute @workgroup_size(ACROSS * SHARES)
fn picked_scatter(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let table_width = (params.heads + 2u * params.groups) * params.width / LANES;
    let stream_width = params.stream_width / LANES;
    let columns = table_width + stream_width;
    let chunks = (columns + ACROSS - 1u) / ACROSS;
    let group = wid.y * groups.x + wid.x;
    let u = group / chunks;
    let d = group % chunks * ACROSS + lid % ACROSS;
    let share = lid / ACROSS;
    let r = wid.z;
    let inside = u <= params.last && d < columns;
    var sum = T(0.0);
    if (inside) { sum = share_of(r, u, d, share); }
    sum = sum_of_shares(sum, share, lid);
    if (share == 0u && inside) {
        if (d < table_width) {
            dtable[r * params.dtable_replica / LANES + u * table_width + d] = sum;
        } else {
#if STREAM
            dstream[r * params.stream_replica / LANES + u * stream_width + d - table_width] = sum;
#endif
        }
    }
}
