// reduce_eight: the sums of eight values at once over one workgroup of WG invocations, each in the order of
// shared/reduce's `workgroup_sum`, with the barriers of one. All invocations must call together; all receive the result.

struct Eight { low: vec4<f32>, high: vec4<f32> }

var<workgroup> eights: array<Eight, WG>;

fn workgroup_sums(values: Eight, lid: u32) -> Eight {
    workgroupBarrier(); // the previous result may still be being read
    eights[lid] = values;
    workgroupBarrier();
    for (var n = WG / 4u; n > 0u; n /= 4u) {
        if (lid < n) {
            let a = eights[lid];
            let b = eights[lid + n];
            let c = eights[lid + 2u * n];
            let d = eights[lid + 3u * n];
            eights[lid] = Eight((a.low + b.low) + (c.low + d.low), (a.high + b.high) + (c.high + d.high));
        }
        workgroupBarrier();
    }
    return eights[0];
}
