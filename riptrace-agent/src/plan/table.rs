//! Tables: what a site copies without a scan (`abi::program::Table`).
//!
//! From a site's root slots and the entries of `TYPES` and `SLOTS` that were uploaded. A table only saves time: whatever
//! it leaves out, the walk does.

use std::collections::HashMap;

use riptrace_common::abi::{
    limits::MAX_SLOTS_PER_TYPE,
    program::{
        ACTION_EMPTY_INTERFACE, ACTION_FOLLOW, ACTION_INTERFACE, COUNT_ONE, COUNT_WORD, LIMIT_FIXED, NO_SLOT,
        OP_PLAIN, OP_SCAN, Slot, TABLE_OPS, TYPE_HAS_HOLES, TYPE_TORN_CHECK, Table, TableOp, Type,
    },
};

use super::types::Upload;

/// What was uploaded, by index.
#[derive(Debug, Default)]
pub(crate) struct Uploaded {
    types: HashMap<u32, Type>,
    slots: HashMap<u32, Slot>,
}

impl Uploaded {
    pub(crate) fn add(&mut self, upload: &Upload) {
        self.types.extend(upload.types.iter().copied());
        self.slots.extend(upload.slots.iter().copied());
    }

    fn slots_of(&self, ty: &Type) -> Option<Vec<Slot>> {
        let slots = ty.slots.min(MAX_SLOTS_PER_TYPE);
        (ty.first_slot..ty.first_slot.checked_add(slots)?)
            .map(|index| self.slots.get(&index).copied())
            .collect()
    }
}

/// A site's root slots, in the order in which they are to be written, and its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tabled {
    pub(crate) root_slots: Vec<Slot>,
    pub(crate) table: Table,
    pub(crate) ops: u16,
    /// `Site::first_walked_slot`.
    pub(crate) first_walked_slot: u16,
}

impl Tabled {
    /// No table: every slot is walked.
    pub(crate) fn walked(root_slots: &[Slot]) -> Self {
        let first_walked_slot = if root_slots.is_empty() { NO_SLOT } else { 0 };
        Self { root_slots: root_slots.to_vec(), table: Table::default(), ops: 0, first_walked_slot }
    }

    /// A table for a tracepoint that follows `max_depth` levels of pointers.
    pub(crate) fn new(root_slots: &[Slot], uploaded: &Uploaded, max_depth: u32) -> Self {
        let mut builder = Builder { uploaded, max_depth, ops: Vec::new() };
        // The root's own slots first, as the scan would visit them.
        let (tabled, walked): (Vec<Slot>, Vec<Slot>) =
            root_slots.iter().partition(|slot| builder.add(slot, 0, 0));
        if builder.ops.is_empty() && !walked.is_empty() {
            return Self::walked(root_slots);
        }
        let mut index = 0;
        while index < builder.ops.len() {
            builder.expand(index);
            index += 1;
        }
        let mut table = Table::default();
        let ops = builder.ops.len().min(TABLE_OPS);
        for (to, mut op) in table.ops.iter_mut().zip(builder.ops) {
            if op.action == ACTION_FOLLOW && op.flags == 0 {
                op.flags = OP_PLAIN;
            }
            if op.limit != LIMIT_FIXED {
                op.max_count = u32::MAX;
            }
            *to = op;
        }
        let first_walked_slot = match (walked.is_empty(), u16::try_from(tabled.len())) {
            (false, Ok(first)) => first,
            (false, Err(_)) => return Self::walked(root_slots),
            (true, _) => NO_SLOT,
        };
        let root_slots = tabled.into_iter().chain(walked).collect();
        Self { root_slots, table, ops: ops as u16, first_walked_slot }
    }
}

struct Builder<'a> {
    uploaded: &'a Uploaded,
    max_depth: u32,
    ops: Vec<TableOp>,
}

impl Builder<'_> {
    /// Makes the operation of a slot in the chunk of `from` (0: the root, else operation `from - 1`) at that depth. True:
    /// the table stands for the slot.
    fn add(&mut self, slot: &Slot, from: usize, depth: u32) -> bool {
        let Some(op) = self.op(slot, from, depth) else { return false };
        if let Some(op) = op {
            if self.ops.len() >= TABLE_OPS {
                return false;
            }
            self.ops.push(op);
        }
        true
    }

    /// `None`: the slot is the walk's. `Some(None)`: it leads nowhere.
    fn op(&self, slot: &Slot, from: usize, depth: u32) -> Option<Option<TableOp>> {
        if slot.repeat != 1 || slot.guard != 0 {
            return None;
        }
        let depth = depth + u32::from(slot.deeper);
        let mut op = TableOp {
            word: u16::try_from(slot.word).ok()?,
            count: u16::try_from(slot.count).ok()?,
            target: slot.target,
            max_count: slot.max_count,
            from: u8::try_from(from).ok()?,
            action: slot.action,
            count_rule: slot.count_rule,
            limit: slot.limit,
            depth: u8::try_from(depth).ok()?,
            ..TableOp::default()
        };
        match (slot.action, slot.count_rule) {
            (ACTION_INTERFACE | ACTION_EMPTY_INTERFACE, _) => {}
            (ACTION_FOLLOW, COUNT_ONE | COUNT_WORD) => {
                // The limit of a live tracepoint can only be lowered.
                if depth > self.max_depth {
                    return Some(None);
                }
                let ty = self.uploaded.types.get(&slot.target)?;
                if ty.flags & (TYPE_TORN_CHECK | TYPE_HAS_HOLES) != 0 || ty.bytes == 0 {
                    return None;
                }
                op.bytes = ty.bytes;
                if ty.slots != 0 {
                    op.flags = OP_SCAN;
                }
            }
            _ => return None,
        }
        Some(Some(op))
    }

    /// Makes the operations for what an operation copies, if there is room for all of them; else it is scanned.
    fn expand(&mut self, index: usize) {
        let Some(op) = self.ops.get(index).copied() else { return };
        if op.flags & OP_SCAN != 0
            && self.expand_all(index, &op)
            && let Some(op) = self.ops.get_mut(index)
        {
            op.flags &= !OP_SCAN;
        }
    }

    fn expand_all(&mut self, index: usize, op: &TableOp) -> bool {
        let before = self.ops.len();
        let Some(slots) = self.uploaded.types.get(&op.target).and_then(|ty| self.uploaded.slots_of(ty))
        else {
            return false;
        };
        let all = slots.iter().all(|slot| self.add(slot, index + 1, op.depth.into()));
        // The elements of a slice are scanned unless nothing is behind them.
        if all && (op.count_rule == COUNT_ONE || self.ops.len() == before) {
            return true;
        }
        self.ops.truncate(before);
        false
    }
}

#[cfg(test)]
mod tests;
