//! RipTrace's central server: it tells agents what to trace, collects their hits, puts them into one strict order,
//! keeps and shows them.

pub mod fleet;

pub use riptrace_common::wire;
