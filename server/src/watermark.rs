//! Up to where a mark may call the order final. Pure.
//!
//! Everything that an agent saw before its `complete_until_ktime_ns` is in the stream. So the least of these, over all
//! agents that hold tracepoints, each as the earliest coordinated time that it can be, is final; except that an agent may
//! have got its first tracepoint after its last heartbeat, which is why the last seconds never are.

use riptrace_common::{id::AgentId, wire::clock::Assigned};

use crate::{
    clock,
    fleet::hosts::{Moment, SILENCE_NS},
};

/// Who begins to trace says so within a second; an agent may have begun to trace so long ago without our having heard of it.
const UNHEARD_NS: u64 = 1_500_000_000;

/// Silent agents are named for so long.
const NAMED_NS: u64 = 3_600_000_000_000;

/// How far an agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The run.
    pub agent: AgentId,
    /// Its clock.
    pub boot_id: String,
    /// When it was first heard of.
    pub first: Moment,
    /// When it was last heard of.
    pub last: Moment,
    /// It is silent when it was not heard of for so long.
    pub silence_ns: u64,
    /// What it said then: everything before this is in the stream.
    pub complete_until_ktime_ns: u64,
    /// It holds tracepoints, held some lately, or should hold some.
    pub is_tracing: bool,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The watermark; `None`: it can't be told yet.
    pub watermark_ns: Option<u64>,
    /// Agents that are not waited for.
    pub silent: Vec<AgentId>,
}

/// The watermark. `coordinated_ns` is the coordinated time of `now`.
#[must_use]
pub fn of(
    progress: &[Progress],
    now: Moment,
    coordinated_ns: u64,
    clock: impl Fn(&str) -> Option<Assigned>,
) -> Found {
    let mut silent = Vec::new();
    let mut least_ns = Some(coordinated_ns.saturating_sub(UNHEARD_NS));
    for one in progress.iter().filter(|one| one.is_tracing) {
        let unheard_ns = now.mono_ns.saturating_sub(one.last.mono_ns);
        if unheard_ns >= one.silence_ns {
            if unheard_ns < NAMED_NS {
                silent.push(one.agent.clone());
            }
            continue;
        }
        match clock(&one.boot_id) {
            Some(assigned) => {
                let complete_ns = clock::earliest_ns(&assigned, one.complete_until_ktime_ns);
                least_ns = least_ns.map(|least_ns| least_ns.min(complete_ns));
            }
            // Its clock will be known in a moment, unless it does not answer.
            None if now.mono_ns.saturating_sub(one.first.mono_ns) < SILENCE_NS => least_ns = None,
            None => silent.push(one.agent.clone()),
        }
    }
    Found { watermark_ns: least_ns, silent }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn moment(seconds: u64) -> Moment {
        Moment { mono_ns: seconds * SECOND, wall_ns: 0 }
    }

    fn agent(name: &str, last_seconds: u64, complete_seconds: u64) -> Progress {
        Progress {
            agent: AgentId::from(name),
            boot_id: name.to_owned(),
            first: moment(0),
            last: moment(last_seconds),
            silence_ns: SILENCE_NS,
            complete_until_ktime_ns: complete_seconds * SECOND,
            is_tracing: true,
        }
    }

    /// Every clock is the server's, give or take a millisecond.
    fn exact(boot_id: &str) -> Option<Assigned> {
        let assigned = Assigned {
            offset_ns: 0,
            slope_ppb: 0,
            at_ktime_ns: 0,
            uncertainty_ns: 1_000_000,
            growth_ppb: 0,
            epoch: 1,
        };
        (boot_id != "unknown").then_some(assigned)
    }

    fn watermark(progress: &[Progress], now_seconds: u64) -> (Option<u64>, usize) {
        let found = of(progress, moment(now_seconds), now_seconds * SECOND, exact);
        (found.watermark_ns, found.silent.len())
    }

    #[test]
    fn the_slowest_agent_that_traces_holds_it_back() {
        assert_eq!(watermark(&[], 100), (Some(98_500_000_000), 0));
        let (one, two) = (agent("one", 99, 97), agent("two", 99, 90));
        assert_eq!(watermark(&[one.clone(), two.clone()], 100), (Some(89_999_000_000), 0));
        let idle = Progress { is_tracing: false, ..two };
        assert_eq!(watermark(&[one, idle], 100), (Some(96_999_000_000), 0));
    }

    #[test]
    fn an_agent_is_not_waited_for_when_it_is_silent() {
        let (one, two) = (agent("one", 99, 97), agent("two", 95, 90));
        assert_eq!(watermark(&[one, two], 100), (Some(96_999_000_000), 1));
        assert_eq!(watermark(&[agent("gone", 10, 10)], 4000), (Some(3_998_500_000_000), 0));
    }

    #[test]
    fn an_agent_without_a_clock_is_waited_for_a_while() {
        let new = Progress { first: moment(98), ..agent("unknown", 99, 97) };
        assert_eq!(watermark(std::slice::from_ref(&new), 100), (None, 0));
        assert_eq!(watermark(&[Progress { last: moment(103), ..new }], 103).1, 1);
    }

    #[test]
    fn what_is_ahead_does_not_carry_it_along() {
        assert_eq!(watermark(&[agent("ahead", 99, 200)], 100), (Some(98_500_000_000), 0));
    }
}
