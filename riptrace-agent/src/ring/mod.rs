//! The records of hits, out of the kernel's ring buffer into owned bytes.
//!
//! The ring is mapped into memory: draining makes no system call. Nothing wakes this reader; the pipeline calls it on
//! a timer (a wake-up costs a hit more than its record does). A record's content is checked by `decode`, not here.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::{MapData, RingBuf};
use bytes::{Bytes, BytesMut};

/// Records share allocations of this size, so that a fast tracepoint does not allocate once a hit. A record that is
/// kept keeps its block alive.
const BLOCK_BYTES: usize = 64 * 1024;

/// The only consumer of the ring buffer.
pub struct RingReader {
    ring: RingBuf<MapData>,
    block: BytesMut,
}

impl RingReader {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, block: BytesMut::new() }
    }

    /// Appends at most `max` records to `out`, oldest first, and says how many. Fewer than `max`: the ring is empty, or
    /// the oldest record is still being written.
    pub fn drain(&mut self, out: &mut Vec<Bytes>, max: usize) -> usize {
        let mut taken = 0;
        while taken < max {
            let Some(record) = self.ring.next() else { break };
            out.push(copy(&mut self.block, &record));
            taken += 1;
        }
        taken
    }
}

impl AsFd for RingReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl fmt::Debug for RingReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RingReader").finish_non_exhaustive()
    }
}

fn copy(block: &mut BytesMut, record: &[u8]) -> Bytes {
    if block.capacity() < record.len() {
        *block = BytesMut::with_capacity(BLOCK_BYTES.max(record.len()));
    }
    block.extend_from_slice(record);
    block.split().freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_their_bytes_across_blocks() {
        let mut block = BytesMut::new();
        let records: Vec<Vec<u8>> =
            (0..100u32).map(|index| vec![index as u8; (index as usize * 2311) % 40_000]).collect();
        let copies: Vec<Bytes> = records.iter().map(|record| copy(&mut block, record)).collect();
        assert!(copies.iter().zip(&records).all(|(copy, record)| copy[..] == record[..]));
    }

    #[test]
    fn a_record_larger_than_a_block_is_copied_whole() {
        let record = vec![7u8; BLOCK_BYTES + 1];
        assert_eq!(copy(&mut BytesMut::new(), &record), record);
    }
}
