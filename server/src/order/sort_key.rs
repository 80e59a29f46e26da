//! Where a hit stands in the one order of all hits.

use serde::{Deserialize, Serialize};

/// A hit's place in the order of all hits: sorts like it, late hits at their place. No two hits have the same.
///
/// Hits that came in time get a place time of their own, at least a nanosecond behind the one before, and fraction 0.
/// A hit that is late gets a place between those that are final already: its own time, unless its host's hits or a
/// message's other side bound it; then the fraction halves what is between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "(u64, u64, u64)", from = "(u64, u64, u64)")]
pub struct SortKey {
    /// The corrected time, or one nanosecond more than the hit before has, whatever is more.
    pub place_ns: u64,
    /// 0; of a late hit, where it stands within the nanosecond.
    pub fraction: u64,
    /// Counts placed hits: what was placed later has more.
    pub rank: u64,
}

impl From<SortKey> for (u64, u64, u64) {
    fn from(key: SortKey) -> Self {
        (key.place_ns, key.fraction, key.rank)
    }
}

impl From<(u64, u64, u64)> for SortKey {
    fn from((place_ns, fraction, rank): (u64, u64, u64)) -> Self {
        Self { place_ns, fraction, rank }
    }
}

impl SortKey {
    const HALF: u64 = 1 << 63;

    /// The bytes sort like the keys: a key of an index.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.place_ns.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.fraction.to_be_bytes());
        bytes[16..].copy_from_slice(&self.rank.to_be_bytes());
        bytes
    }

    /// Of [`SortKey::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 24]) -> Self {
        let word =
            |at: usize| bytes[at..at + 8].iter().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte));
        Self { place_ns: word(0), fraction: word(8), rank: word(16) }
    }

    /// A key for a late hit: behind `lower` and before `upper`, at `wanted_ns` if that lies between. False: there is nothing
    /// between them, it stands right behind `lower`. `rank` is greater than that of every key there is.
    pub(super) fn between(
        lower: Option<Self>,
        upper: Option<Self>,
        wanted_ns: u64,
        rank: u64,
    ) -> (Self, bool) {
        let low = lower.unwrap_or_default();
        let high = upper.unwrap_or(Self { place_ns: u64::MAX, fraction: u64::MAX, rank: u64::MAX });
        let behind_low = Self { rank, ..low };
        if low >= high {
            return (behind_low, false);
        }
        let wanted = Self { place_ns: wanted_ns, fraction: Self::HALF, rank };
        if low < wanted && wanted < high {
            return (wanted, true);
        }
        let place_ns =
            if wanted <= low { low.place_ns } else { low.place_ns.max(high.place_ns.saturating_sub(1)) };
        if place_ns > low.place_ns {
            return (Self { place_ns, fraction: Self::HALF, rank }, true);
        }
        let room = if high.place_ns > low.place_ns { u64::MAX } else { high.fraction } - low.fraction;
        let key = Self { fraction: low.fraction + room / 2, ..behind_low };
        (key, low < key && key < high)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(place_ns: u64, fraction: u64, rank: u64) -> SortKey {
        SortKey { place_ns, fraction, rank }
    }

    #[test]
    fn a_late_hit_stands_at_its_time_where_it_may() {
        let (placed, fits) = SortKey::between(Some(key(10, 0, 1)), Some(key(20, 0, 2)), 15, 3);
        assert!(fits);
        assert_eq!(placed.place_ns, 15);
        let (placed, fits) = SortKey::between(Some(key(10, 0, 1)), Some(key(11, 0, 2)), 500, 3);
        assert!(fits && key(10, 0, 1) < placed && placed < key(11, 0, 2));
        let (placed, fits) = SortKey::between(Some(key(10, 0, 1)), None, 3, 3);
        assert!(fits && key(10, 0, 1) < placed && placed < key(11, 0, 2));
        assert!(!SortKey::between(Some(key(11, 0, 2)), Some(key(10, 0, 1)), 3, 3).1);
    }

    #[test]
    fn one_hundred_hits_fit_behind_one_another_into_one_nanosecond() {
        let upper = key(11, 0, 2);
        let mut lower = key(10, 0, 1);
        for rank in 3..103 {
            let (placed, fits) = SortKey::between(Some(lower), Some(upper), 5, rank);
            assert!(fits && lower < placed && placed < upper, "{lower:?} {placed:?}");
            lower = placed;
        }
    }

    proptest! {
        #[test]
        fn bytes_sort_like_keys(a in any::<(u64, u64, u64)>(), b in any::<(u64, u64, u64)>()) {
            let (a, b) = (SortKey::from(a), SortKey::from(b));
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(SortKey::from_bytes(a.to_bytes()), a);
        }

        #[test]
        fn between_is_between(a in (0..20_u64, 0..3_u64, 0..9_u64), b in (0..20_u64, 0..3_u64, 0..9_u64), wanted in 0..25_u64) {
            let (a, b) = (SortKey::from(a), SortKey::from(b));
            let (placed, fits) = SortKey::between(Some(a), Some(b), wanted, 10);
            prop_assert!(a < placed);
            prop_assert_eq!(fits, placed < b);
        }
    }
}
