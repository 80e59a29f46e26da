//! Which bytes of the target a record holds.
//!
//! A chunk is a copy of memory, so any chunk that covers an address range answers for it, whatever type it was
//! captured as. The type index only decides between several, and says what the kernel side followed from there.

use std::collections::HashSet;

use riptrace_common::{
    abi::{
        program::{TYPE_FIRST, TYPE_ITAB, TYPE_UNKNOWN},
        record::{CHUNK_CUT_BYTES, CHUNK_FAULT, CHUNK_TORN, FLAG_BYTES_EXHAUSTED, FLAG_STEPS_EXHAUSTED},
    },
    wire::value::{Limit, Truncated, Unavailable, Value},
};

use super::{
    record::{ChunkData, Record},
    symbols::{Symbols, TypeIndex},
};
use crate::fast_map::FastMap;

/// Why bytes are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Another reason than a limit.
    Unavailable(Unavailable),
    /// A limit of the capture.
    Limit(Limit),
}

impl Lack {
    pub(super) const BUDGET: Self = Self::Unavailable(Unavailable::Budget);
    pub(super) const REDACTED: Self = Self::Unavailable(Unavailable::Redacted);
    pub(super) const BAD_DEBUG_INFO: Self = Self::Unavailable(Unavailable::BadDebugInfo);

    /// Labels a value of which nothing was captured.
    pub(super) fn label(self, value: &mut Value) {
        match self {
            Self::Unavailable(reason) => value.unavailable = Some(reason),
            Self::Limit(by) => value.truncated = Some(Truncated { by, captured: 0 }),
        }
    }
}

/// Bytes of a value that were not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// From the start of the value.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) reason: Unavailable,
}

/// Where a view's bytes come from, as far as it decides what is found behind its pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Levels of pointers from the root.
    pub(super) depth: u32,
    /// The kernel side did not know the type, so that it followed nothing.
    pub(super) unknown_type: bool,
    /// The object changed while it was captured.
    pub(super) torn: bool,
}

impl Origin {
    pub(super) const ROOT: Self = Self { depth: 0, unknown_type: false, torn: false };
}

/// The bytes of one value, as far as they were captured.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    bytes: &'a [u8],
    gaps: &'a [Gap],
    /// Where this view begins in what `gaps` counts from.
    base: u64,
    /// Why there is nothing behind `bytes`.
    beyond: Lack,
    pub(super) origin: Origin,
}

impl<'a> View<'a> {
    pub(super) fn new(bytes: &'a [u8], beyond: Lack, origin: Origin) -> Self {
        Self { bytes, gaps: &[], base: 0, beyond, origin }
    }

    pub(super) fn with_gaps(bytes: &'a [u8], gaps: &'a [Gap], origin: Origin) -> Self {
        Self { bytes, gaps, base: 0, beyond: Lack::BAD_DEBUG_INFO, origin }
    }

    /// A value of which nothing is there.
    pub(super) fn missing(lack: Lack, origin: Origin) -> Self {
        Self { bytes: &[], gaps: &[], base: 0, beyond: lack, origin }
    }

    /// The part of the value that begins at `offset` and is `size` long.
    pub(super) fn part(self, offset: u64, size: u64) -> Self {
        let length = self.bytes.len() as u64;
        let start = offset.min(length);
        let end = offset.saturating_add(size).min(length);
        let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
        Self {
            bytes: self.bytes.get(range).unwrap_or_default(),
            base: self.base.saturating_add(offset),
            ..self
        }
    }

    /// The first `size` bytes, all of them.
    pub(super) fn bytes(self, size: u64) -> Result<&'a [u8], Lack> {
        let end = self.base.saturating_add(size);
        // An empty range overlaps no gap.
        if let Some(gap) = self.gaps.iter().find(|gap| gap.start < end && self.base < gap.end) {
            return Err(Lack::Unavailable(gap.reason));
        }
        usize::try_from(size).ok().and_then(|size| self.bytes.get(..size)).ok_or(self.beyond)
    }

    /// Not one byte of a value of that size was captured, or not all of its last ones: what was captured ends before.
    pub(super) fn is_behind_end(self, size: u64) -> bool {
        (self.bytes.len() as u64) < size && !self.overlaps_gap(size)
    }

    /// At least that many bytes were captured.
    pub(super) fn reaches(self, size: u64) -> bool {
        self.bytes.len() as u64 >= size
    }

    /// Why there is nothing behind what was captured.
    pub(super) fn beyond(self) -> Lack {
        self.beyond
    }

    fn overlaps_gap(self, size: u64) -> bool {
        let end = self.base.saturating_add(size);
        self.gaps.iter().any(|gap| gap.start < end && self.base < gap.end)
    }

    /// Why a value of that size is missing as a whole, if it is.
    pub(super) fn nothing(self, size: u64) -> Option<Lack> {
        if size == 0 {
            return None;
        }
        let end = self.base.saturating_add(size);
        let mut overlapping =
            self.gaps.iter().filter(|gap| gap.start < end && self.base < gap.end).peekable();
        let Some(first) = overlapping.peek() else {
            return self.bytes.is_empty().then_some(self.beyond);
        };
        let reason = first.reason;
        let mut missing = 0_u64;
        for gap in overlapping {
            if gap.reason != reason {
                return None;
            }
            missing = missing.saturating_add(gap.end.min(end) - gap.start.max(self.base));
        }
        (missing >= size).then_some(Lack::Unavailable(reason))
    }

    /// All bytes up to the first that is missing, and why it is.
    pub(super) fn prefix(self) -> (&'a [u8], Lack) {
        let end = self.base.saturating_add(self.bytes.len() as u64);
        let first =
            self.gaps.iter().filter(|gap| gap.start < end && self.base < gap.end).min_by_key(|gap| gap.start);
        match first {
            Some(gap) => {
                let length = usize::try_from(gap.start.saturating_sub(self.base)).unwrap_or(0);
                (self.bytes.get(..length).unwrap_or_default(), Lack::Unavailable(gap.reason))
            }
            None => (self.bytes, self.beyond),
        }
    }

    pub(super) fn u8(self, offset: u64) -> Result<u8, Lack> {
        self.part(offset, 1).bytes(1).map(|bytes| bytes.first().copied().unwrap_or_default())
    }

    pub(super) fn u64(self, offset: u64) -> Result<u64, Lack> {
        self.part(offset, 8).uint(8)
    }

    /// The first `size` bytes (at most 8) as a little-endian unsigned integer.
    pub(super) fn uint(self, size: u64) -> Result<u64, Lack> {
        if size > 8 {
            return Err(Lack::BAD_DEBUG_INFO);
        }
        Ok(self.bytes(size)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

/// The record's chunks by address.
pub(super) struct Memory<'a> {
    /// Chunks with data, by address.
    chunks: Vec<ChunkData<'a>>,
    /// For each chunk the largest end of it and all before it: bounds the search for what covers an address.
    ends: Vec<u64>,
    /// Addresses that could not be read.
    faults: HashSet<u64>,
    /// Type words of itabs, by the itab's address; `None`: unreadable. The kernel side labels these chunks with the
    /// itab, not with the second word of it that they hold, so they say nothing about the bytes at their address.
    itabs: FastMap<u64, Option<u64>>,
    flags: u32,
    load_bias: u64,
    max_depth: u32,
    symbols: &'a dyn Symbols,
    registry: &'a dyn TypeIndex,
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Run-time address.
    pub(super) address: u64,
    /// Index of its type, if the kernel side knows it.
    pub(super) type_index: Option<u32>,
    /// Bytes that are of use.
    pub(super) bytes: u64,
    /// The kernel side follows it only above the depth limit.
    pub(super) deeper: bool,
}

impl<'a> Memory<'a> {
    pub(super) fn new(
        record: &Record<'a>,
        max_depth: u32,
        symbols: &'a dyn Symbols,
        registry: &'a dyn TypeIndex,
    ) -> Self {
        let mut faults = HashSet::new();
        let mut itabs = FastMap::default();
        let mut chunks = Vec::with_capacity(record.chunks.len());
        for chunk in &record.chunks {
            if chunk.header.type_index == TYPE_ITAB {
                itabs.insert(
                    chunk.header.address,
                    chunk.data.first_chunk().map(|word| u64::from_le_bytes(*word)),
                );
            } else if chunk.header.flags & CHUNK_FAULT != 0 {
                faults.insert(chunk.header.address);
            } else if chunk.header.address != 0 {
                chunks.push(*chunk);
            }
        }
        chunks.sort_by_key(|chunk| chunk.header.address);
        let ends = chunks
            .iter()
            .scan(0, |largest: &mut u64, chunk| {
                *largest = (*largest).max(end_of(chunk));
                Some(*largest)
            })
            .collect();
        Self {
            chunks,
            ends,
            faults,
            itabs,
            flags: record.header.flags,
            load_bias: record.header.load_bias,
            max_depth,
            symbols,
            registry,
        }
    }

    /// The link-time address of a run-time address.
    pub(super) fn link_address(&self, address: u64) -> u64 {
        address.wrapping_sub(self.load_bias)
    }

    /// The run-time address of a link-time address.
    pub(super) fn run_time_address(&self, link_address: u64) -> u64 {
        link_address.wrapping_add(self.load_bias)
    }

    /// What the record holds from an address on: all that is wanted, or less, or why nothing. `from`: where the
    /// pointer lies.
    pub(super) fn find(&self, wanted: Wanted, from: Origin) -> Result<View<'a>, Lack> {
        if wanted.bytes == 0 {
            return Ok(View::new(&[], Lack::BUDGET, from));
        }
        if let Some(chunk) = self.best_chunk(wanted) {
            let start = usize::try_from(wanted.address - chunk.header.address).unwrap_or(usize::MAX);
            let bytes = chunk.data.get(start..).unwrap_or_default();
            let wanted_bytes = usize::try_from(wanted.bytes).unwrap_or(usize::MAX);
            let bytes = bytes.get(..wanted_bytes).unwrap_or(bytes);
            // Shorter than wanted without the cut mark: the kernel side copied whole elements up to a limit of items,
            // which the caller knows, or up to the largest single copy.
            let origin = Origin {
                depth: u32::from(chunk.header.depth),
                unknown_type: chunk.header.type_index == TYPE_UNKNOWN,
                torn: chunk.header.flags & CHUNK_TORN != 0,
            };
            let beyond = if chunk.header.flags & CHUNK_CUT_BYTES != 0 {
                Lack::Limit(Limit::MaxBytes)
            } else {
                Lack::BUDGET
            };
            return Ok(View::new(bytes, beyond, origin));
        }
        let lack = self.lack(wanted, from);
        // A copy from the file is as exact as one from memory, but what a limit leaves out stays out.
        if lack != Lack::Limit(Limit::MaxDepth)
            && let Some(bytes) = usize::try_from(wanted.bytes)
                .ok()
                .and_then(|bytes| self.symbols.read_only(self.link_address(wanted.address), bytes))
        {
            let depth = from.depth.saturating_add(u32::from(wanted.deeper));
            return Ok(View::new(bytes, Lack::BUDGET, Origin { depth, unknown_type: false, torn: false }));
        }
        Err(lack)
    }

    /// The runtime type that an itab names. `from`: where the interface lies.
    pub(super) fn itab_type(&self, itab: u64, from: Origin) -> Result<u64, Lack> {
        if let Some(type_word) = self.itabs.get(&itab).copied().flatten().filter(|word| *word != 0) {
            return Ok(type_word);
        }
        // runtime.itab: interface type, then the dynamic type. It is never freed and never changes.
        let address = itab.wrapping_add(8);
        if let Some(link_address) = self.symbols.pointer(self.link_address(address)) {
            return Ok(self.run_time_address(link_address));
        }
        if self.itabs.contains_key(&itab) {
            return Err(Lack::Unavailable(Unavailable::Fault));
        }
        self.find(Wanted { address, type_index: None, bytes: 8, deeper: false }, from)?.u64(0)
    }

    /// Whether an object of exactly this type was captured at exactly this address.
    pub(super) fn has_chunk(&self, address: u64, type_index: u32) -> bool {
        let first = self.chunks.partition_point(|chunk| chunk.header.address < address);
        self.chunks
            .iter()
            .skip(first)
            .take_while(|chunk| chunk.header.address == address)
            .any(|chunk| chunk.header.type_index == type_index)
    }

    fn best_chunk(&self, wanted: Wanted) -> Option<&ChunkData<'a>> {
        let mut best: Option<(&ChunkData<'a>, _)> = None;
        let behind = self.chunks.partition_point(|chunk| chunk.header.address <= wanted.address);
        for index in (0..behind).rev() {
            if self.ends.get(index).is_none_or(|end| *end <= wanted.address) {
                break;
            }
            let Some(chunk) = self.chunks.get(index) else { break };
            let Some(covered) = end_of(chunk).checked_sub(wanted.address).filter(|covered| *covered > 0)
            else {
                continue;
            };
            let header = &chunk.header;
            if !self.answers(chunk, wanted) {
                continue;
            }
            // Most bytes first; then the chunk of the wanted type, of a type at all; then the one from which most was
            // followed.
            let rank = (
                covered.min(wanted.bytes),
                header.address == wanted.address && Some(header.type_index) == wanted.type_index,
                header.type_index >= TYPE_FIRST,
                u8::MAX - header.depth,
            );
            if best.is_none_or(|(_, best)| rank > best) {
                best = Some((chunk, rank));
            }
        }
        best.map(|(chunk, _)| chunk)
    }

    /// Where not all of an object was copied, only whoever reads it by its own type knows what is there.
    fn answers(&self, chunk: &ChunkData<'_>, wanted: Wanted) -> bool {
        let of = chunk.header.type_index;
        let Some(element_bytes) = self.registry.holed_bytes(of) else { return true };
        let within = wanted.address.saturating_sub(chunk.header.address);
        within.checked_rem(u64::from(element_bytes)) == Some(0)
            && wanted.type_index.is_none_or(|index| self.registry.is_same_type(index, of))
    }

    fn lack(&self, wanted: Wanted, from: Origin) -> Lack {
        if self.faults.contains(&wanted.address) {
            Lack::Unavailable(Unavailable::Fault)
        } else if wanted.deeper && from.depth >= self.max_depth {
            Lack::Limit(Limit::MaxDepth)
        } else if from.unknown_type {
            Lack::Unavailable(Unavailable::UnknownType)
        } else if self.flags & FLAG_BYTES_EXHAUSTED != 0 {
            Lack::Limit(Limit::MaxBytes)
        } else {
            // `FLAG_STEPS_EXHAUSTED`, or more slots than one type may have: either way a bound of the capture.
            Lack::BUDGET
        }
    }

    /// Something was left out that no limit of the tracepoint explains.
    pub(super) fn exhausted(&self) -> bool {
        self.flags & (FLAG_BYTES_EXHAUSTED | FLAG_STEPS_EXHAUSTED) != 0
    }
}

fn end_of(chunk: &ChunkData<'_>) -> u64 {
    chunk.header.address.saturating_add(chunk.data.len() as u64)
}
