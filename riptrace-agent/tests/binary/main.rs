//! The binary part against real programs: Go of every supported release, built in every way that matters.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod abi_types;
mod build;
mod damaged;
mod debug_data;
mod line_table;
mod processes;
mod runtime_offsets;
