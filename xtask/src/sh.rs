//! Running commands, and knowing where things are.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder (`CARGO_TARGET_DIR`, else `target`).
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where tools are installed: always in the checkout, so that cleaning a build keeps them.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Tells what is going on, on stderr.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// A command that runs in the workspace with `target/tools/bin` on its path.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", path());
    // What cargo says of this program to itself. Build scripts look at it (ring's does), so a cargo that inherits it builds
    // everything above them again, and the next cargo that does not builds it once more.
    let of_this_program =
        |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.starts_with(own));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_this_program)) {
        command.env_remove(name);
    }
    command
}

/// `PATH` with the installed tools behind the machine's own.
pub(crate) fn path() -> std::ffi::OsString {
    let own = env::var_os("PATH").unwrap_or_default();
    let paths = env::split_paths(&own).chain([tools().join("bin"), tools().join("go/bin")]);
    env::join_paths(paths).unwrap_or(own)
}

/// Runs a command to its end; an exit code other than 0 is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output, trimmed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether a program is on the path (the tools' folders included).
pub(crate) fn has(program: &str) -> bool {
    env::split_paths(&path()).any(|folder| folder.join(program).is_file())
}

/// Installs Debian packages that provide `program`, if it is missing.
///
/// # Errors
///
/// Where the machine is not Debian's or the user is not root, says what to install.
pub(crate) fn apt(program: &str, packages: &[&str]) -> Result<()> {
    if has(program) { Ok(()) } else { install(program, packages) }
}

/// Installs packages with apt, whether or not something of them is there.
pub(crate) fn install(program: &str, packages: &[&str]) -> Result<()> {
    if !has("apt-get") || output(Command::new("id").arg("-u"))? != "0" {
        bail!("{program} is missing; install it (Debian: apt-get install {})", packages.join(" "));
    }
    say(&format!("installing {} (for {program})", packages.join(", ")));
    let install = || {
        run(command("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()))
    };
    install().or_else(|_| {
        run(command("apt-get").args(["update", "-qq"]))?;
        install()
    })
}
