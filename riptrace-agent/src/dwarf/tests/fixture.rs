//! Compiles a Go program and hands its debug sections over.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use object::{Object, ObjectSection, ObjectSymbol};

use crate::dwarf::{DebugInfo, Function, Sections, VariableLocation, VisibleVariable};

/// The versions of Go whose debug data is tested: the oldest, the last with DWARF 4, the first with DWARF 5, the newest.
pub(in crate::dwarf) const VERSIONS: [&str; 5] = ["1.21.13", "1.24.13", "1.25.5", "1.26.8", "1.27.0"];

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::dwarf) enum Mode {
    Optimised,
    /// `-gcflags=all=-N -l`
    Unoptimised,
    Pie,
    Trimpath,
}

/// The main source file; lines are found by the comments at their ends (`// here: NAME`).
pub(in crate::dwarf) const SOURCE: &str = include_str!("fixture.go.txt");

/// A compiled program.
pub(in crate::dwarf) struct Program {
    pub(in crate::dwarf) debug: DebugInfo,
    pub(in crate::dwarf) sections: Sections,
    pub(in crate::dwarf) symbols: HashMap<String, u64>,
    pub(in crate::dwarf) version: &'static str,
    pub(in crate::dwarf) mode: Mode,
}

/// The sections of an ELF file whose debug data is not compressed.
pub(in crate::dwarf) fn sections_of(path: &Path) -> (Sections, HashMap<String, u64>) {
    let data = std::fs::read(path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let section = |name: &str| {
        file.section_by_name(name)
            .map(|section| Bytes::copy_from_slice(&section.uncompressed_data().unwrap()))
            .unwrap_or_default()
    };
    let symbols: HashMap<String, u64> = file
        .symbols()
        .filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol.address())))
        .collect();
    let sections = Sections {
        debug_info: section(".debug_info"),
        debug_abbrev: section(".debug_abbrev"),
        debug_line: section(".debug_line"),
        debug_line_str: section(".debug_line_str"),
        debug_str: section(".debug_str"),
        debug_str_offsets: section(".debug_str_offsets"),
        debug_addr: section(".debug_addr"),
        debug_loc: section(".debug_loc"),
        debug_loclists: section(".debug_loclists"),
        debug_ranges: section(".debug_ranges"),
        debug_rnglists: section(".debug_rnglists"),
        debug_frame: section(".debug_frame"),
        eh_frame: section(".eh_frame"),
        eh_frame_address: file.section_by_name(".eh_frame").map_or(0, |section| section.address()),
        runtime_types_base: symbols.get("runtime.types").copied(),
        cached_index: None,
    };
    (sections, symbols)
}

/// The fixture, built with that version; `None`, loudly, when that Go can't be had (a failure in CI).
pub(in crate::dwarf) fn program(version: &'static str, mode: Mode) -> Option<Arc<Program>> {
    type Programs = Mutex<HashMap<(&'static str, Mode), Option<Arc<Program>>>>;
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    let mut programs = PROGRAMS.get_or_init(Mutex::default).lock().unwrap();
    programs
        .entry((version, mode))
        .or_insert_with(|| {
            let built = build(version, mode, SOURCE);
            if let Err(why) = &built {
                assert!(std::env::var_os("CI").is_none(), "go{version} {mode:?}: {why}");
                eprintln!("SKIPPED go{version} {mode:?}: {why}");
            }
            built.ok().map(Arc::new)
        })
        .clone()
}

/// Every version, optimised and not.
pub(in crate::dwarf) fn programs() -> impl Iterator<Item = Arc<Program>> {
    VERSIONS.into_iter().flat_map(|version| {
        [Mode::Optimised, Mode::Unoptimised].into_iter().filter_map(move |mode| program(version, mode))
    })
}

/// Another program, with the newest version that is at hand.
pub(in crate::dwarf) fn other_program(mode: Mode, source: &str) -> Option<Program> {
    let built = build("1.26.8", mode, source);
    if let Err(why) = &built {
        assert!(std::env::var_os("CI").is_none(), "{mode:?}: {why}");
        eprintln!("SKIPPED {mode:?}: {why}");
    }
    built.ok()
}

fn build(version: &'static str, mode: Mode, source: &str) -> Result<Program, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    std::fs::write(
        directory.path().join("go.mod"),
        format!("module example.com/fixture\n\ngo {}\n", if source == SOURCE { "1.21" } else { "1.23" }),
    )
    .map_err(|error| error.to_string())?;
    std::fs::write(directory.path().join("main.go"), source).map_err(|error| error.to_string())?;
    let output = PathBuf::from(directory.path()).join("program");
    let mut command = Command::new("go");
    command
        .current_dir(directory.path())
        .env("GOTOOLCHAIN", format!("go{version}"))
        .env("GOFLAGS", "-buildvcs=false")
        .args(["build", "-ldflags=-compressdwarf=false"]);
    match mode {
        Mode::Optimised => {}
        Mode::Unoptimised => drop(command.arg("-gcflags=all=-N -l")),
        Mode::Pie => drop(command.arg("-buildmode=pie")),
        Mode::Trimpath => drop(command.arg("-trimpath")),
    }
    let done = command.arg("-o").arg(&output).arg(".").output().map_err(|error| error.to_string())?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    let (sections, symbols) = sections_of(&output);
    let debug = DebugInfo::load(sections.clone()).map_err(|error| error.to_string())?;
    Ok(Program { debug, sections, symbols, version, mode })
}

/// The number of the line with the comment `// here: NAME`.
pub(in crate::dwarf) fn line(name: &str) -> u32 {
    let marker = format!("// here: {name}");
    let at =
        SOURCE.lines().position(|line| line.ends_with(&marker)).unwrap_or_else(|| panic!("no line {name}"));
    u32::try_from(at).unwrap() + 1
}

impl Program {
    /// `go1.26.8 Optimised`, for messages.
    pub(in crate::dwarf) fn name(&self) -> String {
        format!("go{} {:?}", self.version, self.mode)
    }

    pub(in crate::dwarf) fn minor(&self) -> u32 {
        self.version.split('.').nth(1).unwrap().parse().unwrap()
    }

    pub(in crate::dwarf) fn main_file(&self) -> Arc<str> {
        let files = self.debug.files_matching("main.go");
        assert_eq!(files.len(), 1, "{}: {files:?}", self.name());
        Arc::clone(&files[0])
    }

    /// The out-of-line function of that name (the only one).
    pub(in crate::dwarf) fn function(&self, name: &str) -> Arc<Function> {
        let found = self.debug.functions_matching(name).unwrap();
        assert_eq!(found.len(), 1, "{} {name}: {found:?}", self.name());
        assert_eq!(found[0].functions.len(), 1, "{} {name}: {found:?}", self.name());
        Arc::clone(&found[0].functions[0])
    }

    /// The first address of a line inside a function.
    pub(in crate::dwarf) fn address(&self, function: &Function, line: u32) -> u64 {
        let file = self.main_file();
        self.debug
            .rows_of(function)
            .unwrap()
            .into_iter()
            .find(|row| row.line == line && row.file == file && row.is_stmt)
            .unwrap_or_else(|| panic!("{}: no code on line {line} of {}", self.name(), function.name))
            .address
    }

    /// What is visible on the marked line of a function.
    pub(in crate::dwarf) fn visible(&self, function: &str, mark: &str) -> Vec<VisibleVariable> {
        let function = self.function(function);
        let address = self.address(&function, line(mark));
        self.debug.variables_at(&function, address).unwrap()
    }
}

/// The variable of that name.
pub(in crate::dwarf) fn named<'a>(variables: &'a [VisibleVariable], name: &str) -> &'a VisibleVariable {
    variables
        .iter()
        .find(|variable| &*variable.name == name)
        .unwrap_or_else(|| panic!("no {name} in {variables:#?}"))
}

/// Whether the variable has all its bytes somewhere.
pub(in crate::dwarf) fn is_whole(variable: &VisibleVariable) -> bool {
    match &variable.location {
        VariableLocation::Pieces(pieces) | VariableLocation::Heap(pieces) => {
            pieces.iter().all(|piece| piece.place != crate::dwarf::Place::Missing)
        }
        VariableLocation::Closure { .. } => true,
        VariableLocation::Unavailable(_) => false,
    }
}
