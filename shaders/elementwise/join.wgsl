// join: whole = first, second and third, one behind the other
// shapes   first, second, third, whole [R, any]
// grid     ceil(elements / 64) groups folded into x and y, R
// knobs    APART: the other way round, from whole to the parts
struct Params {
    first: u32, second: u32, third: u32,
    first_replica: u32, second_replica: u32, third_replica: u32, whole_replica: u32,
}
#if APART
@tensor var<storage, read_write> first: array<f32>;
@tensor var<storage, read_write> second: array<f32>;
@tensor var<storage, read_write> third: array<f32>;
@tensor var<storage, read> whole: array<f32>;
#else
@tensor var<storage, read> first: array<f32>;
@tensor var<storage, read> second: array<f32>;
@tensor var<storage, read> third: array<f32>;
@tensor var<storage, read_write> whole: array<f32>;
#endif

@compute @workgroup_size(64)
fn join(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i >= params.first + params.second + params.third) { return; }
    let r = wid.z;
    let at = r * params.whole_replica + i;
    let in_first = r * params.first_replica + i;
    let in_second = r * params.second_replica + i - params.first;
    let in_third = r * params.third_replica + i - params.first - params.second;
#if APART
    if (i < params.first) {
        first[in_first] = whole[at];
    } else if (i < params.first + params.second) {
        second[in_second] = whole[at];
    } else {
        third[in_third] = whole[at];
    }
#else
    if (i < params.first) {
        whole[at] = first[in_first];
    } else if (i < params.first + params.second) {
        whole[at] = second[in_second];
    } else {
        whole[at] = third[in_third];
    }
#endif
}
