//! Open calls: which entries of functions were recorded and not yet followed by the function's end.
//!
//! A call is named by (tracepoint, process, goroutine, `g.stack.hi` minus the frame's CFA). The last survives the moving of
//! a stack and tells recursive calls apart. The table is a fixed number of sets; when a set is full its oldest call is
//! given up and counted. A call is claimed by exchanging its `owner` word, so that CPUs never see half of one.
//!
//! A goroutine runs on one thread at a time, so nobody else changes its chain of open calls (innermost first), which a
//! panic that unwinds the stack walks. Its head is an entry of the same table. Links are checked when they are followed:
//! what they name may have been given up.

use aya_ebpf::bindings::pt_regs;
use riptrace_common::abi::{
    ABI_VERSION, limits,
    program::{
        CALL_GOEXIT, CALL_RECOVERY, CALL_RETURN, CALLS_PER_SET, Call, CallState, Image, SITE_ENABLED,
        SITE_HAS_CFA, Site, TRACEPOINT_ENABLED,
    },
    record::{Chunk, FLAG_CALL_SEEN, FLAG_GOEXIT, FLAG_GOROUTINE, FLAG_PANIC, FLAG_SYSTEM_STACK, Header},
};

use crate::{
    emit::{self, Outcomes},
    fetch, gate, goroutine,
    maps::{CALL_SETS, CALL_STATES, CALLS, IMAGES, SITES, Scratch, TRACEPOINTS},
    raw,
    regs::{self, Registers},
    scratch,
};

/// `Call::owner` of an entry that is being changed.
const BUSY: u64 = 1;
/// Set in the owner word of every call, so that it is neither free nor busy.
const CLAIMED: u64 = 2;
/// `Call::frame` and `Call::tracepoint` of a chain's head.
const HEAD_FRAME: u64 = u64::MAX;
const HEAD_TRACEPOINT: u32 = u32::MAX;
/// Nothing of Go's lies below.
const SMALLEST_POINTER: u64 = 4096;
const HEADER_BYTES: u32 = size_of::<Header>() as u32;
const CHUNK_BYTES: u32 = size_of::<Chunk>() as u32;

/// What names a call.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Key {
    goid: u64,
    frame: u64,
    tgid: u32,
    tracepoint: u32,
}

impl Key {
    #[inline(always)]
    fn head(tgid: u32, goid: u64) -> Self {
        Self { goid, frame: HEAD_FRAME, tgid, tracepoint: HEAD_TRACEPOINT }
    }

    #[inline(always)]
    fn hash(&self) -> u64 {
        let words = self.goid.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ self.frame.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            ^ (u64::from(self.tgid) << 32 | u64::from(self.tracepoint));
        let mixed = (words ^ words >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 32
    }
}

/// What the end of a call is looked up by, and what is found. Lives on the program's stack.
#[repr(C)]
pub(crate) struct End {
    sp: u64,
    r14: u64,
    ip: u64,
    link_address: u64,
    image: u32,
    cfa_from_sp: i32,
    tgid: u32,
    tracepoint: u32,
    /// Why the call ends: one of `CALL_*`.
    call: u8,
    cpu: u32,
    ktime_ns: u64,
    /// When the entry's hit was done, and its `seq`.
    pub(crate) entered_ns: u64,
    pub(crate) entry_seq: u64,
}

#[inline(always)]
fn call_at(number: u32) -> Option<*mut Call> {
    let set = CALLS.get_ptr_mut(number / CALLS_PER_SET as u32)?;
    let index = raw::mask::<{ CALLS_PER_SET as i32 - 1 }>(number.into()) as usize;
    // SAFETY: a valid map value, and an index within it.
    Some(unsafe { (&raw mut (*set).calls).cast::<Call>().add(index) })
}

#[inline(always)]
fn set_of(hash: u64) -> u32 {
    (hash >> 8) as u32 & CALL_SETS.load().wrapping_sub(1)
}

/// Claims the call of this name: its number plus one; 0: there is none. Whoever claims gives back, by writing `owner`.
///
/// Global functions, since the verifier goes through them once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_call_find(key: *const Key) -> u64 {
    if key.is_null() {
        return 0;
    }
    // SAFETY: not null; the verifier knows its size.
    let key = unsafe { &*key };
    let hash = key.hash();
    let set = set_of(hash);
    let tag = hash | CLAIMED;
    let Some(calls) = CALLS.get_ptr_mut(set) else { return 0 };
    for index in 0..CALLS_PER_SET {
        // SAFETY: a valid map value.
        unsafe {
            let call = (&raw mut (*calls).calls).cast::<Call>().add(index);
            let owner = &raw mut (*call).owner;
            if owner.read_volatile() == tag && raw::atomic_compare_exchange(owner, tag, BUSY) == tag {
                if (*call).goid == key.goid
                    && (*call).frame == key.frame
                    && (*call).tgid == key.tgid
                    && (*call).tracepoint == key.tracepoint
                {
                    return u64::from(set) * CALLS_PER_SET as u64 + index as u64 + 1;
                }
                owner.write_volatile(tag);
            }
        }
    }
    0
}

/// Claims an entry for a call of this name, which has none: a free one, or that of the oldest call of its set, which is
/// given up. Its number plus one; 0: other CPUs were faster each time.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_call_place(key: *const Key) -> u64 {
    if key.is_null() {
        return 0;
    }
    // SAFETY: not null; the verifier knows its size.
    let set = set_of(unsafe { (*key).hash() });
    let Some(calls) = CALLS.get_ptr_mut(set) else { return 0 };
    let first = u64::from(set) * CALLS_PER_SET as u64 + 1;
    let (mut oldest, mut oldest_ns) = (0u64, u64::MAX);
    for index in 0..CALLS_PER_SET {
        // SAFETY: a valid map value.
        unsafe {
            let call = (&raw mut (*calls).calls).cast::<Call>().add(index);
            let owner = &raw mut (*call).owner;
            let seen = owner.read_volatile();
            if seen == 0 && raw::atomic_compare_exchange(owner, 0, BUSY) == 0 {
                return first + index as u64;
            }
            let entered_ns = (&raw const (*call).entered_ns).read_volatile();
            if seen > BUSY && entered_ns < oldest_ns {
                oldest = index as u64;
                oldest_ns = entered_ns;
            }
        }
    }
    let index = raw::mask::<{ CALLS_PER_SET as i32 - 1 }>(oldest) as usize;
    // SAFETY: a valid map value, and an index within it.
    unsafe {
        let call = (&raw mut (*calls).calls).cast::<Call>().add(index);
        let owner = &raw mut (*call).owner;
        let seen = owner.read_volatile();
        if seen <= BUSY || raw::atomic_compare_exchange(owner, seen, BUSY) != seen {
            return 0;
        }
        if (*call).tracepoint != HEAD_TRACEPOINT {
            given_up((*call).tracepoint);
        }
        first + index as u64
    }
}

#[inline(always)]
fn count(tracepoint: u32, field: impl FnOnce(*mut CallState) -> *mut u64) {
    if let Some(state) = CALL_STATES.get_ptr_mut(tracepoint) {
        // SAFETY: a valid map value.
        unsafe { raw::atomic_add(field(state), 1) };
    }
}

#[inline(always)]
fn given_up(tracepoint: u32) {
    // SAFETY: the addresses of fields; nothing is read.
    count(tracepoint, |state| unsafe { &raw mut (*state).given_up });
    rejected(tracepoint);
}

/// An entry was not captured, or its call was given up: from now on a return without an entry tells nothing.
#[inline(always)]
pub(crate) fn rejected(tracepoint: u32) {
    if let Some(state) = CALL_STATES.get_ptr_mut(tracepoint) {
        // SAFETY: a valid map value.
        unsafe {
            let rejected = &raw mut (*state).rejected;
            if rejected.read_volatile() == 0 {
                rejected.write_volatile(1);
            }
        }
    }
}

/// Whether a return without an entry can only be that of a call that began before the tracepoint was armed.
#[inline(always)]
pub(crate) fn began_before(site: &Site) -> bool {
    if site.needs_entry != 0 {
        return false;
    }
    let Some(state) = CALL_STATES.get_ptr_mut(site.tracepoint) else { return false };
    // SAFETY: a valid map value.
    unsafe { (&raw const (*state).rejected).read_volatile() == 0 }
}

/// Opens the call whose entry's record is in the buffer and was written.
///
/// # Safety
/// The buffer was acquired and holds the record.
#[inline(always)]
pub(crate) unsafe fn open(scratch: *mut Scratch) {
    riptrace_call_open(scratch);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_call_open(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: `open`'s; map values are valid.
    unsafe {
        let header = scratch::header(scratch);
        if (*header).flags & (FLAG_GOROUTINE | FLAG_SYSTEM_STACK) != FLAG_GOROUTINE
            || (*header).frame_from_stack_hi == 0
        {
            return 0;
        }
        let (tgid, goid, tracepoint) = ((*header).tgid, (*header).goid, (*header).tracepoint);
        let key = Key { goid, frame: (*header).frame_from_stack_hi, tgid, tracepoint };
        count(tracepoint, |state| &raw mut (*state).opened);
        // A call of the same name did not end as calls end: it is given up.
        let mut number = riptrace_call_find(&raw const key);
        if number == 0 {
            number = riptrace_call_place(&raw const key);
        } else {
            given_up(tracepoint);
        }
        if number == 0 {
            given_up(tracepoint);
            return 0;
        }
        let Some(call) = call_at(number as u32 - 1) else { return 0 };
        let now_ns = raw::ktime_ns();
        let outer = push(Key::head(tgid, goid), number as u32, now_ns);
        (*call).goid = goid;
        (*call).frame = key.frame;
        (*call).entered_ns = now_ns;
        (*call).entry_seq = (*header).seq;
        (*call).tgid = tgid;
        (*call).tracepoint = tracepoint;
        (*call).site = (*header).site;
        (*call).generation = (*header).generation;
        (*call).outer = outer;
        (&raw mut (*call).owner).write_volatile(key.hash() | CLAIMED);
    }
    0
}

/// Makes a call the innermost of its goroutine; gives the one that was.
#[inline(always)]
unsafe fn push(key: Key, number: u32, now_ns: u64) -> u32 {
    let mut outer = 0;
    let mut head = riptrace_call_find(&raw const key);
    let known = head != 0;
    if !known {
        head = riptrace_call_place(&raw const key);
    }
    let Some(head) = (head as u32).checked_sub(1).and_then(call_at) else { return 0 };
    // SAFETY: claimed above.
    unsafe {
        if known {
            outer = (*head).outer;
        } else {
            (*head).goid = key.goid;
            (*head).frame = key.frame;
            (*head).tgid = key.tgid;
            (*head).tracepoint = key.tracepoint;
        }
        (*head).outer = number;
        // Younger than its calls, so that it is given up after them.
        (*head).entered_ns = now_ns;
        (&raw mut (*head).owner).write_volatile(key.hash() | CLAIMED);
    }
    outer
}

/// Makes `outer` the innermost open call of the goroutine.
#[inline(always)]
unsafe fn pop(key: Key, outer: u32) {
    let Some(head) = (riptrace_call_find(&raw const key) as u32).checked_sub(1).and_then(call_at) else {
        return;
    };
    // SAFETY: claimed above.
    unsafe {
        (*head).outer = outer;
        let owner = if outer == 0 { 0 } else { key.hash() | CLAIMED };
        (&raw mut (*head).owner).write_volatile(owner);
    }
}

/// What is known where a call ends.
#[inline(always)]
pub(crate) fn end(context: *const pt_regs, site: &Site, call: u8, tgid: u32, cpu: u32, ktime_ns: u64) -> End {
    let registers = regs::read(context);
    End {
        sp: registers.sp,
        r14: registers.r14,
        ip: registers.ip,
        link_address: site.link_address,
        image: site.image,
        cfa_from_sp: if site.flags & SITE_HAS_CFA == 0 { 0 } else { site.cfa_from_sp },
        tgid,
        tracepoint: site.tracepoint,
        call,
        cpu,
        ktime_ns,
        entered_ns: 0,
        entry_seq: 0,
    }
}

/// Closes the call that returns here. True: it was open, and `end` says since when.
#[inline(always)]
pub(crate) fn close(end: &mut End) -> bool {
    riptrace_call_close(&raw mut *end) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_call_close(end: *mut End) -> i64 {
    if end.is_null() {
        return 0;
    }
    // SAFETY: not null; the verifier knows its size.
    let end = unsafe { &mut *end };
    let Some(image) = IMAGES.get(end.image) else { return 0 };
    if end.cfa_from_sp == 0 {
        return 0;
    }
    let mut g = end.r14;
    let mut stack_hi = stack_of(image, g, end.sp);
    if stack_hi == 0 {
        g = fetch::thread_local_g(image);
        stack_hi = stack_of(image, g, end.sp);
    }
    if stack_hi == 0 {
        return 0;
    }
    let goid = fetch::word(g.wrapping_add(image.g_goid.into()));
    if goid == 0 {
        return 0;
    }
    let cfa = end.sp.wrapping_add(i64::from(end.cfa_from_sp).cast_unsigned());
    let key = Key { goid, frame: stack_hi.wrapping_sub(cfa), tgid: end.tgid, tracepoint: end.tracepoint };
    let Some(call) = (riptrace_call_find(&raw const key) as u32).checked_sub(1).and_then(call_at) else {
        return 0;
    };
    // SAFETY: claimed above; map values are valid.
    unsafe {
        end.entered_ns = (*call).entered_ns;
        end.entry_seq = (*call).entry_seq;
        let outer = (*call).outer;
        (&raw mut (*call).owner).write_volatile(0);
        pop(Key::head(end.tgid, goid), outer);
        count(end.tracepoint, |state| &raw mut (*state).closed);
    }
    1
}

/// The upper end of the stack of `g` if it is the one that is in use; else 0.
#[inline(always)]
fn stack_of(image: &Image, g: u64, sp: u64) -> u64 {
    use riptrace_common::abi::program::IMAGE_HAS_RUNTIME;
    if image.flags & IMAGE_HAS_RUNTIME == 0 || g < SMALLEST_POINTER {
        return 0;
    }
    let lo = fetch::word(g.wrapping_add(image.g_stack_lo.into()));
    let hi = fetch::word(g.wrapping_add(image.g_stack_hi.into()));
    if sp >= lo && sp < hi { hi } else { 0 }
}

/// A panic is recovered, or a goroutine ends: closes the calls that are left without a return, each with a record.
#[inline(always)]
pub(crate) fn unwind(end: &mut End, tracepoint: u32, outcomes: Outcomes) {
    if let Some(scratch) = scratch::acquire(end.cpu) {
        riptrace_unwind(scratch, &raw mut *end);
        // SAFETY: acquired above.
        unsafe { scratch::release(scratch) };
    }
    outcomes.ran(tracepoint, raw::ktime_ns().wrapping_sub(end.ktime_ns), 1);
}

/// The walk along a goroutine's chain.
struct Walk {
    scratch: *mut Scratch,
    /// Calls in frames at least this far from the stack's end are closed.
    threshold: u64,
    goid: u64,
    ktime_ns: u64,
    tgid: u32,
    /// The next call's number plus one.
    number: u32,
    flags: u32,
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_unwind(scratch: *mut Scratch, end: *mut End) -> i64 {
    if scratch.is_null() || end.is_null() {
        return 0;
    }
    // SAFETY: the caller acquired the buffer; the verifier knows the sizes.
    unsafe {
        let end = &*end;
        let Some(image) = IMAGES.get(end.image) else { return 0 };
        let header = scratch::header(scratch);
        (&raw mut (*header).goid).write_volatile(0);
        (&raw mut (*header).parent_goid).write_volatile(0);
        (&raw mut (*header).gopc).write_volatile(0);
        let registers = Registers { ip: end.ip, sp: end.sp, bp: 0, r14: end.r14 };
        let (found, _) = goroutine::identify(scratch, image, registers);
        if found & FLAG_GOROUTINE == 0 {
            return 0;
        }
        let goid = (*header).goid;
        let mut threshold = 0;
        if end.call == CALL_RECOVERY {
            // `gogo(&gp.sched)`, on the system stack; `Scratch::object` holds the user goroutine's `g`.
            let sp = fetch::word(fetch::word(end.sp));
            let lo = scratch::object_word(scratch, image.g_stack_lo);
            let hi = scratch::object_word(scratch, image.g_stack_hi);
            if found & FLAG_SYSTEM_STACK == 0 || sp < lo || sp > hi {
                return 0;
            }
            // The frame that goes on has its CFA above SP; those below it are gone.
            threshold = hi.wrapping_sub(sp);
        }
        let key = Key::head(end.tgid, goid);
        let Some(head) = (riptrace_call_find(&raw const key) as u32).checked_sub(1).and_then(call_at) else {
            return 0;
        };
        let number = (*head).outer;
        (&raw mut (*head).owner).write_volatile(key.hash() | CLAIMED);

        (*header).abi_version = ABI_VERSION;
        (*header).total_bytes = HEADER_BYTES + CHUNK_BYTES;
        (*header).stack_offset = HEADER_BYTES + CHUNK_BYTES;
        (*header).stack_frames = 0;
        (*header).ktime_ns = end.ktime_ns;
        (*header).tgid = end.tgid;
        (*header).tid = raw::pid_tgid() as u32;
        (*header).cpu = end.cpu;
        (*header).window_faults = 0;
        (*header).load_bias = end.ip.wrapping_sub(end.link_address);
        let chunk = scratch::at(scratch, HEADER_BYTES.into()).cast::<u64>();
        chunk.write_volatile(0);
        chunk.add(1).write_volatile(0);
        chunk.add(2).write_volatile(0);

        let flags = if end.call == CALL_GOEXIT { FLAG_GOEXIT } else { FLAG_PANIC };
        let mut walk = Walk {
            scratch,
            threshold,
            goid,
            ktime_ns: end.ktime_ns,
            tgid: end.tgid,
            number,
            flags: flags | FLAG_CALL_SEEN | FLAG_GOROUTINE,
        };
        raw::repeat(limits::MAX_UNWOUND_CALLS, close_innermost, &mut walk);
        pop(key, walk.number);
    }
    0
}

/// Closes the innermost open call if the panic passed through it.
unsafe extern "C" fn close_innermost(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `riptrace_unwind`'s context; map values are valid.
    unsafe {
        let number = (*walk).number;
        if number == 0 {
            return 1;
        }
        let Some(call) = call_at(number - 1) else {
            (*walk).number = 0;
            return 1;
        };
        let owner = &raw mut (*call).owner;
        let seen = owner.read_volatile();
        if seen <= BUSY || raw::atomic_compare_exchange(owner, seen, BUSY) != seen {
            (*walk).number = 0;
            return 1;
        }
        let same = (*call).tgid == (*walk).tgid && (*call).goid == (*walk).goid;
        if !same || (*call).frame < (*walk).threshold || (*call).frame == HEAD_FRAME {
            if !same || (*call).frame == HEAD_FRAME {
                (*walk).number = 0;
            }
            owner.write_volatile(seen);
            return 1;
        }
        (*walk).number = (*call).outer;
        let header = scratch::header((*walk).scratch);
        (*header).site = (*call).site;
        (*header).generation = (*call).generation;
        (*header).tracepoint = (*call).tracepoint;
        (*header).flags = (*walk).flags;
        (*header).frame_from_stack_hi = (*call).frame;
        (*header).duration_ns = (*walk).ktime_ns.wrapping_sub((*call).entered_ns);
        (*header).entry_seq = (*call).entry_seq;
        owner.write_volatile(0);
        report((*walk).scratch);
    }
    0
}

/// Counts the hit whose record is in the buffer and hands it over.
#[inline(always)]
unsafe fn report(scratch: *mut Scratch) {
    // SAFETY: the caller's; map values are valid.
    unsafe {
        let header = scratch::header(scratch);
        let (index, generation) = ((*header).tracepoint, (*header).generation);
        let Some(site) = SITES.get((*header).site) else { return };
        let Some(tracepoint) = TRACEPOINTS.get(index) else { return };
        // It was removed since.
        if site.generation != generation
            || site.flags & SITE_ENABLED == 0
            || tracepoint.flags & TRACEPOINT_ENABLED == 0
        {
            return;
        }
        let Some(outcomes) = Outcomes::of(index) else { return };
        count(index, |state| &raw mut (*state).closed);
        outcomes.hits();
        if !gate::take_slot(index, tracepoint) {
            outcomes.throttled();
        } else if emit::record(scratch, index, HEADER_BYTES + CHUNK_BYTES).emitted {
            outcomes.emitted();
        } else {
            outcomes.dropped();
            gate::give_slot_back(index, tracepoint);
        }
    }
}

/// Whether the site closes calls that are left by a panic or by `runtime.Goexit`.
#[inline(always)]
pub(crate) fn unwinds(call: u8) -> bool {
    call == CALL_RECOVERY || call == CALL_GOEXIT
}

const _: () = assert!(CALL_RETURN != CALL_RECOVERY);
