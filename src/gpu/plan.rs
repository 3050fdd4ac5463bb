//! Where planned tensors lie: buffers that hold several of them, at offsets and at times of their own.

use std::collections::BTreeSet;
use std::ops::Range;

/// A tensor that wants a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Its size.
    pub(super) bytes: u64,
    /// First and last dispatch that bind it; `None` where none does.
    pub(super) life: Option<(usize, usize)>,
    /// Tensors that may not lie in the same buffer, whenever and wherever they live in it.
    pub(super) apart: BTreeSet<usize>,
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The buffer.
    pub(super) buffer: usize,
    /// Its first byte there.
    pub(super) offset: u64,
}

/// Buffers, and who lies where in them.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Size of each buffer in bytes.
    pub(super) buffers: Vec<u64>,
    /// Place of each tensor.
    pub(super) places: Vec<Place>,
    /// Bytes alive at the worst moment: no plan can need less.
    pub(super) lower_bound: u64,
}

impl Plan {
    fn bytes(&self) -> u64 {
        self.buffers.iter().sum()
    }
}

/// What a buffer must look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Offsets are multiples of this.
    pub(super) align: u64,
    /// No buffer is larger than this, but for a tensor that is larger alone.
    pub(super) largest: u64,
}

/// Finds a place for every tensor: the smallest of a few greedy plans. They differ in which tensor comes first
/// and in whether one that fits nowhere enlarges a buffer or gets one of its own; which is best depends on the model.
pub(super) fn plan(requests: &[Request], rules: Rules) -> Plan {
    let end = requests.iter().filter_map(|r| r.life).map(|(_, last)| last + 1).max().unwrap_or(0);
    let mut alive = vec![0; end];
    for request in requests {
        if let Some((first, last)) = request.life {
            alive[first..=last].iter_mut().for_each(|bytes| *bytes += request.bytes);
        }
    }
    let lower_bound = alive.into_iter().max().unwrap_or(0);

    let mut by_size: Vec<usize> = (0..requests.len()).filter(|t| requests[*t].life.is_some()).collect();
    by_size.sort_by_key(|t| (std::cmp::Reverse(requests[*t].bytes), *t));
    let mut by_weight = by_size.clone();
    let weight = |t: usize| requests[t].life.map_or(0, |(first, last)| (last - first + 1) as u64 * requests[t].bytes);
    by_weight.sort_by_key(|t| (std::cmp::Reverse(weight(*t)), *t));
    let plans = [&by_size, &by_weight].into_iter().flat_map(|order| {
        [true, false].map(|enlarge| Plan { lower_bound, ..place_all(requests, order, enlarge, rules) })
    });
    plans.min_by_key(Plan::bytes).unwrap_or_default()
}

/// Places tensors in the order given, each where the buffers grow least, and there at the lowest free offset.
fn place_all(requests: &[Request], order: &[usize], enlarge: bool, rules: Rules) -> Plan {
    let mut plan = Plan { places: vec![Place::default(); requests.len()], ..Plan::default() };
    let mut tenants: Vec<Vec<usize>> = Vec::new();
    let mut placed = vec![false; requests.len()];
    for &tensor in order {
        let request = &requests[tensor];
        let neighbours = request.apart.iter().filter(|other| placed[**other]);
        let barred: BTreeSet<usize> = neighbours.map(|other| plan.places[*other].buffer).collect();
        let mut best: Option<(u64, u64, Place)> = None;
        for (buffer, inside) in tenants.iter().enumerate().filter(|(buffer, _)| !barred.contains(buffer)) {
            let together = |other: &&usize| match (request.life, requests[**other].life) {
                (Some((a, b)), Some((c, d))) => a <= d && c <= b,
                _ => false,
            };
            let taken = inside.iter().filter(together).map(|other| {
                let offset = plan.places[*other].offset;
                offset..offset + requests[*other].bytes
            });
            let offset = lowest_gap(taken.collect(), request.bytes, rules.align);
            let needed = offset + request.bytes;
            let growth = needed.saturating_sub(plan.buffers[buffer]);
            if growth > 0 && (!enlarge || needed > rules.largest) {
                continue;
            }
            // Of buffers that need not grow the smallest, so that large ones stay free for what comes.
            let rank = (growth, plan.buffers[buffer]);
            if best.is_none_or(|(growth, size, _)| rank < (growth, size)) {
                best = Some((rank.0, rank.1, Place { buffer, offset }));
            }
        }
        // A buffer of its own keeps a tensor clear of those it must lie apart from.
        let place = match best {
            Some((growth, _, place)) if growth < request.bytes => place,
            _ => {
                plan.buffers.push(0);
                tenants.push(Vec::new());
                Place { buffer: tenants.len() - 1, offset: 0 }
            }
        };
        let size = &mut plan.buffers[place.buffer];
        *size = (*size).max(place.offset + request.bytes);
        tenants[place.buffer].push(tensor);
        plan.places[tensor] = place;
        placed[tensor] = true;
    }
    plan
}

/// The lowest aligned offset at which `bytes` overlap none of the ranges.
fn lowest_gap(mut taken: Vec<Range<u64>>, bytes: u64, align: u64) -> u64 {
    taken.sort_by_key(|range| range.start);
    let mut offset = 0;
    for range in taken {
        if range.start >= offset + bytes {
            break;
        }
        offset = offset.max(range.end.next_multiple_of(align));
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Philox, Stream};

    const RULES: Rules = Rules { align: 256, largest: 1 << 20 };

    #[test]
    fn gaps_are_found_between_aligned_neighbours() {
        assert_eq!(lowest_gap(vec![], 10, 256), 0);
        assert_eq!(lowest_gap(std::iter::once(0..10).collect(), 10, 256), 256);
        assert_eq!(lowest_gap(vec![512..600, 0..10], 256, 256), 256);
        assert_eq!(lowest_gap(vec![512..600, 0..10], 257, 256), 768);
    }

    #[test]
    fn tensors_alive_together_never_overlap_and_those_apart_share_no_buffer() {
        for seed in 0..200 {
            let draws = Philox::new(seed, Stream::Batch, 0);
            let mut at = 0;
            let mut below = |limit| {
                at += 1;
                draws.below(at, limit)
            };
            const COUNT: usize = 40;
            let mut requests: Vec<Request> = (0..COUNT)
                .map(|_| {
                    let first = below(40) as usize;
                    let life = (below(10) > 0).then(|| (first, first + below(12) as usize));
                    Request { bytes: u64::from(4 * (1 + below(500))), life, apart: BTreeSet::new() }
                })
                .collect();
            for _ in 0..40 {
                let (a, b) = (below(COUNT as u32) as usize, below(COUNT as u32) as usize);
                if a != b {
                    requests[a].apart.insert(b);
                    requests[b].apart.insert(a);
                }
            }
            let plan = plan(&requests, RULES);
            let placed = |t: usize| Some((requests[t].life?, plan.places[t]));
            let mut alive = vec![0; 60];
            for a in 0..COUNT {
                let Some(((first, last), home)) = placed(a) else { continue };
                alive[first..=last].iter_mut().for_each(|bytes| *bytes += requests[a].bytes);
                assert_eq!(home.offset % RULES.align, 0);
                assert!(home.offset + requests[a].bytes <= plan.buffers[home.buffer], "a tensor fits its buffer");
                for b in a + 1..COUNT {
                    let Some(((c, d), other)) = placed(b) else { continue };
                    if other.buffer != home.buffer {
                        continue;
                    }
                    assert!(!requests[a].apart.contains(&b), "{a} and {b} must lie apart");
                    let apart = home.offset + requests[a].bytes <= other.offset
                        || other.offset + requests[b].bytes <= home.offset;
                    assert!(apart || last < c || d < first, "{a} and {b} overlap");
                }
            }
            assert_eq!(plan.lower_bound, alive.into_iter().max().unwrap());
            assert!(plan.bytes() >= plan.lower_bound);
        }
    }

    #[test]
    fn what_can_share_needs_no_more_than_what_is_alive() {
        // Two halves follow a whole, and a whole follows them: one buffer of the whole's size serves all.
        let request = |bytes, first, last| Request { bytes, life: Some((first, last)), apart: BTreeSet::new() };
        let requests = [request(1024, 0, 1), request(512, 2, 3), request(512, 2, 3), request(1024, 4, 5)];
        let plan = plan(&requests, RULES);
        assert_eq!((plan.bytes(), plan.lower_bound), (1024, 1024));
    }

    #[test]
    fn no_buffer_outgrows_the_device_unless_one_tensor_does() {
        let rules = Rules { align: 256, largest: 1024 };
        let requests: Vec<Request> =
            [768, 768, 512, 2048].map(|bytes| Request { bytes, life: Some((0, 1)), apart: BTreeSet::new() }).to_vec();
        let plan = plan(&requests, rules);
        assert!(plan.buffers.iter().all(|size| *size <= 1024 || *size == 2048), "{:?}", plan.buffers);
    }
}
