//! The model of Go's types that plans and decoding work with.
//!
//! Types come from DWARF (`dwarf::types`), one at a time and on demand: a type names the types that it leads to by
//! [`TypeId`], so a recursive type or a large program costs nothing until it is asked for.

use std::sync::Arc;

pub use riptrace_common::wire::value::Kind;

/// Names a type within one binary: the offset of its entry in `.debug_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u64);

/// A Go type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoType {
    /// Go's spelling with full import path, as the linker writes it; for an instantiated generic type with its real
    /// type arguments.
    pub name: Arc<str>,
    /// Size of a value.
    pub bytes: u64,
    /// The name of its `reflect.Kind`.
    pub kind: Kind,
    /// What a value is made of.
    pub shape: Shape,
    /// Link-time address of the type's `abi.Type`, where debug data says it.
    pub runtime_type: Option<u64>,
}

/// What a value of a type is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// bool, integers, floats, complex numbers: `bytes` bytes, read by the kind.
    Scalar,
    /// Pointer and length, 8 bytes each.
    String,
    /// Pointer, length and capacity, 8 bytes each.
    Slice {
        /// Element type.
        elem: TypeId,
    },
    /// Elements side by side.
    Array {
        /// Element type.
        elem: TypeId,
        /// Number of elements.
        len: u64,
    },
    /// Fields in declaration order.
    Struct {
        /// The fields.
        fields: Vec<FieldLayout>,
    },
    /// An address. `None`: what it points at is not described.
    Pointer {
        /// What it points at.
        elem: Option<TypeId>,
    },
    /// A pointer at the map's header.
    Map(MapLayout),
    /// Two words: type word (of a runtime type) and data word.
    EmptyInterface,
    /// Two words: itab and data word.
    Interface,
    /// A pointer at the channel's header.
    Chan {
        /// Element type.
        elem: TypeId,
        /// The header, `runtime.hchan` with a typed buffer.
        header: TypeId,
    },
    /// A pointer at a closure object, whose first word is the code address.
    Func,
    /// An address.
    UnsafePointer,
    /// A rule forbids to copy it: whatever it is made of, its bytes are not read.
    Redacted,
    /// Debug data does not describe it in a way that RipTrace knows.
    Unknown,
}

/// A field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// Name; `_` for a blank field.
    pub name: Arc<str>,
    /// Whether it is embedded.
    pub embedded: bool,
    /// Bytes from the start of the struct.
    pub offset: u64,
    /// Its type.
    pub ty: TypeId,
}

/// A map. Which implementation it is follows from the header's field names, not from Go's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MapLayout {
    /// Key type.
    pub key: TypeId,
    /// Value type.
    pub value: TypeId,
    /// The struct that the map points at: `hash<K,V>` (classic) or `map<K,V>` (Swiss).
    pub header: TypeId,
    /// Values are followed only where the key, a string, is one of those that are allowed.
    pub is_guarded: bool,
}

/// Where types come from. Implemented by `dwarf::types`, and by small tables in tests.
pub trait TypeSource {
    /// The type; an unknown or broken entry gives a type of [`Shape::Unknown`], never a panic.
    fn get(&self, id: TypeId) -> Arc<GoType>;

    /// Some types may be [`Shape::Redacted`], or maps guarded.
    fn redacts(&self) -> bool {
        false
    }

    /// The type whose `abi.Type` lies at this link-time address.
    fn by_runtime_type(&self, link_address: u64) -> Option<TypeId>;
}

impl<T: TypeSource + ?Sized> TypeSource for Arc<T> {
    fn get(&self, id: TypeId) -> Arc<GoType> {
        T::get(self, id)
    }

    fn redacts(&self) -> bool {
        T::redacts(self)
    }

    fn by_runtime_type(&self, link_address: u64) -> Option<TypeId> {
        T::by_runtime_type(self, link_address)
    }
}
/// Whether a value of the type leads to more than its own bytes.
pub(crate) fn leads_on(types: &dyn TypeSource, ty: TypeId) -> bool {
    /// Types that are nested deeper are taken to do.
    const MAX_NESTED: u32 = 8;
    fn nested(types: &dyn TypeSource, ty: TypeId, depth: u32) -> bool {
        if depth > MAX_NESTED {
            return true;
        }
        match &types.get(ty).shape {
            Shape::Scalar | Shape::UnsafePointer => false,
            Shape::Array { elem, .. } => nested(types, *elem, depth + 1),
            Shape::Struct { fields } => fields.iter().any(|field| nested(types, field.ty, depth + 1)),
            _ => true,
        }
    }
    nested(types, ty, 0)
}
