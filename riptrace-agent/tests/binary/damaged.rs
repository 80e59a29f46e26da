//! Damaged programs give errors, never a panic, whatever is asked of them.

use std::{fs, path::Path, sync::OnceLock};

use bytes::Bytes;
use proptest::prelude::*;
use riptrace_agent::binary::{DebugOptions, Executable, cache::Cache};

use crate::build::{Builder, VARIANTS};

/// A fixed, a position-independent and an externally linked program, if there is a Go toolchain.
fn programs() -> &'static [Vec<u8>] {
    static PROGRAMS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let Some(builder) = Builder::new("go1.26.8") else { return Vec::new() };
        let chosen = ["plain", "pie", "external-pie"];
        let variants = VARIANTS.iter().filter(|variant| chosen.contains(&variant.name));
        variants.filter_map(|variant| builder.build(variant)).map(|path| fs::read(path).unwrap()).collect()
    })
}

/// Asks everything.
fn exercise(bytes: Vec<u8>) {
    let Ok(executable) = Executable::from_bytes(&Bytes::from(bytes), Path::new("damaged")) else { return };
    let _ = (executable.is_go(), executable.build_id().map(str::len), executable.tls_g_offset());
    let _ = (executable.runtime_types(), executable.itab_addresses().len(), executable.itabs(|_| true).len());
    let (text, code) = executable.text();
    let _ = (executable.file_offset(text), executable.read_only(text, code.len().min(64)));
    for address in [0, 1, text, u64::MAX, u64::MAX - 7] {
        let _ = (executable.read(address, 8), executable.link_address(address));
    }
    if let Ok(table) = executable.pclntab() {
        let _ = table.function_at(text);
        for function in table.functions().step_by(97) {
            let _ = (function.name(), table.frames(function.entry));
        }
        for file in table.files_matching("fmt/print.go") {
            let _ = table.lines_of_file(file);
        }
    }
    let options = DebugOptions {
        debug_file: None,
        debug_directories: Vec::new(),
        found_at: None,
        debuginfod_urls: Vec::new(),
        cache: Cache::none(),
    };
    let _ = executable.debug(&options, &|_| {}).map_err(|error| error.to_string());
}

/// Where the bytes lie that everything else follows from.
fn places(program: &[u8]) -> Vec<(usize, usize)> {
    let executable = Executable::from_bytes(&Bytes::copy_from_slice(program), Path::new("whole")).unwrap();
    let elf = executable.elf();
    let mut places = vec![(0, 1024)];
    let section_headers = u64::from_le_bytes(program[40..48].try_into().unwrap()) as usize;
    places.push((section_headers, elf.sections.len() * 64));
    for section in &elf.sections {
        if !section.no_bits && section.bytes > 0 {
            places.push((section.offset as usize, (section.bytes as usize).min(512)));
        }
    }
    places
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_few_changed_bytes_are_survived(
        which: usize,
        changes in proptest::collection::vec((any::<usize>(), any::<usize>(), any::<u8>()), 1..8),
    ) {
        let Some(mut program) = pick(which) else { return Ok(()) };
        let places = places(&program);
        for (place, at, value) in changes {
            let (start, bytes) = places[place % places.len()];
            let at = (start + at % bytes.max(1)) % program.len();
            program[at] = value;
        }
        exercise(program);
    }

    #[test]
    fn a_cut_program_is_survived(which: usize, bytes: usize) {
        let Some(mut program) = pick(which) else { return Ok(()) };
        program.truncate(bytes % program.len());
        exercise(program);
    }
}

fn pick(which: usize) -> Option<Vec<u8>> {
    let programs = programs();
    programs.get(which.checked_rem(programs.len())?).cloned()
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let open = |bytes: &[u8]| {
        Executable::from_bytes(&Bytes::copy_from_slice(bytes), Path::new("/srv/x")).unwrap_err().to_string()
    };
    assert_eq!(open(b"#!/bin/sh\n"), "/srv/x: not an ELF file");
    assert_eq!(open(b"\x7fELF"), "/srv/x: damaged or truncated ELF file (file header)");
    let mut header = vec![0_u8; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[18] = 183;
    assert_eq!(open(&header), "/srv/x: built for arm64; RipTrace works with x86-64 programs only");
    let absent = Executable::open(Path::new("/nonexistent/x")).unwrap_err().to_string();
    assert_eq!(absent, "cannot open /nonexistent/x: No such file or directory (os error 2)");
    let directory = Executable::open(Path::new("/proc")).unwrap_err().to_string();
    assert_eq!(directory, "cannot open /proc: not a regular file");
}
