//! An expression whose every part has a type.

use std::cmp::Ordering;

use super::{ast::Span, classes::Ty, constant::Constant};
use crate::golang::types::{MapLayout, TypeId};

/// An expression with its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Typed {
    /// What it is.
    pub kind: TypedKind,
    /// Its type.
    pub ty: Ty,
    /// Where it stands.
    pub span: Span,
}

/// Kinds of typed expressions. A *place* is what has bytes in the program: `Variable`, `Part`, `Dereference`, `Element`,
/// `Assert`, `MapValue`.
#[derive(Clone, Debug, PartialEq)]
pub enum TypedKind {
    /// Known from the text.
    Constant(Constant),
    /// A variable: its index among those of the scope.
    Variable(usize),
    /// What lies so many bytes further in a place.
    Part(Box<Typed>, u64),
    /// What a pointer points at.
    Dereference(Box<Typed>),
    /// An element of a slice, an array (`len`) or a string.
    Element {
        /// The slice, array or string.
        base: Box<Typed>,
        /// Which.
        index: Box<Typed>,
        /// Bytes of an element.
        bytes: u64,
        /// Of an array.
        len: Option<u64>,
    },
    /// What an interface holds, of this type; it fails when it holds another.
    Assert(Box<Typed>, Dynamic),
    /// Whether an interface holds a value of this type.
    IsType(Box<Typed>, Dynamic),
    /// What a map has for a key; zero when it has none.
    MapValue {
        /// The map.
        map: Box<Typed>,
        /// The key, of the map's key type.
        key: Box<Typed>,
        /// Its layout.
        layout: MapLayout,
    },
    /// `len` of a string, slice, map or channel.
    Length(Box<Typed>),
    /// `cap` of a slice or channel.
    Capacity(Box<Typed>),
    /// An integer as another type of integer.
    Convert(Box<Typed>),
    /// Integers.
    Arithmetic(Arithmetic, Box<Typed>, Box<Typed>),
    /// Two values of one type; or one with nil.
    Compare(Comparison, Box<Typed>, Box<Typed>),
    /// Two strings.
    Text(TextTest, Box<Typed>, Box<Typed>),
    /// `!`.
    Not(Box<Typed>),
    /// `&&`.
    And(Box<Typed>, Box<Typed>),
    /// `||`.
    Or(Box<Typed>, Box<Typed>),
    /// A name that may be a constant of the other operand's type.
    Unresolved(std::sync::Arc<str>),
}

/// A type that an interface may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// The type.
    pub ty: TypeId,
    /// Link-time address of its `abi.Type`.
    pub runtime_type: u64,
    /// The interface's data word is the value, not its address.
    pub direct: bool,
}

/// Operators on integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Go's")]
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    And,
    Or,
    Xor,
    AndNot,
    ShiftLeft,
    ShiftRight,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Go's")]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Comparison {
    /// Whether it holds for values in this order; `None`: one is not a number.
    #[must_use]
    pub fn holds(self, ordering: Option<Ordering>) -> bool {
        match self {
            Self::Equal => ordering == Some(Ordering::Equal),
            Self::NotEqual => ordering != Some(Ordering::Equal),
            Self::Less => ordering == Some(Ordering::Less),
            Self::LessEqual => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => ordering == Some(Ordering::Greater),
            Self::GreaterEqual => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

/// Tests of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Go's")]
pub enum TextTest {
    HasPrefix,
    Contains,
}

impl Typed {
    pub(super) fn constant(&self) -> Option<&Constant> {
        match &self.kind {
            TypedKind::Constant(constant) => Some(constant),
            _ => None,
        }
    }
}
