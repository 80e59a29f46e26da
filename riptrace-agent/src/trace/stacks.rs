//! The call stacks that the kernel side sent, for the records that only name them.
//!
//! Records are looked at in the ring's order, in which a stack's frames come before its hash. (In the order of time they
//! need not: a hit that began earlier may have written its record later.)

use std::sync::Arc;

use riptrace_common::abi::stack;

use crate::{decode::record::CarriedStack, fast_map::FastMap};

/// Stacks that are kept for each slot of the kernel side's map. Hits on several CPUs can send stacks of one slot at the
/// same time, and then it is open which of them it keeps.
const STACKS_PER_SLOT: usize = 4;

/// Frames by hash; as many stacks as the kernel side's map has slots, [`STACKS_PER_SLOT`] times.
#[derive(Debug)]
pub(super) struct Stacks {
    slots: u32,
    /// The latest first.
    known: FastMap<u32, [Option<Known>; STACKS_PER_SLOT]>,
}

#[derive(Debug)]
struct Known {
    hash: u64,
    frames: Arc<[u64]>,
}

/// What a record's stack is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// In the record, if it has one.
    Carried,
    /// These frames.
    Sent(Arc<[u64]>),
    /// Not known: it is to be sent again.
    Unknown(u64),
}

impl Stacks {
    /// For a kernel side with so many slots.
    pub(super) fn new(slots: u32) -> Self {
        Self { slots, known: FastMap::default() }
    }

    /// Takes the stack of the next record of the ring.
    pub(super) fn take(&mut self, tgid: u32, carried: &CarriedStack) -> Found {
        match carried {
            CarriedStack::Frames(frames) => {
                if let Some(hash) = stack::hash(tgid, frames) {
                    self.keep(hash, frames);
                }
                Found::Carried
            }
            CarriedStack::Hash(hash) => {
                let of_slot = self.known.get(&stack::slot(*hash, self.slots));
                let known = of_slot.into_iter().flatten().flatten().find(|known| known.hash == *hash);
                known.map_or(Found::Unknown(*hash), |known| Found::Sent(Arc::clone(&known.frames)))
            }
        }
    }

    fn keep(&mut self, hash: u64, frames: &[u64]) {
        let of_slot = self.known.entry(stack::slot(hash, self.slots)).or_default();
        let is_it = |known: &Option<Known>| known.as_ref().is_some_and(|known| known.hash == hash);
        // It takes the first place: its own former one, or the oldest, goes.
        let place = of_slot.iter().position(is_it).unwrap_or(STACKS_PER_SLOT - 1);
        let known = of_slot[place].take().filter(|known| known.hash == hash);
        of_slot[..=place].rotate_right(1);
        of_slot[0] = Some(known.unwrap_or_else(|| Known { hash, frames: frames.into() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TGID: u32 = 7;

    fn frames(number: u64) -> Vec<u64> {
        vec![0x40_0000 + number, 0x50_0000, 0x60_0000]
    }

    fn named(number: u64) -> CarriedStack {
        CarriedStack::Hash(stack::hash(TGID, &frames(number)).unwrap())
    }

    #[test]
    fn a_stack_is_known_by_its_hash_once_it_was_carried() {
        let mut stacks = Stacks::new(16);
        let CarriedStack::Hash(hash) = named(1) else { unreachable!() };
        assert_eq!(stacks.take(TGID, &named(1)), Found::Unknown(hash));
        assert_eq!(stacks.take(TGID, &CarriedStack::Frames(frames(1))), Found::Carried);
        assert_eq!(stacks.take(TGID, &named(1)), Found::Sent(frames(1).into()));
        // Another process has other code at the same addresses.
        assert_eq!(stacks.take(TGID + 1, &CarriedStack::Frames(frames(2))), Found::Carried);
        assert!(matches!(stacks.take(TGID, &named(2)), Found::Unknown(_)));
    }

    #[test]
    fn a_slot_keeps_its_latest_stacks_and_no_more() {
        let mut stacks = Stacks::new(1);
        for number in [0, 1, 2, 3, 0, 4] {
            stacks.take(TGID, &CarriedStack::Frames(frames(number)));
        }
        let known = |number| matches!(stacks.take(TGID, &named(number)), Found::Sent(_));
        assert_eq!((0..6).map(known).collect::<Vec<_>>(), [true, false, true, true, true, false]);
        assert_eq!(stacks.known.len(), 1);
    }

    #[test]
    fn stacks_of_one_frame_or_none_are_not_kept() {
        let mut stacks = Stacks::new(1);
        for frames in [vec![], vec![0x40_0000]] {
            assert_eq!(stacks.take(TGID, &CarriedStack::Frames(frames)), Found::Carried);
        }
        assert!(stacks.known.is_empty());
    }
}
