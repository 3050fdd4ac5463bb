//! A rise from one level to another: how high, when, and how quickly.

use super::autoregression::{handed_on, inflation, unless_wandering};
use super::errors::Estimate;
use super::missing::Missing;
use super::systems::Cholesky;

/// A rise, or a fall: y = floor + amplitude/(1 + exp(-(x - centre)/width)), fitted by least squares.
///
/// Errors are √(s² (JᵀJ)⁻¹ (1 + ρ)/(1 - ρ)) with the correlation ρ of neighbouring residuals: curves of training wander about any
/// fit, and without it errors come out several times too small. s² is Σ e²/(n - 4 (1 + ρ)/(1 - ρ)). An [`Onset`](super::Onset) says
/// when a threshold was first reached; this says when half of a rise was done, whatever the threshold, and how sure that is.
///
/// ```
/// use thermoscope::stats::Rise;
///
/// let steps: Vec<f64> = (0..100).map(|at| 20.0 * f64::from(at)).collect();
/// let noise = |step: f64| 0.02 * (step * 12.9898).sin();
/// let accuracy: Vec<f64> = steps.iter().map(|s| 0.1 + 0.8 / (1.0 + (-(s - 900.0) / 60.0).exp()) + noise(*s)).collect();
/// let rise = Rise::of(&steps, &accuracy)?;
/// assert!((rise.centre.value - 900.0).abs() < 4.0 * rise.centre.error && rise.centre.error < 20.0);
/// assert!(Rise::of(&steps, &steps.iter().map(|step| noise(*step)).collect::<Vec<_>>()).is_err());
/// # Ok::<(), thermoscope::stats::Missing>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rise {
    /// Level long before.
    pub floor: Estimate,
    /// Level long after, less the floor; negative of a fall.
    pub amplitude: Estimate,
    /// Where half of it is done.
    pub centre: Estimate,
    /// From a tenth to nine tenths of it takes 4.39 of these.
    pub width: Estimate,
    /// By how much correlated residuals raise the variances of these: (1 + ρ)/(1 - ρ), at least 1.
    pub inflation: f64,
}

/// Floor, amplitude, centre and the logarithm of the width, of x from 0 to 1 and y in units of its spread.
type Parameters = [f64; 4];

impl Rise {
    /// Of values y at places x in order.
    ///
    /// That there is a rise is decided as changes are: it must save Schwarz's ln n for each number that it adds, of as many
    /// independent values as the residuals are worth: three over a level, and two over a straight line. So of 100 series without
    /// one at most 2 have one, up to ρ = 0.95, and of random walks 3.
    ///
    /// # Errors
    /// [`Missing`] of fewer than ten values, of what is no finite number or not in order, of what wanders about the fit too slowly to
    /// tell (see [`ChangePoints::of`](super::ChangePoints::of)), where there is no rise, where less than
    /// most of it lies among the measurements, and where it may be quicker than these: [`ChangePoints`](super::ChangePoints)
    /// date a jump.
    pub fn of(x: &[f64], y: &[f64]) -> Result<Self, Missing> {
        if x.len() != y.len() {
            return Err(Missing::Lengths(x.len(), y.len()));
        }
        Missing::unless_enough("values", x.len(), 10)?;
        Missing::unless_finite(x)?;
        Missing::unless_finite(y)?;
        if x.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Missing::Because("places are not in order, each behind the one before"));
        }
        let (count, range) = (x.len(), x[x.len() - 1] - x[0]);
        let n = count as f64;
        let mean = y.iter().sum::<f64>() / n;
        let spread = (y.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / n).sqrt();
        if spread <= 4.0 * f64::EPSILON * mean.abs() {
            return Err(Missing::Constant(0));
        }
        let u: Vec<f64> = x.iter().map(|at| (at - x[0]) / range).collect();
        let v: Vec<f64> = y.iter().map(|y| (y - mean) / spread).collect();
        let fit = fit(&u, &v);
        let [floor, amplitude, centre, width] = [fit[0], fit[1], fit[2], fit[3].exp()];
        let left: Vec<f64> = u.iter().zip(&v).map(|(u, v)| v - curve(&fit, *u)).collect();
        let squares: f64 = left.iter().map(|left| left * left).sum();
        let correlation = handed_on([left.as_slice()].into_iter(), 4);
        let inflation = inflation(correlation);
        let worth = n / inflation;
        unless_wandering(count, correlation)?;
        // Of v the sum of squares about its mean is n.
        if worth * (n / squares).ln() < 3.0 * worth.ln() {
            return Err(Missing::Because("no rise: a level that stays fits as well"));
        }
        if worth * (squares_about_line(&u, &v) / squares).ln() < 2.0 * worth.ln() {
            return Err(Missing::Because("it rises all along: a straight line fits as well"));
        }
        let by = u.partition_point(|u| *u < centre);
        if by == 0 || by == count || centre - 2.0 * width < 0.0 || centre + 2.0 * width > 1.0 {
            return Err(Missing::Because("only a part of the rise lies among the measurements: measure for longer"));
        }
        if 4.0 * width < u[by] - u[by - 1] {
            return Err(Missing::Because(
                "it rises as quickly as it was measured, as far as its noise tells: take its date from a change point",
            ));
        }
        let (normal, _) = normal_equations(&u, &v, &fit);
        let Some(inverse) = Cholesky::of(&normal, 4).inverse_diagonal() else {
            return Err(Missing::Because("the values do not tell its height, time and width apart"));
        };
        let error = |at: usize| (inverse[at] * squares / (n - 4.0 * inflation) * inflation).sqrt();
        Ok(Self {
            floor: Estimate { value: mean + spread * floor, error: spread * error(0) },
            amplitude: Estimate { value: spread * amplitude, error: spread * error(1) },
            centre: Estimate { value: x[0] + range * centre, error: range * error(2) },
            width: Estimate { value: range * width, error: range * width * error(3) },
            inflation,
        })
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn curve(of: &Parameters, u: f64) -> f64 {
    of[0] + of[1] * sigmoid((u - of[2]) / of[3].exp())
}

/// Least squares: from the best of a grid of centres and widths, each with its best floor and amplitude, by the method of
/// Levenberg and Marquardt.
fn fit(u: &[f64], v: &[f64]) -> Parameters {
    let narrowest = u.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min) / 20.0;
    let widths = (0..12).map(|at| 0.5 * 0.5f64.powi(at)).filter(|width| *width >= narrowest);
    let starts = widths.flat_map(|width| (0..=40).map(move |at| (f64::from(at) / 40.0, width)));
    let start = |(centre, width): (f64, f64)| {
        let [mut s, mut ss, mut sv] = [0.0; 3];
        for (u, v) in u.iter().zip(v) {
            let value = sigmoid((u - centre) / width);
            (s, ss, sv) = (s + value, ss + value * value, sv + value * v);
        }
        // v has mean 0.
        let n = u.len() as f64;
        let amplitude = sv / (ss - s * s / n);
        (amplitude * sv, [-amplitude * s / n, amplitude, centre, width.ln()])
    };
    let starts = starts.map(start).filter(|(gain, _)| gain.is_finite());
    let mut best = starts.max_by(|a, b| a.0.total_cmp(&b.0)).map_or([0.0, 0.0, 0.5, -2.0], |(_, start)| start);
    let squares = |of: &Parameters| u.iter().zip(v).map(|(u, v)| (v - curve(of, *u)).powi(2)).sum::<f64>();
    let (mut least, mut damping) = (squares(&best), 1e-3);
    for _ in 0..200 {
        let (mut normal, right) = normal_equations(u, v, &best);
        (0..4).for_each(|at| normal[at * 5] *= 1.0 + damping);
        let step = Cholesky::of(&normal, 4).solve(&right);
        let mut next = best;
        next.iter_mut().zip(&step).for_each(|(next, step)| *next += step);
        // A step in front of which nothing changes any more leads nowhere.
        next[3] = next[3].clamp(narrowest.ln(), 3.0);
        next[2] = next[2].clamp(-2.0, 3.0);
        let now = squares(&next);
        if now < least {
            let gained = least - now;
            (best, least, damping) = (next, now, damping / 5.0);
            if gained <= 1e-15 * now {
                break;
            }
        } else {
            damping *= 4.0;
            if damping > 1e12 {
                break;
            }
        }
    }
    best
}

/// JᵀJ [4, 4] and Jᵀ of the residuals.
fn normal_equations(u: &[f64], v: &[f64], of: &Parameters) -> (Vec<f64>, Vec<f64>) {
    let (mut normal, mut right) = (vec![0.0; 16], vec![0.0; 4]);
    let width = of[3].exp();
    for (u, v) in u.iter().zip(v) {
        let along = (u - of[2]) / width;
        let s = sigmoid(along);
        let slope = of[1] * s * (1.0 - s);
        let row = [1.0, s, -slope / width, -slope * along];
        let left = v - of[0] - of[1] * s;
        for i in 0..4 {
            right[i] += row[i] * left;
            (0..4).for_each(|j| normal[4 * i + j] += row[i] * row[j]);
        }
    }
    (normal, right)
}

fn squares_about_line(u: &[f64], v: &[f64]) -> f64 {
    let n = u.len() as f64;
    let mean = u.iter().sum::<f64>() / n;
    let slope =
        u.iter().zip(v).map(|(u, v)| (u - mean) * v).sum::<f64>() / u.iter().map(|u| (u - mean).powi(2)).sum::<f64>();
    u.iter().zip(v).map(|(u, v)| (v - slope * (u - mean)).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{assert_at_most, assert_share, normals, wandering};
    use crate::stats::golden::{each, golden, numbers};

    #[test]
    fn fits_and_errors_are_those_of_scipy() {
        for case in each(&golden("logistic")) {
            let rise = Rise::of(&numbers(&case["x"]), &numbers(&case["y"])).unwrap();
            let found = [rise.floor, rise.amplitude, rise.centre, rise.width];
            for (own, (value, error)) in
                found.iter().zip(numbers(&case["values"]).into_iter().zip(numbers(&case["errors"])))
            {
                // Both stop where the sum of squares does not change: to its root of what doubles tell.
                assert!((own.value - value).abs() < 1e-5 * error, "{own:?} for {value}");
                let n = each(&case["x"]).len() as f64;
                let independent = own.error * ((n - 4.0 * rise.inflation) / (n - 4.0) / rise.inflation).sqrt();
                assert!((independent / error - 1.0).abs() < 1e-4, "{independent} for {error}");
            }
        }
    }

    fn places(count: usize) -> Vec<f64> {
        (0..count).map(|at| 100.0 + 50.0 * at as f64).collect()
    }

    fn rising(seed: u64, correlation: f64, amplitude: f64) -> Result<Rise, Missing> {
        let noise = wandering(seed, 120, correlation);
        let y: Vec<f64> =
            places(120).iter().zip(noise).map(|(x, e)| 3.0 + amplitude * sigmoid((x - 2600.0) / 250.0) + e).collect();
        Rise::of(&places(120), &y)
    }

    #[test]
    fn intervals_hold_the_centre_and_the_width() {
        for (correlation, share) in [(0.0, 0.9), (0.6, 0.87)] {
            let (mut found, mut centre, mut width) = (0, 0, 0);
            for seed in 0..150 {
                let Ok(rise) = rising(seed, correlation, 6.0) else { continue };
                let holds = |of: Estimate, truth: f64| usize::from((of.value - truth).abs() <= 1.645 * of.error);
                (found, centre, width) =
                    (found + 1, centre + holds(rise.centre, 2600.0), width + holds(rise.width, 250.0));
            }
            assert!(found >= 145, "{found} of 150 found");
            assert_share(centre, found, share, &format!("centres at correlation {correlation}"));
            assert_share(width, found, share, &format!("widths at correlation {correlation}"));
        }
    }

    #[test]
    fn noise_does_not_rise() {
        for correlation in [0.0, 0.5, 0.8, 0.95] {
            let risen = (0..100).filter(|seed| rising(*seed, correlation, 0.0).is_ok()).count();
            assert_at_most(risen, 100, 0.02, &format!("rises in noise of correlation {correlation}"));
        }
        // A rise of four standard deviations is one; of two, a line or a jump fits one in three as well.
        let found = [4.0, 2.0].map(|amplitude| (0..100).filter(|seed| rising(*seed, 0.0, amplitude).is_ok()).count());
        assert!(found[0] >= 95 && (50..85).contains(&found[1]), "{found:?} of 100");
    }

    #[test]
    fn what_is_no_whole_rise_says_what_it_is() {
        let x = places(60);
        let noise = normals(4, 60);
        let of = |y: &dyn Fn(f64) -> f64| {
            let y: Vec<f64> = x.iter().zip(&noise).map(|(x, e)| y(*x) + 0.05 * e).collect();
            Rise::of(&x, &y)
        };
        let words = |found: Result<Rise, Missing>| found.unwrap_err().to_string();
        assert!(words(of(&|_| 1.0)).starts_with("no rise"));
        assert!(words(of(&|x| 0.001 * x)).starts_with("it rises all along"));
        assert!(words(of(&|x| 9.0 * sigmoid((x - 3000.0) / 300.0))).starts_with("only a part"));
        assert!(words(of(&|x| 9.0 * sigmoid((x - 400.0) / 300.0))).starts_with("only a part"));
        assert!(words(of(&|x| f64::from(x > 1010.0))).starts_with("it rises as quickly"));
        let fall = of(&|x| -2.0 * sigmoid((x - 1500.0) / 100.0)).unwrap();
        assert!((fall.amplitude.value + 2.0).abs() < 0.1 && (fall.centre.value - 1500.0).abs() < 20.0, "{fall:?}");
        assert_eq!(Rise::of(&x, &[1.0; 60]), Err(Missing::Constant(0)));
        assert_eq!(Rise::of(&x, &[1.0; 59]), Err(Missing::Lengths(60, 59)));
        assert!(Rise::of(&[1.0; 60], &noise).is_err() && Rise::of(&x[..9], &noise[..9]).is_err());
        // Units do not matter.
        let y: Vec<f64> = x.iter().zip(&noise).map(|(x, e)| sigmoid((x - 1500.0) / 100.0) + 0.05 * e).collect();
        let rise = Rise::of(&x, &y).unwrap();
        let other = Rise::of(
            &x.iter().map(|x| 1e-3 * x - 7.0).collect::<Vec<_>>(),
            &y.iter().map(|y| 1e5 - 40.0 * y).collect::<Vec<_>>(),
        );
        let other = other.unwrap();
        assert!((other.centre.value - (1e-3 * rise.centre.value - 7.0)).abs() < 1e-6);
        assert!((other.amplitude.error / (40.0 * rise.amplitude.error) - 1.0).abs() < 1e-4);
    }
}
