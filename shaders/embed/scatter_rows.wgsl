// scatter_rows: y[u,:] = (before[u,:] +) sum of the x[n,:] in list u
// shapes   x [R, N, D]  starts [R, S, U + 1]  order [R, N]: see bucket_rows  y [R, U, D]
// grid     (U, or U + U2) ceil(vectors of columns / ACROSS) groups folded into x and y, R; in a group SHARES lanes for each
//          vector of columns, each lane every SHARES-th entry: 1 where barriers are dear (software adapters), many where
//          only many hide a long list (GPUs)
// numerics f32, serial in a lane, then the lanes as a tree of fixed shape
// knobs    WIDE: vectors of four along D; SHARES; BOTH: x is summed by second lists too, into second_y [R, U2, D];
//          BEFORE: goes on from the sums of earlier rows, with SHARES 1 only, so that the bits do not show where rows were cut
struct Params {
    rows: u32, vectors: u32, segments: u32, x_replica: u32, starts_replica: u32, order_replica: u32, y_replica: u32,
    second_rows: u32, second_segments: u32, second_starts_replica: u32, second_order_replica: u32, second_y_replica: u32,
    before_replica: u32,
}
#import vectors
@tensor var<storage, read> x: array<T>;
@tensor var<storage, read> starts: array<u32>;
@tensor var<storage, read> order: array<u32>;
@tensor var<storage, read_write> y: array<T>;
#if BOTH
@tensor var<storage, read> second_starts: array<u32>;
@tensor var<storage, read> second_order: array<u32>;
@tensor var<storage, read_write> second_y: array<T>;
#endif
#if BEFORE
@tensor var<storage, read> before: array<T>;
fn earlier(r: u32, u: u32, d: u32) -> T { return before[r * params.before_replica + u * params.vectors + d]; }
#else
fn earlier(r: u32, u: u32, d: u32) -> T { return T(0.0); }
#endif
#import shares

// Entry i of a list that ends at `last`, 0 beyond.
fn entry(r: u32, i: u32, last: u32, d: u32) -> T {
    let n = order[r * params.order_replica + min(i, last - 1u)];
    return select(T(0.0), x[r * params.x_replica + n * params.vectors + d], i < last);
}

fn list_sum(r: u32, u: u32, d: u32, lane: u32) -> T {
    var sum = earlier(r, u, d);
    for (var s = 0u; s < params.segments; s++) {
        let list = r * params.starts_replica + s * (params.rows + 1u) + u;
        let last = starts[list + 1u];
        for (var i = starts[list] + lane; i < last; i += ROUND) {
            sum += entry(r, i, last, d);
            if (SHARES == 1u) {
                sum += entry(r, i + 1u, last, d);
                sum += entry(r, i + 2u, last, d);
                sum += entry(r, i + 3u, last, d);
            }
        }
    }
    return sum;
}

#if BOTH
fn second_entry(r: u32, i: u32, last: u32, d: u32) -> T {
    let n = second_order[r * params.second_order_replica + min(i, last - 1u)];
    return select(T(0.0), x[r * params.x_replica + n * params.vectors + d], i < last);
}

fn second_sum(r: u32, u: u32, d: u32, lane: u32) -> T {
    var sum = T(0.0);
    for (var s = 0u; s < params.second_segments; s++) {
        let list = r * params.second_starts_replica + s * (params.second_rows + 1u) + u;
        let last = second_starts[list + 1u];
        for (var i = second_starts[list] + lane; i < last; i += ROUND) {
            sum += second_entry(r, i, last, d);
            if (SHARES == 1u) {
                sum += second_entry(r, i + 1u, last, d);
                sum += second_entry(r, i + 2u, last, d);
                sum += second_entry(r, i + 3u, last, d);
            }
        }
    }
    return sum;
}
#endif

fn store(r: u32, u: u32, d: u32, sum: T) {
#if BOTH
    if (u >= params.rows) {
        second_y[r * params.second_y_replica + (u - params.rows) * params.vectors + d] = sum;
        return;
    }
#endif
    y[r * params.y_replica + u * params.vectors + d] = sum;
}

@compute @workgroup_size(ACROSS * SHARES)
fn scatter_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let chunks = (params.vectors + ACROSS - 1u) / ACROSS;
    let group = wid.y * groups.x + wid.x;
    let u = group / chunks;
    let d = group % chunks * ACROSS + lid % ACROSS;
    let lane = lid / ACROSS;
    let r = wid.z;
    let inside = u < params.rows + params.second_rows && d < params.vectors;
    var sum = T(0.0);
    if (inside) {
#if BOTH
        if (u >= params.rows) {
            sum = second_sum(r, u - params.rows, d, lane);
        } else {
            sum = list_sum(r, u, d, lane);
        }
#else
        sum = list_sum(r, u, d, lane);
#endif
    }
    sum = sum_of_shares(sum, lane, lid);
    if (lane == 0u && inside) { store(r, u, d, sum); }
}
