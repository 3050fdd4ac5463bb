//! Takes a run's table in, in one pass and in bounded memory: every series thinned for the pictures, and what must see
//! every row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::charts::MANY;
use super::derived::Derived;
use super::phases::Watched;
use crate::error::Result;
use crate::record::{Catalog, Key, Manifest, RunDir, Series, Sink, scan_metrics};

/// Points of all series together, and of one at least and at most.
const POINTS: usize = 12_000_000;
const LEAST: usize = 64;
const MOST: usize = 1024;

/// A stretch of another run that a fork goes on from.
pub(super) struct Before {
    run: PathBuf,
    /// Of each replica that goes on which one it was there.
    replicas: Vec<u32>,
    /// The step at which it was left.
    until: i64,
}

impl Before {
    /// What the replicas of a run go on from, the oldest first, as far as the folders are there and hold what they held.
    pub(super) fn of(manifest: &Manifest, replicas: usize) -> Vec<Self> {
        let (mut all, mut fork) = (Vec::new(), manifest.fork.clone());
        let mut now: Vec<u32> = (0..replicas as u32).collect();
        while let Some(origin) = fork {
            let trunk = RunDir::read_manifest(&origin.run).ok().filter(|trunk| trunk.hash == origin.hash);
            let Some(trunk) = trunk else { break };
            now = now.iter().map(|own| origin.of(*own as usize)).collect();
            all.insert(0, Self { run: origin.run, replicas: now.clone(), until: origin.step as i64 });
            fork = trunk.fork;
        }
        all
    }
}

/// What a report is made of.
pub(super) struct Gathered {
    /// Every series and what was derived, thinned.
    pub(super) series: BTreeMap<Key, Series>,
    /// What each replica was seen to do.
    pub(super) watched: Vec<Watched>,
    /// The last step measured.
    pub(super) last_step: i64,
}

impl Gathered {
    /// Of a run in its folder. All of it is watched, with what it goes on from; of its series those that are wanted are kept.
    pub(super) fn read(
        run: &Path,
        manifest: &Manifest,
        catalog: &Catalog,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        let replicas = manifest.config["replicas"].as_u64().unwrap_or(1) as usize;
        let steps = manifest.config["steps"].as_u64().unwrap_or(0);
        let mut gather = Gather {
            catalog,
            wanted,
            open: Vec::new(),
            watched: (0..replicas).map(|replica| Watched::new(catalog, replica, steps)).collect(),
            derived: (0..replicas).map(|_| Derived::default()).collect(),
            step: 0,
        };
        for Before { run, replicas, until } in Before::of(manifest, replicas) {
            scan_metrics(&run, &mut History { gather: &mut gather, replicas, until, keys: Vec::new() })?;
        }
        scan_metrics(run, &mut gather)?;
        gather.end_of_step();
        let last = gather.step;
        let finished = |(key, thinned): (Key, Option<Thinned>)| Some((key, thinned?.finish_by(last)));
        let mut series: BTreeMap<Key, Series> = gather.open.into_iter().filter_map(finished).collect();
        for (replica, derived) in gather.derived.into_iter().enumerate() {
            derived.finish(replica as i32, &mut series);
        }
        let mut watched = gather.watched;
        for (replica, watched) in watched.iter_mut().enumerate() {
            watched.finish(&series, replica as i32);
        }
        Ok(Self { series, watched, last_step: last })
    }
}

struct Gather<'a> {
    catalog: &'a Catalog,
    wanted: &'a dyn Fn(&str) -> bool,
    open: Vec<(Key, Option<Thinned>)>,
    watched: Vec<Watched>,
    derived: Vec<Derived>,
    step: i64,
}

impl Gather<'_> {
    fn come_to(&mut self, step: i64) {
        if step != self.step {
            self.end_of_step();
            self.step = step;
        }
    }

    fn end_of_step(&mut self) {
        for (derived, watched) in self.derived.iter_mut().zip(&mut self.watched) {
            derived.end_of_step(self.step, watched);
        }
    }
}

impl Sink for Gather<'_> {
    fn open(&mut self, key: Key) -> Option<usize> {
        usize::try_from(key.replica).ok().filter(|replica| *replica < self.watched.len())?;
        let known = self.catalog.metrics.get(&key.metric);
        let way = match known {
            Some(metric) if metric.set => Way::Stretches { every: metric.every as i64, gap: metric.every as i64 },
            // What is counted is drawn side by side, and both ends of a band too: at the same steps.
            Some(metric)
                if key.index >= 0
                    && (metric.index.is_empty() || metric.index.len() > MANY || key.metric == "ablation.null") =>
            {
                Way::Grid { stride: 1, seen: 0 }
            }
            _ => Way::Extremes { every: known.map(|metric| metric.every as i64) },
        };
        let thinned = (self.wanted)(&key.metric).then(|| Thinned::new(way));
        self.open.push((key, thinned));
        Some(self.open.len() - 1)
    }

    fn take(&mut self, series: usize, step: i64, value: f32) {
        self.come_to(step);
        let most = (POINTS / self.open.len()).clamp(LEAST, MOST);
        let (key, thinned) = &mut self.open[series];
        if let Some(thinned) = thinned {
            thinned.push(step, value, most);
        }
        let replica = key.replica as usize;
        self.watched[replica].take(key, step as u64, value);
        self.derived[replica].take(key, value);
    }
}

/// What happened in a run before a fork left it: every replica that goes on from one of its has seen what that did.
struct History<'g, 'a> {
    gather: &'g mut Gather<'a>,
    replicas: Vec<u32>,
    until: i64,
    /// The places of each series in the fork's replicas.
    keys: Vec<Vec<Key>>,
}

impl Sink for History<'_, '_> {
    fn open(&mut self, key: Key) -> Option<usize> {
        let own = self.replicas.iter().enumerate().filter(|(_, was)| **was as i32 == key.replica);
        let keys: Vec<Key> = own.map(|(replica, _)| Key { replica: replica as i32, ..key.clone() }).collect();
        if keys.is_empty() {
            return None;
        }
        self.keys.push(keys);
        Some(self.keys.len() - 1)
    }

    fn take(&mut self, series: usize, step: i64, value: f32) {
        // What the fork measured itself at the step at which it begins counts once.
        if step >= self.until {
            return;
        }
        self.gather.come_to(step);
        let Gather { watched, derived, .. } = &mut *self.gather;
        for key in &self.keys[series] {
            let own = key.replica as usize;
            watched[own].take(key, step as u64, value);
            derived[own].take(key, value);
        }
    }
}

/// How a series is thinned once it is long.
#[derive(Clone, Copy)]
enum Way {
    /// Of each stretch the smallest and the largest value. What is no number has no row: where a point is missing behind
    /// `every` steps a gap is drawn, if that is known.
    Extremes { every: Option<i64> },
    /// Every second, fourth, eighth ... measurement, the same ones in every series that is measured as often.
    Grid { stride: usize, seen: usize },
    /// First and last step of each stretch of measurements without a gap; gaps are passed over where stretches are many.
    Stretches { every: i64, gap: i64 },
}

/// A series that stays short.
pub(super) struct Thinned {
    way: Way,
    points: Vec<(i64, f32)>,
    last: Option<(i64, f32)>,
}

impl Thinned {
    fn new(way: Way) -> Self {
        Self { way, points: Vec::new(), last: None }
    }

    /// One that keeps its extremes.
    pub(super) fn extremes() -> Self {
        Self::new(Way::Extremes { every: None })
    }

    /// Adds a point; `most` are kept.
    pub(super) fn push(&mut self, step: i64, value: f32, most: usize) {
        let before = self.last.replace((step, value));
        match &mut self.way {
            Way::Extremes { every } => {
                let missing = before.zip(*every).map(|((last, _), every)| last + every).filter(|at| *at < step);
                self.points.extend(missing.map(|at| (at, f32::NAN)));
                self.points.push((step, value));
            }
            Way::Grid { stride, seen } => {
                if seen.is_multiple_of(*stride) {
                    self.points.push((step, value));
                }
                *seen += 1;
            }
            Way::Stretches { gap, .. } => match self.points.last_mut() {
                Some(end) if step - end.0 <= *gap => end.0 = step,
                _ => self.points.extend([(step, value); 2]),
            },
        }
        while self.points.len() > most {
            self.halve();
        }
    }

    fn halve(&mut self) {
        let before = std::mem::take(&mut self.points);
        match &mut self.way {
            Way::Extremes { .. } => {
                for four in before.chunks(4) {
                    let values: Vec<f32> = four.iter().map(|(_, value)| *value).collect();
                    self.points.extend(extremes(&values).into_iter().map(|at| four[at]));
                }
            }
            Way::Grid { stride, .. } => {
                *stride *= 2;
                self.points.extend(before.into_iter().step_by(2));
            }
            Way::Stretches { gap, .. } => {
                *gap *= 2;
                for stretch in before.chunks_exact(2) {
                    match self.points.last_mut() {
                        Some(end) if stretch[0].0 - end.0 <= *gap => end.0 = stretch[1].0,
                        _ => self.points.extend_from_slice(stretch),
                    }
                }
            }
        }
    }

    /// The same of a run that was measured up to a step: no stretch ends behind it.
    fn finish_by(self, last: i64) -> Series {
        let stretches = matches!(self.way, Way::Stretches { .. });
        let mut series = self.finish();
        if stretches {
            // What is measured once has a width too.
            series.steps.iter_mut().skip(1).step_by(2).for_each(|end| *end = (*end).min(last.max(1)));
        }
        series
    }

    /// Its points. The last is the last that was measured; a stretch ends where the next measurement would be.
    pub(super) fn finish(mut self) -> Series {
        match self.way {
            Way::Extremes { .. } => {
                let at_end = self.points.last().map(|point| point.0);
                self.points.extend(self.last.filter(|last| at_end != Some(last.0)));
            }
            Way::Grid { .. } => {}
            Way::Stretches { every, .. } => self.points.iter_mut().skip(1).step_by(2).for_each(|end| end.0 += every),
        }
        let (steps, values) = self.points.into_iter().unzip();
        Series { steps, values }
    }
}

/// Positions of the smallest and the largest value and of the first gap, in order.
pub(super) fn extremes(values: &[f32]) -> Vec<usize> {
    let numbers = || (0..values.len()).filter(|at| !values[*at].is_nan());
    let by_value = |a: &usize, b: &usize| values[*a].total_cmp(&values[*b]);
    let gap = values.iter().position(|value| value.is_nan());
    let mut kept: Vec<usize> =
        [numbers().min_by(by_value), numbers().max_by(by_value), gap].into_iter().flatten().collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

/// Points of a derived series.
pub(super) const DERIVED: usize = MOST;

#[cfg(test)]
mod tests {
    use super::*;

    fn thinned(way: Way, points: impl Iterator<Item = (i64, f32)>) -> Series {
        let mut thinned = Thinned::new(way);
        for (step, value) in points {
            thinned.push(step, value, 100);
            assert!(thinned.points.len() <= 101);
        }
        thinned.finish()
    }

    #[test]
    fn extremes_and_the_end_stay() {
        let value = |step: i64| match step {
            4321 => 50.0,
            8765 => -50.0,
            step => (step as f32 * 0.01).sin(),
        };
        let short = thinned(Way::Extremes { every: None }, (0..10_000).map(|step| (step, value(step))));
        assert!(short.steps.len() <= 102 && short.steps.windows(2).all(|pair| pair[0] < pair[1]));
        for step in [4321, 8765, 9999] {
            let at = short.steps.binary_search(&step).unwrap();
            assert_eq!(short.values[at], value(step));
        }
    }

    #[test]
    fn what_was_looked_for_and_is_no_number_leaves_a_gap() {
        let of = |steps: &[i64]| {
            let mut thinned = Thinned::new(Way::Extremes { every: Some(200) });
            steps.iter().for_each(|step| thinned.push(*step, 1.0, 100));
            thinned.finish()
        };
        let gap = of(&[0, 200, 800, 1000]);
        assert_eq!(gap.steps, [0, 200, 400, 800, 1000]);
        assert_eq!(
            gap.values.iter().map(|value| value.is_nan()).collect::<Vec<_>>(),
            [false, false, true, false, false]
        );
        assert_eq!(of(&[0, 200, 400, 500]).steps, [0, 200, 400, 500], "the end of a run is no gap");
        // However often it is halved, gaps stay, and so does what is highest.
        let steps: Vec<i64> = (0..5_000).filter(|at| at % 10 != 7).map(|at| 200 * at).collect();
        let mut many = Thinned::new(Way::Extremes { every: Some(200) });
        steps.iter().for_each(|step| many.push(*step, if *step == 400_000 { 9.0 } else { 1.0 }, 100));
        let many = many.finish();
        assert!(
            many.steps.len() <= 101 && many.values.iter().any(|value| value.is_nan()) && many.values.contains(&9.0)
        );
    }

    #[test]
    fn series_on_a_grid_keep_the_same_steps() {
        let way = Way::Grid { stride: 1, seen: 0 };
        let of = |scale: f32| thinned(way, (0..777).map(|at| (5 * at, scale * at as f32)));
        let (a, b) = (of(1.0), of(-2.0));
        assert_eq!(a.steps, b.steps);
        assert!(a.steps.len() > 50 && a.values.iter().zip(&b.values).all(|(a, b)| -2.0 * a == *b));
    }

    #[test]
    fn stretches_are_joined_where_they_are_many() {
        let way = Way::Stretches { every: 10, gap: 10 };
        // There at steps 0 to 50, and at 200.
        let few = thinned(way, [0, 10, 20, 30, 40, 50, 200].into_iter().map(|step| (step, 1.0)));
        assert_eq!(few.steps, [0, 60, 200, 210]);
        // Gaps of thirty steps are closed, one of twenty thousand is not.
        let step = |at: i64| 30 * at + if at < 9_000 { 0 } else { 20_000 };
        let many = thinned(way, (0..10_000).map(|at| (step(at), 1.0)));
        assert_eq!(many.steps, [0, 30 * 8_999 + 10, 290_000, 319_970 + 10]);
        // A run that ends before the next measurement would be, and one that is measured once.
        let one = |last: i64| {
            let mut thinned = Thinned::new(way);
            thinned.push(0, 1.0, 100);
            thinned.finish_by(last).steps
        };
        assert_eq!([one(40), one(7), one(0)], [[0, 10], [0, 7], [0, 1]]);
    }
}
