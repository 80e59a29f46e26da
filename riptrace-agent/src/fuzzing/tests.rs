//! Replays the corpus of every target, so that what the fuzzer found once stays fixed without it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{TARGETS, debug_data};
use crate::{binary::Executable, dwarf::DebugInfo};

/// The corpus and the inputs that once failed; in an unoptimised build each takes less than this.
const LONGEST: Duration = Duration::from_secs(20);

#[test]
fn every_input_of_the_corpus_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, run) in TARGETS {
        let mut replayed = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")) {
            let path = entry.unwrap().path();
            let started = Instant::now();
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
            assert!(started.elapsed() < LONGEST, "{}: {:?}", path.display(), started.elapsed());
            replayed += 1;
        }
        assert!(replayed > 0, "{name} has no corpus");
    }
}

/// A corpus that the parsers refuse at once would find nothing.
#[test]
fn the_seeds_are_read_to_their_ends() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let seeds = |target: &str| {
        let entries = fs::read_dir(corpus.join(target)).unwrap().map(|entry| entry.unwrap().path());
        let seeds: Vec<_> =
            entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("go1")).collect();
        assert!(seeds.len() >= 4, "{target}");
        seeds
    };
    for path in seeds("elf") {
        let bytes = Bytes::from(fs::read(&path).unwrap());
        let executable = Executable::from_bytes(&bytes, &path).unwrap();
        assert!(executable.is_go() && executable.go_version().is_some(), "{}", path.display());
        assert!(executable.module_data().is_some(), "{}", path.display());
        let table = executable.pclntab().unwrap();
        assert!(table.function_named("main.main").is_some(), "{}", path.display());
        let mut lines = table.functions().flat_map(|function| function.lines());
        assert!(lines.any(|line| line.inlined >= 0), "{}: inlined calls", path.display());
    }
    for path in seeds("debug_data") {
        let sections = debug_data::sections(&fs::read(&path).unwrap());
        let debug = DebugInfo::load(sections).unwrap();
        let found = debug.functions_matching("main.choose").unwrap();
        let function = &found[0].functions[0];
        let rows = debug.rows_of(function).unwrap();
        assert!(rows.len() > 10, "{}: {} rows", path.display(), rows.len());
        let variables = debug.variables_at(function, rows[5].address).unwrap();
        assert!(variables.iter().any(|variable| &*variable.name == "s"), "{}: {variables:?}", path.display());
        assert!(debug.type_named("main.T").is_some(), "{}", path.display());
        assert!(debug.cfa_from_sp(function.entry).is_some(), "{}", path.display());
    }
}

#[test]
fn no_input_is_too_short() {
    for (_, run) in TARGETS {
        for length in 0..70 {
            run(&vec![0; length]);
            run(&vec![1; length]);
            run(&vec![255; length]);
        }
    }
}
