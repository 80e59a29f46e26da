//! See `riptrace_agent::fuzzing::elf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| riptrace_agent::fuzzing::elf(data));
