//! Where the hits of a session are that a kernel counted and that are not stored. Pure.
//!
//! For each tracepoint of each agent's run, what the kernel handed over (`emitted`, of the last counters that came) is
//! stored, could not be decoded, was lost behind the kernel, or is on its way. What has a later hit behind it is not on its
//! way any more, and neither is anything of a run that is over.

use std::collections::BTreeSet;

use riptrace_common::{id::AgentId, wire::batch::Losses};

use crate::store::{AgentCounts, TracepointCounts};

/// The losses of tracepoints, by where. `is_over`: the run of an agent has ended.
#[must_use]
pub fn losses(
    tracepoints: &[TracepointCounts],
    agents: &[AgentCounts],
    is_over: impl Fn(&AgentId) -> bool,
) -> Losses {
    let mut sum = Losses::default();
    for agent in distinct(tracepoints) {
        let of_agent = tracepoints.iter().filter(|one| one.agent == *agent);
        let mut gone = 0;
        for one in of_agent {
            let (emitted, dropped, undecodable) = one
                .stats
                .as_ref()
                .map_or((0, 0, 0), |stats| (stats.emitted, stats.dropped, stats.undecodable));
            sum.ring_full += dropped;
            sum.undecodable += undecodable;
            gone += if is_over(agent) {
                emitted.saturating_sub(undecodable).saturating_sub(one.stored).max(one.missing)
            } else {
                one.missing
            };
        }
        // The agent counts for all its tracepoints together what it lost behind the kernel.
        let known = agents.iter().find(|known| known.agent == *agent);
        let told = known.and_then(|known| known.heartbeat.as_ref()).map(|heartbeat| &heartbeat.losses);
        let mut take = |most: Option<u64>| {
            let taken = gone.min(most.unwrap_or(0));
            gone -= taken;
            taken
        };
        sum.queue_full += take(told.map(|told| told.queue_full));
        sum.refused += take(told.map(|told| told.refused));
        sum.unknown += gone;
    }
    sum
}

/// Runs of agents that are over and did not say what they counted last: what they lost after that is not known.
#[must_use]
pub fn unaccounted(tracepoints: &[TracepointCounts], is_over: impl Fn(&AgentId) -> bool) -> Vec<AgentId> {
    let open: BTreeSet<&AgentId> =
        tracepoints.iter().filter(|one| !one.is_closed).map(|one| &one.agent).collect();
    open.into_iter().filter(|agent| is_over(agent)).cloned().collect()
}

fn distinct(tracepoints: &[TracepointCounts]) -> BTreeSet<&AgentId> {
    tracepoints.iter().map(|one| &one.agent).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use riptrace_common::{
        id::TracepointId,
        wire::{batch::Heartbeat, event::Stats},
    };

    use super::*;

    fn tracepoint(agent: &str, emitted: u64, dropped: u64, stored: u64, missing: u64) -> TracepointCounts {
        TracepointCounts {
            host: Arc::from("h"),
            agent: AgentId::from(agent),
            tracepoint: TracepointId::from("t"),
            stored,
            missing,
            duplicates: 0,
            stats: Some(Stats { hits: emitted + dropped, emitted, dropped, ..Stats::default() }),
            is_closed: agent == "closed",
        }
    }

    fn agent(name: &str, queue_full: u64, refused: u64) -> AgentCounts {
        let mut heartbeat: Heartbeat = serde_json::from_str(
            r#"{"host":"h","agent":"","boot_id":"b","ktime_ns":0,"complete_until_ktime_ns":0}"#,
        )
        .unwrap();
        heartbeat.losses = Losses { queue_full, refused, ..Losses::default() };
        AgentCounts {
            agent: AgentId::from(name),
            host: Arc::from("h"),
            batches: 1,
            batches_missing: 0,
            heartbeat: Some(heartbeat),
        }
    }

    #[test]
    fn what_is_on_its_way_is_not_lost() {
        let tracepoints = [tracepoint("a", 100, 7, 60, 0)];
        let expected = Losses { ring_full: 7, ..Losses::default() };
        assert_eq!(losses(&tracepoints, &[], |_| false), expected);
        assert_eq!(losses(&tracepoints, &[], |_| true), Losses { unknown: 40, ..expected });
    }

    #[test]
    fn what_is_missing_was_lost_where_its_agent_says_and_else_nobody_knows() {
        let tracepoints = [tracepoint("a", 100, 0, 60, 30), tracepoint("b", 100, 0, 90, 10)];
        let agents = [agent("a", 12, 10), agent("b", 0, 0)];
        let found = losses(&tracepoints, &agents, |_| false);
        assert_eq!(found, Losses { queue_full: 12, refused: 10, unknown: 18, ..Losses::default() });
    }

    #[test]
    fn who_ended_without_a_word_is_named() {
        let tracepoints =
            [tracepoint("a", 1, 0, 1, 0), tracepoint("a", 1, 0, 1, 0), tracepoint("b", 1, 0, 1, 0)];
        assert_eq!(unaccounted(&tracepoints, |agent| agent.as_str() == "a"), [AgentId::from("a")]);
        assert_eq!(unaccounted(&[tracepoint("closed", 1, 0, 1, 0)], |_| true), []);
    }

    #[test]
    fn without_counters_gaps_still_count() {
        let mut one = tracepoint("a", 0, 0, 5, 2);
        one.stats = None;
        assert_eq!(losses(&[one], &[], |_| true), Losses { unknown: 2, ..Losses::default() });
    }
}
