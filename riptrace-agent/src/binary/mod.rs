//! Programs on disk and in `/proc`: opening ELF files, finding their debug data, listing processes. The only part of
//! binary analysis that does I/O; it hands `Bytes` to the pure modules `dwarf` and `golang`.

pub mod cache;
mod constants;
pub mod container;
pub mod debug;
mod debuginfod;
pub mod elf;
pub mod executable;
pub mod inflate;
pub mod process;
mod runtime;

pub use constants::Constants;
pub use debug::{DebugMissing, DebugOptions, Progress, Stage};
pub use executable::{BinaryError, Executable, FileIdentity};
pub use process::Process;
pub use runtime::Itab;
