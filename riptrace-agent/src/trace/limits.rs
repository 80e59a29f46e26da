//! What tracepoints cost, and what happens when it is too much: counters, prices, the ladder of the budget.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use riptrace_common::{
    abi::program::{COST_BUCKETS, Counters, TRACEPOINT_COUNT_ONLY, TRACEPOINT_REDUCED, cost_bucket_end_ns},
    wire::event::{BudgetAction, BudgetStep, ErrorEvent, Event, Stats},
};

use super::{
    Armed, ArmedSite, TracepointId, Tracer,
    budget::{Budget, Decision, Level, Sample},
    host, planning,
};
use crate::{
    plan::SitePlan,
    probe::{CostHistogram, ProbeError, TrapCost},
};

/// Whether two plans of one location are for the same site.
fn is_same_place(one: &SitePlan, other: &SitePlan) -> bool {
    let place = |plan: &SitePlan| (plan.link_address, plan.entry_address, plan.fault_address);
    place(one) == place(other)
}

/// `Tracepoint::sample_threshold` for a share of the hits.
pub(super) fn sample_threshold(share: f64) -> u32 {
    if share >= 1.0 {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the type's range"
    )]
    let threshold = (share * 4_294_967_296.0).clamp(1.0, f64::from(u32::MAX)) as u32;
    threshold
}

impl Tracer {
    /// Measures what a trap costs on this machine. Until then, and where it can't be measured, upper bounds are assumed.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn measure_trap_cost(&mut self) -> Result<TrapCost, ProbeError> {
        let cost = self.kernel.measure_trap_cost()?;
        self.trap_cost = Some(cost);
        Ok(cost)
    }

    /// All tracepoints together may take this share of one core; `None`: as much as they take.
    pub fn set_budget(&mut self, share: Option<f64>) {
        self.budget = share.map(Budget::new);
    }

    /// Whether every tracepoint was disarmed because of what it cost.
    #[must_use]
    pub fn is_budget_exhausted(&self) -> bool {
        !self.armed.is_empty() && self.armed.values().all(|armed| armed.level == Level::Detached)
    }

    /// Looks at what the tracepoints cost: those move whose branches cost more than they save, and if all together cost too
    /// much, the costliest steps down. To be called every ten milliseconds or so.
    pub fn watch_cost(&mut self) -> Vec<Event> {
        let at_ns = host::monotonic_ns();
        let has_budget = self.budget.is_some();
        let looked_at = self.armed.iter().filter(|(_, armed)| has_budget || armed.branch_watch.is_some());
        // What can't be read now is read the next time.
        let counters: BTreeMap<u32, Counters> =
            looked_at.filter_map(|(&index, _)| Some((index, self.kernel.counters(index).ok()?))).collect();
        let mut events = self.leave_branches(at_ns, &counters);
        let Some(mut budget) = self.budget.take() else { return events };
        let decision = if events.is_empty() {
            let sampled = counters.iter().filter_map(|(index, counters)| {
                Some((*index, self.sample(self.armed.get(index)?, counters)))
            });
            budget.look(at_ns, sampled.collect())
        } else {
            budget.judge_from(host::monotonic_ns());
            None
        };
        let share = budget.share();
        self.budget = Some(budget);
        if let Some(decision) = decision {
            events.extend(self.step_down(&decision, share));
        }
        events
    }

    fn sample(&self, armed: &Armed, counters: &Counters) -> Sample {
        Sample {
            hits: counters.hits,
            passed: counters.passed,
            captured: captured(counters),
            run_ns: counters.run_ns,
            trap_ns: self.trap_ns(armed),
            settled: armed.settled,
            level: armed.level,
            // Results are no arguments: a call whose entry alone were captured would tell little.
            can_reduce: armed.wanted.captures.is_empty()
                && armed.dry_run_capture_ns.is_none()
                && !armed.has_calls,
        }
    }

    /// What a trap costs at the tracepoint's sites.
    pub(super) fn trap_ns(&self, armed: &Armed) -> u64 {
        let cost = self.trap_cost.unwrap_or(TrapCost::ASSUMED);
        if armed.is_stepped { cost.stepped_ns } else { cost.emulated_ns }
    }

    fn step_down(&mut self, decision: &Decision, budget: f64) -> Vec<Event> {
        let index = decision.tracepoint;
        let mut events = Vec::new();
        let level = match self.lower(TracepointId(index), decision.level) {
            Ok(level) => level,
            Err(error) => {
                let tracepoint = self.armed.get(&index).map(|armed| Arc::clone(&armed.id));
                let message = format!("the cost could not be lowered: {error}");
                events.push(Event::Error(ErrorEvent { tracepoint, message }));
                return events;
            }
        };
        let Some(armed) = self.armed.get(&index) else { return events };
        let step = match level {
            Level::Whole => return events,
            Level::Arguments => BudgetAction::ArgumentsOnly,
            Level::Count => BudgetAction::CountOnly,
            Level::Detached => BudgetAction::Detach,
        };
        events.push(Event::Budget(BudgetStep {
            tracepoint: Arc::clone(&armed.id),
            step,
            hits_per_second: decision.hits_per_second,
            mean_cost_ns: decision.mean_cost_ns,
            share_of_core: decision.share_of_core,
            budget,
        }));
        events
    }

    /// Lets a tracepoint capture less from now on. Gives the level that was reached: without arguments there is none
    /// between everything and counting.
    ///
    /// # Errors
    ///
    /// The kernel refused. The tracepoint then captures less than it did, or as much.
    pub fn lower(&mut self, id: TracepointId, level: Level) -> Result<Level, ProbeError> {
        let level = self.carry_out(id.0, level)?;
        if let Some(armed) = self.armed.get_mut(&id.0) {
            armed.level = level;
        }
        Ok(level)
    }

    fn carry_out(&mut self, index: u32, level: Level) -> Result<Level, ProbeError> {
        match level {
            Level::Whole => Ok(Level::Whole),
            Level::Detached => {
                self.stop(TracepointId(index))?;
                Ok(Level::Detached)
            }
            Level::Count => {
                self.kernel.change(index, |tracepoint| tracepoint.flags |= TRACEPOINT_COUNT_ONLY)?;
                Ok(Level::Count)
            }
            Level::Arguments => {
                // At once; planning takes its time.
                self.kernel.change(index, |tracepoint| tracepoint.flags |= TRACEPOINT_COUNT_ONLY)?;
                if !self.reduce(index)? {
                    return Ok(Level::Count);
                }
                self.kernel.change(index, |tracepoint| {
                    tracepoint.flags &= !TRACEPOINT_COUNT_ONLY;
                    tracepoint.flags |= TRACEPOINT_REDUCED;
                    tracepoint.stack_frames = 0;
                })?;
                Ok(Level::Arguments)
            }
        }
    }

    /// Gives every site a plan of the arguments alone; whether any has some.
    fn reduce(&mut self, index: u32) -> Result<bool, ProbeError> {
        let Some(armed) = self.armed.get(&index) else { return Ok(false) };
        let Some(known) = self.images.get(armed.image.0) else { return Ok(false) };
        let mut wanted = armed.wanted.clone();
        wanted.arguments_only = true;
        let planned = match planning::plan(&mut self.registry, &known.image, known.index, &wanted) {
            Ok(planned) => planned,
            Err(error) => {
                tracing::debug!(%error, "no plan for the arguments alone");
                return Ok(false);
            }
        };
        let image = known.index;
        let mut pairs: Vec<(_, SitePlan)> = Vec::new();
        for plan in planned.plans.into_iter().filter(|plan| !plan.variables.is_empty()) {
            let whole = armed.handles.iter().copied().find(|handle| {
                self.sites.get(&handle.index).is_some_and(|site| is_same_place(&site.plan, &plan))
            });
            pairs.extend(whole.map(|whole| (whole, plan)));
        }
        if pairs.is_empty() {
            return Ok(false);
        }
        self.kernel.upload(&self.registry.take_upload())?;
        let plans: Vec<&SitePlan> = pairs.iter().map(|(_, plan)| plan).collect();
        let reduced = self.kernel.add_sites(index, image, &plans)?;
        let mut links = Vec::with_capacity(pairs.len());
        for ((whole, plan), reduced) in pairs.into_iter().zip(reduced) {
            self.sites.insert(reduced.index, ArmedSite { generation: reduced.generation, plan });
            links.push((whole, reduced));
        }
        self.kernel.set_reduced(&links)?;
        Ok(true)
    }

    /// The tracepoint's counters. They add up when it is stopped.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn stats(&self, id: TracepointId) -> Result<Stats, ProbeError> {
        let counters = self.kernel.counters(id.0)?;
        let Some(armed) = self.armed.get(&id.0) else { return Ok(Stats::default()) };
        let sample = self.sample(armed, &counters);
        let calls = if armed.has_calls { Some(self.kernel.call_state(id.0)?) } else { None };
        let seconds = armed.until.unwrap_or_else(Instant::now).duration_since(armed.since).as_secs_f64();
        let would_capture = armed.dry_run_capture_ns.map(|_| counters.would_capture);
        let estimated_cost_ns = armed.dry_run_capture_ns.map(|capture_ns| sample.trap_ns + capture_ns);
        let estimated_ns =
            counters.would_capture.saturating_mul(armed.dry_run_capture_ns.unwrap_or_default());
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share_of_core = sample.cost_ns().saturating_add(estimated_ns) as f64 / (seconds.max(1e-9) * 1e9);
        Ok(Stats {
            tracepoint: Arc::clone(&armed.id),
            hits: counters.hits,
            emitted: counters.emitted.saturating_sub(armed.discarded + armed.not_edges),
            filtered: counters.filtered + armed.not_edges,
            throttled: counters.throttled,
            dropped: counters.dropped + armed.discarded,
            failed: counters.failed,
            passed: counters.passed,
            undecodable: armed.undecodable,
            stacks_unavailable: armed.stacks_unavailable,
            open_calls: calls.map(|calls| calls.opened.saturating_sub(calls.closed + calls.given_up)),
            calls_given_up: calls.map(|calls| calls.given_up),
            mean_run_ns: counters.run_ns.checked_div(counters.hits).unwrap_or(0),
            trap_ns: if self.trap_cost.is_some() { sample.trap_ns } else { 0 },
            p99_cost_ns: self
                .kernel
                .costs(id.0)
                .ok()
                .and_then(|costs| p99_ns(&costs))
                .map_or(0, |run_ns| run_ns + sample.trap_ns),
            share_of_core,
            would_capture,
            estimated_cost_ns,
            seconds,
        })
    }
}

fn captured(counters: &Counters) -> u64 {
    counters.emitted + counters.dropped + counters.failed
}

/// What 99 of 100 captures took less than; `None`: there were none.
fn p99_ns(costs: &CostHistogram) -> Option<u64> {
    let total: u64 = costs.iter().sum();
    if total == 0 {
        return None;
    }
    let mut above = total / 100;
    for bucket in (0..COST_BUCKETS).rev() {
        let hits = costs.get(bucket).copied().unwrap_or_default();
        if hits > above {
            return Some(cost_bucket_end_ns(bucket));
        }
        above -= hits;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_p99_is_the_end_of_its_bucket() {
        let mut costs = CostHistogram::default();
        assert_eq!(p99_ns(&costs), None);
        costs[3] = 990;
        costs[20] = 10;
        assert_eq!(p99_ns(&costs), Some(cost_bucket_end_ns(3)));
        costs[20] = 11;
        costs[3] = 989;
        assert_eq!(p99_ns(&costs), Some(cost_bucket_end_ns(20)));
        assert_eq!(p99_ns(&[0; COST_BUCKETS].map(|_: u64| 1)), Some(cost_bucket_end_ns(COST_BUCKETS - 1)));
    }

    #[test]
    fn a_share_becomes_a_threshold() {
        assert_eq!(sample_threshold(1.0), 0);
        assert_eq!(sample_threshold(0.5), 1 << 31);
        assert_eq!(sample_threshold(1e-12), 1);
        assert_eq!(sample_threshold(0.999_999_999_99), u32::MAX);
    }
}
