//! RipTrace's central server: it will collect, order, store and show the hits of a fleet.
//!
//! It holds nothing of its own yet; what it will speak is [`wire`].

pub use riptrace_common::wire;
