//! The Go program that is traced: built once, run once a test, told what to call.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use riptrace_agent::{
    binary::{Executable, cache::Cache, debug::DebugOptions},
    dwarf::DebugInfo,
    golang::{
        runtime,
        types::{Shape, TypeSource as _},
    },
};
use riptrace_common::abi::program::Image;

/// How the target is built.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Build {
    Static,
    Pie,
}

pub(crate) struct Target {
    pid: u32,
    own: Option<Own>,
    facts: HashMap<String, u64>,
    pub(crate) path: PathBuf,
    pub(crate) executable: Executable,
}

/// A target that this test started.
struct Own {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Target {
    pub(crate) fn start(build: Build) -> Self {
        Self::of(binary(build))
    }

    /// Processes of a file that no other test runs: on all processes of a file that they share, their calls are hits too.
    pub(crate) fn start_own<const N: usize>() -> [Self; N] {
        static COPIES: OnceLock<tempfile::TempDir> = OnceLock::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let copies = COPIES.get_or_init(|| tempfile::tempdir().expect("a temporary directory"));
        let path = copies.path().join(format!("target-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::copy(binary(Build::Static), &path).expect("a copy");
        std::array::from_fn(|_| Self::of(path.clone()))
    }

    fn of(path: PathBuf) -> Self {
        let mut child = loop {
            match Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
                Ok(child) => break child,
                // Another test forked while the file was written, and has not become another program yet.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                Err(error) => panic!("the target does not start: {error}"),
            }
        };
        let stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut facts = HashMap::new();
        loop {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("the target speaks");
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["ready"] => break,
                ["fact", name, value] => {
                    facts.insert(name.to_owned(), u64::from_str_radix(value, 16).expect("an address"));
                }
                _ => panic!("the target said {line:?}"),
            }
        }
        let executable = Executable::open(&path).expect("a Go binary");
        Self { pid: child.id(), own: Some(Own { child, stdin, stdout }), facts, path, executable }
    }

    /// A target that another test started.
    pub(crate) fn attached(pid: u32, path: &Path) -> Self {
        let executable = Executable::open(path).expect("a Go binary");
        Self { pid, own: None, facts: HashMap::new(), path: path.to_owned(), executable }
    }

    /// Makes the calls, waits for them, and gives the nanoseconds that they took.
    pub(crate) fn call(&mut self, name: &str, count: u32, goroutines: u32) -> u64 {
        let own = self.own.as_mut().expect("a target that this test started");
        writeln!(own.stdin, "{name} {count} {goroutines}").expect("the target listens");
        let mut line = String::new();
        own.stdout.read_line(&mut line).expect("the target answers");
        let ns = line.strip_prefix("done ").and_then(|ns| ns.trim().parse().ok());
        ns.unwrap_or_else(|| panic!("the target said {line:?}"))
    }

    /// An address that the target printed.
    pub(crate) fn fact(&self, name: &str) -> u64 {
        self.facts[name]
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Link-time address of a symbol.
    pub(crate) fn symbol(&self, name: &str) -> u64 {
        let mut found = None;
        self.executable.elf().for_each_symbol(|symbol_name, symbol| {
            if symbol_name == name.as_bytes() {
                found = Some(symbol.value);
            }
            found.is_none()
        });
        found.unwrap_or_else(|| panic!("no symbol {name}"))
    }

    /// Where this Go's runtime keeps what the kernel side reads, by its debug data.
    pub(crate) fn image(&self) -> Image {
        static OFFSETS: OnceLock<runtime::RuntimeOffsets> = OnceLock::new();
        let offsets = OFFSETS.get_or_init(|| {
            let options = DebugOptions { cache: Cache::none(), ..DebugOptions::from_environment(None) };
            let sections = self.executable.debug(&options, &|_| ()).expect("debug data");
            let debug = DebugInfo::load(sections).expect("debug data");
            runtime::RuntimeOffsets::from_fields(|name, path| field(&debug, name, path)).expect("runtime.g")
        });
        runtime::image(Some(offsets), self.executable.tls_g_offset())
    }
}

fn field(debug: &DebugInfo, name: &str, path: &str) -> Option<u32> {
    let mut ty = debug.get(debug.type_named(name)?);
    let mut offset = 0;
    for part in path.split('.') {
        let Shape::Struct { fields } = &ty.shape else { return None };
        let field = fields.iter().find(|field| &*field.name == part)?;
        offset += field.offset;
        ty = debug.get(field.ty);
    }
    u32::try_from(offset).ok()
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            let _ = own.child.kill();
            let _ = own.child.wait();
        }
    }
}

/// Where the targets lie that were built elsewhere: the machines of `cargo xtask kernels` have no Go.
const BUILT: &str = "RIPTRACE_TEST_TARGETS";

fn binary(build: Build) -> PathBuf {
    let name = match build {
        Build::Static => "target",
        Build::Pie => "target-pie",
    };
    if let Some(directory) = std::env::var_os(BUILT) {
        return PathBuf::from(directory).join(name);
    }
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("target.go"), include_str!("target.go")).expect("written");
        for (output, mode) in [("target", "exe"), ("target-pie", "pie")] {
            let status = Command::new("go")
                .args(["build", "-buildmode", mode, "-o", output, "target.go"])
                .current_dir(directory.path())
                .env("GOFLAGS", "-buildvcs=false")
                .env("GO111MODULE", "off")
                .status()
                .expect("go runs");
            assert!(status.success(), "go build");
        }
        directory
    });
    directory.path().join(name)
}
