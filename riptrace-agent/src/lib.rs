//! RipTrace's library: from a source line of a running Go program to typed values.
//!
//! Data flows one way: [`binary`] → [`dwarf`] → [`golang`] → [`plan`] → [`probe`] ⇒ kernel ⇒ [`ring`] → [`decode`] →
//! [`render`]. `dwarf`, `golang`, `redact`, `plan`, `decode` and `render` are pure: bytes in, data out, no I/O.
//! See `docs/architecture.md`.

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "RipTrace reads x86-64 registers and instructions; it does not work on other architectures yet"
);

pub mod agent;
pub mod binary;
mod bounded_cache;
pub mod cli;
pub mod client;
pub mod decode;
pub mod dwarf;
pub mod expr;
pub mod fast_map;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod golang;
pub mod log;
pub mod nats;
pub mod plan;
pub mod probe;
pub mod redact;
pub mod render;
pub mod ring;
pub mod trace;
