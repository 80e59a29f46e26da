//! Which numbers of a dense sequence came: what makes ingest idempotent, and what a gap is counted by.
//!
//! Numbers mostly come in their order, so that a set of them is one range, or a few: it costs a few bytes however many
//! numbers there are.

use super::varint::{Reader, write};

/// Ranges that are kept of one sequence. Past it the smallest gap is closed: numbers in it would be taken for repeated
/// ones; they are counted in [`Seen::given_up`] and stay missing.
const MAX_RANGES: usize = 4096;

/// A set of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// First and last of each range, ascending, never touching.
    ranges: Vec<(u64, u64)>,
    /// Numbers in gaps that were closed for want of room.
    given_up: u64,
}

impl Seen {
    /// Adds a number. Whether it is new.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        // Nearly always it is the next one.
        if let Some(last) = self.ranges.last_mut()
            && last.1.checked_add(1) == Some(number)
        {
            last.1 = number;
            return true;
        }
        let at = self.ranges.partition_point(|range| range.0 <= number);
        if at > 0 && number <= self.ranges[at - 1].1 {
            return false;
        }
        let extends_left = at > 0 && self.ranges[at - 1].1 + 1 == number;
        let extends_right = self.ranges.get(at).is_some_and(|right| number + 1 == right.0);
        match (extends_left, extends_right) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = number,
            (false, true) => self.ranges[at].0 = number,
            (false, false) => self.ranges.insert(at, (number, number)),
        }
        if self.ranges.len() > MAX_RANGES {
            self.close_smallest_gap();
        }
        true
    }

    fn close_smallest_gap(&mut self) {
        let gap = |at: usize| self.ranges[at + 1].0 - self.ranges[at].1 - 1;
        if let Some(at) = (0..self.ranges.len() - 1).min_by_key(|at| gap(*at)) {
            self.given_up += gap(at);
            self.ranges[at].1 = self.ranges[at + 1].1;
            self.ranges.remove(at + 1);
        }
    }

    /// Numbers that are missing from `first` to the last one that came.
    pub(crate) fn missing_from(&self, first: u64) -> u64 {
        let mut next = first;
        let mut missing = self.given_up;
        for (from, to) in &self.ranges {
            missing += from.saturating_sub(next);
            next = to.saturating_add(1);
        }
        missing
    }

    /// How many came.
    pub(crate) fn count(&self) -> u64 {
        let all: u64 = self.ranges.iter().map(|(from, to)| (to - from).saturating_add(1)).sum();
        all.saturating_sub(self.given_up)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, self.given_up);
        let mut next = 0;
        for (from, to) in &self.ranges {
            write(&mut bytes, from.wrapping_sub(next));
            write(&mut bytes, to - from);
            next = *to;
        }
        bytes
    }

    /// What [`Seen::to_bytes`] wrote; `None`: it is something else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let given_up = reader.u64()?;
        let mut ranges = Vec::new();
        let mut next: u64 = 0;
        while !reader.is_at_end() {
            let from = next.checked_add(reader.u64()?)?;
            let to = from.checked_add(reader.u64()?)?;
            ranges.push((from, to));
            next = to;
        }
        Some(Self { ranges, given_up })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_says_what_a_set_of_numbers_says(numbers in prop::collection::vec(0_u64..200, 0..300)) {
            let (mut seen, mut set) = (Seen::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(seen.insert(number), set.insert(number));
            }
            prop_assert_eq!(seen.count(), set.len() as u64);
            let missing = set.last().map_or(0, |last| last + 1 - set.len() as u64);
            prop_assert_eq!(seen.missing_from(0), missing);
            prop_assert_eq!(Seen::from_bytes(&seen.to_bytes()), Some(seen));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = Seen::from_bytes(&bytes);
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_no_trap() {
        let mut seen = Seen::default();
        assert!(seen.insert(u64::MAX));
        assert!(seen.insert(0));
        assert!(!seen.insert(u64::MAX));
        assert!(seen.insert(u64::MAX - 1));
        assert_eq!(seen.count(), 3);
    }

    #[test]
    fn a_sequence_full_of_holes_has_a_bound_and_its_holes_stay_missing() {
        let mut seen = Seen::default();
        let numbers = 2 * (MAX_RANGES as u64 + 100);
        for number in (0..numbers).step_by(2) {
            assert!(seen.insert(number));
        }
        assert!(seen.ranges.len() <= MAX_RANGES);
        assert_eq!(seen.count(), numbers / 2);
        assert_eq!(seen.missing_from(0), numbers / 2 - 1);
        assert!(!seen.insert(1), "the first gaps are closed");
    }
}
