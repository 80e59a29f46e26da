//! When a tracepoint at a branch had better be at its line's own instruction. Pure: counters and the time in, an answer out.
//!
//! A trap at the branch costs what an emulated instruction costs, whichever way the branch goes; one at the line's own
//! instruction is single-stepped, but there is one only when the line runs. Which is dearer depends on how often the branch
//! leads to the line, and nobody knows that before.

use std::collections::VecDeque;

use super::budget::GATE_NS;
use crate::probe::TrapCost;

/// The balance of this span decides.
const SPAN_NS: u64 = 1_000_000_000;
/// Looks that are closer than this are not remembered: a hundred in a span.
const LOOK_NS: u64 = 10_000_000;
/// What the branch may cost more than the line's own instruction would: a thousandth of a core. A balance that is
/// smaller is noise.
const TOLERATED_NS: u64 = SPAN_NS / 1000;

/// How often a tracepoint's branch led where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passages {
    /// To the line.
    pub(super) hits: u64,
    /// Elsewhere.
    pub(super) passed: u64,
}

/// The same, a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PassageRates {
    pub(super) hits_per_second: f64,
    pub(super) passed_per_second: f64,
}

/// Watches one tracepoint.
#[derive(Debug)]
pub(super) struct BranchWatch {
    /// Of the last span, and the one before them, oldest first.
    looks: VecDeque<(u64, Passages)>,
}

impl BranchWatch {
    /// From when it is armed.
    pub(super) fn new(at_ns: u64) -> Self {
        Self { looks: VecDeque::from([(at_ns, Passages::default())]) }
    }

    /// Takes the counters at a moment; `Some`: the tracepoint is to move.
    pub(super) fn look(&mut self, at_ns: u64, now: Passages, cost: TrapCost) -> Option<PassageRates> {
        while self.looks.get(1).is_some_and(|second| second.0.saturating_add(SPAN_NS) <= at_ns) {
            self.looks.pop_front();
        }
        if self.looks.back().is_none_or(|last| last.0.saturating_add(LOOK_NS) <= at_ns) {
            self.looks.push_back((at_ns, now));
        }
        let &(since_ns, before) = self.looks.front()?;
        let hits = now.hits.saturating_sub(before.hits);
        let passed = now.passed.saturating_sub(before.passed);
        let saved_ns = hits.saturating_mul(cost.stepped_ns.saturating_sub(cost.emulated_ns));
        let wasted_ns = passed.saturating_mul(cost.emulated_ns.saturating_add(GATE_NS));
        if wasted_ns <= saved_ns.saturating_add(TOLERATED_NS) {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "rates")]
        let per_second = |count: u64| count as f64 * 1e9 / at_ns.saturating_sub(since_ns).max(1) as f64;
        Some(PassageRates { hits_per_second: per_second(hits), passed_per_second: per_second(passed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const COST: TrapCost = TrapCost { emulated_ns: 600, stepped_ns: 10_600 };

    /// Looks every ten milliseconds; when the tracepoint moves.
    fn moves_at_ms(milliseconds: u64, passages: impl Fn(u64) -> (u64, u64)) -> Option<u64> {
        let mut watch = BranchWatch::new(0);
        let mut sum = Passages::default();
        (1..=milliseconds / 10).map(|look| look * 10).find(|&at_ms| {
            let (hits, passed) = passages(at_ms);
            sum.hits += hits;
            sum.passed += passed;
            watch.look(at_ms * MS, sum, COST).is_some()
        })
    }

    #[test]
    fn a_hot_branch_that_goes_elsewhere_is_left_at_the_first_look() {
        assert_eq!(moves_at_ms(1_000, |_| (0, 10_000)), Some(10));
    }

    #[test]
    fn a_branch_that_leads_to_the_line_often_enough_stays() {
        // Every tenth: 10 µs saved, 6 wasted.
        assert_eq!(moves_at_ms(5_000, |_| (100, 900)), None);
        // Every twentieth: 13.6 wasted.
        assert_eq!(moves_at_ms(5_000, |_| (50, 950)), Some(70));
    }

    #[test]
    fn what_costs_next_to_nothing_stays() {
        // 1,400 passages a second are 0.095 % of a core.
        assert_eq!(moves_at_ms(10_000, |_| (0, 14)), None);
        // 1,600 are 0.11 %.
        assert!(moves_at_ms(10_000, |_| (0, 16)).is_some());
    }

    #[test]
    fn what_was_saved_long_ago_does_not_count() {
        let moved = moves_at_ms(10_000, |at_ms| if at_ms <= 5_000 { (1_000, 0) } else { (0, 1_000) });
        // The hits of the last second outweigh the passages for as long as they are in the balance.
        assert!(moved.is_some_and(|at_ms| (5_500..6_100).contains(&at_ms)), "{moved:?}");
    }

    #[test]
    fn the_rates_are_those_of_the_balance() {
        let mut watch = BranchWatch::new(0);
        let rates = watch.look(100 * MS, Passages { hits: 10, passed: 5_000 }, COST).unwrap();
        assert_eq!(rates, PassageRates { hits_per_second: 100.0, passed_per_second: 50_000.0 });
    }

    #[test]
    fn it_remembers_no_more_than_a_span() {
        let mut watch = BranchWatch::new(0);
        for at_us in 0..5_000_000 / 100 {
            let _ = watch.look(at_us * 100_000, Passages::default(), COST);
        }
        assert!(watch.looks.len() <= 102, "{}", watch.looks.len());
        // Counters that make no sense are harmless.
        let _ = watch.look(0, Passages { hits: u64::MAX, passed: u64::MAX }, COST);
        let _ = watch.look(u64::MAX, Passages::default(), COST);
    }
}
