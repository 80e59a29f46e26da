//! What a hit is estimated to cost before there was one.

use riptrace_common::abi::program::{WINDOW_IMAGE, WINDOW_STACK};

use super::SitePlan;

/// A hit beyond its trap: the gates, the header, the registers, the goroutine, the way into the ring. This and the next
/// are medians of docs/performance.md.
const HIT_NS: u64 = 400;
/// One read of the target's memory.
const READ_NS: u64 = 95;
/// A step of the walk, its read included.
const FOLLOW_NS: u64 = 150;
/// A frame of the call stack.
const FRAME_NS: u64 = 60;

/// Nanoseconds of a capture with this plan, the trap not included. It counts each pointer of the variables themselves
/// once; what lies deeper depends on the values.
#[must_use]
pub fn capture_ns(plan: &SitePlan, stack_frames: u32) -> u64 {
    let reads =
        plan.windows.iter().filter(|window| [WINDOW_STACK, WINDOW_IMAGE].contains(&window.base)).count();
    let followed: u64 = plan.root_slots.iter().map(|slot| u64::from(slot.repeat)).sum();
    HIT_NS + READ_NS * reads as u64 + FOLLOW_NS * followed + FRAME_NS * u64::from(stack_frames)
}
