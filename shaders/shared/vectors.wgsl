// vectors: what kernels with knob WIDE walk by: vectors of four, or single numbers
#if WIDE
alias T = vec4<f32>;
const LANES: u32 = 4u;
fn total(v: T) -> f32 { return (v.x + v.y) + (v.z + v.w); }
#else
alias T = f32;
const LANES: u32 = 1u;
fn total(v: T) -> f32 { return v; }
#endif
