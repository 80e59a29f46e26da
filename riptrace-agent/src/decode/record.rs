//! The parts of a record: header, chunks, stack. From arbitrary bytes; the layout is `abi::record`'s.

use riptrace_common::abi::{
    ABI_VERSION,
    limits::MAX_RECORD_BYTES,
    record::{Chunk, FLAG_STACK_SENT, Header},
};

const HEADER_BYTES: usize = size_of::<Header>();
const CHUNK_HEADER_BYTES: usize = size_of::<Chunk>();

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another version of the kernel side wrote it.
    #[error(
        "it has ABI version {found}, this program reads version {ABI_VERSION}; restart riptrace so that both sides match"
    )]
    AbiVersion {
        /// Version in the record.
        found: u32,
    },
    /// It ends before what it announces.
    #[error("{what} needs {needed} bytes at offset {offset}, the record has {total}")]
    TooShort {
        /// What does not fit.
        what: &'static str,
        /// Where it would begin.
        offset: usize,
        /// Bytes that it needs.
        needed: usize,
        /// Bytes of the record.
        total: usize,
    },
    /// It is longer than a record may be.
    #[error("it announces {announced} bytes; a record has at most {MAX_RECORD_BYTES}")]
    TooLong {
        /// Bytes that it announces.
        announced: u32,
    },
    /// It has no root chunk, or the first chunk has an address.
    #[error("it has no root chunk")]
    NoRoot,
}

/// A chunk with its data.
#[derive(Clone, Copy, Debug)]
pub struct ChunkData<'r> {
    /// What stands in front of the data.
    pub header: Chunk,
    /// The data.
    pub data: &'r [u8],
}

/// A record, split into its parts.
#[derive(Clone, Debug)]
pub struct Record<'r> {
    /// The header.
    pub header: Header,
    /// Data of the root chunk: registers and windows.
    pub root: ChunkData<'r>,
    /// The other chunks, in the order in which they were captured.
    pub chunks: Vec<ChunkData<'r>>,
    /// The stack.
    pub stack: CarriedStack,
}

/// What a record holds of the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarriedStack {
    /// Run-time program counters; none if no stack was asked for.
    Frames(Vec<u64>),
    /// The hash of frames that an earlier record of the ring carried (`abi::stack`).
    Hash(u64),
}

/// The header alone, for sorting records before they are decoded.
pub fn header(bytes: &[u8]) -> Result<Header, RecordError> {
    let found = Cursor::new(bytes, bytes.len()).u32("the ABI version")?;
    if found != ABI_VERSION {
        return Err(RecordError::AbiVersion { found });
    }
    parse_header(&mut Cursor::new(bytes, bytes.len()))
}

/// The stack alone, for records whose others name it.
pub fn stack(bytes: &[u8], header: &Header) -> Result<CarriedStack, RecordError> {
    const WHAT: &str = "the stack";
    let mut cursor = Cursor::new(bytes, (header.total_bytes as usize).min(bytes.len()));
    cursor.offset = header.stack_offset as usize;
    if header.flags & FLAG_STACK_SENT != 0 {
        return Ok(CarriedStack::Hash(cursor.u64(WHAT)?));
    }
    let (frames, _) = cursor.take(WHAT, (header.stack_frames as usize).saturating_mul(8))?.as_chunks();
    Ok(CarriedStack::Frames(frames.iter().map(|frame| u64::from_le_bytes(*frame)).collect()))
}

impl<'r> Record<'r> {
    /// Splits a record. Bytes behind its announced end are ignored (the ring buffer pads records to 8 bytes).
    pub fn parse(bytes: &'r [u8]) -> Result<Self, RecordError> {
        // The version comes first so that a record of another version is named as such, whatever follows it.
        let found = Cursor::new(bytes, bytes.len()).u32("the ABI version")?;
        if found != ABI_VERSION {
            return Err(RecordError::AbiVersion { found });
        }
        let mut cursor = Cursor::new(bytes, bytes.len());
        let header = parse_header(&mut cursor)?;
        if header.total_bytes > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong { announced: header.total_bytes });
        }
        let total = header.total_bytes as usize;
        let whole = bytes.get(..total).ok_or(RecordError::TooShort {
            what: "the record",
            offset: 0,
            needed: total,
            total: bytes.len(),
        })?;

        let stack = stack(whole, &header)?;
        let stack_offset = header.stack_offset as usize;

        let mut cursor = Cursor::new(whole, stack_offset);
        cursor.offset = HEADER_BYTES;
        let mut chunks = Vec::new();
        while stack_offset.saturating_sub(cursor.offset) >= CHUNK_HEADER_BYTES {
            chunks.push(parse_chunk(&mut cursor)?);
        }
        let mut chunks = chunks.into_iter();
        let root = chunks.next().filter(|root| root.header.address == 0).ok_or(RecordError::NoRoot)?;
        Ok(Self { header, root, chunks: chunks.collect(), stack })
    }
}

fn parse_header(cursor: &mut Cursor<'_>) -> Result<Header, RecordError> {
    const WHAT: &str = "the header";
    Ok(Header {
        abi_version: cursor.u32(WHAT)?,
        total_bytes: cursor.u32(WHAT)?,
        site: cursor.u32(WHAT)?,
        generation: cursor.u32(WHAT)?,
        tracepoint: cursor.u32(WHAT)?,
        flags: cursor.u32(WHAT)?,
        stack_offset: cursor.u32(WHAT)?,
        stack_frames: cursor.u32(WHAT)?,
        seq: cursor.u64(WHAT)?,
        ktime_ns: cursor.u64(WHAT)?,
        tgid: cursor.u32(WHAT)?,
        tid: cursor.u32(WHAT)?,
        cpu: cursor.u32(WHAT)?,
        window_faults: cursor.u32(WHAT)?,
        cpu_seq: cursor.u64(WHAT)?,
        goid: cursor.u64(WHAT)?,
        parent_goid: cursor.u64(WHAT)?,
        frame_from_stack_hi: cursor.u64(WHAT)?,
        load_bias: cursor.u64(WHAT)?,
        duration_ns: cursor.u64(WHAT)?,
        entry_seq: cursor.u64(WHAT)?,
        gopc: cursor.u64(WHAT)?,
    })
}

fn parse_chunk<'r>(cursor: &mut Cursor<'r>) -> Result<ChunkData<'r>, RecordError> {
    const WHAT: &str = "a chunk's header";
    let address = cursor.u64(WHAT)?;
    let type_index = cursor.u32(WHAT)?;
    let count = cursor.u32(WHAT)?;
    let bytes = cursor.u32(WHAT)?;
    let [depth, flags, reserved_low, reserved_high] = cursor.u32(WHAT)?.to_le_bytes();
    let reserved = u16::from_le_bytes([reserved_low, reserved_high]);
    let data = cursor.take("a chunk", bytes as usize)?;
    cursor.offset = cursor.offset.next_multiple_of(8);
    Ok(ChunkData { header: Chunk { address, type_index, count, bytes, depth, flags, reserved }, data })
}

struct Cursor<'r> {
    bytes: &'r [u8],
    end: usize,
    offset: usize,
}

impl<'r> Cursor<'r> {
    fn new(bytes: &'r [u8], end: usize) -> Self {
        Self { bytes, end, offset: 0 }
    }

    fn take(&mut self, what: &'static str, needed: usize) -> Result<&'r [u8], RecordError> {
        let short = RecordError::TooShort { what, offset: self.offset, needed, total: self.end };
        let end = self.offset.checked_add(needed).filter(|end| *end <= self.end).ok_or(short.clone())?;
        let taken = self.bytes.get(self.offset..end).ok_or(short)?;
        self.offset = end;
        Ok(taken)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, RecordError> {
        Ok(u32::from_le_bytes(self.take(what, 4)?.try_into().unwrap_or_default()))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, RecordError> {
        Ok(u64::from_le_bytes(self.take(what, 8)?.try_into().unwrap_or_default()))
    }
}
