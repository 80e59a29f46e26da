//! A variable's own bytes: pieces of the root chunk, or an object that a word of it leads to.

use std::borrow::Cow;

use riptrace_common::{
    abi::{limits::MAX_ROOT_BYTES, program::Window, record::Header},
    wire::value::Unavailable,
};

use super::memory::{Gap, Lack, Memory, Origin, View, Wanted};
use crate::plan::{Hop, PlannedVariable, RootPiece, RootPlace, ValueSource};

/// The root chunk with what the header says about it.
#[derive(Clone, Copy)]
pub(super) struct Root<'a> {
    pub(super) bytes: &'a [u8],
    /// `Header::window_faults`.
    pub(super) window_faults: u32,
    /// Where the site's windows lie in the root chunk: (start, end), by window.
    pub(super) windows: &'a [Window],
}

/// A variable's bytes, put together.
pub(super) struct Assembled<'a> {
    bytes: Cow<'a, [u8]>,
    gaps: Vec<Gap>,
    /// Set for an object behind a word: its view has its own origin.
    object: Option<View<'a>>,
}

impl Assembled<'_> {
    pub(super) fn view(&self) -> View<'_> {
        self.object.unwrap_or_else(|| View::with_gaps(&self.bytes, &self.gaps, Origin::ROOT))
    }

    fn nothing(lack: Lack) -> Self {
        Self { bytes: Cow::Borrowed(&[]), gaps: Vec::new(), object: Some(View::missing(lack, Origin::ROOT)) }
    }
}

impl<'a> Root<'a> {
    pub(super) fn new(bytes: &'a [u8], header: &Header, windows: &'a [Window]) -> Self {
        Self { bytes, window_faults: header.window_faults, windows }
    }

    /// The bytes of a variable that is `size` bytes long.
    pub(super) fn assemble(
        self,
        variable: &PlannedVariable,
        size: u64,
        memory: &Memory<'a>,
    ) -> Assembled<'a> {
        match &variable.source {
            ValueSource::Unavailable(reason) => Assembled::nothing(Lack::Unavailable(*reason)),
            ValueSource::Root(pieces) => self.pieces(pieces, size),
            ValueSource::Through { word, chunk_type, offset, by_reference } => {
                let found = self.through(*word, *chunk_type, *offset, *by_reference, size, memory);
                match found {
                    Ok(view) => Assembled { bytes: Cow::Borrowed(&[]), gaps: Vec::new(), object: Some(view) },
                    Err(lack) => Assembled::nothing(lack),
                }
            }
            ValueSource::Chain { word, hops } => match self.chain(*word, hops, size, memory) {
                Ok(view) => Assembled { bytes: Cow::Borrowed(&[]), gaps: Vec::new(), object: Some(view) },
                Err(lack) => Assembled::nothing(lack),
            },
        }
    }

    fn chain(self, word: u32, hops: &[Hop], size: u64, memory: &Memory<'a>) -> Result<View<'a>, Lack> {
        // What Go would panic at (nil on the way, an index that is out of range) has no value.
        const NO_SUCH_PLACE: Lack = Lack::Unavailable(Unavailable::Fault);
        if self.word_faulted(word) {
            return Err(NO_SUCH_PLACE);
        }
        let mut holder = View::new(self.bytes, Lack::BAD_DEBUG_INFO, Origin::ROOT);
        let mut at = u64::from(word);
        for (position, hop) in hops.iter().enumerate() {
            if let Some(bound) = hop.bound
                && holder.u64(bound.length)? <= bound.index
            {
                return Err(NO_SUCH_PLACE);
            }
            let address = holder.u64(at)?;
            if address == 0 {
                return Err(NO_SUCH_PLACE);
            }
            let length = if position + 1 == hops.len() { size } else { 8 };
            let end = hop.offset.saturating_add(length);
            // The next hop's slice length lies in this chunk too.
            let next_bound = hops.get(position + 1).and_then(|next| next.bound);
            let bytes = next_bound.map_or(end, |bound| end.max(bound.length.saturating_add(8)));
            let wanted = Wanted { address, type_index: Some(hop.chunk_type), bytes, deeper: false };
            holder = memory.find(wanted, holder.origin)?;
            at = hop.offset;
        }
        Ok(holder.part(at, size))
    }

    /// The word at a root offset, if it was captured and is not null.
    pub(super) fn word(self, word: u32) -> Option<u64> {
        if self.word_faulted(word) {
            return None;
        }
        let word = View::new(self.bytes, Lack::BAD_DEBUG_INFO, Origin::ROOT).u64(u64::from(word)).ok()?;
        Some(word).filter(|word| *word != 0)
    }

    fn through(
        self,
        word: u32,
        chunk_type: u32,
        offset: u64,
        by_reference: Option<u32>,
        size: u64,
        memory: &Memory<'a>,
    ) -> Result<View<'a>, Lack> {
        if self.word_faulted(word) {
            return Err(Lack::Unavailable(Unavailable::Fault));
        }
        let holder = View::new(self.bytes, Lack::BAD_DEBUG_INFO, Origin::ROOT).u64(u64::from(word))?;
        if holder == 0 {
            // A variable that escaped to the heap has an address as soon as it is declared.
            return Err(Lack::Unavailable(Unavailable::NotInitialized));
        }
        let length = if by_reference.is_some() { 8 } else { size };
        let found = memory
            .find(
                Wanted {
                    address: holder,
                    type_index: Some(chunk_type),
                    bytes: offset.saturating_add(length),
                    deeper: false,
                },
                Origin::ROOT,
            )?
            .part(offset, length);
        let Some(target) = by_reference else { return Ok(found) };
        let address = found.u64(0)?;
        if address == 0 {
            return Err(Lack::Unavailable(Unavailable::NotInitialized));
        }
        let wanted = Wanted { address, type_index: Some(target), bytes: size, deeper: true };
        memory.find(wanted, found.origin)
    }

    fn word_faulted(self, word: u32) -> bool {
        let end = word.saturating_add(8);
        (0..)
            .zip(self.windows)
            .filter(|(_, window)| {
                window.root_offset < end && word < window.root_offset.saturating_add(window.bytes.max(8))
            })
            .any(|(index, _)| self.window_fault(index))
    }

    fn window_fault(self, window: u32) -> bool {
        // Windows past 31 share bit 31: any of them may hold zeros that were not read.
        self.window_faults & (1 << window.min(31)) != 0
    }

    fn pieces(self, pieces: &[RootPiece], size: u64) -> Assembled<'a> {
        if let [RootPiece { value_offset: 0, bytes, place: RootPlace::At { root_offset, window } }] = *pieces
            && u64::from(bytes) == size
            && !window.is_some_and(|window| self.window_fault(window))
            && let Some(found) = self.run(root_offset, bytes)
        {
            return Assembled { bytes: Cow::Borrowed(found), gaps: Vec::new(), object: None };
        }
        // The root chunk bounds what pieces can bring; a value that claims to be larger has no such pieces.
        let length = pieces
            .iter()
            .map(|piece| u64::from(piece.value_offset).saturating_add(u64::from(piece.bytes)))
            .max()
            .unwrap_or(0)
            .min(size)
            .min(u64::from(MAX_ROOT_BYTES));
        let length = usize::try_from(length).unwrap_or(0);
        let mut bytes = vec![0; length];
        let mut gaps = Vec::new();
        let mut ordered: Vec<&RootPiece> = pieces.iter().collect();
        ordered.sort_by_key(|piece| piece.value_offset);
        let mut covered = 0;
        for piece in ordered {
            let start = u64::from(piece.value_offset);
            let end = start.saturating_add(u64::from(piece.bytes));
            if start > covered {
                gaps.push(Gap { start: covered, end: start, reason: Unavailable::BadDebugInfo });
            }
            covered = covered.max(end);
            if let Err(reason) = self.copy(piece, &mut bytes) {
                gaps.push(Gap { start, end, reason });
            }
        }
        if covered < size {
            gaps.push(Gap { start: covered, end: size, reason: Unavailable::BadDebugInfo });
        }
        Assembled { bytes: Cow::Owned(bytes), gaps, object: None }
    }

    fn copy(self, piece: &RootPiece, value: &mut [u8]) -> Result<(), Unavailable> {
        let start = piece.value_offset as usize;
        let target = start
            .checked_add(piece.bytes as usize)
            .and_then(|end| value.get_mut(start..end))
            .ok_or(Unavailable::BadDebugInfo)?;
        match piece.place {
            RootPlace::Unavailable(reason) => Err(reason),
            RootPlace::Constant(constant) => {
                let constant = constant.to_le_bytes();
                let source = constant.get(..target.len()).ok_or(Unavailable::BadDebugInfo)?;
                target.copy_from_slice(source);
                Ok(())
            }
            RootPlace::At { root_offset, window } => {
                if window.is_some_and(|window| self.window_fault(window)) {
                    return Err(Unavailable::Fault);
                }
                target.copy_from_slice(self.run(root_offset, piece.bytes).ok_or(Unavailable::Budget)?);
                Ok(())
            }
        }
    }

    fn run(self, root_offset: u32, bytes: u32) -> Option<&'a [u8]> {
        let start = root_offset as usize;
        self.bytes.get(start..start.checked_add(bytes as usize)?)
    }
}
