//! Chunks: copies of the target's memory, appended to the record once each.

use riptrace_common::abi::{
    limits,
    program::{TYPE_HAS_HOLES, TYPE_ITAB, TYPE_TORN_CHECK},
    record::{CHUNK_CUT_BYTES, CHUNK_FAULT, CHUNK_TORN, Chunk, FLAG_BYTES_EXHAUSTED},
};

use crate::{
    fetch,
    maps::{QUEUE, Scratch, TYPES, VISITED, Visited},
    raw, redact, scratch,
    walk::{Context, finish},
};

pub(crate) const CHUNK_BYTES: u32 = size_of::<Chunk>() as u32;
/// The first page is never mapped: nil, small integers in pointer words, offsets from nil.
pub(crate) const SMALLEST_POINTER: u64 = 4096;

#[inline(always)]
pub(crate) unsafe fn write_chunk(to: *mut Chunk, chunk: Chunk) {
    // SAFETY: the caller's. Written as whole words: five narrower stores would cost five instructions.
    unsafe {
        let to = to.cast::<u8>();
        raw::store_word(to, chunk.address);
        raw::store_word(to.add(8), u64::from(chunk.type_index) | u64::from(chunk.count) << 32);
        raw::store_word(
            to.add(16),
            u64::from(chunk.bytes) | u64::from(chunk.depth) << 32 | u64::from(chunk.flags) << 40,
        );
    }
}

/// The chunk at this offset of the record has something to follow.
#[inline(always)]
pub(crate) unsafe fn enqueue(scratch: *mut Scratch, chunk: u32) {
    // SAFETY: the masked index is within the queue.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let index = raw::mask::<{ QUEUE as i32 - 1 }>((*walk).queue_write.into());
        (&raw mut (*scratch).queue).cast::<u32>().add(index as usize).write_volatile(chunk);
        (*walk).queue_write += 1;
    }
}

/// A copy that is to be appended.
#[derive(Clone, Copy)]
pub(crate) struct Ask {
    /// The chunk's address; 0: nothing to append.
    pub(crate) label: u64,
    /// Where the bytes are (an itab's type word is 8 bytes behind the itab).
    pub(crate) address: u64,
    pub(crate) type_index: u32,
    pub(crate) depth: u32,
    /// Elements that there are, and that are wanted.
    pub(crate) count: u64,
    pub(crate) take: u64,
}

impl Ask {
    pub(crate) const NOTHING: Self =
        Self { label: 0, address: 0, type_index: 0, depth: 0, count: 0, take: 0 };

    #[inline(always)]
    pub(crate) fn one(address: u64, type_index: u32, depth: u32) -> Self {
        Self { label: address, address, type_index, depth, count: 1, take: 1 }
    }
}

/// The only entry of the cache that this chunk can have.
#[inline(always)]
pub(crate) unsafe fn visited(scratch: *mut Scratch, address: u64, type_index: u32) -> *mut Visited {
    let hash = address >> 3 ^ address >> 12 ^ u64::from(type_index).wrapping_mul(0x9e5);
    // SAFETY: the masked index is within the table.
    unsafe {
        (&raw mut (*scratch).visited)
            .cast::<Visited>()
            .add(raw::mask::<{ VISITED as i32 - 1 }>(hash) as usize)
    }
}

/// Copies and appends one chunk, unless it is there already. Gives 1 when the record is full.
#[inline(always)]
pub(crate) unsafe fn append(scratch: *mut Scratch, ask: Ask) -> i64 {
    let Some(of) = TYPES.get(ask.type_index) else { return 0 };
    let element_bytes = u64::from(of.bytes);
    if element_bytes == 0 {
        return 0;
    }
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let seen = visited(scratch, ask.label, ask.type_index);
        // A request for more than was copied is made again: the longer chunk counts.
        if (*seen).hit == (*walk).hit
            && (*seen).address == ask.label
            && (*seen).type_index == ask.type_index
            && (*seen).value >= ask.take
        {
            return 0;
        }

        let used = u64::from((*walk).used);
        let end = u64::from((*walk).end);
        let data = used + u64::from(CHUNK_BYTES);
        if data > end {
            (*walk).flags |= FLAG_BYTES_EXHAUSTED;
            return finish(scratch);
        }
        let room = (end - data) & !7;
        let largest = room.min(limits::MAX_CHUNK_BYTES.into());
        let mut bytes = ask.take * element_bytes;
        let mut flags = 0u8;
        if bytes > largest {
            flags = CHUNK_CUT_BYTES;
            bytes = largest / element_bytes * element_bytes;
            if bytes == 0 {
                // Not even one element fits: its beginning is better than nothing.
                bytes = largest;
            }
            if largest == room {
                (*walk).flags |= FLAG_BYTES_EXHAUSTED;
            }
        }

        if bytes != 0 {
            // Padding is zero, not a remainder of another record.
            raw::store_word(scratch::at(scratch, data + (bytes & !7)), 0);
            let mut copied = bytes;
            if of.flags & TYPE_HAS_HOLES != 0 {
                copied = redact::copy_kept(scratch, of, data, bytes, ask.address).min(bytes);
            } else if !fetch::into_record(scratch, data, bytes, ask.address) {
                copied = 0;
            }
            if copied == 0 {
                flags |= CHUNK_FAULT;
            } else if copied < bytes {
                flags |= CHUNK_CUT_BYTES;
            }
            bytes = copied;
        }
        write_chunk(
            scratch::at(scratch, used).cast(),
            Chunk {
                address: ask.label,
                type_index: ask.type_index,
                count: ask.count.min(u32::MAX.into()) as u32,
                bytes: bytes as u32,
                depth: ask.depth.min(255) as u8,
                flags,
                reserved: 0,
            },
        );
        (*walk).used = (data + ((bytes + 7) & !7)) as u32;

        (*seen).address = ask.label;
        (*seen).type_index = ask.type_index;
        (*seen).hit = (*walk).hit;
        (*seen).value = ask.take;
        if ask.type_index == TYPE_ITAB {
            // 0 when it faulted: then the interface leads nowhere.
            let abi_type = if bytes == 0 { 0 } else { scratch::word(scratch, data) };
            (*seen).value = abi_type;
            (*walk).pending_type = abi_type;
        }
        if bytes != 0 {
            if of.slots != 0 {
                enqueue(scratch, used as u32);
            }
            if of.flags & TYPE_TORN_CHECK != 0 && (*walk).torn < limits::MAX_TORN_CHECKS {
                let index = raw::mask::<{ limits::MAX_TORN_CHECKS as i32 - 1 }>((*walk).torn.into());
                (&raw mut (*scratch).torn).cast::<u32>().add(index as usize).write_volatile(used as u32);
                (*walk).torn += 1;
            }
        }
        0
    }
}

/// Reads the beginning of a remembered chunk again and marks it if that changed.
pub(crate) unsafe extern "C" fn check_torn(index: u64, context: *mut Context) -> i64 {
    const WORDS: u32 = limits::TORN_CHECK_BYTES / 8;
    // SAFETY: `riptrace_follow`'s context.
    unsafe {
        let scratch = (*context).scratch;
        let walk = &raw mut (*scratch).walk;
        if index >= (*walk).torn.into() {
            return 1;
        }
        let entry = raw::mask::<{ limits::MAX_TORN_CHECKS as i32 - 1 }>(index);
        let offset = (&raw const (*scratch).torn).cast::<u32>().add(entry as usize).read_volatile();
        let chunk = scratch::at(scratch, offset.into()).cast::<Chunk>();
        let bytes = (*chunk).bytes.min(limits::TORN_CHECK_BYTES);
        if !fetch::into_object(scratch, bytes.into(), (*chunk).address) {
            (*chunk).flags |= CHUNK_TORN;
            return 0;
        }
        for word in 0..WORDS {
            // A last word that was cut is followed by padding in the chunk, and not compared.
            if word * 8 + 8 > bytes {
                break;
            }
            let then = chunk.add(1).cast::<u64>().add(word as usize).read_volatile();
            if then != scratch::object_word(scratch, word * 8) {
                (*chunk).flags |= CHUNK_TORN;
                break;
            }
        }
        0
    }
}
