//! See `riptrace_agent::fuzzing::line_table`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| riptrace_agent::fuzzing::line_table(data));
