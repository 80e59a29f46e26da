//! What decoding asks about the binary. The pipeline implements it over the executable and its debug data.

use std::sync::Arc;

use riptrace_common::wire::event::Frame;

use crate::{
    dwarf::{ClosureLayout, NamedConstant},
    golang::types::TypeId,
    plan::types::TypeRegistry,
};

/// A function of the binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionName {
    /// Its name, as the linker writes it.
    pub name: Arc<str>,
    /// Source file.
    pub file: Arc<str>,
    /// First line.
    pub line: u32,
}

/// Functions, lines and read-only bytes of one binary. All addresses are link-time addresses.
pub trait Symbols {
    /// The frames at a program counter, innermost inlined one first. A return address stands for the call before it.
    fn frames(&self, link_pc: u64, is_return_address: bool) -> Vec<Frame>;

    /// The function whose code holds the program counter.
    fn function(&self, link_pc: u64) -> Option<FunctionName>;

    /// Bytes of the file that can't have changed in the process: from segments that are never writable.
    fn read_only(&self, link_address: u64, bytes: usize) -> Option<&[u8]>;

    /// The link-time address that a pointer of the binary's constant data holds (relocations applied).
    fn pointer(&self, link_address: u64) -> Option<u64> {
        let bytes = self.read_only(link_address, 8)?.first_chunk()?;
        // A linker that leaves the value to a relocation writes zero here.
        Some(u64::from_le_bytes(*bytes)).filter(|address| *address != 0)
    }

    /// What lies in the closure object of the function that is entered at this address.
    fn closure(&self, code: u64) -> Option<ClosureLayout>;

    /// The named constants of a named type.
    fn constants(&self, type_name: &str) -> Arc<[NamedConstant]>;
}

/// Which index the kernel side knows a type by.
pub trait TypeIndex {
    /// Index in the map `TYPES` of a type of an image, if it was compiled.
    fn index_of(&self, image: u32, ty: TypeId) -> Option<u32>;

    /// Bytes of an element of the type with this index, if not all of them are copied.
    fn holed_bytes(&self, index: u32) -> Option<u32> {
        let _ = index;
        None
    }

    /// Both indexes stand for the same type.
    fn is_same_type(&self, one: u32, other: u32) -> bool {
        one == other
    }
}

impl TypeIndex for TypeRegistry {
    fn index_of(&self, image: u32, ty: TypeId) -> Option<u32> {
        Self::index_of(self, image, ty)
    }

    fn holed_bytes(&self, index: u32) -> Option<u32> {
        Self::holed_bytes(self, index)
    }

    fn is_same_type(&self, one: u32, other: u32) -> bool {
        Self::is_same_type(self, one, other)
    }
}
