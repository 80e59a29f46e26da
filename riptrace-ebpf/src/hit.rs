//! What happens when a trap is hit: decide, capture, hand over, count. Exactly one outcome is counted for each hit.

use aya_ebpf::bindings::pt_regs;
use riptrace_common::abi::{
    ABI_VERSION,
    program::{
        NO_REDUCED_SITE, SITE_ENABLED, Site, TRACEPOINT_COUNT_ONLY, TRACEPOINT_DRY_RUN, TRACEPOINT_ENABLED,
        TRACEPOINT_REDUCED, Tracepoint,
    },
    record::{FLAG_GOROUTINE, FLAG_SYSTEM_STACK},
};

use crate::{
    emit::{self, Outcomes},
    gate, goroutine,
    maps::{IMAGES, REDUCED, SITES, Scratch, TRACEPOINTS},
    raw, regs, root, scratch, stack, walk,
};

/// What the record says of the hit itself.
#[derive(Clone, Copy)]
struct Hit {
    site: u32,
    ktime_ns: u64,
    pid_tgid: u64,
    cpu: u32,
}

#[inline(always)]
pub(crate) fn run(context: *mut pt_regs) {
    let cookie = raw::attach_cookie(context);
    let mut index = cookie as u32;
    let Some(mut site) = SITES.get(index) else { return };
    // A late hit of the entry's former owner, or a site that is being taken away.
    if site.generation != (cookie >> 32) as u32 || site.flags & SITE_ENABLED == 0 {
        return;
    }
    let Some(tracepoint) = TRACEPOINTS.get(site.tracepoint) else { return };
    if tracepoint.flags & TRACEPOINT_ENABLED == 0 {
        return;
    }
    let Some(outcomes) = Outcomes::of(site.tracepoint) else { return };
    outcomes.hits();

    let pid_tgid = raw::pid_tgid();
    if !gate::process(site.tracepoint, tracepoint, (pid_tgid >> 32) as u32) {
        outcomes.filtered();
        return;
    }
    if tracepoint.flags & TRACEPOINT_COUNT_ONLY != 0 || !gate::sample(tracepoint.sample_threshold) {
        outcomes.throttled();
        return;
    }
    let ktime_ns = raw::ktime_ns();
    if !gate::rate(site.tracepoint, tracepoint.rate_per_second, ktime_ns) {
        outcomes.throttled();
        return;
    }
    if tracepoint.flags & TRACEPOINT_DRY_RUN != 0 {
        outcomes.would_capture();
        outcomes.throttled();
        return;
    }
    if tracepoint.flags & TRACEPOINT_REDUCED != 0 {
        index = match REDUCED.get(index) {
            Some(&reduced) if reduced != NO_REDUCED_SITE => reduced - 1,
            _ => {
                outcomes.throttled();
                return;
            }
        };
        let Some(reduced) = SITES.get(index) else { return outcomes.failed() };
        site = reduced;
    }
    if !gate::take_slot(site.tracepoint, tracepoint) {
        outcomes.throttled();
        return;
    }

    let cpu = raw::cpu();
    let hit = Hit { site: index, ktime_ns, pid_tgid, cpu };
    let emitted = if let Some(scratch) = scratch::acquire(cpu) {
        // SAFETY: acquired above, released below.
        unsafe {
            let captured = capture(context, scratch, site, tracepoint, hit);
            let emitted = captured != 0 && emit::record(scratch, site.tracepoint, captured);
            scratch::release(scratch);
            if emitted {
                outcomes.emitted();
            } else if captured == 0 {
                outcomes.failed();
            } else {
                outcomes.dropped();
            }
            emitted
        }
    } else {
        outcomes.dropped();
        false
    };
    if !emitted {
        gate::give_slot_back(site.tracepoint, tracepoint);
    }
    outcomes.ran(site.tracepoint, raw::ktime_ns().wrapping_sub(ktime_ns));
}

/// Builds the record; gives its length, or 0 if the maps do not hold together.
#[inline(always)]
unsafe fn capture(
    context: *mut pt_regs,
    scratch: *mut Scratch,
    site: &Site,
    tracepoint: &Tracepoint,
    hit: Hit,
) -> u32 {
    let registers = regs::read(context);
    // SAFETY: the caller acquired the buffer.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let bias = root::clear_header(scratch, registers, site);
        root::begin(scratch, site, tracepoint, registers, bias);
        regs::copy(context, scratch::at(scratch, root::ROOT_DATA.into()));
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

        walk::follow(scratch);
        stack::append(scratch, tracepoint.stack_frames);

        let stack_offset = (*walk).used;
        let frames = (*walk).frames;
        let total_bytes = stack_offset + 8 * frames;
        (*header).abi_version = ABI_VERSION;
        (*header).total_bytes = total_bytes;
        (*header).site = hit.site;
        (*header).generation = site.generation;
        (*header).tracepoint = site.tracepoint;
        (*header).flags = (*walk).flags;
        (*header).stack_offset = stack_offset;
        (*header).stack_frames = frames;
        (*header).ktime_ns = hit.ktime_ns;
        (*header).tgid = (hit.pid_tgid >> 32) as u32;
        (*header).tid = hit.pid_tgid as u32;
        (*header).cpu = hit.cpu;
        (*header).window_faults = (*walk).window_faults;
        total_bytes
    }
}
