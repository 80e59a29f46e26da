//! See `riptrace_agent::fuzzing::policy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| riptrace_agent::fuzzing::policy(data));
