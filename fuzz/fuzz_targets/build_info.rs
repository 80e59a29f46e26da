//! See `riptrace_agent::fuzzing::build_info`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| riptrace_agent::fuzzing::build_info(data));
