//! What single curves did: when half of a rise was done, when they jumped, and which of two moves first.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::charts::by_card;
use super::Said;
use super::events::Number;
use super::members::{Member, Party};
use crate::error::{Error, Result};
use crate::record::{Described, Key, Series, read_metrics};
use crate::stats::{Change, ChangePoints, Lag, Missing, Rise, at_least};

/// Values of a series at most: of longer ones, neighbours are averaged.
const VALUES: usize = 2000;
/// Series of a metric that are looked at where none is named.
const SERIES: usize = 6;
/// Names that a message lists.
const LISTED: usize = 200;
/// Draws of every interval and null here, and their seed.
const DRAWS: usize = 500;
/// Lags that are looked at to either side, in measurements, where series are long enough.
const LAGS: usize = 20;

/// A series that is asked for: a metric, and its place where it has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) metric: String,
    pub(super) place: Option<String>,
}

impl Wanted {
    /// `METRIC` or `METRIC@PLACE`.
    pub(super) fn of(text: &str) -> Self {
        match text.split_once('@') {
            Some((metric, place)) => Self { metric: metric.to_owned(), place: Some(place.to_owned()) },
            None => Self { metric: text.to_owned(), place: None },
        }
    }
}

/// A curve of an arm.
#[derive(Serialize)]
pub(super) struct Curve {
    pub(super) metric: String,
    /// Its place, where the metric has several.
    pub(super) place: String,
    pub(super) arm: String,
    pub(super) replicas: Vec<OfReplica>,
    /// Median step at which half of the rise is done, over replicas that have one, the least and the greatest.
    pub(super) centre: Option<[f64; 3]>,
}

/// The same of one replica.
#[derive(Serialize)]
pub(super) struct OfReplica {
    pub(super) replica: String,
    /// Steps between two values that were looked at: measurements, or means of as many as leave [`VALUES`].
    pub(super) every: i64,
    pub(super) rise: Said<OfRise>,
    pub(super) changes: Said<Vec<OfChange>>,
}

/// A rise or fall.
#[derive(Serialize)]
pub(super) struct OfRise {
    /// Step at which half of it is done.
    pub(super) centre: Number,
    /// From a tenth to nine tenths it takes 4.39 of these steps.
    pub(super) width: Number,
    pub(super) floor: Number,
    pub(super) amplitude: Number,
}

/// A jump.
#[derive(Serialize)]
pub(super) struct OfChange {
    pub(super) step: i64,
    /// Where it may have been, with 95 % confidence.
    pub(super) interval: [i64; 2],
    pub(super) levels: [f64; 2],
}

/// Which of two series moves first.
#[derive(Serialize)]
pub(super) struct Lags {
    pub(super) first: String,
    pub(super) second: String,
    pub(super) arm: String,
    pub(super) replicas: Vec<OfLag>,
    /// Replicas with p of at most 0.05, in which the second follows, and in which it leads.
    pub(super) follows: usize,
    pub(super) leads: usize,
    /// Sign test of these.
    pub(super) p: f64,
}

/// The same of one replica.
#[derive(Serialize)]
pub(super) struct OfLag {
    pub(super) replica: String,
    pub(super) lag: Said<Found>,
}

/// A lag, in steps; positive where the second series follows.
#[derive(Serialize)]
pub(super) struct Found {
    pub(super) lag: i64,
    pub(super) interval: [i64; 2],
    pub(super) correlation: f64,
    pub(super) p: f64,
    /// Steps between measurements.
    pub(super) every: i64,
}

/// A series by member, metric and place, whole.
pub(super) type Whole = BTreeMap<(usize, String, String), Series>;

/// Whole series of the metrics wanted, of every member that counts.
///
/// # Errors
/// Where a table cannot be read, or no run has what is asked for.
pub(super) fn whole(party: &Party, wanted: &[Wanted]) -> Result<Whole> {
    let mut all = Whole::new();
    for (number, run) in party.runs.iter().enumerate() {
        let series = read_metrics(&run.dir, |metric| wanted.iter().any(|wanted| wanted.metric == metric))?;
        let members = party.members.iter().enumerate().filter(|(_, member)| member.run == number);
        for (at, member) in members.filter(|(_, member)| member.copy_of.is_none()) {
            let own = |key: &Key| key.replica == member.replica as i32;
            let own: BTreeMap<Key, Series> =
                series.iter().filter(|(key, _)| own(key)).map(|(key, s)| (key.clone(), s.clone())).collect();
            let metrics = wanted.iter().map(|wanted| &wanted.metric).collect::<std::collections::BTreeSet<_>>();
            for metric in metrics {
                let unknown = Described::default();
                let card = run.catalog.metrics.get(metric).unwrap_or(&unknown);
                for (name, _, series) in by_card(metric, card, &own) {
                    let place = if name == *metric { String::new() } else { name };
                    all.insert((at, metric.clone(), place), series.clone());
                }
            }
        }
    }
    for asked in wanted {
        let places: Vec<&String> =
            all.keys().filter(|(_, metric, _)| *metric == asked.metric).map(|key| &key.2).collect();
        let known = asked.place.as_ref().is_none_or(|place| places.contains(&place));
        if places.is_empty() || !known {
            return Err(unknown(party, asked, &places));
        }
    }
    Ok(all)
}

fn unknown(party: &Party, asked: &Wanted, places: &[&String]) -> Error {
    let list = |names: Vec<&str>| {
        let mut names = names;
        names.sort_unstable();
        names.dedup();
        let more = names.len().saturating_sub(LISTED);
        names.truncate(LISTED);
        names.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
    };
    Error::Refused(match &asked.place {
        Some(place) if places.iter().any(|known| !known.is_empty()) => format!(
            "{}@{place}: it has no such place; it has {}",
            asked.metric,
            list(places.iter().map(|place| place.as_str()).collect())
        ),
        Some(place) if !places.is_empty() => {
            format!("{}@{place}: it is one number at a step; leave @{place} out", asked.metric)
        }
        _ => format!(
            "no run measured {}; they measured {}",
            asked.metric,
            list(party.runs.iter().flat_map(|run| run.catalog.metrics.keys()).map(String::as_str).collect())
        ),
    })
}

/// Means of so many neighbours that few are left, and the steps between them. What is no number is left out.
fn shortened(series: &Series) -> (Vec<f64>, Vec<f64>, i64) {
    let known: Vec<(i64, f32)> = series
        .steps
        .iter()
        .copied()
        .zip(series.values.iter().copied())
        .filter(|(_, value)| value.is_finite())
        .collect();
    let each = known.len().div_ceil(VALUES).max(1);
    let mean = |of: &[(i64, f32)]| {
        let count = of.len() as f64;
        let sums = of.iter().fold((0.0, 0.0), |sums, of| (sums.0 + of.0 as f64, sums.1 + f64::from(of.1)));
        (sums.0 / count, sums.1 / count)
    };
    let (steps, values): (Vec<f64>, Vec<f64>) = known.chunks(each).map(mean).unzip();
    let every = if steps.len() > 1 { (steps[1] - steps[0]).round() as i64 } else { 0 };
    (steps, values, every)
}

fn rise(steps: &[f64], values: &[f64]) -> Result<OfRise, Missing> {
    let Rise { floor, amplitude, centre, width, .. } = Rise::of(steps, values)?;
    let [floor, amplitude, centre, width] = [floor, amplitude, centre, width].map(Number::from);
    Ok(OfRise { centre, width, floor, amplitude })
}

fn changes(steps: &[f64], values: &[f64]) -> Result<Vec<OfChange>, Missing> {
    let found = ChangePoints::of(values, Change::Level)?;
    let intervals = found.intervals(values, 0.95, DRAWS, 0)?;
    let step = |at: usize| steps[at].round() as i64;
    let change = |(at, (index, interval)): (usize, (&usize, [usize; 2]))| OfChange {
        step: step(*index),
        interval: interval.map(step),
        levels: [found.levels[at], found.levels[at + 1]],
    };
    Ok(found.at.iter().zip(intervals).enumerate().map(change).collect())
}

/// What each curve that is asked for did, in each arm.
pub(super) fn curves(party: &Party, wanted: &[Wanted], whole: &Whole, notes: &mut Vec<String>) -> Vec<Curve> {
    let mut all = Vec::new();
    for asked in wanted {
        let mut places: Vec<&String> = whole
            .keys()
            .filter(|(_, metric, place)| *metric == asked.metric && asked.place.as_ref().is_none_or(|own| own == place))
            .map(|key| &key.2)
            .collect();
        places.sort_unstable();
        places.dedup();
        if places.len() > SERIES {
            notes.push(format!(
                "Rises and jumps are looked for in {SERIES} of the {} curves of {}; name others as {}@PLACE.",
                places.len(),
                asked.metric,
                asked.metric
            ));
            places.truncate(SERIES);
        }
        for place in places {
            for arm in &party.arms {
                let of = |member: &usize| {
                    let series = whole.get(&(*member, asked.metric.clone(), place.clone()))?;
                    let (steps, values, every) = shortened(series);
                    Some(OfReplica {
                        replica: party.members[*member].name.clone(),
                        every,
                        rise: rise(&steps, &values).into(),
                        changes: changes(&steps, &values).into(),
                    })
                };
                let replicas: Vec<OfReplica> = arm.members.iter().filter_map(of).collect();
                if replicas.is_empty() {
                    continue;
                }
                let mut centres: Vec<f64> =
                    replicas.iter().filter_map(|of| Some(of.rise.number()?.centre.value)).collect();
                centres.sort_by(f64::total_cmp);
                let centre = (!centres.is_empty())
                    .then(|| [centres[0], crate::stats::median(centres.clone()), centres[centres.len() - 1]]);
                let (metric, place, arm) = (asked.metric.clone(), place.clone(), arm.name.clone());
                all.push(Curve { metric, place, arm, replicas, centre });
            }
        }
    }
    all
}

/// The rank of each value, that of equal ones in their middle.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        equal.iter().for_each(|at| ranks[*at] = first as f64 + (equal.len() - 1) as f64 / 2.0);
        first += equal.len();
    }
    ranks
}

/// Changes of two series from measurement to measurement, at steps at which both were measured: their ranks, so that one jump,
/// which both may share, is one change among others.
fn changes_together(first: &Series, second: &Series) -> Result<(Vec<f64>, Vec<f64>, i64), Missing> {
    let of_second: BTreeMap<i64, f32> = second.steps.iter().copied().zip(second.values.iter().copied()).collect();
    let both = |(step, value): (&i64, &f32)| {
        let other = of_second.get(step).filter(|other| other.is_finite() && value.is_finite())?;
        Some((*step, f64::from(*value), f64::from(*other)))
    };
    let mut rows: Vec<(i64, f64, f64)> = first.steps.iter().zip(&first.values).filter_map(both).collect();
    let each = rows.len().div_ceil(VALUES).max(1);
    rows = rows.into_iter().step_by(each).collect();
    if rows.len() < 3 {
        return Err(Missing::TooFew { of: "steps at which both were measured", have: rows.len(), need: 3 });
    }
    let every = rows[1].0 - rows[0].0;
    // The end of a run is measured whenever it comes.
    if rows[rows.len() - 1].0 - rows[rows.len() - 2].0 != every {
        rows.pop();
    }
    if rows.windows(2).any(|pair| pair[1].0 - pair[0].0 != every) {
        return Err(Missing::Because("both were not measured at equal distances"));
    }
    let of = |which: fn(&(i64, f64, f64)) -> f64| {
        ranks(&rows.windows(2).map(|pair| which(&pair[1]) - which(&pair[0])).collect::<Vec<_>>())
    };
    Ok((of(|row| row.1), of(|row| row.2), every))
}

fn lag(first: &Series, second: &Series) -> Result<Found, Missing> {
    let (first, second, every) = changes_together(first, second)?;
    let most = LAGS.min((first.len() / 5).saturating_sub(1) / 2).max(1);
    let Lag { lag, interval, correlation, p, .. } = Lag::between(&first, &second, most, DRAWS, 0)?;
    Ok(Found { lag: lag * every, interval: interval.map(|lag| lag * every), correlation, p, every })
}

/// Lags of the pairs that are asked for, in each arm.
///
/// # Errors
/// Where a series of a pair is one of several, and which is not said.
pub(super) fn lags(party: &Party, pairs: &[[Wanted; 2]], whole: &Whole) -> Result<Vec<Lags>> {
    let place = |wanted: &Wanted| {
        let mut places: Vec<&String> = whole.keys().filter(|key| key.1 == wanted.metric).map(|key| &key.2).collect();
        places.sort_unstable();
        places.dedup();
        match (&wanted.place, places.as_slice()) {
            (Some(place), _) => Ok(place.clone()),
            (None, [only]) => Ok((*only).clone()),
            (None, _) => Err(Error::Refused(format!(
                "--lag {}: which of its series? Name one as {}@PLACE; there are {}",
                wanted.metric,
                wanted.metric,
                places.iter().take(LISTED).map(|place| place.as_str()).collect::<Vec<_>>().join(", ")
            ))),
        }
    };
    let named = |wanted: &Wanted, place: &String| {
        if place.is_empty() { wanted.metric.clone() } else { format!("{} {place}", wanted.metric) }
    };
    let mut all = Vec::new();
    for [first, second] in pairs {
        let places = [place(first)?, place(second)?];
        for arm in &party.arms {
            let of = |member: &usize| {
                let get = |wanted: &Wanted, place: &String| whole.get(&(*member, wanted.metric.clone(), place.clone()));
                let Member { name, .. } = &party.members[*member];
                let lag = lag(get(first, &places[0])?, get(second, &places[1])?).into();
                Some(OfLag { replica: name.clone(), lag })
            };
            let replicas: Vec<OfLag> = arm.members.iter().filter_map(of).collect();
            if replicas.is_empty() {
                continue;
            }
            let sure = |sign: i64| {
                let sure =
                    |of: &&OfLag| of.lag.number().is_some_and(|found| found.p <= 0.05 && found.lag.signum() == sign);
                replicas.iter().filter(sure).count()
            };
            let (follows, leads) = (sure(1), sure(-1));
            let p = (2.0 * at_least(follows.max(leads) as u64, (follows + leads) as u64, 0.5)).min(1.0);
            let [first, second] = [named(first, &places[0]), named(second, &places[1])];
            all.push(Lags { first, second, arm: arm.name.clone(), replicas, follows, leads, p });
        }
    }
    Ok(all)
}
