//! What Go puts where: types and their layouts, the runtime's own structs, the line table of the runtime. Pure.

pub mod layout;
pub mod types;
