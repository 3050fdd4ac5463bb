// reduce: sums and extremes over one workgroup of WG invocations, as a tree of fixed shape, so that the
// same adapter gives the same bits. All invocations must call together; all receive the result.

var<workgroup> scratch: array<f32, WG>;

fn workgroup_sum(value: f32, lid: u32) -> f32 {
    workgroupBarrier(); // the previous result may still be being read
    scratch[lid] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        if (lid < half) { scratch[lid] += scratch[lid + half]; }
        workgroupBarrier();
    }
    return scratch[0];
}

fn workgroup_max(value: f32, lid: u32) -> f32 {
    workgroupBarrier();
    scratch[lid] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        if (lid < half) { scratch[lid] = max(scratch[lid], scratch[lid + half]); }
        workgroupBarrier();
    }
    return scratch[0];
}

fn workgroup_min(value: f32, lid: u32) -> f32 {
    return -workgroup_max(-value, lid);
}
