//! The interval that holds one kernel clock's offset to the server's clock.
//!
//! The offset at a moment of the kernel's clock is the server's time then minus the kernel's. An exchange bounds it from
//! both sides, because no message arrives before it is sent: when the agent got the request the offset was at least
//! `server_send − receive_ktime`, when it answered at most `server_receive − send_ktime`. Each bound holds at its own
//! moment and weakens by [`MAX_DRIFT_PPB`] with the distance from it. What holds now is the intersection of all bounds in
//! the window: short delays win by themselves, however the delay is divided between the two ways.

use std::collections::VecDeque;

use riptrace_common::wire::clock::Assigned;

use super::exchange::{EpochReason, Exchange, Outcome, Refused, STEP_NS};

/// How fast the offset of a kernel's monotonic clock to the server's may change, in parts in 10⁹: two free-running
/// crystals of ±100 ppm. Intervals are true as long as this is.
pub const MAX_DRIFT_PPB: u64 = 200_000;

/// Exchanges that are kept.
pub const WINDOW: usize = 64;

/// An exchange that is older than this against the newest is dropped.
pub const WINDOW_NS: u64 = 90_000_000_000;

/// What rounding in [`Assigned::time_of`] can lose.
pub const GROWTH_SLACK_NS: u64 = 4;

/// A slope is fitted over no less than this.
const MIN_BASELINE_NS: u64 = 10_000_000_000;

/// A slope is fitted through no fewer exchanges than this.
const MIN_FITTED: usize = 8;

/// Exchanges that were delayed by more than so many times the shortest delay say nothing of the slope.
const FITTED_DELAYS: i128 = 2;

/// After so many exchanges in a row with a kernel clock before the last one, it was the last one that was wrong.
const BELIEVED_BACKWARDS: u32 = 3;

const BILLION: i128 = 1_000_000_000;

/// What is known of one kernel clock (one boot id).
#[derive(Clone, Debug)]
pub struct Estimator {
    window: VecDeque<Exchange>,
    /// One-way messages: the tightest of what [`Estimator::arrived`] was told.
    arrival: Option<Arrival>,
    epoch: u64,
    backwards: u32,
    assigned: Option<Assigned>,
}

/// A message of the agent that was stamped at a kernel time, and reached the server at a server's time.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    ktime_ns: u64,
    server_ns: u64,
}

impl Arrival {
    fn upper_at(&self, ktime_ns: u64) -> i128 {
        i128::from(self.server_ns) - i128::from(self.ktime_ns) + drift_ns(ktime_ns.abs_diff(self.ktime_ns))
    }
}

/// How far an offset can have moved over a time, rounded up.
fn drift_ns(over_ns: u64) -> i128 {
    (i128::from(over_ns) * i128::from(MAX_DRIFT_PPB) + BILLION - 1) / BILLION
}

impl Estimator {
    /// Nothing is known. The first exchange begins this epoch; take one that was not used for this boot id before (a
    /// server that takes over continues behind the epochs of the marks in the stream).
    #[must_use]
    pub fn new(first_epoch: u64) -> Self {
        Self { window: VecDeque::new(), arrival: None, epoch: first_epoch, backwards: 0, assigned: None }
    }

    /// Takes an exchange.
    ///
    /// # Errors
    ///
    /// It can't be true, or says nothing; what was known stays as it was.
    pub fn exchange(&mut self, exchange: &Exchange) -> Result<Outcome, Refused> {
        exchange.check()?;
        let (lower, upper) = bounds(std::iter::once(exchange), None, exchange.send_ktime_ns);
        if lower > upper {
            return Err(Refused::Impossible { excess_ns: u64::try_from(lower - upper).unwrap_or(u64::MAX) });
        }
        let new_epoch = match self.window.back().copied() {
            None => Some(EpochReason::First),
            Some(last) => self.continues(&last, exchange)?.or_else(|| self.jumps(exchange)),
        };
        self.backwards = 0;
        self.take(exchange, new_epoch);
        self.estimate();
        Ok(Outcome { new_epoch })
    }

    /// A message that the agent stamped with its kernel's clock reached the server at this time: the offset was at most the
    /// difference. Tightens the interval where messages are faster than exchanges; what contradicts it is not taken.
    pub fn arrived(&mut self, ktime_ns: u64, server_ns: u64) -> bool {
        use super::exchange::MAX_TIME_NS;
        let Some(last) = self.window.back() else { return false };
        // A stamp from before the epoch's first exchange may be of the epoch before.
        if ktime_ns > MAX_TIME_NS
            || server_ns > MAX_TIME_NS
            || self.window.front().is_some_and(|first| ktime_ns < first.receive_ktime_ns)
        {
            return false;
        }
        let at = last.send_ktime_ns;
        let new = Arrival { ktime_ns, server_ns };
        if self
            .arrival
            .is_some_and(|known| known.upper_at(at.max(ktime_ns)) <= new.upper_at(at.max(ktime_ns)))
        {
            return false;
        }
        let (lower, _) = bounds(self.window.iter(), None, at);
        if new.upper_at(at) < lower {
            return false;
        }
        self.arrival = Some(new);
        self.estimate();
        true
    }

    /// What is known now: the offset at the newest exchange, and how its interval grows.
    #[must_use]
    pub fn assigned(&self) -> Option<Assigned> {
        self.assigned
    }

    /// The epoch that holds.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    #[cfg(test)]
    pub(super) fn window_len(&self) -> usize {
        self.window.len()
    }

    /// Whether an exchange goes on where the last one was, or why it doesn't.
    fn continues(&mut self, last: &Exchange, new: &Exchange) -> Result<Option<EpochReason>, Refused> {
        if new.server_send_ns < last.server_send_ns {
            return Err(Refused::Stale);
        }
        if new.receive_ktime_ns < last.receive_ktime_ns {
            self.backwards += 1;
            if self.backwards < BELIEVED_BACKWARDS {
                let by_ns = last.receive_ktime_ns - new.receive_ktime_ns;
                return Err(Refused::KernelBackwards { by_ns });
            }
            return Ok(Some(EpochReason::Jump));
        }
        let asleep = new.boottime_minus_ktime_ns.saturating_sub(last.boottime_minus_ktime_ns);
        if asleep.unsigned_abs() > STEP_NS {
            return Ok(Some(EpochReason::Suspend { for_ns: asleep }));
        }
        let step = new.realtime_minus_ktime_ns.saturating_sub(last.realtime_minus_ktime_ns);
        if step.unsigned_abs() > STEP_NS {
            return Ok(Some(EpochReason::WallStep { by_ns: step }));
        }
        Ok(None)
    }

    /// Bounds that exclude each other: the clock jumped since.
    fn jumps(&self, exchange: &Exchange) -> Option<EpochReason> {
        let all = self.window.iter().chain(std::iter::once(exchange));
        let (lower, upper) = bounds(all, self.arrival, exchange.send_ktime_ns);
        (lower > upper).then_some(EpochReason::Jump)
    }

    fn take(&mut self, exchange: &Exchange, new_epoch: Option<EpochReason>) {
        if let Some(reason) = new_epoch {
            self.window.clear();
            self.arrival = None;
            if reason != EpochReason::First {
                self.epoch = self.epoch.saturating_add(1);
            }
        }
        let oldest = exchange.receive_ktime_ns.saturating_sub(WINDOW_NS);
        while self.window.len() >= WINDOW
            || self.window.front().is_some_and(|first| first.receive_ktime_ns < oldest)
        {
            self.window.pop_front();
        }
        self.window.push_back(*exchange);
    }

    /// Computes `assigned` from what is known, which does not exclude itself.
    fn estimate(&mut self) {
        let Some(newest) = self.window.back() else { return };
        let at_ktime_ns = newest.send_ktime_ns;
        let (lower, upper) = bounds(self.window.iter(), self.arrival, at_ktime_ns);
        let middle = lower + (upper - lower) / 2;
        let half = upper - middle;
        let slope_ppb = self.slope_ppb();
        // The true offset moves by at most the bound from where it was; the interval's middle moves with the slope.
        self.assigned = Some(Assigned {
            offset_ns: i64::try_from(middle).unwrap_or(if middle < 0 { i64::MIN } else { i64::MAX }),
            slope_ppb,
            at_ktime_ns,
            uncertainty_ns: u64::try_from(half).unwrap_or(u64::MAX).saturating_add(GROWTH_SLACK_NS),
            growth_ppb: MAX_DRIFT_PPB + slope_ppb.unsigned_abs(),
            epoch: self.epoch,
        });
    }

    /// The line of least squares through the middles of the exchanges with short delays.
    fn slope_ppb(&self) -> i64 {
        let Some(shortest) = self.window.iter().map(Exchange::delay_ns).min() else { return 0 };
        let bound = (shortest.max(0) * FITTED_DELAYS).max(i128::from(GROWTH_SLACK_NS));
        let fitted = || self.window.iter().filter(|exchange| exchange.delay_ns() <= bound);
        let (Some(first), Some(last)) = (fitted().next(), fitted().next_back()) else { return 0 };
        let count = fitted().count();
        if count < MIN_FITTED || last.receive_ktime_ns - first.receive_ktime_ns < MIN_BASELINE_NS {
            return 0;
        }
        // Twice the offset in the exchange's middle over twice the time: no halves, no rounding.
        let point = |exchange: &Exchange| {
            let time = i128::from(exchange.receive_ktime_ns) + i128::from(exchange.send_ktime_ns);
            (time, i128::from(exchange.server_send_ns) + i128::from(exchange.server_receive_ns) - time)
        };
        let origin = point(first);
        let points = || {
            fitted().map(|exchange| {
                let (time, offset) = point(exchange);
                (time - origin.0, offset - origin.1)
            })
        };
        let count = i128::try_from(count).unwrap_or(1);
        let (time_sum, offset_sum) =
            points().fold((0, 0), |sums, point| (sums.0 + point.0, sums.1 + point.1));
        let (mut above, mut below) = (0_i128, 0_i128);
        for (time, offset) in points() {
            // Times the count: the distance from the mean without dividing.
            let time = (time * count - time_sum) / count;
            let offset = (offset * count - offset_sum) / count;
            above = above.saturating_add(time.saturating_mul(offset));
            below = below.saturating_add(time.saturating_mul(time));
        }
        if below == 0 {
            return 0;
        }
        let bound = i128::from(MAX_DRIFT_PPB);
        let slope = above.saturating_mul(BILLION) / below;
        i64::try_from(slope.clamp(-bound, bound)).unwrap_or(0)
    }
}

/// Between which values the offset lies at a kernel time, by all the exchanges.
fn bounds<'a>(
    exchanges: impl Iterator<Item = &'a Exchange>,
    arrival: Option<Arrival>,
    at_ktime_ns: u64,
) -> (i128, i128) {
    let (mut lower, mut upper) = (i128::MIN, i128::MAX);
    for exchange in exchanges {
        let least = i128::from(exchange.server_send_ns) - i128::from(exchange.receive_ktime_ns);
        let most = i128::from(exchange.server_receive_ns) - i128::from(exchange.send_ktime_ns);
        lower = lower.max(least - drift_ns(at_ktime_ns.abs_diff(exchange.receive_ktime_ns)));
        upper = upper.min(most + drift_ns(at_ktime_ns.abs_diff(exchange.send_ktime_ns)));
    }
    if let Some(arrival) = arrival {
        upper = upper.min(arrival.upper_at(at_ktime_ns));
    }
    (lower, upper)
}
