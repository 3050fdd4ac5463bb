// shares: sums over lists to each of which SHARES invocations of a workgroup have parts, for ACROSS vectors of columns: 1
// where barriers are dear (software adapters), many where only many hide a long list (GPUs)
// Entries that all shares walk in one round. A share of 1 takes four, in their order: software drivers end a walk after
// 65,535 rounds.
const ROUND: u32 = select(SHARES, 4u, SHARES == 1u);
const ACROSS: u32 = select(4u, 32u, SHARES == 1u);
var<workgroup> partial: array<T, ACROSS * SHARES>;

// The sum of a column's parts, for share 0; a tree of fixed shape. All invocations take part.
fn sum_of_shares(part: T, share: u32, lid: u32) -> T {
    if (SHARES == 1u) { return part; }
    partial[lid] = part;
    workgroupBarrier();
    for (var other = SHARES / 2u; other > 0u; other /= 2u) {
        if (share < other) { partial[lid] += partial[lid + other * ACROSS]; }
        workgroupBarrier();
    }
    return partial[lid];
}
