//! Finds the slots of a type, and of the parts of maps and channels.

use std::ops::Range;

use riptrace_common::abi::{
    limits::{MAX_CHUNK_BYTES, MAX_KEPT_PER_TYPE, MAX_SLOTS_PER_TYPE},
    program::{
        ACTION_EMPTY_INTERFACE, ACTION_FOLLOW, ACTION_FUNC, ACTION_INTERFACE, COUNT_MASK_PLUS_ONE,
        COUNT_OLD_BUCKETS, COUNT_ONE, COUNT_ONE_IF_ZERO, COUNT_POWER_OF_TWO, COUNT_WORD, LIMIT_FIXED,
        LIMIT_ITEMS, LIMIT_STRING,
    },
};

use super::{
    Layout, MAX_NESTING, Part, SlotTarget, Target, TypeSlot, chan_target, is_copied, is_stored_indirectly,
    map_target, without,
};
use crate::golang::types::{GoType, MapLayout, Shape, TypeId, TypeSource};

/// Types that are looked at for one layout.
const MAX_VISITS: u32 = 16 * 1024;

/// What is followed from a value of a type, or from a part of a map or channel.
#[must_use]
pub fn layout_of(types: &dyn TypeSource, target: Target) -> Layout {
    let ty = types.get(target.ty);
    let mut build = Build {
        types,
        slots: Vec::new(),
        cut: false,
        visits: 0,
        interfaces: Vec::new(),
        holes: Vec::new(),
        redacts: false,
    };
    match target.part {
        Part::Value => build.value(target.ty, 0, 0),
        Part::MapHeader(map) => build.map_header(&ty, map),
        Part::MapBucket(map) => build.bucket(target.ty, &ty, map),
        Part::MapDirectory(map) => {
            if let Some(table) = pointee(&ty) {
                build.follow(0, Target { ty: table, part: Part::MapTable(map) }, 0);
            }
        }
        Part::MapTable(map) => build.table(&ty, map),
        Part::MapGroup(map) => build.group(&ty, map),
        Part::ChanHeader(elem) => build.chan_header(&ty, elem),
    }
    let mut holes = build.holes;
    holes.sort_unstable_by_key(|hole| (hole.start, hole.end));
    holes.dedup_by(|next, before| {
        let joined = next.start <= before.end;
        if joined {
            before.end = before.end.max(next.end);
        }
        joined
    });
    let bytes = u32::try_from(ty.bytes).unwrap_or(u32::MAX);
    // What has more pieces than the kernel side reads is not copied at all, nor is what would be nothing but a hole.
    let too_many = holes.len() >= MAX_KEPT_PER_TYPE as usize;
    if too_many || !holes.is_empty() && without(0..bytes, &holes).is_empty() {
        return Layout { redacts: true, ..Layout::default() };
    }
    Layout {
        bytes,
        holes,
        redacts: build.redacts,
        slots: build.slots,
        cut: build.cut,
        torn_check: matches!(target.part, Part::MapHeader(_)),
        interfaces: build.interfaces,
    }
}

struct Build<'a> {
    types: &'a dyn TypeSource,
    slots: Vec<TypeSlot>,
    cut: bool,
    visits: u32,
    interfaces: Vec<TypeId>,
    holes: Vec<Range<u32>>,
    redacts: bool,
}

impl Build<'_> {
    /// What an element of an array or a map holds, on its own.
    fn element(&mut self, fill: impl FnOnce(&mut Self)) -> (Vec<TypeSlot>, Vec<Range<u32>>) {
        let mut inner = Build {
            types: self.types,
            slots: Vec::new(),
            cut: false,
            visits: self.visits,
            interfaces: std::mem::take(&mut self.interfaces),
            holes: Vec::new(),
            redacts: self.redacts,
        };
        fill(&mut inner);
        self.visits = inner.visits;
        self.cut |= inner.cut;
        self.interfaces = inner.interfaces;
        self.redacts = inner.redacts;
        (inner.slots, inner.holes)
    }

    /// Bytes that are not copied.
    fn hole(&mut self, at: u64, bytes: u64) {
        self.redacts = true;
        let limit = u64::from(MAX_CHUNK_BYTES);
        let (start, end) = (at.min(limit), at.saturating_add(bytes).min(limit));
        // One past the bound is enough to know that there are too many.
        if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end))
            && start < end
            && self.holes.len() <= MAX_KEPT_PER_TYPE as usize
        {
            match self.holes.last_mut() {
                Some(before) if before.end == start => before.end = end,
                _ => self.holes.push(start..end),
            }
        }
    }

    /// The holes of an element, for each of `len` elements of `elem_bytes` that begin at `at`.
    fn repeat_holes(&mut self, holes: &[Range<u32>], len: u64, elem_bytes: u64, at: u64) {
        if holes.is_empty() {
            return;
        }
        for index in 0..len {
            let base = at.saturating_add(index.saturating_mul(elem_bytes));
            if base >= u64::from(MAX_CHUNK_BYTES) || self.holes.len() > MAX_KEPT_PER_TYPE as usize {
                break;
            }
            for hole in holes {
                self.hole(base + u64::from(hole.start), u64::from(hole.end - hole.start));
            }
        }
    }

    fn value(&mut self, ty: TypeId, at: u64, nesting: u32) {
        self.visits += 1;
        if nesting > MAX_NESTING || self.visits > MAX_VISITS {
            self.cut = true;
            return;
        }
        if at >= u64::from(MAX_CHUNK_BYTES) {
            return;
        }
        let id = ty;
        let ty = self.types.get(id);
        match &ty.shape {
            Shape::Redacted => self.hole(at, ty.bytes),
            Shape::Scalar | Shape::UnsafePointer | Shape::Unknown | Shape::Pointer { elem: None } => {}
            Shape::String => {
                self.push(at, at + 8, SlotTarget::Bytes, ACTION_FOLLOW, COUNT_WORD, LIMIT_STRING, 0);
            }
            Shape::Slice { elem } => {
                self.run(at, at + 8, Target::value(*elem), COUNT_WORD, 1);
            }
            Shape::Pointer { elem: Some(elem) } => self.follow(at, Target::value(*elem), 1),
            Shape::Map(map) => self.follow(at, map_target(*map), 1),
            Shape::Chan { elem, header } => self.follow(at, chan_target(*elem, *header), 1),
            Shape::Interface | Shape::EmptyInterface => {
                if !self.interfaces.contains(&id) {
                    self.interfaces.push(id);
                }
                let empty = ty.shape == Shape::EmptyInterface;
                self.dynamic(at, at + 8, if empty { ACTION_EMPTY_INTERFACE } else { ACTION_INTERFACE });
            }
            Shape::Func => self.dynamic(at, at, ACTION_FUNC),
            Shape::Array { elem, len } => self.array(*elem, *len, at, nesting),
            Shape::Struct { fields } => {
                for field in fields {
                    if let Some(at) = at.checked_add(field.offset) {
                        self.value(field.ty, at, nesting + 1);
                    }
                    if self.cut {
                        return;
                    }
                }
            }
        }
    }

    fn array(&mut self, elem: TypeId, len: u64, at: u64, nesting: u32) {
        let elem_bytes = self.types.get(elem).bytes;
        if len == 0 || elem_bytes == 0 || at >= u64::from(MAX_CHUNK_BYTES) {
            return;
        }
        let (slots, holes) = self.element(|inner| inner.value(elem, 0, nesting + 1));
        self.repeat_holes(&holes, len, elem_bytes, at);
        for slot in slots {
            self.repeat(slot, len, elem_bytes, at);
        }
    }

    /// Adds `slot`, as it is in an element, for each of `len` elements of `elem_bytes` that begin at `at`.
    fn repeat(&mut self, slot: TypeSlot, len: u64, elem_bytes: u64, at: u64) {
        let limit = u64::from(MAX_CHUNK_BYTES);
        let first = at.saturating_add(u64::from(slot.word.max(slot.count)) + 8);
        // Elements behind the largest chunk are never copied, so their words are never read.
        let Some(room) = limit.checked_sub(first) else { return };
        let len = len.min(room / elem_bytes + 1);
        let shifted = |by: u64| {
            let by = u32::try_from(at + by).ok()?;
            slot.shifted(by)
        };
        let as_u32 = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let run_of_slots = u64::from(slot.repeat) * u64::from(slot.stride);
        if slot.repeat == 1 || run_of_slots == elem_bytes {
            // One slot in each element, or elements whose slots follow each other without a gap.
            let stride = if slot.repeat == 1 { as_u32(elem_bytes) } else { slot.stride };
            let Some(slot) = shifted(0) else { return };
            let wanted = u64::from(slot.repeat) * len;
            self.add(TypeSlot { repeat: as_u32(wanted), stride, ..slot });
        } else if u64::from(slot.repeat) <= len {
            for inner in 0..u64::from(slot.repeat) {
                if let Some(one) = shifted(inner * u64::from(slot.stride)) {
                    self.add(TypeSlot { repeat: as_u32(len), stride: as_u32(elem_bytes), ..one });
                }
            }
        } else {
            for element in 0..len {
                if let Some(one) = shifted(element * elem_bytes) {
                    self.add(one);
                }
            }
        }
    }

    fn map_header(&mut self, header: &GoType, map: MapLayout) {
        if let (Some((directory, pointer)), Some((length, _))) =
            (field(header, "dirPtr"), field(header, "dirLen"))
        {
            // A small map has one group and no tables: `dirLen` is 0 and `dirPtr` points at the group.
            let entry = pointee(&self.types.get(pointer));
            let table = entry.and_then(|entry| pointee(&self.types.get(entry)));
            if let Some(group) = table.and_then(|table| self.group_of(table)) {
                let group = Target { ty: group, part: Part::MapGroup(map) };
                self.run_limited(directory, length, group, COUNT_ONE_IF_ZERO, LIMIT_FIXED, 0);
            }
            if let Some(entry) = entry {
                let entry = Target { ty: entry, part: Part::MapDirectory(map) };
                self.run(directory, length, entry, COUNT_WORD, 0);
            }
            return;
        }
        let Some((b, _)) = field(header, "B") else { return };
        for (name, rule) in [("buckets", COUNT_POWER_OF_TWO), ("oldbuckets", COUNT_OLD_BUCKETS)] {
            if let Some((at, pointer)) = field(header, name)
                && let Some(bucket) = pointee(&self.types.get(pointer))
            {
                self.run(at, b, Target { ty: bucket, part: Part::MapBucket(map) }, rule, 0);
            }
        }
    }

    fn group_of(&self, table: TypeId) -> Option<TypeId> {
        let (_, groups) = field(&self.types.get(table), "groups")?;
        let (_, data) = field(&self.types.get(groups), "data")?;
        pointee(&self.types.get(data))
    }

    fn table(&mut self, table: &GoType, map: MapLayout) {
        let Some((at, groups)) = field(table, "groups") else { return };
        let groups = self.types.get(groups);
        if let (Some((data, pointer)), Some((mask, _))) =
            (field(&groups, "data"), field(&groups, "lengthMask"))
            && let Some(group) = pointee(&self.types.get(pointer))
        {
            let group = Target { ty: group, part: Part::MapGroup(map) };
            self.run(at + data, at + mask, group, COUNT_MASK_PLUS_ONE, 0);
        }
    }

    fn group(&mut self, group: &GoType, map: MapLayout) {
        // Pairs side by side, or (GOEXPERIMENT=mapsplitgroup) all keys in front of all values.
        if let Some((at, slots)) = field(group, "slots") {
            let Shape::Array { elem: slot, len } = self.types.get(slots).shape else { return };
            let slot_type = self.types.get(slot);
            let keys = field(&slot_type, "key").map(|(within, _)| (at + within, slot_type.bytes));
            for (name, declared, keys) in
                [("key", map.key, None), ("elem", map.value, keys.filter(|_| map.is_guarded))]
            {
                if let Some((within, stored)) = field(&slot_type, name) {
                    self.stored(stored, declared, at + within, len, slot_type.bytes, keys);
                }
            }
        } else {
            self.stored_arrays(group, ["keys", "elems"], map);
        }
    }

    fn bucket(&mut self, id: TypeId, bucket: &GoType, map: MapLayout) {
        self.stored_arrays(bucket, ["keys", "values"], map);
        if let Some((overflow, _)) = field(bucket, "overflow") {
            // Its type may be `uintptr` (a bucket without pointers); it is a bucket's address all the same.
            self.follow(overflow, Target { ty: id, part: Part::MapBucket(map) }, 0);
        }
    }

    fn stored_arrays(&mut self, holder: &GoType, [keys, values]: [&str; 2], map: MapLayout) {
        let mut place = None;
        for (name, declared) in [(keys, map.key), (values, map.value)] {
            if let Some((at, array)) = field(holder, name)
                && let Shape::Array { elem, len } = self.types.get(array).shape
            {
                let stride = self.types.get(elem).bytes;
                self.stored(elem, declared, at, len, stride, place);
                place = map.is_guarded.then_some((at, stride));
            }
        }
    }

    /// Keys or values of a map: `len` of them, `stride` bytes apart. `guards`: where the first of the keys lies that say
    /// whether a value may be followed, and bytes from one to the next.
    fn stored(
        &mut self,
        stored: TypeId,
        declared: TypeId,
        at: u64,
        len: u64,
        stride: u64,
        guards: Option<(u64, u64)>,
    ) {
        if stride == 0 || len == 0 {
            return;
        }
        let indirect = is_stored_indirectly(self.types, stored, declared);
        let (slots, holes) = self.element(|inner| {
            if self.types.get(declared).shape == Shape::Redacted {
                inner.hole(0, inner.types.get(stored).bytes);
            } else if indirect {
                inner.follow(0, Target::value(declared), 0);
            } else {
                inner.value(stored, 0, 0);
            }
        });
        self.repeat_holes(&holes, len, stride, at);
        let Some((first_key, key_stride)) = guards else {
            for slot in slots {
                self.repeat(slot, len, stride, at);
            }
            return;
        };
        self.redacts = true;
        for index in 0..len.min(u64::from(MAX_SLOTS_PER_TYPE)) {
            let guard = first_key.saturating_add(index.saturating_mul(key_stride)).saturating_add(1);
            let by = at.saturating_add(index.saturating_mul(stride));
            let (Ok(guard), Ok(by)) = (u32::try_from(guard), u32::try_from(by)) else { return };
            for slot in slots.iter().filter_map(|slot| slot.shifted(by)) {
                self.add(TypeSlot { guard, ..slot });
            }
        }
    }

    fn chan_header(&mut self, header: &GoType, elem: TypeId) {
        if let (Some((buffer, _)), Some((length, _))) = (field(header, "buf"), field(header, "dataqsiz")) {
            self.run(buffer, length, Target::value(elem), COUNT_WORD, 0);
        }
    }

    /// There is something to copy.
    fn leads_to(&mut self, target: Target) -> bool {
        let ty = self.types.get(target.ty);
        self.redacts |= ty.shape == Shape::Redacted;
        is_copied(&ty)
    }

    /// One element.
    fn follow(&mut self, word: u64, target: Target, deeper: u8) {
        if self.leads_to(target) {
            self.push(word, word, SlotTarget::Type(target), ACTION_FOLLOW, COUNT_ONE, LIMIT_FIXED, deeper);
        }
    }

    /// As many elements as something says, within `max_items`.
    fn run(&mut self, word: u64, count: u64, target: Target, rule: u8, deeper: u8) {
        self.run_limited(word, count, target, rule, LIMIT_ITEMS, deeper);
    }

    fn run_limited(&mut self, word: u64, count: u64, target: Target, rule: u8, limit: u8, deeper: u8) {
        if self.leads_to(target) {
            self.push(word, count, SlotTarget::Type(target), ACTION_FOLLOW, rule, limit, deeper);
        }
    }

    fn dynamic(&mut self, word: u64, data: u64, action: u8) {
        self.push(word, data, SlotTarget::Bytes, action, COUNT_ONE, LIMIT_FIXED, 1);
    }

    #[expect(clippy::too_many_arguments, reason = "one for each field that a slot has")]
    fn push(
        &mut self,
        word: u64,
        count: u64,
        target: SlotTarget,
        action: u8,
        count_rule: u8,
        limit: u8,
        deeper: u8,
    ) {
        let readable = |at: u64| at.checked_add(8).is_some_and(|end| end <= u64::from(MAX_CHUNK_BYTES));
        if readable(word) && readable(count) {
            #[expect(clippy::cast_possible_truncation, reason = "both are below MAX_CHUNK_BYTES")]
            let (word, count) = (word as u32, count as u32);
            self.add(TypeSlot {
                word,
                count,
                target,
                max_count: 1,
                stride: 0,
                repeat: 1,
                action,
                count_rule,
                limit,
                guard: 0,
                deeper,
            });
        }
    }

    fn add(&mut self, slot: TypeSlot) {
        let Some(slot) = slot.clipped(MAX_CHUNK_BYTES) else { return };
        if self.slots.len() < MAX_SLOTS_PER_TYPE as usize {
            self.slots.push(slot);
        } else {
            self.cut = true;
        }
    }
}

/// What a pointer type points at.
fn pointee(ty: &GoType) -> Option<TypeId> {
    match ty.shape {
        Shape::Pointer { elem } => elem,
        _ => None,
    }
}

/// Offset and type of a field. Offsets too large to be read are as good as none.
fn field(ty: &GoType, name: &str) -> Option<(u64, TypeId)> {
    let Shape::Struct { fields } = &ty.shape else { return None };
    let found = fields.iter().find(|field| &*field.name == name)?;
    (found.offset < u64::from(MAX_CHUNK_BYTES)).then_some((found.offset, found.ty))
}
