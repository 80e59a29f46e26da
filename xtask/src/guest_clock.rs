//! What a machine's clocks really say, measured beside everything that is under test: process 1 of the machine answers
//! datagrams with its clocks (`guest/init.rs`), and the exchange with the shortest delay bounds how they stand to this
//! machine's.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Exchanges of one measurement. The shortest counts.
const EXCHANGES: u32 = 100;
/// An answer that did not come within this is not waited for.
const LOST: Duration = Duration::from_millis(500);
/// How long a measurement may take.
const MEASURED_WITHIN: Duration = Duration::from_secs(30);

/// How a machine's clocks stand to this machine's at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The machine's monotonic clock.
    pub(crate) ktime_ns: i64,
    /// This machine's monotonic clock minus that.
    pub(crate) offset_ns: i64,
    /// How far the offset may be off, either way.
    pub(crate) uncertainty_ns: i64,
    /// The machine's real-time clock minus its monotonic one.
    pub(crate) realtime_minus_ktime_ns: i64,
}

/// Both hosts' clocks over a while, from one reading before it and one after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truth {
    before: Reading,
    after: Reading,
    /// This machine's real-time clock minus its monotonic one.
    realtime_minus_ktime_ns: i64,
}

impl Truth {
    pub(crate) fn new(before: Reading, after: Reading) -> Result<Self> {
        Ok(Self { before, after, realtime_minus_ktime_ns: realtime_minus_ktime_ns()? })
    }

    #[cfg(test)]
    pub(crate) fn of(before: Reading, after: Reading, realtime_minus_ktime_ns: i64) -> Self {
        Self { before, after, realtime_minus_ktime_ns }
    }

    /// What this machine's monotonic clock said when the other one's said so.
    pub(crate) fn here_of_there(&self, ktime_ns: i64) -> i64 {
        let Reading { ktime_ns: begin, offset_ns, .. } = self.before;
        let drift = i128::from(self.after.offset_ns - offset_ns);
        let span = i128::from(self.after.ktime_ns - begin).max(1);
        let drifted = drift * i128::from(ktime_ns - begin) / span;
        ktime_ns + offset_ns + i64::try_from(drifted).unwrap_or(0)
    }

    /// How far [`Self::here_of_there`] may be off: the readings, and all of the drift between them, as it need not be even.
    pub(crate) fn uncertainty_ns(&self) -> i64 {
        self.before.uncertainty_ns.max(self.after.uncertainty_ns)
            + (self.after.offset_ns - self.before.offset_ns).abs()
    }

    /// How fast the other clock loses against this one, in parts in 10⁶.
    pub(crate) fn drift_ppm(&self) -> f64 {
        let span = (self.after.ktime_ns - self.before.ktime_ns).max(1);
        (self.after.offset_ns - self.before.offset_ns) as f64 / span as f64 * 1e6
    }

    /// What this machine's wall clock said at a moment of its monotonic one.
    pub(crate) fn wall_here_ns(&self, ktime_ns: i64) -> i64 {
        ktime_ns + self.realtime_minus_ktime_ns
    }

    /// What the other machine's wall clock said at a moment of its monotonic one.
    pub(crate) fn wall_there_ns(&self, ktime_ns: i64) -> i64 {
        ktime_ns + self.after.realtime_minus_ktime_ns
    }

    /// How far the other machine's wall clock is behind this one's.
    pub(crate) fn behind_ns(&self) -> i64 {
        let there = self.after.ktime_ns;
        self.wall_here_ns(self.here_of_there(there)) - self.wall_there_ns(there)
    }
}

/// Reads the clocks of the machine that answers at this address.
pub(crate) fn read(address: SocketAddr) -> Result<Reading> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(LOST))?;
    let begin = Instant::now();
    let mut best: Option<Reading> = None;
    let mut number = 0;
    let mut answers = 0;
    while answers < EXCHANGES {
        if begin.elapsed() > MEASURED_WITHIN {
            bail!("the machine answered {answers} of {number} questions for its clocks");
        }
        number += 1;
        let sent_ns = ktime_ns()?;
        // Nobody may listen yet: that is an error of a datagram before.
        let _ = socket.send(number.to_string().as_bytes());
        let mut buffer = [0; 256];
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let received_ns = ktime_ns()?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        let reading =
            parse(&text, number, sent_ns, received_ns).with_context(|| text.clone().into_owned())?;
        let Some(reading) = reading else { continue };
        answers += 1;
        if best.is_none_or(|best| reading.uncertainty_ns < best.uncertainty_ns) {
            best = Some(reading);
        }
    }
    best.context("no exchange of timestamps with the machine")
}

/// An answer: the question's number, the machine's monotonic clock when it came and when this was sent, and its
/// real-time clock minus that. `None`: it answers an earlier question.
fn parse(text: &str, number: u32, sent_ns: i64, received_ns: i64) -> Result<Option<Reading>> {
    let numbers: Vec<i64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [answered, came_ns, went_ns, realtime_minus_ktime_ns] = numbers[..] else {
        bail!("not four numbers")
    };
    if answered != i64::from(number) {
        return Ok(None);
    }
    // Nothing arrives before it is sent: here - there is at least what the question says and at most what the answer says.
    let (least, most) = (sent_ns - came_ns, received_ns - went_ns);
    Ok(Some(Reading {
        ktime_ns: came_ns,
        offset_ns: least + (most - least) / 2,
        uncertainty_ns: (most - least) / 2 + 1,
        realtime_minus_ktime_ns,
    }))
}

fn nanoseconds(clock: libc::clockid_t) -> Result<i64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    time.tv_sec
        .checked_mul(1_000_000_000)
        .and_then(|ns| ns.checked_add(time.tv_nsec))
        .context("a clock beyond 2262")
}

fn ktime_ns() -> Result<i64> {
    nanoseconds(libc::CLOCK_MONOTONIC)
}

fn realtime_minus_ktime_ns() -> Result<i64> {
    let before = ktime_ns()?;
    let realtime = nanoseconds(libc::CLOCK_REALTIME)?;
    Ok(realtime - before - (ktime_ns()? - before) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_bounds_the_offset_from_both_sides() {
        let reading = parse("7 1000 1200 55", 7, 5_000, 5_600).unwrap().unwrap();
        assert_eq!((reading.offset_ns, reading.uncertainty_ns), (4_200, 201));
        assert_eq!(reading.realtime_minus_ktime_ns, 55);
        assert_eq!(parse("6 1000 1200 55", 7, 5_000, 5_600).unwrap(), None);
        assert!(parse("7 1000", 7, 0, 0).is_err());
        assert!(parse("a b c d", 7, 0, 0).is_err());
    }

    #[test]
    fn a_moment_between_two_readings_is_moved_by_its_share_of_the_drift() {
        let before = Reading { ktime_ns: 0, offset_ns: 100, uncertainty_ns: 3, realtime_minus_ktime_ns: 10 };
        let after = Reading { ktime_ns: 1_000, offset_ns: 120, uncertainty_ns: 2, ..before };
        let truth = Truth::of(before, after, 40);
        assert_eq!(truth.here_of_there(500), 610);
        assert_eq!(truth.uncertainty_ns(), 23);
        assert_eq!(truth.behind_ns(), 150);
    }
}
