//! What is done at a step: the one place that knows of windows.

use crate::autograd::op::misfit;
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var};
use crate::error::Result;
use crate::gpu::{Params, Shader, Tensor};

crate::params! {
    struct DoseParams { windows: u32, slots: u32, windows_replica: u32, out_replica: u32 }
}
static DOSES: Shader<'_> = Shader {
    name: "intervene/doses",
    source: include_str!("../../../shaders/intervene/doses.wgsl"),
    knobs: &[],
    params: DoseParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&DOSES];

/// Steps at which something is done, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    /// First step.
    pub(super) from: u64,
    /// First step at which it is over; `None` where it lasts.
    pub(super) until: Option<u64>,
    /// How much; 0 is nothing.
    pub(super) amount: f64,
    /// What is done.
    pub(super) slot: usize,
}

/// dose [S]: of each slot the sum of what its windows do now. Inputs: windows [n, 4], clock.
struct Doses {
    slots: usize,
}

/// Appends the doses of so many slots, `[S]`, of what each replica has. Windows of one slot add up.
pub(super) fn doses(tape: &mut Tape, clock: Var, slots: usize, replicas: &[Vec<Window>]) -> Result<Var> {
    let rows = replicas.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let mut words = Vec::with_capacity(replicas.len() * rows * 4);
    for windows in replicas {
        for window in windows {
            // Steps of a run end below 2^24.
            let step = |step: u64| step.min(u64::from(u32::MAX)) as u32;
            let until = window.until.map_or(u32::MAX, step);
            words.extend([step(window.from), until, (window.amount as f32).to_bits(), window.slot as u32]);
        }
        // A window that never opens.
        words.extend(std::iter::repeat_n(0, (rows - windows.len()) * 4));
    }
    let windows = tape.constant_u32(&[rows, 4], &words);
    tape.push1(Doses { slots }, &[windows, clock])
}

impl Op for Doses {
    fn name(&self) -> &'static str {
        "doses"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        match inputs[0].dims[..] {
            [_, 4] => Ok(vec![Shape::f32(&[self.slots])]),
            _ => Err(misfit("doses", format!("windows {:?}", inputs[0].dims))),
        }
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = DoseParams {
            windows: inputs[0].dims[0] as u32,
            slots: self.slots as u32,
            windows_replica: inputs[0].replica_stride / 4,
            out_replica: outputs[0].replica_stride,
        };
        let grid = [(self.slots as u32).div_ceil(64), 1, cx.replicas];
        cx.dispatch(&DOSES, &[], &params, &[&inputs[0], &inputs[1], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let step = inputs[1].data[0];
        let dose = |slot: usize| {
            let windows = inputs[0].data.chunks_exact(4);
            let open = windows.filter(|w| w[3] == slot as f64 && w[0] <= step && step < w[1]);
            open.map(|w| f64::from(f32::from_bits(w[2] as u32))).sum()
        };
        vec![Array::from_fn(&[self.slots], dose)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::Case;

    #[test]
    fn a_window_holds_from_its_first_step_to_before_its_last_and_windows_add_up() {
        let window = |from, until, amount, slot| Window { from, until, amount, slot };
        let replicas = [
            vec![window(3, Some(5), 0.5, 0), window(4, None, 0.25, 0), window(0, Some(4), -1.0, 65)],
            vec![window(5, Some(6), 2.0, 1)],
        ];
        let expected = [
            [(2, 0, 0.0), (3, 0, 0.5), (4, 0, 0.75), (5, 0, 0.25), (1 << 23, 0, 0.25), (3, 65, -1.0), (4, 65, 0.0)],
            [(4, 1, 0.0), (5, 1, 2.0), (6, 1, 0.0), (5, 0, 0.0), (0, 0, 0.0), (0, 65, 0.0), (1, 1, 0.0)],
        ];
        for step in [0, 1, 2, 3, 4, 5, 6, 1 << 23] {
            let mut case = Case::new("doses");
            let clock = case.tape.constant_u32(&[3], &[step, 0, 0]);
            let dose = doses(&mut case.tape, clock, 66, &replicas).unwrap();
            case.agree(&[dose], 0.0);
            for (replica, expected) in expected.iter().enumerate() {
                let found = case.reference(replica, &[dose]).unwrap().remove(0).data;
                for (_, slot, dose) in expected.iter().filter(|(at, ..)| *at == step) {
                    assert_eq!(found[*slot], *dose, "replica {replica}, slot {slot}, step {step}");
                }
            }
        }
    }
}
