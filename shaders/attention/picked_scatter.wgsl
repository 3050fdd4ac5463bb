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

// Column d at one of the places of row u, number i of those that end at `end`; 0 beyond. `at` is where the column begins.
fn of_keys(i: u32, end: u32, places: u32, at: u32, stride: u32) -> T {
    return select(T(0.0), dkv[at + order[places + min(i, end - 1u)] * stride], i < end);
}

fn of_queries(i: u32, end: u32, places: u32, at: u32, stride: u32, per_key: f32) -> T {
    let queries = params.batch * params.queries;
    let query = query_at(order[places + min(i, end - 1u)], per_key);
    return select(T(0.0), dq[at + min(query, queries - 1u) * stride], query < queries && i < end);
}

#if STREAM
fn of_stream(i: u32, end: u32, places: u32, at: u32, stride: u32, per_key: f32) -> T {
    let queries = params.batch * params.queries;
    let query = query_at(order[places + min(i, end - 1u)], per_key);
    return select(T(0.0), drows[at + min(query, queries - 1u) * stride], query < queries && i < end);
}
#endif

// This invocation's share of the sum of column d over the places of row u.
fn share_of(r: u32, u: u32, d: u32, share: u32) -> T {
    let q_width = params.heads * params.width / LANES;
    let kv_width = 2u * params.groups * params.width / LANES;
    let places = r * params.order_replica;
    let per_key = 1.0 / f32(params.keys);
    var sum = T(0.0);
    for (var s = 0u; s < params.segments; s++) {
        let list = r * params.starts_replica + s * (params.last + 2u) + u;
        let first = starts[list] + share;
        let end = starts[list + 1u];
        if (d >= q_width && d < q_width + kv_width) {
            let at = r * params.dkv_replica / LANES + d - q_width;
            for (var i = first; i < end; i += ROUND) {
                sum += of_keys(i, end, places, at, kv_width);
                if (SHARES == 1u) {
                    sum += of_keys(i + 1u, end, places, at, kv_width);
                    sum += of_keys(i + 2u, end, places, at, kv_width);
                    sum += of_keys(i + 3u, end, places, at, kv_width);
                }
            }
        } else if (d < q_width) {
            let at = r * params.dq_replica / LANES + d;
            for (var i = first; i < end; i += ROUND) {
                sum += of_queries(i, end, places, at, q_width, per_key);
                if (SHARES == 1u) {
                    sum += of_queries(i + 1u, end, places, at, q_width, per_key);
                    sum += of_queries(i + 2u, end, places, at, q_width, per_key);
                    sum += of_queries(i + 3u, end, places, at, q_width, per_key);
                }
            }
        } else {
#if STREAM
            let width = params.stream_width / LANES;
            let at = r * params.rows_replica / LANES + d - q_width - kv_width;
            for (var i = first; i < end; i += ROUND) {
                sum += of_stream(i, end, places, at, width, per_key);
                if (SHARES == 1u) {
                    sum += of_stream(i + 1u, end, places, at, width, per_key);
                    sum += of_stream(i + 2u, end, places, at, width, per_key);
                    sum += of_stream(i + 3u, end, places, at, width, per_key);
                }
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
