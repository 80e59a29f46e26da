//! The runtime's line table against what programs say about themselves and what Go's own tools read from them.

use std::{collections::HashMap, io::Write, path::Path, process::Stdio};

use riptrace_agent::{binary::Executable, golang::pclntab::shortened};

use crate::build::{Builder, PLAIN, VARIANTS, output};

/// A frame as `runtime.CallersFrames` gives it.
#[derive(Debug, PartialEq)]
struct Truth {
    pc: u64,
    function: String,
    file: String,
    line: u32,
}

struct Report {
    main: u64,
    stacks: Vec<Vec<Truth>>,
}

fn report(program: &Path) -> Report {
    let mut report = Report { main: 0, stacks: vec![Vec::new()] };
    for line in output(program).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let hex = |text| u64::from_str_radix(text, 16).unwrap();
        match words.as_slice() {
            ["main", address] => report.main = hex(address),
            ["frame", pc, function, file, line] => report.stacks.last_mut().unwrap().push(Truth {
                pc: hex(pc),
                function: (*function).to_owned(),
                file: (*file).to_owned(),
                line: line.parse().unwrap(),
            }),
            ["end"] => report.stacks.push(Vec::new()),
            _ => panic!("{line}"),
        }
    }
    report.stacks.pop();
    report
}

/// Every stack that the program prints comes out of the file the same, inlined calls included.
fn stacks_agree(program: &Path, file: &Path, name: &str) {
    let report = report(program);
    assert!(report.stacks.len() > 8, "{name}");
    let executable = Executable::open(file).unwrap();
    let table = executable.pclntab().unwrap();
    let main = table.function_named("main.main").unwrap();
    let bias = report.main - main.entry;
    assert!(bias == 0 || executable.is_pie(), "{name}: {bias:x}");
    let mut inlined = 0;
    for stack in &report.stacks {
        let mut rest = stack.as_slice();
        while let [first, ..] = rest {
            // The first frame of each stretch of code carries the return address itself.
            let frames = table.frames(first.pc - bias - 1);
            let frames: Vec<_> = frames.iter().filter(|frame| !frame.wrapper).collect();
            assert!(!frames.is_empty(), "{name}: {first:x?}");
            inlined += frames.len() - 1;
            for (frame, truth) in frames.iter().zip(rest) {
                assert_eq!(
                    (&*shortened(frame.function), frame.file, frame.line),
                    (truth.function.as_str(), truth.file.as_str(), truth.line),
                    "{name}: {stack:#x?}"
                );
            }
            rest = rest.get(frames.len()..).unwrap();
        }
    }
    assert!(inlined > 16, "{name}: {inlined}");
}

fn lines_agree_with_themselves(program: &Path, name: &str) {
    let executable = Executable::open(program).unwrap();
    let table = executable.pclntab().unwrap();
    let files = table.files_matching("program/main.go");
    let [file] = files.as_slice() else { panic!("{name}: {files:?}") };
    let lines = table.lines_of_file(file);
    assert!(lines.len() > 50, "{name}: {}", lines.len());
    for range in &lines {
        for address in [range.address, range.end - 1] {
            assert_eq!(table.line_at(address), Some((range.file, range.line)), "{name}");
            let frames = table.frames(address);
            assert_eq!(frames.len() > 1, range.inlined >= 0, "{name}: {range:x?}");
        }
    }
    let copies = table.inlined_matching("main.inner");
    let holders: Vec<&str> = copies.iter().map(|(function, _)| function.name()).collect();
    assert!(holders.contains(&"main.outer"), "{name}: {holders:?}");
    for (_, ranges) in &copies {
        for range in ranges {
            let frames = table.frames(range.start);
            assert!(frames.iter().any(|frame| frame.inlined && frame.function == "main.inner"), "{name}");
        }
    }
    assert_eq!(table.functions_matching("main.generic").len(), 2, "{name}");
    assert_eq!(table.functions_matching("main.(*holder).area").len(), 1, "{name}");
    assert!(table.functions_matching("main.(*holder).area")[0].is_wrapper(), "{name}");
    assert_eq!(table.functions_matching("main.none").len(), 0, "{name}");
}

/// Symbols and lines as `go tool nm` and `go tool addr2line` read them.
fn agrees_with_go_tools(builder: &Builder, program: &Path) {
    let executable = Executable::open(program).unwrap();
    let table = executable.pclntab().unwrap();
    let listing = builder.go().args(["tool", "nm"]).arg(program).output().unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    let symbols: HashMap<u64, &str> = listing
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            matches!(words.next()?, "T" | "t").then_some((address, words.next()?))
        })
        .collect();
    let mut compared = 0;
    // The listing cuts names at spaces.
    for function in table.functions().filter(|function| !function.name().starts_with("type:")) {
        let Some(symbol) = symbols.get(&function.entry) else { continue };
        if function.name() == "runtime.text" || *symbol == "runtime.text" {
            continue;
        }
        let name = function.name().split(' ').next().unwrap();
        assert_eq!(symbol.strip_suffix(".abi0").unwrap_or(symbol), name);
        compared += 1;
    }
    assert!(compared * 10 > table.len() * 9, "{compared} of {}", table.len());

    let addresses: Vec<u64> =
        table.functions().flat_map(|function| (function.entry..function.end).step_by(37)).collect();
    let mut tool = builder.go();
    let tool = tool.args(["tool", "addr2line"]).arg(program).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut tool = tool.spawn().unwrap();
    let mut stdin = tool.stdin.take().unwrap();
    let text: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let answer = String::from_utf8(tool.wait_with_output().unwrap().stdout).unwrap();
    writer.join().unwrap();
    let mut lines = answer.lines();
    for address in addresses {
        let (function, place) = (lines.next().unwrap(), lines.next().unwrap());
        // Padding, or code without a line.
        if function == "?" || place.ends_with(":-1") || place.ends_with(":0") {
            continue;
        }
        let ours = table.function_at(address).unwrap();
        assert_eq!(ours.name(), function, "{address:x}");
        let (file, line) = table.line_at(address).unwrap_or_default();
        assert_eq!(format!("{file}:{line}"), place, "{address:x}");
    }
}

/// A copy of a program without section headers.
fn without_sections(program: &Path) -> std::path::PathBuf {
    let mut bytes = std::fs::read(program).unwrap();
    // e_shoff; e_shentsize, e_shnum, e_shstrndx.
    bytes[40..48].fill(0);
    bytes[58..64].fill(0);
    let path = program.with_extension("sectionless");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn check(version: &'static str) {
    let Some(builder) = Builder::new(version) else { return };
    let mut tls = HashMap::new();
    for variant in &VARIANTS {
        let Some(program) = builder.build(variant) else { continue };
        let name = format!("{version} {}", variant.name);
        stacks_agree(&program, &program, &name);
        lines_agree_with_themselves(&program, &name);
        let executable = Executable::open(&program).unwrap();
        assert_eq!(executable.build_info().unwrap().go_version, version);
        assert_eq!(executable.is_pie(), variant.name.contains("pie"), "{name}");
        let (types, end) = executable.runtime_types().unwrap();
        assert!(types < end && executable.read(types, (end - types) as usize).is_some(), "{name}");
        tls.insert(variant.name, executable.tls_g_offset().unwrap());
        assert!(!executable.itab_addresses().is_empty(), "{name}");
        if !variant.stripped {
            let mut named: Vec<u64> =
                executable.itabs(|_| true).iter().map(|itab| itab.link_address).collect();
            let mut listed = executable.itab_addresses();
            listed.retain(|address| named.contains(address));
            named.sort_unstable();
            listed.sort_unstable();
            named.dedup();
            assert_eq!(named, listed, "{name}");
        }
        if variant.stripped {
            let bare_file = without_sections(&program);
            let bare = Executable::open(&bare_file).unwrap();
            assert!(bare.is_go() && bare.elf().sections.is_empty(), "{name}");
            stacks_agree(&program, &bare_file, &format!("{name} without sections"));
            assert_eq!(bare.tls_g_offset(), executable.tls_g_offset(), "{name}");
            assert_eq!(bare.runtime_types(), executable.runtime_types(), "{name}");
        }
    }
    // g comes from the symbol table here and from the machine code there.
    assert_eq!(tls.get("external"), tls.get("external-stripped"));
    let plain = builder.build(&PLAIN).unwrap();
    agrees_with_go_tools(&builder, &plain);
}

macro_rules! for_each_version {
    ($($name:ident $version:literal)*) => {
        $(#[test]
        fn $name() {
            check($version);
        })*
    };
}

for_each_version! {
    the_line_table_of_go1_21_is_read_as_the_runtime_reads_it "go1.21.13"
    the_line_table_of_go1_22_is_read_as_the_runtime_reads_it "go1.22.12"
    the_line_table_of_go1_23_is_read_as_the_runtime_reads_it "go1.23.12"
    the_line_table_of_go1_24_is_read_as_the_runtime_reads_it "go1.24.13"
    the_line_table_of_go1_25_is_read_as_the_runtime_reads_it "go1.25.5"
    the_line_table_of_go1_26_is_read_as_the_runtime_reads_it "go1.26.8"
    the_line_table_of_go1_27_is_read_as_the_runtime_reads_it "go1.27.0"
}
