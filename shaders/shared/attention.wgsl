// attention: sizes and strides of attention and its gradient; a kernel reads those of the tensors that it binds
struct Params {
    batch: u32, queries: u32, keys: u32, heads: u32,
    groups: u32, width: u32, scale: f32, q_replica: u32,
    k_replica: u32, v_replica: u32, pattern_replica: u32, scores_replica: u32,
    z_replica: u32, dz_replica: u32, ds_replica: u32, dq_replica: u32,
    dk_replica: u32, dv_replica: u32, lengths_replica: u32,
}
