//! Which words of a value lead somewhere: Go's knowledge of strings, slices, maps, channels, interfaces and closures,
//! turned into the one rule that the kernel side has (`abi::program::Slot`).
//!
//! Types come from a [`TypeSource`]; `plan::types` numbers them for the kernel. Maps and channels are recognised by
//! the field names of their headers (runtime/map.go up to Go 1.23, internal/runtime/maps since, runtime/chan.go), never
//! by Go's version.

mod build;

use std::ops::Range;

use riptrace_common::abi::program::{ACTION_FOLLOW, COUNT_ONE, LIMIT_FIXED};

pub use self::build::layout_of;
use super::types::{GoType, MapLayout, Shape, TypeId, TypeSource};

/// Keys and values of maps that are larger are stored behind a pointer (`abi.MapMaxKeyBytes`, `MapMaxElemBytes`; the
/// same number in both implementations).
const MAX_INLINE_MAP_BYTES: u64 = 128;
/// Structs and arrays within each other: more than any real type has, so that a type that contains itself ends.
const MAX_NESTING: u32 = 64;

/// A word of a value that leads somewhere: an `abi::program::Slot` whose target is not numbered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeSlot {
    /// Offset of the pointer (or of the itab or type word).
    pub word: u32,
    /// Offset of what `count_rule` needs (or of an interface's data word).
    pub count: u32,
    /// What is pointed at.
    pub target: SlotTarget,
    /// Elements at the most, with `LIMIT_FIXED`.
    pub max_count: u32,
    /// Bytes from one repetition to the next.
    pub stride: u32,
    /// Repetitions, at least 1.
    pub repeat: u32,
    /// One of `ACTION_*`.
    pub action: u8,
    /// One of `COUNT_*`.
    pub count_rule: u8,
    /// One of `LIMIT_*`.
    pub limit: u8,
    /// Offset, plus one, of the key that must be an allowed one (`abi::program::Slot::guard`); 0: none.
    pub guard: u32,
    /// Levels that what is found is deeper by: 0 or 1.
    pub deeper: u8,
}

impl TypeSlot {
    /// One element of `target`, behind the word at `at`.
    #[must_use]
    pub fn one(at: u32, target: SlotTarget, deeper: u8) -> Self {
        Self {
            word: at,
            count: at,
            target,
            max_count: 1,
            stride: 0,
            repeat: 1,
            action: ACTION_FOLLOW,
            count_rule: COUNT_ONE,
            limit: LIMIT_FIXED,
            guard: 0,
            deeper,
        }
    }

    /// The same slot of a value that begins `by` bytes further.
    #[must_use]
    pub fn shifted(&self, by: u32) -> Option<Self> {
        let guard = if self.guard == 0 { 0 } else { self.guard.checked_add(by)? };
        Some(Self { word: self.word.checked_add(by)?, count: self.count.checked_add(by)?, guard, ..*self })
    }

    /// Its repetitions that lie within the first `bytes` bytes.
    #[must_use]
    pub fn clipped(&self, bytes: u32) -> Option<Self> {
        let room = bytes.checked_sub(self.word.max(self.count).checked_add(8)?)?;
        let readable = room.checked_div(self.stride).map_or(u32::MAX, |more| more.saturating_add(1));
        Some(Self { repeat: self.repeat.min(readable), ..*self })
    }
}

/// What a slot leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotTarget {
    /// Bytes without slots of their own (a string's), or what is known only at run time (an interface's value).
    Bytes,
    /// Elements of a type.
    Type(Target),
    /// An entry of the kernel's map of types that is numbered already.
    Index(u32),
}

/// A type, and as what its words are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The type.
    pub ty: TypeId,
    /// How its words are to be read.
    pub part: Part,
}

/// Parts of maps and channels have structs of their own, in which pointers mean more than their types say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// An ordinary value.
    Value,
    /// What a map points at.
    MapHeader(MapLayout),
    /// A bucket of a classic map.
    MapBucket(MapLayout),
    /// An element of a Swiss map's directory: a pointer at a table.
    MapDirectory(MapLayout),
    /// A table of a Swiss map.
    MapTable(MapLayout),
    /// A group of a Swiss map.
    MapGroup(MapLayout),
    /// What a channel with elements of this type points at.
    ChanHeader(TypeId),
}

impl Target {
    /// The type as an ordinary value.
    #[must_use]
    pub fn value(ty: TypeId) -> Self {
        Self { ty, part: Part::Value }
    }

    /// It is a part of a guarded map.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        match self.part {
            Part::Value | Part::ChanHeader(_) => false,
            Part::MapHeader(map)
            | Part::MapBucket(map)
            | Part::MapDirectory(map)
            | Part::MapTable(map)
            | Part::MapGroup(map) => map.is_guarded,
        }
    }
}

/// What is followed from a value of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a value, saturated.
    pub bytes: u32,
    /// The words that lead somewhere.
    pub slots: Vec<TypeSlot>,
    /// The type leads to more than `MAX_SLOTS_PER_TYPE` places (or is nested beyond reason): the rest is left out.
    pub cut: bool,
    /// It is the header of something that the program may change while it is copied.
    pub torn_check: bool,
    /// The interface types among the words, each once: their dynamic types are worth knowing beforehand.
    pub interfaces: Vec<TypeId>,
    /// Bytes that are never copied, in order. Such a layout has no slots there.
    pub holes: Vec<Range<u32>>,
    /// It holds, or leads to, something that is not copied.
    pub redacts: bool,
}

impl Layout {
    /// The bytes that are copied, in order.
    #[must_use]
    pub fn kept(&self) -> Vec<Range<u32>> {
        without(0..self.bytes, &self.holes)
    }
}

/// The parts of a range that none of these ranges covers.
#[must_use]
pub fn without(range: Range<u32>, holes: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut kept = Vec::new();
    let mut at = range.start;
    for hole in holes {
        if hole.start > at {
            kept.push(at..hole.start.min(range.end));
        }
        at = at.max(hole.end);
        if at >= range.end {
            break;
        }
    }
    if at < range.end {
        kept.push(at..range.end);
    }
    kept
}

/// The words of a value of type `ty` that lead somewhere.
#[must_use]
pub fn slots_of(types: &dyn TypeSource, ty: TypeId) -> Vec<TypeSlot> {
    layout_of(types, Target::value(ty)).slots
}

/// What the data word of an interface leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynamicTarget {
    /// One element of this: the value, or what it points at where the data word is the value.
    Follow(Target),
    /// The data word is a func value.
    Func,
    /// The data word leads nowhere: it is the value, or the value has no bytes.
    Nothing,
}

/// What the data word of an interface leads to when its dynamic type is `ty`. `None` where debug data does not tell
/// whether the value itself is in the data word: Go 1.26 began to put every pointer-sized struct with one pointer
/// there, whatever else without bytes is in it (`types.IsDirectIface`).
#[must_use]
pub fn dynamic_of(types: &dyn TypeSource, ty: TypeId) -> Option<DynamicTarget> {
    let mut current = ty;
    for _ in 0..MAX_NESTING {
        let go = types.get(current);
        let indirect = Some(if go.bytes == 0 {
            DynamicTarget::Nothing
        } else {
            DynamicTarget::Follow(Target::value(ty))
        });
        match &go.shape {
            Shape::Pointer { elem } => {
                return Some(match elem {
                    Some(elem) if is_copied(&types.get(*elem)) => DynamicTarget::Follow(Target::value(*elem)),
                    _ => DynamicTarget::Nothing,
                });
            }
            Shape::Map(map) => return Some(DynamicTarget::Follow(map_target(*map))),
            Shape::Chan { elem, header } => return Some(DynamicTarget::Follow(chan_target(*elem, *header))),
            Shape::Func => return Some(DynamicTarget::Func),
            Shape::UnsafePointer => return Some(DynamicTarget::Nothing),
            Shape::Redacted => return Some(DynamicTarget::Nothing),
            Shape::Unknown => return None,
            Shape::Array { elem, len: 1 } => current = *elem,
            Shape::Struct { fields } if go.bytes == 8 => match fields.as_slice() {
                [only] => current = only.ty,
                several => {
                    let with_bytes: Vec<_> =
                        several.iter().filter(|field| types.get(field.ty).bytes > 0).collect();
                    return match with_bytes.as_slice() {
                        [only] if is_pointer_shaped(types, only.ty) => None,
                        _ => indirect,
                    };
                }
            },
            _ => return indirect,
        }
        if types.get(current).bytes != 8 {
            return indirect;
        }
    }
    None
}

/// Whether a value is one word that the garbage collector follows.
fn is_pointer_shaped(types: &dyn TypeSource, ty: TypeId) -> bool {
    !matches!(dynamic_of(types, ty), Some(DynamicTarget::Follow(target)) if target == Target::value(ty))
}

/// There are bytes to copy.
fn is_copied(ty: &GoType) -> bool {
    ty.bytes > 0 && ty.shape != Shape::Redacted
}

fn map_target(map: MapLayout) -> Target {
    Target { ty: map.header, part: Part::MapHeader(map) }
}

fn chan_target(elem: TypeId, header: TypeId) -> Target {
    Target { ty: header, part: Part::ChanHeader(elem) }
}

/// Whether a map's keys (or values) of type `declared` lie behind pointers, given the type `stored` that its buckets or
/// groups hold.
#[must_use]
pub fn is_stored_indirectly(types: &dyn TypeSource, stored: TypeId, declared: TypeId) -> bool {
    stored != declared
        && types.get(declared).bytes > MAX_INLINE_MAP_BYTES
        && types.get(stored).bytes == 8
        && matches!(types.get(stored).shape, Shape::Pointer { .. } | Shape::UnsafePointer)
}

#[cfg(test)]
mod tests;
