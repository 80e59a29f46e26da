//! A Bloom filter: says of a key that it is certainly not there, so that a block need not be opened.

/// Bits for each key: with [`PROBES`] probes about one key in a hundred that is not there is not told.
const BITS_PER_KEY: usize = 10;
const PROBES: u64 = 6;

/// The filter of some keys (64-bit hashes).
pub(crate) fn build(keys: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
    let mut bytes = vec![0_u8; (keys.len() * BITS_PER_KEY).div_ceil(8)];
    for key in keys {
        for bit in bits(key, bytes.len()) {
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    bytes
}

/// Whether the key may be there.
pub(crate) fn may_have(filter: &[u8], key: u64) -> bool {
    !filter.is_empty() && bits(key, filter.len()).all(|bit| filter[bit / 8] & (1 << (bit % 8)) != 0)
}

fn bits(key: u64, bytes: usize) -> impl Iterator<Item = usize> {
    let count = (bytes as u64) * 8;
    // Two halves of one good hash are as good as many (Kirsch and Mitzenmacher, 2006).
    let step = (key >> 32) | 1;
    (0..PROBES).map(move |probe| (key.wrapping_add(probe.wrapping_mul(step)) % count.max(1)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::hash::hash;

    #[test]
    fn what_is_there_is_found_and_little_else() {
        let keys: Vec<u64> = (0..1000_u32).map(|n| hash(&n.to_le_bytes())).collect();
        let filter = build(keys.iter().copied());
        assert!(keys.iter().all(|key| may_have(&filter, *key)));
        let wrong = (1000..11_000_u32).filter(|n| may_have(&filter, hash(&n.to_le_bytes()))).count();
        assert!(wrong < 300, "{wrong} of 10000");
        assert!(!may_have(&build([].into_iter()), 7));
    }
}
