//! Where a variable is at one address.

use std::sync::Arc;

use riptrace_common::wire::{event::Role, value::Unavailable};

use crate::golang::types::TypeId;

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
    /// In an instantiated generic function, whose `ty` is only a shape (`go.shape.int`): the real type is that of the
    /// `abi.Type` whose address is the 8-byte word at `8 * dict_index` in the dictionary, which
    /// [`DebugInfo::dictionary_at`](super::DebugInfo::dictionary_at) locates. Dictionaries are read-only data of the
    /// binary. `None`: `ty` is the real type.
    pub dict_index: Option<u32>,
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
