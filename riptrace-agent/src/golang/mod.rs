//! What Go puts where: types and their layouts, the runtime's own structs, the line table of the runtime. Pure.

pub mod abi_internal;
pub mod abi_type;
pub mod buildinfo;
pub mod layout;
pub mod moduledata;
pub mod pclntab;
pub mod runtime;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod table;
pub mod types;
pub mod version;
