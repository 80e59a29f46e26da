//! Builds the truth program with the Go toolchains at hand, once a variant, in a directory that goes away at the end.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// The releases that are tested, where they can be had.
pub(crate) const VERSIONS: [&str; 7] =
    ["go1.21.13", "go1.22.12", "go1.23.12", "go1.24.13", "go1.25.5", "go1.26.8", "go1.27.0"];

/// A way of building.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) cgo: bool,
    pub(crate) stripped: bool,
}

const fn variant(name: &'static str, arguments: &'static [&'static str]) -> Variant {
    Variant { name, arguments, cgo: false, stripped: false }
}

pub(crate) const PLAIN: Variant = variant("plain", &[]);
pub(crate) const VARIANTS: [Variant; 7] = [
    PLAIN,
    variant("pie", &["-buildmode=pie"]),
    Variant { stripped: true, ..variant("stripped", &["-ldflags=-s -w"]) },
    Variant { stripped: true, ..variant("stripped-pie", &["-buildmode=pie", "-ldflags=-s -w"]) },
    Variant { cgo: true, ..variant("external", &["-tags=withc", "-ldflags=-linkmode=external"]) },
    Variant { cgo: true, ..variant("external-pie", &["-tags=withc", "-buildmode=pie"]) },
    Variant {
        cgo: true,
        stripped: true,
        ..variant("external-stripped", &["-tags=withc", "-ldflags=-linkmode=external -s -w"])
    },
];

/// A toolchain and the programs that it built.
pub(crate) struct Builder {
    pub(crate) version: &'static str,
    directory: TempDir,
}

impl Builder {
    /// `None`, with a word on stderr, if the toolchain can't be had here.
    pub(crate) fn new(version: &'static str) -> Option<Self> {
        let found = Command::new("go")
            .env("GOTOOLCHAIN", version)
            .arg("version")
            .stderr(Stdio::null())
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version));
        if !found {
            eprintln!("skipped: {version} is not available");
            return None;
        }
        Some(Self { version, directory: tempfile::tempdir().unwrap() })
    }

    pub(crate) fn go(&self) -> Command {
        let mut go = Command::new("go");
        go.env("GOTOOLCHAIN", self.version)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/binary/program"));
        go
    }

    /// Builds a variant; `None` if it needs a C compiler and there is none.
    pub(crate) fn build(&self, variant: &Variant) -> Option<PathBuf> {
        if variant.cgo && Command::new("gcc").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: no C compiler for {}", variant.name);
            return None;
        }
        let path = self.directory.path().join(variant.name);
        let status = self
            .go()
            .env("CGO_ENABLED", if variant.cgo { "1" } else { "0" })
            .args(["build", "-buildvcs=false", "-o"])
            .arg(&path)
            .args(variant.arguments)
            .arg(".")
            .status()
            .unwrap();
        assert!(status.success(), "{} {}", self.version, variant.name);
        Some(path)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// What a program prints.
pub(crate) fn output(program: &Path) -> String {
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success(), "{}", program.display());
    String::from_utf8(output.stdout).unwrap()
}
