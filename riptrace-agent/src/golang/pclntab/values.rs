//! Tables of values by address: lines, files, stack depths, inline-tree indexes.

use std::ops::Range;

/// A table of values by address: runs of (change of the value, length), both varints (runtime/symtab.go, `step`).
pub(super) struct Values<'a> {
    bytes: &'a [u8],
    address: u64,
    end: u64,
    value: i32,
    first: bool,
}

impl<'a> Values<'a> {
    /// The table at the start of `bytes`, for addresses from `start` to `end`.
    pub(super) fn new(bytes: &'a [u8], start: u64, end: u64) -> Self {
        Self { bytes, address: start, end, value: -1, first: true }
    }
}

impl Values<'_> {
    /// The value at an address.
    pub(super) fn at(self, address: u64) -> Option<i32> {
        for (range, value) in self {
            if address < range.end {
                return (address >= range.start).then_some(value);
            }
        }
        None
    }

    fn varint(&mut self) -> Option<u32> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u32::from(byte & 0x7f).wrapping_shl(shift);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl Iterator for Values<'_> {
    type Item = (Range<u64>, i32);

    fn next(&mut self) -> Option<Self::Item> {
        if self.address >= self.end {
            return None;
        }
        let delta = self.varint()?;
        if delta == 0 && !self.first {
            return None;
        }
        self.first = false;
        // Zigzag: the sign is the lowest bit.
        let delta = ((delta >> 1) as i32) ^ -((delta & 1) as i32);
        self.value = self.value.wrapping_add(delta);
        let start = self.address;
        let length = self.varint()?;
        // Each run has instructions; one without would let a broken table be walked without end.
        if length == 0 {
            return None;
        }
        self.address = start.wrapping_add(u64::from(length));
        Some((start..self.address, self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_table_is_runs_of_zigzag_changes() {
        // +2 for 3 bytes, -5 for 200 bytes, end.
        let bytes = [6, 3, 9, 200, 1, 0];
        let values = || Values::new(&bytes, 100, 10_000);
        assert_eq!(values().collect::<Vec<_>>(), [(100..103, 2), (103..303, -3)]);
        assert_eq!(
            [99, 100, 102, 103, 302, 303].map(|at| values().at(at)),
            [None, Some(2), Some(2), Some(-3), Some(-3), None]
        );
    }
}
