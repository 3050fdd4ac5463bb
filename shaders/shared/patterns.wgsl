// patterns: attention patterns A [R, B, H, Tq, T] and which of their queries count. Targets are [R, B, Tq],
// or [R, B] (`own` 0) where only the last query of an example is read out; 2^32 - 1 does not count.
struct Params {
    batch: u32, heads: u32, queries: u32, keys: u32, chunk: u32, own: u32, x_replica: u32, targets_replica: u32,
    counts_replica: u32, sums_replica: u32, tokens_replica: u32, out_replica: u32, width: u32, z_replica: u32,
}
fn target_place(r: u32, example: u32, query: u32) -> u32 {
    return r * params.targets_replica + select(example, example * params.queries + query, params.own == 1u);
}
fn query_counts(target_class: u32, query: u32) -> bool {
    return target_class != 0xffffffffu && (params.own == 1u || query + 1u == params.queries);
}
