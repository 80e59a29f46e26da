//! Numbers types for the kernel: which index of the maps `TYPES` and `SLOTS` stands for which type of which binary, and
//! what must be written there before a plan is armed.
//!
//! Types come from `golang::layout`, on demand: a plan compiles what its variables lead to, as deep as it may follow.
//! A type that lies deeper keeps an empty entry (0 bytes: nothing is copied) under its index until a plan needs it, so
//! that entries never change once they are written. All binaries and tracepoints share one registry.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use riptrace_common::abi::{
    limits::{FIRST_ROOT_SLOT, FIRST_ROOT_TYPE, MAX_DYNAMIC_TYPES, MAX_SLOTS_PER_TYPE},
    program::{
        DYNAMIC_CODE, DYNAMIC_CONTEXT, DYNAMIC_FOLLOW, DYNAMIC_FUNC, DYNAMIC_ITAB, DYNAMIC_NOTHING,
        DYNAMIC_TYPE, Dynamic, DynamicKey, Slot, TYPE_BYTES, TYPE_FIRST, TYPE_HAS_HOLES, TYPE_TORN_CHECK,
        Type,
    },
};

use super::trace_context::ContextLink;
use crate::{
    dwarf::ClosureLayout,
    fast_map::FastMap,
    golang::{
        layout::{DynamicTarget, Layout, SlotTarget, Target, TypeSlot, dynamic_of, layout_of, without},
        types::{Shape, TypeId, TypeSource},
    },
};

/// Names of Go's basic types and a few others that `any` values often have, for [`TypeRegistry::preload`].
pub const COMMON_DYNAMIC_TYPES: [&str; 27] = [
    "bool",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "uintptr",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "string",
    "[]uint8",
    "[]string",
    "[]int",
    "map[string]interface {}",
    "[]interface {}",
    "time.Duration",
    "time.Time",
    "*errors.errorString",
    // What the `done` of every context holds.
    "chan struct {}",
    "*fmt.wrapError",
];

/// Why types could not be numbered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The kernel's map of types is full.
    #[error(
        "the armed tracepoints lead to more than {limit} types; remove tracepoints, or lower --depth or use --capture"
    )]
    TooManyTypes {
        /// How many there is room for.
        limit: u32,
    },
    /// The kernel's map of slots is full.
    #[error(
        "the types that armed tracepoints lead to hold more than {limit} pointers in all; remove tracepoints, or lower \
         --depth or use --capture"
    )]
    TooManySlots {
        /// How many there is room for.
        limit: u32,
    },
}

/// What must be written into the kernel's maps before plans that were made since the last upload are armed. Slots first,
/// then types, then dynamic types: each names only what is written already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upload {
    /// Entries of `SLOTS`.
    pub slots: Vec<(u32, Slot)>,
    /// Entries of `TYPES`.
    pub types: Vec<(u32, Type)>,
    /// Entries of `DYNAMIC`.
    pub dynamic: Vec<(DynamicKey, Dynamic)>,
}

impl Upload {
    /// There is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.types.is_empty() && self.dynamic.is_empty()
    }
}

/// A chunk type that no Go type describes: a closure object, the first bytes of a large variable, the one pointer that
/// an expression follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Synthetic {
    /// Bytes of an element.
    pub bytes: u32,
    /// What is followed from it.
    pub slots: Vec<TypeSlot>,
    /// Bytes that are not copied, in order.
    pub holes: Vec<Range<u32>>,
}

/// (image, type) ↔ index of the kernel's map of types.
#[derive(Debug, Default)]
pub struct TypeRegistry {
    /// `entries[i]` has index `TYPE_FIRST + i`.
    entries: Vec<Entry>,
    /// A map's parts are numbered once as an ordinary map's and once as a guarded one's.
    by_type: FastMap<(u32, TypeId, bool), u32>,
    by_synthetic: HashMap<(u32, Arc<Synthetic>), u32>,
    by_closure: FastMap<(u32, u64), u32>,
    images: HashMap<u32, Image>,
    next_slot: u32,
    pending: Upload,
    cut: Vec<(u32, TypeId)>,
    interfaces: Vec<(u32, TypeId)>,
}

#[derive(Debug)]
struct Entry {
    image: u32,
    content: Content,
    compiled: Option<Compiled>,
}

#[derive(Clone, Debug)]
enum Content {
    Type(Target),
    Synthetic(Arc<Synthetic>),
}

#[derive(Debug)]
struct Compiled {
    /// Levels of pointers behind it that have entries, too.
    levels: u32,
    /// (index, levels that it is deeper by) of what its slots lead to, each once.
    leads_to: Vec<(u32, u8)>,
    /// Bytes of an element, of which not all are copied.
    holed_bytes: Option<u32>,
}

/// What the registry keeps of one image.
#[derive(Debug, Default)]
struct Image {
    /// Levels behind a dynamic value that have entries.
    dynamic_levels: u32,
    /// Types and closures in `DYNAMIC`; `Some`: the index that they lead to.
    dynamic: FastMap<(u32, u64), Option<u32>>,
    /// What the runtime types among them lead to.
    how: FastMap<u64, Dynamic>,
}

impl TypeRegistry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The index of a type, if a plan leads to it.
    #[must_use]
    pub fn index_of(&self, image: u32, ty: TypeId) -> Option<u32> {
        let index = |is_guarded| self.by_type.get(&(image, ty, is_guarded)).copied();
        index(false).or_else(|| index(true))
    }

    /// Bytes of an element of the type with this index, if not all of them are copied.
    #[must_use]
    pub fn holed_bytes(&self, index: u32) -> Option<u32> {
        self.entry(index)?.compiled.as_ref()?.holed_bytes
    }

    /// Both indexes stand for the same type.
    #[must_use]
    pub fn is_same_type(&self, one: u32, other: u32) -> bool {
        one == other || self.type_at(one).is_some_and(|ty| self.type_at(other) == Some(ty))
    }

    /// The index of the chunk type of closure objects of the function that is entered at this link-time address.
    #[must_use]
    pub fn closure_index(&self, image: u32, code_address: u64) -> Option<u32> {
        self.by_closure.get(&(image, code_address)).copied()
    }

    /// The type with this index; `None` for the fixed indexes, for closures and other synthetic types.
    #[must_use]
    pub fn type_at(&self, index: u32) -> Option<(u32, TypeId)> {
        let entry = self.entry(index)?;
        match entry.content {
            Content::Type(target) => Some((entry.image, target.ty)),
            Content::Synthetic(_) => None,
        }
    }

    /// Whether what this runtime type (`DYNAMIC_TYPE`) or closure code (`DYNAMIC_CODE`) leads to is known.
    #[must_use]
    pub fn has_dynamic(&self, image: u32, kind: u32, link_address: u64) -> bool {
        self.images.get(&image).is_some_and(|known| known.dynamic.contains_key(&(kind, link_address)))
    }

    /// Types in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no type is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everything compiled since the last call.
    pub fn take_upload(&mut self) -> Upload {
        std::mem::take(&mut self.pending)
    }

    /// Types compiled since the last call that lead to more places than are followed.
    pub fn take_cut(&mut self) -> Vec<(u32, TypeId)> {
        std::mem::take(&mut self.cut)
    }

    /// Interface types met since the last call, each maybe several times: their implementations are candidates for
    /// [`Self::preload`].
    pub fn take_interfaces(&mut self) -> Vec<(u32, TypeId)> {
        std::mem::take(&mut self.interfaces)
    }

    /// The index of a type. Its entry may stay empty until [`Self::compile`] reaches it.
    pub fn reserve(&mut self, image: u32, target: Target) -> Result<u32, RegistryError> {
        let key = (image, target.ty, target.is_guarded());
        if let Some(&index) = self.by_type.get(&key) {
            return Ok(index);
        }
        let index = self.new_entry(image, Content::Type(target))?;
        self.by_type.insert(key, index);
        Ok(index)
    }

    /// The index of a synthetic type. Its entry may stay empty until [`Self::compile`] reaches it.
    pub fn reserve_synthetic(&mut self, image: u32, synthetic: Synthetic) -> Result<u32, RegistryError> {
        let key = (image, Arc::new(synthetic));
        if let Some(&index) = self.by_synthetic.get(&key) {
            return Ok(index);
        }
        let index = self.new_entry(image, Content::Synthetic(Arc::clone(&key.1)))?;
        self.by_synthetic.insert(key, index);
        Ok(index)
    }

    /// The index that a slot's target has.
    pub fn resolve(&mut self, image: u32, target: SlotTarget) -> Result<u32, RegistryError> {
        match target {
            SlotTarget::Bytes => Ok(TYPE_BYTES),
            SlotTarget::Type(target) => self.reserve(image, target),
            SlotTarget::Index(index) => Ok(index),
        }
    }

    /// Fills the entries of these indexes and of everything that they lead to through at most `levels` further levels of
    /// pointers. `depth` is how deep plans of this image may follow in all; values of interfaces get `depth - 1` levels.
    pub fn compile(
        &mut self,
        image: u32,
        types: &dyn TypeSource,
        roots: &[(u32, u32)],
        depth: u32,
    ) -> Result<(), RegistryError> {
        let mut work: VecDeque<(u32, u32)> = roots.iter().copied().collect();
        let known = self.images.entry(image).or_default();
        let dynamic_levels = depth.saturating_sub(1);
        if dynamic_levels > known.dynamic_levels {
            known.dynamic_levels = dynamic_levels;
            work.extend(known.dynamic.values().flatten().map(|&index| (index, dynamic_levels)));
        }
        self.compile_all(types, work)
    }

    /// Tells the kernel what a value of this runtime type in an interface leads to. `false`: debug data does not describe
    /// the type (the agent decodes such values from their raw bytes).
    pub fn add_dynamic(
        &mut self,
        image: u32,
        types: &dyn TypeSource,
        runtime_type: u64,
    ) -> Result<bool, RegistryError> {
        if self.has_dynamic(image, DYNAMIC_TYPE, runtime_type) {
            return Ok(true);
        }
        match types.by_runtime_type(runtime_type) {
            Some(ty) => self.add_dynamic_type(image, types, runtime_type, ty),
            None => Ok(false),
        }
    }

    /// Does [`Self::add_dynamic`] for types that interface values are likely to have, until the registry has grown by
    /// about `bound` types. Returns how many were taken.
    pub fn preload(
        &mut self,
        image: u32,
        types: &dyn TypeSource,
        candidates: impl IntoIterator<Item = TypeId>,
        bound: usize,
    ) -> Result<usize, RegistryError> {
        let before = self.len();
        let mut taken = 0;
        for ty in candidates {
            if self.len() >= before + bound {
                break;
            }
            if let Some(runtime_type) = types.get(ty).runtime_type
                && !self.has_dynamic(image, DYNAMIC_TYPE, runtime_type)
                && self.add_dynamic_type(image, types, runtime_type, ty)?
            {
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Tells the kernel which runtime type an itab of the binary names, so that it need not read the itab. Without
    /// effect unless what the type leads to is known.
    pub fn add_itab(&mut self, image: u32, itab: u64, runtime_type: u64) {
        let known = self.images.get(&image).and_then(|known| known.how.get(&runtime_type).copied());
        if let Some(Dynamic { how, target }) = known {
            let target = (how == DYNAMIC_FOLLOW).then_some(target);
            self.put_dynamic(image, DYNAMIC_ITAB, itab, how, target);
        }
    }

    /// Tells the kernel what closure objects of the function that is entered at `code_address` hold.
    pub fn add_closure(
        &mut self,
        image: u32,
        types: &dyn TypeSource,
        code_address: u64,
        layout: &ClosureLayout,
    ) -> Result<u32, RegistryError> {
        if let Some(&index) = self.by_closure.get(&(image, code_address)) {
            return Ok(index);
        }
        let index = self.reserve_synthetic(image, closure_object(types, layout))?;
        self.by_closure.insert((image, code_address), index);
        self.put_dynamic(image, DYNAMIC_CODE, code_address, DYNAMIC_FOLLOW, Some(index));
        let levels = self.dynamic_levels(image);
        self.compile_all(types, VecDeque::from([(index, levels)]))?;
        Ok(index)
    }

    fn add_dynamic_type(
        &mut self,
        image: u32,
        types: &dyn TypeSource,
        runtime_type: u64,
        ty: TypeId,
    ) -> Result<bool, RegistryError> {
        let Some(target) = dynamic_of(types, ty) else { return Ok(false) };
        match target {
            DynamicTarget::Func => self.put_dynamic(image, DYNAMIC_TYPE, runtime_type, DYNAMIC_FUNC, None),
            DynamicTarget::Nothing => {
                self.put_dynamic(image, DYNAMIC_TYPE, runtime_type, DYNAMIC_NOTHING, None);
            }
            DynamicTarget::Follow(target) => {
                let index = self.reserve(image, target)?;
                let levels = self.dynamic_levels(image);
                self.compile_all(types, VecDeque::from([(index, levels)]))?;
                self.put_dynamic(image, DYNAMIC_TYPE, runtime_type, DYNAMIC_FOLLOW, Some(index));
            }
        }
        Ok(true)
    }

    /// Tells the kernel how contexts lead to spans.
    pub fn add_context_links(&mut self, image: u32, links: &[ContextLink]) {
        let known = self.images.entry(image).or_default();
        for link in links {
            if known.dynamic.len() < MAX_DYNAMIC_TYPES as usize
                && known.dynamic.insert((DYNAMIC_CONTEXT, link.address), None).is_none()
            {
                let key = DynamicKey { link_address: link.address, image, kind: DYNAMIC_CONTEXT };
                self.pending.dynamic.push((key, Dynamic { target: link.offset, how: link.how }));
            }
        }
    }

    fn put_dynamic(&mut self, image: u32, kind: u32, link_address: u64, how: u32, target: Option<u32>) {
        let known = self.images.entry(image).or_default();
        // A full map costs completeness of later values, which then say that their type is unknown.
        if known.dynamic.len() < MAX_DYNAMIC_TYPES as usize
            && known.dynamic.insert((kind, link_address), target).is_none()
        {
            let key = DynamicKey { link_address, image, kind };
            let value = Dynamic { target: target.unwrap_or(TYPE_BYTES), how };
            if kind == DYNAMIC_TYPE {
                known.how.insert(link_address, value);
            }
            self.pending.dynamic.push((key, value));
        }
    }

    fn dynamic_levels(&self, image: u32) -> u32 {
        self.images.get(&image).map_or(0, |known| known.dynamic_levels)
    }

    fn compile_all(
        &mut self,
        types: &dyn TypeSource,
        mut work: VecDeque<(u32, u32)>,
    ) -> Result<(), RegistryError> {
        while let Some((index, levels)) = work.pop_front() {
            let Some(entry) = self.entry(index) else { continue };
            match &entry.compiled {
                Some(compiled) if compiled.levels >= levels => continue,
                Some(_) => {}
                None => self.compile_one(types, index)?,
            }
            let Some(compiled) = self.entry_mut(index).and_then(|entry| entry.compiled.as_mut()) else {
                continue;
            };
            compiled.levels = levels;
            for &(target, deeper) in &compiled.leads_to {
                if let Some(levels) = levels.checked_sub(u32::from(deeper)) {
                    work.push_back((target, levels));
                }
            }
        }
        Ok(())
    }

    fn compile_one(&mut self, types: &dyn TypeSource, index: u32) -> Result<(), RegistryError> {
        let Some(entry) = self.entry(index) else { return Ok(()) };
        let image = entry.image;
        let layout = match entry.content.clone() {
            Content::Type(target) => {
                let layout = layout_of(types, target);
                if layout.cut {
                    self.cut.push((image, target.ty));
                }
                layout
            }
            Content::Synthetic(synthetic) => Layout {
                bytes: synthetic.bytes,
                slots: synthetic.slots.clone(),
                holes: synthetic.holes.clone(),
                ..Layout::default()
            },
        };
        self.interfaces.extend(layout.interfaces.iter().map(|&ty| (image, ty)));
        let count = u32::try_from(layout.slots.len()).unwrap_or(u32::MAX).min(MAX_SLOTS_PER_TYPE);
        let kept = if layout.holes.is_empty() { Vec::new() } else { layout.kept() };
        let runs = u32::try_from(kept.len()).unwrap_or(u32::MAX);
        if FIRST_ROOT_SLOT - self.next_slot < count.saturating_add(runs) {
            return Err(RegistryError::TooManySlots { limit: FIRST_ROOT_SLOT });
        }
        let mut slots = Vec::with_capacity(layout.slots.len());
        let mut leads_to: Vec<(u32, u8)> = Vec::new();
        for slot in layout.slots.iter().take(MAX_SLOTS_PER_TYPE as usize) {
            let target = self.resolve(image, slot.target)?;
            slots.push(encode(slot, target));
            if target >= TYPE_FIRST && !leads_to.contains(&(target, slot.deeper)) {
                leads_to.push((target, slot.deeper));
            }
        }
        let first_slot = self.next_slot;
        slots.extend(kept.iter().map(|run| Slot {
            word: run.start,
            count: run.end - run.start,
            ..Slot::default()
        }));
        self.next_slot += count + runs;
        self.pending.slots.extend((first_slot..).zip(slots));
        let mut flags = if layout.torn_check { TYPE_TORN_CHECK } else { 0 };
        if runs != 0 {
            flags |= TYPE_HAS_HOLES | runs << 16;
        }
        self.pending.types.push((index, Type { bytes: layout.bytes, first_slot, slots: count, flags }));
        if let Some(entry) = self.entry_mut(index) {
            let holed_bytes = (runs != 0).then_some(layout.bytes);
            entry.compiled = Some(Compiled { levels: 0, leads_to, holed_bytes });
        }
        Ok(())
    }

    fn new_entry(&mut self, image: u32, content: Content) -> Result<u32, RegistryError> {
        let index = u32::try_from(self.entries.len())
            .ok()
            .and_then(|entries| entries.checked_add(TYPE_FIRST))
            .filter(|&index| index < FIRST_ROOT_TYPE)
            .ok_or(RegistryError::TooManyTypes { limit: FIRST_ROOT_TYPE - TYPE_FIRST })?;
        self.entries.push(Entry { image, content, compiled: None });
        Ok(index)
    }

    fn entry(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index.checked_sub(TYPE_FIRST)? as usize)
    }

    fn entry_mut(&mut self, index: u32) -> Option<&mut Entry> {
        self.entries.get_mut(index.checked_sub(TYPE_FIRST)? as usize)
    }
}

/// The slot as the kernel side reads it.
pub(crate) fn encode(slot: &TypeSlot, target: u32) -> Slot {
    Slot {
        word: slot.word,
        count: slot.count,
        target,
        max_count: slot.max_count,
        stride: slot.stride,
        repeat: slot.repeat,
        action: slot.action,
        count_rule: slot.count_rule,
        limit: slot.limit,
        deeper: slot.deeper,
        guard: slot.guard,
    }
}

/// What is not kept of an object of `bytes` bytes.
pub(crate) fn holes_between(bytes: u32, mut kept: Vec<Range<u32>>) -> Vec<Range<u32>> {
    kept.sort_unstable_by_key(|run| (run.start, run.end));
    without(0..bytes, &kept)
}

/// A closure object: the code address, then what the closure captured.
fn closure_object(types: &dyn TypeSource, layout: &ClosureLayout) -> Synthetic {
    let captured = layout.captured.iter().map(|variable| HeldVariable {
        offset: variable.offset,
        ty: variable.ty,
        by_reference: variable.by_reference,
    });
    object_holding(types, captured, layout.bytes, false)
}

/// A variable in a closure object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldVariable {
    pub(crate) offset: u64,
    pub(crate) ty: TypeId,
    /// The object holds its address. What lies there is as deep as the object: the indirection is not the program's.
    pub(crate) by_reference: bool,
}

/// A chunk type of at least `bytes` bytes that holds these variables. `is_cut`: of the rest nothing is copied, which may
/// have to remain where it is.
pub(crate) fn object_holding(
    types: &dyn TypeSource,
    variables: impl IntoIterator<Item = HeldVariable>,
    bytes: u64,
    is_cut: bool,
) -> Synthetic {
    let mut end = bytes;
    let mut slots = Vec::new();
    // The code address, and what is asked for.
    let mut kept: Vec<Range<u32>> = std::iter::once(0..8).collect();
    let mut redacts = false;
    for variable in variables {
        let Ok(at) = u32::try_from(variable.offset) else { continue };
        if variable.by_reference {
            end = end.max(variable.offset.saturating_add(8));
            kept.push(at..at.saturating_add(8));
            redacts |= types.get(variable.ty).shape == Shape::Redacted;
            slots.push(TypeSlot::one(at, SlotTarget::Type(Target::value(variable.ty)), 0));
        } else {
            end = end.max(variable.offset.saturating_add(types.get(variable.ty).bytes));
            let layout = layout_of(types, Target::value(variable.ty));
            slots.extend(layout.slots.iter().filter_map(|slot| slot.shifted(at)));
            kept.extend(
                layout.kept().iter().map(|run| at.saturating_add(run.start)..at.saturating_add(run.end)),
            );
            redacts |= layout.redacts;
        }
    }
    slots.truncate(MAX_SLOTS_PER_TYPE as usize);
    let bytes = u32::try_from(end).unwrap_or(u32::MAX);
    let holes = if is_cut || redacts { holes_between(bytes, kept) } else { Vec::new() };
    Synthetic { bytes, slots, holes }
}

#[cfg(test)]
mod tests;
