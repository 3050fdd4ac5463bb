// each_activation: the MLP's non-linearity element by element on T, which knob WIDE makes a vector
#if WIDE
alias T = vec4<f32>;
fn each_act(x: T) -> T { return act4(x); }
fn each_derivative(x: T) -> T { return act_derivative4(x); }
#else
alias T = f32;
fn each_act(x: T) -> T { return act(x); }
fn each_derivative(x: T) -> T { return act_derivative(x); }
#endif
