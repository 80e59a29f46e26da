//! Which entries of the kernel's maps are in use. Pure bookkeeping: what is written there is `kernel`'s business.

use std::collections::BTreeMap;

use riptrace_common::abi::{
    condition::{MAX_BLOCKS, MAX_CONDITION_OPS, MAX_OPS, Op},
    context::MAX_CONTEXT_PLANS,
    limits,
};

use super::error::ProbeError;
use crate::plan::{SitePlan, condition::Condition};

/// Hands out indices below a capacity, lowest first.
#[derive(Debug)]
pub(super) struct Indices {
    what: &'static str,
    capacity: u32,
    /// Every index from here on was never handed out.
    fresh: u32,
    free: Vec<u32>,
}

impl Indices {
    pub(super) fn new(what: &'static str, capacity: u32) -> Self {
        Self { what, capacity, fresh: 0, free: Vec::new() }
    }

    pub(super) fn allocate(&mut self) -> Result<u32, ProbeError> {
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        if self.fresh == self.capacity {
            return Err(ProbeError::Full { what: self.what, wanted: 1, capacity: self.capacity });
        }
        let index = self.fresh;
        self.fresh += 1;
        Ok(index)
    }

    pub(super) fn release(&mut self, index: u32) {
        debug_assert!(index < self.fresh && !self.free.contains(&index));
        self.free.push(index);
    }
}

/// Hands out runs of neighbouring indices, first fit, and joins neighbours that come back.
#[derive(Debug)]
pub(super) struct Ranges {
    what: &'static str,
    capacity: u32,
    /// Start → length of every free run; no two touch.
    free: BTreeMap<u32, u32>,
}

impl Ranges {
    pub(super) fn new(what: &'static str, first: u32, end: u32) -> Self {
        Self { what, capacity: end - first, free: BTreeMap::from([(first, end - first)]) }
    }

    /// The start of `length` free indices. An empty run starts anywhere (here: at 0).
    pub(super) fn allocate(&mut self, length: u32) -> Result<u32, ProbeError> {
        if length == 0 {
            return Ok(0);
        }
        let found = self.free.iter().find(|&(_, &free)| free >= length).map(|(&start, &free)| (start, free));
        let Some((start, free)) = found else {
            return Err(ProbeError::Full { what: self.what, wanted: length, capacity: self.capacity });
        };
        self.free.remove(&start);
        if free > length {
            self.free.insert(start + length, free - length);
        }
        Ok(start)
    }

    pub(super) fn release(&mut self, mut start: u32, mut length: u32) {
        if length == 0 {
            return;
        }
        if let Some((&before, &before_length)) = self.free.range(..start).next_back() {
            debug_assert!(before + before_length <= start);
            if before + before_length == start {
                self.free.remove(&before);
                start = before;
                length += before_length;
            }
        }
        if let Some(after_length) = self.free.remove(&(start + length)) {
            length += after_length;
        }
        self.free.insert(start, length);
    }
}

/// What one entry of `SITES` holds on to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SiteEntry {
    /// Counted up each time the entry is used, so that a late hit of its former owner is recognised.
    pub(super) generation: u32,
    /// In use, for this tracepoint.
    pub(super) tracepoint: Option<u32>,
    pub(super) first_window: u32,
    pub(super) windows: u32,
    pub(super) first_slot: u32,
    pub(super) slots: u32,
    pub(super) condition: ConditionEntry,
    /// Index into `TABLES`.
    pub(super) table: Option<u32>,
    /// Index into `CONTEXTS`.
    pub(super) contexts: Option<u32>,
}

/// Where a site's condition lies in `CONDITIONS` and `CONSTANTS`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConditionEntry {
    first_op: u32,
    ops: u32,
    first_block: u32,
    blocks: u32,
}

impl ConditionEntry {
    /// `Site::condition`.
    pub(super) fn site_word(self) -> u32 {
        self.first_op << 8 | self.ops
    }

    /// The entries of both maps: those of the ops with the ops, in which the constants' places are those of the map.
    pub(super) fn placed(self, condition: &Condition) -> ((Vec<u32>, Vec<Op>), Vec<u32>) {
        let place = |op: &Op| {
            let shift = if condition.has_constant(op) { u64::from(self.first_block) << 32 } else { 0 };
            Op { immediate: op.immediate.wrapping_add(shift), ..*op }
        };
        let ops = (self.first_op..self.first_op + self.ops).collect();
        let blocks = (self.first_block..self.first_block + self.blocks).collect();
        ((ops, condition.ops.iter().map(place).collect()), blocks)
    }
}

/// Which entries of `CONDITIONS` and `CONSTANTS` are in use.
#[derive(Debug)]
pub(super) struct Conditions {
    ops: Ranges,
    blocks: Ranges,
}

impl Conditions {
    /// Takes what a plan's condition needs.
    pub(super) fn allocate(&mut self, plan: &SitePlan) -> Result<ConditionEntry, ProbeError> {
        let Some(condition) = &plan.condition else { return Ok(ConditionEntry::default()) };
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (ops, blocks) = (number(condition.ops.len()), number(condition.blocks.len()));
        if ops > MAX_OPS {
            let (link_address, found, limit) = (plan.link_address, ops.into(), MAX_OPS.into());
            return Err(ProbeError::PlanTooLarge {
                link_address,
                what: "steps of a condition",
                found,
                limit,
            });
        }
        let first_op = self.ops.allocate(ops)?;
        match self.blocks.allocate(blocks) {
            Ok(first_block) => Ok(ConditionEntry { first_op, ops, first_block, blocks }),
            Err(error) => {
                self.ops.release(first_op, ops);
                Err(error)
            }
        }
    }

    pub(super) fn release(&mut self, entry: ConditionEntry) {
        self.ops.release(entry.first_op, entry.ops);
        self.blocks.release(entry.first_block, entry.blocks);
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) sites: Indices,
    pub(super) site_entries: Vec<SiteEntry>,
    pub(super) tracepoints: Indices,
    pub(super) images: Indices,
    pub(super) windows: Ranges,
    pub(super) root_slots: Ranges,
    pub(super) conditions: Conditions,
    pub(super) tables: Indices,
    pub(super) contexts: Indices,
}

impl Registry {
    pub(super) fn new(max_tracepoints: u32) -> Self {
        Self {
            sites: Indices::new("armed addresses", limits::MAX_SITES),
            site_entries: vec![SiteEntry::default(); limits::MAX_SITES as usize],
            tracepoints: Indices::new("tracepoints", max_tracepoints),
            images: Indices::new("executables", limits::MAX_IMAGES),
            windows: Ranges::new("windows", 0, limits::MAX_WINDOWS),
            root_slots: Ranges::new("root slots", limits::FIRST_ROOT_SLOT, limits::MAX_SLOTS),
            conditions: Conditions {
                ops: Ranges::new("steps of conditions", 0, MAX_CONDITION_OPS),
                blocks: Ranges::new("constants of conditions", 0, MAX_BLOCKS),
            },
            tables: Indices::new("tables", limits::MAX_TABLES),
            contexts: Indices::new("places with contexts", MAX_CONTEXT_PLANS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_come_back() {
        let mut indices = Indices::new("things", 2);
        assert_eq!((indices.allocate().unwrap(), indices.allocate().unwrap()), (0, 1));
        assert!(matches!(indices.allocate(), Err(ProbeError::Full { capacity: 2, .. })));
        indices.release(0);
        assert_eq!(indices.allocate().unwrap(), 0);
    }

    #[test]
    fn released_ranges_join_their_neighbours() {
        let mut ranges = Ranges::new("things", 100, 130);
        let (a, b, c) =
            (ranges.allocate(10).unwrap(), ranges.allocate(10).unwrap(), ranges.allocate(10).unwrap());
        assert_eq!((a, b, c), (100, 110, 120));
        assert!(ranges.allocate(1).is_err());
        assert_eq!(ranges.allocate(0).unwrap(), 0, "an empty range needs no room");
        ranges.release(a, 10);
        ranges.release(c, 10);
        assert!(ranges.allocate(11).is_err(), "the free ranges do not touch");
        ranges.release(b, 10);
        assert_eq!(ranges.allocate(30).unwrap(), 100);
    }
}
