//! A record, taken apart by the letter of abi/record.rs (a second reader beside `decode`, for the tests alone).

use riptrace_common::abi::{
    ABI_VERSION,
    record::{Chunk, FLAG_STACK_SENT, Header},
};

pub(crate) struct Record {
    pub(crate) header: Header,
    pub(crate) chunks: Vec<(Chunk, Vec<u8>)>,
    pub(crate) frames: Vec<u64>,
    /// In place of the frames.
    pub(crate) stack_hash: Option<u64>,
}

impl Record {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let header: Header = read(bytes, 0);
        assert_eq!(header.abi_version, ABI_VERSION);
        assert_eq!(header.total_bytes as usize, bytes.len(), "the record is exactly as long as it says");
        let mut chunks = Vec::new();
        let mut at = size_of::<Header>();
        while at < header.stack_offset as usize {
            let chunk: Chunk = read(bytes, at);
            let data = at + size_of::<Chunk>();
            chunks.push((chunk, bytes[data..data + chunk.bytes as usize].to_vec()));
            let end = data + chunk.bytes as usize;
            at = end.next_multiple_of(8);
            assert!(bytes[end..at].iter().all(|&byte| byte == 0), "padding is zero");
        }
        assert_eq!(at, header.stack_offset as usize, "chunks end where the stack begins");
        let frames = bytes[at..].as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut frames: Vec<u64> = frames.collect();
        let mut stack_hash = None;
        if header.flags & FLAG_STACK_SENT != 0 {
            assert_eq!(frames.len(), 1);
            stack_hash = frames.pop();
        }
        assert_eq!(frames.len(), header.stack_frames as usize);
        Self { header, chunks, frames, stack_hash }
    }

    pub(crate) fn root(&self) -> &[u8] {
        &self.chunks[0].1
    }

    pub(crate) fn register(&self, offset: u32) -> u64 {
        self.root_word(offset)
    }

    pub(crate) fn root_word(&self, offset: u32) -> u64 {
        word(self.root(), offset as usize)
    }

    /// The longest chunk at this address with this type.
    pub(crate) fn chunk(&self, address: u64, type_index: u32) -> Option<&(Chunk, Vec<u8>)> {
        self.chunks
            .iter()
            .filter(|(chunk, _)| chunk.address == address && chunk.type_index == type_index)
            .max_by_key(|(chunk, _)| chunk.bytes)
    }

    pub(crate) fn data(&self, address: u64, type_index: u32) -> &[u8] {
        let found = self.chunk(address, type_index);
        &found
            .unwrap_or_else(|| panic!("no chunk at {address:#x} of type {type_index}: {:#x?}", self.heads()))
            .1
    }

    pub(crate) fn heads(&self) -> Vec<Chunk> {
        self.chunks.iter().map(|(chunk, _)| *chunk).collect()
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn read<T: Copy>(bytes: &[u8], at: usize) -> T {
    let bytes = &bytes[at..at + size_of::<T>()];
    // SAFETY: `T` is one of the ABI's types, for which every bit pattern is valid; the slice has its size.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
