// advance: the step is over
// shapes   clock [1]
// grid     [1, 1, 1]
struct Params { by: u32 }
@tensor var<storage, read_write> clock: array<u32>;

@compute @workgroup_size(1)
fn advance() {
    clock[0] += params.by;
}
