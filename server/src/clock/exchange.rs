//! One exchange of timestamps, and what is wrong with it.

use riptrace_common::wire::clock::{SyncReply, SyncRequest};
use thiserror::Error;

/// An exchange that took longer says too little to be worth keeping.
pub const MAX_ROUND_TRIP_NS: u64 = 5_000_000_000;

/// Times beyond this (the year 2116, or a machine that runs for 146 years) are not times; below it no difference overflows.
pub const MAX_TIME_NS: u64 = 1 << 62;

/// A change of the wall clock or of the time spent suspended by more than this, between two exchanges, is a step. Less is
/// what reading two clocks one after the other can make.
pub const STEP_NS: u64 = 1_000_000;

/// The four timestamps of an exchange and what tells steps and suspends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The server's clock when it sent the request.
    pub server_send_ns: u64,
    /// The kernel's monotonic clock when the agent got it.
    pub receive_ktime_ns: u64,
    /// The kernel's monotonic clock when the agent answered.
    pub send_ktime_ns: u64,
    /// The server's clock when the answer came.
    pub server_receive_ns: u64,
    /// The host's real-time clock minus its monotonic one.
    pub realtime_minus_ktime_ns: i64,
    /// The host's boot clock minus its monotonic one.
    pub boottime_minus_ktime_ns: i64,
}

impl Exchange {
    /// Of the messages that were exchanged, with the server's clock when the answer came.
    ///
    /// # Errors
    ///
    /// The reply answers another request.
    pub fn of(request: &SyncRequest, reply: &SyncReply, server_receive_ns: u64) -> Result<Self, Refused> {
        if reply.server_send_ns != request.server_send_ns {
            return Err(Refused::AnotherRequest);
        }
        Ok(Self {
            server_send_ns: request.server_send_ns,
            receive_ktime_ns: reply.receive_ktime_ns,
            send_ktime_ns: reply.send_ktime_ns,
            server_receive_ns,
            realtime_minus_ktime_ns: reply.realtime_minus_ktime_ns,
            boottime_minus_ktime_ns: reply.boottime_minus_ktime_ns,
        })
    }

    /// What can be said without knowing what came before.
    pub(super) fn check(&self) -> Result<(), Refused> {
        let Self { server_send_ns, receive_ktime_ns, send_ktime_ns, server_receive_ns, .. } = *self;
        for time_ns in [server_send_ns, receive_ktime_ns, send_ktime_ns, server_receive_ns] {
            if time_ns > MAX_TIME_NS {
                return Err(Refused::OutOfRange { time_ns });
            }
        }
        if server_receive_ns < server_send_ns {
            return Err(Refused::ServerBackwards { by_ns: server_send_ns - server_receive_ns });
        }
        if send_ktime_ns < receive_ktime_ns {
            return Err(Refused::AgentBackwards { by_ns: receive_ktime_ns - send_ktime_ns });
        }
        let round_trip_ns = server_receive_ns - server_send_ns;
        if round_trip_ns > MAX_ROUND_TRIP_NS {
            return Err(Refused::TooLong { round_trip_ns });
        }
        Ok(())
    }

    /// Time on the way, there and back; negative by no more than what the clocks drifted meanwhile.
    pub(super) fn delay_ns(&self) -> i128 {
        let round_trip = i128::from(self.server_receive_ns) - i128::from(self.server_send_ns);
        round_trip - (i128::from(self.send_ktime_ns) - i128::from(self.receive_ktime_ns))
    }
}

/// What became of an exchange that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// An epoch begins with it.
    pub new_epoch: Option<EpochReason>,
}

/// Why an epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochReason {
    /// It is the first exchange.
    First,
    /// Somebody set the host's wall clock.
    WallStep {
        /// How far.
        by_ns: i64,
    },
    /// The host was suspended.
    Suspend {
        /// For how long.
        for_ns: i64,
    },
    /// What the exchange says can't be true of a clock that drifts less than the bound: the host or the server stood still,
    /// or one of the clocks runs wild.
    Jump,
}

impl std::fmt::Display for EpochReason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First => formatter.write_str("first exchange"),
            Self::WallStep { by_ns } => write!(formatter, "the wall clock was set by {by_ns} ns"),
            Self::Suspend { for_ns } => write!(formatter, "the host was suspended for {for_ns} ns"),
            Self::Jump => formatter.write_str("the clock jumped against the server's"),
        }
    }
}

/// Why an exchange was not taken. What was known stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// It answers a request that was not this one.
    #[error("the answer belongs to another request")]
    AnotherRequest,
    /// A time that is none.
    #[error("{time_ns} ns is not a time")]
    OutOfRange {
        /// Which.
        time_ns: u64,
    },
    /// The answer came before the request was sent.
    #[error("the server's clock went back by {by_ns} ns during the exchange")]
    ServerBackwards {
        /// How far.
        by_ns: u64,
    },
    /// The agent answered before it was asked.
    #[error("the agent answered {by_ns} ns before it was asked")]
    AgentBackwards {
        /// How far.
        by_ns: u64,
    },
    /// Too long to be useful.
    #[error("the exchange took {round_trip_ns} ns")]
    TooLong {
        /// How long.
        round_trip_ns: u64,
    },
    /// The agent says it had the request for longer than the whole exchange took.
    #[error("the agent held the request {excess_ns} ns longer than the exchange took")]
    Impossible {
        /// By how much.
        excess_ns: u64,
    },
    /// It is older than one that was taken.
    #[error("an exchange that was sent later was taken already")]
    Stale,
    /// The kernel's clock went backwards since the exchange before; it can't.
    #[error("the kernel's monotonic clock went back by {by_ns} ns since the last exchange")]
    KernelBackwards {
        /// How far.
        by_ns: u64,
    },
}
