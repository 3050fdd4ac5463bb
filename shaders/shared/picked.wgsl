// picked: parameters of attention among rows that an index picks
struct Params {
    batch: u32, queries: u32, keys: u32, heads: u32,
    groups: u32, width: u32, stream_width: u32, last: u32, scale: f32,
    table_replica: u32, stream_replica: u32, index_replica: u32, pattern_replica: u32, scores_replica: u32,
    z_replica: u32, rows_replica: u32, dz_replica: u32, dq_replica: u32, dkv_replica: u32,
    dtable_replica: u32, starts_replica: u32, order_replica: u32, segments: u32, lengths_replica: u32,
}
