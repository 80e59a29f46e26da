//! Exchanges of timestamps, what follows from them, and what servers write into the stream about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::AgentId;

/// One exchange ([`super::subject::Endpoint::ClockSync`]): the server sends its time, the agent answers with its own at
/// arrival and at departure. It also carries what the server knows of the agent's clock so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SyncRequest {
    /// The server's clock when this was sent, nanoseconds.
    pub server_send_ns: u64,
    /// What the agent is to stamp its hits with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<Assigned>,
}

/// The agent's side of an exchange. Times are the kernel's monotonic clock in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SyncReply {
    /// This run of the agent.
    pub agent: AgentId,
    /// Which clock it is.
    pub boot_id: String,
    /// `SyncRequest::server_send_ns`.
    pub server_send_ns: u64,
    /// When the request came.
    pub receive_ktime_ns: u64,
    /// When this was sent.
    pub send_ktime_ns: u64,
    /// The host's real-time clock minus its monotonic one: a jump is a step of the wall clock.
    pub realtime_minus_ktime_ns: i64,
    /// The boot clock minus the monotonic one: it grows while the machine is suspended.
    pub boottime_minus_ktime_ns: i64,
}

/// What a server made of a host's clock: coordinated time = kernel time + offset, give or take the uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Assigned {
    /// Coordinated time minus the kernel's monotonic time at `at_ktime_ns`.
    pub offset_ns: i64,
    /// How fast the offset changes, in parts in 10⁹ (nanoseconds a second).
    pub slope_ppb: i64,
    /// The kernel time at which the offset was estimated.
    pub at_ktime_ns: u64,
    /// Half the width of the interval that held the true offset then.
    pub uncertainty_ns: u64,
    /// How fast the interval grows with age, in parts in 10⁹.
    pub growth_ppb: u64,
    /// Counts steps, suspends and new servers' clocks: offsets of different epochs have nothing to do with each other.
    pub epoch: u64,
}

impl Assigned {
    /// The coordinated time of a moment of the kernel's clock, and its uncertainty.
    #[must_use]
    pub fn time_of(&self, ktime_ns: u64) -> (u64, u64) {
        let age_ns = i128::from(ktime_ns) - i128::from(self.at_ktime_ns);
        let drift = age_ns * i128::from(self.slope_ppb) / 1_000_000_000;
        let time = i128::from(ktime_ns) + i128::from(self.offset_ns) + drift;
        let growth = age_ns.unsigned_abs() * u128::from(self.growth_ppb) / 1_000_000_000;
        let uncertainty = u128::from(self.uncertainty_ns) + growth;
        (
            u64::try_from(time.clamp(0, i128::from(u64::MAX))).unwrap_or(0),
            u64::try_from(uncertainty).unwrap_or(u64::MAX),
        )
    }
}

/// What the holder of the lease writes into the stream ([`super::subject::Subjects::server_order`]): the estimates of
/// all clocks, and up to where the order is final. Every server computes the order from these, none from its own clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderMark {
    /// The server that wrote it.
    pub server: String,
    /// Counts the marks of this holder of the lease.
    pub seq: u64,
    /// Each host's clock, by its boot id.
    pub clocks: Vec<DomainClock>,
    /// Hits before this coordinated time are final: whatever comes later and is earlier, is late.
    pub watermark_ns: u64,
    /// Agents that were silent for too long and are not waited for.
    #[serde(default)]
    pub silent: Vec<AgentId>,
}

/// A clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainClock {
    /// The host's name.
    pub host: String,
    /// Which clock it is.
    pub boot_id: String,
    /// The run of the agent that answered.
    pub agent: AgentId,
    /// What is known of it.
    pub assigned: Assigned,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_carries_the_drift_and_the_growth_of_its_age() {
        let clock = Assigned {
            offset_ns: 1_000,
            slope_ppb: 2_000,
            at_ktime_ns: 5_000_000_000,
            uncertainty_ns: 100,
            growth_ppb: 10_000,
            epoch: 1,
        };
        assert_eq!(clock.time_of(5_000_000_000), (5_000_001_000, 100));
        assert_eq!(clock.time_of(6_000_000_000), (6_000_003_000, 10_100));
        assert_eq!(clock.time_of(4_000_000_000), (3_999_999_000, 10_100));
        let (time, uncertainty) = Assigned { offset_ns: i64::MIN, ..clock }.time_of(0);
        assert_eq!((time, uncertainty), (0, 50_100));
        let _ = Assigned { slope_ppb: i64::MAX, growth_ppb: u64::MAX, ..clock }.time_of(u64::MAX);
    }
}
