//! The binary part against real programs: Go of every supported release, built in every way that matters.

mod build;
mod debug_data;
mod line_table;
