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
