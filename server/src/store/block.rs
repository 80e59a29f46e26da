//! A block: the hits of one session that came together, as text, compressed together. Their texts have nearly all in
//! common, so that one takes a tenth of its length.

use std::sync::Arc;

use super::{
    StoreError,
    varint::{Reader, write},
};

/// Hits of a block.
pub(crate) const MAX_BLOCK_HITS: usize = 256;
/// Bytes of a block's texts: a block past it is closed.
pub(crate) const MAX_BLOCK_BYTES: usize = 256 * 1024;
/// Bytes of a block's texts that are ever unpacked: a block's bound and one more hit of the largest size, generously.
const MAX_UNPACKED_BYTES: usize = 64 * 1024 * 1024;
/// zstd's level: higher ones cost more time than they save space here.
const LEVEL: i32 = 1;

/// Hits as they are put together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Builder {
    head: Vec<u8>,
    texts: Vec<u8>,
    last: u64,
    pub(crate) first: u64,
    pub(crate) hits: usize,
    mark: Mark,
}

/// Up to where a block's hits are in the file already.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    head: usize,
    texts: usize,
    hits: usize,
    last: u64,
}

impl Builder {
    /// Adds a hit. Arrivals ascend. The text is written by `write_text`.
    pub(crate) fn push(
        &mut self,
        arrival: u64,
        service: u32,
        write_text: impl FnOnce(&mut Vec<u8>),
    ) -> std::ops::Range<usize> {
        if self.hits == 0 {
            self.first = arrival;
        }
        let start = self.texts.len();
        write_text(&mut self.texts);
        write(&mut self.head, arrival.wrapping_sub(self.last));
        write(&mut self.head, u64::from(service));
        write(&mut self.head, (self.texts.len() - start) as u64);
        self.last = arrival;
        self.hits += 1;
        start..self.texts.len()
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn is_full(&self) -> bool {
        self.hits >= MAX_BLOCK_HITS || self.texts.len() >= MAX_BLOCK_BYTES
    }

    /// The bytes of the block.
    pub(crate) fn pack(&self, compressor: &mut Compressor) -> Result<Vec<u8>, StoreError> {
        self.pack_from(Mark::default(), compressor)
    }

    /// The hits since [`Builder::set_mark`] as a block of their own: its first arrival, their number, its bytes.
    pub(crate) fn pack_new(
        &self,
        compressor: &mut Compressor,
    ) -> Result<Option<(u64, usize, Vec<u8>)>, StoreError> {
        let mark = self.mark;
        if mark.hits == self.hits {
            return Ok(None);
        }
        let step = Reader::new(&self.head[mark.head..]).u64().unwrap_or_default();
        let packed = self.pack_from(mark, compressor)?;
        Ok(Some((mark.last.wrapping_add(step), self.hits - mark.hits, packed)))
    }

    /// What is there now is in the file.
    pub(crate) fn set_mark(&mut self) {
        self.mark = Mark { head: self.head.len(), texts: self.texts.len(), hits: self.hits, last: self.last };
    }

    fn pack_from(&self, mark: Mark, compressor: &mut Compressor) -> Result<Vec<u8>, StoreError> {
        let (head, texts) = (&self.head[mark.head..], &self.texts[mark.texts..]);
        let mut plain = Vec::with_capacity(head.len() + texts.len() + 16);
        write(&mut plain, (self.hits - mark.hits) as u64);
        write(&mut plain, mark.last);
        plain.extend_from_slice(head);
        plain.extend_from_slice(texts);
        compressor.pack(&plain)
    }
}

/// Packs bytes; keeps its memory from one time to the next.
pub(crate) struct Compressor(zstd::bulk::Compressor<'static>);

impl std::fmt::Debug for Compressor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Compressor")
    }
}

impl Compressor {
    pub(crate) fn new() -> Result<Self, StoreError> {
        zstd::bulk::Compressor::new(LEVEL).map(Self).map_err(StoreError::Compression)
    }

    pub(crate) fn pack(&mut self, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.0.compress(plain).map_err(StoreError::Compression)
    }
}

/// Unpacks bytes.
pub(crate) fn unpack(packed: &[u8]) -> Result<Vec<u8>, StoreError> {
    // The length stands at the beginning of what the compressor writes.
    let length = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
    let length = length.and_then(|length| usize::try_from(length).ok());
    let Some(length) = length.filter(|length| *length <= MAX_UNPACKED_BYTES) else {
        return Err(StoreError::Corrupt { what: "a block that is longer than any is written" });
    };
    zstd::bulk::decompress(packed, length).map_err(StoreError::Compression)
}

/// A block that is read.
#[derive(Debug)]
pub(crate) struct Block {
    plain: Vec<u8>,
    /// Arrival, service, end of its text.
    hits: Vec<(u64, u32, usize)>,
    texts: usize,
}

impl Block {
    pub(crate) fn unpack(packed: &[u8]) -> Result<Arc<Self>, StoreError> {
        Self::of_plain(unpack(packed)?)
            .map(Arc::new)
            .ok_or(StoreError::Corrupt { what: "a block whose head and texts do not fit" })
    }

    fn of_plain(plain: Vec<u8>) -> Option<Self> {
        let mut reader = Reader::new(&plain);
        let count = reader.count()?;
        let mut hits = Vec::with_capacity(count);
        let (mut arrival, mut end) = (reader.u64()?, 0_usize);
        for _ in 0..count {
            arrival = arrival.wrapping_add(reader.u64()?);
            let service = reader.u32()?;
            end = end.checked_add(usize::try_from(reader.u64()?).ok()?)?;
            hits.push((arrival, service, end));
        }
        let texts = plain.len() - reader.rest().len();
        (texts + end == plain.len()).then_some(Self { plain, hits, texts })
    }

    pub(crate) fn arrivals(&self) -> impl Iterator<Item = u64> {
        self.hits.iter().map(|hit| hit.0)
    }

    /// The service and the text of a hit.
    pub(crate) fn get(&self, arrival: u64) -> Option<(u32, &[u8])> {
        let at = self.hits.binary_search_by_key(&arrival, |hit| hit.0).ok()?;
        let start = at.checked_sub(1).map_or(0, |before| self.hits[before].2);
        let (_, service, end) = self.hits[at];
        Some((service, self.plain.get(self.texts + start..self.texts + end)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hits_come_back_by_their_arrival() {
        let mut builder = Builder::default();
        for n in 0..100_u64 {
            builder.push(5000 + n * 3, n as u32 % 4, |text| {
                text.extend_from_slice(format!("hit {n}").as_bytes());
            });
        }
        let mut compressor = Compressor::new().unwrap();
        let block = Block::unpack(&builder.pack(&mut compressor).unwrap()).unwrap();
        assert_eq!(block.arrivals().count(), 100);
        assert_eq!(block.get(5000), Some((0, b"hit 0".as_slice())));
        assert_eq!(block.get(5003), Some((1, b"hit 1".as_slice())));
        assert_eq!(block.get(5001), None);
        assert_eq!((builder.first, builder.last(), builder.hits), (5000, 5297, 100));

        builder.set_mark();
        assert!(builder.pack_new(&mut compressor).unwrap().is_none());
        builder.push(9000, 1, |text| text.extend_from_slice(b"more"));
        builder.push(9001, 3, |text| text.extend_from_slice(b"last"));
        let (first, hits, packed) = builder.pack_new(&mut compressor).unwrap().unwrap();
        let block = Block::unpack(&packed).unwrap();
        assert_eq!((first, hits), (9000, 2));
        assert_eq!(block.arrivals().collect::<Vec<_>>(), [9000, 9001]);
        assert_eq!(block.get(9001), Some((3, b"last".as_slice())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Block::unpack(&bytes);
            if let Some(block) = Block::of_plain(bytes) {
                for arrival in block.arrivals().collect::<Vec<_>>() {
                    let _ = block.get(arrival);
                }
            }
        }
    }
}
