//! See `riptrace_agent::fuzzing::capture_path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| riptrace_agent::fuzzing::capture_path(data));
