//! What the parts of RipTrace say to each other.
//!
//! Two vocabularies live here. [`abi`] is what the kernel side and the agent say to each other: integers only, no
//! padding, every layout asserted. `wire` (feature `user`) is what agent, server, page and command line say to each
//! other: serde types with JSON schemas. Each crate has its own types besides; conversions are explicit.

#![cfg_attr(not(feature = "user"), no_std)]

pub mod abi;
pub mod condition;
#[cfg(feature = "user")]
pub mod id;
#[cfg(feature = "user")]
pub mod pattern;
#[cfg(feature = "user")]
pub mod wire;
