// reduce: sums and extremes over one workgroup of WG invocations, a power of 4, as a tree of fixed shape, so that the
// same adapter gives the same bits. By fours: software adapters pay for each barrier, not for what lies between.
// All invocations must call together; all receive the result.

var<workgroup> scratch: array<f32, WG>;

fn workgroup_sum(value: f32, lid: u32) -> f32 {
    workgroupBarrier(); // the previous result may still be being read
    scratch[lid] = value;
    workgroupBarrier();
    for (var n = WG / 4u; n > 0u; n /= 4u) {
        if (lid < n) { scratch[lid] = (scratch[lid] + scratch[lid + n]) + (scratch[lid + 2u * n] + scratch[lid + 3u * n]); }
        workgroupBarrier();
    }
    return scratch[0];
}

fn workgroup_max(value: f32, lid: u32) -> f32 {
    workgroupBarrier();
    scratch[lid] = value;
    workgroupBarrier();
    for (var n = WG / 4u; n > 0u; n /= 4u) {
        if (lid < n) { scratch[lid] = max(max(scratch[lid], scratch[lid + n]), max(scratch[lid + 2u * n], scratch[lid + 3u * n])); }
        workgroupBarrier();
    }
    return scratch[0];
}

fn workgroup_min(value: f32, lid: u32) -> f32 {
    return -workgroup_max(-value, lid);
}
