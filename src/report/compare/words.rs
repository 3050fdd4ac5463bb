//! What a comparison supports and what it does not, in a sentence each.

use super::events::{Against, ENOUGH, Event, Matrix, OfArm, Order};
use super::members::{Date, Party};

/// Rate of false discoveries of the page.
const RATE: f64 = 0.05;

pub(super) fn sentences(party: &Party, events: &[Event], orders: &[Matrix]) -> [String; 2] {
    let supported = arms_differ(events)
        .or_else(|| pairs_differ(events))
        .or_else(|| one_pair_differs(party, events))
        .or_else(|| an_order(orders))
        .unwrap_or_else(|| nothing(events));
    [supported, not_supported(party, events)]
}

/// All arms but those that others are compared with.
fn compared(events: &[Event]) -> impl Iterator<Item = (&Event, &OfArm, &Against)> {
    events.iter().flat_map(|event| event.arms.iter().filter_map(move |arm| Some((event, arm, arm.against.as_ref()?))))
}

pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("= {p:.3}") }
}

fn arms_differ(events: &[Event]) -> Option<String> {
    let sure = compared(events).filter(|(.., against)| against.q.is_some_and(|q| q <= RATE));
    let (event, arm, against) = sure.min_by(|a, b| a.2.q.unwrap_or(1.0).total_cmp(&b.2.q.unwrap_or(1.0)))?;
    let control = &event.arms[0];
    let p = p_value(*against.p.number()?);
    let by = against.later.number().map(|later| {
        let than = if later.value >= 0.0 { "later" } else { "earlier" };
        let (by, error) = (later.value.abs(), later.error);
        format!(", {by:.0} ± {error:.0} steps {than} in the mean up to step {:.0}", event.until)
    });
    Some(format!(
        "\u{201c}{}\u{201d} does not come as it does in {} where {} was trained{} ({} and {} replicas, log-rank p {p}, q {} among all arms and events).",
        event.event,
        control.arm,
        arm.arm,
        by.unwrap_or_default(),
        arm.replicas,
        control.replicas,
        p_value(against.q.unwrap_or(1.0)),
    ))
}

fn pairs_differ(events: &[Event]) -> Option<String> {
    let tested = compared(events).filter_map(|(event, arm, against)| Some((event, arm, against.pairs.number()?)));
    let tested: Vec<_> = tested.collect();
    let tests = tested.len() as f64;
    // Of several sign tests the least must bear being one of so many.
    let (event, arm, pairs) =
        tested.into_iter().min_by(|a, b| a.2.p.total_cmp(&b.2.p)).filter(|best| best.2.p * tests <= RATE)?;
    let (count, than) = if pairs.later > pairs.earlier { (pairs.later, "later") } else { (pairs.earlier, "earlier") };
    Some(format!(
        "\u{201c}{}\u{201d} comes {than} in {} than in {} in {count} of {} pairs that began with the same state and draws (sign test, p {} times {tests} tests).",
        event.event,
        arm.arm,
        event.arms[0].arm,
        pairs.later + pairs.earlier + pairs.tied,
        p_value(pairs.p),
    ))
}

/// Of one pair it is known what happened, and no more.
fn one_pair_differs(party: &Party, events: &[Event]) -> Option<String> {
    let alone = |arm: &OfArm| arm.replicas == 1;
    let one = compared(events).filter(|(event, arm, _)| alone(arm) && alone(&event.arms[0]));
    let told = one.filter_map(|(event, arm, against)| {
        let pairs = against.pairs.number()?;
        (pairs.later + pairs.earlier > 0).then_some((event, arm, pairs))
    });
    // What is asked of such runs first of all.
    let rank = |event: &Event| {
        ["grokked", "generalizing", "first key"].iter().position(|name| *name == event.event).unwrap_or(9)
    };
    let (event, arm, pairs) = told.min_by_key(|(event, ..)| rank(event))?;
    let than = if pairs.later > 0 { "later" } else { "earlier" };
    let began = if party.arms.iter().any(|arm| arm.from.is_some()) && event.from.is_some() {
        "From one and the same state"
    } else {
        "From the same weights and data"
    };
    let by = pairs.by.map(|by| format!(", by {:.0} steps", by.abs())).unwrap_or_default();
    Some(format!(
        "{began}, \u{201c}{}\u{201d} came {than} in {} than in {}{by} ({}; {}): in these two replicas.",
        event.event, arm.arm, event.arms[0].arm, arm.dates[0], event.arms[0].dates[0],
    ))
}

fn an_order(orders: &[Matrix]) -> Option<String> {
    let all = orders.iter().flat_map(|matrix| matrix.pairs.iter().map(move |order| (matrix, order)));
    let sure = all.filter(|(_, order)| order.q <= RATE && order.family <= RATE);
    let (matrix, order) = sure.min_by(|a, b| a.1.p.total_cmp(&b.1.p))?;
    let Order { events, before, after, lead, q, .. } = order;
    let [first, second] = if before >= after { *events } else { [events[1], events[0]] };
    let lead = lead.map(|lead| format!(", {:.0} steps in the median", lead.abs())).unwrap_or_default();
    let arm = matrix.arm.as_ref().map(|arm| format!(" of {arm}")).unwrap_or_default();
    Some(format!(
        "\u{201c}{first}\u{201d} comes before \u{201c}{second}\u{201d} in {} of {} replicas{arm}{lead} (q {}).",
        before.max(after),
        matrix.replicas,
        p_value(*q),
    ))
}

fn nothing(events: &[Event]) -> String {
    if events.is_empty() {
        return "No event that has a date came in any arm, so that there is none to compare; the curves are beside each other.".to_owned();
    }
    let least = compared(events).filter_map(|(.., against)| against.p.number().copied()).fold(1.0, f64::min);
    let tested = if least < 1.0 { format!(" (least log-rank p {})", p_value(least)) } else { String::new() };
    format!(
        "Nothing beyond what happened in each of these replicas: no arm differs from another, and no event comes before another, beyond chance{tested}."
    )
}

fn not_supported(party: &Party, events: &[Event]) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let fewest = party.arms.iter().map(|arm| arm.members.len()).min().unwrap_or(0);
    if fewest < ENOUGH {
        let with = if fewest == 1 { "one replica".to_owned() } else { format!("{fewest} replicas") };
        reasons.push(format!(
            "what other seeds would do, of arms with {with} (five are the least for a test, thirty for a rate)"
        ));
    } else if fewest < 30 {
        reasons.push(format!("rates over seeds more exactly than {fewest} replicas tell"));
    }
    let forks: Vec<_> = party.runs.iter().filter_map(|run| run.manifest.fork.as_ref()).collect();
    let mut trunks: Vec<_> = forks
        .iter()
        .flat_map(|origin| (0..origin.each.len().max(1)).map(|own| (&origin.hash, origin.of(own))))
        .collect();
    trunks.sort_unstable();
    trunks.dedup();
    if trunks.len() == 1 {
        reasons
            .push(format!("anything of other runs, for all arms left one trunk at one state (step {})", forks[0].step));
    }
    let settings = |key: &str| party.arms.iter().filter_map(|arm| arm.settings[key].as_str()).collect::<Vec<_>>();
    let pulses = settings("intervene");
    if !pulses.is_empty() && !pulses.iter().any(|words| words.contains("sham")) {
        reasons.push(
            "that it was this intervention rather than any of its size, for no arm has a size-matched sham".to_owned(),
        );
    }
    let kind = |run: &super::members::Run| run.manifest.config["task"]["kind"].clone();
    if party.runs.iter().any(|run| kind(run) != kind(&party.runs[0])) {
        reasons.push("anything across the tasks, whose dates and losses are not the same things".to_owned());
    }
    let cut = party.members.iter().flat_map(|member| &member.dates);
    let came = |name: &str| events.iter().any(|event| event.event == name);
    let cut =
        cut.filter(|(name, date)| came(name) && matches!(date, Date::Known(onset) if onset.began().is_none())).count();
    if cut > 0 {
        reasons.push(format!("when the {cut} events came that the ends of runs cut off"));
    }
    if reasons.is_empty() {
        reasons
            .push("that what goes together is cause and effect, where arms do not differ in one thing only".to_owned());
    }
    format!("It does not show {}.", reasons.join("; nor "))
}
