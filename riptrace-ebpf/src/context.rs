//! The span that a hit belongs to, out of the chains of contexts that the site's plan names (`abi::context`).
//!
//! It runs behind the walk and adds the last chunk of the record. What it knows of Go is that an interface has two words.

use riptrace_common::abi::{
    context::{
        CONTEXT_HOPS, CONTEXT_KEY, CONTEXT_PARENT, CONTEXT_ROOTS, CONTEXT_SPAN, CONTEXT_VALUE, ContextRoot,
        MAX_CONTEXT_LINKS, NO_CONTEXT, Span,
    },
    program::{DYNAMIC_CONTEXT, Dynamic, DynamicKey, TYPE_SPAN},
    record::Chunk,
};

use crate::{
    chunk::{CHUNK_BYTES, SMALLEST_POINTER, write_chunk},
    fetch,
    maps::{CONTEXTS, DYNAMIC, Scratch},
    raw,
    root::ROOT_DATA,
    scratch,
    walk::Context,
};

const SPAN_BYTES: u32 = size_of::<Span>() as u32;
/// What the walk leaves room for.
pub(crate) const SPAN_CHUNK_BYTES: u32 = CHUNK_BYTES + SPAN_BYTES;
/// An interface, and behind it two more: the parent, the key and the value of a context.
const INTERFACE_BYTES: u64 = 16;
const VALUE_BYTES: u64 = 3 * INTERFACE_BYTES;

/// Appends the span's chunk if one is found.
///
/// # Safety
/// The walk is done.
#[inline(always)]
pub(crate) unsafe fn find_span(scratch: *mut Scratch, plan: u32) {
    // SAFETY: the caller's.
    unsafe {
        (*scratch).walk.context_plan = plan;
        riptrace_find_span(scratch);
    }
}

/// A global function: verified once, by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_find_span(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: not null; `find_span`'s.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        (*walk).context_roots = 0;
        (*walk).context_type = 0;
        let mut context = Context { scratch };
        raw::repeat(MAX_CONTEXT_LINKS, link, &mut context);
    }
    0
}

/// One context of a chain, or the beginning of the next chain. Gives 1 when there is nothing more to do.
unsafe extern "C" fn link(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: `riptrace_find_span`'s context.
    unsafe {
        let scratch = (*context).scratch;
        let walk = &raw mut (*scratch).walk;
        let (of, at) = ((*walk).context_type, (*walk).context_data);
        (*walk).context_type = 0;
        if of < SMALLEST_POINTER || at < SMALLEST_POINTER {
            return begin(scratch);
        }
        let Some(known) = known(scratch, of) else { return 0 };
        let bytes = match (*known).how {
            CONTEXT_PARENT => INTERFACE_BYTES,
            CONTEXT_VALUE => VALUE_BYTES,
            _ => return 0,
        };
        if !fetch::into_object(scratch, bytes, at.wrapping_add((*known).target.into())) {
            return 0;
        }
        (*walk).context_type = scratch::object_word(scratch, 0);
        (*walk).context_data = scratch::object_word(scratch, 8);
        if bytes == INTERFACE_BYTES || !is(scratch, scratch::object_word(scratch, 16), CONTEXT_KEY) {
            return 0;
        }
        let value = scratch::object_word(scratch, 40);
        let Some(span) = known_span(scratch, scratch::object_word(scratch, 32)) else { return 0 };
        append(scratch, value.wrapping_add((*span).target.into()))
    }
}

/// Takes the plan's next chain.
#[inline(always)]
unsafe fn begin(scratch: *mut Scratch) -> i64 {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let Some(plan) = CONTEXTS.get((*walk).context_plan) else { return 1 };
        let index = (*walk).context_roots;
        if index >= CONTEXT_ROOTS as u32 {
            return 1;
        }
        (*walk).context_roots = index + 1;
        let root: &ContextRoot = &plan.roots[index as usize];
        if root.hops == NO_CONTEXT {
            return 1;
        }
        let mut word = scratch::word(scratch, u64::from(ROOT_DATA) + u64::from(root.word));
        if root.hops == 0 {
            (*walk).context_type = word;
            (*walk).context_data = scratch::word(scratch, u64::from(ROOT_DATA) + u64::from(root.data));
            return 0;
        }
        let mut last = root.offsets[0];
        if root.hops >= 2 {
            word = fetch::word(word.wrapping_add(root.offsets[0].into()));
            last = root.offsets[1];
        }
        if root.hops >= 3 {
            word = fetch::word(word.wrapping_add(root.offsets[1].into()));
            last = root.offsets[2];
        }
        if word >= SMALLEST_POINTER
            && fetch::into_object(scratch, INTERFACE_BYTES, word.wrapping_add(last.into()))
        {
            (*walk).context_type = scratch::object_word(scratch, 0);
            (*walk).context_data = scratch::object_word(scratch, 8);
        }
        0
    }
}

const _: () = assert!(CONTEXT_HOPS == 3);

/// What the plan knows of an itab or of a runtime type.
#[inline(always)]
unsafe fn known(scratch: *mut Scratch, address: u64) -> Option<*const Dynamic> {
    // SAFETY: the caller's.
    let (bias, image) = unsafe { ((*scratch).walk.bias, (*scratch).walk.image) };
    DYNAMIC.get_ptr(&DynamicKey { link_address: address.wrapping_sub(bias), image, kind: DYNAMIC_CONTEXT })
}

#[inline(always)]
unsafe fn is(scratch: *mut Scratch, address: u64, how: u32) -> bool {
    // SAFETY: the caller's; the map's values are valid.
    unsafe { known(scratch, address).is_some_and(|known| (*known).how == how) }
}

#[inline(always)]
unsafe fn known_span(scratch: *mut Scratch, address: u64) -> Option<*const Dynamic> {
    // SAFETY: the caller's; the map's values are valid.
    unsafe { known(scratch, address).filter(|&known| (*known).how == CONTEXT_SPAN) }
}

/// Copies the span. 1: done; 0: it can't be read, the chain goes on.
#[inline(always)]
unsafe fn append(scratch: *mut Scratch, address: u64) -> i64 {
    // SAFETY: the caller's. The walk left room for the chunk.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let used = (*walk).used;
        if !fetch::into_record(scratch, u64::from(used + CHUNK_BYTES), SPAN_BYTES.into(), address) {
            return 0;
        }
        let chunk = scratch::at(scratch, used.into()).cast::<Chunk>();
        write_chunk(
            chunk,
            Chunk {
                address: 0,
                type_index: TYPE_SPAN,
                count: 1,
                bytes: SPAN_BYTES,
                depth: 0,
                flags: 0,
                reserved: 0,
            },
        );
        (*walk).used = used + SPAN_CHUNK_BYTES;
        1
    }
}
