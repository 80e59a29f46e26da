//! Release builds.

use std::path::PathBuf;

use anyhow::Result;

use crate::sh;

const MUSL: &str = "x86_64-unknown-linux-musl";

/// Builds the release binary and returns its path.
pub(crate) fn release() -> Result<PathBuf> {
    sh::run(sh::command("cargo").args(["build", "--release", "--package", "riptrace-agent"]))?;
    let binary = sh::target().join("release/riptrace");
    sh::say(&format!("built {}", binary.display()));
    Ok(binary)
}

/// Builds the server's release binary and returns its path.
pub(crate) fn release_server() -> Result<PathBuf> {
    sh::run(sh::command("cargo").args(["build", "--release", "--package", "riptrace-server"]))?;
    let binary = sh::target().join("release/riptrace-server");
    sh::say(&format!("built {}", binary.display()));
    Ok(binary)
}

/// All of the workspace but the eBPF object. The tests and the programs that they run are built with one choice of packages:
/// another choice has other features of the dependencies, and builds all of them again.
pub(crate) const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "riptrace-ebpf"];

/// Builds the tests, and with them development builds of the programs; returns the paths of `riptrace` and `riptrace-server`.
pub(crate) fn development() -> Result<(PathBuf, PathBuf)> {
    sh::run(sh::command("cargo").args(["test", "--quiet", "--no-run"]).args(WORKSPACE))?;
    let folder = sh::target().join("debug");
    Ok((folder.join("riptrace"), folder.join("riptrace-server")))
}

/// Builds the static binary.
pub(crate) fn dist() -> Result<()> {
    let targets = sh::output(sh::command("rustup").args(["target", "list", "--installed"]))?;
    if !targets.lines().any(|line| line == MUSL) {
        sh::say(&format!("installing Rust's {MUSL} target"));
        sh::run(sh::command("rustup").args(["target", "add", MUSL]))?;
    }
    sh::apt("musl-gcc", &["musl-tools"])?;
    sh::run(sh::command("cargo").args([
        "build",
        "--release",
        "--package",
        "riptrace-agent",
        "--target",
        MUSL,
    ]))?;
    let binary = sh::target().join(MUSL).join("release/riptrace");
    sh::say(&format!("built {}", binary.display()));
    Ok(())
}
