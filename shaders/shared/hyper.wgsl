// hyper: hyper-parameters of one replica, as Hyper in src/train/optimizer.rs.
struct Hyper {
    learning_rate: f32, weight_decay: f32, beta1: f32, beta2: f32,
    one_minus_beta1: f32, one_minus_beta2: f32, ln_beta1: f32, ln_beta2: f32,
    eps: f32, clip: f32, warmup: f32, total: f32, floor: f32, cosine: f32,
}
