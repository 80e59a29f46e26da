//! Maps of both implementations: buckets (`runtime.hmap`, before Go 1.24) and Swiss tables
//! (`internal/runtime/maps.Map`). Which one a map is follows from its header's field names; so do all offsets.

use std::{cmp::Ordering, collections::HashSet};

use riptrace_common::wire::{
    number::Scalar,
    value::{Limit, Truncated, Unavailable, Value},
};

use super::{
    memory::{Lack, View, Wanted},
    value::{Decoder, check_length},
};
use crate::golang::types::{FieldLayout, GoType, MapLayout, Shape, TypeId};

/// Keys and values of one bucket or group (`abi.MapBucketCount`, `abi.MapGroupSlots`).
const SLOTS: u64 = 8;
/// Levels of JSON: `{"entries":[[{`.
const NESTING_ENTRIES: u32 = 3;

/// runtime/map.go: a bucket's `tophash` bytes.
mod tophash {
    pub(super) const EMPTY_REST: u8 = 0;
    pub(super) const EMPTY_ONE: u8 = 1;
    pub(super) const EVACUATED_X: u8 = 2;
    pub(super) const EVACUATED_EMPTY: u8 = 4;
    pub(super) const MIN: u8 = 5;
}

/// runtime/map.go: `hmap.flags`.
mod hmap_flags {
    pub(super) const WRITING: u64 = 4;
    pub(super) const SAME_SIZE_GROW: u64 = 8;
}

/// What was found of a map's entries.
struct Entries<'a> {
    /// Bytes of keys and values, in memory order.
    found: Vec<(Place<'a>, Place<'a>)>,
    /// Some buckets or groups were not captured, and why.
    lack: Option<Lack>,
    /// The map contradicts itself.
    torn: bool,
}

/// Where a key or value is.
#[derive(Clone, Copy)]
struct Place<'a> {
    view: View<'a>,
    /// The view holds its address: it is larger than 128 bytes.
    indirect: bool,
}

impl<'a> Entries<'a> {
    fn new() -> Self {
        Self { found: Vec::new(), lack: None, torn: false }
    }

    fn missing(&mut self, lack: Lack) {
        self.lack = self.lack.or(Some(lack));
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn map(&mut self, map: &MapLayout, view: View<'a>, value: &mut Value) -> Result<(), Lack> {
        let address = view.u64(0)?;
        if address == 0 {
            value.nil = true;
            return Ok(());
        }
        let header = self.object(map.header, address, view.origin, true)?;
        let layout = self.get(map.header);
        let swiss = field_of(&layout, "dirPtr").is_some();
        let len = self.number(&layout, if swiss { "used" } else { "count" }, header)?;
        check_length(len)?;
        value.len = Some(len);
        let mut entries = Entries::new();
        let walked = if swiss {
            self.swiss(map, &layout, header, &mut entries)
        } else {
            self.classic(map, &layout, header, &mut entries)
        };
        if let Err(lack) = walked {
            entries.missing(lack);
        }
        let found = entries.found.len() as u64;
        value.torn = header.origin.torn || entries.torn || (entries.lack.is_none() && found != len);
        if found == 0
            && len != 0
            && let Some(lack) = entries.lack
        {
            return Err(lack);
        }
        if !self.budget.enter(NESTING_ENTRIES) {
            return Err(Lack::Limit(Limit::MaxDepth));
        }
        let mut by = match entries.lack {
            Some(Lack::Limit(limit)) => limit,
            Some(Lack::Unavailable(_)) if self.memory.exhausted() => Limit::MaxBytes,
            _ => Limit::MaxItems,
        };
        let mut decoded = Vec::new();
        for (key, elem) in entries.found {
            if self.budget.exhausted() {
                by = Limit::MaxBytes;
                break;
            }
            // Keys first, values for the shown entries only: which are shown follows from the keys' order.
            let key = self.slot_value(map.key, key);
            decoded.push((key, elem));
        }
        decoded.sort_by(|(one, _), (other, _)| order(one, other));
        if decoded.len() as u64 > self.max_items() {
            by = Limit::MaxItems;
            decoded.truncate(usize::try_from(self.max_items()).unwrap_or(usize::MAX));
        }
        let shown: Vec<(Value, Value)> =
            decoded.into_iter().map(|(key, elem)| self.entry(map, key, elem)).collect();
        self.budget.leave(NESTING_ENTRIES);
        let captured = shown.len() as u64;
        if captured < len && (entries.lack.is_some() || captured < found) {
            match entries.lack {
                Some(Lack::Unavailable(reason @ Unavailable::Fault)) => value.unavailable = Some(reason),
                _ => value.truncated = Some(Truncated { by, captured }),
            }
        }
        value.entries = Some(shown);
        Ok(())
    }

    /// The value that belongs to a key, if the key does not forbid it.
    fn entry(&mut self, map: &MapLayout, key: Value, elem: Place<'a>) -> (Value, Value) {
        let is_shown = match (&key.value, self.context.redaction) {
            (_, None) => true,
            // A key that was cut is not known.
            (Some(Scalar::Text(text)), Some(rules)) if key.truncated.is_none() => {
                if map.is_guarded {
                    rules.allows_key(text)
                } else {
                    !rules.forbids_key(text)
                }
            }
            _ => !map.is_guarded,
        };
        let value =
            if is_shown { self.slot_value(map.value, elem) } else { self.lacking(map.value, Lack::REDACTED) };
        (key, value)
    }

    fn slot_value(&mut self, ty: TypeId, place: Place<'a>) -> Value {
        if !place.indirect {
            return self.value(ty, place.view);
        }
        match place.view.u64(0).and_then(|address| self.object(ty, address, place.view.origin, false)) {
            Ok(object) => self.value(ty, object),
            Err(lack) => self.lacking(ty, lack),
        }
    }

    /// The unsigned number in a field.
    pub(super) fn number(&self, layout: &GoType, field: &str, view: View<'a>) -> Result<u64, Lack> {
        let field = field_of(layout, field).ok_or(Lack::BAD_DEBUG_INFO)?;
        let size = self.get(field.ty).bytes;
        view.part(field.offset, size).uint(size)
    }

    /// What the pointer in a field points at: its type.
    fn target(&self, layout: &GoType, field: &str) -> Result<TypeId, Lack> {
        let field = field_of(layout, field).ok_or(Lack::BAD_DEBUG_INFO)?;
        match self.get(field.ty).shape {
            Shape::Pointer { elem: Some(elem) } => Ok(elem),
            _ => Err(Lack::BAD_DEBUG_INFO),
        }
    }

    fn classic(
        &self,
        map: &MapLayout,
        layout: &GoType,
        header: View<'a>,
        entries: &mut Entries<'a>,
    ) -> Result<(), Lack> {
        let flags = self.number(layout, "flags", header)?;
        if flags & hmap_flags::WRITING != 0 {
            entries.torn = true;
        }
        let buckets = self.number(layout, "buckets", header)?;
        if buckets == 0 {
            // Made without room: buckets come with the first entry.
            return Ok(());
        }
        let exponent = self.number(layout, "B", header)?;
        let Some(count) = u32::try_from(exponent).ok().and_then(|exponent| 1_u64.checked_shl(exponent))
        else {
            entries.torn = true;
            return Err(Lack::BUDGET);
        };
        let bucket = ClassicBucket::of(self, map, self.target(layout, "buckets")?)?;
        let old_buckets = self.number(layout, "oldbuckets", header)?;
        let mut seen = HashSet::new();
        if old_buckets == 0 {
            for index in 0..count {
                let place = buckets.wrapping_add(index.wrapping_mul(bucket.bytes));
                if !self.bucket_chain(&bucket, place, header, &mut seen, entries) {
                    break;
                }
            }
            return Ok(());
        }
        // While a map grows, an old bucket holds the entries until it is evacuated, its one or two new ones after.
        let same_size = flags & hmap_flags::SAME_SIZE_GROW != 0;
        let old_count = if same_size { count } else { count / 2 };
        for index in 0..old_count {
            let old = old_buckets.wrapping_add(index.wrapping_mul(bucket.bytes));
            match self.find_bucket(&bucket, old, header).and_then(|view| view.u8(0)) {
                Err(lack) => {
                    entries.missing(lack);
                    break;
                }
                Ok(tophash::EVACUATED_X..=tophash::EVACUATED_EMPTY) => {
                    let new = [index, index + old_count];
                    let new = if same_size { new.get(..1) } else { new.get(..) };
                    for index in new.unwrap_or_default() {
                        let place = buckets.wrapping_add(index.wrapping_mul(bucket.bytes));
                        self.bucket_chain(&bucket, place, header, &mut seen, entries);
                    }
                }
                Ok(_) => {
                    self.bucket_chain(&bucket, old, header, &mut seen, entries);
                }
            }
        }
        Ok(())
    }

    fn find_bucket(&self, bucket: &ClassicBucket, address: u64, from: View<'a>) -> Result<View<'a>, Lack> {
        let wanted =
            Wanted { address, type_index: self.type_index(bucket.ty), bytes: bucket.bytes, deeper: false };
        self.memory.find(wanted, from.origin)
    }

    /// A bucket and its overflow buckets; false: the bucket itself was not captured.
    fn bucket_chain(
        &self,
        bucket: &ClassicBucket,
        first: u64,
        header: View<'a>,
        seen: &mut HashSet<u64>,
        entries: &mut Entries<'a>,
    ) -> bool {
        let mut address = first;
        while address != 0 {
            if !seen.insert(address) {
                // Chains share nothing: this one was changed while it was copied.
                entries.torn = true;
                break;
            }
            let view = match self.find_bucket(bucket, address, header) {
                Ok(view) => view,
                Err(lack) => {
                    entries.missing(lack);
                    return address != first;
                }
            };
            entries.torn |= view.origin.torn;
            let next = self.bucket_slots(bucket, view, entries).and_then(|()| view.u64(bucket.overflow));
            match next {
                Ok(next) => address = next,
                Err(lack) => {
                    entries.missing(lack);
                    return address != first;
                }
            }
        }
        true
    }

    fn bucket_slots(
        &self,
        bucket: &ClassicBucket,
        view: View<'a>,
        entries: &mut Entries<'a>,
    ) -> Result<(), Lack> {
        for slot in 0..SLOTS {
            match view.u8(bucket.tophash.saturating_add(slot))? {
                tophash::EMPTY_REST => break,
                tophash::EMPTY_ONE => {}
                tophash::MIN.. => entries.found.push(bucket.slots.at(view, slot)),
                // Evacuated entries have another place, which is read there.
                tophash::EVACUATED_X..=tophash::EVACUATED_EMPTY => entries.torn = true,
            }
        }
        Ok(())
    }

    fn swiss(
        &self,
        map: &MapLayout,
        layout: &GoType,
        header: View<'a>,
        entries: &mut Entries<'a>,
    ) -> Result<(), Lack> {
        if self.number(layout, "writing", header).is_ok_and(|writing| writing != 0) {
            entries.torn = true;
        }
        let directory = self.number(layout, "dirPtr", header)?;
        if directory == 0 {
            return Ok(());
        }
        let tables = self.number(layout, "dirLen", header)?;
        // dirPtr is **table<K,V>.
        let table_pointer = self.get(self.target(layout, "dirPtr")?);
        let Shape::Pointer { elem: Some(table_type) } = table_pointer.shape else {
            return Err(Lack::BAD_DEBUG_INFO);
        };
        let table = self.get(table_type);
        let groups = field_of(&table, "groups").ok_or(Lack::BAD_DEBUG_INFO)?;
        let groups_layout = self.get(groups.ty);
        let group = SwissGroup::of(self, map, self.target(&groups_layout, "data")?)?;
        if tables == 0 {
            // A small map: no tables, one group.
            return self.group_slots(&group, directory, header, entries);
        }
        check_length(tables)?;
        let mut seen = HashSet::new();
        for index in 0..tables {
            let entry = directory.wrapping_add(index.wrapping_mul(8));
            let wanted = Wanted { address: entry, type_index: None, bytes: 8, deeper: false };
            let address = match self.memory.find(wanted, header.origin).and_then(|view| view.u64(0)) {
                Ok(address) => address,
                Err(lack) => {
                    entries.missing(if index >= self.max_items() {
                        Lack::Limit(Limit::MaxItems)
                    } else {
                        lack
                    });
                    break;
                }
            };
            // A table that has not been split as often as the directory stands there several times.
            if !seen.insert(address) {
                continue;
            }
            if let Err(lack) =
                self.table(table_type, groups, &groups_layout, &group, address, header, entries)
            {
                entries.missing(lack);
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what the directory's loop knows already")]
    fn table(
        &self,
        table_type: TypeId,
        groups: &FieldLayout,
        groups_layout: &GoType,
        group: &SwissGroup,
        address: u64,
        header: View<'a>,
        entries: &mut Entries<'a>,
    ) -> Result<(), Lack> {
        let table = self.object(table_type, address, header.origin, false)?;
        entries.torn |= table.origin.torn;
        let reference = table.part(groups.offset, groups_layout.bytes);
        let data = self.number(groups_layout, "data", reference)?;
        let last = self.number(groups_layout, "lengthMask", reference)?;
        check_length(last)?;
        for index in 0..=last {
            let address = data.wrapping_add(index.wrapping_mul(group.bytes));
            self.group_slots(group, address, table, entries)?;
        }
        Ok(())
    }

    fn group_slots(
        &self,
        group: &SwissGroup,
        address: u64,
        from: View<'a>,
        entries: &mut Entries<'a>,
    ) -> Result<(), Lack> {
        let wanted =
            Wanted { address, type_index: self.type_index(group.ty), bytes: group.bytes, deeper: false };
        let view = self.memory.find(wanted, from.origin)?;
        entries.torn |= view.origin.torn;
        if view.is_behind_end(group.bytes) {
            return Err(view.beyond());
        }
        for slot in 0..SLOTS {
            // internal/runtime/maps: a full slot's control byte has its top bit clear (empty 0x80, deleted 0xfe).
            if view.u8(group.ctrl.saturating_add(slot))? & 0x80 == 0 {
                entries.found.push(group.slots.at(view, slot));
            }
        }
        Ok(())
    }
}

/// Where keys and values lie in a bucket or group.
struct SlotLayout {
    key: u64,
    key_stride: u64,
    key_bytes: u64,
    key_indirect: bool,
    elem: u64,
    elem_stride: u64,
    elem_bytes: u64,
    elem_indirect: bool,
}

impl SlotLayout {
    fn at<'a>(&self, view: View<'a>, slot: u64) -> (Place<'a>, Place<'a>) {
        let key = self.key.saturating_add(slot.saturating_mul(self.key_stride));
        let elem = self.elem.saturating_add(slot.saturating_mul(self.elem_stride));
        (
            Place { view: view.part(key, self.key_bytes), indirect: self.key_indirect },
            Place { view: view.part(elem, self.elem_bytes), indirect: self.elem_indirect },
        )
    }

    /// From two arrays side by side.
    fn split(
        decoder: &Decoder<'_>,
        map: &MapLayout,
        keys: &FieldLayout,
        elems: &FieldLayout,
    ) -> Result<Self, Lack> {
        let (key, key_bytes) = array_elem(decoder, keys)?;
        let (elem, elem_bytes) = array_elem(decoder, elems)?;
        Ok(Self {
            key: keys.offset,
            key_stride: key_bytes,
            key_bytes,
            key_indirect: is_indirect(decoder, map.key, key)?,
            elem: elems.offset,
            elem_stride: elem_bytes,
            elem_bytes,
            elem_indirect: is_indirect(decoder, map.value, elem)?,
        })
    }

    /// From an array of pairs.
    fn pairs(decoder: &Decoder<'_>, map: &MapLayout, slots: &FieldLayout) -> Result<Self, Lack> {
        let (slot, stride) = array_elem(decoder, slots)?;
        let slot = decoder.get(slot);
        let key = field_of(&slot, "key").ok_or(Lack::BAD_DEBUG_INFO)?;
        let elem = field_of(&slot, "elem").ok_or(Lack::BAD_DEBUG_INFO)?;
        Ok(Self {
            key: slots.offset.saturating_add(key.offset),
            key_stride: stride,
            key_bytes: decoder.get(key.ty).bytes,
            key_indirect: is_indirect(decoder, map.key, key.ty)?,
            elem: slots.offset.saturating_add(elem.offset),
            elem_stride: stride,
            elem_bytes: decoder.get(elem.ty).bytes,
            elem_indirect: is_indirect(decoder, map.value, elem.ty)?,
        })
    }
}

struct ClassicBucket {
    ty: TypeId,
    bytes: u64,
    tophash: u64,
    overflow: u64,
    slots: SlotLayout,
}

impl ClassicBucket {
    fn of(decoder: &Decoder<'_>, map: &MapLayout, ty: TypeId) -> Result<Self, Lack> {
        let layout = decoder.get(ty);
        if layout.bytes == 0 {
            return Err(Lack::BAD_DEBUG_INFO);
        }
        let field = |name| field_of(&layout, name).ok_or(Lack::BAD_DEBUG_INFO);
        Ok(Self {
            ty,
            bytes: layout.bytes,
            tophash: field("tophash")?.offset,
            overflow: field("overflow")?.offset,
            slots: SlotLayout::split(decoder, map, field("keys")?, field("values")?)?,
        })
    }
}

struct SwissGroup {
    ty: TypeId,
    bytes: u64,
    ctrl: u64,
    slots: SlotLayout,
}

impl SwissGroup {
    fn of(decoder: &Decoder<'_>, map: &MapLayout, ty: TypeId) -> Result<Self, Lack> {
        let layout = decoder.get(ty);
        if layout.bytes == 0 {
            return Err(Lack::BAD_DEBUG_INFO);
        }
        let field = |name| field_of(&layout, name).ok_or(Lack::BAD_DEBUG_INFO);
        let slots = match field_of(&layout, "slots") {
            Some(slots) => SlotLayout::pairs(decoder, map, slots)?,
            None => SlotLayout::split(decoder, map, field("keys")?, field("elems")?)?,
        };
        Ok(Self { ty, bytes: layout.bytes, ctrl: field("ctrl")?.offset, slots })
    }
}

fn field_of<'t>(layout: &'t GoType, name: &str) -> Option<&'t FieldLayout> {
    match &layout.shape {
        Shape::Struct { fields } => fields.iter().find(|field| &*field.name == name),
        _ => None,
    }
}

fn array_elem(decoder: &Decoder<'_>, field: &FieldLayout) -> Result<(TypeId, u64), Lack> {
    match decoder.get(field.ty).shape {
        Shape::Array { elem, .. } => Ok((elem, decoder.get(elem).bytes)),
        _ => Err(Lack::BAD_DEBUG_INFO),
    }
}

/// Whether a slot holds the address of what the map's type says: keys and values of more than 128 bytes
/// (`abi.MapMaxKeyBytes`, `abi.MapMaxElemBytes`) have objects of their own.
fn is_indirect(decoder: &Decoder<'_>, wanted: TypeId, slot: TypeId) -> Result<bool, Lack> {
    match (decoder.get(wanted).bytes, decoder.get(slot).bytes) {
        (wanted, slot) if wanted == slot => Ok(false),
        (129.., 8) => Ok(true),
        _ => Err(Lack::BAD_DEBUG_INFO),
    }
}

/// Keys in a stable order, so that one map is always shown the same way: by value where the kind has an order
/// (element by element, field by field), by address, and else as they lie in memory.
fn order(one: &Value, other: &Value) -> Ordering {
    let lists = |one: Option<&Vec<Value>>, other: Option<&Vec<Value>>| {
        let (one, other) = (one.map_or(&[][..], Vec::as_slice), other.map_or(&[][..], Vec::as_slice));
        one.iter()
            .zip(other)
            .map(|(one, other)| order(one, other))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| one.len().cmp(&other.len()))
    };
    let fields = |value: &Value| -> Vec<Value> {
        value.fields.iter().flatten().map(|field| field.value.clone()).collect()
    };
    one.type_name
        .cmp(&other.type_name)
        .then_with(|| scalar_order(one.value.as_ref(), other.value.as_ref()))
        .then_with(|| one.base64.cmp(&other.base64))
        .then_with(|| match (&one.elem, &other.elem) {
            (Some(one), Some(other)) => order(one, other),
            (one, other) => one.is_some().cmp(&other.is_some()),
        })
        .then_with(|| lists(one.elems.as_ref(), other.elems.as_ref()))
        .then_with(|| match (&one.fields, &other.fields) {
            (None, None) => Ordering::Equal,
            _ => lists(Some(&fields(one)), Some(&fields(other))),
        })
        .then_with(|| one.addr.cmp(&other.addr))
}

fn scalar_order(one: Option<&Scalar>, other: Option<&Scalar>) -> Ordering {
    match (one, other) {
        (Some(Scalar::Bool(one)), Some(Scalar::Bool(other))) => one.cmp(other),
        (Some(Scalar::Int(one)), Some(Scalar::Int(other))) => one.cmp(other),
        (Some(Scalar::Uint(one)), Some(Scalar::Uint(other))) => one.cmp(other),
        (Some(Scalar::Float(one)), Some(Scalar::Float(other))) => one.as_f64().total_cmp(&other.as_f64()),
        (Some(Scalar::Complex(re, im)), Some(Scalar::Complex(other_re, other_im))) => {
            re.as_f64().total_cmp(&other_re.as_f64()).then_with(|| im.as_f64().total_cmp(&other_im.as_f64()))
        }
        (Some(Scalar::Text(one)), Some(Scalar::Text(other))) => one.cmp(other),
        // Keys of one type have payloads of one kind, or none.
        (one, other) => one.is_some().cmp(&other.is_some()),
    }
}
