//! Reading DWARF as the Go compiler and linker write it (versions 4 and 5). Pure: bytes in, data out.

pub mod variable;
