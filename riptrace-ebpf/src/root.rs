//! The root chunk: the register file, the site's windows, and what holds for the whole record.

use riptrace_common::abi::{
    limits,
    program::{
        LIMIT_FIXED, LIMIT_ITEMS, LIMIT_STRING, SITE_HAS_CFA, Site, Tracepoint, WINDOW_IMAGE,
        WINDOW_IMAGE_ADDRESS, WINDOW_STACK, WINDOW_STACK_ADDRESS, Window,
    },
    record::{Chunk, Header},
};

use crate::{
    chunk::{CHUNK_BYTES, write_chunk},
    context::SPAN_CHUNK_BYTES,
    fetch,
    maps::{Scratch, WINDOWS},
    raw,
    regs::Registers,
    scratch,
};

/// Where the root chunk begins in every record.
pub(crate) const ROOT_CHUNK: u32 = size_of::<Header>() as u32;
/// Where the root chunk's data begins in every record.
pub(crate) const ROOT_DATA: u32 = ROOT_CHUNK + CHUNK_BYTES;

/// Windows that are filled one after the other. A plan has more only where variables lie far apart, and the verifier would go
/// through each turn of a loop as often as it goes through this many.
const WINDOWS_IN_LINE: u32 = 2;

struct Rest {
    scratch: *mut Scratch,
    is_broken: bool,
}

/// Fills the root chunk behind the register file. 1: done, 0: the plan is broken.
///
/// A global function, like the other parts of a capture: the verifier goes through it once, by itself, and not once
/// for every state that the program can be in when it calls it. Linux 6.1 would not accept the whole otherwise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_windows(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: `windows`'s.
    unsafe {
        let windows = (*scratch).walk.windows;
        for index in 0..WINDOWS_IN_LINE {
            if index < windows && !fill(scratch, index) {
                return 0;
            }
        }
        if windows <= WINDOWS_IN_LINE {
            return 1;
        }
        let mut rest = Rest { scratch, is_broken: false };
        raw::repeat(limits::MAX_WINDOWS_PER_SITE - WINDOWS_IN_LINE, fill_next, &mut rest);
        i64::from(!rest.is_broken)
    }
}

/// 1: that was all.
unsafe extern "C" fn fill_next(turn: u64, rest: *mut Rest) -> i64 {
    // SAFETY: `repeat` gives what it was given.
    unsafe {
        let index = WINDOWS_IN_LINE + turn as u32;
        let scratch = (*rest).scratch;
        if index >= (*scratch).walk.windows {
            return 1;
        }
        (*rest).is_broken = !fill(scratch, index);
        i64::from((*rest).is_broken)
    }
}

/// Fills one window. False: the plan is broken.
#[inline(always)]
unsafe fn fill(scratch: *mut Scratch, index: u32) -> bool {
    // SAFETY: `windows`'s.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let Some(window): Option<&Window> = WINDOWS.get((*walk).first_window.wrapping_add(index)) else {
            return false;
        };
        let to = u64::from(ROOT_DATA) + u64::from(window.root_offset);
        let from_stack = window.base == WINDOW_STACK || window.base == WINDOW_STACK_ADDRESS;
        let base = if from_stack { (*walk).sp } else { (*walk).bias };
        let address = base.wrapping_add(window.offset.cast_unsigned());
        if window.base == WINDOW_IMAGE_ADDRESS || window.base == WINDOW_STACK_ADDRESS {
            raw::store_word(scratch::at(scratch, to), address);
            return true;
        }
        if window.bytes & 7 != 0 {
            // What lies behind a window that ends within a word is not read.
            raw::store_word(scratch::at(scratch, to + u64::from(window.bytes & !7)), 0);
        }
        if !fetch::into_record(scratch, to, window.bytes.into(), address) {
            (*walk).window_faults |= 1 << (if index < 31 { index } else { 31 });
        }
    }
    true
}

/// Fills the root chunk behind the register file. False: the plan is broken.
///
/// # Safety
/// The buffer was acquired, and `begin` has run.
#[inline(always)]
pub(crate) unsafe fn windows(scratch: *mut Scratch) -> bool {
    // SAFETY: the caller's.
    unsafe {
        match (*scratch).walk.windows {
            0 => true,
            1 => fill(scratch, 0),
            _ => riptrace_windows(scratch) != 0,
        }
    }
}

const _: () = assert!(WINDOW_STACK == 0 && WINDOW_IMAGE == 1);

/// What holds for the walk, before its first chunk.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn begin(
    scratch: *mut Scratch,
    site: &Site,
    tracepoint: &Tracepoint,
    registers: Registers,
    bias: u64,
) {
    let root_bytes = site.root_bytes.min(limits::MAX_ROOT_BYTES);
    let used = ROOT_DATA + ((root_bytes + 7) & !7);
    let stack_bytes = 8 * tracepoint.stack_frames.min(limits::MAX_STACK_FRAMES);
    let span_bytes = if site.contexts_plus_one == 0 { 0 } else { SPAN_CHUNK_BYTES };
    let end =
        tracepoint.max_bytes.min(limits::MAX_RECORD_BYTES).saturating_sub(stack_bytes + span_bytes).max(used);
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        (*walk).bias = bias;
        (*walk).sp = registers.sp;
        (*walk).bp = registers.bp;
        (*walk).ip = registers.ip;
        (*walk).cfa = if site.flags & SITE_HAS_CFA == 0 {
            0
        } else {
            registers.sp.wrapping_add(i64::from(site.cfa_from_sp).cast_unsigned())
        };
        (*walk).first_window = site.first_window;
        (*walk).windows = site.windows;
        (*walk).window_faults = 0;
        (*walk).root_type = site.root_type;
        (*walk).root_bytes = root_bytes;
        (*walk).root_end = used;
        (*walk).table_plus_one = site.table_plus_one;
        (*walk).table_ops = site.table_ops.into();
        (*walk).first_walked_slot = site.first_walked_slot.into();
        (*walk).site_flags = site.flags;
        (*walk).pending_type = 0;
        (*walk).image = site.image;
        (*walk).hit = (*walk).hit.wrapping_add(1);
        (*walk).used = used;
        (*walk).end = end;
        (*walk).flags = 0;
        (*walk).max_depth = tracepoint.max_depth;
        (*walk).max_string = tracepoint.max_string;
        (*walk).max_items = tracepoint.max_items;
        let limits = &raw mut (*walk).limits;
        (*limits)[LIMIT_ITEMS as usize] = tracepoint.max_items;
        (*limits)[LIMIT_STRING as usize] = tracepoint.max_string;
        (*limits)[LIMIT_FIXED as usize] = u32::MAX;
        (*walk).queue_read = 0;
        (*walk).queue_write = 0;
        (*walk).torn = 0;
        (*walk).element = 0;
        (*walk).bytes = 0;
        (*walk).stack_hi = 0;
        // Padding is zero, not a remainder of another record.
        raw::store_word(scratch::at(scratch, u64::from(ROOT_DATA + (root_bytes & !7))), 0);
        let chunk = scratch::at(scratch, ROOT_CHUNK.into()).cast::<Chunk>();
        write_chunk(
            chunk,
            Chunk {
                address: 0,
                type_index: site.root_type,
                count: 1,
                bytes: root_bytes,
                depth: 0,
                flags: 0,
                reserved: 0,
            },
        );
    }
}

/// Writes the header's fields that are known last or not at all; gives the load bias.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn clear_header(scratch: *mut Scratch, registers: Registers, site: &Site) -> u64 {
    let bias = registers.ip.wrapping_sub(site.link_address);
    // SAFETY: the caller's.
    unsafe {
        let header = scratch::header(scratch);
        // Volatile: the compiler would make one call of `memset` of it, which is a loop over bytes.
        (&raw mut (*header).goid).write_volatile(0);
        (&raw mut (*header).parent_goid).write_volatile(0);
        (&raw mut (*header).frame_from_stack_hi).write_volatile(0);
        (&raw mut (*header).load_bias).write_volatile(bias);
        (&raw mut (*header).duration_ns).write_volatile(0);
        (&raw mut (*header).entry_seq).write_volatile(0);
        (&raw mut (*header).gopc).write_volatile(0);
    }
    bias
}
