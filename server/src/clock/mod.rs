//! What the server knows of the hosts' clocks: for each kernel clock an interval that holds the true offset to the
//! server's own, from exchanges of timestamps. Pure: integers in, integers out, the same on every machine.
//!
//! The holder of the lease keeps an [`Estimator`] for each boot id, hands [`Estimator::assigned`] to the agent and writes
//! it into its marks; [`watermark`] says up to where a mark may call the order final.

mod estimator;
mod exchange;
#[cfg(test)]
mod tests;

pub use estimator::{Estimator, GROWTH_SLACK_NS, MAX_DRIFT_PPB, WINDOW, WINDOW_NS};
pub use exchange::{EpochReason, Exchange, MAX_ROUND_TRIP_NS, MAX_TIME_NS, Outcome, Refused, STEP_NS};
use riptrace_common::wire::clock::Assigned;

/// The earliest coordinated time that a moment of a kernel's clock can be.
#[must_use]
pub fn earliest_ns(clock: &Assigned, ktime_ns: u64) -> u64 {
    let (time_ns, uncertainty_ns) = clock.time_of(ktime_ns);
    time_ns.saturating_sub(uncertainty_ns)
}

/// The watermark of a mark: the least of what the live agents are complete until, each with its clock and the
/// heartbeat's `complete_until_ktime_ns`. `None` when there is none to wait for. Everything that is not in the stream yet
/// happened after it, if the clocks' intervals are true.
#[must_use]
pub fn watermark<'a>(live: impl IntoIterator<Item = (&'a Assigned, u64)>) -> Option<u64> {
    live.into_iter().map(|(clock, complete_until_ktime_ns)| earliest_ns(clock, complete_until_ktime_ns)).min()
}
