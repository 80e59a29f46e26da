//! Call stacks are sent once: what names one from then on.
//!
//! A record with at least [`MIN_HASHED_FRAMES`] frames has a hash, which both sides compute. When its record has reached
//! the ring, the kernel side writes the hash into the map `SENT_STACKS`, at [`slot`]; while it stands there, records with
//! the same stack carry the hash in place of the frames (`record::FLAG_STACK_SENT`). The agent keeps the frames by hash.

/// A stack of one frame is no longer than its hash.
pub const MIN_HASHED_FRAMES: u32 = 2;

/// What hashes start from: frames are run-time addresses, which mean something in one process only.
#[inline(always)]
#[must_use]
pub const fn seed(tgid: u32) -> u64 {
    tgid as u64
}

/// The hash with one more frame. Frames count in their order; with all others equal, no two frames give the same hash.
#[inline(always)]
#[must_use]
pub const fn mix(hash: u64, frame: u64) -> u64 {
    // An odd number with bits in no pattern (2^64 divided by the golden ratio): a multiplication carries each bit
    // upwards, the shift brings the upper half down again.
    let product = (hash ^ frame).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

/// The hash after the last frame; never 0, which is an empty slot.
#[inline(always)]
#[must_use]
pub const fn finish(hash: u64, frames: u32) -> u64 {
    mix(hash, frames as u64) | 1 << 63
}

/// Where the hash stands among `slots` (a power of two) of them.
#[inline(always)]
#[must_use]
pub const fn slot(hash: u64, slots: u32) -> u32 {
    hash as u32 & (slots - 1)
}

/// The hash of a whole stack; `None`: it is sent each time.
#[must_use]
pub fn hash(tgid: u32, frames: &[u64]) -> Option<u64> {
    let count = u32::try_from(frames.len()).ok().filter(|count| *count >= MIN_HASHED_FRAMES)?;
    Some(finish(frames.iter().fold(seed(tgid), |hash, frame| mix(hash, *frame)), count))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{collections::HashSet, vec::Vec};

    use super::*;

    #[test]
    fn stacks_that_differ_in_anything_have_hashes_that_differ() {
        let frames: Vec<u64> = (0..64).map(|frame| 0x4a_0000 + frame * 16).collect();
        let mut hashes = HashSet::new();
        let mut slots = HashSet::new();
        let mut different = 0;
        for tgid in [1, 2, 4242] {
            for length in 2..=frames.len() {
                let stack = &frames[..length];
                let mut swapped = stack.to_vec();
                swapped.swap(0, 1);
                let mut neighbour = stack.to_vec();
                neighbour[length - 1] += 1;
                for stack in [stack, &swapped, &neighbour] {
                    let hash = hash(tgid, stack).unwrap();
                    assert_ne!(hash, 0);
                    hashes.insert(hash);
                    slots.insert(slot(hash, 16 * 1024));
                    different += 1;
                }
            }
        }
        assert_eq!(hashes.len(), different);
        assert!(slots.len() > different * 9 / 10, "{} slots for {different} stacks", slots.len());
        assert_eq!(hash(1, &frames[..1]), None);
    }
}
