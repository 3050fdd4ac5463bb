// rows: one row of a matrix for each subgroup (knob SUBGROUPS), or for each workgroup of WG invocations.
// Rows are numbered over the whole grid; those beyond the last must still take part in the reductions, and are half of all
// or more where subgroups are smaller than the largest that a device may form, which the grid is made for. `row_lane` is
// where a lane begins in its row: loops of a row beyond the last begin behind any column. It is 0 for one lane of each
// row that is there.
#if SUBGROUPS
struct Invocation {
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}
fn row_number(at: Invocation) -> u32 { return (at.wid.y * at.groups.x + at.wid.x) * at.subgroups + at.subgroup; }
// Not subgroup_size: some drivers report there what a subgroup could have, not what it has.
fn row_lanes(at: Invocation) -> u32 { return WG / at.subgroups; }
fn row_sum(value: f32, at: Invocation) -> f32 { return subgroupAdd(value); }
fn row_max(value: f32, at: Invocation) -> f32 { return subgroupMax(value); }
#else
#import reduce
struct Invocation {
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
}
fn row_number(at: Invocation) -> u32 { return at.wid.y * at.groups.x + at.wid.x; }
fn row_lanes(at: Invocation) -> u32 { return WG; }
fn row_sum(value: f32, at: Invocation) -> f32 { return workgroup_sum(value, at.lane); }
fn row_max(value: f32, at: Invocation) -> f32 { return workgroup_max(value, at.lane); }
#endif
fn row_lane(at: Invocation, rows: u32) -> u32 { return select(0xffffffffu, at.lane, row_number(at) < rows); }
