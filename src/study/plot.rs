//! Pictures of curves, as SVG.

use std::fmt::Write as _;

use super::effects::{Asked, Came, Curve};

/// Width and height, and what is left around the axes: left, right, top, bottom.
const SIZE: [f64; 2] = [560.0, 230.0];
const MARGIN: [f64; 4] = [62.0, 12.0, 10.0, 38.0];

/// Colours of the mean, of windows, of times with an effect, of what chance gives.
const MEAN: &str = "#b45309";
pub(super) const WINDOW: &str = "#f59e0b";
pub(super) const EFFECT: &str = "#fde8c4";
pub(super) const CHANCE: &str = "#e2e8f0";
/// Of runs without a pulse, in the window, and at other times: see [`super::effects::Left::whose`].
pub(super) const GROUPS: [&str; 3] = ["#334155", "#d97706", "#0284c7"];

/// Axes and what is drawn into them.
struct Plot {
    x: [f64; 2],
    y: [f64; 2],
    svg: String,
}

impl Plot {
    fn new(label: &str, x: [f64; 2], y: [f64; 2]) -> Self {
        let svg = format!(
            "<svg width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"{2}\">",
            SIZE[0],
            SIZE[1],
            escape(label)
        );
        Self { x, y, svg }
    }

    fn at(&self, x: f64, y: f64) -> [f64; 2] {
        let share = |value: f64, [low, high]: [f64; 2]| ((value - low) / (high - low)).clamp(-0.02, 1.02);
        let [left, right, top, bottom] = MARGIN;
        [
            left + share(x, self.x) * (SIZE[0] - left - right),
            SIZE[1] - bottom - share(y, self.y) * (SIZE[1] - top - bottom),
        ]
    }

    fn rect(&mut self, x: [f64; 2], y: [f64; 2], colour: &str, opacity: f64) {
        let ([left, bottom], [right, top]) = (self.at(x[0], y[0]), self.at(x[1], y[1]));
        let _ = write!(
            self.svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>",
            (right - left).max(1.0),
            (bottom - top).max(0.5)
        );
    }

    fn path(&mut self, points: &[[f64; 2]], style: &str) {
        let places: Vec<String> = points
            .iter()
            .map(|[x, y]| {
                let [x, y] = self.at(*x, *y);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = write!(self.svg, "<polyline points=\"{}\" fill=\"none\" {style}/>", places.join(" "));
    }

    fn dot(&mut self, x: f64, y: f64, size: f64, colour: &str, title: &str) {
        let [x, y] = self.at(x, y);
        let _ = write!(
            self.svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size}\" fill=\"{colour}\"><title>{}</title></circle>",
            escape(title)
        );
    }

    fn text(&mut self, [x, y]: [f64; 2], anchor: &str, text: &str) {
        let _ = write!(self.svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text));
    }

    /// Ticks and names of both axes; then the picture is done.
    fn done(mut self, x: &str, y: &str) -> String {
        let [left, right, top, bottom] = MARGIN;
        for value in ticks(self.x) {
            let [at, _] = self.at(value, self.y[0]);
            self.text([at, SIZE[1] - bottom + 14.0], "middle", &short(value));
        }
        for value in ticks(self.y) {
            let [_, at] = self.at(self.x[0], value);
            self.text([left - 6.0, at + 4.0], "end", &short(value));
            let _ = write!(
                self.svg,
                "<line x1=\"{left}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#000\" stroke-opacity=\"0.06\"/>",
                SIZE[0] - right
            );
        }
        self.text([(left + SIZE[0] - right) / 2.0, SIZE[1] - 8.0], "middle", x);
        let middle = (top + SIZE[1] - bottom) / 2.0;
        let _ = write!(
            self.svg,
            "<text x=\"12\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 12 {middle})\">{}</text></svg>",
            escape(y)
        );
        self.svg
    }
}

/// The sensitivity curve, its band of chance, its windows, and when the trunk's seeds came to events.
pub(super) fn curve(curve: &Curve, title: &str, rate: f64, marks: &[(String, f64)]) -> String {
    let times: Vec<f64> = curve.points.iter().map(|point| point.time as f64).collect();
    let (first, last) = (times[0], times[times.len() - 1]);
    let gap = (last - first) / (times.len() - 1) as f64;
    let band = |seeds: usize| curve.bounds.map_or(0.0, |bounds| bounds.effect / (seeds.max(1) as f64).sqrt());
    let finite = |value: &f64| value.is_finite();
    let mut reach: Vec<f64> = curve.points.iter().flat_map(|point| point.values.iter().copied().flatten()).collect();
    reach.extend(curve.points.iter().map(|point| band(point.seeds)).flat_map(|band| [-band, band]).filter(finite));
    let (low, high) = reach.iter().fold((0.0f64, 0.0f64), |(low, high), value| (low.min(*value), high.max(*value)));
    // A curve of nothing has a height too.
    let room = if high > low { (high - low) * 0.06 } else { 1.0 };
    let x = [first - gap / 2.0, last + gap / 2.0];
    let y = [low - room, high + room];
    let mut plot = Plot::new(title, x, y);
    // A time stands for what lies nearer to it than to others.
    let reach = |from: u64, until: u64| {
        let at = |time: u64| curve.points.iter().position(|point| point.time == time).unwrap_or(0);
        let (from, until) = (at(from), at(until));
        let left = if from == 0 { x[0] } else { (times[from - 1] + times[from]) / 2.0 };
        let right = if until + 1 == times.len() { x[1] } else { (times[until] + times[until + 1]) / 2.0 };
        [left, right]
    };
    if curve.bounds.is_some() {
        for point in curve.points.iter().filter(|point| point.seeds > 0) {
            let band = band(point.seeds).min(y[1] - y[0]);
            plot.rect(reach(point.time, point.time), [-band, band], CHANCE, 0.9);
        }
    }
    curve.effective.iter().for_each(|part| plot.rect(reach(part.times[0], part.times[1]), y, EFFECT, 0.55));
    curve.windows.iter().for_each(|part| plot.rect(reach(part.times[0], part.times[1]), y, WINDOW, 0.4));
    plot.path(&[[x[0], 0.0], [x[1], 0.0]], "stroke=\"#64748b\"");
    if let Some(bounds) = curve.bounds.filter(|bounds| bounds.time.is_finite()) {
        for side in [-1.0, 1.0] {
            let limit = |seeds: usize| bounds.level + side * bounds.time / (seeds as f64).sqrt();
            let line: Vec<[f64; 2]> = curve
                .points
                .iter()
                .filter(|point| point.seeds > 0)
                .map(|point| [point.time as f64, limit(point.seeds)])
                .filter(|[_, limit]| (y[0]..=y[1]).contains(limit))
                .collect();
            plot.path(&line, "stroke=\"#64748b\" stroke-dasharray=\"2 3\"");
        }
    }
    for (name, at) in marks.iter().filter(|(_, at)| (x[0]..=x[1]).contains(at)) {
        plot.path(&[[*at, y[0]], [*at, y[1]]], "stroke=\"#1f5fa8\" stroke-dasharray=\"5 3\" stroke-opacity=\"0.6\"");
        let [place, _] = plot.at(*at, y[1]);
        plot.text([place + 3.0, MARGIN[2] + 10.0], "start", name);
    }
    for point in &curve.points {
        for (seed, value) in point.values.iter().enumerate() {
            let Some(value) = value else { continue };
            let title = format!("seed {seed}, pulse at step {}: {}", point.time, signed(&curve.asked, *value));
            plot.dot(point.time as f64, *value, 1.8, "#94a3b8", &title);
        }
    }
    let means: Vec<[f64; 2]> = curve.points.iter().filter_map(|point| Some([point.time as f64, point.mean?])).collect();
    plot.path(&means, &format!("stroke=\"{MEAN}\" stroke-width=\"1.6\""));
    for point in &curve.points {
        let Some(mean) = point.mean else { continue };
        let at = point.time as f64;
        if let Some(error) = point.error {
            plot.path(&[[at, mean - error], [at, mean + error]], &format!("stroke=\"{MEAN}\" stroke-width=\"1.6\""));
        }
        let p = |p: Option<f64>| p.map_or_else(|| "not told".to_owned(), |p| format!("{p:.3}"));
        let title = format!(
            "pulse at step {}: {} ± {:.3}, {} seeds; p of an effect {}, of its time {} (rate {rate} over all times)",
            point.time,
            signed(&curve.asked, mean),
            point.error.unwrap_or(f64::NAN),
            point.seeds,
            p(point.p_effect),
            p(point.p_time),
        );
        plot.dot(at, mean, 3.4, MEAN, &title);
    }
    let what = match &curve.asked {
        Asked::Delay(event) => format!("delay of {event}, steps"),
        Asked::Last(metric) => format!("change of {metric}"),
    };
    plot.done("step at which the pulse begins", &what)
}

/// Shares of runs that have not come to an event.
pub(super) fn survival(came: &Came, event: &str) -> String {
    let end = came.until as f64;
    let mut plot = Plot::new(&format!("runs without {event}"), [0.0, end * 1.01], [0.0, 1.04]);
    for left in &came.groups {
        let colour = GROUPS[left.whose];
        let mut line = vec![[0.0, 1.0]];
        let mut share = 1.0;
        for [at, left] in left.falls.iter().filter(|fall| fall[0] <= end) {
            line.extend([[*at, share], [*at, *left]]);
            share = *left;
        }
        line.push([end, share]);
        plot.path(&line, &format!("stroke=\"{colour}\" stroke-width=\"1.8\""));
    }
    plot.done("step", &format!("share of runs without {event}"))
}

fn signed(asked: &Asked, value: f64) -> String {
    let text = match asked {
        Asked::Delay(_) => format!("{value:+.0}"),
        Asked::Last(_) => format!("{value:+.3}"),
    };
    text.replace('-', "\u{2212}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// Some round numbers between two.
fn ticks([low, high]: [f64; 2]) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|by| by * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..).map(|at| at as f64 * step).take_while(|value| *value <= high).take(20).collect()
}

fn short(value: f64) -> String {
    let text = if value == 0.0 {
        "0".to_owned()
    } else if value.abs() >= 1e5 || value.abs() < 1e-3 {
        format!("{value:.1e}")
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    text.replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_lie_within() {
        assert_eq!(ticks([0.0, 2000.0]), [0.0, 500.0, 1000.0, 1500.0, 2000.0]);
        assert_eq!(ticks([-0.031, 0.02]).iter().map(|x| short(*x)).collect::<Vec<_>>(), ["−0.02", "0", "0.02"]);
        assert_eq!(ticks([-3.0, 4.1]), [-2.0, 0.0, 2.0, 4.0]);
        assert_eq!(["1", "−250", "0.25"], [1.0, -250.0, 0.25].map(short).each_ref().map(String::as_str));
    }
}
