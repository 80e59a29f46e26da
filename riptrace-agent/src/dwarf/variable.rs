//! Where a variable is at one address.

use std::sync::Arc;

use riptrace_common::wire::{event::Role, value::Unavailable};

use crate::golang::types::{Shape, TypeId, TypeSource};

/// A variable that is visible at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisibleVariable {
    /// Its name in the source. An escaped `&x` is `x` here, with [`VariableLocation::Heap`].
    pub name: Arc<str>,
    /// What it is in its function.
    pub role: Role,
    /// Its type (for an escaped variable the type of the variable, not of the pointer).
    pub ty: TypeId,
    /// Line of its declaration; 0: not recorded.
    pub decl_line: u32,
    /// Where it is.
    pub location: VariableLocation,
    /// In an instantiated generic function, whose `ty` is only a shape (`go.shape.int`): what the dictionary, which
    /// [`DebugInfo::dictionary_at`](super::DebugInfo::dictionary_at) locates, says of the real type. `None`: `ty` is the
    /// real type.
    pub dict_index: Option<DictIndex>,
}

/// Where a dictionary names a variable's real type. Dictionaries are read-only data of the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DictIndex {
    /// The 8-byte word at `8 * word` is the address of an `abi.Type`.
    pub word: u32,
    /// It is the type of a pointer to the variable: debug data describes an escaped variable by its address.
    pub of_pointer: bool,
}

/// Where a variable's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VariableLocation {
    /// Its pieces in order; their sizes add up to the type's size.
    Pieces(Vec<Piece>),
    /// It escaped to the heap: the pieces (8 bytes in all) hold its address.
    Heap(Vec<Piece>),
    /// A captured variable of a closure near the closure's entry: it lies at `offset` in the object that `register`
    /// (a DWARF register number; RDX) points at; `by_reference`: what lies there is its address.
    Closure {
        /// DWARF register number of the context register.
        register: u16,
        /// Bytes from the start of the closure object.
        offset: u64,
        /// The closure holds the variable's address, not its value.
        by_reference: bool,
    },
    /// It is nowhere, or debug data is unusable; says why.
    Unavailable(Unavailable),
}

/// A run of a variable's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the variable that it covers.
    pub bytes: u32,
    /// Where they are.
    pub place: Place,
}

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The low bytes of a general register (DWARF register number, System V x86-64).
    Register(u16),
    /// A floating-point or vector register, which BPF can't read.
    FloatRegister(u16),
    /// CFA plus this many bytes.
    Frame(i64),
    /// A link-time address (a package variable).
    Address(u64),
    /// The value itself.
    Constant(u64),
    /// Nowhere: optimised out.
    Missing,
}

impl DictIndex {
    /// The variable's real type, by the type that the dictionary names.
    #[must_use]
    pub fn real_type(self, types: &dyn TypeSource, named: TypeId) -> Option<TypeId> {
        match (self.of_pointer, &types.get(named).shape) {
            (false, _) => Some(named),
            (true, Shape::Pointer { elem }) => *elem,
            (true, _) => None,
        }
    }
}
