//! When tracepoints cost more than they may, and which of them steps down how far. Pure: counters and the time in, a
//! decision out.
//!
//! All tracepoints together may take `share` of one core in every second. A trap costs even when its hit is rejected, so
//! the last step of the ladder is to disarm. The controller looks ahead: it acts when what the last second cost, plus
//! what the time until an action takes hold will cost at the present rate, passes the budget. So a line that burns all
//! cores is stopped within milliseconds, and a short burst that the second has room for is let be.

use std::collections::{BTreeMap, VecDeque};

/// The budget holds in every such span.
const SPAN_NS: u64 = 1_000_000_000;
/// The present rate is that of the last so many nanoseconds, at the least.
const RATE_NS: u64 = 8_000_000;
/// From a decision until no thread traps any more: one round of the reader, and the kernel's removal of the traps.
const REACTION_NS: f64 = 50_000_000.0;
/// What the kernel side takes to reject a hit.
pub(super) const GATE_NS: u64 = 80;
/// Of what a capture of everything takes, what a capture of the arguments alone takes, as far as that is known before.
const REDUCED_SHARE: f64 = 0.5;

/// How much of a hit is captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What was asked for.
    #[default]
    Whole,
    /// Arguments and receiver, without a stack.
    Arguments,
    /// Nothing: hits are counted.
    Count,
    /// Disarmed.
    Detached,
}

/// A tracepoint's counters at a moment, since it was armed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Hits.
    pub hits: u64,
    /// Traps that were no hits.
    pub passed: u64,
    /// Hits that were captured, or began to be.
    pub captured: u64,
    /// Time that captures took.
    pub run_ns: u64,
    /// What a trap costs at the tracepoint's sites.
    pub trap_ns: u64,
    /// Of all this, what was at sites that it has no more.
    pub settled: Settled,
    /// How much it captures.
    pub level: Level,
    /// Whether there is something to capture between everything and nothing.
    pub can_reduce: bool,
}

/// The traps at a tracepoint's former sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// How many.
    pub traps: u64,
    /// What they cost, what the kernel side did apart.
    pub cost_ns: u64,
}

impl Sample {
    /// Hits and passages that were none.
    fn traps(&self) -> u64 {
        self.hits.saturating_add(self.passed)
    }

    /// What all traps cost so far.
    #[must_use]
    pub fn cost_ns(&self) -> u64 {
        let traps = self.traps();
        let rejected = traps.saturating_sub(self.captured).saturating_mul(GATE_NS);
        let trapping = traps.saturating_sub(self.settled.traps).saturating_mul(self.trap_ns);
        trapping.saturating_add(self.settled.cost_ns).saturating_add(self.run_ns).saturating_add(rejected)
    }
}

/// What a tracepoint is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// The tracepoint.
    pub tracepoint: u32,
    /// From now on.
    pub level: Level,
    /// Its hits a second, lately; a branch that goes the other way counts as one.
    pub hits_per_second: f64,
    /// Mean cost of one of them.
    pub mean_cost_ns: u64,
    /// Of one core, what all tracepoints take at this rate.
    pub share_of_core: f64,
}

#[derive(Debug)]
struct Look {
    at_ns: u64,
    samples: BTreeMap<u32, Sample>,
}

/// Watches the cost.
#[derive(Debug)]
pub struct Budget {
    /// Of one core.
    share: f64,
    /// Looks of the last second and the one before them, oldest first. One look every few milliseconds: some hundred.
    looks: VecDeque<Look>,
    /// The rate is judged by what came after this.
    judged_from_ns: u64,
}

impl Budget {
    /// All tracepoints together may take this share of one core.
    #[must_use]
    pub fn new(share: f64) -> Self {
        Self { share, looks: VecDeque::new(), judged_from_ns: 0 }
    }

    /// The share of one core.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Takes the counters of all tracepoints at a moment; tells who is to step down, if the budget asks for it.
    pub fn look(&mut self, at_ns: u64, samples: BTreeMap<u32, Sample>) -> Option<Decision> {
        // Closer looks than this say nothing new, and would make the history long.
        if self.looks.back().is_some_and(|last| at_ns < last.at_ns.saturating_add(RATE_NS / 2)) {
            return None;
        }
        self.looks.push_back(Look { at_ns, samples });
        while self.looks.get(1).is_some_and(|second| second.at_ns.saturating_add(SPAN_NS) <= at_ns) {
            self.looks.pop_front();
        }
        let now = self.looks.back()?;
        let since = self
            .looks
            .iter()
            .rev()
            .find(|look| look.at_ns.saturating_add(RATE_NS) <= at_ns)
            .filter(|look| look.at_ns >= self.judged_from_ns)?;
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let elapsed_ns = (at_ns - since.at_ns) as f64;
        let rates: Vec<(u32, Rates)> = now
            .samples
            .iter()
            .map(|(&id, sample)| {
                let before = since.samples.get(&id).copied().unwrap_or_default();
                (id, Rates::between(&before, sample, elapsed_ns))
            })
            .collect();
        let rate: f64 = rates.iter().map(|(_, rates)| rates.share).sum();
        #[expect(clippy::cast_precision_loss, reason = "compared with a budget")]
        let spent_ns = self.spent_ns() as f64;
        #[expect(clippy::cast_precision_loss, reason = "a constant")]
        let allowed_ns = self.share * SPAN_NS as f64;
        if rate <= self.share || spent_ns + rate * REACTION_NS <= allowed_ns {
            return None;
        }
        let (id, costliest) = *rates.iter().max_by(|a, b| a.1.share.total_cmp(&b.1.share))?;
        let sample = now.samples.get(&id)?;
        let others = rate - costliest.share;
        let fits = |level| others + costliest.at(level) <= self.share;
        let level = match sample.level {
            Level::Whole if sample.can_reduce && fits(Level::Arguments) => Level::Arguments,
            Level::Whole | Level::Arguments if fits(Level::Count) => Level::Count,
            _ => Level::Detached,
        };
        self.judged_from_ns = at_ns;
        Some(Decision {
            tracepoint: id,
            level,
            hits_per_second: costliest.hits_per_second,
            mean_cost_ns: costliest.mean_cost_ns,
            share_of_core: rate,
        })
    }

    /// Something else was done about the cost: what was before this says nothing of the rate from now on.
    pub fn judge_from(&mut self, at_ns: u64) {
        self.judged_from_ns = at_ns;
    }

    /// What the remembered looks saw.
    fn spent_ns(&self) -> u64 {
        let (Some(first), Some(last)) = (self.looks.front(), self.looks.back()) else { return 0 };
        last.samples
            .iter()
            .map(|(id, sample)| {
                let before = first.samples.get(id).map_or(0, Sample::cost_ns);
                sample.cost_ns().saturating_sub(before)
            })
            .sum()
    }
}

/// What a tracepoint did between two looks.
#[derive(Clone, Copy, Debug)]
struct Rates {
    hits_per_second: f64,
    mean_cost_ns: u64,
    /// Of one core, all of it and the parts.
    share: f64,
    traps: f64,
    captures: f64,
}

#[expect(clippy::cast_precision_loss, reason = "rates")]
impl Rates {
    fn between(before: &Sample, now: &Sample, elapsed_ns: f64) -> Self {
        let hits = now.traps().saturating_sub(before.traps());
        let cost_ns = now.cost_ns().saturating_sub(before.cost_ns());
        let run_ns = now.run_ns.saturating_sub(before.run_ns);
        Self {
            hits_per_second: hits as f64 / elapsed_ns * 1e9,
            mean_cost_ns: cost_ns.checked_div(hits).unwrap_or(0),
            share: cost_ns as f64 / elapsed_ns,
            traps: hits.saturating_mul(now.trap_ns + GATE_NS) as f64 / elapsed_ns,
            captures: run_ns as f64 / elapsed_ns,
        }
    }

    /// The share of one core that it will take.
    fn at(&self, level: Level) -> f64 {
        match level {
            Level::Whole => self.share,
            Level::Arguments => self.traps + self.captures * REDUCED_SHARE,
            Level::Count => self.traps,
            Level::Detached => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A tracepoint with steady behaviour, stepped through time with its decisions carried out at once.
    struct Line {
        hits_per_second: u64,
        run_ns: u64,
        sample: Sample,
        detached_at_ns: Option<u64>,
    }

    impl Line {
        fn new(hits_per_second: u64, trap_ns: u64, run_ns: u64) -> Self {
            let sample = Sample { trap_ns, can_reduce: true, ..Sample::default() };
            Self { hits_per_second, run_ns, sample, detached_at_ns: None }
        }

        fn advance(&mut self, ns: u64) {
            if self.sample.level == Level::Detached {
                return;
            }
            let hits = self.hits_per_second * ns / 1_000_000_000;
            self.sample.hits += hits;
            let run_ns = match self.sample.level {
                Level::Whole => self.run_ns,
                Level::Arguments => self.run_ns / 3,
                Level::Count | Level::Detached => 0,
            };
            if run_ns > 0 {
                self.sample.captured += hits;
                self.sample.run_ns += hits * run_ns;
            }
        }
    }

    fn run(lines: &mut [Line], milliseconds: u64) -> Vec<(u64, u32, Level)> {
        let mut budget = Budget::new(0.05);
        let mut decisions = Vec::new();
        for tick in 0..milliseconds / 10 {
            let now = tick * 10 * MS;
            let samples = lines.iter().enumerate().map(|(id, line)| (id as u32, line.sample)).collect();
            if let Some(decision) = budget.look(now, samples) {
                decisions.push((now / MS, decision.tracepoint, decision.level));
                let line = &mut lines[decision.tracepoint as usize];
                line.sample.level = decision.level;
                if decision.level == Level::Detached {
                    line.detached_at_ns = Some(now);
                }
            }
            for line in lines.iter_mut() {
                line.advance(10 * MS);
            }
        }
        decisions
    }

    fn levels(decisions: &[(u64, u32, Level)]) -> Vec<(u32, Level)> {
        decisions.iter().map(|&(_, tracepoint, level)| (tracepoint, level)).collect()
    }

    /// A branch that is armed for a line costs on its other way, too, and capturing less would not help.
    #[test]
    fn a_branch_that_goes_the_other_way_is_part_of_the_cost() {
        let mut budget = Budget::new(0.05);
        let mut decision = None;
        for step in 0..100 {
            let sample =
                Sample { passed: step * 10_000, trap_ns: 600, can_reduce: true, ..Sample::default() };
            decision = decision.or(budget.look(step * 10 * MS, BTreeMap::from([(7, sample)])));
        }
        let decision = decision.unwrap();
        assert_eq!(decision.level, Level::Detached);
        assert_eq!(decision.mean_cost_ns, 600 + GATE_NS);
    }

    #[test]
    fn what_fits_is_left_alone() {
        // 4.2 % of a core.
        assert_eq!(run(&mut [Line::new(20_000, 600, 1_500)], 10_000), []);
    }

    #[test]
    fn the_hottest_line_is_disarmed_at_once() {
        let mut lines = [Line::new(1_500_000, 700, 0)];
        let decisions = run(&mut lines, 1_000);
        assert_eq!(decisions, [(10, 0, Level::Detached)]);
        assert!(lines[0].sample.cost_ns() < 50 * MS);
    }

    #[test]
    fn a_line_whose_captures_cost_too_much_steps_down_one_step_at_a_time() {
        // 2 % of traps and 4.5 % of captures: arguments alone are fine.
        let decisions = run(&mut [Line::new(30_000, 600, 1_500)], 5_000);
        assert_eq!(levels(&decisions), [(0, Level::Arguments)]);
        // 3.4 % of traps and 9 % of captures: even the arguments cost too much.
        let decisions = run(&mut [Line::new(50_000, 600, 1_800)], 5_000);
        assert_eq!(levels(&decisions), [(0, Level::Count)]);
    }

    #[test]
    fn the_costliest_goes_first_and_the_others_stay() {
        let mut lines =
            [Line::new(1_000, 600, 1_500), Line::new(900_000, 600, 0), Line::new(1_000, 600, 1_500)];
        let decisions = run(&mut lines, 3_000);
        assert_eq!(levels(&decisions), [(1, Level::Detached)]);
        assert!(lines[1].sample.cost_ns() < 50 * MS);
    }

    #[test]
    fn a_short_burst_that_the_second_has_room_for_is_let_be() {
        let mut budget = Budget::new(0.05);
        let mut line = Line::new(1_000_000, 700, 0);
        let mut decided = 0;
        for tick in 0..300u64 {
            // 10 ms of 70 % of a core, once: 7 ms of the 50, and at its end as much as 35 may follow.
            if tick == 100 {
                line.advance(10 * MS);
            }
            let samples = BTreeMap::from([(0, line.sample)]);
            decided += usize::from(budget.look(tick * 10 * MS, samples).is_some());
        }
        assert_eq!(decided, 0);
    }

    #[test]
    fn a_burst_after_a_quiet_time_stays_within_its_second() {
        let mut budget = Budget::new(0.05);
        let mut line = Line::new(1_000_000, 700, 0);
        for tick in 0..300u64 {
            if tick >= 100 {
                line.advance(10 * MS);
            }
            if let Some(decision) = budget.look(tick * 10 * MS, BTreeMap::from([(0, line.sample)])) {
                // What the removal of the traps takes comes on top.
                line.advance(20 * MS);
                line.sample.level = decision.level;
            }
        }
        assert_eq!(line.sample.level, Level::Detached);
        assert!(line.sample.cost_ns() < 50 * MS, "{}", line.sample.cost_ns());
    }

    #[test]
    fn counters_that_make_no_sense_are_harmless() {
        let mut budget = Budget::new(0.05);
        let huge = Sample { hits: u64::MAX, run_ns: u64::MAX, trap_ns: u64::MAX, ..Sample::default() };
        for (at, sample) in [(0, huge), (u64::MAX, Sample::default()), (5, huge), (u64::MAX - 1, huge)] {
            let _ = budget.look(at, BTreeMap::from([(7, sample)]));
        }
    }
}
