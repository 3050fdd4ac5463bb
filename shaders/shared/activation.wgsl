// activation: the MLP's non-linearity and its derivative, by knob ACT:
// 0 ReLU, 1 GELU (erf), 2 GELU (tanh), 3 SiLU

/// erf(x): the rational form of fdlibm for |x| < 0.84375; beyond, 1 - erfc by the Chebyshev fit of
/// Numerical Recipes (relative error of erfc 1.2e-7).
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let q = x * x;
    let small = x + x * (1.28379167e-1 + q * (-3.25042107e-1 + q * (-2.84817495e-2 + q * (-5.77027029e-3 + q * -2.37630166e-5))))
        / (1.0 + q * (3.97917223e-1 + q * (6.50222499e-2 + q * (5.08130628e-3 + q * (1.32494738e-4 + q * -3.96022827e-6)))));
    let t = 1.0 / (1.0 + 0.5 * a);
    let tail = t * exp(-q - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
        + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))))));
    return select(sign(x) * (1.0 - tail), small, a < 0.84375);
}

fn logistic(x: f32) -> f32 {
    // exp of a number that is never positive cannot overflow.
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn tanh_stable(x: f32) -> f32 {
    let e = exp(-2.0 * abs(x));
    return sign(x) * (1.0 - e) / (1.0 + e);
}

fn act(x: f32) -> f32 {
    if (ACT == 0u) { return max(x, 0.0); }
    if (ACT == 1u) { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
    if (ACT == 2u) { return 0.5 * x * (1.0 + tanh_stable(0.79788456 * (x + 0.044715 * x * x * x))); }
    return x * logistic(x);
}

fn act_derivative(x: f32) -> f32 {
    if (ACT == 0u) { return select(0.0, 1.0, x > 0.0); }
    if (ACT == 1u) { return 0.5 * (1.0 + erf(x * 0.70710678)) + x * 0.39894228 * exp(-0.5 * x * x); }
    if (ACT == 2u) {
        let inner = 0.79788456 * (x + 0.044715 * x * x * x);
        let t = tanh_stable(inner);
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * 0.79788456 * (1.0 + 3.0 * 0.044715 * x * x);
    }
    let s = logistic(x);
    return s * (1.0 + x * (1.0 - s));
}

fn act4(x: vec4<f32>) -> vec4<f32> { return vec4<f32>(act(x.x), act(x.y), act(x.z), act(x.w)); }

fn act_derivative4(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(act_derivative(x.x), act_derivative(x.y), act_derivative(x.z), act_derivative(x.w));
}
