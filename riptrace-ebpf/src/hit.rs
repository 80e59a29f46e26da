//! What happens when a trap is hit: decide, capture, hand over, count. Exactly one outcome is counted for each hit.

use aya_ebpf::bindings::pt_regs;
use riptrace_common::abi::{
    ABI_VERSION,
    condition::{TARGET_ACCEPT, TARGET_BUSY, TARGET_REJECT},
    program::{
        CALL_ENTRY, CALL_NONE, CALL_RETURN, NO_REDUCED_SITE, SITE_AFTER_MOVE, SITE_AT_BRANCH,
        SITE_BEHIND_FAULT, SITE_ENABLED, Site, TRACEPOINT_COUNT_ONLY, TRACEPOINT_DRY_RUN, TRACEPOINT_ENABLED,
        TRACEPOINT_MOVED, TRACEPOINT_REDUCED, Tracepoint, condition_holds,
    },
    record::{FLAG_CALL_SEEN, FLAG_GOROUTINE, FLAG_SYSTEM_STACK},
};

use crate::{
    calls, condition, context,
    emit::{self, Handed, Outcomes},
    gate, goroutine,
    maps::{IMAGES, REDUCED, SITES, Scratch, TRACEPOINTS},
    raw, regs, root, scratch, stack, walk,
};

/// What the record says of the hit itself.
struct Hit {
    ktime_ns: u64,
    pid_tgid: u64,
    /// Of the call that returns here.
    duration_ns: u64,
    entry_seq: u64,
    site: u32,
    cpu: u32,
    /// One of `CALL_*`.
    call: u8,
    /// It is the return of a call whose entry was captured.
    entered: bool,
}

/// `CONDITIONS`, `CALLS`: there are sites with conditions, and sites that belong to a function's calls. What a command does
/// not need is not in its program: verifying it would take longer than all the rest of a start.
#[inline(always)]
pub(crate) fn run<const CONDITIONS: bool, const CALLS: bool>(context: *mut pt_regs) {
    let cookie = raw::attach_cookie(context);
    let index = cookie as u32;
    let Some(site) = SITES.get(index) else { return };
    // A late hit of the entry's former owner, or a site that is being taken away.
    if site.generation != (cookie >> 32) as u32 || site.flags & SITE_ENABLED == 0 {
        return;
    }
    let Some(tracepoint) = TRACEPOINTS.get(site.tracepoint) else { return };
    if tracepoint.flags & TRACEPOINT_ENABLED == 0 {
        return;
    }
    // While a tracepoint moves, its former and its later sites trap. One word decides whose hits count.
    if (site.flags & SITE_AFTER_MOVE != 0) != (tracepoint.flags & TRACEPOINT_MOVED != 0) {
        return;
    }
    if site.flags & SITE_BEHIND_FAULT != 0 && !is_behind_fault(context, site) {
        return;
    }
    let call = if CALLS { site.call } else { CALL_NONE };
    let Some(outcomes) = Outcomes::of(site.tracepoint) else { return };
    if site.flags & SITE_AT_BRANCH != 0 && !condition_holds(site.branch_condition, regs::flags(context)) {
        outcomes.passed();
        return;
    }
    // The calls that it ends are counted, the place itself has no hits.
    let unwinds = CALLS && calls::unwinds(call);
    if !unwinds {
        outcomes.hits();
    }

    let pid_tgid = raw::pid_tgid();
    if !gate::process(site.tracepoint, tracepoint, (pid_tgid >> 32) as u32) {
        if !unwinds {
            outcomes.filtered();
        }
        return;
    }
    // What was decided at a call's entry holds for its return.
    if CONDITIONS
        && site.condition != 0
        && call != CALL_RETURN
        && tracepoint.flags & TRACEPOINT_COUNT_ONLY == 0
    {
        let target = condition::decide(context, site);
        if target != TARGET_ACCEPT {
            match target {
                TARGET_REJECT => outcomes.filtered(),
                TARGET_BUSY => outcomes.dropped(),
                _ => outcomes.failed(),
            }
            if CALLS && call == CALL_ENTRY {
                calls::rejected(site.tracepoint);
            }
            return;
        }
    }
    // Before the clock is read, which costs more than all that was decided so far. With calls it is drawn in `decide`: not
    // for returns, and the frames of what ends calls leave no room for more here.
    if !CALLS && !gate::sample(tracepoint.sample_threshold) {
        outcomes.throttled();
        return;
    }
    let mut hit = Hit {
        ktime_ns: raw::ktime_ns(),
        pid_tgid,
        duration_ns: 0,
        entry_seq: 0,
        site: index,
        cpu: raw::cpu(),
        call,
        entered: false,
    };
    if CALLS && (call == CALL_RETURN || unwinds) && !end_call(context, site, tracepoint, &mut hit, outcomes) {
        return;
    }
    let Some((index, site)) = decide::<CALLS>(index, site, tracepoint, outcomes, hit.entered, hit.ktime_ns)
    else {
        if CALLS && call == CALL_ENTRY {
            calls::rejected(site.tracepoint);
        }
        return;
    };
    hit.site = index;
    if CONDITIONS || CALLS {
        record::<CALLS>(context, site, tracepoint, &hit, outcomes);
    } else {
        capture_and_count::<CALLS>(context, site, tracepoint, &hit, outcomes);
    }
}

/// Closes the call that returns here, or those that a panic unwinds. False: that was all.
///
/// A function of its own, like `record`: frames that are in use at the same time share 512 bytes, and a condition is
/// decided seven calls below `run`.
#[inline(never)]
fn end_call(
    context: *mut pt_regs,
    site: &Site,
    tracepoint: &Tracepoint,
    hit: &mut Hit,
    outcomes: Outcomes,
) -> bool {
    let mut end = calls::end(context, site, hit.call, (hit.pid_tgid >> 32) as u32, hit.cpu, hit.ktime_ns);
    if calls::unwinds(hit.call) {
        calls::unwind(&mut end, site.tracepoint, outcomes);
        return false;
    }
    if tracepoint.flags & TRACEPOINT_COUNT_ONLY == 0 && calls::close(&mut end) {
        hit.entered = true;
        hit.duration_ns = hit.ktime_ns.wrapping_sub(end.entered_ns);
        hit.entry_seq = end.entry_seq;
    }
    if !hit.entered && (site.condition != 0 || !calls::began_before(site)) {
        outcomes.filtered();
        return false;
    }
    true
}

/// Captures, hands over, counts. See `end_call` for why this is a function of its own.
#[inline(never)]
fn record<const CALLS: bool>(
    context: *mut pt_regs,
    site: &Site,
    tracepoint: &Tracepoint,
    hit: &Hit,
    outcomes: Outcomes,
) {
    capture_and_count::<CALLS>(context, site, tracepoint, hit, outcomes);
}

/// Captures, hands over, counts.
#[inline(always)]
fn capture_and_count<const CALLS: bool>(
    context: *mut pt_regs,
    site: &Site,
    tracepoint: &Tracepoint,
    hit: &Hit,
    outcomes: Outcomes,
) {
    let mut handed = Handed { emitted: false, seq: 0 };
    if let Some(scratch) = scratch::acquire(hit.cpu) {
        // SAFETY: acquired above, released below.
        unsafe {
            let captured = capture(context, scratch, site, tracepoint, hit);
            if CALLS && hit.entered {
                let header = scratch::header(scratch);
                (*header).duration_ns = hit.duration_ns;
                (*header).entry_seq = hit.entry_seq;
                (*header).flags |= FLAG_CALL_SEEN;
            }
            if captured != 0 {
                handed = emit::record(scratch, site.tracepoint, captured);
            }
            if handed.emitted {
                stack::sent(scratch);
                if CALLS && hit.call == CALL_ENTRY {
                    calls::open(scratch);
                }
            }
            scratch::release(scratch);
            if handed.emitted {
                outcomes.emitted();
            } else if captured == 0 {
                outcomes.failed();
            } else {
                outcomes.dropped();
            }
        }
    } else {
        outcomes.dropped();
    }
    if !handed.emitted {
        gate::give_slot_back(site.tracepoint, tracepoint);
        if CALLS && hit.call == CALL_ENTRY {
            calls::rejected(site.tracepoint);
        }
    }
    let times = emit::timed(handed.seq);
    if times != 0 {
        outcomes.ran(site.tracepoint, raw::ktime_ns().wrapping_sub(hit.ktime_ns), times);
    }
}

/// Whether the runtime is entered because of the fault that the site stands for. Other faults are nobody's hits.
#[inline(never)]
fn is_behind_fault(context: *const pt_regs, site: &Site) -> bool {
    let registers = regs::read(context);
    let mut from = 0u64;
    // SAFETY: `from` has eight bytes.
    let read = unsafe { raw::probe_read_user((&raw mut from).cast(), 8, registers.sp) };
    read && from == registers.ip.wrapping_sub(i64::from(site.above_fault).cast_unsigned())
}

/// Whether the hit is captured, and by which plan; if not, its outcome is counted. `entered`: it is the return of a call
/// whose entry was captured. Without `CALLS` it is known to be in the sample.
#[inline(always)]
fn decide<const CALLS: bool>(
    index: u32,
    site: &'static Site,
    tracepoint: &Tracepoint,
    outcomes: Outcomes,
    entered: bool,
    ktime_ns: u64,
) -> Option<(u32, &'static Site)> {
    if tracepoint.flags & TRACEPOINT_COUNT_ONLY != 0
        || (!entered
            && ((CALLS && !gate::sample(tracepoint.sample_threshold))
                || !gate::rate(site.tracepoint, tracepoint.rate_per_second, ktime_ns)))
    {
        outcomes.throttled();
        return None;
    }
    if tracepoint.flags & TRACEPOINT_DRY_RUN != 0 {
        outcomes.would_capture();
        outcomes.throttled();
        return None;
    }
    let mut chosen = (index, site);
    if tracepoint.flags & TRACEPOINT_REDUCED != 0 {
        let Some(&reduced) = REDUCED.get(index).filter(|&&reduced| reduced != NO_REDUCED_SITE) else {
            outcomes.throttled();
            return None;
        };
        let Some(site) = SITES.get(reduced - 1) else {
            outcomes.failed();
            return None;
        };
        chosen = (reduced - 1, site);
    }
    if !gate::take_slot(site.tracepoint, tracepoint) {
        outcomes.throttled();
        return None;
    }
    Some(chosen)
}

/// Builds the record; gives its length, or 0 if the maps do not hold together.
#[inline(always)]
unsafe fn capture(
    context: *mut pt_regs,
    scratch: *mut Scratch,
    site: &Site,
    tracepoint: &Tracepoint,
    hit: &Hit,
) -> u32 {
    let registers = regs::read(context);
    // SAFETY: the caller acquired the buffer.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let bias = root::clear_header(scratch, registers, site);
        root::begin(scratch, site, tracepoint, registers, bias);
        regs::copy(context, scratch::at(scratch, root::ROOT_DATA.into()), site.cleared_registers);
        if !root::windows(scratch) {
            return 0;
        }

        let header = scratch::header(scratch);
        if let Some(image) = IMAGES.get(site.image) {
            let (flags, stack_hi) = goroutine::identify(scratch, image, registers);
            (*walk).flags |= flags;
            (*walk).stack_hi = stack_hi;
            let on_goroutine_stack = flags & (FLAG_GOROUTINE | FLAG_SYSTEM_STACK) == FLAG_GOROUTINE;
            if on_goroutine_stack && (*walk).cfa != 0 {
                (*header).frame_from_stack_hi = stack_hi.wrapping_sub((*walk).cfa);
            }
        }

        walk::follow(scratch, site);
        if site.contexts_plus_one != 0 {
            context::find_span(scratch, site.contexts_plus_one - 1);
        }
        let stack_bytes = stack::append(scratch, tracepoint.stack_frames, (hit.pid_tgid >> 32) as u32);

        let stack_offset = (*walk).used;
        let total_bytes = stack_offset + stack_bytes;
        (*header).abi_version = ABI_VERSION;
        (*header).total_bytes = total_bytes;
        (*header).site = hit.site;
        (*header).generation = site.generation;
        (*header).tracepoint = site.tracepoint;
        (*header).flags = (*walk).flags;
        (*header).stack_offset = stack_offset;
        (*header).stack_frames = (*walk).frames;
        (*header).ktime_ns = hit.ktime_ns;
        (*header).tgid = (hit.pid_tgid >> 32) as u32;
        (*header).tid = hit.pid_tgid as u32;
        (*header).cpu = hit.cpu;
        (*header).window_faults = (*walk).window_faults;
        total_bytes
    }
}
