//! The invariants of `docs/architecture.md` that a program can check.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::sh;

/// Modules that do no I/O, and what they may not name.
const PURE: &[&str] = &[
    "riptrace-agent/src/dwarf",
    "riptrace-agent/src/golang",
    "riptrace-agent/src/plan",
    "riptrace-agent/src/decode",
    "riptrace-agent/src/redact",
    "riptrace-agent/src/render",
    "server/src/clock/",
    "server/src/order",
];
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "std::io::stdin",
    "std::env",
    "tokio",
    "aya::",
    "async_nats",
    "memmap2",
    "libc::",
    "crate::binary",
    "crate::probe",
    "crate::ring",
    "crate::cli",
    "crate::trace",
];

/// Where `unsafe` may stand: the kernel side, and the files listed with the reason.
const UNSAFE: &[(&str, &str)] = &[
    ("riptrace-ebpf/", "the kernel side reads maps and calls helpers"),
    ("riptrace-common/src/abi/mod.rs", "`Pod` for the types of the kernel contract"),
    ("riptrace-agent/src/binary/cache.rs", "a file in memory, where no folder is writable; the user's id"),
    ("riptrace-agent/src/binary/executable.rs", "memory-mapping files"),
    ("riptrace-agent/src/binary/process.rs", "`sysconf`"),
    ("riptrace-agent/src/probe/load.rs", "`setrlimit`"),
    ("riptrace-agent/src/probe/pins.rs", "mounting a BPF file system, and telling what a folder is in"),
    ("riptrace-agent/src/probe/map.rs", "batch updates of BPF maps, which aya does not have"),
    ("riptrace-agent/src/trace/host.rs", "the clocks and the local time zone"),
    (
        "riptrace-agent/tests/kernel/",
        "records as the kernel side lays them out; memory of the test's own target",
    ),
    ("tests/src/", "`flock` and `kill`"),
    ("xtask/guest/init.rs", "mounting and powering off as process 1 of a test machine"),
    ("xtask/src/guest_clock.rs", "the monotonic clock"),
];

/// A file past this many lines is looked at: does it still have one subject?
const LONG_FILE_LINES: usize = 600;

pub(crate) fn run() -> Result<()> {
    let files = tracked()?;
    let mut errors = Vec::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
        let text = read(path)?;
        pure_modules(path, &text, &mut errors);
        unsafe_only_where_allowed(path, &text, &mut errors);
        file_length(path, &text);
        module_heading(path, &text, &mut errors);
    }
    dependencies(&mut errors)?;
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        links(path, &read(path)?, &mut errors);
    }
    if errors.is_empty() {
        sh::say("tidy: all invariants hold");
        return Ok(());
    }
    for error in &errors {
        eprintln!("tidy: {error}");
    }
    bail!("{} violations", errors.len());
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(sh::root().join(path)).with_context(|| path.display().to_string())
}

fn tracked() -> Result<Vec<PathBuf>> {
    let listing =
        sh::output(sh::command("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    Ok(listing.lines().map(PathBuf::from).filter(|path| sh::root().join(path).is_file()).collect())
}

/// The code of a file without its unit tests (which may do I/O) and without comments.
fn production_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
}

fn pure_modules(path: &Path, text: &str, errors: &mut Vec<String>) {
    if !PURE.iter().any(|folder| path.starts_with(folder)) || is_test(path) {
        return;
    }
    for (number, line) in production_lines(text) {
        for name in IMPURE.iter().filter(|name| line.contains(**name)) {
            errors.push(format!("{}:{number}: a pure module names `{name}`", path.display()));
        }
    }
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs" || name == "test.rs")
        || path.components().any(|part| part.as_os_str() == "tests")
}

fn unsafe_only_where_allowed(path: &Path, text: &str, errors: &mut Vec<String>) {
    let shown = path.display().to_string();
    if UNSAFE.iter().any(|(allowed, _)| shown.starts_with(allowed)) || shown.starts_with("xtask/src/tidy.rs")
    {
        return;
    }
    for (number, line) in production_lines(text) {
        let code = line.split("//").next().unwrap_or(line);
        if ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|form| code.contains(form)) {
            errors.push(format!(
                "{shown}:{number}: `unsafe` outside of the places listed in xtask/src/tidy.rs"
            ));
        }
    }
}

fn file_length(path: &Path, text: &str) {
    let lines = text.lines().count();
    if lines > LONG_FILE_LINES {
        eprintln!("tidy: note: {} has {lines} lines; does it still have one subject?", path.display());
    }
}

fn module_heading(path: &Path, text: &str, errors: &mut Vec<String>) {
    // A module's tests say what they are for by their names.
    if path.file_name().is_some_and(|name| name == "tests.rs") {
        return;
    }
    let first = text.lines().find(|line| !line.starts_with("#![") && !line.trim().is_empty());
    if !first.is_some_and(|line| line.starts_with("//!")) {
        errors.push(format!("{}:1: a file begins with what it is for (`//!`)", path.display()));
    }
}

/// Agent and server never depend on each other; `riptrace-common` on neither; xtask on none of them.
fn dependencies(errors: &mut Vec<String>) -> Result<()> {
    let rules: &[(&str, &[&str])] = &[
        ("riptrace-common", &["riptrace-agent", "riptrace-server", "riptrace-ebpf"]),
        ("riptrace-ebpf", &["riptrace-agent", "riptrace-server"]),
        ("riptrace-agent", &["riptrace-server"]),
        ("server", &["riptrace-agent", "riptrace-ebpf"]),
        ("xtask", &["riptrace-agent", "riptrace-server", "riptrace-common", "riptrace-ebpf"]),
    ];
    for (folder, forbidden) in rules {
        let manifest = read(&Path::new(folder).join("Cargo.toml"))?;
        for (index, line) in manifest.lines().enumerate() {
            for name in forbidden.iter().filter(|name| line.starts_with(**name)) {
                errors.push(format!("{folder}/Cargo.toml:{}: {folder} may not depend on {name}", index + 1));
            }
        }
    }
    Ok(())
}

/// Relative links of the documentation lead somewhere.
fn links(path: &Path, text: &str, errors: &mut Vec<String>) {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or(target);
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            if !sh::root().join(folder).join(file).exists() {
                errors.push(format!("{}:{}: the link {target} leads nowhere", path.display(), index + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&Path, &str, &mut Vec<String>), path: &str, text: &str) -> usize {
        let mut errors = Vec::new();
        rule(Path::new(path), text, &mut errors);
        errors.len()
    }

    #[test]
    fn a_pure_module_may_not_do_io() {
        assert_eq!(check(pure_modules, "riptrace-agent/src/dwarf/x.rs", "use std::fs;\n"), 1);
        assert_eq!(check(pure_modules, "riptrace-agent/src/binary/x.rs", "use std::fs;\n"), 0);
        assert_eq!(check(pure_modules, "riptrace-agent/src/dwarf/x.rs", "#[cfg(test)]\nuse std::fs;\n"), 0);
    }

    #[test]
    fn unsafe_stands_only_where_it_is_listed() {
        assert_eq!(check(unsafe_only_where_allowed, "server/src/x.rs", "let x = unsafe { f() };\n"), 1);
        assert_eq!(
            check(unsafe_only_where_allowed, "riptrace-ebpf/src/x.rs", "let x = unsafe { f() };\n"),
            0
        );
    }

    #[test]
    fn a_link_must_lead_somewhere() {
        assert_eq!(check(links, "README.md", "[a](docs/nothing-here.md)\n"), 1);
        assert_eq!(check(links, "README.md", "[a](Cargo.toml) [b](https://example.org)\n"), 0);
    }

    #[test]
    fn a_file_begins_with_its_purpose() {
        assert_eq!(check(module_heading, "a.rs", "//! This.\n"), 0);
        assert_eq!(check(module_heading, "a.rs", "use x;\n"), 1);
    }
}
