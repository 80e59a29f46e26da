//! What can be done with a value, from its type.

use std::sync::Arc;

use crate::golang::types::{GoType, Kind, MapLayout, Shape, TypeId, TypeSource};

/// A type as expressions see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ty {
    /// What can be done with it.
    pub class: Class,
    /// The type in debug data; what an expression makes by itself has none.
    pub id: Option<TypeId>,
    /// As Go writes it.
    pub name: Arc<str>,
}

/// What can be done with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Go's")]
pub enum Class {
    Bool,
    Integer {
        /// 8, 16, 32 or 64.
        bits: u8,
        signed: bool,
    },
    Float {
        /// 32 or 64.
        bits: u8,
    },
    String,
    Pointer {
        elem: Option<TypeId>,
    },
    Slice {
        elem: TypeId,
    },
    Array {
        elem: TypeId,
        len: u64,
    },
    Struct,
    Map(MapLayout),
    Interface {
        /// Without methods: its first word is the type.
        empty: bool,
    },
    Chan {
        header: TypeId,
    },
    Func,
    UnsafePointer,
    /// A number without a type.
    UntypedInteger,
    /// A number without a type that is no integer.
    UntypedFloat,
    Nil,
    /// A name that no variable has; it may be a constant of the other operand's type.
    Unresolved,
    /// Nothing.
    Other,
}

impl Ty {
    pub(super) fn of(types: &dyn TypeSource, id: TypeId) -> Self {
        let ty = types.get(id);
        Self { class: class(&ty), id: Some(id), name: Arc::clone(&ty.name) }
    }

    pub(super) fn plain(class: Class, name: &str) -> Self {
        Self { class, id: None, name: name.into() }
    }

    pub(super) fn bool() -> Self {
        Self::plain(Class::Bool, "bool")
    }

    pub(super) fn int() -> Self {
        Self::plain(Class::Integer { bits: 64, signed: true }, "int")
    }

    pub(super) fn is_untyped(&self) -> bool {
        matches!(self.class, Class::UntypedInteger | Class::UntypedFloat | Class::Nil | Class::Unresolved)
    }

    /// The word beside a name in a message.
    pub(super) fn shown(&self) -> String {
        match self.class {
            Class::UntypedInteger | Class::UntypedFloat => "a number".to_owned(),
            Class::Nil => "nil".to_owned(),
            _ => self.name.to_string(),
        }
    }

    /// Offset of the word that is zero when a value is nil.
    pub(super) fn can_be_nil(&self) -> bool {
        matches!(
            self.class,
            Class::Pointer { .. }
                | Class::Slice { .. }
                | Class::Map(_)
                | Class::Interface { .. }
                | Class::Chan { .. }
                | Class::Func
                | Class::UnsafePointer
        )
    }

    /// Bytes of a value that fits into a word.
    pub(super) fn word(&self) -> Option<(u32, bool)> {
        Some(match self.class {
            Class::Bool => (1, false),
            Class::Integer { bits, signed } => (u32::from(bits) / 8, signed),
            Class::Float { bits } => (u32::from(bits) / 8, false),
            Class::Pointer { .. }
            | Class::Map(_)
            | Class::Chan { .. }
            | Class::Func
            | Class::UnsafePointer => (8, false),
            _ => return None,
        })
    }
}

fn class(ty: &GoType) -> Class {
    let integer = |bits, signed| Class::Integer { bits, signed };
    match &ty.shape {
        Shape::Scalar => match (ty.kind, ty.bytes) {
            (Kind::Bool, 1) => Class::Bool,
            (Kind::Int8, 1) => integer(8, true),
            (Kind::Int16, 2) => integer(16, true),
            (Kind::Int32, 4) => integer(32, true),
            (Kind::Int64 | Kind::Int, 8) => integer(64, true),
            (Kind::Uint8, 1) => integer(8, false),
            (Kind::Uint16, 2) => integer(16, false),
            (Kind::Uint32, 4) => integer(32, false),
            (Kind::Uint64 | Kind::Uint | Kind::Uintptr, 8) => integer(64, false),
            (Kind::Float32, 4) => Class::Float { bits: 32 },
            (Kind::Float64, 8) => Class::Float { bits: 64 },
            _ => Class::Other,
        },
        Shape::String => Class::String,
        Shape::Slice { elem } => Class::Slice { elem: *elem },
        Shape::Array { elem, len } => Class::Array { elem: *elem, len: *len },
        Shape::Struct { .. } => Class::Struct,
        Shape::Pointer { elem } => Class::Pointer { elem: *elem },
        Shape::Map(map) => Class::Map(*map),
        Shape::EmptyInterface => Class::Interface { empty: true },
        Shape::Interface => Class::Interface { empty: false },
        Shape::Chan { header, .. } => Class::Chan { header: *header },
        Shape::Func => Class::Func,
        Shape::UnsafePointer => Class::UnsafePointer,
        Shape::Redacted | Shape::Unknown => Class::Other,
    }
}

/// Go's integer types, by name.
pub(super) fn integer_named(name: &str) -> Option<Ty> {
    let (bits, signed) = match name {
        "int" | "int64" => (64, true),
        "int32" | "rune" => (32, true),
        "int16" => (16, true),
        "int8" => (8, true),
        "uint" | "uint64" | "uintptr" => (64, false),
        "uint32" => (32, false),
        "uint16" => (16, false),
        "uint8" | "byte" => (8, false),
        _ => return None,
    };
    let name = match name {
        "rune" => "int32",
        "byte" => "uint8",
        name => name,
    };
    Some(Ty::plain(Class::Integer { bits, signed }, name))
}

impl Class {
    /// The integers that a type has.
    pub(super) fn integer_range(&self) -> Option<(i128, i128)> {
        let Self::Integer { bits, signed } = *self else { return None };
        Some(if signed {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        })
    }

    /// The value that a word of this type has after it wrapped around.
    pub(super) fn wrap(&self, value: i128) -> i128 {
        let Self::Integer { bits, signed } = *self else { return value };
        let low = value & ((1i128 << bits) - 1);
        if signed && low >> (bits - 1) != 0 { low - (1i128 << bits) } else { low }
    }
}
