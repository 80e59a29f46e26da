//! Looks a key up in a map of the target, for conditions: every pair, group by group (hashing takes a secret of the
//! program, and instructions of the processor that BPF has not). `abi::condition::MapPlan` says where things are.

use riptrace_common::{
    abi::condition::{MAP_CONSTANT_KEY, MAP_SWISS, MAX_MAP_GROUPS, MapPlan, SMALLEST_POINTER, TARGET_FAIL},
    condition::extend,
};

use crate::{
    condition::{AFTER, CONSTANT, SAME, riptrace_compare},
    maps::{CONSTANTS, Judgement, Text},
    raw,
};

/// The search ended without an address: what remains is one of `TARGET_*`.
pub(crate) const ENDED: u64 = 1 << 63;
const FAILED: u64 = ENDED | TARGET_FAIL as u64;
/// Not found so far. No address.
const GO_ON: u64 = 1;
/// Looking at a group is a step, and so is going on to a table.
const STEPS: u32 = 2 * MAX_MAP_GROUPS;
/// Pairs of a group or bucket.
const PAIRS: u32 = 8;
const STRING_BYTES: u32 = 16;
/// Smaller `tophash`es say that there is no pair (runtime/map.go, `minTopHash`).
const FIRST_TOP_HASH: u64 = 5;
/// `hmap.flags`: the map grows to the same size (runtime/map.go, `sameSizeGrow`).
const SAME_SIZE: u64 = 8;

#[inline(always)]
fn plan_of(block: u32) -> Option<&'static MapPlan> {
    // SAFETY: both are 64 bytes of integers.
    CONSTANTS.get_ptr(block).map(|block| unsafe { &*block.cast::<MapPlan>() })
}

#[inline(always)]
fn read(address: u64, bytes: u32) -> Option<u64> {
    let mut value = 0u64;
    let bytes = raw::mask::<7>(u64::from(bytes).wrapping_sub(1)) as u32 + 1;
    // SAFETY: one to eight bytes of eight on the stack.
    unsafe { raw::probe_read_user((&raw mut value).cast(), bytes, address) }.then_some(value)
}

/// The address of the key's value, 0 if the map has none, or [`ENDED`] with a target. The key is in `Search::key`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn riptrace_find(judgement: *mut Judgement, header: u64, block: u32) -> u64 {
    if judgement.is_null() {
        return FAILED;
    }
    if header == 0 {
        return 0;
    }
    let Some(plan) = plan_of(block) else { return FAILED };
    if header < SMALLEST_POINTER || !begin(judgement, header, plan, block) {
        return FAILED;
    }
    for _ in 0..STEPS {
        let found = riptrace_find_step(judgement, block);
        if found != GO_ON {
            return found;
        }
    }
    FAILED
}

#[inline(always)]
fn begin(judgement: *mut Judgement, header: u64, plan: &MapPlan, block: u32) -> bool {
    // SAFETY: the caller acquired it.
    unsafe {
        let search = &raw mut (*judgement).search;
        if plan.flags & MAP_CONSTANT_KEY != 0 {
            let address = CONSTANT | u64::from(block + 1);
            (*search).key = Text { address, length: plan.constant_bytes.into() };
        }
        let Some(groups) = read(header.wrapping_add(plan.groups.into()), 8) else { return false };
        (*search).taken = 0;
        (*search).table = 0;
        (*search).at = 0;
        (*search).overflow = 0;
        (*search).old = 0;
        if plan.flags & MAP_SWISS != 0 {
            let Some(entries) = read(header.wrapping_add(plan.count.into()), 8) else { return false };
            (*search).directory = groups;
            (*search).entries = entries;
            // A small map has one group and no tables.
            (*search).first = groups;
            (*search).count = (entries == 0 && groups != 0).into();
            return true;
        }
        let at = header.wrapping_add(plan.count.into());
        let (Some(b), Some(flags)) = (read(at, 1), read(at.wrapping_sub(1), 1)) else { return false };
        let Some(old) = read(header.wrapping_add(plan.table_data.into()), 8) else { return false };
        let buckets = 1u64 << (b & 31);
        (*search).entries = 0;
        (*search).first = groups;
        (*search).count = if groups == 0 { 0 } else { buckets };
        (*search).old = old;
        (*search).old_count = if flags & SAME_SIZE != 0 || buckets == 1 { buckets } else { buckets >> 1 };
        true
    }
}

/// Looks at one group, or goes on to where more of them are.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_find_step(judgement: *mut Judgement, block: u32) -> u64 {
    if judgement.is_null() {
        return FAILED;
    }
    let Some(plan) = plan_of(block) else { return FAILED };
    // SAFETY: the caller acquired it.
    unsafe {
        let search = &raw mut (*judgement).search;
        let mut group = (*search).overflow;
        if group == 0 {
            let at = (*search).at;
            if at < (*search).count {
                (*search).at = at + 1;
                group = (*search).first.wrapping_add(at.wrapping_mul(plan.group_bytes.into()));
            } else if (*search).taken < (*search).entries {
                let entry = (*search).directory.wrapping_add((*search).taken.wrapping_mul(8));
                (*search).taken += 1;
                let Some(table) = read(entry, 8) else { return FAILED };
                // Several entries side by side may share a table.
                if table == (*search).table {
                    return GO_ON;
                }
                (*search).table = table;
                let Some(first) = read(table.wrapping_add(plan.table_data.into()), 8) else { return FAILED };
                let Some(mask) = read(table.wrapping_add(plan.table_mask.into()), 8) else { return FAILED };
                (*search).first = first;
                (*search).count = mask.wrapping_add(1);
                (*search).at = 0;
                return GO_ON;
            } else if (*search).old != 0 {
                (*search).first = (*search).old;
                (*search).count = (*search).old_count;
                (*search).at = 0;
                (*search).old = 0;
                return GO_ON;
            } else {
                return 0;
            }
        }
        let found = riptrace_find_group(judgement, block, group);
        if found != GO_ON {
            return found;
        }
        if plan.flags & MAP_SWISS == 0 {
            let Some(overflow) = read(group.wrapping_add(plan.table_mask.into()), 8) else { return FAILED };
            (*search).overflow = overflow;
        }
    }
    GO_ON
}

/// Looks at the pairs of one group or bucket.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_find_group(judgement: *mut Judgement, block: u32, group: u64) -> u64 {
    if judgement.is_null() || group < SMALLEST_POINTER {
        return FAILED;
    }
    let Some(plan) = plan_of(block) else { return FAILED };
    let Some(control) = read(group.wrapping_add(plan.control.into()), 8) else { return FAILED };
    // SAFETY: the caller acquired it.
    let wanted = unsafe { (&raw const (*judgement).search.key).read_volatile() };
    for pair in 0..PAIRS {
        let byte = control >> (8 * pair) & 0xff;
        let full = if plan.flags & MAP_SWISS != 0 { byte & 0x80 == 0 } else { byte >= FIRST_TOP_HASH };
        if !full {
            continue;
        }
        let at = u64::from(plan.keys) + u64::from(pair) * u64::from(plan.key_stride);
        let key = group.wrapping_add(at);
        let same = if plan.key_bytes == STRING_BYTES {
            let Some(length) = read(key.wrapping_add(8), 8) else { return FAILED };
            if length != wanted.length {
                continue;
            }
            let Some(address) = read(key, 8) else { return FAILED };
            let order = riptrace_compare(judgement, address, length, wanted.address, wanted.length) as u32;
            if order > AFTER {
                return ENDED | u64::from(order);
            }
            order == SAME
        } else {
            let Some(found) = read(key, plan.key_bytes) else { return FAILED };
            let shift = 64u32.wrapping_sub(8 * plan.key_bytes) as u8;
            found == extend(wanted.address, shift, false)
        };
        if same {
            let value = u64::from(plan.values) + u64::from(pair) * u64::from(plan.value_stride);
            return group.wrapping_add(value);
        }
    }
    GO_ON
}
