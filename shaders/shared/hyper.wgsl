// hyper: hyper-parameters of one replica, as Hyper in src/train/optimizer.rs.
struct Hyper {
    learning_rate: f32, weight_decay: f32, beta1: f32, beta2: f32,
    one_minus_beta1: f32, one_minus_beta2: f32, ln_beta1: f32, ln_beta2: f32,
    eps: f32, clip: f32, warmup: f32, total: f32, floor: f32, cosine: f32,
    factor: f32, restarted: f32,
}

// What a step means for a replica: learning rate, step size, root of the second moment's correction.
struct Rates { rate: f32, size: f32, root: f32 }

// The rates of step number `step`, counted from 0; 1 - beta^t as -expm1(t ln beta), where t counts the updates that the moments
// have seen. Knob OPTIMIZER: 2 is SGD.
fn rates(h: Hyper, step: f32) -> Rates {
    var rate = h.learning_rate;
    if (h.warmup > 0.0) { rate *= min(step / h.warmup, 1.0); }
    if (h.cosine == 1.0) {
        let share = clamp((step - h.warmup) / max(h.total - h.warmup, 1.0), 0.0, 1.0);
        rate *= h.floor + (1.0 - h.floor) * 0.5 * (1.0 + cos(3.14159265 * share));
    }
    if (OPTIMIZER == 2u) { return Rates(rate, rate, 1.0); }
    let seen = step - h.restarted + 1.0;
    return Rates(rate, rate / -expm1(seen * h.ln_beta1), inverseSqrt(-expm1(seen * h.ln_beta2)));
}
