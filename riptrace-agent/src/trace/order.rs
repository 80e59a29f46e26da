//! Puts the records of all CPUs into the order of the kernel's clock.
//!
//! A record is written to the ring when its hit ends, but carries the time at which it began, so the ring's order and
//! time's order differ a little. Records are held back for a moment and released by time.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

/// How long a record is held back. A hit takes microseconds; a task that is preempted in the middle of one comes back
/// within a few scheduler ticks.
pub const HOLD_BACK_NS: u64 = 20_000_000;

/// Records that wait for their turn.
#[derive(Debug, Default)]
pub struct Reorder {
    /// The earliest first.
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

/// A record, and the frames of its stack if it only names them.
#[derive(Debug)]
pub struct Taken {
    /// The record.
    pub record: Bytes,
    /// What was known of its stack when the record was taken from the ring.
    pub sent_stack: Option<Arc<[u64]>>,
}

#[derive(Debug)]
struct Waiting {
    ktime_ns: u64,
    cpu: u32,
    cpu_seq: u64,
    taken: Taken,
}

impl Waiting {
    /// Time first; then what makes the order the same on every run.
    fn key(&self) -> (u64, u32, u64) {
        (self.ktime_ns, self.cpu, self.cpu_seq)
    }
}

impl Reorder {
    /// Takes a record with its time, CPU and place among the CPU's records.
    pub fn push(&mut self, ktime_ns: u64, cpu: u32, cpu_seq: u64, taken: Taken) {
        self.bytes += taken.record.len();
        let next = Waiting { ktime_ns, cpu, cpu_seq, taken };
        if self.waiting.back().is_none_or(|last| last.key() <= next.key()) {
            self.waiting.push_back(next);
        } else {
            // Rarely far from the end: what overtook it ended while it was being written.
            let at = self.waiting.partition_point(|other| other.key() <= next.key());
            self.waiting.insert(at, next);
        }
    }

    /// The next record that began at or before `until_ns`.
    pub fn pop_until(&mut self, until_ns: u64) -> Option<Taken> {
        let taken = self.waiting.pop_front_if(|first| first.ktime_ns <= until_ns)?.taken;
        self.bytes -= taken.record.len();
        Some(taken)
    }

    /// Bytes of the records that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_by_time_and_not_before_their_time() {
        let mut reorder = Reorder::default();
        for (time, cpu) in [(30, 0), (10, 1), (20, 0), (20, 1)] {
            let bytes = [u8::try_from(time).unwrap_or(0), u8::try_from(cpu).unwrap_or(0)];
            let taken = Taken { record: Bytes::copy_from_slice(&bytes), sent_stack: None };
            reorder.push(time, cpu, 0, taken);
        }
        let released: Vec<_> =
            std::iter::from_fn(|| reorder.pop_until(20)).map(|taken| taken.record).collect();
        assert_eq!(released, [&[10, 1][..], &[20, 0], &[20, 1]]);
        assert_eq!(reorder.bytes(), 2, "the one record that is left");
    }
}
