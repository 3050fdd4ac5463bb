// multiply: y = a b, element by element
// shapes   a, b, y [R, n]; a or b may be shared (stride 0)
// grid     ceil(vectors / 64) groups folded into x and y, R
// knobs    WIDE: vectors of four
struct Params { vectors: u32, a_replica: u32, b_replica: u32, y_replica: u32 }
#if WIDE
alias T = vec4<f32>;
#else
alias T = f32;
#endif
@tensor var<storage, read> a: array<T>;
@tensor var<storage, read> b: array<T>;
@tensor var<storage, read_write> y: array<T>;

@compute @workgroup_size(64)
fn multiply(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.y * groups.x + wid.x) * 64u + lid;
    if (i < params.vectors) {
        y[wid.z * params.y_replica + i] = a[wid.z * params.a_replica + i] * b[wid.z * params.b_replica + i];
    }
}
