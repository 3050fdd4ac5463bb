// affine: what a norm does to a normalized value: times w (knob WEIGHT), plus b (knob BIAS), [R, columns] each
#if WEIGHT
@tensor var<storage, read> w: array<f32>;
#endif
#if BIAS
@tensor var<storage, read> b: array<f32>;
#endif

fn affine(normal: f32, column: u32, r: u32) -> f32 {
    var v = normal;
#if WEIGHT
    v *= w[r * params.w_replica + column];
#endif
#if BIAS
    v += b[r * params.b_replica + column];
#endif
    return v;
}
